//! The extensions of SQLite that the operator lists, the same on all nodes of a cluster.
//!
//! A function that differs between nodes breaks no replication, because pages are replicated. But an
//! index on an expression, or a generated column, that one node has computed would not fit what
//! another one computes later. So nodes whose lists differ do not talk to each other.

use std::path::Path;

use ringlite_vfs::Extension;
use xxhash_rust::xxh3::Xxh3;

/// A list of extensions as it was read at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extensions {
    /// In the order in which they are loaded, by absolute paths.
    pub(crate) list: Vec<Extension>,
    /// Of the names, entry points and contents of the libraries, in order; 0 for an empty list.
    pub(crate) digest: u64,
}

impl Extensions {
    /// Finds the libraries and takes their digest.
    ///
    /// # Errors
    /// What cannot be read, and why.
    pub(crate) fn read(list: Vec<Extension>) -> Result<Self, String> {
        if list.is_empty() {
            return Ok(Self::default());
        }
        let mut digest = Xxh3::new();
        let mut found = Vec::with_capacity(list.len());
        for Extension { path, entry_point } in list {
            let failed =
                |error| format!("the extension {} cannot be read: {error}", path.display());
            let path = path.canonicalize().map_err(failed)?;
            let content = std::fs::read(&path).map_err(failed)?;
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let entry = entry_point.as_deref().unwrap_or_default().as_bytes();
            for part in [name, entry, &content] {
                digest.update(&(part.len() as u64).to_le_bytes());
                digest.update(part);
            }
            found.push(Extension { path, entry_point });
        }
        Ok(Self {
            list: found,
            // 0 means that there are none.
            digest: digest.digest().max(1),
        })
    }
}

/// Reads `PATH` or `PATH:ENTRYPOINT`. What follows the last colon is an entry point if it could be the
/// name of a C function.
pub(crate) fn parse(text: &str) -> Extension {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    match text.rsplit_once(':').filter(|(_, name)| is_name(name)) {
        Some((path, name)) => Extension {
            path: Path::new(path).to_owned(),
            entry_point: Some(name.to_owned()),
        },
        None => Extension {
            path: Path::new(text).to_owned(),
            entry_point: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_point_stands_behind_the_last_colon() {
        for (text, path, entry_point) in [
            ("/usr/lib/a.so", "/usr/lib/a.so", None),
            ("a.so:sqlite3_a_init", "a.so", Some("sqlite3_a_init")),
            ("/b:c/a.so", "/b:c/a.so", None),
            ("/b:c/a.so:init", "/b:c/a.so", Some("init")),
            ("a.so:", "a.so:", None),
        ] {
            let extension = parse(text);
            assert_eq!(extension.path, Path::new(path), "{text}");
            assert_eq!(extension.entry_point.as_deref(), entry_point, "{text}");
        }
    }

    #[test]
    fn the_digest_is_of_names_entry_points_contents_and_order() {
        let directory = tempfile::tempdir().unwrap();
        let library = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            Extension {
                path,
                entry_point: None,
            }
        };
        let digest = |list: &[&Extension]| {
            let list = list.iter().map(|&extension| extension.clone());
            Extensions::read(list.collect()).unwrap().digest
        };
        let (a, b) = (library("a.so", "1"), library("b.so", "2"));
        let elsewhere = library("elsewhere/a.so", "1");
        let changed = library("changed/a.so", "3");
        let mut entered = a.clone();
        entered.entry_point = Some("init".into());
        assert_eq!(digest(&[]), 0);
        assert_eq!(digest(&[&a]), digest(&[&elsewhere]));
        let all = [
            digest(&[]),
            digest(&[&a]),
            digest(&[&b]),
            digest(&[&a, &b]),
            digest(&[&b, &a]),
            digest(&[&changed]),
            digest(&[&entered]),
        ];
        for (position, one) in all.iter().enumerate() {
            assert!(!all[..position].contains(one), "{all:?}");
        }
        let missing = Extension {
            path: directory.path().join("missing.so"),
            entry_point: None,
        };
        let error = Extensions::read(vec![missing]).unwrap_err();
        assert!(error.contains("missing.so"), "{error}");
    }
}

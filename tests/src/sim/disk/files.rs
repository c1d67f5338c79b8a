//! The files of databases: what was written and not synced may be lost, by sectors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::medium::{flip, sectors};
use crate::sim::random::Random;
use crate::sim::tally::{Kind, Tally};

/// The files of a node's databases.
pub(crate) struct Files {
    pub(crate) directory: PathBuf,
    /// What is safe of each file that was written to since.
    safe: BTreeMap<String, Vec<u8>>,
}

impl Files {
    pub(super) fn new(directory: PathBuf) -> Files {
        std::fs::create_dir_all(&directory).expect("a directory");
        Files {
            directory,
            safe: BTreeMap::new(),
        }
    }

    /// The file of a database, and that of its checksums, are about to be written to.
    pub(crate) fn writes(&mut self, database: &str) {
        for name in files_of(database) {
            if !self.safe.contains_key(&name)
                && let Ok(bytes) = std::fs::read(self.directory.join(&name))
            {
                self.safe.insert(name, bytes);
            }
        }
    }

    /// What the files hold now is safe, or they are gone.
    pub(crate) fn is_safe(&mut self, database: &str) {
        for name in files_of(database) {
            self.safe.remove(&name);
        }
    }

    /// Other files have taken the place of all of them, durably.
    pub(super) fn replaced(&mut self) {
        self.safe.clear();
    }

    /// A bit flips in one of the files. Returns whether one has.
    pub(crate) fn rot(&self, random: &mut Random) -> bool {
        let listed = std::fs::read_dir(&self.directory).expect("a directory");
        let mut paths: Vec<_> = listed.map(|file| file.expect("a file").path()).collect();
        paths.sort();
        if paths.is_empty() {
            return false;
        }
        let path = &paths[random.below(paths.len() as u64) as usize];
        let length = std::fs::metadata(path).expect("a file").len();
        if length == 0 {
            return false;
        }
        flip(path, random.below(length), random);
        true
    }

    pub(super) fn power_loss(&mut self, random: &mut Random, tally: &mut Tally) {
        for (name, safe) in std::mem::take(&mut self.safe) {
            let path = self.directory.join(name);
            if let Ok(written) = std::fs::read(&path) {
                tear(&path, safe, &written, random, tally);
            }
        }
    }
}

fn files_of(database: &str) -> [String; 2] {
    [database.to_owned(), format!("{database}.sum")]
}

fn tear(path: &Path, safe: Vec<u8>, written: &[u8], random: &mut Random, tally: &mut Tally) {
    let length = random.one_of(&[safe.len(), written.len()]);
    let mut torn = safe;
    torn.resize(torn.len().max(written.len()), 0);
    for sector in sectors(written.len()) {
        if torn[sector.clone()] == written[sector.clone()] {
            continue;
        }
        // A sector is there or not (MEDIA.md). It also has what nobody has written: the checksums of
        // other pages.
        if random.per_mille(500) {
            tally.count(Kind::SectorKept);
            torn[sector.clone()].copy_from_slice(&written[sector]);
        } else {
            tally.count(Kind::SectorDropped);
        }
    }
    torn.truncate(length);
    std::fs::write(path, torn).expect("a file");
}

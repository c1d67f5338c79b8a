//! The files of databases: what was written and not synced may be lost, by sectors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::medium::{Fate, garbage, sectors};
use crate::sim::random::Random;
use crate::sim::tally::Tally;

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

    /// The file is about to be written to.
    pub(crate) fn writes(&mut self, name: &str) {
        let path = self.directory.join(name);
        if !self.safe.contains_key(name)
            && let Ok(bytes) = std::fs::read(path)
        {
            self.safe.insert(name.to_owned(), bytes);
        }
    }

    /// What the file holds now is safe, or it is gone.
    pub(crate) fn is_safe(&mut self, name: &str) {
        self.safe.remove(name);
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

fn tear(path: &Path, safe: Vec<u8>, written: &[u8], random: &mut Random, tally: &mut Tally) {
    let length = random.one_of(&[safe.len(), written.len()]);
    let mut torn = safe;
    torn.resize(torn.len().max(written.len()), 0);
    for sector in sectors(written.len()) {
        if torn[sector.clone()] == written[sector.clone()] {
            continue;
        }
        match Fate::drawn(random, tally) {
            Fate::Kept => torn[sector.clone()].copy_from_slice(&written[sector]),
            Fate::Garbled => {
                let garbage = garbage(sector.len(), random);
                torn[sector].copy_from_slice(&garbage);
            }
            Fate::Dropped => {}
        }
    }
    torn.truncate(length);
    std::fs::write(path, torn).expect("a file");
}

//! The files of a snapshot on its way in: real ones, of which a power loss takes what was not synced.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ringlite::image::StagingArea;

use crate::sim::random::Random;
use crate::sim::tally::{Kind, Tally};

/// Where snapshots arrive on a disk.
pub(crate) struct Staged {
    directory: PathBuf,
    pub(crate) area: StagingArea,
    /// The files that are safe, and how much of each.
    safe: BTreeMap<PathBuf, u64>,
}

impl Staged {
    pub(super) fn new(directory: PathBuf, area: StagingArea) -> Staged {
        Staged {
            directory,
            area,
            safe: BTreeMap::new(),
        }
    }

    /// What has arrived is thrown away.
    pub(crate) fn clear(&mut self) {
        self.area.clear().expect("a removal");
        self.safe.clear();
    }

    /// Everything that is here was synced, or a restart has found it.
    pub(crate) fn is_safe(&mut self) {
        self.safe = self.files().into_iter().collect();
    }

    fn files(&self) -> Vec<(PathBuf, u64)> {
        let Ok(listed) = std::fs::read_dir(&self.directory) else {
            return Vec::new();
        };
        let files = listed.map(|file| {
            let path = file.expect("a file").path();
            let length = std::fs::metadata(&path).expect("a file").len();
            (path, length)
        });
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    }

    pub(super) fn power_loss(&mut self, random: &mut Random, tally: &mut Tally) {
        for (path, length) in self.files() {
            let safe = self.safe.get(&path).copied();
            if safe.is_none() && random.per_mille(300) {
                tally.count(Kind::SectorDropped);
                std::fs::remove_file(&path).expect("a file");
                continue;
            }
            let safe = safe.unwrap_or(0);
            if length <= safe {
                continue;
            }
            let kept = random.between(safe, length);
            let mut bytes = std::fs::read(&path).expect("a file");
            bytes.truncate(random.one_of(&[kept, length]) as usize);
            // The file may be long enough and not have got its bytes.
            for byte in bytes.iter_mut().skip(kept as usize) {
                *byte = 0;
            }
            tally.count(Kind::SectorDropped);
            std::fs::write(&path, bytes).expect("a file");
        }
    }
}

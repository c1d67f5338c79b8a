//! What a drive does with a write: all of it, or at a power loss any part of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::sim::random::Random;
use crate::sim::tally::{Kind, Tally};

/// The smallest part that is written as a whole, in bytes.
const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;

/// A write that a drive was given.
pub(super) struct Write {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl Write {
    /// It is on the medium.
    pub(super) fn perform(&self) {
        put(&self.path, self.offset, &self.bytes);
    }

    /// The power fails meanwhile.
    pub(super) fn tear(&self, random: &mut Random, tally: &mut Tally) {
        let unit = random.one_of(&[SECTOR_BYTES, BLOCK_BYTES, self.bytes.len()]);
        for (position, part) in self.bytes.chunks(unit).enumerate() {
            let at = self.offset + (position * unit) as u64;
            match Fate::drawn(random, tally) {
                Fate::Kept => put(&self.path, at, part),
                Fate::Garbled => put(&self.path, at, &garbage(part.len(), random)),
                Fate::Dropped => {}
            }
        }
    }
}

/// What becomes of a sector that was not yet safe when the power failed.
enum Fate {
    Kept,
    Garbled,
    Dropped,
}

impl Fate {
    fn drawn(random: &mut Random, tally: &mut Tally) -> Fate {
        let (fate, kind) = match random.below(5) {
            0 | 1 => (Fate::Kept, Kind::SectorKept),
            2 => (Fate::Garbled, Kind::SectorGarbled),
            _ => (Fate::Dropped, Kind::SectorDropped),
        };
        tally.count(kind);
        fate
    }
}

pub(super) fn sectors(length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..length.div_ceil(SECTOR_BYTES))
        .map(move |sector| sector * SECTOR_BYTES..length.min((sector + 1) * SECTOR_BYTES))
}

fn garbage(length: usize, random: &mut Random) -> Vec<u8> {
    vec![random.number() as u8 | 1; length]
}

/// Writes into a file, which is made if there is none.
pub(super) fn put(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let written = file.and_then(|file| file.write_all_at(bytes, offset));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Reads a part of a file.
pub(super) fn get(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset));
    read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes
}

/// A bit of the byte at this place flips.
pub(super) fn flip(path: &Path, at: u64, random: &mut Random) {
    let byte = get(path, at, 1)[0] ^ (1 << random.below(8));
    put(path, at, &[byte]);
}

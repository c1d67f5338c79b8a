//! The log of a node that does not run: where its records are, and how to damage them.
//!
//! The places are those of `docs/FORMAT.md`, written down once more on purpose: a test that asked
//! the product where its records are would believe it when it is wrong.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 4096;
const MAGIC: &[u8] = b"RLRECORD";
const INDEX_AT: usize = 40;
const PAYLOAD_BYTES_AT: usize = 96;
const PAYLOAD_AT: usize = 144;

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The index of its entry.
    pub index: u64,
    /// The file of its segment.
    pub path: PathBuf,
    /// Where it begins there.
    pub offset: u64,
    /// The length of its payload.
    pub payload_bytes: usize,
}

impl Record {
    /// The number of its segment, as messages name it.
    pub fn segment(&self) -> u64 {
        number_of(&self.path)
    }

    /// Flips a bit of its payload.
    ///
    /// # Panics
    /// If the file cannot be changed.
    pub fn flip_a_bit(&self) {
        assert!(self.payload_bytes > 0, "{self:?} has a payload");
        flip_a_bit(&self.path, self.offset + PAYLOAD_AT as u64);
    }

    /// Puts zeros in its place, as if it had never been written.
    ///
    /// # Panics
    /// If the file cannot be changed.
    pub fn erase(&self) {
        let bytes = (PAYLOAD_AT + self.payload_bytes).next_multiple_of(BLOCK_BYTES);
        overwrite(&self.path, self.offset, &vec![0; bytes]);
    }
}

/// The number of a segment's file.
fn number_of(path: &Path) -> u64 {
    let stem = path.file_stem().map(std::ffi::OsStr::to_string_lossy);
    stem.and_then(|name| u64::from_str_radix(&name, 16).ok())
        .expect("a segment is named by its number")
}

/// The segments of a node's log, the oldest first.
///
/// # Panics
/// If there is no log.
pub fn segments(data: &Path) -> Vec<PathBuf> {
    let log = data.join("shard-0").join("log");
    let files = std::fs::read_dir(log).expect("a node has a log");
    let mut paths: Vec<_> = files.flatten().map(|file| file.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    paths.sort();
    paths
}

/// The records of a node's log, in the order of their indexes.
///
/// # Panics
/// If the log cannot be read.
pub fn records(data: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    for path in segments(data) {
        let bytes = match std::fs::read(&path) {
            // A running node has cut its log meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            bytes => bytes.expect("a segment can be read"),
        };
        for (block, offset) in bytes
            .chunks_exact(BLOCK_BYTES)
            .zip((0..).step_by(BLOCK_BYTES))
        {
            if !block.starts_with(MAGIC) {
                continue;
            }
            let index = block[INDEX_AT..].first_chunk().copied().unwrap_or_default();
            let length = block[PAYLOAD_BYTES_AT..].first_chunk().copied();
            records.push(Record {
                index: u64::from_le_bytes(index),
                path: path.clone(),
                offset,
                payload_bytes: u32::from_le_bytes(length.unwrap_or_default()) as usize,
            });
        }
    }
    records.sort();
    records
}

/// Flips a bit of a file.
///
/// # Panics
/// If the file cannot be changed.
pub fn flip_a_bit(path: &Path, at: u64) {
    let mut byte = [0];
    let file = File::open(path).expect("the file can be opened");
    file.read_exact_at(&mut byte, at)
        .expect("the byte is there");
    overwrite(path, at, &[byte[0] ^ 0x10]);
}

/// Overwrites a part of a file.
///
/// # Panics
/// If the file cannot be changed.
pub fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path);
    let file = file.expect("the file can be opened");
    file.write_all_at(bytes, at)
        .expect("the file can be written");
    file.sync_all().expect("the file can be flushed");
}

//! A file for direct, durable writes: filled with zeros beforehand, so that no write that is
//! measured allocates or converts an extent, and written over and over.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

/// The unit of direct writes: offset, length and memory are multiples of it.
const ALIGN: usize = 4096;
/// The length of the file.
const FILE_BYTES: usize = 16 << 20;

const _: () = assert!(FILE_BYTES.is_multiple_of(ALIGN));

/// The file and a block of memory to write to it. It is removed when it is dropped.
pub(super) struct BlockFile {
    file: NamedTempFile<File>,
    memory: Vec<u8>,
    block_bytes: usize,
    offset: usize,
}

impl BlockFile {
    /// Makes one in `directory` for writes of `block_bytes`, a multiple of 4096.
    pub(super) fn new(directory: &Path, block_bytes: usize) -> io::Result<Self> {
        assert!(block_bytes > 0 && block_bytes.is_multiple_of(ALIGN) && block_bytes <= FILE_BYTES);
        let flags = OFlags::DIRECT | OFlags::DSYNC;
        let file = tempfile::Builder::new()
            .prefix("raw-write-")
            .make_in(directory, |path| {
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .custom_flags(flags.bits().cast_signed())
                    .open(path)
            })?;
        let mut zeros = vec![0; FILE_BYTES / 16 + ALIGN];
        let zeros = aligned(&mut zeros, FILE_BYTES / 16);
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.as_file().write_all_at(zeros, offset as u64)?;
        }
        Ok(Self {
            file,
            memory: vec![0xa5; block_bytes + ALIGN],
            block_bytes,
            offset: 0,
        })
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The block, aligned as direct writes need it. It does not move as long as this lives.
    pub(super) fn block(&mut self) -> &mut [u8] {
        aligned(&mut self.memory, self.block_bytes)
    }

    /// Where the next block goes: behind the last one, and at the end from the beginning.
    pub(super) fn next_offset(&mut self) -> u64 {
        let offset = self.offset;
        self.offset += self.block_bytes;
        if self.offset + self.block_bytes > FILE_BYTES {
            self.offset = 0;
        }
        offset as u64
    }
}

/// `bytes` bytes of `memory`, which is longer by [`ALIGN`], that begin at an aligned address.
fn aligned(memory: &mut [u8], bytes: usize) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(ALIGN);
    &mut memory[start..start + bytes]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_offsets_wrap() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let bytes = 12 << 10;
        let mut file = BlockFile::new(directory.path(), bytes).unwrap();
        assert_eq!(file.block().as_ptr().addr() % ALIGN, 0);
        assert_eq!(file.block().len(), bytes);
        let mut last = file.next_offset();
        for _ in 0..2 * FILE_BYTES / bytes {
            let offset = file.next_offset();
            assert!(offset == last + bytes as u64 || offset == 0);
            assert!(offset as usize + bytes <= FILE_BYTES);
            last = offset;
        }
    }
}

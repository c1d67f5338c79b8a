//! The database file: read by everybody, written by a backfill alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::VfsError;
use crate::page::{PageNumber, PageSize};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The open file of one database. Reads and writes go through the page cache, so that a reader sees
/// what a backfill has written before it is durable.
pub(crate) struct MainFile {
    file: File,
    path: PathBuf,
    /// Its size; whole pages, at least one.
    bytes: AtomicU64,
}

impl MainFile {
    /// Opens an existing file for reading and writing.
    pub(crate) fn open(path: &Path) -> Result<MainFile, VfsError> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|source| VfsError::io("open", path, source))?;
        let metadata = file.metadata();
        let metadata = metadata.map_err(|source| VfsError::io("examine", path, source))?;
        Ok(MainFile {
            file,
            path: path.to_path_buf(),
            bytes: AtomicU64::new(metadata.len()),
        })
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Reads as much as the file has at `offset`, and fills the rest with zeros. Returns the number
    /// of bytes that came from the file. Every read of the file comes through here.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        into[done..].fill(0);
        Ok(done)
    }

    /// Reads one page; zeros if the file ends before it. Returns the number of bytes that came from
    /// the file.
    pub(crate) fn read_page(&self, number: PageNumber, into: &mut [u8]) -> Result<usize, VfsError> {
        self.read(offset_of(number, into.len()), into)
            .map_err(|source| VfsError::io("read", &self.path, source))
    }

    /// Writes one page into the page cache.
    pub(crate) fn write_page(&self, number: PageNumber, page: &[u8]) -> Result<(), VfsError> {
        self.file
            .write_all_at(page, offset_of(number, page.len()))
            .map_err(|source| VfsError::io("write", &self.path, source))
    }

    /// Makes it `page_count` pages long.
    pub(crate) fn resize(&self, page_count: u32, page_size: PageSize) -> Result<(), VfsError> {
        let bytes = u64::from(page_count) * u64::from(page_size.bytes());
        self.file
            .set_len(bytes)
            .map_err(|source| VfsError::io("resize", &self.path, source))?;
        self.bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    /// Makes what was written, and the size, durable.
    pub(crate) fn sync(&self) -> Result<(), VfsError> {
        self.file
            .sync_data()
            .map_err(|source| VfsError::io("sync", &self.path, source))
    }
}

fn offset_of(number: PageNumber, page_bytes: usize) -> u64 {
    u64::from(number.0 - 1) * page_bytes as u64
}

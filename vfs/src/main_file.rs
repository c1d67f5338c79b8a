//! The database file: read by everybody, written by a backfill alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::creation::page_size_of;
use crate::disk_wait;
use crate::error::VfsError;
use crate::lock;
use crate::page::{PageNumber, PageSize};
use crate::page_sums::PageSums;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The length of the header of a database file.
const HEADER_BYTES: usize = 100;

/// The open file of one database, with the checksums of its pages. Reads and writes go through the
/// page cache, so that a reader sees what a backfill has written before it is durable.
///
/// No page leaves here that is not what was written. After a power loss in the middle of a backfill
/// some pages of it may not be; the log has them all, so that the replay puts them into the WAL,
/// nobody reads them from here, and the next backfill writes them anew, with their checksums.
pub(crate) struct MainFile {
    file: File,
    path: PathBuf,
    page_size: PageSize,
    sums: PageSums,
    /// Its size.
    bytes: AtomicU64,
    /// Held while a page and its checksum, which lie apart, are replaced.
    replacing: Mutex<()>,
}

impl MainFile {
    /// Opens an existing file for reading and writing. Its page size is read from it unless it is
    /// known, in which case the content is not looked at.
    pub(crate) fn open(
        directory: &Path,
        name: &str,
        known_page_size: Option<PageSize>,
    ) -> Result<MainFile, VfsError> {
        let path = directory.join(name);
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(|source| VfsError::io("open", &path, source))?;
        let metadata = file.metadata();
        let metadata = metadata.map_err(|source| VfsError::io("examine", &path, source))?;
        let page_size = match known_page_size {
            Some(page_size) => page_size,
            None => {
                let mut header = [0; HEADER_BYTES];
                let found = disk_wait::read_here(&file, 0, &mut header)
                    .map_err(|source| VfsError::io("read", &path, source))?;
                let page_size = page_size_of(&header[..found]);
                page_size.map_err(|reason| VfsError::NotADatabase {
                    path: path.clone(),
                    reason,
                })?
            }
        };
        Ok(MainFile {
            sums: PageSums::open(directory, name, page_size)?,
            file,
            path,
            page_size,
            bytes: AtomicU64::new(metadata.len()),
            replacing: Mutex::new(()),
        })
    }

    /// The size of its pages.
    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Reads one page; zeros if the file ends before it. Returns the number of bytes that came from
    /// the file. Fails with [`VfsError::DamagedPage`] if it is not what was written.
    pub(crate) fn read_page(&self, number: PageNumber, into: &mut [u8]) -> Result<usize, VfsError> {
        let offset = self.offset_of(number);
        let failed = |source| VfsError::io("read", &self.path, source);
        let count = disk_wait::read(&self.file, offset, into, into.len() as u64).map_err(failed)?;
        if self.sums.matches(number, into, false)? {
            return Ok(count);
        }
        // A backfill may just have replaced the page, but not yet its checksum, or both between the
        // two reads: SQLite reads the header whether or not page 1 is being written.
        let _replacing = lock(&self.replacing);
        let count = disk_wait::read_here(&self.file, offset, into).map_err(failed)?;
        match self.sums.matches(number, into, true)? {
            true => Ok(count),
            false => Err(VfsError::DamagedPage {
                path: self.path.clone(),
                page: number,
            }),
        }
    }

    /// Writes one page and its checksum into the page cache.
    pub(crate) fn write_page(&self, number: PageNumber, page: &[u8]) -> Result<(), VfsError> {
        let _replacing = lock(&self.replacing);
        self.file
            .write_all_at(page, self.offset_of(number))
            .map_err(|source| VfsError::io("write", &self.path, source))?;
        self.sums.write(number, page)
    }

    /// Makes it `page_count` pages long.
    pub(crate) fn resize(&self, page_count: u32) -> Result<(), VfsError> {
        let bytes = u64::from(page_count) * u64::from(self.page_size.bytes());
        self.file
            .set_len(bytes)
            .map_err(|source| VfsError::io("resize", &self.path, source))?;
        self.sums.resize(page_count)?;
        self.bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    /// Makes what was written, and the size, durable.
    pub(crate) fn sync(&self) -> Result<(), VfsError> {
        self.file
            .sync_data()
            .map_err(|source| VfsError::io("sync", &self.path, source))?;
        self.sums.sync()
    }

    fn offset_of(&self, number: PageNumber) -> u64 {
        u64::from(number.0 - 1) * u64::from(self.page_size.bytes())
    }
}

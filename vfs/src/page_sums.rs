//! The checksums of the pages of a database file, in a file of their own beside it: `NAME.sum`.
//!
//! Page N has the four bytes at 4 (N - 1), little-endian: the CRC-32 of the page, XORed with that of
//! a page of zeros. So a page that was never written, which both files have as zeros, is right
//! without having been written. There is no header: whatever it could say is known from elsewhere,
//! and it would be one more thing to rot.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use crate::disk_wait;
use crate::error::VfsError;
use crate::page::{PageNumber, PageSize};

/// What the name of the file has behind that of the database.
pub(crate) const SUFFIX: &str = ".sum";
/// What the names of a database's files have behind the name of the database: that of its pages, and
/// that of their checksums. A copy of both, taken while a backfill writes to them, is healed like what
/// a power loss leaves, by replaying what the backfill has written.
pub const DATABASE_FILE_SUFFIXES: [&str; 2] = ["", SUFFIX];
/// Checksums that are missing from the page cache are had from the disk together with their neighbours:
/// those of 64 MiB of pages of 4 KiB, for little more than one of them.
const BLOCK_BYTES: u64 = 64 << 10;
/// One checksum.
const SUM_BYTES: usize = 4;
/// How much of a database file is read at once to make its checksums.
const READ_BYTES: usize = 1 << 20;

/// The path of the checksums of a database.
pub(crate) fn path_of(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{SUFFIX}"))
}

/// The open file of the checksums of one database. It goes through the page cache, as the database
/// file does.
pub(crate) struct PageSums {
    file: File,
    path: PathBuf,
    zeros: u32,
}

impl PageSums {
    /// Opens the checksums of a database. If they are missing, they are made from the file, durably,
    /// and a warning says so: that is how a file that somebody has put there is taken over.
    pub(crate) fn open(
        directory: &Path,
        name: &str,
        page_size: PageSize,
    ) -> Result<PageSums, VfsError> {
        let path = path_of(directory, name);
        let open = || File::options().read(true).write(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(
                    "{} is missing: it is made from {name} as it is, so that damage to {name} \
                     from before now stays unknown",
                    path.display()
                );
                sums_of_file(&directory.join(name), page_size)?.install(directory, name)?;
                open()
            }
            opened => opened,
        };
        Ok(PageSums {
            file: file.map_err(|source| VfsError::io("open", &path, source))?,
            path,
            zeros: crc_of_zeros(page_size),
        })
    }

    /// Whether `page` is what was written last as the page of this number. With `may_wait_here` it
    /// waits for the disk on this thread without telling anybody.
    pub(crate) fn matches(
        &self,
        number: PageNumber,
        page: &[u8],
        may_wait_here: bool,
    ) -> Result<bool, VfsError> {
        let mut expected = [0; SUM_BYTES];
        let offset = offset_of(number);
        match may_wait_here {
            true => disk_wait::read_here(&self.file, offset, &mut expected),
            false => disk_wait::read(&self.file, offset, &mut expected, BLOCK_BYTES),
        }
        .map_err(|source| VfsError::io("read", &self.path, source))?;
        Ok(crc32fast::hash(page) ^ self.zeros == u32::from_le_bytes(expected))
    }

    /// Writes the checksum of a page into the page cache.
    pub(crate) fn write(&self, number: PageNumber, page: &[u8]) -> Result<(), VfsError> {
        let sum = crc32fast::hash(page) ^ self.zeros;
        self.file
            .write_all_at(&sum.to_le_bytes(), offset_of(number))
            .map_err(|source| VfsError::io("write", &self.path, source))
    }

    /// Makes it as long as for `page_count` pages.
    pub(crate) fn resize(&self, page_count: u32) -> Result<(), VfsError> {
        self.file
            .set_len(u64::from(page_count) * SUM_BYTES as u64)
            .map_err(|source| VfsError::io("resize", &self.path, source))
    }

    /// Makes what was written, and the size, durable.
    pub(crate) fn sync(&self) -> Result<(), VfsError> {
        self.file
            .sync_data()
            .map_err(|source| VfsError::io("sync", &self.path, source))
    }
}

fn offset_of(number: PageNumber) -> u64 {
    u64::from(number.0 - 1) * SUM_BYTES as u64
}

fn crc_of_zeros(page_size: PageSize) -> u32 {
    crc32fast::hash(&vec![0; page_size.as_usize()])
}

fn sums_of_file(path: &Path, page_size: PageSize) -> Result<PageSumsBuilder, VfsError> {
    let mut builder = PageSumsBuilder::new(page_size);
    let failed = |source| VfsError::io("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(builder),
            Ok(count) => builder.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Makes the checksums of a database file that comes from elsewhere, as it goes by. They take a
/// thousandth of its size in memory (of pages of 4096 bytes).
pub struct PageSumsBuilder {
    page_size: PageSize,
    zeros: u32,
    sums: Vec<u8>,
    page: Hasher,
    /// How many bytes of the page have gone by.
    page_bytes: usize,
}

impl PageSumsBuilder {
    /// For a file that begins with the next bytes to come.
    pub fn new(page_size: PageSize) -> PageSumsBuilder {
        PageSumsBuilder {
            page_size,
            zeros: crc_of_zeros(page_size),
            sums: Vec::new(),
            page: Hasher::new(),
            page_bytes: 0,
        }
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let rest = self.page_size.as_usize() - self.page_bytes;
            let (now, later) = bytes.split_at(rest.min(bytes.len()));
            self.page.update(now);
            self.page_bytes += now.len();
            bytes = later;
            if self.page_bytes == self.page_size.as_usize() {
                self.end_page();
            }
        }
    }

    fn end_page(&mut self) {
        let page = std::mem::take(&mut self.page);
        let sum = page.finalize() ^ self.zeros;
        self.sums.extend_from_slice(&sum.to_le_bytes());
        self.page_bytes = 0;
    }

    /// Makes them the checksums of the database `name` in `directory`, in place of any that are
    /// there: to be called before the file gets its name. They are durable on return.
    ///
    /// Fails with what the file system says.
    pub fn install(mut self, directory: &Path, name: &str) -> Result<(), VfsError> {
        if self.page_bytes > 0 {
            // A part of a page is that page with zeros behind it, as it is read.
            self.update(&vec![0; self.page_size.as_usize() - self.page_bytes]);
        }
        crate::creation::write_whole(&path_of(directory, name), &self.sums, |_| Ok(()))?;
        crate::creation::sync_file(directory)
    }
}

/// Removes the checksums of a database, if there are any.
pub(crate) fn remove(directory: &Path, name: &str) -> Result<(), VfsError> {
    let path = path_of(directory, name);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(VfsError::io("remove", &path, source))
        }
        _ => Ok(()),
    }
}

//! Creating a database: its name, its first page, its file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::VfsError;
use crate::page::PageSize;
use crate::page_sums::{self, PageSumsBuilder};

/// The longest database name in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The first bytes of every database file (fileformat2.html, section 1.3.1).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The file format versions for writing and for reading; 2 is WAL mode (section 1.3.3).
const VERSIONS: std::ops::Range<usize> = 18..20;
/// The length of the database header, which the B-tree header of page 1 follows.
const DATABASE_HEADER_BYTES: usize = 100;
/// The type of a B-tree page that is a leaf of a table (section 1.6).
const LEAF_TABLE_PAGE: u8 = 13;

/// Checks that `name` may name a database: 1 to 128 bytes of `A-Z a-z 0-9 . _ -`, not beginning
/// with a dot, and not ending as SQLite's own companion files or our checksums do. Such a name is a plain file name
/// in every file system, and no URI to SQLite.
pub fn validate_database_name(name: &str) -> Result<(), VfsError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_BYTES_MAX {
        "it is longer than 128 bytes"
    } else if !name.bytes().all(allowed) {
        "only letters, digits, '.', '_' and '-' may be in it"
    } else if name.starts_with('.') {
        "it begins with a dot"
    } else if ["-wal", "-shm", "-journal"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
    {
        "it ends like a companion file of SQLite"
    } else if name.ends_with(page_sums::SUFFIX) {
        "it ends like the checksums of a database"
    } else {
        return Ok(());
    };
    Err(VfsError::InvalidName {
        name: name.to_owned(),
        reason,
    })
}

/// The first and only page of a new, empty database in WAL mode.
///
/// It is what SQLite itself would write, but for bytes 96 to 99: the version of the library stays
/// 0, so that every replica, of whatever version, creates the same bytes. The text encoding and the
/// schema format are set by the first `CREATE`.
pub fn first_page(page_size: PageSize) -> Vec<u8> {
    let size_bytes = page_size.to_file_bytes();
    let mut page = vec![0; page_size.as_usize()];
    let mut put = |offset: usize, bytes: &[u8]| {
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, MAGIC);
    put(16, &size_bytes);
    put(VERSIONS.start, &[2, 2]);
    // No reserved bytes per page; then three payload fractions that have to be these.
    put(20, &[0, 64, 32, 32]);
    // The change counter, the size in pages, and the change counter that this size is valid for.
    put(24, &1u32.to_be_bytes());
    put(28, &1u32.to_be_bytes());
    put(92, &1u32.to_be_bytes());
    put(DATABASE_HEADER_BYTES, &[LEAF_TABLE_PAGE]);
    // Where the cells begin: at the end of the page, 65536 being written as 0.
    put(
        DATABASE_HEADER_BYTES + 5,
        &(page_size.bytes() as u16).to_be_bytes(),
    );
    page
}

/// Writes a new database file that consists of `page_one`, durably: under a temporary name, synced,
/// renamed, and the directory synced. On return a power loss does not undo it. Its checksums come
/// first, so that no file is ever without them.
///
/// An identical file that exists is left alone (and synced, because who wrote it may not have come
/// to that); a different one is [`VfsError::FileDiffers`]. `page_one` has to be a first page in WAL
/// mode, such as [`first_page`] makes. To be called for one name by one thread at a time.
pub fn create_database_file(directory: &Path, name: &str, page_one: &[u8]) -> Result<(), VfsError> {
    create_marked_database_file(directory, name, page_one, |_| Ok(()))
}

/// As [`create_database_file`], but the new file is given to `mark` before it has its name, to leave
/// something on it that is there whenever the file is.
pub fn create_marked_database_file(
    directory: &Path,
    name: &str,
    page_one: &[u8],
    mark: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), VfsError> {
    validate_database_name(name)?;
    let path = directory.join(name);
    let page_size = match page_size_of(page_one) {
        Ok(page_size) if page_size.as_usize() == page_one.len() => page_size,
        Ok(_) => {
            let reason = "the first page has not the length that it says";
            return Err(VfsError::NotADatabase { path, reason });
        }
        Err(reason) => return Err(VfsError::NotADatabase { path, reason }),
    };
    let install_sums = || {
        let mut sums = PageSumsBuilder::new(page_size);
        sums.update(page_one);
        sums.install(directory, name)
    };
    match fs::read(&path) {
        Ok(existing) if existing == page_one => {
            install_sums()?;
            sync_file(&path)?;
        }
        Ok(_) => return Err(VfsError::FileDiffers { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            install_sums()?;
            write_whole(&path, page_one, mark)?;
        }
        Err(source) => return Err(VfsError::io("read", &path, source)),
    }
    sync_file(directory)
}

/// Makes `bytes` the content of a file, whatever it was; durable but for the name.
pub(crate) fn write_whole(
    path: &Path,
    bytes: &[u8],
    mark: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), VfsError> {
    // One name for all attempts, so that what a crash left is overwritten and not gathered.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    write_file(&temporary, bytes, mark)?;
    fs::rename(&temporary, path).map_err(|source| VfsError::io("rename", &temporary, source))
}

fn write_file(
    path: &Path,
    bytes: &[u8],
    mark: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), VfsError> {
    let mut file = File::create(path).map_err(|source| VfsError::io("create", path, source))?;
    file.write_all(bytes)
        .map_err(|source| VfsError::io("write", path, source))?;
    mark(&file).map_err(|source| VfsError::io("mark", path, source))?;
    file.sync_all()
        .map_err(|source| VfsError::io("sync", path, source))
}

/// Makes a file, or the names in a directory, durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), VfsError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| VfsError::io("sync", path, source))
}

/// Checks the header at the start of a database file and returns its page size, or says what makes
/// it unfit to be the base of an in-memory WAL.
pub(crate) fn page_size_of(start: &[u8]) -> Result<PageSize, &'static str> {
    if start.len() < DATABASE_HEADER_BYTES {
        return Err("it is shorter than a database header");
    }
    if !start.starts_with(MAGIC) {
        return Err("it does not begin as a SQLite database does");
    }
    if start[VERSIONS] != [2, 2] {
        return Err("it is not in WAL mode");
    }
    PageSize::from_file_bytes([start[16], start[17]]).map_err(|_| "its page size is invalid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_or_collide_are_refused() {
        for name in ["a", "bank.db", "A-1_b.c", "wal", "x-walx", &"n".repeat(128)] {
            assert!(validate_database_name(name).is_ok(), "{name}");
        }
        let long = "n".repeat(129);
        let refused = [
            "",
            ".",
            "..",
            ".x",
            "a/b",
            "/a",
            "a b",
            "ä",
            "a\0",
            "file:a",
            "a?b",
            "a%41",
            "x-wal",
            "x-shm",
            "x-journal",
            "x.sum",
            &long,
        ];
        for name in refused {
            assert!(validate_database_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn headers_that_are_no_base_for_a_wal_are_refused() {
        let good = first_page(PageSize::DEFAULT);
        assert_eq!(page_size_of(&good), Ok(PageSize::DEFAULT));
        assert!(page_size_of(&good[..99]).is_err());
        for (offset, value) in [(0, b's'), (16, 0x11), (18, 1), (19, 1), (18, 0), (19, 3)] {
            let mut bad = good.clone();
            bad[offset] = value;
            assert!(page_size_of(&bad).is_err(), "byte {offset} = {value}");
        }
    }
}

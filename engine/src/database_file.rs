//! What the first bytes of a database file must say for it to become a database here.

use ringlite_vfs::PageSize;

/// The length of the header that every SQLite database file begins with.
pub(crate) const HEADER_BYTES: usize = 100;
/// Where the header says how the file is to be written and read: 1 with a rollback journal, 2 with
/// a WAL (fileformat2.html, section 1.3.3).
const VERSIONS: std::ops::Range<usize> = 18..20;
const WAL_VERSION: u8 = 2;

/// Checks the header at the start of a SQLite database file of `file_bytes` bytes.
///
/// # Errors
/// What is wrong with it, to stand behind the name of the file and a colon.
pub(crate) fn check_header(start: &[u8], file_bytes: u64) -> Result<PageSize, &'static str> {
    if start.len() < HEADER_BYTES {
        return Err("it is shorter than the header of a SQLite database");
    }
    if !start.starts_with(b"SQLite format 3\0") {
        return Err("it does not begin as a SQLite database does");
    }
    if !start[VERSIONS]
        .iter()
        .all(|version| matches!(version, 1 | 2))
    {
        return Err("it has a file format version that SQLite does not know");
    }
    let page_size = page_size(start).ok_or("its page size is invalid")?;
    let page_bytes = page_size.bytes();
    if !file_bytes.is_multiple_of(u64::from(page_bytes)) {
        return Err("its length is no multiple of its page size, as if it were cut off");
    }
    if file_bytes / u64::from(page_bytes) > u64::from(u32::MAX - 1) {
        return Err("it has more pages than SQLite can number");
    }
    Ok(page_size)
}

/// The page size that a header says; `None` if it is none.
pub(crate) fn page_size(header: &[u8]) -> Option<PageSize> {
    // 65536 does not fit in the two bytes; 1 stands for it.
    let bytes = match u16::from_be_bytes([*header.get(16)?, *header.get(17)?]) {
        1 => PageSize::MAX.bytes(),
        bytes => u32::from(bytes),
    };
    PageSize::new(bytes).ok()
}

/// Whether a header says that the file is in WAL mode.
pub(crate) fn is_in_wal_mode(header: &[u8]) -> bool {
    header
        .get(VERSIONS)
        .is_some_and(|versions| versions.contains(&WAL_VERSION))
}

/// Makes a header say WAL mode, which is the only one that databases have here.
pub(crate) fn set_wal_mode(header: &mut [u8]) {
    if let Some(versions) = header.get_mut(VERSIONS) {
        versions.fill(WAL_VERSION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(page_size: [u8; 2], versions: [u8; 2]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[16..18].copy_from_slice(&page_size);
        bytes[VERSIONS].copy_from_slice(&versions);
        bytes
    }

    #[test]
    fn every_page_size_of_sqlite_is_read() {
        for (code, bytes) in [
            ([2, 0], 512),
            ([16, 0], 4096),
            ([128, 0], 32768),
            ([0, 1], 65536),
        ] {
            let page_size = check_header(&header(code, [1, 1]), u64::from(bytes) * 3).unwrap();
            assert_eq!(page_size.bytes(), bytes);
        }
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let good = header([16, 0], [2, 2]);
        assert!(check_header(&good, 8192).is_ok());
        assert!(check_header(&good[..99], 8192).is_err());
        assert!(check_header(&good, 8191).is_err());
        assert!(check_header(&good, 4096 * u64::from(u32::MAX)).is_err());
        assert!(check_header(&header([0, 100], [1, 1]), 8192).is_err());
        assert!(check_header(&header([16, 0], [3, 1]), 8192).is_err());
        let mut garbage = good;
        garbage[3] = b'x';
        assert!(check_header(&garbage, 8192).is_err());
    }

    #[test]
    fn the_mode_is_set_and_seen() {
        let mut bytes = header([16, 0], [1, 1]);
        assert!(!is_in_wal_mode(&bytes));
        set_wal_mode(&mut bytes);
        assert!(is_in_wal_mode(&bytes));
        assert_eq!(bytes[VERSIONS], [2, 2]);
    }
}

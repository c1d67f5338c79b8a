//! Pages: their sizes, their numbers, their images.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::VfsError;

/// The size of every page of one database, in bytes: a power of two from 512 to 65536
/// (fileformat2.html, section 1.3.2). It is chosen when the database is created and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// The smallest page size: 512 bytes.
    pub const MIN: PageSize = PageSize(512);
    /// What databases get unless something else is asked for: 4096 bytes.
    pub const DEFAULT: PageSize = PageSize(4096);
    /// The greatest page size: 65536 bytes.
    pub const MAX: PageSize = PageSize(65536);

    /// Takes a size in bytes; fails with [`VfsError::InvalidPageSize`] if SQLite knows no such
    /// size.
    pub const fn new(bytes: u32) -> Result<PageSize, VfsError> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Ok(PageSize(bytes))
        } else {
            Err(VfsError::InvalidPageSize { bytes })
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The size in bytes, as the type of lengths.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The two bytes at offset 16 of a database file: big-endian, with 1 standing for 65536.
    pub(crate) fn to_file_bytes(self) -> [u8; 2] {
        match self.0 {
            65536 => [0, 1],
            bytes => [(bytes >> 8) as u8, bytes as u8],
        }
    }

    /// Reads the two bytes at offset 16 of a database file.
    pub(crate) fn from_file_bytes(bytes: [u8; 2]) -> Result<PageSize, VfsError> {
        match u32::from(u16::from_be_bytes(bytes)) {
            1 => Ok(PageSize::MAX),
            bytes => PageSize::new(bytes),
        }
    }
}

impl Default for PageSize {
    fn default() -> PageSize {
        PageSize::DEFAULT
    }
}

/// The number of a page within its database. SQLite counts pages from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u32);

impl fmt::Display for PageNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// An immutable image of one page. A clone shares the bytes; they never change.
#[derive(Clone, PartialEq, Eq)]
pub struct Page(Arc<[u8]>);

impl Page {
    /// Makes an image of `size` bytes that `fill` writes into (it starts as zeros): one allocation,
    /// for decoders that would else need a buffer of their own.
    pub fn build(size: PageSize, fill: impl FnOnce(&mut [u8])) -> Page {
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, size.as_usize()).collect();
        if let Some(unshared) = Arc::get_mut(&mut bytes) {
            fill(unshared);
        }
        Page(bytes)
    }
}

impl From<&[u8]> for Page {
    fn from(bytes: &[u8]) -> Page {
        Page(Arc::from(bytes))
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Page({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_the_powers_of_two_that_sqlite_knows() {
        for bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
            let size = PageSize::new(bytes).unwrap();
            assert_eq!(
                PageSize::from_file_bytes(size.to_file_bytes()).unwrap(),
                size
            );
        }
        for bytes in [0, 1, 2, 256, 511, 513, 4095, 131_072, u32::MAX] {
            assert!(PageSize::new(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn a_built_page_holds_what_was_filled_in() {
        let page = Page::build(PageSize::MIN, |bytes| bytes[511] = 7);
        assert_eq!(page.len(), 512);
        assert_eq!((page[0], page[511]), (0, 7));
    }
}

//! Pages: their sizes, their numbers, their images.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// How much memory of dropped images is kept for new ones, for each page size, in bytes. Memory that
/// was given back to the system is slow to get again: each page of it is a fault.
const RECYCLED_BYTES_MAX: usize = 32 << 20;
/// The memory of dropped images, by page size.
static RECYCLED: [Mutex<Vec<Arc<[u8]>>>; PAGE_SIZES] =
    [const { Mutex::new(Vec::new()) }; PAGE_SIZES];
/// The number of page sizes from [`PageSize::MIN`] to [`PageSize::MAX`].
const PAGE_SIZES: usize = 8;

const _: () = assert!(PageSize::MIN.0 << (PAGE_SIZES - 1) == PageSize::MAX.0);

/// An immutable image of one page. A clone shares the bytes; they never change. When the last one
/// is dropped, the memory is kept for a new image.
#[derive(Clone, PartialEq, Eq)]
pub struct Page(Arc<[u8]>);

impl Drop for Page {
    fn drop(&mut self) {
        // If two threads drop the last two at the same time, the memory is just freed.
        if Arc::get_mut(&mut self.0).is_none() {
            return;
        }
        let bytes = self.0.len();
        if let Some(mut recycled) = recycled(bytes)
            && recycled.len() < RECYCLED_BYTES_MAX / bytes
        {
            recycled.push(std::mem::take(&mut self.0));
        }
    }
}

impl Page {
    /// Makes an image of `size` bytes that `fill` writes into (it starts as zeros): one allocation,
    /// for decoders that would else need a buffer of their own.
    pub fn build(size: PageSize, fill: impl FnOnce(&mut [u8])) -> Page {
        let reused = recycled(size.as_usize()).and_then(|mut recycled| recycled.pop());
        let mut page = Page(match reused {
            Some(bytes) => bytes,
            None => std::iter::repeat_n(0, size.as_usize()).collect(),
        });
        if let Some(unshared) = Arc::get_mut(&mut page.0) {
            unshared.fill(0);
            fill(unshared);
        }
        page
    }
}

impl From<&[u8]> for Page {
    fn from(bytes: &[u8]) -> Page {
        let reused = recycled(bytes.len()).and_then(|mut recycled| recycled.pop());
        let Some(mut reused) = reused else {
            return Page(Arc::from(bytes));
        };
        if let Some(unshared) = Arc::get_mut(&mut reused) {
            unshared.copy_from_slice(bytes);
        }
        Page(reused)
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

/// Where memory of a length is kept; None for lengths that no page has.
fn recycled(bytes: usize) -> Option<MutexGuard<'static, Vec<Arc<[u8]>>>> {
    let size = PageSize::new(u32::try_from(bytes).ok()?).ok()?;
    let pool = &RECYCLED[(size.0 / PageSize::MIN.0).ilog2() as usize];
    Some(pool.lock().unwrap_or_else(PoisonError::into_inner))
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

    #[test]
    fn the_memory_of_dropped_images_is_used_again_and_bounded() {
        let size = PageSize::MAX;
        let count = RECYCLED_BYTES_MAX / size.as_usize();
        let pages: Vec<_> = (0..count + 9)
            .map(|_| Page::build(size, |bytes| bytes.fill(7)))
            .collect();
        let shared = pages[0].clone();
        drop(pages);
        assert_eq!(recycled(size.as_usize()).unwrap().len(), count);
        assert!(
            shared.iter().all(|byte| *byte == 7),
            "not while it is shared"
        );
        // Nothing of the old content is in a new image, however it is made.
        assert!(Page::build(size, |_| ()).iter().all(|byte| *byte == 0));
        let copied = Page::from(&vec![9; size.as_usize()][..]);
        assert!(copied.iter().all(|byte| *byte == 9));
        assert_eq!(recycled(size.as_usize()).unwrap().len(), count - 1);
        drop(Page::from(&[1, 2, 3][..]));
    }
}

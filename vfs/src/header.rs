//! The 48-byte header of a wal-index, and the commit points made of it.

use std::fmt;

use crate::page::PageSize;

/// A place in the life of an in-memory WAL. Every commit has a greater one than all commits before
/// it, also across a roll-back or a restart of the WAL, because each begins a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalPosition {
    /// Our own counter of roll-backs and restarts of the WAL, from 1. SQLite's salts would not do: its first
    /// writer in an empty WAL draws new ones.
    pub generation: u64,
    /// The number of frames that the WAL holds there (`mxFrame` in walformat.html); 0 if empty.
    pub frame: u32,
}

impl fmt::Display for WalPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "generation {}, frame {}",
            self.generation, self.frame
        )
    }
}

/// Enough to roll a database back to one commit: its position, and the wal-index header that this
/// commit published. Meaningful only for the [`crate::Database`] that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPoint {
    /// Where in the life of the WAL the commit ends.
    pub position: WalPosition,
    pub(crate) header: IndexHeader,
}

impl CommitPoint {
    /// The size of the database after this commit, in pages.
    pub fn page_count(&self) -> u32 {
        self.header.page_count()
    }
}

/// The number of 32-bit words in one copy of the header.
pub(crate) const HEADER_WORDS: usize = 12;

/// `WalIndexHdr` of SQLite, as native words (walformat.html, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader(pub(crate) [u32; HEADER_WORDS]);

const VERSION_WORD: usize = 0;
const CHANGE_WORD: usize = 2;
/// One byte `isInit`, one byte `bigEndCksum`, two bytes `szPage`.
const FLAGS_WORD: usize = 3;
const MAX_FRAME_WORD: usize = 4;
const PAGE_COUNT_WORD: usize = 5;
const CHECKSUM_WORD: usize = 10;

/// `WALINDEX_MAX_VERSION` of SQLite.
const INDEX_VERSION: u32 = 3_007_000;

const _: () = assert!(HEADER_WORDS * 4 == 48);
const _: () = assert!(CHECKSUM_WORD + 2 == HEADER_WORDS);

impl IndexHeader {
    /// The header of an empty WAL above a file of `page_count` pages. SQLite takes it as it is; a
    /// zeroed one would make its first reader ask for recovery.
    pub(crate) fn empty(page_size: PageSize, page_count: u32) -> IndexHeader {
        let bytes = page_size.bytes();
        // 65536 does not fit in the 16 bits of szPage; SQLite stores 1 for it.
        let size_code = (bytes & 0xff00) | (bytes >> 16);
        let mut words = [0; HEADER_WORDS];
        words[VERSION_WORD] = INDEX_VERSION;
        words[FLAGS_WORD] = 1 | (size_code << 16);
        words[PAGE_COUNT_WORD] = page_count;
        IndexHeader(words).sealed()
    }

    /// The header that the commit after this one publishes. Checksums and salts of frames may
    /// stay, because nothing ever recovers from this WAL.
    pub(crate) fn next_commit(self, max_frame: u32, page_count: u32) -> IndexHeader {
        let mut words = self.0;
        words[CHANGE_WORD] = words[CHANGE_WORD].wrapping_add(1);
        words[MAX_FRAME_WORD] = max_frame;
        words[PAGE_COUNT_WORD] = page_count;
        IndexHeader(words).sealed()
    }

    /// The header of the empty WAL that takes the place of one with this header. The change counter
    /// stays, because nobody has committed.
    pub(crate) fn restarted(self) -> IndexHeader {
        let mut words = self.0;
        words[MAX_FRAME_WORD] = 0;
        IndexHeader(words).sealed()
    }

    /// The number of committed frames.
    pub(crate) fn max_frame(&self) -> u32 {
        self.0[MAX_FRAME_WORD]
    }

    /// The size of the database in pages.
    pub(crate) fn page_count(&self) -> u32 {
        self.0[PAGE_COUNT_WORD]
    }

    /// The word of a header copy that holds the number of committed frames.
    pub(crate) const fn max_frame_word() -> usize {
        MAX_FRAME_WORD
    }

    fn sealed(mut self) -> IndexHeader {
        let (first, second) = checksum(&self.0[..CHECKSUM_WORD]);
        self.0[CHECKSUM_WORD] = first;
        self.0[CHECKSUM_WORD + 1] = second;
        self
    }
}

/// The Fibonacci-weighted sums of walformat.html, section 4.1, over native words.
fn checksum(words: &[u32]) -> (u32, u32) {
    let (mut first, mut second) = (0u32, 0u32);
    for pair in words.chunks_exact(2) {
        first = first.wrapping_add(pair[0]).wrapping_add(second);
        second = second.wrapping_add(pair[1]).wrapping_add(first);
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_size_is_encoded_as_sqlite_does() {
        for (bytes, code) in [(512, 0x0200), (4096, 0x1000), (32768, 0x8000), (65536, 1)] {
            let header = IndexHeader::empty(PageSize::new(bytes).unwrap(), 1);
            assert_eq!(header.0[FLAGS_WORD] >> 16, code);
            assert_eq!(
                header.0[FLAGS_WORD] & 0xffff,
                1,
                "isInit, and no big-endian checksums"
            );
        }
    }

    #[test]
    fn a_commit_changes_the_counter_and_the_checksum() {
        let empty = IndexHeader::empty(PageSize::DEFAULT, 1);
        let next = empty.next_commit(3, 2);
        assert_eq!((next.max_frame(), next.page_count()), (3, 2));
        assert_eq!(next.0[CHANGE_WORD], 1);
        assert_ne!(next.0[CHECKSUM_WORD..], empty.0[CHECKSUM_WORD..]);
    }

    #[test]
    fn positions_are_ordered_by_generation_first() {
        let early = WalPosition {
            generation: 1,
            frame: 900,
        };
        let late = WalPosition {
            generation: 2,
            frame: 3,
        };
        assert!(early < late);
    }
}

//! One epoch: the in-memory WAL as one set of file handles sees it.

use crate::frames::{FrameStore, Frames};
use crate::header::IndexHeader;
use crate::locks::LockTable;
use crate::page::PageSize;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wal_index::WalIndex;

/// Frames, index and locks between two roll-backs. Every connection holds the epoch it was opened
/// in, so the memory that SQLite has mapped outlives a roll-back and goes with the last connection.
pub(crate) struct Epoch {
    /// The generation in the positions of its commits. A restart of the WAL changes it, while it
    /// holds every read slot.
    generation: AtomicU64,
    /// The wal-index.
    pub(crate) index: WalIndex,
    /// The lock slots.
    pub(crate) locks: LockTable,
    /// The frames.
    pub(crate) frames: FrameStore,
}

impl Epoch {
    /// The first epoch: an empty WAL above a file of `page_count` pages.
    pub(crate) fn first(page_size: PageSize, header: &IndexHeader) -> Epoch {
        Epoch {
            generation: AtomicU64::new(1),
            index: WalIndex::new(header),
            locks: LockTable::new(),
            frames: FrameStore::new(page_size, Frames::empty()),
        }
    }

    /// The epoch after this one, which ends with the commit of `header` and begins `generation`.
    /// This one is dead from now on. What is backfilled stays so, and a running backfill keeps its
    /// slots.
    ///
    /// The regions and the lock table are new ones. An old connection whose transaction has spilled
    /// cleans hash slots when it says ROLLBACK at last, directly in the memory that it has mapped;
    /// no refused call would stop it from doing so in the middle of the new life.
    pub(crate) fn succeed(
        &self,
        page_size: PageSize,
        header: &IndexHeader,
        generation: u64,
    ) -> Epoch {
        let mut frames = self.frames.poison_and_take();
        frames.cut(header.max_frame());
        Epoch {
            generation: AtomicU64::new(generation),
            index: self.index.copy_up_to(header),
            locks: self.locks.succeed(),
            frames: FrameStore::new(page_size, frames),
        }
    }

    /// The generation of its next commit. It is that of a snapshot for whoever holds a read slot.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Empties the WAL, whose frames are all in the file. The caller holds every slot. Returns what
    /// is to be dropped when the slots are free again.
    pub(crate) fn restart(&self, header: &IndexHeader, generation: u64) -> Frames {
        self.generation.store(generation, Ordering::Release);
        self.index.restart(header);
        self.frames.take()
    }

    /// Whether a roll-back, or the removal of the database, has ended this epoch.
    pub(crate) fn is_dead(&self) -> bool {
        self.frames.is_poisoned()
    }
}

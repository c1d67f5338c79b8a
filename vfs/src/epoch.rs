//! One epoch: the in-memory WAL as one set of file handles sees it.

use crate::frames::{FrameStore, Frames};
use crate::header::IndexHeader;
use crate::page::PageSize;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::view::{View, ViewKind};

/// Frames, indexes and locks between two roll-backs. Every connection holds the epoch it was opened
/// in, so the memory that SQLite has mapped outlives a roll-back and goes with the last connection.
pub(crate) struct Epoch {
    /// The generation in the positions of its commits. A restart of the WAL changes it, while it
    /// holds every read slot.
    generation: AtomicU64,
    /// What connections that write see.
    pub(crate) live: View,
    /// What read-only connections see. It changes under the database's `acts` only.
    pub(crate) committed: View,
    /// The frames.
    pub(crate) frames: FrameStore,
}

impl Epoch {
    /// The first epoch: an empty WAL above a file of `page_count` pages.
    pub(crate) fn first(page_size: PageSize, header: &IndexHeader) -> Epoch {
        Epoch {
            generation: AtomicU64::new(1),
            live: View::new(header),
            committed: View::new(header),
            frames: FrameStore::new(page_size, Frames::empty()),
        }
    }

    /// The epoch after this one, which ends with the commit of `header` and begins `generation`.
    /// This one is dead from now on. What is backfilled stays so, and a running backfill keeps its
    /// slots. Both views end with that commit.
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
            live: View {
                index: self.live.index.copy_up_to(header),
                locks: self.live.locks.succeed(),
            },
            committed: View {
                index: self.live.index.copy_up_to(header),
                locks: self.committed.locks.succeed(),
            },
            frames: FrameStore::new(page_size, frames),
        }
    }

    /// The generation of its next commit. It is that of a snapshot for whoever holds a read slot.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Empties the WAL, whose frames are all in the file. The caller holds every slot of both views.
    /// Returns what is to be dropped when the slots are free again.
    pub(crate) fn restart(&self, header: &IndexHeader, generation: u64) -> Frames {
        self.generation.store(generation, Ordering::Release);
        self.live.index.restart(header);
        self.committed.index.restart(header);
        self.frames.take()
    }

    /// A view.
    pub(crate) fn view(&self, kind: ViewKind) -> &View {
        match kind {
            ViewKind::Live => &self.live,
            ViewKind::Committed => &self.committed,
        }
    }

    /// Lets the committed view go on to the commit of `header`, unless it has got there. The caller
    /// holds `acts`, and the epoch lives.
    pub(crate) fn show_committed(&self, header: &IndexHeader) {
        let shown = self.committed.index.live_max_frame();
        if header.max_frame() <= shown {
            return;
        }
        let numbers = self.frames.numbers(shown + 1, header.max_frame());
        // To go on without them would show readers old pages for new ones.
        let numbers = numbers.expect("committed frames are in the store of the living epoch");
        self.committed.advance(header, &numbers);
    }

    /// The newest frame up to `wanted` that no read transaction has a snapshot below: see
    /// [`View::safe_frame`].
    pub(crate) fn safe_frame(&self, wanted: u32) -> u32 {
        self.committed.safe_frame(self.live.safe_frame(wanted))
    }

    /// Whether a roll-back, or the removal of the database, has ended this epoch.
    pub(crate) fn is_dead(&self) -> bool {
        self.frames.is_poisoned()
    }
}

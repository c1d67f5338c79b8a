//! A view: what one kind of connection sees of the WAL of an epoch.
//!
//! There are two. Connections that write see the *live* view, whose header SQLite publishes with each
//! commit. Read-only connections see the *committed* view, whose header the VFS publishes when it
//! is told that a commit is committed for good. Frames and file are shared. Each view has an index,
//! read marks and lock slots of its own, because its readers mark what they see by its header: that
//! keeps all of SQLite's reasoning about readers true within each of them. Whatever moves frames or
//! drops them asks both.
//!
//! `nBackfill <= committed view's mxFrame <= live view's mxFrame`, with `nBackfill` the same in both.

use std::time::Duration;

use crate::header::IndexHeader;
use crate::locks::{LockTable, READ_FIRST, READ_SLOTS};
use crate::page::PageNumber;
use crate::sync::atomic::{Ordering, fence};
use crate::wal_index::{READ_MARK_UNUSED, WalIndex};

/// Which view a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewKind {
    /// The newest commit of SQL or of an apply.
    Live,
    /// The newest commit that is committed for good.
    Committed,
}

/// An index, and the slots of those who use it.
pub(crate) struct View {
    pub(crate) index: WalIndex,
    pub(crate) locks: LockTable,
}

impl View {
    /// A view of an empty WAL.
    pub(crate) fn new(header: &IndexHeader) -> View {
        View {
            index: WalIndex::new(header),
            locks: LockTable::new(),
        }
    }

    /// Goes on to the commit of `header`, whose frames behind the end of this view are images of
    /// `numbers`. One at a time; nobody else publishes in this view.
    pub(crate) fn advance(&self, header: &IndexHeader, numbers: &[PageNumber]) {
        // Whoever meets the header in the middle of the change waits for this slot. Nobody keeps
        // it: SQL cannot have it in the committed view.
        let _write = self.locks.take_write_for_vfs(Duration::ZERO);
        let first_frame = self.index.live_max_frame() + 1;
        self.index.append(first_frame, numbers.iter().copied());
        self.index.publish(header);
    }

    /// The newest frame up to `wanted` that no read transaction has a snapshot below. Marks that
    /// nobody holds are taken out of use, so that nobody begins to read there. The header has
    /// `wanted` already.
    pub(crate) fn safe_frame(&self, wanted: u32) -> u32 {
        // A reader stores its mark, has a fence, and compares the header. So either the mark is
        // seen here, or the reader sees a header that has `wanted`.
        fence(Ordering::SeqCst);
        let mut safe = wanted;
        for slot in READ_SLOTS.skip(1) {
            let place = slot - READ_FIRST;
            let mark = self.index.read_mark(place);
            if mark >= safe {
                continue;
            }
            match self.locks.take_for_vfs([slot]) {
                Some(_held) => {
                    // SQLite keeps one mark in use, so that there is one to share at any time.
                    let unheld = if place == 1 { safe } else { READ_MARK_UNUSED };
                    self.index.set_read_mark(place, unheld);
                }
                None => safe = mark,
            }
        }
        safe
    }

    /// The oldest frame that a read transaction may have its snapshot at.
    pub(crate) fn oldest_mark(&self) -> Option<u32> {
        let marks = READ_SLOTS.filter(|slot| self.locks.is_shared(*slot));
        let marks = marks.map(|slot| match slot {
            READ_FIRST => self.index.backfilled(),
            _ => self.index.read_mark(slot - READ_FIRST),
        });
        marks.min()
    }
}

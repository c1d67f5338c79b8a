//! Capture: what committed, taken out as page images.

use crate::database::{Database, DatabaseInner};
use crate::epoch::Epoch;
use crate::header::CommitPoint;
use crate::lock;
use crate::page::{Page, PageNumber};
use crate::sync::atomic::Ordering;

/// What committed since the last capture.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The last image of each changed page, sorted by page number. Pages above `page_count`, which
    /// a transaction may have written before it made the database smaller, are left out.
    pub pages: Vec<(PageNumber, Page)>,
    /// The size of the database after the last of these commits, in pages.
    pub page_count: u32,
    /// The last of these commits.
    pub commit_point: CommitPoint,
}

impl DatabaseInner {
    /// SQLite gives WRITE back: notes what has committed. The caller still holds the slot, so the
    /// live header is whole and the next writer has not begun.
    pub(crate) fn note_write_released(&self, epoch: &Epoch) {
        let header = epoch.live.index.live_header();
        // Frames above the last committed one were spilled by a transaction that rolled back. They
        // would stay until the next commit of that size.
        epoch.frames.cut(header.max_frame());
        let mut history = lock(&self.history);
        if epoch.is_dead() {
            // A roll-back has cut this commit off already.
            return;
        }
        if history.committed != header {
            history.committed = header;
            self.changed.store(true, Ordering::Release);
        }
    }
}

impl Database {
    /// Takes what committed since the last capture, apply or roll-back, as one set of pages; None
    /// if nothing has. To be called after each statement: it costs one atomic load when nothing has
    /// changed. A commit is complete for this when SQLite has released its write lock, which it
    /// does before the statement that commits returns.
    pub fn take_capture(&self) -> Option<Capture> {
        let inner = &*self.inner;
        if !inner.changed.load(Ordering::Acquire) {
            return None;
        }
        // Held to the end, so that no roll-back takes the frames away meanwhile.
        let mut history = lock(&inner.history);
        inner.changed.store(false, Ordering::Release);
        if history.captured == history.committed {
            return None;
        }
        let commit_point = history.commit_point();
        let epoch = inner.epoch();
        let first = history.captured.max_frame() + 1;
        let pages = epoch
            .frames
            .newest(first, commit_point.position.frame)
            .and_then(|mut newest| {
                newest.retain(|entry| entry.number.0 <= commit_point.page_count());
                epoch.frames.pages(&newest)
            });
        // The epoch lives, and frames at or below a committed one are never dropped. To go on
        // without them would lose a commit in silence.
        let pages = pages.expect("committed frames are in the store of the living epoch");
        history.captured = history.committed;
        Some(Capture {
            pages,
            page_count: commit_point.page_count(),
            commit_point,
        })
    }
}

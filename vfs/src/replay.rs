//! Apply and roll back: commits put in from outside, and cut off again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::database::Database;
use crate::epoch::Epoch;
use crate::error::VfsError;
use crate::header::CommitPoint;
use crate::page::{Page, PageNumber};
use crate::sync::atomic::Ordering;
use crate::{lock, write_lock};

/// How long an apply waits for a connection that holds WRITE. On a follower none does, except for
/// the moment in which one reads a header that is being changed.
const WRITE_PATIENCE: Duration = Duration::from_millis(50);

impl Database {
    /// Appends one committed set of pages, as SQLite would see the commit of another connection:
    /// readers that have begun keep their snapshot, later ones see it. On return it is visible.
    ///
    /// `pages` are sorted by page number and at most `page_count`; they are shared, not copied. An
    /// empty set is for a commit that changes only the size, or nothing. What was not captured yet
    /// counts as captured, and everything up to this commit as committed for good. Fails with [`VfsError::WriteLockHeld`] if a transaction of SQL is
    /// writing, and with [`VfsError::InvalidPages`] without any effect.
    pub fn apply(
        &self,
        pages: &[(PageNumber, Page)],
        page_count: u32,
    ) -> Result<CommitPoint, VfsError> {
        self.check_pages(pages, page_count)?;
        let inner = &*self.inner;
        let _act = lock(&inner.acts);
        inner.require_present()?;
        let epoch = inner.epoch();
        let write = epoch.live.locks.take_write_for_vfs(WRITE_PATIENCE);
        let write = write.ok_or_else(|| VfsError::WriteLockHeld {
            name: inner.name.clone(),
        })?;
        let live = epoch.live.index.live_header();
        let pages = if !pages.is_empty() {
            Cow::Borrowed(pages)
        } else if live.page_count() == page_count {
            return Ok(lock(&inner.history).commit_point());
        } else {
            // Even a commit of the size alone ends in a frame, because the last frame of a commit
            // carries the size and because its position has to be a new one.
            Cow::Owned(vec![(
                PageNumber(1),
                self.live_page_one(&epoch, live.max_frame())?,
            )])
        };
        let max_frame = u32::try_from(pages.len())
            .ok()
            .and_then(|count| live.max_frame().checked_add(count))
            .ok_or_else(|| self.invalid_pages(0, "is one frame more than a WAL can hold"))?;
        epoch.frames.append(live.max_frame(), &pages, page_count);
        epoch.live.index.append(
            live.max_frame() + 1,
            pages.iter().map(|(number, _)| *number),
        );
        let header = live.next_commit(max_frame, page_count);
        epoch.live.index.publish(&header);
        epoch.show_committed(&header);
        let mut history = lock(&inner.history);
        history.committed = header;
        history.captured = header;
        inner.changed.store(false, Ordering::Release);
        let commit_point = history.commit_point();
        drop(history);
        drop(write);
        Ok(commit_point)
    }

    /// Lets read-only connections see everything up to the commit `to`, which is committed for good:
    /// no roll-back may go behind it from now on. Those that have begun keep their snapshot, later ones see it.
    /// No effect if they see it already.
    ///
    /// Fails with [`VfsError::UnknownCommitPoint`] if `to` was rolled back.
    pub fn show_committed(&self, to: &CommitPoint) -> Result<(), VfsError> {
        let inner = &*self.inner;
        let _act = lock(&inner.acts);
        let header = {
            let history = lock(&inner.history);
            if history.is_before_restart(to.position) {
                return inner.require_present();
            }
            inner.require(&history, to)?.header
        };
        inner.epoch().show_committed(&header);
        Ok(())
    }

    /// Cuts off everything after the commit `to`, which is committed for good, and begins a new epoch.
    ///
    /// Connections that are open on the old epoch get `SQLITE_IOERR` from whatever they read, write
    /// or lock from now on, and can only be closed; what their page caches still answer must not
    /// leave the node. They may live on for any time, in any state and on any thread. Commits that
    /// were not captured are gone. A backfill goes on in the new epoch, because what it writes has
    /// committed at or before `to`.
    ///
    /// Fails with [`VfsError::UnknownCommitPoint`] if `to` itself was cut off earlier or lies before
    /// the last restart of the WAL, and with [`VfsError::SnapshotTooOld`] if the file holds newer
    /// pages already; both without any effect.
    pub fn roll_back(&self, to: &CommitPoint) -> Result<(), VfsError> {
        let inner = &*self.inner;
        let _act = lock(&inner.acts);
        // From here no commit is noted and none is captured. A transaction of SQL that has WRITE
        // cannot be waited for (its session may be asleep), and need not be: the new epoch takes
        // from the old one only what had committed long before.
        let mut history = lock(&inner.history);
        let to = &inner.require(&history, to)?;
        let mut current = write_lock(&inner.current);
        inner.require_above_backfill(&current, to)?;
        let generation = history.generation() + 1;
        let next = current.succeed(inner.page_size, &to.header, generation);
        history.roll_back(to, generation);
        inner.changed.store(false, Ordering::Release);
        *current = Arc::new(next);
        Ok(())
    }

    fn check_pages(&self, pages: &[(PageNumber, Page)], page_count: u32) -> Result<(), VfsError> {
        if page_count == 0 {
            return Err(self.invalid_pages(1, "is missing: a database has at least one page"));
        }
        let mut previous = 0;
        for (number, page) in pages {
            let reason = if number.0 <= previous {
                "is out of order, or twice in the set"
            } else if number.0 > page_count {
                "lies above the size of the database"
            } else if page.len() != self.page_size().as_usize() {
                "has not the page size of the database"
            } else {
                previous = number.0;
                continue;
            };
            return Err(self.invalid_pages(number.0, reason));
        }
        Ok(())
    }

    fn invalid_pages(&self, page: u32, reason: &'static str) -> VfsError {
        VfsError::InvalidPages {
            name: self.inner.name.clone(),
            page,
            reason,
        }
    }

    /// The newest image of page 1. The caller holds WRITE.
    fn live_page_one(&self, epoch: &Epoch, max_frame: u32) -> Result<Page, VfsError> {
        let ended = |fault| self.inner.ended(fault);
        let newest = epoch.frames.newest(1, max_frame).map_err(ended)?;
        let first = newest.get(..1).unwrap_or(&[]);
        let pages = epoch.frames.pages(first).map_err(ended)?;
        if let Some((PageNumber(1), page)) = pages.into_iter().next() {
            return Ok(page);
        }
        let mut bytes = vec![0; self.page_size().as_usize()];
        self.inner.read_file_page(PageNumber(1), &mut bytes)?;
        Ok(Page::from(&bytes[..]))
    }
}

//! Pins: commits that are kept readable without a connection, and what keeps frames in the WAL.

use std::fmt;

use crate::database::Database;
use crate::error::VfsError;
use crate::header::{CommitPoint, WalPosition};
use crate::lock;

/// Keeps a commit readable by [`Database::read_pages_at`] until it is dropped: no backfill goes
/// beyond it, and the WAL is not restarted. For reads that take long, such as a backup; the WAL grows
/// as long as they do. A roll-back to an earlier commit ends it.
#[must_use]
pub struct Pin {
    pub(crate) database: Database,
    at: CommitPoint,
    number: u64,
}

impl Database {
    /// Pins a commit. Fails with [`VfsError::UnknownCommitPoint`] if it was rolled back or lies
    /// before the last restart of the WAL, and with [`VfsError::SnapshotTooOld`] if the file holds
    /// newer pages already, or is about to.
    pub fn pin(&self, at: &CommitPoint) -> Result<Pin, VfsError> {
        let inner = &*self.inner;
        let mut history = lock(&inner.history);
        let at = inner.require(&history, at)?;
        inner.require_above_backfill(&inner.epoch(), &at)?;
        Ok(Pin {
            database: self.clone(),
            at,
            number: history.pin(at.position.frame),
        })
    }

    /// The oldest position that a read transaction or a [`Pin`] keeps the WAL from being backfilled
    /// beyond, or from being restarted; None if there is none. Which connection it is, each of them
    /// tells by [`held_snapshot`](crate::held_snapshot). It may be older than the snapshots that
    /// are really held, as SQLite's readers share a few marks.
    pub fn oldest_snapshot(&self) -> Option<WalPosition> {
        let inner = &*self.inner;
        let history = lock(&inner.history);
        let epoch = inner.epoch();
        let marks = [epoch.live.oldest_mark(), epoch.committed.oldest_mark()];
        let marks = marks.into_iter().flatten();
        let oldest = marks.chain(history.oldest_pin()).min()?;
        Some(WalPosition {
            generation: history.generation(),
            frame: oldest,
        })
    }
}

impl Pin {
    /// The commit that is pinned, by the position that it has today: the last commit before a
    /// restart of the WAL is frame 0 after it.
    pub fn at(&self) -> &CommitPoint {
        &self.at
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        lock(&self.database.inner.history).unpin(self.number);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pin")
            .field("database", &self.database.name())
            .field("at", &self.at.position)
            .finish_non_exhaustive()
    }
}

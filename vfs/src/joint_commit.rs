//! Joint commits: what one connection commits in several databases at once.
//!
//! In WAL mode SQLite commits one database after the other: it publishes the new header of each,
//! and gives back the write locks when all are published. If it fails in between, it rolls back
//! only what it has not published. A [`JointCommit`] undoes the rest. So that nobody has seen it
//! until then, no read transaction begins on any of the databases meanwhile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::database::{Database, DatabaseInner};
use crate::header::CommitPoint;
use crate::lock;
use crate::sync::atomic::Ordering;

/// How long an undo waits for a reader that holds WRITE to look at a header again. Nobody else can
/// have it, and the reader's thread may have to wait for a core.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// A commit of one connection in several databases, from before its first database to after its
/// last. While it lives, read transactions of other connections do not begin on them, but for those
/// that see only what is committed for good: SQLite tries again by itself, with growing pauses, for
/// about 10 s.
#[must_use = "dropped, it counts as done"]
pub struct JointCommit {
    /// Each database as it was before.
    before: Vec<(Arc<DatabaseInner>, CommitPoint)>,
}

impl JointCommit {
    /// Begins a joint commit. To be called from SQLite's commit hook, when the connection holds the
    /// write lock of every one of the databases that it changes. One at a time per database.
    pub fn begin<'a>(databases: impl IntoIterator<Item = &'a Database>) -> Self {
        let databases = databases.into_iter();
        let before = databases.map(|database| {
            let inner = Arc::clone(&database.inner);
            // Before anything of the commit is published: who has read its header finds this too.
            inner.jointly_committed.store(true, Ordering::SeqCst);
            let commit_point = lock(&inner.history).commit_point();
            (inner, commit_point)
        });
        Self {
            before: before.collect(),
        }
    }

    /// SQLite has failed: takes back what it has committed in some of the databases. Nobody else
    /// may have written in them since.
    ///
    /// # Panics
    /// If another writer is in the way, since half of a transaction would stay.
    pub fn undo(self) {
        for (database, before) in &self.before {
            database.take_back(before);
        }
    }
}

impl Drop for JointCommit {
    fn drop(&mut self) {
        for (database, _) in &self.before {
            database.jointly_committed.store(false, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for JointCommit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.before.iter().map(|(database, _)| &database.name);
        formatter.debug_list().entries(names).finish()
    }
}

impl DatabaseInner {
    /// Makes `before` the last commit again, in place: no snapshot is of a later one.
    fn take_back(&self, before: &CommitPoint) {
        let _act = lock(&self.acts);
        if lock(&self.history).commit_point() == *before {
            return;
        }
        let epoch = self.epoch();
        if epoch.is_dead() {
            // The database was removed, and the commit with it.
            return;
        }
        let Some(write) = epoch.live.locks.take_write_for_vfs(WRITE_PATIENCE) else {
            panic!(
                "half of a transaction over several databases stays in {:?}: another one writes",
                self.name
            );
        };
        let mut history = lock(&self.history);
        if history.generation() != before.position.generation {
            // A roll-back has taken it away.
            return;
        }
        let frames = before.header.max_frame();
        epoch.live.index.publish(&before.header);
        epoch.live.index.forget_above(frames);
        epoch.frames.cut(frames);
        history.committed = before.header;
        let is_changed = history.captured != history.committed;
        self.changed.store(is_changed, Ordering::Release);
        drop(history);
        drop(write);
    }
}

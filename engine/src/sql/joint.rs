//! What a session commits in several databases at once, and the databases it has.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringlite_vfs::{Database, JointCommit};

use super::watch::Watch;
use crate::replica::DatabaseId;

/// A database that a session has: its own one, or one that it has attached.
pub(super) struct SessionDatabase {
    /// What SQL calls it.
    pub(super) schema: CString,
    pub(super) id: DatabaseId,
    pub(super) database: Database,
}

/// Shared by a session and its connection's commit hook.
///
/// With attached databases a commit takes place on the shard's core, wherever its run was: nothing
/// else runs there between the first database's commit and the last one's, and what they committed
/// is captured before anything else does.
pub(super) struct JointCommits {
    watch: Arc<Watch>,
    /// Whether anything is attached; a hint that is read without a lock.
    has_attached: AtomicBool,
    state: Mutex<State>,
}

struct State {
    databases: Arc<[SessionDatabase]>,
    /// From the commit hook to the end of the call of SQLite that it came from.
    begun: Option<JointCommit>,
}

impl JointCommits {
    pub(super) fn new(watch: Arc<Watch>, own: SessionDatabase) -> Self {
        Self {
            watch,
            has_attached: AtomicBool::new(false),
            state: Mutex::new(State {
                databases: [own].into(),
                begun: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_attached(&self) -> bool {
        self.has_attached.load(Ordering::Relaxed)
    }

    /// The databases of the session, its own one first.
    pub(super) fn databases(&self) -> Arc<[SessionDatabase]> {
        Arc::clone(&self.lock().databases)
    }

    /// The session has these databases from now on.
    pub(super) fn set_databases(&self, databases: Arc<[SessionDatabase]>) {
        let has_attached = databases.len() > 1;
        self.lock().databases = databases;
        self.has_attached.store(has_attached, Ordering::Relaxed);
    }

    /// SQLite is about to commit; false if it has to roll back instead, because the run was stopped.
    pub(super) fn begin(&self) -> bool {
        if !self.has_attached() {
            return true;
        }
        if !self.watch.go_to_core() {
            return false;
        }
        let mut state = self.lock();
        let databases = state.databases.iter().map(|at| &at.database);
        let begun = JointCommit::begin(databases);
        state.begun = Some(begun);
        self.watch.set_committing(true);
        true
    }

    /// A call of SQLite that may have committed has ended.
    pub(super) fn settle(&self, has_failed: bool) {
        if !self.has_attached() {
            return;
        }
        let begun = self.lock().begun.take();
        self.watch.set_committing(false);
        if let Some(begun) = begun
            && has_failed
        {
            begun.undo();
        }
    }
}

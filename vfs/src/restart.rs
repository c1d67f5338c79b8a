//! Restart: an empty WAL in place of one whose frames are all in the file.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::database::{Database, DatabaseInner};
use crate::epoch::Epoch;
use crate::history::History;
use crate::lock;
use crate::locks::{CHECKPOINT, READ_SLOTS, WRITE};
use crate::sync::atomic::Ordering;
use crate::sync::sleep;

/// How long a read transaction that has to wait sleeps at a time.
const PARKED_SLEEP: Duration = Duration::from_micros(50);

impl Database {
    /// Restarts the WAL: drops its frames, and with them their memory, and begins a new generation.
    /// Connections go on; each forgets its page cache when it next reads.
    ///
    /// False, without any effect, if it cannot be now: the WAL is empty, a frame is not backfilled,
    /// a commit is not captured, a backfill runs, a commit is pinned, or a connection has any
    /// transaction open. It never waits. [`park`](Database::park) makes room for it.
    ///
    /// Of the commit points from before, only that of the last commit stays known.
    pub fn restart(&self) -> bool {
        let inner = &*self.inner;
        let _act = lock(&inner.acts);
        let epoch = inner.epoch();
        // Cheaper than the slots, and mostly the answer.
        if !is_all_in_file(&epoch, &lock(&inner.history)) {
            return false;
        }
        let Some(write) = epoch.live.locks.take_write_for_vfs(Duration::ZERO) else {
            return false;
        };
        // READ(0) too: a transaction that has read the file alone would be told that somebody had
        // committed when it writes later.
        let slots = std::iter::once(CHECKPOINT).chain(READ_SLOTS);
        let Some(slots) = epoch.live.locks.take_for_vfs(slots) else {
            return false;
        };
        let slots_of_committed = std::iter::once(WRITE).chain(READ_SLOTS);
        let Some(slots_of_committed) = epoch.committed.locks.take_for_vfs(slots_of_committed)
        else {
            return false;
        };
        let mut history = lock(&inner.history);
        if !is_all_in_file(&epoch, &history) {
            return false;
        }
        let header = history.committed.restarted();
        let generation = history.generation() + 1;
        let frames = epoch.restart(&header, generation);
        history.restart(header, generation);
        drop(history);
        drop(slots_of_committed);
        drop(slots);
        drop(write);
        // Thousands of pages: nobody has to wait for that.
        drop(frames);
        true
    }

    /// Makes transactions that have not begun yet wait, in their first read, until the returned
    /// value is dropped or `limit` is over. Open ones go on and can end, so that
    /// [`restart`](Database::restart) gets its turn however many readers there are. The limit has
    /// to be short (milliseconds), and whoever parks must not begin a transaction on its own thread
    /// meanwhile: it would wait for itself.
    pub fn park(&self, limit: Duration) -> Parking {
        *lock(&self.inner.parked_until) = Some(Instant::now() + limit);
        self.inner.parked.store(true, Ordering::Release);
        Parking {
            database: self.inner.clone(),
        }
    }
}

/// Whether the file is the database. The live header is the last commit's while WRITE is held.
fn is_all_in_file(epoch: &Epoch, history: &History) -> bool {
    let frames = history.committed.max_frame();
    frames > 0
        && epoch.live.index.backfilled() == frames
        && history.captured == history.committed
        && history.oldest_pin().is_none()
        && !epoch.is_dead()
}

/// While this lives, and its limit is not over, no transaction begins. One at a time per database.
#[must_use]
pub struct Parking {
    database: Arc<DatabaseInner>,
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.database.parked.store(false, Ordering::Release);
        *lock(&self.database.parked_until) = None;
    }
}

impl fmt::Debug for Parking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Parking")
            .field("database", &self.database.name)
            .finish_non_exhaustive()
    }
}

impl DatabaseInner {
    /// Waits until transactions may begin.
    pub(crate) fn wait_while_parked(&self) {
        while self.parked.load(Ordering::Acquire) {
            let until = *lock(&self.parked_until);
            if until.is_none_or(|until| Instant::now() >= until) {
                return;
            }
            sleep(PARKED_SLEEP);
        }
    }
}

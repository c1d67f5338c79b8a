//! What a run looks at while it runs: when it has to pause, when it has to stop, and why.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corosensei::Yielder;
use ringlite_vfs::{DiskWait, Missing};
use rusqlite::{InterruptHandle, ffi};

use crate::error::Error;
use crate::replica::request::StopReason;

/// Hands the thread back to whoever resumed the run.
pub(super) type Pauser = Yielder<(), ()>;

/// By its place here a reason is stored; 0 is none.
const REASONS: [StopReason; 4] = [
    StopReason::Interrupted,
    StopReason::StatementTime,
    StopReason::TooManyLong,
    StopReason::SnapshotTooOld,
];

fn error_of(reason: StopReason, statement_time: Duration) -> Error {
    let interrupted = |message: String| Error::Sqlite {
        code: ffi::SQLITE_INTERRUPT,
        message,
    };
    match reason {
        StopReason::Interrupted => Error::interrupted(),
        StopReason::StatementTime => interrupted(format!(
            "the statement ran for longer than {} ms, the limit that --statement-time sets, and \
             was stopped",
            statement_time.as_millis()
        )),
        StopReason::TooManyLong => Error::Busy {
            what: "too many long statements run at once",
        },
        StopReason::SnapshotTooOld => Error::snapshot_too_old(),
    }
}

/// How long runs may take.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    /// After this long on the shard's core a run leaves it.
    pub core_time: Duration,
    /// How many steps of SQLite's machine lie between two looks at the clock; for connections that
    /// are opened from then on.
    pub look_steps: i32,
    /// After this long in all, waiting for a worker included, it is stopped; zero for no limit.
    pub statement_time: Duration,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            core_time: Duration::from_millis(1),
            // Some tens of microseconds.
            look_steps: 10_000,
            statement_time: Duration::from_secs(30),
        }
    }
}

/// Shared by a session, its SQLite connection's progress handler, the thread that runs it and the
/// shard.
pub(super) struct Watch {
    /// The other times are in nanoseconds from here.
    base: Instant,
    pauses_at: AtomicU64,
    stops_at: AtomicU64,
    statement_time_ns: AtomicU64,
    stop: AtomicU8,
    /// Of the coroutine that the run is in; null if it is in none, and then it does not pause.
    pauser: AtomicPtr<Pauser>,
    may_write: AtomicBool,
    writes: AtomicBool,
    /// Whether the run is away from the core.
    is_away: AtomicBool,
    /// Whether it has paused because it has to go on on the core.
    wants_core: AtomicBool,
    /// Whether it is in the middle of a commit in several databases.
    is_committing: AtomicBool,
    /// What it has paused for on the core, if it is for the disk.
    missing: Mutex<Option<Missing>>,
}

const NEVER: u64 = u64::MAX;

impl Watch {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            pauses_at: AtomicU64::new(NEVER),
            stops_at: AtomicU64::new(NEVER),
            statement_time_ns: AtomicU64::new(0),
            stop: AtomicU8::new(0),
            pauser: AtomicPtr::new(std::ptr::null_mut()),
            may_write: AtomicBool::new(false),
            writes: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            wants_core: AtomicBool::new(false),
            is_committing: AtomicBool::new(false),
            missing: Mutex::default(),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    /// A run begins. `may_write` says whether it may take the write lock, and `writes` whether its
    /// session has it already.
    pub(super) fn begin(&self, limits: &RunLimits, may_write: bool, writes: bool) {
        let now = self.now();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER);
        let limit = nanos(limits.statement_time);
        let stops_at = match limit {
            0 => NEVER,
            limit => now.saturating_add(limit),
        };
        self.statement_time_ns.store(limit, Ordering::Relaxed);
        self.stops_at.store(stops_at, Ordering::Relaxed);
        self.pauses_at.store(
            now.saturating_add(nanos(limits.core_time)),
            Ordering::Relaxed,
        );
        self.may_write.store(may_write, Ordering::Relaxed);
        self.writes.store(writes, Ordering::Relaxed);
        self.set_away(false);
    }

    /// Forgets why an earlier statement was stopped. Not between two batches of one: it may have been
    /// stopped just after the first was read, which SQLite tells with the next one.
    pub(super) fn forget_stop(&self) {
        self.stop.store(0, Ordering::Relaxed);
    }

    /// The run may pause from now on, by this pauser; or no longer.
    pub(super) fn set_pauser(&self, pauser: *mut Pauser) {
        self.pauser.store(pauser, Ordering::Relaxed);
    }

    /// The paused run goes on for this long before it pauses again.
    pub(super) fn begin_slice(&self, length: Duration) {
        let length = u64::try_from(length.as_nanos()).unwrap_or(NEVER);
        self.pauses_at
            .store(self.now().saturating_add(length), Ordering::Relaxed);
    }

    /// Stops the run at its next look here. The first reason given is the one that is told.
    pub(super) fn stop(&self, reason: StopReason) {
        let code = (1..).zip(REASONS).find(|(_, at)| *at == reason);
        let code = code.map_or(1, |(code, _)| code);
        let _ = self
            .stop
            .compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Looks at the clock, pauses if it is time to, and says whether the run has to stop.
    pub(super) fn must_stop(&self) -> bool {
        if self.is_committing.load(Ordering::Relaxed) {
            return false;
        }
        if self.stop.load(Ordering::Relaxed) != 0 {
            return true;
        }
        let now = self.now();
        if now >= self.pauses_at.load(Ordering::Relaxed) {
            self.pause();
        }
        if now >= self.stops_at.load(Ordering::Relaxed) {
            self.stop(StopReason::StatementTime);
        }
        self.stop.load(Ordering::Relaxed) != 0
    }

    /// Returns on the shard's core, wherever the run was until now; unless it was stopped meanwhile,
    /// then false.
    pub(super) fn go_to_core(&self) -> bool {
        if self.is_away.load(Ordering::Relaxed) {
            self.wants_core.store(true, Ordering::Relaxed);
            self.pause();
            return self.stop.load(Ordering::Relaxed) == 0;
        }
        true
    }

    /// Whether the run has paused because it has to go on on the core.
    pub(super) fn wants_core(&self) -> bool {
        self.wants_core.load(Ordering::Relaxed)
    }

    /// What the run has paused for, if it is for the disk; open for as long as it is paused.
    pub(super) fn missing(&self) -> Option<Missing> {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_missing(&self, missing: Option<Missing>) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// The run goes on away from the core from now on, or on it.
    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
        self.wants_core.store(false, Ordering::Relaxed);
    }

    /// A commit in several databases begins, or is over. In between the run neither pauses nor stops:
    /// others wait for its end where they are, on this core. SQLite also looks here when a COMMIT has
    /// just been carried out, before it says so.
    pub(super) fn set_committing(&self, is_committing: bool) {
        self.is_committing.store(is_committing, Ordering::Relaxed);
    }

    /// Returns whether it could.
    fn pause(&self) -> bool {
        let pauser = self.pauser.load(Ordering::Relaxed);
        if pauser.is_null() {
            return false;
        }
        // SAFETY: the coroutine's body sets the pointer to its own pauser and takes it back
        // before it ends, and whoever calls here runs inside that body. No thread-local of ours
        // and no lock is in use across the switch (see `Paused`).
        unsafe { &*pauser }.suspend(());
        true
    }

    /// What to tell of a run that was stopped; none if it was not.
    pub(super) fn stop_error(&self) -> Option<Error> {
        let code = usize::from(self.stop.load(Ordering::Relaxed));
        let reason = REASONS.get(code.checked_sub(1)?)?;
        let statement_time = self.statement_time_ns.load(Ordering::Relaxed);
        Some(error_of(*reason, Duration::from_nanos(statement_time)))
    }

    /// Whether the run may take the write lock.
    pub(super) fn may_write(&self) -> bool {
        self.may_write.load(Ordering::Relaxed)
    }

    /// From now on the run may not take the write lock.
    pub(super) fn forbid_writing(&self) {
        self.may_write.store(false, Ordering::Relaxed);
    }

    /// A statement that writes begins.
    pub(super) fn note_write(&self) {
        self.writes.store(true, Ordering::Relaxed);
    }

    /// The run leaves the core: from now on it may take the write lock only if it has begun to
    /// write. Returns whether it has.
    pub(super) fn leave(&self) -> bool {
        let writes = self.writes.load(Ordering::Relaxed);
        let may_write = writes && self.may_write();
        self.may_write.store(may_write, Ordering::Relaxed);
        self.set_away(true);
        writes
    }
}

/// A run on the core does not wait for the disk there: it pauses until it is told to go on.
impl DiskWait for Watch {
    fn before_wait(&self, missing: Missing) -> bool {
        if self.is_committing.load(Ordering::Relaxed) {
            return false;
        }
        self.set_missing(Some(missing));
        let has_paused = self.pause();
        self.set_missing(None);
        has_paused
    }
}

/// Stops a run from another thread.
pub(super) struct Stopper {
    pub(super) watch: Arc<Watch>,
    pub(super) interrupt: InterruptHandle,
}

impl Stopper {
    /// SQLite looks at its own flag more often than at the watch.
    pub(super) fn stop(&self, reason: StopReason) {
        self.watch.stop(reason);
        self.interrupt.interrupt();
    }
}

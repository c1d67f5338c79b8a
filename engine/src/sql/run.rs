//! A run as a coroutine: it begins on the shard's core, and can go on on another thread.

use std::sync::Arc;
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use ringlite_vfs::{Missing, with_disk_wait};

use super::joint::SessionDatabase;
use super::session::Session;
use super::watch::Stopper;
use crate::replica::request::{Outcome, RequestId, Standing, StopReason, Work};

/// As much as a thread has by default. It is mapped with a guard page below it, and takes memory
/// only where it was touched.
const STACK_BYTES: usize = 2 << 20;
/// Stacks kept for later runs.
const STACKS_KEPT: usize = 4;

type Body = Coroutine<(), (), Finished, DefaultStack>;

/// Stacks that no run uses.
#[derive(Default)]
pub(super) struct Stacks(Vec<DefaultStack>);

impl Stacks {
    fn take(&mut self) -> std::io::Result<DefaultStack> {
        match self.0.pop() {
            Some(stack) => Ok(stack),
            None => DefaultStack::new(STACK_BYTES),
        }
    }

    pub(super) fn put_back(&mut self, stack: DefaultStack) {
        if self.0.len() < STACKS_KEPT {
            self.0.push(stack);
        }
    }
}

/// The end of a run, with the session that it took along.
pub(super) struct Finished {
    pub(super) session: Box<Session>,
    pub(super) outcome: Outcome,
    pub(super) standing: Standing,
}

/// What has become of a run that was let go.
pub(super) enum Progress {
    Finished(Finished),
    Paused(Paused),
}

/// A run in the middle of a statement.
///
/// It never goes away without its end: to drop a coroutine would unwind through SQLite's frames.
/// Dropped, it is stopped and run to its end on the spot.
pub struct Paused {
    /// None only while it is being resumed or after its end.
    body: Option<Body>,
    /// Those that its session had when it began: it writes in no others.
    pub(super) stopper: Arc<Stopper>,
    pub(super) databases: Arc<[SessionDatabase]>,
    pub(super) request: RequestId,
    /// Which run of this shard it is: sessions' ids may come again.
    pub(super) run: u64,
    /// How often the core has had something read for it.
    pub(crate) fetches: u8,
}

// A paused run is the stack of a coroutine, and it moves as a unit:
// - the session is owned by the coroutine's body, and all shares of its `Rc` are inside the
//   session; the shard keeps only a `Stopper`, which is made for other threads;
// - its SQLite connection is open with `SQLITE_OPEN_NOMUTEX`, so that no mutex of the connection is
//   held where a hook is called, and SQLite's global mutexes are held only within calls of its
//   allocator, its page cache and its VFS, none of which call a hook;
// - it pauses only in `Watch::must_stop`, which is called from the progress handler and from the
//   loops of `Session` over rows and statements, in `Watch::go_to_core`, which is called from the
//   commit hook and between two statements, and in `Watch::before_wait`, which is called where the
//   VFS reads a database file. The frames below it are those of this module, `Session`,
//   `Statement`, rusqlite's wrappers of the two hooks, the VFS's read, and SQLite's virtual machine,
//   parser, code generator and pager (which holds none of its own mutexes while it reads a file):
//   none has the address of a thread-local at hand, and no panic is under way;
// - the file handles of the VFS are tied to one connection, not to a thread.
//
// SAFETY: so nothing on that stack, or reachable from it, is tied to a thread.
unsafe impl Send for Paused {}

impl Paused {
    /// Goes on for about `slice`, on the thread that calls.
    pub fn resume(mut self, slice: Duration) -> Resumed {
        self.stopper.watch.begin_slice(slice);
        let Some(mut body) = self.body.take() else {
            unreachable!("a paused run has its coroutine")
        };
        match body.resume(()) {
            CoroutineResult::Yield(()) => {
                self.body = Some(body);
                match self.stopper.watch.wants_core() {
                    true => Resumed::WantsCore(self),
                    false => Resumed::Paused(self),
                }
            }
            CoroutineResult::Return(finished) => Resumed::Returned(Returned {
                request: self.request,
                run: self.run,
                finished,
                stack: body.into_stack(),
            }),
        }
    }

    /// The same on the shard's core, where it does not wait for the disk either.
    pub(super) fn resume_on_core(self, slice: Duration) -> Resumed {
        let told = Arc::clone(&self.stopper.watch);
        with_disk_wait(told, || self.resume(slice))
    }

    /// What it has to have from the disk to go on; none if it has paused for something else.
    pub(crate) fn missing(&self) -> Option<Missing> {
        self.stopper.watch.missing()
    }

    /// The request that it answers.
    pub(crate) fn request(&self) -> RequestId {
        self.request
    }

    /// Has it stopped at once by its next look at the clock.
    pub fn stop(&self, reason: StopReason) {
        self.stopper.watch.stop(reason);
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Some(mut body) = self.body.take() {
            self.stopper.watch.stop(StopReason::Interrupted);
            while let CoroutineResult::Yield(()) = body.resume(()) {}
        }
    }
}

/// A paused run after a slice.
pub enum Resumed {
    /// It has not come to its end.
    Paused(Paused),
    /// It has to go on on the shard's core for a moment ([`super::Sql::visit`]).
    WantsCore(Paused),
    /// It has.
    Returned(Returned),
}

/// A run that has ended away from the shard's core, on its way back.
pub struct Returned {
    pub(super) request: RequestId,
    pub(super) run: u64,
    pub(super) finished: Finished,
    pub(super) stack: DefaultStack,
}

// SAFETY: a session between two runs moves as it does within one, see `Paused`; a stack is memory
// that its owner alone uses.
unsafe impl Send for Returned {}

/// Begins a run. It comes back at its end, when its time on the core is over, or when it has to wait
/// for the disk.
pub(super) fn begin(
    stacks: &mut Stacks,
    session: Box<Session>,
    work: Work,
    request: RequestId,
    run: u64,
) -> Progress {
    let stopper = Arc::clone(session.stopper());
    let databases = session.databases();
    // What ends statements is over in a moment, and does not go on elsewhere.
    let may_leave = !matches!(work, Work::Abort | Work::Finalize(_) | Work::Interrupt);
    let stack = match stacks.take() {
        Ok(stack) => stack,
        Err(error) => {
            // Without memory for a stack it runs to its end where it is.
            tracing::warn!("no stack for a statement can be mapped: {error}");
            return Progress::Finished(run_to_end(session, work));
        }
    };
    let mut body = Body::with_stack(stack, move |pauser: &Yielder<(), ()>, ()| {
        let stopper = Arc::clone(session.stopper());
        stopper
            .watch
            .set_pauser(std::ptr::from_ref(pauser).cast_mut());
        let finished = run_to_end(session, work);
        stopper.watch.set_pauser(std::ptr::null_mut());
        finished
    });
    let told = Arc::clone(&stopper.watch);
    let resumed = match may_leave {
        true => with_disk_wait(told, || body.resume(())),
        false => body.resume(()),
    };
    match resumed {
        CoroutineResult::Return(finished) => {
            stacks.put_back(body.into_stack());
            Progress::Finished(finished)
        }
        CoroutineResult::Yield(()) => Progress::Paused(Paused {
            body: Some(body),
            stopper,
            databases,
            request,
            run,
            fetches: 0,
        }),
    }
}

/// Runs without a pause, unless the session's watch has a pauser.
pub(super) fn run_to_end(mut session: Box<Session>, work: Work) -> Finished {
    let outcome = session.run(work);
    let standing = session.standing();
    Finished {
        session,
        outcome,
        standing,
    }
}

//! The threads on which long statements go on.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::CpuSet;

use super::run::{Paused, Resumed, Returned};
use crate::replica::request::StopReason;

/// After so long another paused run gets the thread, if one waits: no statement waits for the end
/// of another one.
const SLICE: Duration = Duration::from_millis(5);
/// Where a worker shares a core with some node's executor, the executor comes first.
const NICENESS: i32 = 10;

/// What comes back from a worker.
pub(crate) enum Back {
    /// A run that has ended.
    Returned(Returned),
    /// A run that has to go on on the shard's core for a moment.
    WantsCore(Paused),
    /// A run that panicked, which is a bug.
    Panicked,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Paused>,
    /// No thread waits for more.
    is_closed: bool,
}

struct Queue {
    jobs: Mutex<Jobs>,
    filled: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, paused: Paused) {
        self.lock().waiting.push_back(paused);
        self.filled.notify_one();
    }

    /// The next paused run, waited for; none once the queue is closed and empty.
    fn pop(&self) -> Option<Paused> {
        let mut jobs = self.lock();
        loop {
            if let Some(paused) = jobs.waiting.pop_front() {
                return Some(paused);
            }
            if jobs.is_closed {
                return None;
            }
            jobs = self
                .filled
                .wait(jobs)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Where workers may run.
#[derive(Clone)]
pub(crate) struct WorkerCores {
    allowed: CpuSet,
    count: usize,
}

impl WorkerCores {
    /// The `allowed` cores, those that a thread of this process has which is not pinned, without those of
    /// the shards, unless these are all. `None` if they cannot be told.
    pub(crate) fn beside(allowed: Option<CpuSet>, shards: &[usize]) -> Self {
        // A core that does not exist is refused when a shard is placed.
        let shards = shards.iter().filter(|core| **core < CpuSet::MAX_CPU);
        let mut allowed = allowed.unwrap_or_else(|| {
            let mut only = CpuSet::new();
            shards.clone().for_each(|core| only.set(*core));
            only
        });
        let mut beside = allowed;
        shards.for_each(|core| beside.unset(*core));
        if beside.count() > 0 {
            allowed = beside;
        }
        let count = usize::try_from(allowed.count()).unwrap_or(1).max(1);
        Self { allowed, count }
    }

    /// Moves this thread there: it has inherited the single core of the one that started it.
    pub(crate) fn settle(&self) {
        if let Err(error) = rustix::thread::sched_setaffinity(None, &self.allowed) {
            tracing::warn!("a thread stays on the shard's core: {error}");
        }
    }
}

/// A pool of threads that run paused runs to their end, a slice at a time. Dropping it waits for
/// all of them; the runs should have been stopped before.
pub(crate) struct Workers {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads; each run's end is told to `back`.
    pub(crate) fn start(cores: &WorkerCores, back: &flume::Sender<Back>) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            jobs: Mutex::default(),
            filled: Condvar::new(),
        });
        let mut threads = Vec::with_capacity(cores.count);
        for number in 1..=cores.count {
            let (queue, back, cores) = (Arc::clone(&queue), back.clone(), cores.clone());
            let thread = std::thread::Builder::new()
                .name(format!("ringlite-sql-{number}"))
                .spawn(move || {
                    cores.settle();
                    stand_back();
                    work(&queue, &back);
                })?;
            threads.push(thread);
        }
        Ok(Self { queue, threads })
    }

    /// Hands a run over.
    pub(crate) fn take_over(&self, paused: Paused) {
        self.queue.push(paused);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.filled.notify_all();
        for thread in self.threads.drain(..) {
            // It catches the panics of what it runs.
            let _ = thread.join();
        }
    }
}

fn stand_back() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::warn!("long statements have the priority of the shard: {error}");
    }
}

fn work(queue: &Queue, back: &flume::Sender<Back>) {
    while let Some(paused) = queue.pop() {
        if queue.lock().is_closed {
            paused.stop(StopReason::Interrupted);
        }
        let resumed = std::panic::catch_unwind(AssertUnwindSafe(|| paused.resume(SLICE)));
        let back_with = match resumed {
            Ok(Resumed::Paused(paused)) => {
                queue.push(paused);
                continue;
            }
            Ok(Resumed::WantsCore(paused)) => Back::WantsCore(paused),
            Ok(Resumed::Returned(returned)) => Back::Returned(returned),
            Err(_) => Back::Panicked,
        };
        // A shard that has stopped wants nothing back; the session ends here.
        drop(back.send(back_with));
    }
}

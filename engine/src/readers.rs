//! Readers in this process: reads at the levels `leader` and `local` run on the thread that asks,
//! over the in-memory WAL that they share with the shard. They see what is committed, and never wait
//! for the shard's core.
//!
//! The shard publishes at the end of its turns what a reader has to know: what is applied, whether
//! it leads, and when it last heard of a leader. How far each database is committed its connections
//! know by themselves (`ringlite_vfs::Database::show_committed`).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::replica::{DatabaseId, NodeAddress};
use crate::rows::{RowBatch, Value};
use crate::sql::RunLimits;
use crate::sql::reader::{ReadFailure, ReadStopper, Reader};
use crate::sql::workers::WorkerCores;

/// Connections of one database that are kept for later reads.
const READERS_KEPT: usize = 16;
/// A read whose connection was rolled back under it begins anew so often.
const ATTEMPTS: usize = 3;

/// How long a read may keep even a full WAL from being restarted.
const FULL_GRACE: Duration = Duration::from_secs(1);

/// How fresh the answer to a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadLevel {
    /// As if there were one SQLite that runs one transaction at a time: leadership is confirmed by
    /// a majority after the read was asked for.
    #[default]
    Linearizable,
    /// What is committed as far as this node knows, if it believes that it leads. While another
    /// leader was elected and this node has not heard of it, the answer may be old by about an
    /// election timeout.
    Leader,
    /// What this node has applied, whoever leads.
    Local {
        /// Not before this index of the log is applied ([`crate::replica::Status::commit`] after a
        /// write is one at which the write can be read); 0 for any.
        index_min: u64,
        /// Refused if this node has not heard of a leader for longer than this. A leader is heard
        /// of every 50 ms if nothing is written.
        staleness_max: Option<Duration>,
    },
}

impl ReadLevel {
    /// What this node has applied, however old.
    pub const LOCAL: Self = Self::Local {
        index_min: 0,
        staleness_max: None,
    };
}

impl ReadLevel {
    /// Its code on the wire, and its two numbers: the least index, and the bound on staleness in
    /// ms.
    pub(crate) fn to_wire(self) -> [u64; 3] {
        match self {
            Self::Linearizable => [0, 0, NO_BOUND],
            Self::Leader => [1, 0, NO_BOUND],
            Self::Local {
                index_min,
                staleness_max,
            } => [2, index_min, staleness_max.map_or(NO_BOUND, in_ms)],
        }
    }

    /// The level below `linearizable` with this code.
    pub(crate) fn of_wire([code, index_min, staleness_max_ms]: [u64; 3]) -> Option<Self> {
        let staleness_max =
            (staleness_max_ms != NO_BOUND).then(|| Duration::from_millis(staleness_max_ms));
        match code {
            1 => Some(Self::Leader),
            2 => Some(Self::Local {
                index_min,
                staleness_max,
            }),
            _ => None,
        }
    }
}

const NO_BOUND: u64 = u64::MAX;

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(NO_BOUND)
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads for those who ask and must not block. There are as many as reads run at once, up to a
/// bound, because a read may have to wait.
struct Threads {
    cores: WorkerCores,
    jobs: flume::Sender<Job>,
    waiting_jobs: flume::Receiver<Job>,
    idle: Arc<AtomicUsize>,
    count: AtomicUsize,
}

/// Threads for reads that others wait for.
const THREADS_MAX: usize = 32;
/// Reads that wait for a thread.
const JOBS_MAX: usize = 1_024;

impl Threads {
    fn new(cores: WorkerCores) -> Self {
        let (jobs, waiting_jobs) = flume::bounded(JOBS_MAX);
        Self {
            cores,
            jobs,
            waiting_jobs,
            idle: Arc::default(),
            count: AtomicUsize::new(0),
        }
    }

    fn run(&self, job: Job) -> Result<()> {
        if self.idle.load(Ordering::SeqCst) == 0 && self.count.load(Ordering::SeqCst) < THREADS_MAX
        {
            self.add();
        }
        self.jobs.try_send(job).map_err(|_| Error::Busy {
            what: "too many reads wait for a thread",
        })
    }

    fn add(&self) {
        let (jobs, cores) = (self.waiting_jobs.clone(), self.cores.clone());
        let idle = Arc::clone(&self.idle);
        let spawned = std::thread::Builder::new()
            .name("ringlite-read".into())
            .spawn(move || {
                cores.settle();
                loop {
                    idle.fetch_add(1, Ordering::SeqCst);
                    let job = jobs.recv();
                    idle.fetch_sub(1, Ordering::SeqCst);
                    match job {
                        Ok(job) => job(),
                        // The node is gone.
                        Err(_) => return,
                    }
                }
            });
        match spawned {
            Ok(_) => drop(self.count.fetch_add(1, Ordering::SeqCst)),
            Err(error) => tracing::warn!("a thread for reads cannot be started: {error}"),
        }
    }
}

/// One database as readers share it.
pub(crate) struct ReadDatabase {
    id: DatabaseId,
    handle: ringlite_vfs::Database,
    /// Whether a snapshot has taken its place: it has to be asked for again.
    is_replaced: AtomicBool,
    idle: Mutex<Vec<Reader>>,
    /// What is being read at this moment, by number.
    running: Mutex<RunningReads>,
}

#[derive(Default)]
struct RunningReads {
    numbered: u64,
    /// Since when, and how to end it.
    reads: BTreeMap<u64, (Instant, ReadStopper)>,
}

/// A read that can be ended from another thread as long as this lives.
struct Running<'a> {
    database: &'a ReadDatabase,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.database.running).reads.remove(&self.number);
    }
}

impl ReadDatabase {
    pub(crate) fn new(id: DatabaseId, handle: ringlite_vfs::Database) -> Self {
        Self {
            id,
            handle,
            is_replaced: AtomicBool::new(false),
            idle: Mutex::default(),
            running: Mutex::default(),
        }
    }

    fn begin(&self, reader: &Reader) -> Running<'_> {
        let mut running = lock(&self.running);
        running.numbered += 1;
        let number = running.numbered;
        let began = Instant::now();
        running.reads.insert(number, (began, reader.stopper()));
        Running {
            database: self,
            number,
        }
    }

    /// Whether a snapshot has taken its place.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    fn take_reader(&self) -> Result<Reader> {
        loop {
            let idle = lock(&self.idle).pop();
            match idle {
                Some(reader) if !reader.is_ended() => return Ok(reader),
                // It goes, and with it a share of a life of the WAL that is over.
                Some(_) => {}
                None => return Reader::connect(self.id, &self.handle),
            }
        }
    }

    fn put_back(&self, reader: Reader) {
        let mut idle = lock(&self.idle);
        if idle.len() < READERS_KEPT {
            idle.push(reader);
        }
    }
}

/// What a shard tells its readers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    pub(crate) applied: u64,
    pub(crate) serving: bool,
}

/// What the readers of a shard share.
pub(crate) struct Readers {
    base: Instant,
    applied: AtomicU64,
    serving: AtomicBool,
    /// When a leader was heard of last, in ns from `base`; 0 for never.
    contact: AtomicU64,
    leader: Mutex<Option<NodeAddress>>,
    databases: Mutex<HashMap<String, Arc<ReadDatabase>>>,
    stopped: AtomicBool,
    /// How many wait for something to be published.
    waiting: AtomicUsize,
    turn: Mutex<()>,
    published: Condvar,
    threads: Threads,
    limits: RunLimits,
    snapshot_time: Duration,
}

impl Readers {
    pub(crate) fn new(limits: RunLimits, snapshot_time: Duration, cores: WorkerCores) -> Self {
        Self {
            base: Instant::now(),
            applied: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            contact: AtomicU64::new(0),
            leader: Mutex::default(),
            databases: Mutex::default(),
            stopped: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            turn: Mutex::default(),
            published: Condvar::new(),
            threads: Threads::new(cores),
            limits,
            snapshot_time,
        }
    }

    /// A leader was heard of just now.
    pub(crate) fn heard_leader(&self) {
        let now = u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.contact.store(now.max(1), Ordering::Relaxed);
    }

    /// Publishes who leads.
    pub(crate) fn publish_leader(&self, leader: Option<NodeAddress>) {
        *lock(&self.leader) = leader;
    }

    /// Publishes where the shard stands. What is applied has been shown to the databases'
    /// read-only connections before.
    pub(crate) fn publish(&self, now: Published) {
        self.serving.store(now.serving, Ordering::Release);
        self.applied.store(now.applied, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // A waiter counts itself before it looks for the last time, so that either it sees what was
        // published or it is seen here.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.turn));
            self.published.notify_all();
        }
    }

    /// Nothing is read any more.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        lock(&self.databases).clear();
        self.wake();
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<ReadDatabase>> {
        lock(&self.databases).get(name).cloned()
    }

    pub(crate) fn insert(&self, name: &str, database: Arc<ReadDatabase>) {
        lock(&self.databases).insert(name.to_owned(), database);
    }

    /// Ends what has been read of a database for longer than [`FULL_GRACE`].
    pub(crate) fn end_reads(&self, id: DatabaseId) {
        for database in lock(&self.databases).values() {
            if database.id == id {
                for (began, stopper) in lock(&database.running).reads.values() {
                    if began.elapsed() >= FULL_GRACE {
                        stopper.end_snapshot();
                    }
                }
            }
        }
    }

    /// A database is gone, and its name may be given to another one.
    pub(crate) fn forget(&self, id: DatabaseId) {
        lock(&self.databases).retain(|_, database| database.id != id);
    }

    /// A snapshot has taken the place of all databases.
    pub(crate) fn replace_all(&self) {
        for (_, database) in lock(&self.databases).drain() {
            database.is_replaced.store(true, Ordering::Release);
        }
    }

    /// Who leads, as far as the shard knows.
    pub(crate) fn leader(&self) -> Option<NodeAddress> {
        lock(&self.leader).clone()
    }

    /// Whether the shard leads and serves.
    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Whether the shard has stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// How long a statement may run; zero for no limit.
    pub(crate) fn statement_time(&self) -> Duration {
        self.limits.statement_time
    }

    fn not_leader(&self) -> Error {
        Error::NotLeader {
            leader: self.leader(),
        }
    }

    /// Runs one statement that gives rows, on this thread.
    pub(crate) fn query(
        &self,
        level: ReadLevel,
        database: &ReadDatabase,
        sql: &str,
        parameters: &[Value],
        bytes_max: usize,
    ) -> Result<RowBatch> {
        let time = match self.limits.statement_time {
            Duration::ZERO => self.snapshot_time,
            time => time.min(self.snapshot_time),
        };
        let deadline = Instant::now() + time;
        self.admit(level, deadline)?;
        for _ in 0..ATTEMPTS {
            let mut reader = database.take_reader()?;
            let limits = RunLimits {
                statement_time: time,
                ..self.limits
            };
            let running = database.begin(&reader);
            let read = reader.query(sql, parameters, bytes_max, &limits);
            drop(running);
            match read {
                Ok(answer) => {
                    database.put_back(reader);
                    self.confirm(level)?;
                    return answer.map_err(|error| {
                        let is_late = Instant::now() >= deadline && time == self.snapshot_time;
                        match is_late {
                            true => Error::snapshot_too_old(),
                            false => error,
                        }
                    });
                }
                Err(ReadFailure::Writes) => return Err(self.refuse_write()),
                Err(ReadFailure::Connection(error)) => {
                    if !reader.is_ended() {
                        return Err(error);
                    }
                }
            }
        }
        Err(self.not_leader())
    }

    /// [`Readers::query`] on another thread.
    pub(crate) async fn query_async(
        self: &Arc<Self>,
        level: ReadLevel,
        database: Arc<ReadDatabase>,
        sql: String,
        parameters: Vec<Value>,
        bytes_max: usize,
    ) -> Result<RowBatch> {
        let (answer, answered) = flume::bounded(1);
        let readers = Arc::clone(self);
        self.threads.run(Box::new(move || {
            let read = readers.query(level, &database, &sql, &parameters, bytes_max);
            // Whoever asked may have gone away.
            drop(answer.send(read));
        }))?;
        answered.recv_async().await.map_err(|_| Error::Stopped)?
    }

    /// Whether a read at this level may begin; waits for what it asks to be applied.
    fn admit(&self, level: ReadLevel, deadline: Instant) -> Result<()> {
        match level {
            ReadLevel::Linearizable | ReadLevel::Leader => self.confirm(level),
            ReadLevel::Local {
                index_min,
                staleness_max,
            } => {
                if let Some(limit) = staleness_max
                    && !self.serving.load(Ordering::Acquire)
                {
                    self.check_contact(limit)?;
                }
                let is_applied =
                    || (self.applied.load(Ordering::Acquire) >= index_min).then_some(true);
                match self.wait_until(deadline, is_applied)? {
                    Some(_) => Ok(()),
                    None => Err(Error::Busy {
                        what: "this node has not applied the index that was asked for",
                    }),
                }
            }
        }
    }

    fn check_contact(&self, limit: Duration) -> Result<()> {
        let contact = self.contact.load(Ordering::Relaxed);
        let age = self
            .base
            .elapsed()
            .checked_sub(Duration::from_nanos(contact));
        match age {
            Some(age) if contact > 0 && age > limit => Err(Error::TooStale {
                age_ms: in_ms(age),
                limit_ms: in_ms(limit),
            }),
            _ if contact == 0 => Err(Error::TooStale {
                age_ms: u64::MAX,
                limit_ms: in_ms(limit),
            }),
            _ => Ok(()),
        }
    }

    /// Whether what was read may be told at this level.
    fn confirm(&self, level: ReadLevel) -> Result<()> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        match level {
            ReadLevel::Local { .. } => Ok(()),
            _ if self.serving.load(Ordering::Acquire) => Ok(()),
            _ => Err(self.not_leader()),
        }
    }

    /// Waits until `ready` says something, at most until `deadline`.
    fn wait_until(
        &self,
        deadline: Instant,
        ready: impl Fn() -> Option<bool>,
    ) -> Result<Option<bool>> {
        if let Some(ready) = ready() {
            return Ok(Some(ready));
        }
        let mut turn = lock(&self.turn);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let result = loop {
            if let Some(ready) = ready() {
                break Ok(Some(ready));
            }
            if self.stopped.load(Ordering::Acquire) {
                break Err(Error::Stopped);
            }
            let now = Instant::now();
            if now >= deadline {
                break Ok(None);
            }
            turn = self
                .published
                .wait_timeout(turn, deadline - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn refuse_write(&self) -> Error {
        if self.serving.load(Ordering::Acquire) {
            Error::misuse(
                rusqlite::ffi::SQLITE_READONLY,
                "a read at this level cannot write: use execute, or a transaction",
            )
        } else {
            self.not_leader()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

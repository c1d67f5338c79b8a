//! SQL on this node: the open databases, and the sessions' connections to them.
//!
//! SQLite is reached only through here and the VFS. A run begins on the shard's core ([`Sql::start`]);
//! one that is long leaves it with its whole session ([`Started::Left`]), goes on on another thread
//! (`workers`), and comes back ([`Sql::take_back`]). Everything else happens on the core.

mod authorizer;
mod functions;
mod joint;
mod limits;
mod mark;
mod pragmas;
pub(crate) mod reader;
mod restore;
mod run;
mod session;
mod statement;
mod watch;
pub(crate) mod workers;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringlite_raft::LogIndex;
use ringlite_vfs::{
    Backfill, Capture, CommitPoint, Database, PageNumber, PageSize, PastState, Vfs, VfsError,
    VfsOptions,
};
use xxhash_rust::xxh3::Xxh3;

use crate::error::Error;
use crate::replica::payload::{DatabaseChange, RestoreId};
use crate::replica::request::{
    Digest, Outcome, Ran, Reply, RequestId, SessionId, Standing, StopReason, Work,
};
use crate::replica::{DatabaseId, Input};
use crate::shards::ShardPlace;
use joint::SessionDatabase;
use restore::RestoreFile;
use run::{Finished, Progress, Stacks};
pub use run::{Paused, Resumed, Returned};
use session::Session;
pub use watch::RunLimits;
use watch::Stopper;

/// Runs that may be away from the core at once.
const AWAY_MAX: usize = 256;

/// What has become of a run.
pub enum Started {
    /// It has ended.
    Ran(Ran),
    /// It is long: it has to go on on another thread. `writes` says whether it has begun to write,
    /// and thus holds its database's write lock.
    Left {
        /// The run.
        paused: Paused,
        /// Whether it writes.
        writes: bool,
        /// What has been committed in its databases until now.
        captures: Vec<(DatabaseId, Capture)>,
    },
}

/// A session whose run goes on on another thread.
struct Away {
    databases: Arc<[SessionDatabase]>,
    run: u64,
    writes: bool,
    stopper: Arc<Stopper>,
}

/// How long a restart of a WAL waits for readers on other threads.
const RESTART_WAIT: Duration = Duration::from_millis(1);
/// How many bytes of pages a transaction may write.
pub const TRANSACTION_BYTES_DEFAULT: u64 = VfsOptions::TRANSACTION_BYTES_MAX_DEFAULT;
/// Reading pages of a past state looks at the clock each time it has read so many bytes.
const READ_BYTES_BETWEEN_CLOCKS: u32 = 64 << 10;

/// The databases of a shard and the sessions on them.
pub struct Sql {
    vfs: Vfs,
    directory: PathBuf,
    temporary_directory: PathBuf,
    databases: HashMap<DatabaseId, Database>,
    restores: HashMap<RestoreId, RestoreFile>,
    /// None while a session runs, here or away.
    sessions: HashMap<SessionId, Option<Box<Session>>>,
    /// In an order, so that captures come in the same one in each simulated run.
    away: BTreeMap<SessionId, Away>,
    runs: u64,
    /// How long the newest capture after a run has taken.
    capture_time: Duration,
    stacks: Stacks,
    limits: RunLimits,
    writable: bool,
    vacuum_directory: Option<Arc<Path>>,
    place: ShardPlace,
}

impl Sql {
    /// Keeps database files in `directory` and spilled temporary files in `temporary_directory`. A
    /// transaction may be [`TRANSACTION_BYTES_DEFAULT`] long.
    pub fn new(directory: PathBuf, temporary_directory: PathBuf) -> Result<Self, VfsError> {
        Self::with_options(VfsOptions::new(directory, temporary_directory))
    }

    /// As [`Sql::new`], with everything that can be chosen.
    pub fn with_options(options: VfsOptions) -> Result<Self, VfsError> {
        limits::bound_heap();
        let directory = options.directory.clone();
        let temporary_directory = options.temporary_directory.clone();
        let vfs = Vfs::register(options)?;
        restore::remove_leftovers(&temporary_directory)?;
        Ok(Self {
            vfs,
            directory,
            temporary_directory,
            databases: HashMap::new(),
            sessions: HashMap::new(),
            restores: HashMap::new(),
            away: BTreeMap::new(),
            runs: 0,
            capture_time: Duration::ZERO,
            stacks: Stacks::default(),
            limits: RunLimits::default(),
            writable: false,
            vacuum_directory: None,
            place: ShardPlace::LONE,
        })
    }

    /// Lets `VACUUM INTO` write files into `directory`, an absolute path.
    pub fn allow_vacuum_into(&mut self, directory: PathBuf) {
        self.vacuum_directory = Some(directory.into());
    }

    /// The databases are those of this shard: none of another one can be attached to them.
    pub fn set_place(&mut self, place: ShardPlace) {
        self.place = place;
    }

    /// Changes how long runs may take.
    pub fn set_limits(&mut self, limits: RunLimits) {
        self.limits = limits;
    }

    /// Runs SQL for a session to its end, on this thread.
    pub fn run(&mut self, request: RequestId, work: Work, may_write: bool) -> Ran {
        match self.prepare_run(request, work, may_write) {
            Ok((session, work)) => {
                let databases = session.databases();
                let finished = run::run_to_end(session, work);
                self.finish(request, finished, &databases)
            }
            Err(ran) => *ran,
        }
    }

    /// Runs SQL for a session until it ends or its time on the core is over.
    pub fn start(&mut self, request: RequestId, work: Work, may_write: bool) -> Started {
        let (session, work) = match self.prepare_run(request, work, may_write) {
            Ok(ready) => ready,
            Err(ran) => return Started::Ran(*ran),
        };
        self.runs += 1;
        let databases = session.databases();
        match run::begin(&mut self.stacks, session, work, request, self.runs) {
            Progress::Finished(finished) => {
                Started::Ran(self.finish(request, finished, &databases))
            }
            Progress::Paused(paused) if self.away.len() >= AWAY_MAX => {
                paused.stop(StopReason::TooManyLong);
                Started::Ran(self.end_here(paused))
            }
            Progress::Paused(paused) => self.leave(paused),
        }
    }

    /// The session's connection, ready to run; or how the run has ended already.
    fn prepare_run(
        &mut self,
        request: RequestId,
        work: Work,
        may_write: bool,
    ) -> Result<(Box<Session>, Work), Box<Ran>> {
        let ended = |outcome| {
            Box::new(Ran {
                request,
                outcome,
                standing: Standing::default(),
                captures: Vec::new(),
                ahead: Vec::new(),
            })
        };
        if let Work::Connect { database, options } = work {
            let connected = match self.databases.get(&database) {
                Some(handle) => Session::connect(
                    database,
                    handle,
                    options,
                    self.limits.look_steps,
                    self.vacuum_directory.clone(),
                    self.place,
                ),
                None => Err(Error::misuse(
                    rusqlite::ffi::SQLITE_NOTFOUND,
                    "the database does not exist any more",
                )),
            };
            return Err(ended(match connected {
                Ok(session) => {
                    self.sessions
                        .insert(request.session, Some(Box::new(session)));
                    Outcome::Reply(Reply::Opened)
                }
                Err(error) => Outcome::Failed(error),
            }));
        }
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return Err(ended(Outcome::Failed(Error::NoDatabaseOpened)));
        };
        let Some(session) = session.take() else {
            unreachable!("a session runs one request at a time")
        };
        let writes = session.has_write_lock();
        session
            .stopper()
            .watch
            .begin(&self.limits, may_write, writes);
        Ok((session, work))
    }

    /// Takes note of a run that leaves the core.
    fn leave(&mut self, paused: Paused) -> Started {
        let writes = paused.stopper.watch.leave();
        let captures = capture(paused.databases.iter());
        let away = Away {
            databases: Arc::clone(&paused.databases),
            run: paused.run,
            writes,
            stopper: Arc::clone(&paused.stopper),
        };
        self.away.insert(paused.request.session, away);
        Started::Left {
            paused,
            writes,
            captures,
        }
    }

    /// A run that is away goes on here: for the moment that it needs to ([`Resumed::WantsCore`]), or,
    /// if it was only waiting for the disk, for its time on the core. Then it is away again, unless
    /// it has ended. None if its session has ended meanwhile, and nobody waits.
    pub fn visit(&mut self, paused: Paused) -> Option<Started> {
        let away = self.away.get(&paused.request.session);
        if away.is_none_or(|away| away.run != paused.run) {
            // Dropped, it is stopped and rolls back.
            return None;
        }
        let slice = match paused.missing() {
            Some(_) => self.limits.core_time,
            None => Duration::ZERO,
        };
        paused.stopper.watch.set_away(false);
        match paused.resume_on_core(slice) {
            Resumed::Returned(returned) => self.take_back(returned).map(Started::Ran),
            Resumed::Paused(paused) | Resumed::WantsCore(paused) => Some(self.leave(paused)),
        }
    }

    /// Runs a stopped run to its end where it is.
    fn end_here(&mut self, mut paused: Paused) -> Ran {
        let databases = Arc::clone(&paused.databases);
        loop {
            match paused.resume(std::time::Duration::MAX) {
                Resumed::Paused(again) | Resumed::WantsCore(again) => paused = again,
                Resumed::Returned(returned) => {
                    self.stacks.put_back(returned.stack);
                    return self.finish(returned.request, returned.finished, &databases);
                }
            }
        }
    }

    /// A run that was away has ended. None if its session has ended meanwhile, and nobody waits.
    pub fn take_back(&mut self, returned: Returned) -> Option<Ran> {
        self.stacks.put_back(returned.stack);
        let session = returned.request.session;
        // The session's id may have been given to another one since.
        if self.away.get(&session)?.run != returned.run {
            return None;
        }
        let away = self.away.remove(&session)?;
        Some(self.finish(returned.request, returned.finished, &away.databases))
    }

    /// A run has ended, of a session that had `databases` when it began.
    fn finish(
        &mut self,
        request: RequestId,
        finished: Finished,
        databases: &[SessionDatabase],
    ) -> Ran {
        let Finished {
            session,
            outcome,
            standing,
        } = finished;
        // After the run, so that it holds everything that the run can have seen, whoever committed
        // it, but for what another thread is committing at this moment.
        let now = session.databases();
        let attached = now
            .iter()
            .filter(|at| databases.iter().all(|had| had.id != at.id));
        let begun = Instant::now();
        let captures = capture(databases.iter().chain(attached));
        self.capture_time = begun.elapsed();
        let mut ahead = Vec::new();
        if !self.away.is_empty() {
            let is_ahead = |at: &&SessionDatabase| {
                let seen = standing.snapshots.get(at.id);
                seen.is_some_and(|seen| seen > at.database.commit_point().position)
            };
            ahead.extend(now.iter().filter(is_ahead).map(|at| at.id));
        }
        if let Some(place) = self.sessions.get_mut(&request.session) {
            *place = Some(session);
        }
        Ran {
            request,
            outcome,
            standing,
            captures,
            ahead,
        }
    }

    /// How long it took to capture what the newest run that has ended has committed.
    pub fn capture_time(&self) -> Duration {
        self.capture_time
    }

    /// What runs that are away have committed since the last look.
    pub fn take_captures(&self) -> Vec<(DatabaseId, Capture)> {
        let writers = self.away.values().filter(|away| away.writes);
        capture(writers.flat_map(|away| away.databases.iter()))
    }

    /// Stops what a session runs away from the core. What runs on it has ended by now.
    pub fn stop(&self, session: SessionId, reason: StopReason) {
        if let Some(away) = self.away.get(&session) {
            away.stopper.stop(reason);
        }
    }

    /// Stops all that runs away from the core.
    pub fn stop_all(&self) {
        for away in self.away.values() {
            away.stopper.stop(StopReason::Interrupted);
        }
    }

    /// Drops a session's connection, which rolls its transaction back. If it is away, its run is
    /// stopped, and the connection is dropped when it comes back.
    pub fn close_session(&mut self, session: SessionId) {
        self.stop(session, StopReason::Interrupted);
        self.away.remove(&session);
        self.sessions.remove(&session);
    }

    /// Whether SQL may write in any database.
    pub fn set_writable(&mut self, writable: bool) {
        self.writable = writable;
        for database in self.databases.values() {
            database.set_writable(writable);
        }
    }

    /// Creates a database's file and opens it.
    pub fn create_database(
        &mut self,
        id: DatabaseId,
        name: &str,
        page_size: PageSize,
    ) -> Result<Input, VfsError> {
        // A file of that name is of an earlier life, and the log has all that became of it.
        self.vfs.remove(name)?;
        let page_one = ringlite_vfs::first_page(page_size);
        ringlite_vfs::create_marked_database_file(&self.directory, name, &page_one, |file| {
            mark::set(file, id)
        })?;
        let database = self.vfs.open(name)?;
        Ok(self.opened(id, database))
    }

    /// Opens a database of an earlier life. Its file may lack what the log still has, up to being
    /// no database; `None` if there is none, because an entry of the log has removed it, or if it is
    /// already that of a later database of the same name.
    pub fn open_database(
        &mut self,
        id: DatabaseId,
        name: &str,
        page_size: PageSize,
    ) -> Result<Option<Input>, VfsError> {
        let path = self.directory.join(name);
        let is_of_another = mark::is_of_another(&path, id).map_err(|source| VfsError::Io {
            operation: "examine",
            path,
            source,
        })?;
        if is_of_another {
            tracing::warn!("the file of database {name:?} is already that of its successor");
            return Ok(None);
        }
        match self.vfs.reopen(name, page_size) {
            Ok(database) => Ok(Some(self.opened(id, database))),
            Err(VfsError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                tracing::warn!("the file of database {name:?} is gone");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn opened(&mut self, id: DatabaseId, database: Database) -> Input {
        database.set_label(id.0.0);
        database.set_writable(self.writable);
        let opened = Input::Opened {
            database: id,
            page_size: database.page_size(),
            commit_point: database.commit_point(),
        };
        self.databases.insert(id, database);
        opened
    }

    /// Begins to move pages of a database into its file, as far as readers let it; returns the
    /// entry that the file will then have reached.
    pub fn begin_backfill(
        &self,
        id: DatabaseId,
        ends: &[(LogIndex, CommitPoint)],
    ) -> Result<Option<(LogIndex, Backfill)>, VfsError> {
        let Some(database) = self.databases.get(&id) else {
            return Ok(None);
        };
        let points: Vec<CommitPoint> = ends.iter().map(|(_, point)| *point).collect();
        let backfill = database.begin_backfill(&points)?;
        Ok(backfill.and_then(|backfill| {
            let reached = ends.iter().find(|(_, point)| point == backfill.end())?;
            Some((reached.0, backfill))
        }))
    }

    /// Moves what the file of a database still lacks into it, and begins its WAL anew. Returns the
    /// newest entry that was written, and the state of the new WAL, if readers allowed each.
    pub fn restart_wal(
        &self,
        id: DatabaseId,
        ends: &[(LogIndex, CommitPoint)],
    ) -> Result<(Option<LogIndex>, Option<CommitPoint>), VfsError> {
        let mut end = None;
        if let Some((reached, mut backfill)) = self.begin_backfill(id, ends)? {
            while backfill.write_slice(usize::MAX)? {}
            backfill.publish();
            end = Some(reached);
        }
        let Some(database) = self.databases.get(&id) else {
            return Ok((end, None));
        };
        // Readers of other threads finish what they are at, and begin nothing new.
        let _parking = database.park(RESTART_WAIT);
        let deadline = Instant::now() + RESTART_WAIT;
        let mut restarted = database.restart();
        while !restarted && Instant::now() < deadline {
            std::thread::yield_now();
            restarted = database.restart();
        }
        Ok((end, restarted.then(|| database.commit_point())))
    }

    /// Closes a database, on which there are no sessions any more, and removes its file. Durable on
    /// return. Nothing happens if it does not exist.
    pub fn remove_database(&mut self, id: DatabaseId) -> Result<(), VfsError> {
        match self.databases.remove(&id) {
            Some(database) => self.vfs.remove(database.name()),
            None => Ok(()),
        }
    }

    /// Closes all databases, on which there are no sessions, and removes their files.
    pub fn remove_databases(&mut self) -> Result<(), VfsError> {
        let databases = std::mem::take(&mut self.databases);
        databases
            .values()
            .try_for_each(|database| self.vfs.remove(database.name()))
    }

    /// Opens the file of a database whose name has `suffix` behind that of the database, for reading
    /// its bytes as they are; `None` if the database does not exist (any more).
    pub fn open_file(&self, id: DatabaseId, suffix: &str) -> std::io::Result<Option<File>> {
        let Some(database) = self.databases.get(&id) else {
            return Ok(None);
        };
        let name = format!("{}{suffix}", database.name());
        File::open(self.directory.join(name)).map(Some)
    }

    /// Makes room for a file that will become a database.
    pub fn begin_restore(&mut self, restore: RestoreId) -> Result<(), VfsError> {
        let file = RestoreFile::create(&self.temporary_directory, restore)?;
        self.restores.insert(restore, file);
        Ok(())
    }

    /// Appends to the file of a restore.
    pub fn write_restore(&self, restore: RestoreId, bytes: Bytes) {
        if let Some(file) = self.restores.get(&restore) {
            file.write(bytes);
        }
    }

    /// Whether pieces of files that are being restored are on the way to the disk.
    pub fn has_queued_pieces(&self) -> bool {
        self.restores.values().any(RestoreFile::has_queued)
    }

    /// Makes the file of a restore the file of a new database, durably, and opens it; `None` if
    /// there is no such restore.
    pub fn finish_restore(
        &mut self,
        restore: RestoreId,
        id: DatabaseId,
        name: &str,
    ) -> Result<Option<Input>, VfsError> {
        let Some(file) = self.restores.remove(&restore) else {
            return Ok(None);
        };
        file.finish(&self.directory, name, id)?;
        let database = self.vfs.open(name)?;
        Ok(Some(self.opened(id, database)))
    }

    /// Forgets the file of a restore.
    pub fn discard_restore(&mut self, restore: RestoreId) {
        self.restores.remove(&restore);
    }

    /// The databases of which a damaged page was met since the last call.
    pub fn take_damaged(&self) -> Vec<DatabaseId> {
        let damaged = self.vfs.take_damaged().into_iter();
        damaged.map(|label| DatabaseId(LogIndex(label))).collect()
    }

    /// The size of a database's pages.
    pub fn page_size(&self, id: DatabaseId) -> Option<PageSize> {
        self.databases.get(&id).map(Database::page_size)
    }

    /// Finds where each page of a database was as of `at`.
    pub fn past_state(&self, id: DatabaseId, at: &CommitPoint) -> Result<PastState, Error> {
        let database = self.database(id)?;
        database.past_state(at).map_err(|error| cannot_read(&error))
    }

    /// Appends the pages from `first` on of a past state to `into`, as many as can be had within
    /// `time` and about `bytes_max` bytes, but at least one, and returns the number of the page
    /// after them.
    pub fn read_past_state(
        &self,
        id: DatabaseId,
        past: &PastState,
        first: u32,
        (time, bytes_max): (Duration, usize),
        into: &mut Vec<u8>,
    ) -> Result<u32, Error> {
        let database = self.database(id)?;
        let started = Instant::now();
        let step = (READ_BYTES_BETWEEN_CLOCKS / database.page_size().bytes()).max(1);
        let mut next = first;
        loop {
            let before = next;
            database
                .read_page_range_at(
                    past,
                    next..next.saturating_add(step),
                    &mut |number, page| {
                        into.extend_from_slice(page);
                        next = number.0 + 1;
                    },
                )
                .map_err(|error| cannot_read(&error))?;
            if next == before || started.elapsed() >= time || into.len() >= bytes_max {
                return Ok(next);
            }
        }
    }

    /// The handle of a database.
    pub(crate) fn database(&self, id: DatabaseId) -> Result<&Database, Error> {
        self.databases.get(&id).ok_or_else(|| {
            Error::misuse(
                rusqlite::ffi::SQLITE_NOTFOUND,
                "the database does not exist any more",
            )
        })
    }

    /// Applies committed pages; `None` if the database does not exist (any more).
    pub fn apply(&self, change: &DatabaseChange) -> Result<Option<CommitPoint>, VfsError> {
        self.databases
            .get(&change.database)
            .map(|database| database.apply(&change.pages, change.page_count))
            .transpose()
    }

    /// Lets readers on other threads see what is committed, up to `to`.
    pub fn show_committed(&self, id: DatabaseId, to: &CommitPoint) -> Result<(), VfsError> {
        match self.databases.get(&id) {
            Some(database) => database.show_committed(to),
            // Its end is committed too.
            None => Ok(()),
        }
    }

    /// Undoes what came after `to`; returns the same state in the new life of the in-memory WAL, or
    /// `None` if the database does not exist (any more).
    ///
    /// It waits for nobody: runs that are away go on in the old life, where they can neither commit
    /// nor be captured, until they see that they are to stop.
    pub fn roll_back(
        &self,
        id: DatabaseId,
        to: &CommitPoint,
    ) -> Result<Option<CommitPoint>, VfsError> {
        let Some(database) = self.databases.get(&id) else {
            return Ok(None);
        };
        database.roll_back(to)?;
        Ok(Some(database.commit_point()))
    }

    /// How often SQLite asked for recovery of an in-memory WAL; more than 0 is a defect.
    pub fn recovery_requests(&self) -> u64 {
        let databases = self.databases.values();
        databases.map(Database::recovery_requests).sum()
    }

    /// Pins the pages of a database as of `at`, to be hashed on any thread.
    pub fn begin_digest(
        &self,
        id: DatabaseId,
        at: &CommitPoint,
        applied: LogIndex,
    ) -> Result<PinnedPages, Error> {
        Ok(PinnedPages {
            database: self.database(id)?.clone(),
            past: self.past_state(id, at)?,
            applied,
        })
    }
}

/// What has been committed in each of these databases and not captured yet.
fn capture<'a>(databases: impl Iterator<Item = &'a SessionDatabase>) -> Vec<(DatabaseId, Capture)> {
    let captures = databases.filter_map(|at| Some((at.id, at.database.take_capture()?)));
    captures.collect()
}

/// The pages of a database as of one commit.
pub struct PinnedPages {
    database: Database,
    past: PastState,
    applied: LogIndex,
}

impl PinnedPages {
    /// The applied index that they are of.
    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Reads and hashes them all, which takes its time.
    pub fn digest(&self) -> Result<Digest, Error> {
        let mut hash = Xxh3::new();
        let mut page_count = 0;
        self.database
            .read_page_range_at(&self.past, 1..u32::MAX, &mut |_, page| {
                page_count += 1;
                hash.update(page);
            })
            .map_err(|error| cannot_read(&error))?;
        Ok(Digest {
            applied: self.applied,
            page_count,
            page_size: self.database.page_size().bytes(),
            digest: format!("{:032x}", hash.digest128()),
        })
    }

    /// Reads some of them. Those that there are not, or that are damaged here, are left out.
    pub(crate) fn read(&self, numbers: &[PageNumber]) -> Result<Vec<(PageNumber, Bytes)>, Error> {
        let mut pages = Vec::with_capacity(numbers.len());
        for number in numbers {
            let only = number.0..number.0.saturating_add(1);
            let read = self
                .database
                .read_page_range_at(&self.past, only, &mut |number, page| {
                    pages.push((number, Bytes::copy_from_slice(page)));
                });
            match read {
                Ok(()) | Err(VfsError::DamagedPage { .. }) => {}
                Err(error) => return Err(cannot_read(&error)),
            }
        }
        Ok(pages)
    }
}

fn cannot_read(error: &VfsError) -> Error {
    Error::misuse(rusqlite::ffi::SQLITE_IOERR, error.to_string())
}

/// Removes the files in `directory` whose name is one of those that are meant.
fn remove_files(directory: &Path, is_meant: impl Fn(&str) -> bool) -> Result<(), VfsError> {
    let failed = |source| VfsError::Io {
        operation: "list",
        path: directory.to_owned(),
        source,
    };
    for file in std::fs::read_dir(directory).map_err(failed)? {
        let file = file.map_err(failed)?;
        if file.file_name().to_str().is_some_and(&is_meant) {
            remove_file(&file.path())?;
        }
    }
    Ok(())
}

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> Result<(), VfsError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(VfsError::Io {
            operation: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> Result<(), VfsError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| VfsError::Io {
            operation: "sync",
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests;

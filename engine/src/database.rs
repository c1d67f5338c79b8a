//! The Rust face of a database: calls from any thread, blocking or not.

mod session;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crate::backup::BackupHead;
use crate::commands::{BackupPiece, Command, Commands};
use crate::error::{Error, Result};
use crate::forward::{Forwarded, IfLost, Interrupter, LEADER_TIMEOUT, at_leader};
use crate::parameters::Parameters;
use crate::readers::{ReadDatabase, ReadLevel, Readers};
use crate::replica::request::{Executed, Reply, Request, RowLimit, SessionId, Source, Work};
use crate::rows::{RowBatch, Rows, Value};
use crate::whole_file::WholeFile;
use session::{Answer, Next, Session, if_lost, may_begin, mentions};

/// A single result may be this large; in a transaction it has no bound but memory.
const RESULT_BYTES_MAX: usize = 64 << 20;
const ROW_BATCH_BYTES: usize = 256 << 10;
/// Pieces of a backup between the shard and the thread that writes them.
const PIECES_IN_FLIGHT: usize = 2;

/// Stops what a [`Database`] or a [`Transaction`] runs, from any thread.
#[derive(Clone)]
pub struct InterruptHandle {
    commands: Commands,
    session: SessionId,
    interrupter: Arc<Interrupter>,
}

impl InterruptHandle {
    /// Stops the statement that runs, or waits for its turn to write, at this moment: it fails with
    /// SQLite's code `SQLITE_INTERRUPT`. Does nothing if there is none.
    pub fn interrupt(&self) {
        self.interrupter.interrupt();
        // A node that has stopped runs nothing.
        drop(self.commands.send(Command::Interrupt(self.session)));
    }
}

fn execute_request(sql: &str, parameters: impl Parameters) -> Request {
    Request::Sql(Work::Execute(Source::text(sql, parameters.into_values())))
}

fn query_request(sql: &str, parameters: impl Parameters, limit: RowLimit) -> Request {
    query_values(sql, parameters.into_values(), limit)
}

fn query_values(sql: &str, parameters: Vec<Value>, limit: RowLimit) -> Request {
    Request::Sql(Work::Query {
        source: Source::text(sql, parameters),
        limit,
    })
}

fn executed(reply: Reply) -> Result<Executed> {
    match reply {
        Reply::Executed(executed) => Ok(executed),
        other => Err(unexpected(&other)),
    }
}

fn batch(reply: Reply) -> Result<RowBatch> {
    match reply {
        Reply::Rows(batch) => Ok(batch),
        other => Err(unexpected(&other)),
    }
}

fn rows(reply: Reply) -> Result<Rows> {
    batch(reply).map(|batch| Rows::new(batch.columns, batch.rows))
}

/// The statement that attaches a database under its own name.
fn attach(name: &str) -> String {
    let quoted = name.replace('"', "\"\"");
    format!("ATTACH \"{quoted}\" AS \"{quoted}\"")
}

fn unexpected(reply: &Reply) -> Error {
    Error::misuse(
        rusqlite::ffi::SQLITE_INTERNAL,
        format!("an answer of another kind came back: {reply:?}"),
    )
}

/// A database of this process's node. Clones are cheap and may be used from any thread at once. They
/// share a session: a statement that takes long holds up the others on it, but not those of another
/// handle from [`Node::database`](crate::Node::database).
///
/// Each call returns when what it did is on stable storage of a majority, or, for a read, when
/// the leader was confirmed to be the leader after the call began.
///
/// On a node that does not lead, calls go to the leader over the network, and are held for up to 10 s
/// while there is none. A handle has one session there, as here: when leadership moves, its next call
/// opens another one, and a transaction that it had begun with `BEGIN` is rolled back, which one call is
/// told by [`Error::NotLeader`] or [`Error::OutcomeUnknown`]. What the leader says comes as [`Error::Sqlite`] with its code and text,
/// except for [`Error::NotLeader`], [`Error::OutcomeUnknown`], an interrupt, and a result that is too
/// large. A text with a NUL cannot be sent.
#[derive(Clone)]
pub struct Database {
    session: Arc<Session>,
    sessions: Arc<AtomicU64>,
    readers: Arc<Readers>,
    /// For reads on the caller's thread, once there was one.
    read: Arc<OnceLock<Arc<ReadDatabase>>>,
    /// The same, once a snapshot has taken the place of that one.
    read_anew: Arc<Mutex<Option<Arc<ReadDatabase>>>>,
}

impl Database {
    pub(crate) fn new(
        commands: Commands,
        sessions: Arc<AtomicU64>,
        id: SessionId,
        name: &str,
        readers: Arc<Readers>,
    ) -> Self {
        Self {
            session: Arc::new(Session::new(commands, id, name, Arc::clone(&readers))),
            sessions,
            readers,
            read: Arc::default(),
            read_anew: Arc::default(),
        }
    }

    /// Opens the database at the leader, and creates it if there is none. One that this node has a copy
    /// of needs no leader to be there for that.
    pub(crate) fn open(&self) -> Result<()> {
        let open = self.session.open_request(true);
        let opened = self.session.call_once(open, || IfLost::NothingDone)?;
        match self.session.judge(opened, false)? {
            Next::Ask if self.read_database().is_err() => self.session.open(true),
            _ => Ok(()),
        }
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.session.database
    }

    /// Stops what this handle and its clones run.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        self.session.interrupt_handle()
    }

    /// Runs statements that give no rows; each is a transaction of its own.
    ///
    /// # Errors
    /// Those of SQLite; [`Error::NotLeader`] if no leader is found in time, after which nothing was
    /// committed; and [`Error::OutcomeUnknown`], if leadership or the connection to the leader was lost,
    /// after which the statement may or may not be committed.
    pub fn execute(&self, sql: &str, parameters: impl Parameters) -> Result<Executed> {
        self.call(&execute_request(sql, parameters))
            .and_then(executed)
    }

    /// [`Database::execute`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn execute_async(&self, sql: &str, parameters: impl Parameters) -> Result<Executed> {
        let request = execute_request(sql, parameters);
        self.call_async(&request).await.and_then(executed)
    }

    /// Runs one statement and gives its rows, at most 64 MiB of them.
    ///
    /// # Errors
    /// Those of [`Database::execute`], and [`Error::Busy`] for a larger result.
    pub fn query(&self, sql: &str, parameters: impl Parameters) -> Result<Rows> {
        self.call(&query_request(sql, parameters, WHOLE))
            .and_then(rows)
    }

    /// [`Database::query`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn query_async(&self, sql: &str, parameters: impl Parameters) -> Result<Rows> {
        let request = query_request(sql, parameters, WHOLE);
        self.call_async(&request).await.and_then(rows)
    }

    /// Runs one statement and gives its rows as fresh as `level` asks, at most 64 MiB of them.
    ///
    /// At the levels `leader` and `local` it runs on the thread that calls, beside the node's own
    /// core and beside other such reads, for as long as a snapshot may be held. On a node that does not
    /// lead, a read at the level `leader` is a linearizable one at the leader.
    ///
    /// # Errors
    /// Those of [`Database::query`]. For a statement that writes [`Error::NotLeader`] on a node
    /// that does not lead; [`Error::Busy`] if the asked index is not applied in time, and
    /// [`Error::TooStale`] if no leader was heard of for too long.
    pub fn query_with(
        &self,
        level: ReadLevel,
        sql: &str,
        parameters: impl Parameters,
    ) -> Result<Rows> {
        if level == ReadLevel::Linearizable {
            return self.query(sql, parameters);
        }
        let parameters = parameters.into_values();
        if self.is_leaders(level) {
            let request = query_values(sql, parameters, WHOLE);
            return self.call(&request).and_then(rows);
        }
        let database = self.read_database()?;
        self.readers
            .query(level, &database, sql, &parameters, RESULT_BYTES_MAX)
            .map(|batch| Rows::new(batch.columns, batch.rows))
    }

    /// Whether a read at this level is for another node.
    fn is_leaders(&self, level: ReadLevel) -> bool {
        level == ReadLevel::Leader && !self.readers.is_serving()
    }

    /// [`Database::query_with`], without blocking the thread: at the levels `leader` and `local` the
    /// read runs on a thread of the node's.
    ///
    /// # Errors
    /// The same, and [`Error::Busy`] if too many such reads wait.
    pub async fn query_with_async(
        &self,
        level: ReadLevel,
        sql: &str,
        parameters: impl Parameters,
    ) -> Result<Rows> {
        if level == ReadLevel::Linearizable {
            return self.query_async(sql, parameters).await;
        }
        let parameters = parameters.into_values();
        if self.is_leaders(level) {
            let request = query_values(sql, parameters, WHOLE);
            return self.call_async(&request).await.and_then(rows);
        }
        let database = self.read_database()?;
        let sql = sql.to_owned();
        self.readers
            .query_async(level, database, sql, parameters, RESULT_BYTES_MAX)
            .await
            .map(|batch| Rows::new(batch.columns, batch.rows))
    }

    pub(crate) fn read_database(&self) -> Result<Arc<ReadDatabase>> {
        if let Some(known) = self.read.get()
            && !known.is_replaced()
        {
            return Ok(Arc::clone(known));
        }
        let mut anew = self
            .read_anew
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*anew
            && !known.is_replaced()
        {
            return Ok(Arc::clone(known));
        }
        let (reply, receiver) = flume::bounded(1);
        let name = self.session.database.clone();
        self.session
            .commands
            .send(Command::Read { name, reply })
            .map_err(|_| Error::Stopped)?;
        let database = receiver.recv().map_err(|_| Error::Stopped)??;
        if self.read.set(Arc::clone(&database)).is_err() {
            *anew = Some(Arc::clone(&database));
        }
        Ok(database)
    }

    /// Begins a transaction, waiting for its turn to write. Dropping it rolls it back.
    ///
    /// # Errors
    /// Those of [`Database::execute`].
    pub fn transaction(&self) -> Result<Transaction> {
        self.transaction_over(&[])
    }

    /// Begins a transaction over this database and `others`, which commits in all of them or in none.
    /// SQL calls each of the others by its name, as in `INSERT INTO other.t`, and this one `main`.
    ///
    /// # Errors
    /// Those of [`Database::execute`], and if one of the others does not exist.
    pub fn transaction_over(&self, others: &[&str]) -> Result<Transaction> {
        let deadline = Instant::now() + LEADER_TIMEOUT;
        let begin = |transaction: &Transaction| {
            transaction.session.open(false)?;
            transaction.pin();
            for other in others {
                transaction.execute(&attach(other), ())?;
            }
            transaction.execute("BEGIN IMMEDIATE", ())
        };
        loop {
            let transaction = self.new_transaction();
            match begin(&transaction) {
                Ok(_) => return Ok(transaction),
                // It has done nothing yet.
                Err(Error::NotLeader { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// [`Database::transaction`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn transaction_async(&self) -> Result<Transaction> {
        self.transaction_over_async(&[]).await
    }

    /// [`Database::transaction_over`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn transaction_over_async(&self, others: &[&str]) -> Result<Transaction> {
        let deadline = Instant::now() + LEADER_TIMEOUT;
        loop {
            let transaction = self.new_transaction();
            match transaction.begin_async(others).await {
                Ok(()) => return Ok(transaction),
                // It has done nothing yet.
                Err(Error::NotLeader { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn new_transaction(&self) -> Transaction {
        Transaction {
            session: Session::new(
                self.session.commands.clone(),
                SessionId(self.sessions.fetch_add(1, Ordering::Relaxed)),
                &self.session.database,
                Arc::clone(&self.readers),
            ),
            may_have_ended: AtomicBool::new(false),
        }
    }

    /// Writes a copy of the database to `path`, while others go on writing: the state at one applied
    /// index, which has everything that was committed before the call, as a SQLite file. The file
    /// is written to `PATH.partial` and appears as a whole; one that is there is replaced.
    ///
    /// # Errors
    /// [`Error::NotLeader`] if no leader is found in time, and if the file cannot be written.
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<BackupHead> {
        let path = path.as_ref();
        match self.back_up_here(path) {
            Err(Error::NotLeader { .. }) => {
                at_leader(&self.readers, IfLost::NothingDone, |leader| {
                    leader.backup(&self.session.database, false, path, |_, _| {})
                })
            }
            result => result,
        }
    }

    fn back_up_here(&self, path: &Path) -> Result<BackupHead> {
        let failed = |error: std::io::Error| {
            Error::misuse(
                rusqlite::ffi::SQLITE_IOERR,
                format!("cannot write {}: {error}", path.display()),
            )
        };
        let (pieces, arriving) = flume::bounded(PIECES_IN_FLIGHT);
        let asked = self.session.commands.send(Command::Backup {
            database: self.session.database.clone(),
            pieces,
        });
        asked.map_err(|_| Error::Stopped)?;
        let next = || arriving.recv().map_err(|_| Error::Stopped)?;
        let BackupPiece::Head(head) = next()? else {
            return Err(Error::Stopped);
        };
        let mut file = WholeFile::create(path).map_err(failed)?;
        let mut left = head.bytes();
        while left > 0 {
            if let BackupPiece::Pages(bytes) = next()? {
                file.write(&bytes).map_err(failed)?;
                left = left.saturating_sub(bytes.len() as u64);
            }
        }
        file.finish().map_err(failed)?;
        Ok(head)
    }

    /// Calls where the leader is, and opens the database again if the session is another one than
    /// before. It is not created again should it have been dropped.
    fn call(&self, request: &Request) -> Result<Reply> {
        let session = &self.session;
        let begins = may_begin(request);
        loop {
            let answer = session.call_once(request.clone(), || if_lost(request))?;
            match session.judge(answer, begins)? {
                Next::Done(reply) => return Ok(reply),
                Next::Ask => {}
                Next::Open => session.open(false)?,
            }
        }
    }

    async fn call_async(&self, request: &Request) -> Result<Reply> {
        let session = &self.session;
        let begins = may_begin(request);
        loop {
            let answer = session.call_once_async(request.clone(), || if_lost(request));
            match session.judge(answer.await?, begins)? {
                Next::Done(reply) => return Ok(reply),
                Next::Ask => {}
                Next::Open => session.open_async(false).await?,
            }
        }
    }
}

const WHOLE: RowLimit = RowLimit::Whole {
    bytes_max: RESULT_BYTES_MAX,
};

/// A transaction over any number of calls. Its session is its own, so that it sees its writes
/// and nobody else does before it commits.
pub struct Transaction {
    session: Session,
    /// Whether something was run in it that may have ended it.
    may_have_ended: AtomicBool,
}

impl Transaction {
    /// From here on it stays where it is.
    fn pin(&self) {
        let pinned = &self.session.may_have_transaction;
        pinned.store(true, Ordering::Relaxed);
    }

    async fn begin_async(&self, others: &[&str]) -> Result<()> {
        self.session.open_async(false).await?;
        self.pin();
        for other in others {
            self.execute_async(&attach(other), ()).await?;
        }
        self.execute_async("BEGIN IMMEDIATE", ()).await.map(drop)
    }

    /// What is said of a request whose connection is lost: the transaction is rolled back with it, unless
    /// the request may have committed it, or an earlier one has ended it.
    fn if_lost(&self, request: &Request) -> IfLost {
        if mentions(request, &["COMMIT", "END", "ROLLBACK"]) {
            self.may_have_ended.store(true, Ordering::Relaxed);
        }
        match self.may_have_ended.load(Ordering::Relaxed) {
            true => if_lost(request),
            false => IfLost::NothingDone,
        }
    }

    fn call(&self, request: Request) -> Result<Reply> {
        let if_lost = self.session.is_forwarded.load(Ordering::Relaxed);
        let if_lost = if_lost.then(|| self.if_lost(&request));
        let answer = self
            .session
            .call_once(request, || if_lost.unwrap_or(IfLost::Unknown))?;
        self.answered(answer)
    }

    async fn call_async(&self, request: Request) -> Result<Reply> {
        let if_lost = self.session.is_forwarded.load(Ordering::Relaxed);
        let if_lost = if_lost.then(|| self.if_lost(&request));
        let answer = self
            .session
            .call_once_async(request, || if_lost.unwrap_or(IfLost::Unknown));
        self.answered(answer.await?)
    }

    fn answered(&self, answer: Answer) -> Result<Reply> {
        let reply = match answer {
            Answer::Here(reply) | Answer::Leader(Forwarded::Answered(reply)) => reply,
            Answer::Leader(Forwarded::Home) => {
                unreachable!("a transaction stays where it has begun")
            }
        };
        if reply.is_err() {
            // Some errors of SQLite end the transaction.
            self.may_have_ended.store(true, Ordering::Relaxed);
        }
        reply
    }

    /// Stops what the transaction runs. A statement that writes takes the whole transaction with
    /// it, as SQLite has it.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        self.session.interrupt_handle()
    }

    /// Runs statements that give no rows.
    ///
    /// # Errors
    /// Those of [`Database::execute`].
    pub fn execute(&self, sql: &str, parameters: impl Parameters) -> Result<Executed> {
        let reply = self.call(execute_request(sql, parameters))?;
        executed(reply)
    }

    /// [`Transaction::execute`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn execute_async(&self, sql: &str, parameters: impl Parameters) -> Result<Executed> {
        let request = execute_request(sql, parameters);
        executed(self.call_async(request).await?)
    }

    /// Runs one statement and gives all its rows.
    ///
    /// # Errors
    /// Those of [`Database::execute`].
    pub fn query(&self, sql: &str, parameters: impl Parameters) -> Result<Rows> {
        let mut last = batch(self.call(query_request(sql, parameters, BATCHES))?)?;
        let mut all = std::mem::take(&mut last.rows);
        while !last.complete {
            last = batch(self.call(Request::Sql(Work::Continue))?)?;
            all.append(&mut last.rows);
        }
        Ok(Rows::new(last.columns, all))
    }

    /// [`Transaction::query`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn query_async(&self, sql: &str, parameters: impl Parameters) -> Result<Rows> {
        let request = query_request(sql, parameters, BATCHES);
        let mut last = batch(self.call_async(request).await?)?;
        let mut all = std::mem::take(&mut last.rows);
        while !last.complete {
            last = batch(self.call_async(Request::Sql(Work::Continue)).await?)?;
            all.append(&mut last.rows);
        }
        Ok(Rows::new(last.columns, all))
    }

    /// Commits. When it returns, the transaction is on stable storage of a majority.
    ///
    /// # Errors
    /// Those of [`Database::execute`]; after [`Error::OutcomeUnknown`] it may be committed.
    pub fn commit(self) -> Result<()> {
        self.execute("COMMIT", ()).map(|_| ())
    }

    /// [`Transaction::commit`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn commit_async(self) -> Result<()> {
        self.execute_async("COMMIT", ()).await.map(|_| ())
    }

    /// Rolls back, as dropping does, and waits for it.
    ///
    /// # Errors
    /// Those of [`Database::execute`].
    pub fn rollback(self) -> Result<()> {
        self.execute("ROLLBACK", ()).map(|_| ())
    }
}

const BATCHES: RowLimit = RowLimit::Batches {
    bytes: ROW_BATCH_BYTES,
};

//! The Rust face of a database: calls from any thread, blocking or not.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::backup::BackupHead;
use crate::commands::{BackupPiece, Command, Commands};
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::readers::{ReadDatabase, ReadLevel, Readers};
use crate::replica::request::{
    Executed, Reply, Request, RowLimit, SessionId, SessionOptions, Source, Work,
};
use crate::rows::{RowBatch, Rows};
use crate::whole_file::WholeFile;

/// A single result may be this large; in a transaction it has no bound but memory.
const RESULT_BYTES_MAX: usize = 64 << 20;
const ROW_BATCH_BYTES: usize = 256 << 10;
/// Pieces of a backup between the shard and the thread that writes them.
const PIECES_IN_FLIGHT: usize = 2;

/// A session on the node of this process.
struct Session {
    commands: Commands,
    id: SessionId,
    database: String,
}

type Receiver = flume::Receiver<Result<Reply>>;

impl Session {
    fn ask(&self, request: Request) -> Result<Receiver> {
        let (reply, receiver) = flume::bounded(1);
        self.commands
            .send(Command::Ask {
                session: self.id,
                options: SessionOptions::default(),
                request,
                reply,
            })
            .map_err(|_| Error::Stopped)?;
        Ok(receiver)
    }

    fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle {
            commands: self.commands.clone(),
            session: self.id,
        }
    }

    fn open_request(&self, create: bool) -> Request {
        Request::Open {
            database: self.database.clone(),
            create,
        }
    }

    fn call(&self, request: Request) -> Result<Reply> {
        self.ask(request)?.recv().map_err(|_| Error::Stopped)?
    }

    async fn call_async(&self, request: Request) -> Result<Reply> {
        let receiver = self.ask(request)?;
        receiver.recv_async().await.map_err(|_| Error::Stopped)?
    }
}

/// Stops what a [`Database`] or a [`Transaction`] runs, from any thread.
#[derive(Clone)]
pub struct InterruptHandle {
    commands: Commands,
    session: SessionId,
}

impl InterruptHandle {
    /// Stops the statement that runs, or waits for its turn to write, at this moment: it fails with
    /// SQLite's code `SQLITE_INTERRUPT`. Does nothing if there is none.
    pub fn interrupt(&self) {
        // A node that has stopped runs nothing.
        drop(self.commands.send(Command::Interrupt(self.session)));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.commands.send(Command::CloseSession(self.id)));
    }
}

/// Whether opening has left the database open.
fn opened(reply: Result<Reply>) -> Result<()> {
    match reply {
        // Another thread has opened it in the meantime.
        Ok(_) | Err(Error::AlreadyOpen) => Ok(()),
        Err(error) => Err(error),
    }
}

fn execute_request(sql: &str, parameters: impl Parameters) -> Request {
    Request::Sql(Work::Execute(Source::text(sql, parameters.into_values())))
}

fn query_request(sql: &str, parameters: impl Parameters, limit: RowLimit) -> Request {
    Request::Sql(Work::Query {
        source: Source::text(sql, parameters.into_values()),
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
/// this node was confirmed to be the leader after the call began.
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
            session: Arc::new(Session {
                commands,
                id,
                database: name.to_owned(),
            }),
            sessions,
            readers,
            read: Arc::default(),
            read_anew: Arc::default(),
        }
    }

    pub(crate) fn open(&self) -> Result<()> {
        opened(self.session.call(self.session.open_request(true)))
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
    /// Those of SQLite; [`Error::NotLeader`], after which nothing was committed; and
    /// [`Error::OutcomeUnknown`], after which the statement may or may not be committed.
    pub fn execute(&self, sql: &str, parameters: impl Parameters) -> Result<Executed> {
        self.call(execute_request(sql, parameters))
            .and_then(executed)
    }

    /// [`Database::execute`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn execute_async(&self, sql: &str, parameters: impl Parameters) -> Result<Executed> {
        let request = execute_request(sql, parameters);
        self.call_async(request).await.and_then(executed)
    }

    /// Runs one statement and gives its rows, at most 64 MiB of them.
    ///
    /// # Errors
    /// Those of [`Database::execute`], and [`Error::Busy`] for a larger result.
    pub fn query(&self, sql: &str, parameters: impl Parameters) -> Result<Rows> {
        self.call(query_request(sql, parameters, WHOLE))
            .and_then(rows)
    }

    /// [`Database::query`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn query_async(&self, sql: &str, parameters: impl Parameters) -> Result<Rows> {
        let request = query_request(sql, parameters, WHOLE);
        self.call_async(request).await.and_then(rows)
    }

    /// Runs one statement and gives its rows as fresh as `level` asks, at most 64 MiB of them.
    ///
    /// At the levels `leader` and `local` it runs on the thread that calls, beside the node's own
    /// core and beside other such reads, for as long as a snapshot may be held.
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
        let database = self.read_database()?;
        let parameters = parameters.into_values();
        self.readers
            .query(level, &database, sql, &parameters, RESULT_BYTES_MAX)
            .map(|batch| Rows::new(batch.columns, batch.rows))
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
        let database = self.read_database()?;
        let (sql, parameters) = (sql.to_owned(), parameters.into_values());
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
        let transaction = self.new_transaction();
        let open = transaction.session.open_request(false);
        opened(transaction.session.call(open))?;
        for other in others {
            transaction.execute(&attach(other), ())?;
        }
        transaction.execute("BEGIN IMMEDIATE", ())?;
        Ok(transaction)
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
        let transaction = self.new_transaction();
        let open = transaction.session.open_request(false);
        opened(transaction.session.call_async(open).await)?;
        for other in others {
            transaction.execute_async(&attach(other), ()).await?;
        }
        transaction.execute_async("BEGIN IMMEDIATE", ()).await?;
        Ok(transaction)
    }

    fn new_transaction(&self) -> Transaction {
        Transaction {
            session: Session {
                commands: self.session.commands.clone(),
                id: SessionId(self.sessions.fetch_add(1, Ordering::Relaxed)),
                database: self.session.database.clone(),
            },
        }
    }

    /// Writes a copy of the database to `path`, while others go on writing: the state at one applied
    /// index, which has everything that was committed before the call, as a SQLite file. The file
    /// is written to `PATH.partial` and appears as a whole; one that is there is replaced.
    ///
    /// # Errors
    /// [`Error::NotLeader`] on a node that does not lead, and if the file cannot be written.
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<BackupHead> {
        let path = path.as_ref();
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

    /// Calls, and opens the database again if this node has lost and regained its leadership.
    /// It is not created again should it have been dropped.
    fn call(&self, request: Request) -> Result<Reply> {
        match self.session.call(request.clone()) {
            Err(Error::NoDatabaseOpened) => {
                opened(self.session.call(self.session.open_request(false)))?;
                self.session.call(request)
            }
            reply => reply,
        }
    }

    async fn call_async(&self, request: Request) -> Result<Reply> {
        match self.session.call_async(request.clone()).await {
            Err(Error::NoDatabaseOpened) => {
                let open = self.session.open_request(false);
                opened(self.session.call_async(open).await)?;
                self.session.call_async(request).await
            }
            reply => reply,
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
}

impl Transaction {
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
        let reply = self.session.call(execute_request(sql, parameters))?;
        executed(reply)
    }

    /// [`Transaction::execute`], without blocking the thread.
    ///
    /// # Errors
    /// The same.
    pub async fn execute_async(&self, sql: &str, parameters: impl Parameters) -> Result<Executed> {
        let request = execute_request(sql, parameters);
        executed(self.session.call_async(request).await?)
    }

    /// Runs one statement and gives all its rows.
    ///
    /// # Errors
    /// Those of [`Database::execute`].
    pub fn query(&self, sql: &str, parameters: impl Parameters) -> Result<Rows> {
        let mut last = batch(self.session.call(query_request(sql, parameters, BATCHES))?)?;
        let mut all = std::mem::take(&mut last.rows);
        while !last.complete {
            last = batch(self.session.call(Request::Sql(Work::Continue))?)?;
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
        let mut last = batch(self.session.call_async(request).await?)?;
        let mut all = std::mem::take(&mut last.rows);
        while !last.complete {
            last = batch(
                self.session
                    .call_async(Request::Sql(Work::Continue))
                    .await?,
            )?;
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

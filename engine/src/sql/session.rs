//! One session's SQLite connection: its statements, its running query, its open transaction.

mod attached;

use std::collections::VecDeque;
use std::ffi::{CStr, c_int};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use ringlite_vfs::{Database, VfsError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};

use super::authorizer::{self, Permissions};
use super::joint::{JointCommits, SessionDatabase};
use super::statement::{Statement, Step};
use super::watch::{RunLimits, Stopper, Watch};
use super::{functions, limits};
use crate::error::Error;
use crate::replica::request::{
    Executed, Outcome, Reply, RowLimit, SessionOptions, Source, Standing, StatementId, Work,
};
use crate::replica::{DatabaseId, Positions};
use crate::rows::{Column, RowBatch, Value};
use crate::shards::ShardPlace;

/// Compiled statements kept for texts that come again.
const TEXT_CACHE_STATEMENTS: usize = 32;
/// A longer text is not kept: compiled, it may take fifty times the memory, and a program that
/// writes its values into the text does not send it again.
const TEXT_CACHE_TEXT_BYTES_MAX: usize = 8 << 10;
/// How many rows, and bytes of rows, are read between two looks at the clock.
const PAUSE_ROWS: usize = 64;
const PAUSE_BYTES: usize = 64 << 10;
/// Statements that a session may hold prepared.
const PREPARED_STATEMENTS_MAX: usize = 4_096;
/// And the memory that they may take together, as SQLite tells it when they are prepared.
const PREPARED_BYTES_MAX: usize = 16 << 20;

/// A running query.
struct Cursor {
    statement: Statement,
    /// Where the statement goes back to when the query ends.
    home: Home,
    columns: Arc<[Column]>,
    limit: RowLimit,
}

/// The place of a prepared statement; its number is the statement's id.
enum Slot {
    Free,
    Kept(Prepared),
    Running,
}

/// A statement that a client has prepared.
struct Prepared {
    statement: Statement,
    /// The memory that it took then, in bytes.
    bytes: usize,
}

/// Where a statement is kept while it does not run.
enum Home {
    Prepared { id: StatementId, bytes: usize },
    Text(Box<str>),
}

/// One statement of a text, ready to run.
struct Ready {
    statement: Statement,
    home: Home,
    /// Where the rest of the text begins.
    end: usize,
}

/// Why a run stops early.
enum Stop {
    NeedsWriteLock,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A session with its connection. Dropping it rolls its transaction back.
pub(super) struct Session {
    // Statements hold shares of the connection; it closes when the last one is gone.
    cursor: Option<Cursor>,
    prepared: Vec<Slot>,
    /// Of all that are prepared.
    prepared_bytes: usize,
    /// By text, the most recently used first.
    texts: VecDeque<(Box<str>, Statement)>,
    stopper: Arc<Stopper>,
    connection: Rc<Connection>,
    joint: Arc<JointCommits>,
    pub(super) database: Database,
    options: SessionOptions,
}

impl Session {
    pub(super) fn connect(
        id: DatabaseId,
        database: &Database,
        options: SessionOptions,
        look_steps: i32,
        vacuum_directory: Option<Arc<Path>>,
        place: ShardPlace,
    ) -> Result<Self, Error> {
        let place = Some(place);
        Self::connect_as(id, database, options, look_steps, vacuum_directory, place)
    }

    /// A session in which nothing can be written, and nothing is seen that is not committed.
    pub(super) fn connect_reader(id: DatabaseId, database: &Database) -> Result<Self, Error> {
        let look_steps = RunLimits::default().look_steps;
        Self::connect_as(
            id,
            database,
            SessionOptions::default(),
            look_steps,
            None,
            None,
        )
    }

    fn connect_as(
        id: DatabaseId,
        database: &Database,
        options: SessionOptions,
        look_steps: i32,
        vacuum_directory: Option<Arc<Path>>,
        writes_in: Option<ShardPlace>,
    ) -> Result<Self, Error> {
        let only_reads = writes_in.is_none();
        let failed = |error: &dyn std::fmt::Display| Error::Sqlite {
            code: ffi::SQLITE_CANTOPEN,
            message: format!("cannot open database {:?}: {error}", database.name()),
        };
        let connected = match only_reads {
            true => database.connect_committed(),
            false => database.connect(),
        };
        let mut connection = connected.map_err(|error| match &error {
            VfsError::Connect {
                source: rusqlite::Error::SqliteFailure(source, _),
                ..
            } if source.extended_code == ffi::SQLITE_IOERR_DATA => damaged(database),
            error => failed(error),
        })?;
        connection
            .pragma_update(None, "query_only", only_reads)
            .map_err(|error| failed(&error))?;
        let permissions = Permissions {
            page_bytes: database.page_size().bytes(),
            vacuum_directory,
            attaches_in: writes_in,
        };
        configure(&mut connection, permissions).map_err(|error| failed(&error))?;
        let watch = Watch::new();
        let looks_at = Arc::clone(&watch);
        connection
            .progress_handler(look_steps, Some(move || looks_at.must_stop()))
            .map_err(|error| failed(&error))?;
        let own = SessionDatabase {
            schema: c"main".into(),
            id,
            database: database.clone(),
        };
        let joint = Arc::new(JointCommits::new(Arc::clone(&watch), own));
        let begins = Arc::clone(&joint);
        connection
            .commit_hook(Some(move || !begins.begin()))
            .map_err(|error| failed(&error))?;
        Ok(Self {
            cursor: None,
            prepared: Vec::new(),
            prepared_bytes: 0,
            texts: VecDeque::new(),
            stopper: Arc::new(Stopper {
                watch,
                interrupt: connection.get_interrupt_handle(),
            }),
            connection: Rc::new(connection),
            joint,
            database: database.clone(),
            options,
        })
    }

    /// Stops its runs from elsewhere, with what they look at.
    pub(super) fn stopper(&self) -> &Arc<Stopper> {
        &self.stopper
    }

    /// Runs one piece of work, within what [`Watch::begin`] was told.
    pub(super) fn run(&mut self, work: Work) -> Outcome {
        if work != Work::Continue {
            self.stopper.watch.forget_stop();
        }
        let outcome = self.run_work(work);
        match outcome {
            // SQLite says only that it was interrupted, or that its commit was vetoed.
            Outcome::Failed(Error::Sqlite {
                code: ffi::SQLITE_INTERRUPT | ffi::SQLITE_CONSTRAINT_COMMITHOOK,
                ..
            }) => match self.stopper.watch.stop_error() {
                Some(error) => Outcome::Failed(error),
                None => outcome,
            },
            // SQLite says only "disk I/O error".
            Outcome::Failed(Error::Sqlite {
                code: ffi::SQLITE_IOERR_DATA,
                ..
            }) => {
                let databases = self.databases();
                let of_it = databases.iter().find(|at| at.database.damage().is_some());
                Outcome::Failed(damaged(of_it.map_or(&self.database, |at| &at.database)))
            }
            outcome => outcome,
        }
    }

    fn run_work(&mut self, work: Work) -> Outcome {
        let result = match work {
            Work::Connect { .. } => unreachable!("a connected session is not connected again"),
            Work::Prepare { sql, allow_tail } => self.prepare(&sql, allow_tail),
            Work::Finalize(id) => self.finalize(id),
            Work::Continue => self.fetch(),
            Work::Interrupt => {
                self.end_query();
                Ok(Reply::Done)
            }
            Work::Abort => self.abort(),
            Work::Execute(source) => return self.execute(source),
            Work::Query { source, limit } => return self.query(source, limit),
        };
        match result {
            Ok(reply) => Outcome::Reply(reply),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Its databases, its own one first.
    pub(super) fn databases(&self) -> Arc<[SessionDatabase]> {
        self.joint.databases()
    }

    fn transaction_state(&self, schema: &CStr) -> c_int {
        // SAFETY: the connection is open, and the schema name is a NUL-terminated text.
        unsafe { ffi::sqlite3_txn_state(self.connection.handle(), schema.as_ptr()) }
    }

    /// Whether the write lock of any of its databases is held.
    pub(super) fn has_write_lock(&self) -> bool {
        self.databases()
            .iter()
            .any(|at| self.transaction_state(&at.schema) == ffi::SQLITE_TXN_WRITE)
    }

    fn in_transaction(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_get_autocommit(self.connection.handle()) == 0 }
    }

    /// Whether a roll-back, or the end of the database, has made its connection useless.
    pub(super) fn is_ended(&self) -> bool {
        ringlite_vfs::is_ended(&self.connection, "main")
    }

    /// Where the connection stands.
    pub(super) fn standing(&self) -> Standing {
        let databases = self.databases();
        let mut snapshots = Positions::default();
        let mut state = ffi::SQLITE_TXN_NONE;
        for at in databases.iter() {
            state = state.max(self.transaction_state(&at.schema));
            let schema = at.schema.to_str().unwrap_or_default();
            if let Some(position) = ringlite_vfs::read_position(&self.connection, schema) {
                snapshots.raise(at.id, position);
            }
        }
        Standing {
            in_transaction: self.in_transaction(),
            has_snapshot: state != ffi::SQLITE_TXN_NONE,
            has_write_lock: state == ffi::SQLITE_TXN_WRITE,
            snapshots,
            attached: databases[1..].iter().map(|at| at.id).collect(),
        }
    }

    /// Runs a statement to its next row or its end.
    fn step(&self, statement: &mut Statement) -> Result<Step, Error> {
        let stepped = statement.step();
        self.joint.settle(stepped.is_err());
        stepped
    }

    /// Ends a statement, which commits if it is one that writes, has not come to its end, and is a
    /// transaction of its own.
    fn reset(&self, statement: &mut Statement) {
        let has_failed = statement.reset().is_err();
        self.joint.settle(has_failed);
    }

    fn prepare(&mut self, sql: &str, allow_tail: bool) -> Result<Reply, Error> {
        let (statement, tail) = Statement::prepare(&self.connection, sql)?;
        let statement = statement.ok_or_else(empty_statement)?;
        if !allow_tail {
            self.refuse_tail(&sql[tail..])?;
        }
        let free = self
            .prepared
            .iter()
            .position(|slot| matches!(slot, Slot::Free));
        let slot = free.unwrap_or(self.prepared.len());
        if slot >= PREPARED_STATEMENTS_MAX {
            return Err(Error::Busy {
                what: "the session holds too many prepared statements: finalize some",
            });
        }
        let bytes = statement.memory_bytes();
        if self.prepared_bytes + bytes > PREPARED_BYTES_MAX {
            return Err(Error::Busy {
                what: "the prepared statements of the session would take more than 16 MiB: \
                       finalize some",
            });
        }
        self.prepared_bytes += bytes;
        let parameters = statement.parameters();
        if slot == self.prepared.len() {
            self.prepared.push(Slot::Free);
        }
        self.prepared[slot] = Slot::Kept(Prepared { statement, bytes });
        Ok(Reply::Prepared {
            statement: StatementId(u32::try_from(slot).unwrap_or(u32::MAX)),
            parameters,
            tail,
        })
    }

    fn finalize(&mut self, id: StatementId) -> Result<Reply, Error> {
        self.end_query();
        match self.prepared.get_mut(id.0 as usize) {
            Some(slot) => match std::mem::replace(slot, Slot::Free) {
                Slot::Kept(prepared) => {
                    self.prepared_bytes -= prepared.bytes;
                    Ok(Reply::Done)
                }
                Slot::Running => unreachable!("the query was ended"),
                Slot::Free => Err(no_statement(id)),
            },
            None => Err(no_statement(id)),
        }
    }

    fn abort(&mut self) -> Result<Reply, Error> {
        self.end_query();
        if self.in_transaction() {
            let (statement, _) = Statement::prepare(&self.connection, "ROLLBACK")?;
            self.step(&mut statement.ok_or_else(empty_statement)?)?;
        }
        Ok(Reply::Done)
    }

    fn execute(&mut self, source: Source) -> Outcome {
        self.end_query();
        match source {
            Source::Prepared {
                statement: id,
                parameters,
            } => {
                let ran = self
                    .take_prepared(id)
                    .map_err(Stop::Failed)
                    .and_then(|ready| self.execute_one(ready, &parameters));
                self.executed(ran, || Source::Prepared {
                    statement: id,
                    parameters,
                })
            }
            Source::Text {
                sql,
                mut from,
                parameters,
                mut parameters_used,
            } => {
                let ran = loop {
                    let ready = match self.take_text(&sql, from) {
                        Ok(Some(ready)) => ready,
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(Stop::Failed(error)),
                    };
                    let end = ready.end;
                    let takes = ready.statement.parameters() as usize;
                    let given = &parameters[parameters_used.min(parameters.len())..];
                    let given = &given[..takes.min(given.len())];
                    if let Err(stop) = self.execute_one(ready, given) {
                        break Err(stop);
                    }
                    parameters_used += given.len();
                    from = end;
                    // A script is long although each of its statements is short.
                    if from < sql.len() && self.stopper.watch.must_stop() {
                        break Err(Stop::Failed(Error::interrupted()));
                    }
                };
                self.executed(ran, || Source::Text {
                    sql,
                    from,
                    parameters,
                    parameters_used,
                })
            }
        }
    }

    fn executed(&self, ran: Result<(), Stop>, rest: impl FnOnce() -> Source) -> Outcome {
        match ran {
            Ok(()) => Outcome::Reply(Reply::Executed(self.counts())),
            Err(Stop::NeedsWriteLock) => Outcome::NeedsWriteLock(Work::Execute(rest())),
            Err(Stop::Failed(error)) => Outcome::Failed(error),
        }
    }

    fn execute_one(&mut self, mut ready: Ready, parameters: &[Value]) -> Result<(), Stop> {
        let result = self
            .start(&mut ready.statement, parameters)
            .and_then(|step| match step {
                Step::Done => Ok(()),
                Step::Row => Err(Stop::Failed(Error::Misuse {
                    what: "rows yielded when none expected for EXEC request".into(),
                    code: ffi::SQLITE_ERROR,
                })),
            });
        self.put_back(ready.statement, ready.home);
        result
    }

    /// Binds and steps once. What may not write stops before it has done anything.
    fn start(&self, statement: &mut Statement, parameters: &[Value]) -> Result<Step, Stop> {
        if !statement.is_readonly() {
            if !self.stopper.watch.may_write() {
                return Err(Stop::NeedsWriteLock);
            }
            self.stopper.watch.note_write();
        }
        statement.bind(parameters)?;
        if statement.special().is_some() {
            return Ok(self.step_special(statement)?);
        }
        self.take_snapshots()?;
        self.step(statement).map_err(|error| match error {
            // The write lock is with another session of this node: wait for it.
            Error::Sqlite {
                code: ffi::SQLITE_BUSY,
                ..
            } if !statement.is_readonly() => Stop::NeedsWriteLock,
            error => Stop::Failed(error),
        })
    }

    fn query(&mut self, source: Source, limit: RowLimit) -> Outcome {
        self.end_query();
        match self.start_query(&source, limit) {
            Ok(reply) => Outcome::Reply(reply),
            Err(Stop::NeedsWriteLock) => Outcome::NeedsWriteLock(Work::Query { source, limit }),
            Err(Stop::Failed(error)) => Outcome::Failed(error),
        }
    }

    fn start_query(&mut self, source: &Source, limit: RowLimit) -> Result<Reply, Stop> {
        let (mut ready, parameters) = match source {
            Source::Prepared {
                statement,
                parameters,
            } => (self.take_prepared(*statement)?, parameters),
            Source::Text {
                sql, parameters, ..
            } => {
                let ready = self.take_text(sql, 0)?.ok_or_else(empty_statement)?;
                if let Err(error) = self.refuse_tail(&sql[ready.end..]) {
                    self.put_back(ready.statement, ready.home);
                    return Err(error.into());
                }
                (ready, parameters)
            }
        };
        if parameters.len() > ready.statement.parameters() as usize {
            let takes = ready.statement.parameters();
            self.put_back(ready.statement, ready.home);
            return Err(Stop::Failed(Error::Misuse {
                what: format!(
                    "the statement takes {takes} parameters, and {} were given",
                    parameters.len()
                ),
                code: ffi::SQLITE_RANGE,
            }));
        }
        let first = match self.start(&mut ready.statement, parameters) {
            Ok(step) => step,
            Err(stop) => {
                self.put_back(ready.statement, ready.home);
                return Err(stop);
            }
        };
        self.cursor = Some(Cursor {
            columns: ready.statement.columns(),
            statement: ready.statement,
            home: ready.home,
            limit,
        });
        Ok(self.fetch_from(first)?)
    }

    fn fetch(&mut self) -> Result<Reply, Error> {
        let Some(cursor) = &mut self.cursor else {
            return Err(Error::misuse(ffi::SQLITE_MISUSE, "no query is running"));
        };
        let step = cursor.statement.step();
        self.joint.settle(step.is_err());
        let step = step.inspect_err(|_| self.end_query())?;
        self.fetch_from(step)
    }

    /// Reads a batch, of which `step` is the first step.
    fn fetch_from(&mut self, mut step: Step) -> Result<Reply, Error> {
        let Some(cursor) = &mut self.cursor else {
            unreachable!("the query is running")
        };
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        let mut looked_at = 0;
        while step == Step::Row {
            let (row, row_bytes) = match cursor.statement.row() {
                Ok(row) => row,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            rows.push(row);
            bytes += row_bytes;
            if rows.len() % PAUSE_ROWS == 0 || bytes >= looked_at + PAUSE_BYTES {
                looked_at = bytes;
                if self.stopper.watch.must_stop() {
                    failed = Some(Error::interrupted());
                    break;
                }
            }
            match cursor.limit {
                RowLimit::Batches { bytes: limit } if bytes >= limit => break,
                RowLimit::Whole { bytes_max } if bytes > bytes_max => {
                    failed = Some(Error::result_too_large());
                    break;
                }
                _ => {}
            }
            let next = cursor.statement.step();
            self.joint.settle(next.is_err());
            match next {
                Ok(next) => step = next,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let batch = RowBatch {
            columns: Arc::clone(&cursor.columns),
            rows,
            complete: step == Step::Done,
        };
        if batch.complete || failed.is_some() {
            self.end_query();
        }
        failed.map_or(Ok(Reply::Rows(batch)), Err)
    }

    fn end_query(&mut self) {
        if let Some(cursor) = self.cursor.take() {
            self.put_back(cursor.statement, cursor.home);
        }
    }

    fn take_prepared(&mut self, id: StatementId) -> Result<Ready, Error> {
        let slot = self.prepared.get_mut(id.0 as usize);
        let slot = slot.ok_or_else(|| no_statement(id))?;
        match std::mem::replace(slot, Slot::Running) {
            Slot::Kept(Prepared { statement, bytes }) => Ok(Ready {
                statement,
                home: Home::Prepared { id, bytes },
                end: 0,
            }),
            other => {
                *slot = other;
                Err(no_statement(id))
            }
        }
    }

    /// The first statement at or after `from`, from the cache if its text was seen lately.
    fn take_text(&mut self, sql: &str, from: usize) -> Result<Option<Ready>, Error> {
        let text = &sql[from..];
        // Behind the last statement: SQLite would find nothing there, or fail for want of memory
        // though the statements before are done.
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        let cached = self.texts.iter().position(|(known, _)| **known == *text);
        if let Some((known, statement)) = cached.and_then(|at| self.texts.remove(at)) {
            return Ok(Some(Ready {
                statement,
                home: Home::Text(known),
                end: sql.len(),
            }));
        }
        let (statement, consumed) = Statement::prepare(&self.connection, text)?;
        let Some(statement) = statement else {
            return Ok(None);
        };
        let own = &text[..consumed];
        let statement = if self.options.begin_immediate && is_plain_begin(own) {
            let (immediate, _) = Statement::prepare(&self.connection, "BEGIN IMMEDIATE")?;
            immediate.unwrap_or(statement)
        } else {
            statement
        };
        Ok(Some(Ready {
            statement,
            home: Home::Text(own.into()),
            end: from + consumed,
        }))
    }

    fn put_back(&mut self, mut statement: Statement, home: Home) {
        self.reset(&mut statement);
        match home {
            Home::Text(text) if text.len() <= TEXT_CACHE_TEXT_BYTES_MAX => {
                self.texts.push_front((text, statement));
                self.texts.truncate(TEXT_CACHE_STATEMENTS);
            }
            Home::Text(_) => {}
            Home::Prepared { id, bytes } => {
                if let Some(slot) = self.prepared.get_mut(id.0 as usize) {
                    *slot = Slot::Kept(Prepared { statement, bytes });
                }
            }
        }
    }

    /// Refuses text after a single statement, unless it is blanks and comments.
    fn refuse_tail(&self, tail: &str) -> Result<(), Error> {
        if tail
            .trim_matches(|c: char| c.is_ascii_whitespace() || c == ';')
            .is_empty()
        {
            return Ok(());
        }
        match Statement::prepare(&self.connection, tail) {
            Ok((None, _)) => Ok(()),
            _ => Err(Error::misuse(ffi::SQLITE_ERROR, "nonempty statement tail")),
        }
    }

    fn counts(&self) -> Executed {
        Executed {
            last_insert_rowid: self.connection.last_insert_rowid(),
            changes: self.connection.changes(),
        }
    }
}

/// What a session's connection has beyond what the VFS gives it.
fn configure(connection: &mut Connection, permissions: Permissions) -> rusqlite::Result<()> {
    limits::set(connection)?;
    // SQL that corrupts the database file on purpose is refused, as writing the tables behind a
    // full-text index.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    functions::add(connection)?;
    authorizer::install(connection, permissions)
}

/// Whether a statement is `BEGIN` and nothing else.
fn is_plain_begin(sql: &str) -> bool {
    sql.trim_matches(|c: char| c.is_ascii_whitespace() || c == ';')
        .eq_ignore_ascii_case("begin")
}

/// What to tell of a page that was not given out.
fn damaged(database: &Database) -> Error {
    let place = database.damage().map(|page| {
        let offset = u64::from(page.0 - 1) * u64::from(database.page_size().bytes());
        format!(", at page {page} (offset {offset}) at least")
    });
    Error::Sqlite {
        code: ffi::SQLITE_IOERR_DATA,
        message: format!(
            "the file of database {:?} is damaged on this node{}: what was asked for is not what was \
             written there, and is not given out. A node of a cluster gets it from another one; on a \
             node that is alone, restore the database from a backup",
            database.name(),
            place.unwrap_or_default(),
        ),
    }
}

/// The peer reports an empty statement with code 0, which its clients know.
fn empty_statement() -> Error {
    Error::misuse(0, "empty statement")
}

fn no_statement(id: StatementId) -> Error {
    Error::misuse(
        ffi::SQLITE_NOTFOUND,
        format!("no statement with the given id ({})", id.0),
    )
}

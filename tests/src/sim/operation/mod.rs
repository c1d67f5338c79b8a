//! What clients do: each operation is a list of steps, and each step knows what its answer means.

mod kinds;

use std::collections::VecDeque;

use ringlite::replica::request::{Reply, Request, SessionOptions, Work};
use ringlite::{Error, RowBatch, Value};
use rusqlite::ffi;

use super::invariants::linearizable::CallId;
use super::oracle::Oracle;
use super::tally::Kind;

pub(crate) use kinds::{query, restored_file, text};

/// The databases that exist from the start, and what is in each.
pub(crate) const DATABASES: usize = 2;
pub(crate) const REGISTERS: u64 = 2;
pub(crate) const ACCOUNTS: u64 = 4;
pub(crate) const CENTS: i64 = 400;
/// Rows that one large write makes: all or none.
pub(crate) const PARTS: i64 = 12;

/// A database that is dropped again and again, and one that is restored again and again.
pub(crate) const FLEETING: &str = "fleeting";
pub(crate) const RESTORED: &str = "restored";
/// Rows of the file that is restored.
const RESTORED_ROWS: i64 = 50;
/// Pieces that it is sent in.
const PIECES: usize = 3;

/// The weights of all kinds of operation together.
const KINDS: u64 = 135;

/// Row ids from here on are used by one operation each.
pub(crate) const UNCONTESTED: u64 = 1 << 32;

pub(crate) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, token INTEGER);
    CREATE TABLE IF NOT EXISTS register (key INTEGER PRIMARY KEY, version INTEGER, token INTEGER);
    INSERT OR IGNORE INTO register VALUES (0, 0, 0), (1, 0, 0);
    CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, cents INTEGER);
    INSERT OR IGNORE INTO account VALUES (0, 100), (1, 100), (2, 100), (3, 100);
    CREATE TABLE IF NOT EXISTS transfer (token INTEGER PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS large (token INTEGER, part INTEGER, data TEXT);
    CREATE TABLE IF NOT EXISTS history (key INTEGER, version INTEGER, token INTEGER, PRIMARY KEY (key, version));
    CREATE TABLE IF NOT EXISTS pair (token INTEGER PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS list (key INTEGER, position INTEGER, token INTEGER, PRIMARY KEY (key, position));
    CREATE TABLE IF NOT EXISTS cell (key INTEGER PRIMARY KEY, value INTEGER);
    CREATE TABLE IF NOT EXISTS noise (id INTEGER PRIMARY KEY, number INTEGER, day REAL, blob BLOB);
    CREATE TRIGGER IF NOT EXISTS remember AFTER UPDATE ON register BEGIN
        INSERT INTO history VALUES (new.key, new.version, new.token);
    END;";

/// Every token in one of the first databases.
pub(crate) const ALL_TOKENS: &str = "
    SELECT token FROM item UNION ALL SELECT token FROM transfer UNION ALL
    SELECT token FROM history UNION ALL SELECT DISTINCT token FROM large UNION ALL
    SELECT DISTINCT token FROM list UNION ALL SELECT token FROM pair";

/// What a successful answer, or a constraint error, means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meaning {
    Nothing,
    /// The operation's tokens are committed.
    Committed,
    /// As above, and the row exists; a constraint error says that it exists already.
    Inserted {
        row: u64,
    },
    /// The row must exist: only a constraint error is right. What came before is committed.
    Duplicate {
        row: u64,
    },
    /// A register's version and token; with `write`, those that the operation has made.
    Register {
        key: u64,
        write: bool,
    },
    /// The same as the last time, as it is still the same transaction.
    SameRegister,
    /// A list; within a transaction, after the first look at another one, not `fresh`.
    List {
        key: u64,
        fresh: bool,
    },
    /// Something was appended to a list or two.
    Appended,
    /// A cell's value; with `write`, it was written.
    Cell {
        key: u64,
        write: Option<u64>,
    },
    /// The sum of all accounts.
    Sum,
    /// Large writes of which not all parts are there, and writes to two databases that are in one
    /// of them: none.
    Halves,
    /// A batch of the answer to a large write, which commits with the last one.
    Returning,
    /// One row: what was written in this life of a database is there.
    Present,
    /// A database was dropped.
    Dropped,
    /// A file was restored.
    Restored,
    /// The rows of the restored file, if anybody was told that it was restored before.
    RestoredRows,
}

/// What a client does all the time.
///
/// Once a leader that does not know of its successor has a write in flight, its reads wait for
/// that. To find out whether they would be stale there have to be databases which are read on the
/// old leader and written on the new one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Any,
    /// Anything, but only in the first database.
    Other,
    /// Writes a register of the last database; there is one such client.
    Writer,
    /// Reads that register.
    Reader,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Step {
    request: Request,
    meaning: Meaning,
    /// Whether it can commit the operation's tokens.
    commits: bool,
    /// How long the client waits before it asks.
    pub(crate) pause: u64,
}

/// How an operation stands after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Goes,
    Done,
    /// Something went wrong: the session is of no use any more.
    Broken,
}

#[derive(Debug)]
pub(crate) struct Operation {
    /// The database's name, and its number if it is one of the first ones.
    pub(crate) name: String,
    database: usize,
    pub(crate) options: SessionOptions,
    steps: VecDeque<Step>,
    tokens: Vec<u64>,
    asked_commit: bool,
    asked: Option<Meaning>,
    floor: i64,
    register: Option<(i64, u64)>,
    call: Option<CallId>,
    /// Whether the session gets another database.
    attaches: bool,
    /// How long the client waits before it asks for the next batch of an answer.
    pub(crate) batch_pause: u64,
    /// Whether the session is closed in the middle.
    pub(crate) walks_out: bool,
}

impl Operation {
    /// The step to come.
    pub(crate) fn pause(&self) -> Option<u64> {
        self.steps.front().map(|step| step.pause)
    }

    pub(crate) fn ask(&mut self, oracle: &mut Oracle) -> Request {
        let step = self.steps.pop_front().expect("a step to come");
        if let Meaning::Register { key, .. } = step.meaning {
            self.floor = oracle.versions.floor((self.database, key));
        }
        if let Meaning::List { key, fresh } = step.meaning {
            let floor = oracle.lists.floor((self.database, key));
            self.floor = if fresh { floor as i64 } else { 0 };
        }
        if let Meaning::Cell { key, write } = step.meaning {
            self.call = oracle.histories.call(key, write);
        }
        if let Meaning::RestoredRows = step.meaning {
            self.floor = i64::from(oracle.restores > 0);
        }
        self.asked = Some(step.meaning);
        self.asked_commit |= step.commits;
        step.request
    }

    /// The answer to the step that was asked.
    pub(crate) fn answered(
        &mut self,
        answer: Result<Reply, Error>,
        oracle: &mut Oracle,
    ) -> Progress {
        let meaning = self.asked.take().expect("a step that was asked");
        match answer {
            Ok(reply) => self.succeeded(meaning, reply, oracle),
            Err(error) => self.failed(meaning, &error, oracle),
        }
        if self.tokens.iter().any(|token| oracle.is_open(*token)) && self.steps.is_empty() {
            panic!("the operation leaves something open: {self:?}");
        }
        match self.steps.is_empty() {
            false => Progress::Goes,
            true if self.walks_out => Progress::Broken,
            true => Progress::Done,
        }
    }

    fn succeeded(&mut self, meaning: Meaning, reply: Reply, oracle: &mut Oracle) {
        match meaning {
            Meaning::Nothing => {}
            Meaning::Dropped => oracle.tally.count(Kind::Dropped),
            Meaning::Restored => {
                oracle.restores += 1;
                oracle.tally.count(Kind::Restored);
            }
            Meaning::Appended => {
                oracle.tally.count(Kind::Appended);
                self.acknowledge(oracle);
            }
            Meaning::List { key, .. } => self.see_list(key, &reply, oracle),
            Meaning::Cell { write, .. } => {
                oracle.tally.count(Kind::Read);
                let found = found_in_cell(&reply);
                if let Some(call) = self.call.take() {
                    let value = write.is_none().then_some(found);
                    oracle.histories.succeeded(call, value);
                }
            }
            Meaning::Present => assert_eq!(rows_of(reply).rows, [[Value::Integer(1)]]),
            Meaning::RestoredRows => {
                assert_eq!(rows_of(reply).rows, [[Value::Integer(RESTORED_ROWS)]]);
            }
            Meaning::Committed => self.acknowledge(oracle),
            Meaning::Inserted { row } => {
                oracle.row_exists(self.database, row);
                self.acknowledge(oracle);
            }
            Meaning::Duplicate { row } => panic!("row {row} was there, and now it is not"),
            Meaning::Register { key, write } => {
                oracle.tally.count(Kind::Read);
                let (version, token) = pair_of(&reply);
                if write {
                    assert!(version > self.floor, "a write on an old state");
                    assert_eq!(self.tokens, [token]);
                }
                oracle
                    .versions
                    .observe((self.database, key), self.floor, version, token);
                if token != 0 {
                    oracle.see(token);
                }
                self.register = Some((version, token));
                if write {
                    self.acknowledge(oracle);
                }
            }
            Meaning::SameRegister => {
                assert_eq!(Some(pair_of(&reply)), self.register, "one transaction");
            }
            Meaning::Sum => {
                oracle.tally.count(Kind::Read);
                assert_eq!(rows_of(reply).rows, [[Value::Integer(CENTS)]]);
            }
            Meaning::Halves => {
                oracle.tally.count(Kind::Read);
                assert!(rows_of(reply).rows.is_empty(), "half a transaction");
            }
            Meaning::Returning => {
                if rows_of(reply).complete {
                    self.acknowledge(oracle);
                } else {
                    let pause = self.batch_pause;
                    self.commit_step(Request::Sql(Work::Continue), Meaning::Returning, pause);
                }
            }
        }
    }

    fn failed(&mut self, meaning: Meaning, error: &Error, oracle: &mut Oracle) {
        self.steps.clear();
        self.walks_out = true;
        match (error, meaning) {
            // An earlier part of the script may have been committed, or what was begun is when the node
            // stops.
            (error, _)
                if matches!(error, Error::OutcomeUnknown | Error::Stopped)
                    || oracle.is_told_damage(error) =>
            {
                for token in std::mem::take(&mut self.tokens) {
                    oracle.leave_unknown(token);
                }
                if let Some(call) = self.call.take() {
                    oracle.histories.unknown(call);
                }
                return;
            }
            (Error::Sqlite { code, .. }, Meaning::Duplicate { row })
                if *code == ffi::SQLITE_CONSTRAINT_PRIMARYKEY =>
            {
                oracle.tally.count(Kind::ConstraintError);
                oracle.row_exists(self.database, row);
                self.walks_out = false;
                self.acknowledge(oracle);
            }
            (Error::Sqlite { code, .. }, Meaning::Inserted { row })
                if *code == ffi::SQLITE_CONSTRAINT_PRIMARYKEY =>
            {
                oracle.tally.count(Kind::ConstraintError);
                oracle.row_exists(self.database, row);
                self.walks_out = false;
            }
            (Error::DatabaseGone { .. }, _) if [FLEETING, RESTORED].contains(&&*self.name) => {}
            // Another client has dropped it, or restores.
            (Error::Misuse { .. }, Meaning::Dropped | Meaning::Nothing | Meaning::Restored)
                if self.name == FLEETING => {}
            (Error::Sqlite { message, .. }, Meaning::RestoredRows)
                if message.contains("no such table") =>
            {
                assert_eq!(self.floor, 0, "a restored file is gone");
            }
            (Error::Sqlite { code, .. }, _) if *code == ffi::SQLITE_BUSY_SNAPSHOT => {}
            (Error::Misuse { code, .. }, _) if *code == ffi::SQLITE_ABORT_ROLLBACK => {}
            (
                Error::NotLeader { .. }
                | Error::Busy { .. }
                | Error::NoDatabaseOpened
                | Error::Removed,
                _,
            ) => {}
            (error, meaning) => panic!("{meaning:?}: an error that nobody expects: {error:?}"),
        }
        self.end(false, oracle);
    }

    /// The client goes away, or the node has: no answer will come any more.
    pub(crate) fn lost(&mut self, oracle: &mut Oracle) {
        self.steps.clear();
        self.end(true, oracle);
    }

    fn end(&mut self, is_lost: bool, oracle: &mut Oracle) {
        match self.call.take() {
            Some(call) if is_lost => oracle.histories.unknown(call),
            Some(call) => oracle.histories.refused(call),
            None => {}
        }
        for token in std::mem::take(&mut self.tokens) {
            if is_lost && self.asked_commit {
                oracle.leave_unknown(token);
            } else {
                oracle.refuse(token);
            }
        }
    }

    /// A list, as somebody was shown it.
    fn see_list(&mut self, key: u64, reply: &Reply, oracle: &mut Oracle) {
        oracle.tally.count(Kind::Read);
        let mut found = tokens_of(reply);
        // In its own transaction a write is seen before it has happened.
        found.retain(|token| !self.tokens.contains(token));
        oracle
            .lists
            .observe((self.database, key), self.floor as usize, &found);
        for token in found {
            oracle.see(token);
        }
    }

    fn acknowledge(&mut self, oracle: &mut Oracle) {
        if self.attaches {
            oracle.tally.count(Kind::PairWritten);
        }
        for token in std::mem::take(&mut self.tokens) {
            oracle.acknowledge(token);
        }
    }
}

pub(crate) fn rows_of(reply: Reply) -> RowBatch {
    match reply {
        Reply::Rows(batch) => batch,
        other => panic!("rows were expected, and this came: {other:?}"),
    }
}

fn tokens_of(reply: &Reply) -> Vec<u64> {
    let rows = rows_of(reply.clone()).rows;
    let token = |row: &Vec<Value>| match row.as_slice() {
        [Value::Integer(token)] => *token as u64,
        other => panic!("a token was expected: {other:?}"),
    };
    rows.iter().map(token).collect()
}

/// The value of a cell; 0 if nobody has written it yet.
fn found_in_cell(reply: &Reply) -> u64 {
    match tokens_of(reply).as_slice() {
        [] => 0,
        [value] => *value,
        other => panic!("one value was expected: {other:?}"),
    }
}

fn pair_of(reply: &Reply) -> (i64, u64) {
    let rows = rows_of(reply.clone()).rows;
    match rows.as_slice() {
        [row] => match row.as_slice() {
            [Value::Integer(version), Value::Integer(token)] => (*version, *token as u64),
            other => panic!("a register was expected: {other:?}"),
        },
        other => panic!("one row was expected: {other:?}"),
    }
}

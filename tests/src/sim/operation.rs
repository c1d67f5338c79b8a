//! What clients do: each operation is a list of steps, and each step knows what its answer means.

use std::collections::VecDeque;
use std::sync::OnceLock;

use bytes::Bytes;
use ringlite::replica::request::{Admin, Reply, Request, RowLimit, SessionOptions, Source, Work};
use ringlite::{Error, RowBatch, Value};
use rusqlite::ffi;

use super::invariants::linearizable::CallId;
use super::oracle::Oracle;
use super::random::Random;
use super::tally::Kind;

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

pub(crate) fn text(sql: impl AsRef<str>) -> Source {
    Source::text(sql.as_ref(), Vec::new())
}

fn execute(sql: impl AsRef<str>) -> Request {
    Request::Sql(Work::Execute(text(sql)))
}

pub(crate) fn query(sql: impl AsRef<str>) -> Request {
    let limit = RowLimit::Whole { bytes_max: 1 << 20 };
    let source = text(sql);
    Request::Sql(Work::Query { source, limit })
}

fn read_register(key: u64) -> Request {
    query(format!(
        "SELECT version, token FROM register WHERE key = {key}"
    ))
}

fn large_insert(token: u64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PARTS})
         INSERT INTO large SELECT {token}, i, replace(hex(zeroblob(900)), '00', 'xy') FROM n"
    )
}

impl Operation {
    /// Something that a client of this role does.
    pub(crate) fn drawn(oracle: &mut Oracle, random: &mut Random, role: Role) -> Operation {
        let (database, key, kind) = match role {
            Role::Any => (
                random.below(DATABASES as u64),
                random.below(REGISTERS),
                random.below(KINDS),
            ),
            Role::Other => (0, random.below(REGISTERS), random.below(KINDS)),
            Role::Writer => (1, 0, 28),
            Role::Reader => (1, 0, random.one_of(&[42, 42, 42, 85])),
        };
        let mut operation = Operation::empty(database as usize);
        match kind {
            0..18 => operation.insert(oracle, random),
            18..28 => operation.contest(oracle, random),
            28..42 => operation.write_register(key, oracle),
            42..60 => {
                operation.step(
                    read_register(key),
                    Meaning::Register { key, write: false },
                    0,
                );
            }
            60..70 => operation.transfer(oracle, random),
            70..74 => operation.read_all(),
            74..80 => operation.write_large(oracle),
            80..85 => operation.stream(oracle, random),
            85..91 => operation.reopen(key, random),
            91..93 => operation.write_fleeting(oracle),
            93..94 => operation.drop_fleeting(),
            94..95 => operation.restore(random),
            95..96 => operation.read_restored(),
            96..98 => operation.create(oracle, random),
            98..112 => operation.use_cell(oracle, random),
            112..120 => operation.append(oracle, random),
            120..126 => operation.read_lists(random),
            126..132 => operation.write_across(oracle, random),
            _ => operation.read_across(),
        }
        // A session whose database may be gone is of no use any more.
        operation.walks_out =
            random.per_mille(40) || operation.name == FLEETING || operation.attaches;
        operation
    }

    pub(crate) fn empty(database: usize) -> Operation {
        Operation {
            name: format!("db{database}"),
            database,
            options: SessionOptions::default(),
            steps: VecDeque::new(),
            tokens: Vec::new(),
            asked_commit: false,
            asked: None,
            floor: 0,
            register: None,
            call: None,
            attaches: false,
            batch_pause: 0,
            walks_out: false,
        }
    }

    fn step(&mut self, request: Request, meaning: Meaning, pause: u64) {
        self.steps.push_back(Step {
            request,
            meaning,
            commits: false,
            pause,
        });
    }

    fn commit_step(&mut self, request: Request, meaning: Meaning, pause: u64) {
        self.steps.push_back(Step {
            request,
            meaning,
            commits: true,
            pause,
        });
    }

    fn new_token(&mut self, oracle: &mut Oracle) -> u64 {
        let token = oracle.token();
        self.tokens.push(token);
        token
    }

    /// A fresh row; two of them in a script; or a script whose second part must fail.
    fn insert(&mut self, oracle: &mut Oracle, random: &mut Random) {
        let first = self.new_token(oracle);
        let insert = |id, token| format!("INSERT INTO item VALUES ({id}, {token});");
        // Rows of scripts are out of the way of those who contest rows.
        let row = UNCONTESTED + first;
        match random.below(5) {
            // What depends on chance and on time is the same on all nodes.
            4 => {
                let noise = "INSERT OR REPLACE INTO noise VALUES (1, random(), julianday('now'), randomblob(8))";
                self.commit_step(execute(insert(row, first) + noise), Meaning::Committed, 0);
            }
            0 => {
                let second = self.new_token(oracle);
                let sql = insert(row, first) + &insert(UNCONTESTED + second, second);
                self.commit_step(execute(sql), Meaning::Committed, 0);
            }
            1 => {
                let sql = insert(row, first) + &insert(row, first);
                self.commit_step(execute(sql), Meaning::Duplicate { row }, 0);
            }
            _ => {
                let sql = insert(first, first);
                self.commit_step(execute(sql), Meaning::Inserted { row: first }, 0);
            }
        }
    }

    /// A row that somebody else may be inserting right now, or has inserted.
    fn contest(&mut self, oracle: &mut Oracle, random: &mut Random) {
        let known: Vec<_> = oracle
            .rows_that_exist()
            .filter(|(database, _)| *database == self.database)
            .collect();
        if random.per_mille(400) && !known.is_empty() {
            let (_, row) = random.one_of(&known);
            let sql = format!("INSERT INTO item VALUES ({row}, 0)");
            self.step(execute(sql), Meaning::Duplicate { row }, 0);
        } else {
            let row = oracle.newest_token().saturating_sub(random.below(6)).max(1);
            let token = self.new_token(oracle);
            let sql = format!("INSERT INTO item VALUES ({row}, {token})");
            self.commit_step(execute(sql), Meaning::Inserted { row }, 0);
        }
    }

    fn write_register(&mut self, key: u64, oracle: &mut Oracle) {
        let token = self.new_token(oracle);
        let sql = format!(
            "UPDATE register SET version = version + 1, token = {token} WHERE key = {key}
             RETURNING version, token"
        );
        self.commit_step(query(sql), Meaning::Register { key, write: true }, 0);
    }

    /// A transfer between two accounts, over several round trips.
    fn transfer(&mut self, oracle: &mut Oracle, random: &mut Random) {
        let token = self.new_token(oracle);
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let pause = random.one_of(&[0, 0, 0, 3, 20, 90, 200]);
        let script = random.per_mille(150);
        let statements = [
            format!("UPDATE account SET cents = cents - 1 WHERE id = {from}"),
            format!("UPDATE account SET cents = cents + 1 WHERE id = {to}"),
            format!("INSERT INTO transfer VALUES ({token})"),
        ];
        if script {
            let sql = format!("BEGIN; {}; COMMIT", statements.join(";"));
            self.commit_step(execute(sql), Meaning::Committed, 0);
            return;
        }
        self.options.begin_immediate = random.per_mille(500);
        self.step(execute("BEGIN"), Meaning::Nothing, 0);
        if random.per_mille(500) {
            self.step(query("SELECT sum(cents) FROM account"), Meaning::Sum, pause);
        }
        for statement in statements {
            self.step(execute(statement), Meaning::Nothing, random.below(3));
        }
        self.commit_step(execute("COMMIT"), Meaning::Committed, pause);
    }

    /// A row at the end of a list; or of both lists, in a transaction that looks at both.
    fn append(&mut self, oracle: &mut Oracle, random: &mut Random) {
        let token = self.new_token(oracle);
        let append = |key: u64| {
            format!(
                "INSERT INTO list SELECT {key}, coalesce(max(position), 0) + 1, {token} FROM list WHERE key = {key}"
            )
        };
        let (first, second) = random.one_of(&[(0, 1), (1, 0)]);
        if random.per_mille(500) {
            self.commit_step(execute(append(first)), Meaning::Appended, 0);
            return;
        }
        let pause = random.one_of(&[0, 0, 3, 20]);
        self.options.begin_immediate = random.per_mille(700);
        self.step(execute("BEGIN"), Meaning::Nothing, 0);
        self.read_list(first, true, 0);
        self.step(execute(append(first)), Meaning::Nothing, pause);
        self.read_list(second, false, 0);
        self.step(execute(append(second)), Meaning::Nothing, pause);
        self.commit_step(execute("COMMIT"), Meaning::Appended, pause);
    }

    /// A row in two databases, in one transaction.
    fn write_across(&mut self, oracle: &mut Oracle, random: &mut Random) {
        let token = self.new_token(oracle);
        self.attach_the_other();
        let insert = |table: &str| format!("INSERT INTO {table} VALUES ({token})");
        let (first, second) = (insert("main.pair"), insert("other.pair"));
        if random.per_mille(500) {
            let sql = format!("BEGIN; {first}; {second}; COMMIT");
            self.commit_step(execute(sql), Meaning::Committed, 0);
            return;
        }
        let pause = random.one_of(&[0, 3, 30]);
        self.step(execute("BEGIN"), Meaning::Nothing, 0);
        self.step(execute(first), Meaning::Nothing, 0);
        self.step(execute(second), Meaning::Nothing, pause);
        self.commit_step(execute("COMMIT"), Meaning::Committed, pause);
    }

    fn read_across(&mut self) {
        self.attach_the_other();
        let sql = "SELECT token FROM main.pair EXCEPT SELECT token FROM other.pair UNION ALL
                   SELECT token FROM (SELECT token FROM other.pair EXCEPT SELECT token FROM main.pair)";
        self.step(query(sql), Meaning::Halves, 0);
    }

    fn attach_the_other(&mut self) {
        let other = 1 - self.database;
        let sql = format!("ATTACH 'db{other}' AS other");
        self.step(execute(sql), Meaning::Nothing, 0);
        self.attaches = true;
    }

    fn read_lists(&mut self, random: &mut Random) {
        let key = random.below(2);
        self.read_list(key, true, 0);
    }

    fn read_list(&mut self, key: u64, fresh: bool, pause: u64) {
        let sql = format!("SELECT token FROM list WHERE key = {key} ORDER BY position");
        self.step(query(sql), Meaning::List { key, fresh }, pause);
    }

    /// A register without a version, for the search for a linear order.
    fn use_cell(&mut self, oracle: &mut Oracle, random: &mut Random) {
        (self.database, self.name) = (0, "db0".to_owned());
        let key = oracle.histories.register();
        if random.per_mille(500) {
            let write = None;
            let sql = format!("SELECT value FROM cell WHERE key = {key}");
            self.step(query(sql), Meaning::Cell { key, write }, 0);
        } else {
            let value = oracle.token_of_no_row();
            let write = Some(value);
            let sql = format!(
                "INSERT INTO cell VALUES ({key}, {value})
                 ON CONFLICT DO UPDATE SET value = excluded.value RETURNING value"
            );
            self.commit_step(query(sql), Meaning::Cell { key, write }, 0);
        }
    }

    fn read_all(&mut self) {
        self.step(query("SELECT sum(cents) FROM account"), Meaning::Sum, 0);
        let halves = format!("SELECT token FROM large GROUP BY token HAVING count(*) <> {PARTS}");
        self.step(query(halves), Meaning::Halves, 0);
    }

    /// More than one entry holds.
    fn write_large(&mut self, oracle: &mut Oracle) {
        let token = self.new_token(oracle);
        self.commit_step(execute(large_insert(token)), Meaning::Committed, 0);
    }

    /// A large write whose rows come back in batches: it holds the write lock meanwhile.
    fn stream(&mut self, oracle: &mut Oracle, random: &mut Random) {
        let token = self.new_token(oracle);
        let source = text(large_insert(token) + " RETURNING part");
        let limit = RowLimit::Batches { bytes: 40 };
        self.batch_pause = random.one_of(&[0, 0, 2, 10, 100, 200]);
        self.commit_step(
            Request::Sql(Work::Query { source, limit }),
            Meaning::Returning,
            0,
        );
    }

    /// Two transactions in one session, where the first ends in the request that begins the next.
    fn reopen(&mut self, key: u64, random: &mut Random) {
        let pause = random.one_of(&[0, 3, 30, 100]);
        let meaning = Meaning::Register { key, write: false };
        self.step(execute("BEGIN"), Meaning::Nothing, 0);
        self.step(read_register(key), meaning, 0);
        self.step(read_register(key), Meaning::SameRegister, pause);
        let between = random.one_of(&["ROLLBACK; BEGIN", "COMMIT; BEGIN", "ROLLBACK; SAVEPOINT s"]);
        self.step(execute(between), Meaning::Nothing, pause);
        self.step(read_register(key), meaning, random.below(2));
        self.step(read_register(key), Meaning::SameRegister, pause);
        self.step(execute("ROLLBACK"), Meaning::Nothing, 0);
    }

    /// A database that others may be creating right now.
    fn create(&mut self, oracle: &mut Oracle, random: &mut Random) {
        if random.per_mille(500) {
            oracle.extra_databases += 1;
        }
        self.name = format!("extra{}", oracle.extra_databases);
        let token = self.new_token(oracle);
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, token INTEGER);
             INSERT INTO item VALUES ({token}, {token})"
        );
        self.commit_step(execute(sql), Meaning::Committed, 0);
    }

    /// A row, in whatever life of the database this is, and a look whether it is there.
    fn write_fleeting(&mut self, oracle: &mut Oracle) {
        FLEETING.clone_into(&mut self.name);
        // Nobody keeps account of it: it may go at any time.
        let row = oracle.newest_token();
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, token INTEGER);
             INSERT OR REPLACE INTO item VALUES ({row}, {row})"
        );
        self.step(execute(sql), Meaning::Nothing, 0);
        let look = format!("SELECT count(*) FROM item WHERE id = {row}");
        self.step(query(look), Meaning::Present, 0);
    }

    fn drop_fleeting(&mut self) {
        FLEETING.clone_into(&mut self.name);
        let name = self.name.clone();
        self.step(Request::Admin(Admin::Drop { name }), Meaning::Dropped, 0);
    }

    fn restore(&mut self, random: &mut Random) {
        // The session is on another database, which it does not touch.
        FLEETING.clone_into(&mut self.name);
        let file = restored_file();
        let begin = Admin::BeginRestore {
            name: RESTORED.to_owned(),
            file_bytes: file.len() as u64,
            replace: true,
        };
        self.step(Request::Admin(begin), Meaning::Nothing, 0);
        for piece in file.chunks(file.len().div_ceil(PIECES)) {
            let chunk = Admin::RestoreChunk(Bytes::copy_from_slice(piece));
            let pause = random.one_of(&[0, 0, 5, 50]);
            self.step(Request::Admin(chunk), Meaning::Nothing, pause);
        }
        let finish = Request::Admin(Admin::FinishRestore);
        self.step(finish, Meaning::Restored, 0);
    }

    fn read_restored(&mut self) {
        RESTORED.clone_into(&mut self.name);
        let sql = "SELECT count(*) FROM item";
        self.step(query(sql), Meaning::RestoredRows, 0);
    }

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

/// A small database file with pages of 512 bytes.
pub(crate) fn restored_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file.db");
        let connection = rusqlite::Connection::open(&path).expect("SQLite");
        let sql = format!(
            "PRAGMA page_size = 512;
             CREATE TABLE item (id INTEGER PRIMARY KEY, token INTEGER, data TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {RESTORED_ROWS})
             INSERT INTO item SELECT i, 0, 'row ' || i || replace(hex(zeroblob(40)), '0', 'x') FROM n"
        );
        connection.execute_batch(&sql).expect("a file");
        drop(connection);
        std::fs::read(&path).expect("a file")
    })
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

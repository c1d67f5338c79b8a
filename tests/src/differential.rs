//! Runs the same statements on a session of Ringlite and on plain SQLite, and compares what each
//! shows: columns, rows, errors, counts, and at the end the whole database.

use std::path::Path;

use ringlite::Value;

use crate::generator::{Generator, Schema, Statement};
use crate::reference::{Answer, Failure, Reference};

/// What a session asks itself after each statement.
pub const COUNTS: &str = "SELECT changes(), total_changes(), last_insert_rowid()";
/// What is compared of the schema. Equal steps allocate equal pages.
const OBJECTS: &str = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema";
/// What may change the tables and columns that there are.
const SCHEMA_CHANGES: [&str; 5] = ["CREATE", "DROP", "ALTER", "ROLLBACK", Statement::REOPEN];
/// How often a script is run at most to shrink it.
const SHRINK_RUNS_MAX: usize = 200;

/// Why a session gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// SQLite's error.
    Failure(Failure),
    /// The node's error, after which the session is not what it was.
    Lost(String),
}

/// A session of Ringlite on a database that nobody else uses.
pub trait Subject {
    /// Runs one statement.
    ///
    /// # Errors
    /// See [`Broken`].
    fn query(&mut self, statement: &Statement) -> Result<Answer, Broken>;

    /// Ends the session as a client does that goes away, and begins another on the same database.
    ///
    /// # Errors
    /// Why there is no other.
    fn reopen(&mut self) -> Result<(), String>;

    /// Whether a text ends at its first NUL on the way to and from this session.
    fn cuts_texts(&self) -> bool {
        false
    }
}

/// What cases came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Generated statements that were compared.
    pub statements: usize,
    /// How often both sides failed alike.
    pub failed: usize,
    /// Rows that were compared.
    pub rows: usize,
    /// Cases that ended early, because the node lost its leadership by itself.
    pub interrupted: usize,
    /// Cases that ended early, because SQLite chose row ids at random.
    pub random: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.statements += other.statements;
        self.failed += other.failed;
        self.rows += other.rows;
        self.interrupted += other.interrupted;
        self.random += other.random;
    }
}

/// A case that was run.
#[derive(Clone, Debug)]
pub struct Case {
    /// All that was run, to be run again.
    pub script: Vec<Statement>,
    /// What it came to, up to its end.
    pub tally: Tally,
    /// Where the two differ, if they do, in words.
    pub mismatch: Option<String>,
}

enum Stop {
    Mismatch(String),
    Lost,
    Random,
}

/// A case in the run.
struct Pair<'a> {
    subject: &'a mut dyn Subject,
    reference: Reference,
    script: Vec<Statement>,
    tally: Tally,
}

impl Pair<'_> {
    /// Runs a statement on both sides and compares.
    fn run(&mut self, statement: &Statement) -> Result<(), Stop> {
        self.tally.statements += 1;
        self.step(statement)?;
        self.compare(&Statement::plain(COUNTS)).map(drop)
    }

    /// The same, for what is part of the script without being generated. Gives the rows that both
    /// gave; none if it failed on both.
    fn step(&mut self, statement: &Statement) -> Result<Vec<Vec<Value>>, Stop> {
        self.script.push(statement.clone());
        if statement.sql == Statement::REOPEN {
            return self.reopen().map(|()| Vec::new());
        }
        let mut statement = statement.clone();
        if self.subject.cuts_texts() {
            statement.parameters.iter_mut().for_each(cut_text);
        }
        self.compare(&statement)
    }

    fn reopen(&mut self) -> Result<(), Stop> {
        self.reference.reopen();
        self.subject.reopen().map_err(|_| Stop::Lost)
    }

    fn compare(&mut self, statement: &Statement) -> Result<Vec<Vec<Value>>, Stop> {
        let found = match self.subject.query(statement) {
            Ok(answer) => Ok(answer),
            Err(Broken::Failure(failure)) => Err(failure),
            Err(Broken::Lost(_)) => return Err(Stop::Lost),
        };
        let mut expected = self.reference.query(&statement.sql, &statement.parameters);
        if let (true, Ok(answer)) = (self.subject.cuts_texts(), &mut expected) {
            answer.rows.iter_mut().flatten().for_each(cut_text);
        }
        match &expected {
            Ok(answer) => self.tally.rows += answer.rows.len(),
            Err(_) => self.tally.failed += 1,
        }
        // Not `==`, for which -0.0 is 0.0.
        if format!("{found:?}") == format!("{expected:?}") {
            return Ok(expected.map_or(Vec::new(), |answer| answer.rows));
        }
        if self.reference.has_largest_rowid() {
            return Err(Stop::Random);
        }
        Err(Stop::Mismatch(format!(
            "{}\nwith {:?}\n  here:   {}\n  SQLite: {}",
            statement.sql,
            statement.parameters,
            shown(&found),
            shown(&expected)
        )))
    }

    fn in_transaction(&mut self) -> bool {
        !self.reference.connection().is_autocommit()
    }

    /// Reads the schema on both sides.
    fn read_schema(&mut self) -> Result<Schema, Stop> {
        let mut stopped = Ok(());
        let mut schema = Schema::read(&mut |sql| {
            let rows = self.step(&Statement::plain(sql));
            rows.unwrap_or_else(|stop| {
                stopped = Err(stop);
                Vec::new()
            })
        });
        schema.in_transaction = self.in_transaction();
        stopped.map(|()| schema)
    }

    /// Runs what `seed` generates, as [`run_case`] says.
    fn generate(
        &mut self,
        seed: u64,
        count: usize,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stop> {
        let mut generator = Generator::new(seed);
        let mut schema = self.read_schema()?;
        for _ in 0..count {
            let statement = if between() {
                Statement::plain(Statement::REOPEN)
            } else {
                generator.statement_for(&schema)
            };
            let was_in_transaction = schema.in_transaction;
            self.run(&statement)?;
            schema.in_transaction = self.in_transaction();
            let is_change = |word: &&str| statement.sql.starts_with(*word);
            if SCHEMA_CHANGES.iter().any(is_change) || was_in_transaction != schema.in_transaction {
                schema = self.read_schema()?;
            }
        }
        self.finish()
    }

    /// Compares the whole databases, outside of any transaction.
    fn finish(&mut self) -> Result<(), Stop> {
        self.reopen()?;
        for sql in [
            "PRAGMA integrity_check",
            OBJECTS,
            "PRAGMA page_count",
            "PRAGMA freelist_count",
        ] {
            self.compare(&Statement::plain(sql))?;
        }
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table'";
        for row in self.compare(&Statement::plain(tables))? {
            if let [Value::Text(name)] = row.as_slice() {
                self.compare(&Statement::plain(format!("SELECT * FROM \"{name}\"")))?;
            }
        }
        Ok(())
    }

    fn conclude(mut self, result: Result<(), Stop>) -> Case {
        let mut mismatch = None;
        match result {
            Ok(()) => {}
            Err(Stop::Lost) => self.tally.interrupted += 1,
            Err(Stop::Random) => self.tally.random += 1,
            Err(Stop::Mismatch(what)) => mismatch = Some(what),
        }
        Case {
            script: self.script,
            tally: self.tally,
            mismatch,
        }
    }
}

fn cut_text(value: &mut Value) {
    if let Value::Text(text) = value
        && let Some(end) = text.find('\0')
    {
        text.truncate(end);
    }
}

fn shown(result: &Result<Answer, Failure>) -> String {
    const CHARACTERS_MAX: usize = 2000;
    let text = format!("{result:?}");
    text.chars().take(CHARACTERS_MAX).collect()
}

/// Generates and runs a case of `count` statements. `between` is called before each, and says
/// whether it has ended the session, as when it has killed the node.
pub fn run_case(
    subject: &mut dyn Subject,
    directory: &Path,
    seed: u64,
    count: usize,
    between: &mut dyn FnMut() -> bool,
) -> Case {
    let mut pair = Pair {
        subject,
        reference: Reference::open(directory, &format!("case-{seed}")),
        script: Vec::new(),
        tally: Tally::default(),
    };
    let result = pair.generate(seed, count, between);
    pair.conclude(result)
}

/// Runs a script again.
pub fn replay(
    subject: &mut dyn Subject,
    directory: &Path,
    name: &str,
    script: &[Statement],
) -> Case {
    let mut pair = Pair {
        subject,
        reference: Reference::open(directory, name),
        script: Vec::new(),
        tally: Tally::default(),
    };
    let mut statements = script.iter();
    let result = statements
        .try_for_each(|statement| pair.run(statement))
        .and_then(|()| pair.finish());
    pair.conclude(result)
}

/// Leaves out of a script what the mismatch does not need, in larger parts first. `fails` runs a
/// script and tells whether there still is one.
pub fn shrink(script: &[Statement], fails: &mut dyn FnMut(&[Statement]) -> bool) -> Vec<Statement> {
    let mut script = script.to_vec();
    let mut part = script.len().div_ceil(2);
    let mut runs = 0;
    while part > 0 {
        let mut start = 0;
        while start < script.len() && runs < SHRINK_RUNS_MAX {
            let end = (start + part).min(script.len());
            let without: Vec<Statement> = [&script[..start], &script[end..]].concat();
            runs += 1;
            if fails(&without) {
                script = without;
            } else {
                start = end;
            }
        }
        part /= 2;
    }
    script
}

//! Runs the same statements on a session of Ringlite and on plain SQLite, and compares what each
//! shows: columns, rows, errors, counts, and at the end the whole database.

use std::path::Path;

use crate::generator::{Generator, Schema, Statement};
use crate::reference::{Answer, Failure, Reference};

/// What a session asks itself after each statement.
const COUNTS: &str = "SELECT changes(), total_changes(), last_insert_rowid()";
/// What is compared of the schema. Equal steps allocate equal pages.
const OBJECTS: &str = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema";
/// Statements that a case may take at most to shrink.
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
}

/// What a case came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Statements that were compared.
    pub statements: usize,
    /// Those of them that failed on both sides alike.
    pub failed: usize,
    /// Rows that were compared.
    pub rows: usize,
    /// Cases that ended early, because the node lost its leadership by itself.
    pub interrupted: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.statements += other.statements;
        self.failed += other.failed;
        self.rows += other.rows;
        self.interrupted += other.interrupted;
    }
}

/// Where the two differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// After which statement of the script, from 0.
    pub at: usize,
    /// What differs, in words.
    pub what: String,
}

enum Stop {
    Mismatch(String),
    Lost,
}

/// A case in the run.
struct Pair<'a> {
    subject: &'a mut dyn Subject,
    reference: Reference,
    tally: Tally,
}

impl Pair<'_> {
    /// Runs a statement on both sides and compares.
    fn run(&mut self, statement: &Statement) -> Result<(), Stop> {
        self.tally.statements += 1;
        if statement.sql == Statement::REOPEN {
            self.reference.reopen();
            return self.subject.reopen().map_err(|_| Stop::Lost);
        }
        self.compare(statement)?;
        self.compare(&Statement::plain(COUNTS))
    }

    fn compare(&mut self, statement: &Statement) -> Result<(), Stop> {
        let found = match self.subject.query(statement) {
            Ok(answer) => Ok(answer),
            Err(Broken::Failure(failure)) => Err(failure),
            Err(Broken::Lost(_)) => return Err(Stop::Lost),
        };
        let expected = self.reference.query(&statement.sql, &statement.parameters);
        match &expected {
            Ok(answer) => self.tally.rows += answer.rows.len(),
            Err(_) => self.tally.failed += 1,
        }
        // Not `==`: there is no NaN in SQLite, but -0.0 is not 0.0 here.
        if format!("{found:?}") == format!("{expected:?}") {
            return Ok(());
        }
        Err(Stop::Mismatch(format!(
            "{}\nwith {:?}\n  here:   {}\n  SQLite: {}",
            statement.sql,
            statement.parameters,
            shown(&found),
            shown(&expected)
        )))
    }

    /// Compares the whole databases, outside of any transaction.
    fn finish(&mut self) -> Result<(), Stop> {
        self.reference.reopen();
        self.subject.reopen().map_err(|_| Stop::Lost)?;
        for sql in [
            "PRAGMA integrity_check",
            OBJECTS,
            "PRAGMA page_count",
            "PRAGMA freelist_count",
        ] {
            self.compare(&Statement::plain(sql))?;
        }
        let check = self.reference.query("PRAGMA integrity_check", &[]);
        let tables = self
            .reference
            .query("SELECT name FROM sqlite_schema WHERE type = 'table'", &[]);
        // A schema that names what is gone cannot be read: on neither side, as was seen.
        if let (Ok(_), Ok(tables)) = (check, tables) {
            for row in tables.rows {
                if let [ringlite::Value::Text(name)] = row.as_slice() {
                    self.compare(&Statement::plain(format!("SELECT * FROM \"{name}\"")))?;
                }
            }
        }
        Ok(())
    }
}

fn shown(result: &Result<Answer, Failure>) -> String {
    const CHARACTERS_MAX: usize = 2000;
    let text = format!("{result:?}");
    text.chars().take(CHARACTERS_MAX).collect()
}

/// Generates and runs a case of `count` statements. `between` is called before each, and may say
/// that the session has been lost, as when it has killed the node.
///
/// Returns the script too, so that it can be run again.
pub fn run_case(
    subject: &mut dyn Subject,
    directory: &Path,
    seed: u64,
    count: usize,
    between: &mut dyn FnMut(usize) -> bool,
) -> (Vec<Statement>, Result<Tally, Mismatch>) {
    let mut generator = Generator::new(seed);
    let mut script = Vec::new();
    let mut pair = Pair {
        subject,
        reference: Reference::open(directory, &format!("case-{seed}")),
        tally: Tally::default(),
    };
    let result = (|| {
        for at in 0..count {
            let statement = if between(at) {
                Statement::plain(Statement::REOPEN)
            } else {
                let schema = Schema::read(pair.reference.connection()).unwrap_or_default();
                generator.next(&schema)
            };
            script.push(statement.clone());
            pair.run(&statement)?;
        }
        pair.finish()
    })();
    let tally = pair.tally;
    let result = conclude(result, tally, script.len());
    (script, result)
}

/// Runs a script again.
pub fn replay(
    subject: &mut dyn Subject,
    directory: &Path,
    name: &str,
    script: &[Statement],
) -> Result<Tally, Mismatch> {
    let mut pair = Pair {
        subject,
        reference: Reference::open(directory, name),
        tally: Tally::default(),
    };
    let mut done = 0;
    let result = (|| {
        for statement in script {
            done += 1;
            pair.run(statement)?;
        }
        pair.finish()
    })();
    conclude(result, pair.tally, done)
}

fn conclude(result: Result<(), Stop>, tally: Tally, done: usize) -> Result<Tally, Mismatch> {
    match result {
        Ok(()) => Ok(tally),
        Err(Stop::Lost) => Ok(Tally {
            interrupted: 1,
            ..tally
        }),
        Err(Stop::Mismatch(what)) => Err(Mismatch {
            at: done.saturating_sub(1),
            what,
        }),
    }
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

//! SQLite alone in this process, with a WAL on the same disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::error::MeasureError;
use crate::load::Load;
use crate::operation::{Operation, Parameter, Statement};
use crate::outcome::{Failure, Outcome};
use crate::systems::System;
use crate::threads::{self, Call};

pub(super) const SETTINGS_FULL: &str = "journal_mode=WAL, synchronous=FULL, otherwise the defaults; \
     each connection has a thread of its own, and writers wait for each other at a mutex";
pub(super) const SETTINGS_NORMAL: &str = "journal_mode=WAL, synchronous=NORMAL: not durable; \
     otherwise as with FULL";

/// Statements of all workloads that a connection keeps prepared.
const STATEMENTS_KEPT: usize = 32;

/// A database file.
pub(super) struct Sqlite {
    path: PathBuf,
    synchronous: &'static str,
}

impl Sqlite {
    /// The database in `directory`.
    pub(super) fn new(directory: &Path, synchronous: &'static str) -> Self {
        Self {
            path: directory.join("bench.db"),
            synchronous,
        }
    }

    fn session(&self, writers: &Arc<Mutex<()>>) -> rusqlite::Result<Session> {
        let connection = Connection::open(&self.path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", self.synchronous)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Ok(Session {
            connection,
            writers: Arc::clone(writers),
        })
    }
}

impl System for Sqlite {
    fn prepare(&mut self) -> Result<(), MeasureError> {
        let mut session = self.session(&Arc::default())?;
        for operation in Operation::preparation() {
            session.perform(operation)?;
        }
        Ok(())
    }

    fn load(&mut self, load: Load, length: Duration) -> Result<Outcome, MeasureError> {
        let writers = Arc::default();
        let sessions = (0..load.connections).map(|_| {
            let session = self.session(&writers)?;
            Ok(Box::new(session) as Box<dyn Call>)
        });
        let sessions = sessions.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(threads::run(sessions, load, length))
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id()]
    }
}

/// One connection to the database.
struct Session {
    connection: Connection,
    /// Held while writing: SQLite's own wait for another writer sleeps for milliseconds.
    writers: Arc<Mutex<()>>,
}

impl Call for Session {
    fn call(&mut self, operation: Operation) -> Result<(), Failure> {
        self.perform(operation).map_err(Failure::from)
    }
}

impl Session {
    fn perform(&mut self, operation: Operation) -> rusqlite::Result<()> {
        let reads = operation.reads();
        let mut statements = operation.into_statements();
        if reads {
            return statements.into_iter().try_for_each(|read| self.run(read));
        }
        let writers = Arc::clone(&self.writers);
        let _turn = writers.lock().unwrap_or_else(PoisonError::into_inner);
        if statements.len() == 1 {
            return statements.drain(..).try_for_each(|write| self.run(write));
        }
        let transaction = self.connection.unchecked_transaction()?;
        for statement in statements {
            run(&transaction, statement)?;
        }
        transaction.commit()
    }

    fn run(&self, statement: Statement) -> rusqlite::Result<()> {
        run(&self.connection, statement)
    }
}

fn run(connection: &Connection, statement: Statement) -> rusqlite::Result<()> {
    let Statement { sql, parameters } = statement;
    let mut statement = connection.prepare_cached(sql)?;
    let parameters = parameters.into_iter().map(Value::from);
    let mut rows = statement.query(params_from_iter(parameters))?;
    while rows.next()?.is_some() {}
    Ok(())
}

impl From<Parameter> for Value {
    fn from(parameter: Parameter) -> Self {
        match parameter {
            Parameter::Integer(integer) => Self::Integer(integer),
            Parameter::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;
    use crate::workload::{KEYS, Operations, PRODUCTS, Workload};

    /// A number that a query gives.
    fn number(session: &Session, sql: &str) -> i64 {
        let row = session.connection.query_row(sql, (), |row| row.get(0));
        row.unwrap()
    }

    #[test]
    fn operations_do_what_they_say() {
        let directory = tempfile::tempdir().unwrap();
        let mut sqlite = Sqlite::new(directory.path(), "OFF");
        sqlite.prepare().unwrap();
        let mut session = sqlite.session(&Arc::default()).unwrap();
        assert_eq!(number(&session, "SELECT count(*) FROM pair"), KEYS);
        assert_eq!(number(&session, "SELECT count(*) FROM stock"), PRODUCTS);
        for workload in Workload::ALL {
            let mut operations = Operations::of_connection(workload, 3);
            let before = number(&session, "SELECT count(*) FROM item");
            session.perform(operations.next_operation()).unwrap();
            let inserted = number(&session, "SELECT count(*) FROM item") - before;
            let expected = match workload {
                Workload::Insert => 1,
                Workload::FewRows => 10,
                Workload::Bulk => 250,
                _ => 0,
            };
            assert_eq!(inserted, expected, "{}", workload.name());
        }
        assert_eq!(number(&session, "SELECT count(*) FROM pair"), KEYS);
        let numbers = "SELECT sum(next_order) FROM district";
        assert_eq!(number(&session, numbers), 11);
        assert_eq!(number(&session, "SELECT number FROM purchase"), 1);
        let lines = "SELECT count(*) FROM purchase_line WHERE amount > 0";
        assert_eq!(number(&session, lines), 10);
        assert_eq!(number(&session, "SELECT sum(orders) FROM stock"), 10);
    }

    #[test]
    fn writers_side_by_side_all_succeed() {
        let directory = tempfile::tempdir().unwrap();
        let mut sqlite = Sqlite::new(directory.path(), "OFF");
        sqlite.prepare().unwrap();
        let load = Load {
            workload: Workload::NewOrder,
            connections: 4,
            pace: Pace::BackToBack,
        };
        let outcome = sqlite.load(load, Duration::from_millis(200)).unwrap();
        assert!(outcome.answered > 0 && outcome.errors() == 0);
        let session = sqlite.session(&Arc::default()).unwrap();
        let orders = number(&session, "SELECT count(*) FROM purchase");
        assert_eq!(orders, outcome.answered_in_all as i64);
    }
}

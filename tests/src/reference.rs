//! Plain SQLite, set up as a session of a node is, to compare with.

use std::path::{Path, PathBuf};

use ringlite::Value;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

/// An error of SQLite, as a session shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Extended result code.
    pub code: i32,
    /// SQLite's text.
    pub message: String,
}

/// What a query gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
}

/// A connection of plain SQLite to a file of its own.
pub struct Reference {
    path: PathBuf,
    connection: Connection,
}

impl Reference {
    /// Makes the database `name` in `directory`.
    ///
    /// # Panics
    /// If that fails.
    pub fn open(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("{name}.plain"));
        Self {
            connection: connect(&path),
            path,
        }
    }

    /// Closes the connection, which rolls its transaction back, and opens another.
    ///
    /// # Panics
    /// If that fails.
    pub fn reopen(&mut self) {
        self.connection = connect(&self.path);
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Runs one statement and gives its rows.
    ///
    /// # Errors
    /// SQLite's, also of a later row.
    pub fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Answer, Failure> {
        let failed = |error: rusqlite::Error| self.failure(&error);
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let count = columns.len();
        let mut found = statement
            .query(rusqlite::params_from_iter(parameters))
            .map_err(failed)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(failed)? {
            let values = (0..count).map(|column| match row.get_ref(column) {
                Ok(rusqlite::types::ValueRef::Text(text)) => {
                    Value::Text(String::from_utf8_lossy(text).into_owned())
                }
                Ok(other) => other.try_into().expect("a value that is no text"),
                Err(error) => panic!("column {column}: {error}"),
            });
            rows.push(values.collect());
        }
        Ok(Answer { columns, rows })
    }

    fn failure(&self, error: &rusqlite::Error) -> Failure {
        match error {
            rusqlite::Error::SqliteFailure(code, message) => Failure {
                code: code.extended_code,
                message: message.clone().unwrap_or_default(),
            },
            rusqlite::Error::SqlInputError { error, msg, .. } => Failure {
                code: error.extended_code,
                message: msg.clone(),
            },
            other => panic!("not an error of SQLite: {other:?}"),
        }
    }
}

/// A connection like those that `Database::connect` of the VFS and a session set up.
fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("SQLite opens a file");
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)
        .and_then(|_| connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, 64 << 20))
        .and_then(|_| connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF"))
        .expect("SQLite can be set up");
    connection
}

//! What a client has told a node and what it was answered, beside plain SQLite that does the same:
//! so one knows which states of its databases are right at which moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ringlite::{Client, ClientError, Value};
use rusqlite::types::ValueRef;

use crate::disk::Position;

/// A statement and its parameters.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The SQL.
    pub sql: String,
    /// The parameters, left to right.
    pub parameters: Vec<Value>,
}

/// What a database has in it: of each table, and of the schema, the number of rows and a checksum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(BTreeMap<String, (usize, u32)>);

/// The databases that exist, by name.
pub type Contents = BTreeMap<String, Content>;

const SCHEMA: &str = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name";
const TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";

impl Content {
    /// Reads a database with `query`, which gives the rows of a statement.
    ///
    /// # Errors
    /// Those of `query`.
    pub fn read<E>(mut query: impl FnMut(&str) -> Result<Vec<Vec<Value>>, E>) -> Result<Self, E> {
        let mut parts = BTreeMap::new();
        parts.insert("(schema)".to_owned(), checksum(&query(SCHEMA)?));
        for row in query(TABLES)? {
            let [Value::Text(table)] = row.as_slice() else {
                continue;
            };
            let rows = query(&format!("SELECT * FROM \"{table}\" ORDER BY 1"))?;
            parts.insert(table.clone(), checksum(&rows));
        }
        Ok(Self(parts))
    }
}

/// The number of rows and the CRC-32 of their values.
fn checksum(rows: &[Vec<Value>]) -> (usize, u32) {
    let mut crc = crc32fast::Hasher::new();
    for value in rows.iter().flatten() {
        match value {
            Value::Null => crc.update(b"n"),
            Value::Integer(integer) => {
                crc.update(b"i");
                crc.update(&integer.to_le_bytes());
            }
            Value::Real(real) => {
                crc.update(b"r");
                crc.update(&real.to_le_bytes());
            }
            Value::Text(text) => {
                crc.update(b"t");
                crc.update(&text.len().to_le_bytes());
                crc.update(text.as_bytes());
            }
            Value::Blob(blob) => {
                crc.update(b"b");
                crc.update(&blob.len().to_le_bytes());
                crc.update(blob);
            }
        }
    }
    (rows.len(), crc.finalize())
}

/// The databases of `names` that a node has, each checked by SQLite.
///
/// # Errors
/// A sentence, if one cannot be read or is damaged.
pub fn observe<'a>(
    mut connect: impl FnMut() -> Result<Client, ClientError>,
    names: impl Iterator<Item = &'a str>,
) -> Result<Contents, String> {
    let mut contents = Contents::new();
    for name in names {
        let mut client = connect().map_err(|error| format!("no connection: {error}"))?;
        // Opening would create it.
        if client.digest(name, 0).is_err() {
            continue;
        }
        let failed = |error: ClientError| format!("{name} cannot be read: {error}");
        client.open(name).map_err(failed)?;
        let verdict = client
            .query("PRAGMA integrity_check", &[])
            .map_err(failed)?;
        if verdict.rows != [[Value::Text("ok".into())]] {
            return Err(format!("{name} is damaged: {:?}", verdict.rows));
        }
        let content = Content::read(|sql| client.query(sql, &[]).map(|batch| batch.rows));
        contents.insert(name.to_owned(), content.map_err(failed)?);
    }
    Ok(contents)
}

/// A transaction that was submitted.
struct Step {
    submitted: Position,
    /// None while nobody knows what became of it.
    acknowledged: Option<Position>,
    database: String,
    /// What the database has in it with this transaction; `None`: it is dropped.
    content: Option<Content>,
}

/// Plain SQLite, which does what the node is told to do.
#[derive(Default)]
pub struct Twin {
    databases: BTreeMap<String, rusqlite::Connection>,
}

impl Twin {
    /// Creates a database.
    ///
    /// # Panics
    /// If SQLite fails.
    pub fn create(&mut self, database: &str) -> Content {
        let connection = rusqlite::Connection::open_in_memory().expect("SQLite opens");
        self.databases.insert(database.to_owned(), connection);
        self.execute(database, &[])
    }

    /// Runs a transaction, and gives what the database has in it then.
    ///
    /// # Panics
    /// If SQLite refuses it.
    pub fn execute(&mut self, database: &str, transaction: &[Statement]) -> Content {
        let connection = &self.databases[database];
        for Statement { sql, parameters } in transaction {
            let parameters = parameters.iter().map(to_sqlite);
            let done = connection.execute(sql, rusqlite::params_from_iter(parameters));
            done.unwrap_or_else(|error| panic!("plain SQLite refuses {sql}: {error}"));
        }
        Content::read(|sql| read(connection, sql))
            .unwrap_or_else(|error| panic!("plain SQLite fails: {error}"))
    }
}

/// What one client has done, one transaction after the other, to databases of its own.
#[derive(Default)]
pub struct History {
    steps: Vec<Step>,
}

impl History {
    /// Notes that a transaction is about to be sent, at `now`, after which the database has
    /// `content` in it, or does not exist.
    pub fn submit(&mut self, database: &str, content: Option<Content>, now: Position) {
        self.steps.push(Step {
            submitted: now,
            acknowledged: None,
            database: database.to_owned(),
            content,
        });
    }

    /// Notes that the last transaction was acknowledged, at `now`.
    pub fn acknowledge(&mut self, now: Position) {
        if let Some(step) = self.steps.last_mut() {
            step.acknowledged = Some(now);
        }
    }

    /// How many transactions were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let acknowledged = |step: &&Step| step.acknowledged.is_some();
        self.steps.iter().filter(acknowledged).count()
    }

    /// The databases that there are at some time.
    pub fn databases(&self) -> BTreeSet<&str> {
        self.steps
            .iter()
            .map(|step| step.database.as_str())
            .collect()
    }

    /// Checks what a node has whose disk was cut off at `end`: every transaction acknowledged until
    /// then, none submitted later, and none in part.
    ///
    /// # Errors
    /// A description of the difference.
    pub fn check(&self, found: &Contents, end: Position) -> Result<(), Difference> {
        let is_acknowledged =
            |step: &Step| step.acknowledged.is_some_and(|position| position <= end);
        // One transaction at a time: all before an acknowledged one were acknowledged, or failed
        // and are found out by what came after.
        let acknowledged = self
            .steps
            .iter()
            .rposition(is_acknowledged)
            .map_or(0, |at| at + 1);
        let submitted = self.steps.partition_point(|step| step.submitted <= end);
        let own: Contents = self
            .databases()
            .into_iter()
            .filter_map(|name| {
                found
                    .get(name)
                    .map(|content| (name.to_owned(), content.clone()))
            })
            .collect();
        if (acknowledged..=submitted.max(acknowledged)).any(|steps| self.after(steps) == own) {
            return Ok(());
        }
        Err(Difference {
            matches: (0..=self.steps.len()).rfind(|steps| self.after(*steps) == own),
            acknowledged,
            submitted,
            expected: self.after(acknowledged),
            found: own,
        })
    }

    /// What there is after so many transactions.
    fn after(&self, steps: usize) -> Contents {
        let mut contents = Contents::new();
        for step in &self.steps[..steps] {
            match &step.content {
                Some(content) => contents.insert(step.database.clone(), content.clone()),
                None => contents.remove(&step.database),
            };
        }
        contents
    }
}

/// A node has not what it has to have.
#[derive(Debug)]
pub struct Difference {
    acknowledged: usize,
    submitted: usize,
    /// After how many transactions the state would be right.
    matches: Option<usize>,
    expected: Contents,
    found: Contents,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{} transactions were acknowledged and {} submitted, but the state is {}",
            self.acknowledged,
            self.submitted,
            match self.matches {
                Some(steps) => format!("that after {steps}"),
                None => "that after no number of them".into(),
            }
        )?;
        writeln!(out, "expected {:#?}", self.expected)?;
        write!(out, "found {:#?}", self.found)
    }
}

fn read(model: &rusqlite::Connection, sql: &str) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = model.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|column| row.get_ref(column).map(from_sqlite))
            .collect()
    })?;
    rows.collect()
}

fn from_sqlite(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    }
}

fn to_sqlite(value: &Value) -> rusqlite::types::Value {
    use rusqlite::types::Value as Sqlite;
    match value {
        Value::Null => Sqlite::Null,
        Value::Integer(integer) => Sqlite::Integer(*integer),
        Value::Real(real) => Sqlite::Real(*real),
        Value::Text(text) => Sqlite::Text(text.clone()),
        Value::Blob(blob) => Sqlite::Blob(blob.clone()),
    }
}

//! Random transactions of every shape, the same for the same seed.

use fastrand::Rng;
use ringlite::Value;

use crate::history::Statement;

/// How many databases there may be.
const DATABASES: usize = 6;
/// How many tables there may be.
const TABLES: u8 = 4;
/// The ids of rows; few, so that transactions meet.
const ROWS: i64 = 400;

/// Makes transactions for databases of one client.
pub struct Workload {
    random: Rng,
    /// Which tables there are, per database that exists.
    tables: Vec<Option<[bool; TABLES as usize]>>,
}

/// What to do next.
#[derive(Debug)]
pub enum Action {
    /// Create database number so many, counted from 0; perhaps one that was dropped before.
    Create(usize),
    /// Drop this database.
    Drop(usize),
    /// Send a transaction to this database.
    Transact(usize, Vec<Statement>),
}

impl Action {
    /// The number of the database that it is about.
    pub fn database(&self) -> usize {
        match *self {
            Self::Create(database) | Self::Drop(database) | Self::Transact(database, _) => database,
        }
    }
}

impl Workload {
    /// One that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            tables: Vec::new(),
        }
    }

    /// How long to wait now, in milliseconds: mostly not at all.
    pub fn pause_milliseconds(&mut self) -> u64 {
        match self.random.u8(0..20) {
            0 => self.random.u64(10..80),
            1..4 => 2,
            _ => 0,
        }
    }

    /// What comes next.
    pub fn next_action(&mut self) -> Action {
        let databases = self.tables.len();
        if databases == 0 || (databases < DATABASES && self.random.u8(0..50) == 0) {
            self.tables.push(Some([false; TABLES as usize]));
            return Action::Create(databases);
        }
        // The first is the busiest.
        let database = self.random.usize(0..databases) * self.random.usize(0..2);
        let Some(mut tables) = self.tables[database] else {
            self.tables[database] = Some([false; TABLES as usize]);
            return Action::Create(database);
        };
        if self.random.u8(0..40) == 0 {
            self.tables[database] = None;
            return Action::Drop(database);
        }
        let transaction = self.transaction(&mut tables);
        self.tables[database] = Some(tables);
        Action::Transact(database, transaction)
    }

    /// `tables` says which tables its database has, and is told of what becomes of them.
    fn transaction(&mut self, tables: &mut [bool; TABLES as usize]) -> Vec<Statement> {
        let number = self.random.u8(0..TABLES);
        if !tables[usize::from(number)] {
            tables[usize::from(number)] = true;
            return self.create_table(number);
        }
        let table = format!("t{number}");
        match self.random.u8(0..100) {
            0..30 => vec![self.insert(&table, 200)],
            30..45 => vec![self.update(&table)],
            45..55 => vec![self.delete(&table)],
            55..75 => self.conversation(&table),
            75..83 => vec![self.insert(&table, 120_000)],
            83..89 => self.large(&table),
            89..91 => {
                tables[usize::from(number)] = false;
                vec![statement(format!("DROP TABLE {table}"))]
            }
            91..94 => vec![statement("VACUUM")],
            94..97 => vec![statement(format!("DROP INDEX IF EXISTS {table}_n"))],
            _ => vec![statement(format!(
                "CREATE INDEX IF NOT EXISTS {table}_n ON {table} (n, s)"
            ))],
        }
    }

    fn create_table(&mut self, number: u8) -> Vec<Statement> {
        let table = format!("t{number}");
        let create = statement(format!(
            "CREATE TABLE {table} (id INTEGER PRIMARY KEY, n INTEGER, s TEXT, b BLOB)"
        ));
        if self.random.bool() {
            return vec![create];
        }
        let index = statement(format!("CREATE INDEX {table}_n ON {table} (n, s)"));
        vec![statement("BEGIN"), create, index, statement("COMMIT")]
    }

    /// Several statements over as many round trips, with a part taken back.
    fn conversation(&mut self, table: &str) -> Vec<Statement> {
        let mut statements = vec![statement("BEGIN IMMEDIATE")];
        for _ in 0..self.random.u8(1..8) {
            statements.push(self.insert(table, 300));
        }
        statements.push(statement("SAVEPOINT half"));
        statements.push(self.delete(table));
        statements.push(self.insert(table, 5_000));
        if self.random.bool() {
            statements.push(statement("ROLLBACK TO half"));
        }
        statements.push(self.update(table));
        statements.push(statement("COMMIT"));
        statements
    }

    /// More than one part of the log's entries, in one transaction.
    fn large(&mut self, table: &str) -> Vec<Statement> {
        let mut statements = vec![statement("BEGIN")];
        for _ in 0..self.random.u8(4..8) {
            statements.push(self.insert_of(table, 300_000));
        }
        statements.push(statement("COMMIT"));
        statements
    }

    fn insert(&mut self, table: &str, bytes_max: usize) -> Statement {
        let bytes = self.random.usize(0..bytes_max);
        self.insert_of(table, bytes)
    }

    fn insert_of(&mut self, table: &str, bytes: usize) -> Statement {
        let mut blob = vec![0; bytes];
        self.random.fill(&mut blob);
        Statement {
            sql: format!("INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)"),
            parameters: vec![
                Value::Integer(self.random.i64(0..ROWS)),
                Value::Integer(self.random.i64(..)),
                Value::Text("x".repeat(self.random.usize(0..40))),
                Value::Blob(blob),
            ],
        }
    }

    fn update(&mut self, table: &str) -> Statement {
        Statement {
            sql: format!("UPDATE {table} SET n = n + ?, s = s || 'u' WHERE id % ? = 0"),
            parameters: vec![
                Value::Integer(self.random.i64(1..100)),
                Value::Integer(self.random.i64(1..30)),
            ],
        }
    }

    /// Large rows go first, so that databases stay small.
    fn delete(&mut self, table: &str) -> Statement {
        Statement {
            sql: format!("DELETE FROM {table} WHERE length(b) > ? OR id % ? = 0"),
            parameters: vec![
                Value::Integer(20_000),
                Value::Integer(self.random.i64(3..60)),
            ],
        }
    }
}

fn statement(sql: impl Into<String>) -> Statement {
    Statement {
        sql: sql.into(),
        parameters: Vec::new(),
    }
}

//! One operation of a workload, and how it is said in SQL.
//!
//! Every system gets the same statements; etcd, which has no SQL, gets puts and ranges in their
//! place.

use std::sync::LazyLock;

use crate::workload::{BULK_ROWS, DISTRICTS, KEYS, PRODUCTS, VALUE_BYTES};

/// The database that everything happens in.
pub(crate) const DATABASE: &str = "bench";

/// The tables of all workloads.
const TABLES: [&str; 7] = [
    "CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE pair (key INTEGER PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE district (id INTEGER PRIMARY KEY, next_order INTEGER NOT NULL)",
    "CREATE TABLE product (id INTEGER PRIMARY KEY, price INTEGER NOT NULL)",
    "CREATE TABLE stock (product INTEGER PRIMARY KEY, quantity INTEGER NOT NULL, \
     sold INTEGER NOT NULL, orders INTEGER NOT NULL)",
    "CREATE TABLE purchase (district INTEGER NOT NULL, number INTEGER NOT NULL, \
     customer INTEGER NOT NULL, lines INTEGER NOT NULL, PRIMARY KEY (district, number)) \
     WITHOUT ROWID",
    "CREATE TABLE purchase_line (district INTEGER NOT NULL, number INTEGER NOT NULL, \
     line INTEGER NOT NULL, product INTEGER NOT NULL, quantity INTEGER NOT NULL, \
     amount INTEGER NOT NULL, PRIMARY KEY (district, number, line)) WITHOUT ROWID",
];

const INSERT: &str = "INSERT INTO item (body) VALUES (?1)";
const READ: &str = "SELECT value FROM pair WHERE key = ?1";
const UPSERT: &str = "INSERT INTO pair (key, value) VALUES (?1, ?2) \
                      ON CONFLICT (key) DO UPDATE SET value = excluded.value";

static INSERT_MANY: LazyLock<String> = LazyLock::new(|| {
    let places = vec!["(?)"; BULK_ROWS].join(", ");
    format!("INSERT INTO item (body) VALUES {places}")
});
static SEED_KEYS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO pair (key, value) WITH RECURSIVE n (i) AS \
         (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2) \
         SELECT i, zeroblob({VALUE_BYTES}) FROM n"
    )
});
const SEED_DISTRICTS: &str = "INSERT INTO district (id, next_order) WITH RECURSIVE n (i) AS \
     (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT i, 1 FROM n";
const SEED_PRODUCTS: &str = "INSERT INTO product (id, price) WITH RECURSIVE n (i) AS \
     (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT i, 100 + i FROM n";
const SEED_STOCK: &str = "INSERT INTO stock (product, quantity, sold, orders) \
     SELECT id, 50, 0, 0 FROM product WHERE id <= ?1";

const ORDER_NUMBER: &str = "UPDATE district SET next_order = next_order + 1 WHERE id = ?1";
const ORDER: &str = "INSERT INTO purchase (district, number, customer, lines) \
     SELECT id, next_order - 1, ?2, ?3 FROM district WHERE id = ?1";
const ORDER_LINE: &str = "INSERT INTO purchase_line \
     (district, number, line, product, quantity, amount) \
     SELECT district.id, next_order - 1, ?2, product.id, ?4, ?4 * price \
     FROM district, product WHERE district.id = ?1 AND product.id = ?3";
const ORDER_STOCK: &str = "UPDATE stock SET sold = sold + ?2, orders = orders + 1, \
     quantity = CASE WHEN quantity >= ?2 + 10 THEN quantity - ?2 ELSE quantity - ?2 + 91 END \
     WHERE product = ?1";

/// Keys that are written by one operation before anything is measured.
const SEED_STEP: i64 = 1_000;

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parameter {
    Integer(i64),
    Blob(Vec<u8>),
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) sql: &'static str,
    pub(crate) parameters: Vec<Parameter>,
}

/// What a connection asks for at once. All statements of an operation are one transaction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    /// Makes a table.
    Define(&'static str),
    /// Writes the keys from the first up to the second.
    SeedKeys(i64, i64),
    /// Fills the tables of the orders.
    SeedOrders,
    /// Inserts a row.
    Insert(Vec<u8>),
    /// Inserts rows, each with a statement.
    InsertAll(Vec<Vec<u8>>),
    /// Inserts rows, all with one statement.
    InsertMany(Vec<Vec<u8>>),
    /// Writes the value of a key.
    Upsert(i64, Vec<u8>),
    /// Reads the value of a key.
    Read(i64),
    /// Takes an order.
    Order(Order),
}

/// An order of some products.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    pub(crate) district: i64,
    pub(crate) customer: i64,
    pub(crate) lines: Vec<OrderLine>,
}

/// One product of an order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OrderLine {
    pub(crate) product: i64,
    pub(crate) quantity: i64,
}

impl Operation {
    /// What makes an empty system ready for all workloads.
    pub(crate) fn preparation() -> Vec<Self> {
        let mut operations: Vec<Self> = TABLES.map(Self::Define).into();
        let firsts = (0..KEYS).step_by(usize::try_from(SEED_STEP).unwrap_or(1));
        operations.extend(firsts.map(|first| Self::SeedKeys(first, first + SEED_STEP)));
        operations.push(Self::SeedOrders);
        operations
    }

    /// Whether it only reads, and gives rows.
    pub(crate) fn reads(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    /// It in SQL.
    pub(crate) fn into_statements(self) -> Vec<Statement> {
        use Parameter::{Blob, Integer};
        let one = |sql, parameters| vec![Statement { sql, parameters }];
        match self {
            Self::Define(sql) => one(sql, Vec::new()),
            Self::SeedKeys(first, end) => one(&SEED_KEYS, vec![Integer(first), Integer(end)]),
            Self::SeedOrders => [
                (SEED_DISTRICTS, DISTRICTS),
                (SEED_PRODUCTS, PRODUCTS),
                (SEED_STOCK, PRODUCTS),
            ]
            .map(|(sql, count)| Statement {
                sql,
                parameters: vec![Integer(count)],
            })
            .into(),
            Self::Insert(row) => one(INSERT, vec![Blob(row)]),
            Self::InsertAll(rows) => rows
                .into_iter()
                .map(|row| Statement {
                    sql: INSERT,
                    parameters: vec![Blob(row)],
                })
                .collect(),
            Self::InsertMany(rows) => one(&INSERT_MANY, rows.into_iter().map(Blob).collect()),
            Self::Upsert(key, value) => one(UPSERT, vec![Integer(key), Blob(value)]),
            Self::Read(key) => one(READ, vec![Integer(key)]),
            Self::Order(order) => order.into_statements(),
        }
    }
}

impl Order {
    /// The number is taken first, so that the statements after it find their district locked.
    fn into_statements(self) -> Vec<Statement> {
        let mut statements = Vec::with_capacity(2 + 2 * self.lines.len());
        let mut add = |sql, parameters: &[i64]| {
            statements.push(Statement {
                sql,
                parameters: parameters.iter().copied().map(Parameter::Integer).collect(),
            });
        };
        add(ORDER_NUMBER, &[self.district]);
        add(
            ORDER,
            &[
                self.district,
                self.customer,
                self.lines.len().cast_signed() as i64,
            ],
        );
        for (number, line) in (1..).zip(&self.lines) {
            let OrderLine { product, quantity } = *line;
            add(ORDER_LINE, &[self.district, number, product, quantity]);
            add(ORDER_STOCK, &[product, quantity]);
        }
        statements
    }
}

/// The statements of a transaction as one text, for systems that take it at once. Their
/// parameters follow each other.
pub(crate) fn as_script(statements: Vec<Statement>) -> (String, Vec<Parameter>) {
    let mut script = String::from("BEGIN IMMEDIATE; ");
    let mut parameters = Vec::new();
    for statement in statements {
        script.push_str(statement.sql);
        script.push_str("; ");
        parameters.extend(statement.parameters);
    }
    script.push_str("COMMIT");
    (script, parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Operations, Workload};

    #[test]
    fn a_script_is_one_transaction() {
        let mut operations = Operations::of_connection(Workload::FewRows, 0);
        let statements = operations.next_operation().into_statements();
        let (script, parameters) = as_script(statements);
        assert_eq!(parameters.len(), 10);
        assert_eq!(script.matches("INSERT").count(), 10);
        assert!(script.starts_with("BEGIN") && script.ends_with("COMMIT"));
    }
}

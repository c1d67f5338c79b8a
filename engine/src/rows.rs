//! Rows as they travel from SQLite to a caller: columns, values, batches.

use std::sync::Arc;

pub use rusqlite::types::Value;

/// What the declared type of a column means for a client protocol that has more types than SQLite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColumnKind {
    /// A value is what its storage class says.
    #[default]
    Plain,
    /// Declared `DATETIME`, `DATE` or `TIMESTAMP`.
    DateTime,
    /// Declared `BOOLEAN`.
    Boolean,
}

impl ColumnKind {
    /// The kind of a column declared as `declared` (exact names, any case); an expression has none.
    pub fn of_declared_type(declared: Option<&str>) -> Self {
        match declared {
            Some(name)
                if ["DATETIME", "DATE", "TIMESTAMP"]
                    .iter()
                    .any(|known| name.eq_ignore_ascii_case(known)) =>
            {
                Self::DateTime
            }
            Some(name) if name.eq_ignore_ascii_case("BOOLEAN") => Self::Boolean,
            _ => Self::Plain,
        }
    }
}

/// One column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name SQLite gives it.
    pub name: String,
    /// What its declared type means.
    pub kind: ColumnKind,
}

/// A batch of rows; a large result is several of them.
#[derive(Clone, Debug, PartialEq)]
pub struct RowBatch {
    /// The columns, the same in each batch of a result.
    pub columns: Arc<[Column]>,
    /// The rows, each with one value per column.
    pub rows: Vec<Vec<Value>>,
    /// Whether no batch follows.
    pub complete: bool,
}

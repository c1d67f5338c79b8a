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

/// The whole result of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    columns: Arc<[Column]>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    pub(crate) fn new(columns: Arc<[Column]>, rows: Vec<Vec<Value>>) -> Self {
        Self { columns, rows }
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row {
            columns: &self.columns,
            values,
        })
    }

    /// The first row, if there is one.
    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }

    /// The values themselves.
    pub fn into_values(self) -> Vec<Vec<Value>> {
        self.rows
    }
}

/// One row of a result.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    columns: &'a [Column],
    values: &'a [Value],
}

impl Row<'_> {
    /// The value of a column, by position (from 0) or by name, as a type that rusqlite can make
    /// of it.
    ///
    /// # Errors
    /// If there is no such column, or its value is of another type.
    pub fn get<T: rusqlite::types::FromSql>(&self, column: impl ColumnIndex) -> crate::Result<T> {
        let bad = |what: String| crate::Error::misuse(rusqlite::ffi::SQLITE_MISMATCH, what);
        let position = column
            .position(self.columns)
            .filter(|position| *position < self.values.len())
            .ok_or_else(|| bad(format!("there is no column {column:?} in the result")))?;
        T::column_result((&self.values[position]).into())
            .map_err(|error| bad(format!("column {column:?}: {error}")))
    }

    /// The values, one per column.
    pub fn values(&self) -> &[Value] {
        self.values
    }
}

/// What names a column: its position or its name.
pub trait ColumnIndex: std::fmt::Debug + Copy {
    /// Its position among `columns`.
    fn position(&self, columns: &[Column]) -> Option<usize>;
}

impl ColumnIndex for usize {
    fn position(&self, _: &[Column]) -> Option<usize> {
        Some(*self)
    }
}

impl ColumnIndex for &str {
    fn position(&self, columns: &[Column]) -> Option<usize> {
        columns
            .iter()
            .position(|column| column.name.eq_ignore_ascii_case(self))
    }
}

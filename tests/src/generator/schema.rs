//! What a statement can refer to.

use rusqlite::Connection;

/// What kind of table it is, as far as statements for it differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// A table with rows of its own.
    Plain,
    /// A view.
    View,
    /// A full-text index.
    Fts,
    /// An R-tree.
    Rtree,
}

/// A table or view.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The names of its columns, generated ones included.
    pub columns: Vec<String>,
    /// Those that a statement may set.
    pub writable: Vec<String>,
    /// What it is.
    pub kind: TableKind,
}

/// The schema that a session sees, and whether it has a transaction open.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Tables and views.
    pub tables: Vec<Table>,
    /// The names of indexes that can be dropped.
    pub indexes: Vec<String>,
    /// The names of triggers.
    pub triggers: Vec<String>,
    /// Whether a transaction is open.
    pub in_transaction: bool,
}

impl Schema {
    /// What `connection` has.
    ///
    /// # Errors
    /// SQLite's.
    pub fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut schema = Self {
            in_transaction: !connection.is_autocommit(),
            ..Self::default()
        };
        let mut objects = connection.prepare(
            "SELECT type, name, coalesce(sql, '') FROM \
             (SELECT type, name, sql FROM sqlite_schema UNION ALL \
              SELECT type, name, sql FROM sqlite_temp_schema) \
             WHERE name NOT LIKE 'sqlite_%' AND name NOT GLOB 'ft*_*' AND name NOT GLOB 'rt*_*'",
        )?;
        let mut rows = objects.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, sql): (String, String, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            match kind.as_str() {
                "index" => schema.indexes.push(name),
                "trigger" => schema.triggers.push(name),
                _ => {
                    let kind = if kind == "view" {
                        TableKind::View
                    } else if sql.contains("USING fts5") {
                        TableKind::Fts
                    } else if sql.contains("USING rtree") {
                        TableKind::Rtree
                    } else {
                        TableKind::Plain
                    };
                    if let Some(table) = read_table(connection, name, kind)? {
                        schema.tables.push(table);
                    }
                }
            }
        }
        Ok(schema)
    }

    /// The tables of some kinds.
    pub fn of(&self, kinds: &[TableKind]) -> Vec<&Table> {
        let tables = self.tables.iter();
        tables.filter(|table| kinds.contains(&table.kind)).collect()
    }
}

/// A table, unless it is a view of something that is gone.
fn read_table(
    connection: &Connection,
    name: String,
    kind: TableKind,
) -> rusqlite::Result<Option<Table>> {
    let mut columns = Vec::new();
    let mut writable = Vec::new();
    let mut info = connection.prepare("SELECT name, hidden FROM pragma_table_xinfo(?)")?;
    let mut rows = match info.query([&name]) {
        Ok(rows) => rows,
        Err(_) => return Ok(None),
    };
    while let Ok(Some(row)) = rows.next() {
        let (column, hidden): (String, i64) = (row.get(0)?, row.get(1)?);
        // 1 is a hidden column of a virtual table, 2 and 3 are generated ones.
        if hidden == 0 {
            writable.push(column.clone());
        }
        if hidden != 1 {
            columns.push(column);
        }
    }
    Ok((!columns.is_empty()).then_some(Table {
        name,
        columns,
        writable,
        kind,
    }))
}

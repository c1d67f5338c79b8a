//! What a statement can refer to.

use ringlite::Value;

const OBJECTS: &str = "SELECT type, name, coalesce(sql, '') FROM \
    (SELECT type, name, sql FROM sqlite_schema UNION ALL \
     SELECT type, name, sql FROM sqlite_temp_schema) \
    WHERE name NOT LIKE 'sqlite_%' AND name NOT GLOB 'ft*_*' AND name NOT GLOB 'rt*_*'";

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
    /// What the session has that `ask` asks; it gives the rows of a query, or none if it fails.
    ///
    /// What a connection is asked changes it (it ends what ends with a transaction, and loads
    /// virtual tables), so that both sessions of a comparison have to be asked.
    pub fn read(ask: &mut dyn FnMut(&str) -> Vec<Vec<Value>>) -> Self {
        let mut schema = Self::default();
        for object in ask(OBJECTS) {
            let [Value::Text(kind), Value::Text(name), Value::Text(sql)] = object.as_slice() else {
                continue;
            };
            match kind.as_str() {
                "index" => schema.indexes.push(name.clone()),
                "trigger" => schema.triggers.push(name.clone()),
                _ => {
                    let columns = ask(&format!("PRAGMA table_xinfo(\"{name}\")"));
                    let table = table(name, kind, sql, &columns);
                    // A view of something that is gone has no columns.
                    schema.tables.extend(table);
                }
            }
        }
        schema
    }

    /// The tables of some kinds.
    pub fn of(&self, kinds: &[TableKind]) -> Vec<&Table> {
        let tables = self.tables.iter();
        tables.filter(|table| kinds.contains(&table.kind)).collect()
    }
}

fn table(name: &str, kind: &str, sql: &str, columns: &[Vec<Value>]) -> Option<Table> {
    let kind = if kind == "view" {
        TableKind::View
    } else if sql.contains("USING fts5") {
        TableKind::Fts
    } else if sql.contains("USING rtree") {
        TableKind::Rtree
    } else {
        TableKind::Plain
    };
    let mut table = Table {
        name: name.to_owned(),
        columns: Vec::new(),
        writable: Vec::new(),
        kind,
    };
    for column in columns {
        let (Value::Text(name), Some(Value::Integer(hidden))) = (&column[1], column.last()) else {
            continue;
        };
        // 1 is a hidden column of a virtual table, 2 and 3 are generated ones.
        if *hidden == 0 {
            table.writable.push(name.clone());
        }
        if *hidden != 1 {
            table.columns.push(name.clone());
        }
    }
    (!table.columns.is_empty()).then_some(table)
}

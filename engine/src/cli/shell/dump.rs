//! `.dump`: a database as SQL text, as sqlite3's own `.dump` gives it.
//!
//! SQLite itself writes the literals (`quote`), so that every value comes back as it was. All of it
//! is read in one transaction. The one difference from sqlite3: a virtual table of SQLite's own
//! modules is created by its statement and filled with its rows, where sqlite3 writes the schema
//! table and the tables inside of it, which is not allowed here.

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::session::{Session, StatementError};
use crate::rows::{RowBatch, Value};

/// The tables with a statement of their own: plain ones, then virtual ones, which may be about
/// plain ones, then what SQLite keeps by itself. What virtual ones consist of is left out.
const TABLES: &str = "SELECT s.name, s.sql, l.type FROM sqlite_schema AS s \
    JOIN pragma_table_list AS l ON l.schema = 'main' AND l.name = s.name \
    WHERE s.type = 'table' AND s.sql IS NOT NULL AND l.type <> 'shadow' \
    ORDER BY s.name LIKE 'sqlite\\_%' ESCAPE '\\', l.type = 'virtual', s.rowid";

/// Everything else that has a statement, as sqlite3 orders it.
const OTHERS: &str = "SELECT sql FROM sqlite_schema \
    WHERE type IN ('index', 'trigger', 'view') AND sql IS NOT NULL ORDER BY type DESC, rowid";

/// The transaction that all of it is read in.
const SAVEPOINT: &str = "ringlite_dump";

/// Writes the open database to `out`.
pub(super) fn dump(session: &mut Session, out: &mut impl Write) -> Result<(), StatementError> {
    execute(session, &format!("SAVEPOINT {SAVEPOINT}"))?;
    let dumped = dump_snapshot(session, out);
    let released = execute(session, &format!("RELEASE {SAVEPOINT}"));
    dumped.and(released)
}

fn dump_snapshot(session: &mut Session, out: &mut impl Write) -> Result<(), StatementError> {
    print(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n")?;
    let tables = session.ask_once(|client| client.query(TABLES, &[]))?;
    let mut has_analyzed = false;
    for table in &tables.rows {
        let [Value::Text(name), Value::Text(sql), Value::Text(kind)] = table.as_slice() else {
            continue;
        };
        let before = match (name.as_str(), kind.as_str()) {
            ("sqlite_sequence", _) => "DELETE FROM sqlite_sequence;\n".to_owned(),
            (name, _) if name.starts_with("sqlite_stat") => {
                let analyze = if has_analyzed {
                    ""
                } else {
                    "ANALYZE sqlite_schema;\n"
                };
                has_analyzed = true;
                analyze.to_owned()
            }
            (name, _) if name.starts_with("sqlite_") => continue,
            _ => format!("{sql};\n"),
        };
        print(out, &before)?;
        match rows_of(sql, kind == "virtual") {
            RowsOf::All => dump_rows(session, name, false, out)?,
            RowsOf::AllWithRowid => dump_rows(session, name, true, out)?,
            RowsOf::None => {}
            RowsOf::Unreadable => print(
                out,
                &format!("-- {name:?} keeps no content, so that none of it is here\n"),
            )?,
        }
    }
    let others = session.ask_once(|client| client.query(OTHERS, &[]))?;
    for sql in others.rows.iter().filter_map(|row| row.first()) {
        if let Value::Text(sql) = sql {
            print(out, &format!("{sql};\n"))?;
        }
    }
    print(out, "COMMIT;\n")
}

fn dump_rows(
    session: &mut Session,
    table: &str,
    with_rowid: bool,
    out: &mut impl Write,
) -> Result<(), StatementError> {
    // It names the columns that an INSERT gives values for, and so no generated ones.
    let info = format!("PRAGMA table_info({})", quoted(table));
    let columns = session.ask_once(|client| client.query(&info, &[]))?;
    let columns = columns.rows.iter().filter_map(|row| match row.get(1) {
        Some(Value::Text(column)) => Some(quoted(column)),
        _ => None,
    });
    let rowid = with_rowid.then(|| "rowid".to_owned());
    let columns: Vec<_> = rowid.into_iter().chain(columns).collect();
    let literals: Vec<_> = columns.iter().map(|column| literal_of(column)).collect();
    let select = format!("SELECT {} FROM {}", literals.join(", "), quoted(table));
    let named = if with_rowid {
        format!("({})", columns.join(","))
    } else {
        String::new()
    };
    let insert = format!("INSERT INTO {}{named} VALUES(", quoted(table));
    let mut printed = Ok(());
    session.ask_once(|client| {
        client.query_each(&select, &[], |batch| {
            printed = print_rows(out, &insert, &batch);
            match printed {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })
    })?;
    printed.map_err(StatementError::Output)
}

/// Which rows of a table are dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowsOf {
    All,
    AllWithRowid,
    /// It has none of its own.
    None,
    /// It has some, and does not give them out.
    Unreadable,
}

/// The rows to dump of the table that `sql` has created.
fn rows_of(sql: &str, is_virtual: bool) -> RowsOf {
    if !is_virtual {
        return RowsOf::All;
    }
    let sql = sql.to_ascii_lowercase();
    let module = sql.split_once("using").map_or("", |(_, rest)| rest.trim());
    let end = module.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let options: String = module.split_whitespace().collect();
    let keeps_none = ["content=''", "content=\"\""]
        .iter()
        .any(|option| options.contains(option));
    match &module[..end.unwrap_or(module.len())] {
        "fts3" | "fts4" | "fts5" if keeps_none => RowsOf::Unreadable,
        "fts3" | "fts4" | "fts5" | "geopoly" => RowsOf::AllWithRowid,
        "rtree" | "rtree_i32" => RowsOf::All,
        _ => RowsOf::None,
    }
}

/// SQL for the literal of a column's value. `quote` ends at a NUL within a text.
fn literal_of(column: &str) -> String {
    format!(
        "CASE WHEN typeof({column}) = 'text' AND instr({column}, char(0)) > 0 \
         THEN 'CAST(' || quote(CAST({column} AS BLOB)) || ' AS TEXT)' ELSE quote({column}) END"
    )
}

fn print_rows(out: &mut impl Write, insert: &str, batch: &RowBatch) -> io::Result<()> {
    for row in &batch.rows {
        out.write_all(insert.as_bytes())?;
        for (position, value) in row.iter().enumerate() {
            if position > 0 {
                out.write_all(b",")?;
            }
            if let Value::Text(literal) = value {
                out.write_all(literal.as_bytes())?;
            }
        }
        out.write_all(b");\n")?;
    }
    Ok(())
}

fn print(out: &mut impl Write, text: &str) -> Result<(), StatementError> {
    out.write_all(text.as_bytes())
        .map_err(StatementError::Output)
}

fn execute(session: &mut Session, sql: &str) -> Result<(), StatementError> {
    session
        .ask_once(|client| client.execute(sql, &[]))
        .map(|_| ())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rows_are_written_as_sql() {
        assert_eq!(quoted("a\"b c"), "\"a\"\"b c\"");
        let batch = RowBatch {
            columns: std::sync::Arc::new([]),
            rows: vec![vec![
                Value::Text("1".into()),
                Value::Text("'it''s'".into()),
                Value::Text("NULL".into()),
            ]],
            complete: true,
        };
        let mut out = Vec::new();
        print_rows(&mut out, "INSERT INTO \"t\" VALUES(", &batch).unwrap();
        assert_eq!(out, b"INSERT INTO \"t\" VALUES(1,'it''s',NULL);\n");
    }

    #[test]
    fn rows_are_those_that_a_table_keeps() {
        let of = |sql| rows_of(sql, true);
        assert_eq!(rows_of("CREATE TABLE t (using)", false), RowsOf::All);
        assert_eq!(
            of("CREATE VIRTUAL TABLE a USING fts5 (b)"),
            RowsOf::AllWithRowid
        );
        assert_eq!(
            of("create virtual table a using FTS5(b, content = '')"),
            RowsOf::Unreadable
        );
        assert_eq!(
            of("CREATE VIRTUAL TABLE a USING rtree(i, x, y)"),
            RowsOf::All
        );
        assert_eq!(
            of("CREATE VIRTUAL TABLE a USING fts5vocab(b, 'row')"),
            RowsOf::None
        );
    }

    /// What SQLite makes of the literals is the value again, with its type.
    #[test]
    fn every_value_comes_back() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a)").unwrap();
        for value in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(0.1 + 0.2),
            Value::Real(f64::MAX),
            Value::Real(f64::NEG_INFINITY),
            Value::Real(5e-324),
            Value::Real(3.0),
            Value::Text("it's\n\"ä\"".into()),
            Value::Text("a\0b".into()),
            Value::Text(String::new()),
            Value::Blob(vec![0, 255]),
            Value::Blob(Vec::new()),
        ] {
            connection.execute("DELETE FROM t", []).unwrap();
            connection
                .execute("INSERT INTO t VALUES (?)", [&value])
                .unwrap();
            let select = format!("SELECT {} FROM t", literal_of("\"a\""));
            let literal: String = connection.query_row(&select, [], |row| row.get(0)).unwrap();
            let back: Value = connection
                .query_row(&format!("SELECT {literal}"), [], |row| row.get(0))
                .unwrap();
            assert_eq!(back, value, "{literal}");
        }
    }
}

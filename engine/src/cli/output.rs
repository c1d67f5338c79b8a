//! How results are printed: tables for people, JSON and CSV for programs.
//!
//! | | table | json | csv |
//! |---|---|---|---|
//! | result | drawn | one array of objects, a row per line | header and records |
//! | NULL | `NULL` | `null` | empty |
//! | BLOB | `x'0102'` | `"x'0102'"` | `x'0102'` |
//! | REAL that is no number of JSON | `inf` | `"inf"` | `inf` |
//! | second column `a` | `a` | `a_2` | `a_2` |
//!
//! JSON and CSV are written batch by batch. A table needs the widths of its columns first; it is
//! drawn after [`TABLE_ROWS_MAX`] rows, and then again, so that memory stays bounded.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use crate::rows::{Column, RowBatch, Value};

/// The most rows of one drawn table.
pub(crate) const TABLE_ROWS_MAX: usize = 10_000;

/// The narrowest terminal that a table is wrapped for, in columns.
const TERMINAL_COLUMNS_MIN: u16 = 20;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people: drawn columns
    Table,
    /// One array of objects per result; a BLOB is a string x'HEX'
    Json,
    /// A header and records (RFC 4180); NULL is empty, a BLOB is x'HEX'
    Csv,
}

impl Format {
    /// A table for a terminal, JSON for whatever else reads the standard output.
    pub(crate) fn of_stdout() -> Self {
        if io::stdout().is_terminal() {
            Self::Table
        } else {
            Self::Json
        }
    }
}

/// Prints one result, batch by batch.
pub(crate) struct ResultPrinter<W: Write> {
    out: W,
    format: Format,
    /// Empty until the first batch has come.
    names: Vec<String>,
    table: Vec<Vec<Cell>>,
    row_count: u64,
}

impl<W: Write> ResultPrinter<W> {
    /// A printer of one result to `out`.
    pub(crate) fn new(out: W, format: Format) -> Self {
        Self {
            out,
            format,
            names: Vec::new(),
            table: Vec::new(),
            row_count: 0,
        }
    }

    /// How many rows it has printed.
    pub(crate) fn row_count(&self) -> u64 {
        self.row_count
    }

    /// Whether anything was printed, or will be by the next call.
    pub(crate) fn has_started(&self) -> bool {
        !self.names.is_empty()
    }

    /// Prints the rows of a batch, and what ends the result after its last one. A result without
    /// columns prints nothing.
    ///
    /// # Errors
    /// Those of the output.
    pub(crate) fn print(&mut self, batch: &RowBatch) -> io::Result<()> {
        if batch.columns.is_empty() {
            return Ok(());
        }
        if self.names.is_empty() {
            self.start(&batch.columns)?;
        }
        match self.format {
            Format::Table => self.gather(&batch.rows)?,
            Format::Json => self.print_json(&batch.rows)?,
            Format::Csv => self.print_csv(&batch.rows)?,
        }
        if batch.complete {
            self.end()?;
        }
        Ok(())
    }

    fn start(&mut self, columns: &[Column]) -> io::Result<()> {
        self.names = match self.format {
            Format::Table => columns.iter().map(|column| visible(&column.name)).collect(),
            Format::Json | Format::Csv => unique_names(columns),
        };
        match self.format {
            Format::Table => Ok(()),
            Format::Json => self.out.write_all(b"["),
            Format::Csv => write_record(&mut self.out, self.names.iter().map(String::as_bytes)),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self.format {
            Format::Table => {
                if !self.table.is_empty() || self.row_count == 0 {
                    self.draw()?;
                }
            }
            Format::Json => self.out.write_all(b"]\n")?,
            Format::Csv => {}
        }
        self.out.flush()
    }

    fn gather(&mut self, rows: &[Vec<Value>]) -> io::Result<()> {
        for row in rows {
            self.table.push(row.iter().map(cell).collect());
            self.row_count += 1;
            if self.table.len() == TABLE_ROWS_MAX {
                self.draw()?;
            }
        }
        Ok(())
    }

    fn draw(&mut self) -> io::Result<()> {
        let mut table = new_table();
        table.set_header(&self.names);
        table.add_rows(self.table.drain(..));
        writeln!(self.out, "{table}")
    }

    fn print_json(&mut self, rows: &[Vec<Value>]) -> io::Result<()> {
        for row in rows {
            self.out
                .write_all(if self.row_count == 0 { b"{" } else { b",\n{" })?;
            for (index, (name, value)) in self.names.iter().zip(row).enumerate() {
                if index > 0 {
                    self.out.write_all(b",")?;
                }
                serde_json::to_writer(&mut self.out, name)?;
                self.out.write_all(b":")?;
                serde_json::to_writer(&mut self.out, &json_value(value))?;
            }
            self.out.write_all(b"}")?;
            self.row_count += 1;
        }
        Ok(())
    }

    fn print_csv(&mut self, rows: &[Vec<Value>]) -> io::Result<()> {
        for row in rows {
            write_record(&mut self.out, row.iter().map(csv_value))?;
            self.row_count += 1;
        }
        Ok(())
    }
}

/// Prints an object field by field, as a table of two columns. Objects in it are unfolded into
/// dotted names; arrays stay JSON.
///
/// # Errors
/// Those of the output.
pub(crate) fn print_object_table(
    out: &mut impl Write,
    object: &serde_json::Value,
) -> io::Result<()> {
    let mut fields = Vec::new();
    flatten("", object, &mut fields);
    print_table(
        out,
        &["field", "value"],
        fields.into_iter().map(|(name, value)| vec![name, value]),
    )
}

/// Prints a table of texts.
///
/// # Errors
/// Those of the output.
pub(crate) fn print_table(
    out: &mut impl Write,
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> io::Result<()> {
    let mut table = new_table();
    table.set_header(header);
    table.add_rows(rows);
    writeln!(out, "{table}")
}

/// Prints a JSON value on several lines.
///
/// # Errors
/// Those of the output.
pub(crate) fn print_json(out: &mut impl Write, value: &serde_json::Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    // A terminal that does not tell its width, or none worth fitting, gets the table as it is.
    if table
        .width()
        .is_some_and(|width| width >= TERMINAL_COLUMNS_MIN)
    {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::new("NULL"),
        Value::Integer(integer) => Cell::new(integer).set_alignment(CellAlignment::Right),
        Value::Real(real) => Cell::new(real_text(*real)).set_alignment(CellAlignment::Right),
        Value::Text(text) => Cell::new(visible(text)),
        Value::Blob(bytes) => Cell::new(blob_text(bytes)),
    }
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(integer) => (*integer).into(),
        Value::Real(real) => match serde_json::Number::from_f64(*real) {
            Some(number) => number.into(),
            None => real_text(*real).into(),
        },
        Value::Text(text) => text.as_str().into(),
        Value::Blob(bytes) => blob_text(bytes).into(),
    }
}

fn csv_value(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => Vec::new(),
        Value::Integer(integer) => integer.to_string().into_bytes(),
        Value::Real(real) => real_text(*real).into_bytes(),
        Value::Text(text) => text.as_bytes().to_vec(),
        Value::Blob(bytes) => blob_text(bytes).into_bytes(),
    }
}

/// One record. The writer of the csv crate holds a buffer of its own, so it lives for one only.
fn write_record<T: AsRef<[u8]>>(
    out: &mut impl Write,
    fields: impl Iterator<Item = T>,
) -> io::Result<()> {
    let mut record = csv::Writer::from_writer(Vec::new());
    record.write_record(fields).map_err(io::Error::other)?;
    out.write_all(
        &record
            .into_inner()
            .map_err(|error| io::Error::other(error.to_string()))?,
    )
}

/// The shortest text that reads back as the same number, always with a point or an exponent.
fn real_text(real: f64) -> String {
    format!("{real:?}")
}

/// A BLOB as SQL writes it.
fn blob_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len() + 3);
    text.push_str("x'");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\'');
    text
}

/// The text with its control characters made visible, so that data cannot steer the terminal.
fn visible(text: &str) -> String {
    let is_harmless = |c: char| !c.is_control() || c == '\n';
    if text.chars().all(is_harmless) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_harmless(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// The names of the columns; one that comes again gets the next free suffix `_2`, `_3`, ...
fn unique_names(columns: &[Column]) -> Vec<String> {
    let given: HashSet<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let mut used: HashSet<String> = HashSet::new();
    let unique = columns.iter().map(|column| {
        let mut name = column.name.clone();
        let mut number = 2_usize;
        while used.contains(&name) || (number > 2 && given.contains(name.as_str())) {
            name = format!("{}_{number}", column.name);
            number += 1;
        }
        used.insert(name.clone());
        name
    });
    unique.collect()
}

fn flatten(prefix: &str, value: &serde_json::Value, fields: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                let name = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                flatten(&name, value, fields);
            }
        }
        serde_json::Value::String(text) => fields.push((prefix.to_owned(), visible(text))),
        other => fields.push((prefix.to_owned(), visible(&other.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ColumnKind;

    fn columns(names: &[&str]) -> Vec<Column> {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            kind: ColumnKind::Plain,
        };
        names.iter().map(column).collect()
    }

    fn batch(names: &[&str], rows: Vec<Vec<Value>>, complete: bool) -> RowBatch {
        RowBatch {
            columns: columns(names).into(),
            rows,
            complete,
        }
    }

    fn printed(format: Format, batches: &[RowBatch]) -> String {
        let mut out = Vec::new();
        let mut printer = ResultPrinter::new(&mut out, format);
        for batch in batches {
            printer.print(batch).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    fn each_type() -> Vec<Value> {
        vec![
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(1.0),
            Value::Text("a \"b\",\n\u{1b}c".into()),
            Value::Blob(vec![0, 0xab]),
        ]
    }

    const NAMES: [&str; 5] = ["n", "i", "r", "t", "b"];

    #[test]
    fn json_is_one_array_over_all_batches() {
        let batches = [
            batch(
                &["a"],
                vec![vec![Value::Integer(1)], vec![Value::Integer(2)]],
                false,
            ),
            batch(&["a"], vec![], false),
            batch(&["a"], vec![vec![Value::Integer(3)]], true),
        ];
        assert_eq!(
            printed(Format::Json, &batches),
            "[{\"a\":1},\n{\"a\":2},\n{\"a\":3}]\n"
        );
        assert_eq!(
            printed(Format::Json, &[batch(&["a"], vec![], true)]),
            "[]\n"
        );
    }

    #[test]
    fn json_of_each_type_can_be_read() {
        let text = printed(Format::Json, &[batch(&NAMES, vec![each_type()], true)]);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!([{
            "n": null, "i": i64::MIN, "r": 1.0, "t": "a \"b\",\n\u{1b}c", "b": "x'00ab'",
        }]);
        assert_eq!(read, expected);
        assert!(
            text.starts_with(r#"[{"n":null,"i":-9223372036854775808,"r":1.0,"#),
            "{text}"
        );
    }

    #[test]
    fn json_has_no_infinity() {
        let rows = vec![
            vec![Value::Real(f64::INFINITY)],
            vec![Value::Real(f64::NEG_INFINITY)],
        ];
        let text = printed(Format::Json, &[batch(&["a"], rows, true)]);
        assert_eq!(text, "[{\"a\":\"inf\"},\n{\"a\":\"-inf\"}]\n");
    }

    #[test]
    fn columns_of_one_name_lose_nothing() {
        let check = |names: &[&str], expected: &[&str]| {
            assert_eq!(unique_names(&columns(names)), expected);
        };
        check(&["a", "b"], &["a", "b"]);
        check(&["a", "a", "a"], &["a", "a_2", "a_3"]);
        check(&["a", "a", "a_2"], &["a", "a_3", "a_2"]);
        check(&["a_2", "a", "a"], &["a_2", "a", "a_3"]);
        check(&["", ""], &["", "_2"]);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let text = printed(Format::Csv, &[batch(&NAMES, vec![each_type()], true)]);
        let expected = "n,i,r,t,b\n,-9223372036854775808,1.0,\"a \"\"b\"\",\n\u{1b}c\",x'00ab'\n";
        assert_eq!(text, expected);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(&record[3], "a \"b\",\n\u{1b}c");
    }

    #[test]
    fn csv_has_its_header_once() {
        let part = |complete| batch(&["a"], vec![vec![Value::Integer(1)]], complete);
        assert_eq!(
            printed(Format::Csv, &[part(false), part(true)]),
            "a\n1\n1\n"
        );
    }

    #[test]
    fn a_table_shows_null_and_disarms_control_characters() {
        let text = printed(Format::Table, &[batch(&NAMES, vec![each_type()], true)]);
        for shown in ["NULL", "-9223372036854775808", "1.0", "\\u{1b}c", "x'00ab'"] {
            assert!(text.contains(shown), "{shown} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_long_table_is_drawn_in_parts() {
        let rows = vec![vec![Value::Integer(1)]; TABLE_ROWS_MAX + 1];
        let text = printed(Format::Table, &[batch(&["name"], rows, true)]);
        assert_eq!(text.matches("name").count(), 2);
        let empty = printed(Format::Table, &[batch(&["name"], vec![], true)]);
        assert_eq!(empty.matches("name").count(), 1);
    }

    #[test]
    fn a_result_without_columns_prints_nothing() {
        for format in [Format::Table, Format::Json, Format::Csv] {
            assert_eq!(printed(format, &[batch(&[], vec![], true)]), "");
        }
    }

    #[test]
    fn objects_are_unfolded_into_dotted_names() {
        let object = serde_json::json!({
            "role": "leader",
            "log": {"first": 1, "last": 9, "gap": {}},
            "peers": [{"id": 2}],
        });
        let mut fields = Vec::new();
        flatten("", &object, &mut fields);
        fields.sort();
        let expected = [
            ("log.first", "1"),
            ("log.gap", "{}"),
            ("log.last", "9"),
            ("peers", r#"[{"id":2}]"#),
            ("role", "leader"),
        ];
        assert_eq!(
            fields,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}

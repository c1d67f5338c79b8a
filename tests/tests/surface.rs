//! `docs/SQL.md` against a session of a real node: its table of PRAGMAs is complete and every row
//! of it is true, its limits are those that are set, and what it says of VACUUM INTO holds.

use std::collections::BTreeSet;
use std::path::Path;

use ringlite::{Database, Error, Node, Value};
use ringlite_tests::reference::Reference;
use rusqlite::limits::Limit;
use tempfile::TempDir;

const DOCUMENT: &str = include_str!("../../docs/SQL.md");
const SCHEMA: &str = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TABLE child (parent REFERENCES parent (id), text TEXT);
    CREATE INDEX by_text ON child (text);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 'a');";

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn start(directory: &Path) -> Node {
    let builder = Node::builder(directory.join("data")).segment_bytes(4 << 20);
    builder.start().unwrap()
}

/// The rows of the table under a heading of the document, without its header.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = DOCUMENT
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("the document has no section {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| {
        let line = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(line.split('|').map(str::trim).collect())
    });
    rows.skip(2).collect()
}

/// A refusal as a session sees it.
fn refusal(database: &Database, sql: &str) -> String {
    match database.query(sql, ()) {
        Err(Error::Sqlite { code: 23, message }) => message,
        other => panic!("{sql} is not refused: {other:?}"),
    }
}

fn rows(database: &Database, sql: &str) -> Vec<Vec<Value>> {
    let rows = database.query(sql, ());
    rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
        .into_values()
}

#[test]
fn the_table_of_pragmas_is_complete_and_true() {
    let directory = directory();
    let node = start(directory.path());
    let listed: BTreeSet<String> = table("PRAGMAs")
        .iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let known: BTreeSet<String> = rows(&node.database("list").unwrap(), "PRAGMA pragma_list")
        .into_iter()
        .map(|row| match row.into_iter().next() {
            Some(Value::Text(name)) => name,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(listed, known);

    for (number, row) in table("PRAGMAs").into_iter().enumerate() {
        let [pragma, here, example, remark] = row[..] else {
            panic!("a row of another form: {row:?}");
        };
        let pragma = pragma.trim_matches('`');
        let example = example.trim_matches('`');
        assert!(example.starts_with(&format!("PRAGMA {pragma}")), "{row:?}");
        // Each in a session and a database of its own.
        let name = format!("pragma-{number}");
        let database = node.database(&name).unwrap();
        let mut plain = Reference::open(directory.path(), &name);
        database.execute(SCHEMA, ()).unwrap();
        plain.connection().execute_batch(SCHEMA).unwrap();
        let read = format!("PRAGMA {pragma}");
        match here {
            "allowed" => {
                for sql in [example, &read] {
                    let found = rows(&database, sql);
                    match pragma {
                        // The file names and the functions are different on purpose.
                        "database_list" => {
                            assert_eq!(found[0][2], Value::Text(name.clone()), "{sql}");
                        }
                        "function_list" => {
                            let plain = plain.query(sql, &[]).unwrap().rows;
                            assert!(found.len() > plain.len());
                        }
                        _ => {
                            let expected = plain.query(sql, &[]).unwrap().rows;
                            assert_eq!(found, expected, "{sql}");
                        }
                    }
                }
            }
            "no effect" => {
                let before = rows(&database, &read);
                assert_eq!(rows(&database, example), Vec::<Vec<Value>>::new());
                assert_eq!(rows(&database, &read), before, "{example}");
                plain.query(example, &[]).unwrap();
                let changed = plain.query(&read, &[]).unwrap().rows;
                assert_ne!(
                    changed, before,
                    "the example changes nothing in SQLite either"
                );
            }
            "setting refused" => {
                let before = rows(&database, &read);
                let found = refusal(&database, example);
                assert_eq!(
                    found,
                    format!("not authorized: PRAGMA {pragma} is refused here: {remark}")
                );
                assert_eq!(rows(&database, &read), before);
            }
            "refused" => {
                for sql in [example, &read] {
                    assert!(refusal(&database, sql).ends_with(remark), "{sql}");
                }
            }
            other => panic!("what is {other:?}?"),
        }
        let check = rows(&database, "PRAGMA integrity_check");
        assert_eq!(check, [[Value::Text("ok".into())]]);
    }
}

#[test]
fn the_limits_of_the_document_hold() {
    let directory = directory();
    let node = start(directory.path());
    let database = node.database("limits").unwrap();
    let limits = table("Limits");
    let limit = |name: &str| -> usize {
        let row = limits.iter().find(|row| row[0] == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in the document"));
        row[1].parse().unwrap()
    };
    // What is at the limit succeeds, and what is one above it does not.
    let check = |what: &str, value: usize, sql: &dyn Fn(usize) -> String| {
        let value = limit(what).min(value);
        database
            .query(&sql(value), ())
            .unwrap_or_else(|error| panic!("{what}: {value} of them fail: {error}"));
        let error = database.query(&sql(value + 1), ()).unwrap_err();
        assert!(matches!(error, Error::Sqlite { .. }), "{what}: {error:?}");
    };
    let list = |count: usize, item: &str, by: &str| vec![item; count].join(by);
    check("bytes of a text, a blob, a row", usize::MAX, &|n| {
        format!("SELECT length(zeroblob({n}))")
    });
    check("bytes of the SQL text of a request", usize::MAX, &|n| {
        format!("SELECT 1{}", " ".repeat(n - 8))
    });
    check("columns of a table, an index, a result", usize::MAX, &|n| {
        format!("SELECT {}", list(n, "1", ","))
    });
    check("terms of a compound SELECT", usize::MAX, &|n| {
        list(n, "SELECT 1", " UNION ALL ")
    });
    check("arguments of a function", usize::MAX, &|n| {
        format!("SELECT max({})", list(n, "1", ","))
    });
    check("bytes of a LIKE or GLOB pattern", usize::MAX, &|n| {
        format!("SELECT 'a' LIKE printf('%.*c', {n}, 'a')")
    });
    check("parameters of a statement", usize::MAX, &|n| {
        format!("SELECT ?{n}")
    });
    // A literal has a depth of its own.
    check("depth of an expression", usize::MAX, &|n| {
        format!("SELECT {}1", "~".repeat(n - 1))
    });
    // SQLite's own limits are those of the document, too.
    let plain = rusqlite::Connection::open_in_memory().unwrap();
    for (name, limit) in [
        ("bytes of a text, a blob, a row", Limit::SQLITE_LIMIT_LENGTH),
        (
            "bytes of the SQL text of a request",
            Limit::SQLITE_LIMIT_SQL_LENGTH,
        ),
        (
            "instructions of a compiled statement",
            Limit::SQLITE_LIMIT_VDBE_OP,
        ),
        ("depth of triggers", Limit::SQLITE_LIMIT_TRIGGER_DEPTH),
        ("attached databases", Limit::SQLITE_LIMIT_ATTACHED),
    ] {
        let row = limits.iter().find(|row| row[0] == name).unwrap();
        assert_eq!(row[2], plain.limit(limit).unwrap().to_string(), "{name}");
    }
}

#[test]
fn vacuum_into_writes_only_where_the_operator_allows() {
    let directory = directory();
    let node = start(directory.path());
    let database = node.database("app").unwrap();
    database.execute(SCHEMA, ()).unwrap();
    for sql in [
        "VACUUM INTO 'copy.db'",
        "VACUUM INTO '/tmp/copy.db'",
        "VACUUM INTO ('co' || 'py.db')",
        "VACUUM INTO 'file:copy.db?vfs=unix'",
    ] {
        assert!(
            refusal(&database, sql).contains("--vacuum-into DIR"),
            "{sql}"
        );
    }
    drop((database, node));

    let copies = directory.path().join("copies of it's own");
    std::fs::create_dir(&copies).unwrap();
    let node = Node::builder(directory.path().join("data"))
        .segment_bytes(4 << 20)
        .vacuum_into(&copies)
        .start()
        .unwrap();
    let database = node.database("app").unwrap();
    let outside = directory.path().join("copy.db");
    for name in [
        "../copy.db".to_owned(),
        "a/../../copy.db".to_owned(),
        outside.display().to_string(),
        format!("file:{}?vfs=unix", outside.display()),
        "file:copy.db".to_owned(),
        format!("{}/../copy.db", copies.canonicalize().unwrap().display()),
    ] {
        let told = refusal(
            &database,
            &format!("VACUUM INTO '{}'", name.replace('\'', "''")),
        );
        assert!(told.contains("the name of a file alone"), "{told}");
    }
    assert!(!outside.exists());

    database.execute("VACUUM INTO 'copy.db'", ()).unwrap();
    database
        .execute("VACUUM main INTO ('100%' || ' b.db')", ())
        .unwrap();
    for name in ["copy.db", "100% b.db"] {
        let copy = rusqlite::Connection::open(copies.join(name)).unwrap();
        let check: String = copy
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        let text: String = copy
            .query_row("SELECT text FROM child", [], |row| row.get(0))
            .unwrap();
        assert_eq!(text, "a");
    }
    // The schema that it names, though a database has the name of the file.
    let other = node.database("other.db").unwrap();
    other.execute("CREATE TABLE t (x)", ()).unwrap();
    other.execute("INSERT INTO t VALUES (7)", ()).unwrap();
    database
        .execute("ATTACH 'other.db' AS \"an \"\"other\"", ())
        .unwrap();
    database
        .execute("VACUUM \"an \"\"other\" /* INTO 'x' */ INTO 'other.db'", ())
        .unwrap();
    let copy = rusqlite::Connection::open(copies.join("other.db")).unwrap();
    let x: i64 = copy
        .query_row("SELECT x FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(x, 7);
    database.execute("VACUUM \"an \"\"other\"", ()).unwrap();
    database.execute("DETACH \"an \"\"other\"", ()).unwrap();

    let error = database.execute("VACUUM INTO 'copy.db'", ()).unwrap_err();
    assert_eq!(error.to_string(), "output file already exists");
    // The session is as it was.
    assert!(
        refusal(&database, "ATTACH ':memory:' AS copy").contains("give the name of a database")
    );
    let error = database
        .execute("ATTACH 'copy.db' AS copy", ())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("there is no database of this name")
    );
    database
        .execute("INSERT INTO child VALUES (1, 'b')", ())
        .unwrap();
    database.execute("VACUUM", ()).unwrap();
    assert_eq!(
        rows(&database, "SELECT count(*) FROM child"),
        [[Value::Integer(2)]]
    );
}

#[test]
fn what_breaks_replication_or_the_node_is_refused_with_the_reason() {
    let directory = directory();
    let node = start(directory.path());
    let database = node.database("app").unwrap();
    database.execute(SCHEMA, ()).unwrap();
    database
        .execute("CREATE VIRTUAL TABLE notes USING fts5 (text)", ())
        .unwrap();
    for (sql, words) in [
        ("ATTACH 'a/b' AS other", "give the name of a database"),
        ("ATTACH ':memory:' AS other", "give the name of a database"),
        ("ATTACH '' AS other", "give the name of a database"),
        (
            "ATTACH ('o' || 'ther.db') AS other",
            "ATTACH is refused here",
        ),
        ("ATTACH ?1 AS other", "ATTACH is refused here"),
        ("DETACH main", "cannot detach database main"),
        (
            "SELECT load_extension('libm')",
            "load_extension() is refused here",
        ),
        (
            "SELECT load_extension('libm', 'f')",
            "load_extension() is refused here",
        ),
        ("PRAGMA main.journal_mode = OFF", "the mode stays WAL"),
        ("PRAGMA cache_size = -100000000", "page cache"),
        ("SELECT * FROM pragma_wal_checkpoint", "no such table"),
    ] {
        let error = database.query(sql, ()).unwrap_err();
        assert!(error.to_string().contains(words), "{sql}: {error}");
        // The reason is that of this statement and is not told of the next.
        let next = database.query("SELEC 1", ()).unwrap_err();
        assert!(next.to_string().contains("syntax error"), "{next}");
    }
    // Defensive: these are SQLite's own words.
    for sql in [
        "UPDATE sqlite_schema SET sql = ''",
        "DELETE FROM notes_data",
        "DROP TABLE notes_data",
    ] {
        let error = database.execute(sql, ()).unwrap_err();
        assert!(error.to_string().contains("may not be"), "{sql}: {error}");
    }
}

#[test]
fn the_functions_of_mathematics_are_those_of_sqlite() {
    let directory = directory();
    let node = start(directory.path());
    let database = node.database("app").unwrap();
    // The results are those of the sqlite3 shell, which is built with these functions.
    for (sql, expected) in [
        ("ceil(1.5)", "2.0"),
        ("ceil(-7)", "-7"),
        ("floor('1.5')", "1.0"),
        ("trunc(-1.5)", "-1.0"),
        ("floor(9223372036854775807)", "9223372036854775807"),
        ("sqrt(2)", "1.414213562"),
        ("sqrt(-1)", "NULL"),
        ("pow(2, 10)", "1024.0"),
        ("power(2, 0.5)", "1.414213562"),
        ("mod(7, 3)", "1.0"),
        ("mod(7.5, 0)", "NULL"),
        ("ln(0)", "NULL"),
        ("exp(1)", "2.718281828"),
        ("ln(exp(3))", "3.0"),
        ("log(100)", "2.0"),
        ("log10(1000)", "3.0"),
        ("log2(8)", "3.0"),
        ("log(2, 8)", "3.0"),
        ("log(1, 8)", "NULL"),
        ("log(0.5, 8)", "NULL"),
        ("pi()", "3.141592654"),
        ("degrees(pi())", "180.0"),
        ("radians(180)", "3.141592654"),
        ("sin(pi() / 2)", "1.0"),
        ("atan2(1, 1) * 4", "3.141592654"),
        ("acosh(0)", "NULL"),
        ("sqrt('4')", "2.0"),
        ("sqrt('four')", "NULL"),
        ("sqrt(x'34')", "NULL"),
        ("sqrt(NULL)", "NULL"),
        ("pow(2, NULL)", "NULL"),
    ] {
        let sql = format!(
            "SELECT quote(CASE typeof({sql}) WHEN 'real' THEN round({sql}, 9) ELSE {sql} END)"
        );
        assert_eq!(
            rows(&database, &sql),
            [[Value::Text(expected.into())]],
            "{sql}"
        );
    }
    // They may be used where only deterministic and harmless functions may.
    database
        .execute(
            "CREATE TABLE t (x, root AS (sqrt(x)) STORED); CREATE INDEX i ON t (ln(x));
             CREATE VIEW v AS SELECT pow(x, 2) AS square FROM t; INSERT INTO t VALUES (9);",
            (),
        )
        .unwrap();
    let found = rows(&database, "SELECT root, square FROM t, v");
    assert_eq!(found, [[Value::Real(3.0), Value::Real(81.0)]]);
}

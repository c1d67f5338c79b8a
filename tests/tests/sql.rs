//! SQL as users write it, on three nodes: through the shell and through the client. Everything
//! that SQLite does is there and is the same on all nodes page by page; what would leave the
//! replicated database is refused.
//!
//! `SQL_MEGABYTES` sets the size of the large transactions (20 unless told).

use std::ops::ControlFlow;

use ringlite::local_cluster::LocalCluster;
use ringlite::{Client, ClientError, Value};
use ringlite_tests::shell::{self, Format, Shell};
use ringlite_tests::{process, scene};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "sql";

/// Three nodes, and the directory that they live in.
struct Three {
    cluster: LocalCluster,
    _directory: TempDir,
}

impl Three {
    fn start() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self {
            cluster: scene::start(PROGRAM, directory.path(), 3),
            _directory: directory,
        }
    }

    fn shell(&self) -> Shell<'static> {
        Shell::new(PROGRAM, &self.cluster, DATABASE)
    }

    fn client(&mut self) -> Client {
        scene::open(&mut self.cluster, DATABASE)
    }

    /// All nodes have the same pages, and SQLite finds them in order.
    fn check(&mut self) {
        let mut client = self.client();
        let result = client.query("PRAGMA integrity_check", &[]).unwrap();
        assert_eq!(result.rows, [[Value::Text("ok".into())]]);
        scene::assert_identical(&mut self.cluster, DATABASE);
    }
}

impl Drop for Three {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("dead node: {:?}", self.cluster.dead_node());
            for id in 1..=3 {
                let told = std::fs::read_to_string(self.cluster.log_of(id));
                println!("node {id}:\n{}", told.unwrap_or_default());
            }
        }
    }
}

#[test]
fn statements_and_transactions_may_span_lines() {
    let mut three = Three::start();
    let shell = three.shell();
    let printed = shell.json(
        "CREATE TABLE pets (\n  id INTEGER PRIMARY KEY, -- a comment; with a semicolon\n\
         name TEXT\n);\n\
         BEGIN;\nINSERT INTO pets (name) VALUES ('Rex; the dog');\n\
         INSERT INTO pets (name)\nVALUES ('Tom') RETURNING id, name;\nCOMMIT;\n\
         BEGIN;\nDELETE FROM pets;\nROLLBACK;\n\
         UPDATE pets SET name = upper(name) WHERE id = 2 RETURNING name;\n\
         SELECT * FROM pets ORDER BY id;\n",
    );
    assert_eq!(
        printed,
        "[{\"id\":2,\"name\":\"Tom\"}]\n\
         [{\"name\":\"TOM\"}]\n\
         [{\"id\":1,\"name\":\"Rex; the dog\"},\n{\"id\":2,\"name\":\"TOM\"}]\n"
    );
    let argument = "BEGIN; DELETE FROM pets WHERE id = 1; COMMIT; SELECT count(*) AS n FROM pets";
    let printed = shell.argument(Format::Json, argument).succeeded();
    assert_eq!(printed, "[{\"n\":1}]\n");
    // A transaction that the input leaves open is rolled back.
    shell.json("BEGIN;\nDELETE FROM pets;\n");
    assert_eq!(
        shell.json("SELECT count(*) AS n FROM pets"),
        "[{\"n\":1}]\n"
    );
    three.check();
}

#[test]
fn values_are_printed_exactly() {
    let mut three = Three::start();
    let shell = three.shell();
    shell.json(
        "CREATE TABLE v (a, b, c, d, e);\n\
         INSERT INTO v VALUES (NULL, -9223372036854775808, 0.1, x'00ff', 'say \"hi\", ok');\n\
         INSERT INTO v VALUES (9e999, 9007199254740993, 1.0, x'', 'two\nlines');\n",
    );
    let select = "SELECT a, b, c, d, e, e AS a FROM v";
    assert_eq!(
        shell.json(select),
        "[{\"a\":null,\"b\":-9223372036854775808,\"c\":0.1,\"d\":\"x'00ff'\",\
         \"e\":\"say \\\"hi\\\", ok\",\"a_2\":\"say \\\"hi\\\", ok\"},\n\
         {\"a\":\"inf\",\"b\":9007199254740993,\"c\":1.0,\"d\":\"x''\",\
         \"e\":\"two\\nlines\",\"a_2\":\"two\\nlines\"}]\n"
    );
    let csv = shell.argument(Format::Csv, select).succeeded();
    assert_eq!(
        csv,
        "a,b,c,d,e,a_2\n\
         ,-9223372036854775808,0.1,x'00ff',\"say \"\"hi\"\", ok\",\"say \"\"hi\"\", ok\"\n\
         inf,9007199254740993,1.0,x'',\"two\nlines\",\"two\nlines\"\n"
    );
    assert_eq!(shell.json("SELECT a FROM v WHERE 0"), "[]\n");
    let csv = shell
        .script(Format::Csv, "SELECT a FROM v WHERE 0")
        .succeeded();
    assert_eq!(csv, "a\n");
    three.check();
}

#[test]
fn the_first_error_ends_the_script_with_a_status() {
    let mut three = Three::start();
    let shell = three.shell();
    let failed = shell.script(
        Format::Json,
        "CREATE TABLE t (a INTEGER PRIMARY KEY);\nINSERT INTO t VALUES (1);\nSELECT a FROM t;\n\
         INSERT INTO t VALUES (1);\nINSERT INTO t VALUES (2);\n",
    );
    assert_eq!(failed.stdout, "[{\"a\":1}]\n");
    assert_eq!(
        failed.refusal(),
        "UNIQUE constraint failed: t.a (code 1555), in: INSERT INTO t VALUES (1);"
    );
    assert_eq!(shell.json("SELECT count(*) AS n FROM t"), "[{\"n\":1}]\n");
    for (sql, words) in [
        ("SELEC 1", "near \"SELEC\": syntax error"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        (".nothing", "there is no command .nothing"),
    ] {
        let failed = shell.argument(Format::Json, sql);
        assert!(failed.refusal().contains(words), "{failed:?}");
    }
    three.check();
}

#[test]
fn what_is_not_deterministic_is_the_same_on_all_nodes() {
    let mut three = Three::start();
    let shell = three.shell();
    shell.json(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, text TEXT,\n\
         at TEXT DEFAULT (datetime('now')), stamp TEXT DEFAULT CURRENT_TIMESTAMP,\n\
         dice INTEGER DEFAULT (random()), salt BLOB DEFAULT (randomblob(16)));\n\
         CREATE TABLE log (event INTEGER, dice INTEGER);\n\
         CREATE TRIGGER noted AFTER INSERT ON events BEGIN\n\
           INSERT INTO log VALUES (new.id, random());\n\
           UPDATE events SET text = text || '!' WHERE id = new.id;\nEND;\n\
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)\n\
         INSERT INTO events (text) SELECT 'event ' || i FROM n;\n",
    );
    let printed = shell.json(
        "SELECT count(*) AS n, count(DISTINCT dice) AS dice, count(DISTINCT salt) AS salt,\n\
         min(text) AS text, sum(at GLOB '20??-*' AND stamp GLOB '20??-*') AS dated FROM events;\n\
         SELECT count(DISTINCT dice) AS n FROM log;",
    );
    assert_eq!(
        printed,
        "[{\"n\":500,\"dice\":500,\"salt\":500,\"text\":\"event 1!\",\"dated\":500}]\n\
         [{\"n\":500}]\n"
    );
    let leader = scene::connect(&mut three.cluster)
        .digest(DATABASE, 0)
        .unwrap();
    for address in three.cluster.addresses() {
        let digest = shell::digest(PROGRAM, &address, DATABASE, leader.applied);
        assert_eq!(digest["digest"], leader.digest, "{address}: {digest}");
        assert_eq!(
            digest["page_count"], leader.page_count,
            "{address}: {digest}"
        );
    }
    // The digest tells databases apart: one more bit is another digest.
    shell.json("UPDATE log SET dice = ~dice WHERE event = 250;");
    let after = scene::assert_identical(&mut three.cluster, DATABASE);
    assert_ne!(after.digest, leader.digest);
    three.check();
}

#[test]
fn savepoints_foreign_keys_and_schema_changes_work() {
    let mut three = Three::start();
    let shell = three.shell();
    let printed = shell.json(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY);\n\
         CREATE TABLE child (parent INTEGER REFERENCES parent (id) ON DELETE CASCADE, n);\n\
         BEGIN;\nINSERT INTO parent VALUES (1), (2);\nSAVEPOINT a;\n\
         INSERT INTO child VALUES (1, 1), (2, 2);\nSAVEPOINT b;\nDELETE FROM child;\n\
         ROLLBACK TO b;\nRELEASE a;\nCOMMIT;\n\
         SELECT * FROM child;\nDELETE FROM parent WHERE id = 1;\nSELECT * FROM child;\n\
         ALTER TABLE child ADD COLUMN more TEXT DEFAULT 'x';\n\
         CREATE INDEX by_n ON child (n, more);\n\
         SELECT more FROM child WHERE n = 2;\n\
         SAVEPOINT alone;\nDELETE FROM child;\nROLLBACK TO alone;\nRELEASE alone;\n\
         DROP INDEX by_n;\nALTER TABLE child RENAME TO kid;\nSELECT count(*) AS n FROM kid;\n",
    );
    assert_eq!(
        printed,
        "[{\"parent\":1,\"n\":1},\n{\"parent\":2,\"n\":2}]\n[{\"parent\":2,\"n\":2}]\n\
         [{\"more\":\"x\"}]\n[{\"n\":1}]\n"
    );
    let failed = shell.argument(Format::Json, "INSERT INTO kid VALUES (99, 1, NULL)");
    assert!(
        failed
            .refusal()
            .starts_with("FOREIGN KEY constraint failed")
    );
    three.check();
}

#[test]
fn temporary_tables_full_text_search_and_vacuum_work() {
    let mut three = Three::start();
    let shell = three.shell();
    let printed = shell.json(
        "CREATE VIRTUAL TABLE notes USING fts5 (title, body);\n\
         INSERT INTO notes VALUES ('one', 'the quick brown fox'), ('two', 'a lazy dog');\n\
         SELECT title FROM notes WHERE notes MATCH 'quick OR fox';\n\
         CREATE TEMP TABLE scratch (a);\nINSERT INTO scratch VALUES (1), (2), (3);\n\
         SELECT sum(a) AS n FROM scratch;\n\
         CREATE TABLE big (b);\n\
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)\n\
         INSERT INTO big SELECT randomblob(1000) FROM n;\n",
    );
    assert_eq!(printed, "[{\"title\":\"one\"}]\n[{\"n\":6}]\n");
    let failed = shell.argument(Format::Json, "SELECT * FROM temp.scratch");
    assert!(failed.refusal().contains("no such table"), "{failed:?}");
    let before = scene::assert_identical(&mut three.cluster, DATABASE);
    three.shell().json("DELETE FROM big;\nVACUUM;\n");
    let after = scene::assert_identical(&mut three.cluster, DATABASE);
    assert!(before.page_count > 500, "{before:?}");
    assert!(after.page_count < 50, "{after:?}");
    three.check();
}

#[test]
fn what_would_leave_the_replicated_database_is_refused() {
    let mut three = Three::start();
    let shell = three.shell();
    shell.json("CREATE TABLE t (a); INSERT INTO t VALUES (1);");
    for (sql, reason) in [
        ("PRAGMA journal_mode = DELETE", "the mode stays WAL"),
        ("PRAGMA main.journal_mode = OFF", "the mode stays WAL"),
        ("PRAGMA locking_mode = EXCLUSIVE", "many sessions at once"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", "the WAL is in memory"),
        ("PRAGMA wal_checkpoint", "the WAL is in memory"),
        ("PRAGMA query_only = 1", "the node's decision"),
        (
            "ATTACH '../other.db' AS other",
            "give the name of a database of this cluster",
        ),
        (
            "ATTACH ':memory:' AS other",
            "give the name of a database of this cluster",
        ),
        (
            "ATTACH ('oth' || 'er.db') AS other",
            "written out in the statement",
        ),
        ("VACUUM INTO 'elsewhere.db'", "--vacuum-into DIR"),
        ("SELECT load_extension('libm')", "foreign code"),
    ] {
        let failed = shell.argument(Format::Json, sql);
        let refusal = failed.refusal();
        assert!(refusal.contains(sql), "{refusal}");
        assert!(
            refusal.contains(reason),
            "{sql}: the refusal does not say why: {refusal}"
        );
        assert!(refusal.contains("(code 23)"), "{refusal}");
    }
    // What drivers set when they connect is accepted without effect.
    shell.json("PRAGMA synchronous = OFF; PRAGMA busy_timeout = 5000; PRAGMA mmap_size = 1000000;");
    assert_eq!(
        shell.json("PRAGMA journal_mode"),
        "[{\"journal_mode\":\"wal\"}]\n"
    );
    shell.json("INSERT INTO t VALUES (2);");
    assert_eq!(shell.json("SELECT sum(a) AS n FROM t"), "[{\"n\":3}]\n");
    three.check();
}

/// Runs a large transaction that leaves `rows` rows in `big`. It may cost the leader its lead (see
/// the test below), but then it is there as a whole or not at all, and can be run again.
fn write_largely(
    client: &mut Client,
    rows: i64,
    act: impl Fn(&mut Client) -> Result<(), ClientError>,
) {
    const ATTEMPTS: usize = 8;
    let before = scene::integer(client, "SELECT count(*) FROM big");
    for _ in 0..ATTEMPTS {
        let done = act(client);
        if let Err(error) = &done {
            assert!(
                error.is_not_leader() || error.is_outcome_unknown(),
                "{error}"
            );
            client.reconnect().unwrap();
        }
        let found = scene::integer(client, "SELECT count(*) FROM big");
        if found == rows {
            return;
        }
        assert!(done.is_err(), "{found} of {rows} rows, and no error");
        assert_eq!(
            found, before,
            "a transaction is there in part after {done:?}"
        );
    }
    panic!("no leader has lasted for one of {ATTEMPTS} large transactions");
}

fn fill(kilobytes: i64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {kilobytes}) \
         INSERT INTO big (b) SELECT randomblob(1000) FROM n"
    )
}

#[test]
fn a_large_transaction_is_replicated_whole_or_not_at_all() {
    let mut three = Three::start();
    let mut client = three.client();
    let kilobytes = i64::try_from(process::size("SQL_MEGABYTES", 20) << 10).unwrap();
    client
        .execute("CREATE TABLE big (id INTEGER PRIMARY KEY, b BLOB)", &[])
        .unwrap();
    let sql = fill(kilobytes);
    write_largely(&mut client, 0, |client| {
        client.execute("BEGIN", &[])?;
        client.execute(&sql, &[])?;
        client.execute("ROLLBACK", &[]).map(drop)
    });
    write_largely(&mut client, kilobytes, |client| {
        client.execute(&sql, &[]).map(drop)
    });
    let digest = scene::assert_identical(&mut three.cluster, DATABASE);
    assert!(
        digest.page_count * 4 > u64::try_from(kilobytes).unwrap(),
        "{digest:?}"
    );

    // The same in many statements.
    let more = kilobytes / 16;
    write_largely(&mut client, kilobytes + more, |client| {
        client.execute("BEGIN", &[])?;
        let insert = client.prepare("INSERT INTO big (b) VALUES (?)")?;
        for number in 0..more {
            let blob = Value::Blob(vec![(number % 251) as u8; 16 << 10]);
            client.execute_prepared(&insert, &[blob])?;
        }
        client.execute("COMMIT", &[]).map(drop)
    });
    three.check();
}

#[test]
fn prepared_statements_work_and_end_with_their_connection() {
    let mut three = Three::start();
    let mut client = three.client();
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    let insert = client.prepare("INSERT INTO t (b) VALUES (?)").unwrap();
    assert_eq!(insert.parameter_count(), 1);
    for (number, value) in (1..).zip([
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.5),
        Value::Text("ä\u{1F600}".into()),
        Value::Blob(vec![0, 255]),
        Value::Blob(Vec::new()),
        Value::Text(String::new()),
    ]) {
        let executed = client
            .execute_prepared(&insert, std::slice::from_ref(&value))
            .unwrap();
        assert_eq!((executed.changes, executed.last_insert_rowid), (1, number));
        let select = client
            .prepare("SELECT b, typeof(b) FROM t WHERE a = ?")
            .unwrap();
        let found = client
            .query_prepared(&select, &[Value::Integer(number)])
            .unwrap();
        assert_eq!(found.rows[0][0], value);
        client.finalize(select).unwrap();
    }
    // The table changes below the statement, which is compiled anew.
    client
        .execute("ALTER TABLE t ADD COLUMN c DEFAULT 7", &[])
        .unwrap();
    client
        .execute_prepared(&insert, &[Value::Integer(1)])
        .unwrap();
    assert_eq!(scene::integer(&mut client, "SELECT sum(c) FROM t"), 8 * 7);
    let two = client.execute(
        "INSERT INTO t (b) VALUES (?); INSERT INTO t (b) VALUES (?)",
        &[Value::Integer(100), Value::Integer(200)],
    );
    assert_eq!(two.unwrap().last_insert_rowid, 10);
    assert_eq!(
        scene::integer(&mut client, "SELECT b FROM t WHERE a = 10"),
        200
    );
    client.reconnect().unwrap();
    let stale = client
        .execute_prepared(&insert, &[Value::Null])
        .unwrap_err();
    assert!(stale.to_string().contains("prepare it again"), "{stale}");
    three.check();
}

#[test]
fn a_long_result_is_streamed_and_can_be_cancelled() {
    const ROWS: i64 = 200_000;
    const SERIES: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
        WHERE i < 200000) SELECT i, 'row ' || i FROM n";
    let mut three = Three::start();
    let mut client = three.client();
    let (mut batches, mut next) = (0, 1);
    client
        .query_each(SERIES, &[], |batch| {
            batches += 1;
            for row in batch.rows {
                assert_eq!(row[0], Value::Integer(next));
                assert_eq!(row[1], Value::Text(format!("row {next}")));
                next += 1;
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(next, ROWS + 1);
    assert!(batches > 10, "{batches} batches are no stream");

    let mut seen = 0;
    client
        .query_each(SERIES, &[], |batch| {
            seen += batch.rows.len();
            ControlFlow::Break(())
        })
        .unwrap();
    assert!(
        seen > 0 && seen < 100_000,
        "{seen} rows came before the end"
    );
    assert_eq!(scene::integer(&mut client, "SELECT 1"), 1);
    client.execute("CREATE TABLE after_it (a)", &[]).unwrap();

    let csv = three.shell().argument(Format::Csv, SERIES).succeeded();
    assert_eq!(csv.lines().count(), 200_001);
    assert_eq!(csv.lines().last(), Some("200000,row 200000"));
    three.check();
}

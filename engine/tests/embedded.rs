//! A node embedded in a process, by its Rust face.

use std::time::{Duration, Instant};

use ringlite::{Error, InterruptHandle, Node, Value, params};

#[test]
fn what_is_written_is_read_also_after_a_restart() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let start = || {
        Node::builder(data.path())
            .segment_bytes(4 << 20)
            .start()
            .unwrap()
    };
    {
        let node = start();
        let database = node.database("app").unwrap();
        database
            .execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)", ())
            .unwrap();
        for id in 0..100 {
            let executed = database
                .execute(
                    "INSERT INTO t VALUES (?, ?)",
                    params![id, format!("row {id}")],
                )
                .unwrap();
            assert_eq!(executed.changes, 1);
            assert_eq!(executed.last_insert_rowid, id);
        }
    }
    let node = start();
    let database = node.database("app").unwrap();
    let rows = database
        .query("SELECT id, text FROM t ORDER BY id", ())
        .unwrap();
    assert_eq!(rows.len(), 100);
    for (id, row) in (0..).zip(rows.iter()) {
        assert_eq!(row.get::<i64>("id").unwrap(), id);
        assert_eq!(row.get::<String>(1).unwrap(), format!("row {id}"));
    }
}

#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .start()
        .unwrap();
    let database = node.database("app").unwrap();
    database.execute("CREATE TABLE t (x)", ()).unwrap();
    let transaction = database.transaction().unwrap();
    transaction.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    let own = transaction.query("SELECT count(*) FROM t", ()).unwrap();
    assert_eq!(own.first().unwrap().get::<i64>(0).unwrap(), 1);
    let others = database.query("SELECT count(*) FROM t", ()).unwrap();
    assert_eq!(others.first().unwrap().get::<i64>(0).unwrap(), 0);
    transaction.commit().unwrap();
    let dropped = database.transaction().unwrap();
    dropped.execute("INSERT INTO t VALUES (2)", ()).unwrap();
    drop(dropped);
    let rows = database.query("SELECT x FROM t", ()).unwrap();
    assert_eq!(rows.into_values(), [[Value::Integer(1)]]);
}

#[test]
fn writers_on_many_threads_all_succeed() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .start()
        .unwrap();
    let database = node.database("app").unwrap();
    database
        .execute("CREATE TABLE t (writer, n, UNIQUE (writer, n))", ())
        .unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let database = database.clone();
            scope.spawn(move || {
                for n in 0..50 {
                    if n % 5 == 0 {
                        let transaction = database.transaction().unwrap();
                        transaction
                            .execute("INSERT INTO t VALUES (?, ?)", params![writer, n])
                            .unwrap();
                        transaction.commit().unwrap();
                    } else {
                        database
                            .execute("INSERT INTO t VALUES (?, ?)", params![writer, n])
                            .unwrap();
                    }
                }
            });
        }
    });
    let rows = database.query("SELECT count(*) FROM t", ()).unwrap();
    assert_eq!(rows.first().unwrap().get::<i64>(0).unwrap(), 400);
}

#[test]
fn errors_of_sqlite_come_with_their_code() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .start()
        .unwrap();
    let database = node.database("app").unwrap();
    database
        .execute("CREATE TABLE t (id INTEGER PRIMARY KEY)", ())
        .unwrap();
    database.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    let error = database
        .execute("INSERT INTO t VALUES (1)", ())
        .unwrap_err();
    assert!(
        matches!(error, Error::Sqlite { code: 1555, .. }),
        "{error:?}"
    );
    let error = database.query("SELECT nonsense FROM t", ()).unwrap_err();
    assert!(error.to_string().contains("no such column"), "{error}");
    let error = database.execute("ATTACH '' AS y", ()).unwrap_err();
    assert_eq!(error.code(), 23);
}

#[test]
fn a_directory_is_used_by_one_node_at_a_time() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let _node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .start()
        .unwrap();
    let error = Node::builder(data.path()).start().err().unwrap();
    assert!(
        error.to_string().contains("in use by another node"),
        "{error}"
    );
}

const ENDLESS: [&str; 2] = [
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
     INSERT INTO t SELECT 1 FROM n WHERE i < 0",
];

#[test]
fn a_statement_without_an_end_is_stopped_and_the_node_serves_on() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .statement_time(Duration::from_millis(200))
        .start()
        .unwrap();
    let database = node.database("app").unwrap();
    database.execute("CREATE TABLE t (x)", ()).unwrap();
    for sql in ENDLESS {
        let error = database.query(sql, ()).unwrap_err();
        assert!(error.to_string().contains("200 ms"), "{error}");
    }
    database.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    let rows = database.query("SELECT x FROM t", ()).unwrap();
    assert_eq!(rows.into_values(), [[Value::Integer(1)]]);
}

#[test]
fn a_statement_is_interrupted_from_another_thread() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .start()
        .unwrap();
    let database = node.database("app").unwrap();
    database.execute("CREATE TABLE t (x)", ()).unwrap();
    let interrupted_soon = |handle: InterruptHandle, run: &mut dyn FnMut() -> Error| {
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                handle.interrupt();
            });
            let begun = Instant::now();
            assert_eq!(run().code(), 9, "SQLITE_INTERRUPT");
            assert!(begun.elapsed() < Duration::from_secs(2));
        });
    };
    for sql in ENDLESS {
        interrupted_soon(database.interrupt_handle(), &mut || {
            database.query(sql, ()).unwrap_err()
        });
        let transaction = database.transaction().unwrap();
        interrupted_soon(transaction.interrupt_handle(), &mut || {
            transaction.query(sql, ()).unwrap_err()
        });
        drop(transaction);
        database.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    }
}

#[test]
fn a_node_stops_while_long_statements_run() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .start()
        .unwrap();
    node.database("app")
        .unwrap()
        .execute("CREATE TABLE t (x)", ())
        .unwrap();
    std::thread::scope(|scope| {
        for sql in ENDLESS {
            let database = node.database("app").unwrap();
            scope.spawn(move || assert_eq!(database.query(sql, ()), Err(Error::Stopped)));
        }
        std::thread::sleep(Duration::from_millis(100));
        let begun = Instant::now();
        node.stop().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
}

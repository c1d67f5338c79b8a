//! Databases as a whole, by the Rust face of a node of one: created, dropped, backed up.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ringlite::{Database, Error, Node, params};
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn start(data: &Path) -> Node {
    Node::builder(data).segment_bytes(4 << 20).start().unwrap()
}

fn integer(database: &Database, sql: &str) -> i64 {
    let rows = database.query(sql, ()).unwrap();
    rows.first().unwrap().get(0).unwrap()
}

fn names(node: &Node) -> Vec<String> {
    let databases = node.databases().unwrap();
    databases.into_iter().map(|entry| entry.name).collect()
}

fn files(data: &Path) -> Vec<String> {
    let directory = std::fs::read_dir(data.join("shard-0/databases")).unwrap();
    let mut names: Vec<_> = directory
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_dropped_database_ends_its_sessions_and_leaves_no_file() {
    let data = directory();
    let node = start(data.path());
    let kept = node.database("kept").unwrap();
    kept.execute("CREATE TABLE t (x)", ()).unwrap();
    let app = node.database("app").unwrap();
    app.execute("CREATE TABLE t (x)", ()).unwrap();
    let open = app.transaction().unwrap();
    open.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    assert_eq!(files(data.path()), ["app", "app.sum", "kept", "kept.sum"]);

    node.drop_database("app").unwrap();
    assert_eq!(files(data.path()), ["kept", "kept.sum"]);
    assert_eq!(names(&node), ["kept"]);
    for error in [
        app.query("SELECT x FROM t", ()).unwrap_err(),
        open.execute("INSERT INTO t VALUES (2)", ()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::DatabaseGone { .. }), "{error:?}");
        assert!(error.to_string().contains("dropped"), "{error}");
    }
    // A handle of what was dropped does not bring it back.
    let error = app.query("SELECT x FROM t", ()).unwrap_err();
    assert!(error.to_string().contains("no database named"), "{error}");
    let error = node.drop_database("app").unwrap_err();
    assert!(error.to_string().contains("no database named"), "{error}");
    assert_eq!(names(&node), ["kept"]);
    kept.execute("INSERT INTO t VALUES (1)", ()).unwrap();

    // The name is free.
    let app = node.database("app").unwrap();
    assert_eq!(integer(&app, "SELECT count(*) FROM sqlite_schema"), 0);
}

#[test]
fn a_transaction_over_several_databases_is_of_all_of_them_or_of_none() {
    let data = directory();
    let node = start(data.path());
    let app = node.database("app").unwrap();
    let audit = node.database("audit-1.db").unwrap();
    for database in [&app, &audit] {
        database.execute("CREATE TABLE t (x UNIQUE)", ()).unwrap();
    }
    let counts = || [&app, &audit].map(|at| integer(at, "SELECT count(*) FROM t"));
    let both = |x: i64| {
        let transaction = app.transaction_over(&["audit-1.db"])?;
        transaction.execute("INSERT INTO t VALUES (?)", params![x])?;
        transaction.execute("INSERT INTO \"audit-1.db\".t VALUES (?)", params![x])?;
        Ok::<_, Error>(transaction)
    };
    both(1).unwrap().commit().unwrap();
    assert_eq!(counts(), [1, 1]);
    drop(both(2).unwrap());
    assert!(both(1).is_err(), "the value is there");
    assert_eq!(counts(), [1, 1]);
    for (name, words) in [
        ("nobody", "no database of this name"),
        ("app", "open in this session already"),
        ("a\" AS b; --", "give the name of a database"),
    ] {
        let error = app.transaction_over(&[name]).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
    // It ends with either of them.
    let open = both(3).unwrap();
    node.drop_database("audit-1.db").unwrap();
    let error = open.commit().unwrap_err();
    assert!(matches!(error, Error::DatabaseGone { .. }), "{error:?}");
    assert_eq!(integer(&app, "SELECT count(*) FROM t"), 1);
    app.execute("INSERT INTO t VALUES (3)", ()).unwrap();
    // And is whole after a restart.
    drop((app, audit, node));
    let node = start(data.path());
    let app = node.database("app").unwrap();
    assert_eq!(integer(&app, "SELECT sum(x) FROM t"), 4);
}

#[test]
fn a_waiting_writer_is_told_that_its_database_was_dropped() {
    let data = directory();
    let node = start(data.path());
    let app = node.database("app").unwrap();
    app.execute("CREATE TABLE t (x)", ()).unwrap();
    let holder = app.transaction().unwrap();
    std::thread::scope(|scope| {
        let other = app.clone();
        let waiting = scope.spawn(move || other.execute("INSERT INTO t VALUES (1)", ()));
        std::thread::sleep(std::time::Duration::from_millis(100));
        node.drop_database("app").unwrap();
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::DatabaseGone { .. }), "{error:?}");
    });
    assert!(holder.commit().is_err());
}

#[test]
fn a_name_lives_many_lives_also_across_restarts() {
    let data = directory();
    for round in 0i64..4 {
        let node = start(data.path());
        for life in 0i64..3 {
            let page_size = 512u32 << ((round + life) % 8);
            node.create_database("app", page_size).unwrap();
            let app = node.database("app").unwrap();
            app.execute("CREATE TABLE t (round, life)", ()).unwrap();
            app.execute("INSERT INTO t VALUES (?, ?)", params![round, life])
                .unwrap();
            assert_eq!(integer(&app, "PRAGMA page_size"), i64::from(page_size));
            if life < 2 {
                node.drop_database("app").unwrap();
            }
        }
        drop(node);
        let node = start(data.path());
        let app = node.database("app").unwrap();
        assert_eq!(integer(&app, "SELECT count(*) FROM t"), 1);
        assert_eq!(
            integer(&app, "SELECT round * 10 + life FROM t"),
            round * 10 + 2
        );
        node.drop_database("app").unwrap();
    }
    let node = start(data.path());
    assert_eq!(names(&node), [""; 0]);
    assert_eq!(files(data.path()), [""; 0]);
}

#[test]
fn a_page_size_is_one_of_sqlite_and_a_name_is_given_once() {
    let data = directory();
    let node = start(data.path());
    for bytes in [0, 256, 1000, 131_072] {
        let error = node.create_database("app", bytes).unwrap_err();
        assert!(error.to_string().contains("page size"), "{error}");
    }
    node.create_database("app", 65536).unwrap();
    let error = node.create_database("app", 4096).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    assert!(node.create_database("../app", 4096).is_err());
    let databases = node.databases().unwrap();
    assert_eq!(databases.len(), 1);
    assert_eq!(
        (databases[0].page_size, databases[0].page_count),
        (65536, 1)
    );
}

/// Transfers between accounts go on while copies are made: each copy is of one moment.
#[test]
fn a_backup_under_load_is_of_one_moment_and_opens_with_plain_sqlite() {
    let data = directory();
    let node = start(data.path());
    let bank = node.database("bank").unwrap();
    bank.execute(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, cents INTEGER, padding TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO account SELECT i, 100, hex(randomblob(300)) FROM n;
         CREATE TABLE done (n INTEGER)",
        (),
    )
    .unwrap();
    let stop = AtomicBool::new(false);
    let copies = std::thread::scope(|scope| {
        let writer = bank.clone();
        let stop = &stop;
        scope.spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let transfer = writer.transaction().unwrap();
                let (from, to) = (number * 7919 % 3000 + 1, number * 104_729 % 3000 + 1);
                let change = "UPDATE account SET cents = cents + ? WHERE id = ?";
                transfer.execute(change, params![-1, from]).unwrap();
                transfer.execute(change, params![1, to]).unwrap();
                transfer
                    .execute("INSERT INTO done VALUES (?)", params![number])
                    .unwrap();
                transfer.commit().unwrap();
            }
        });
        let copies: Vec<_> = (0..5)
            .map(|copy| {
                let before = integer(&bank, "SELECT count(*) FROM done");
                let path = data.path().join(format!("copy-{copy}.db"));
                let head = bank.backup(&path).unwrap();
                let after = integer(&bank, "SELECT count(*) FROM done");
                assert_eq!(std::fs::metadata(&path).unwrap().len(), head.bytes());
                (path, before, after)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        copies
    });
    let mut moments = std::collections::BTreeSet::new();
    for (path, before, after) in copies {
        let plain = rusqlite::Connection::open(&path).unwrap();
        let ask = |sql: &str| -> i64 { plain.query_row(sql, [], |row| row.get(0)).unwrap() };
        let verdict: String = plain
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(verdict, "ok");
        assert_eq!(ask("SELECT sum(cents) FROM account"), 300_000);
        let done = ask("SELECT count(*) FROM done");
        assert_eq!(done, ask("SELECT coalesce(max(n), 0) FROM done"));
        assert!((before..=after).contains(&done), "{before} {done} {after}");
        moments.insert(done);
        assert!(!path.with_extension("db.partial").exists());
    }
    assert!(moments.len() > 1, "nothing was written meanwhile");
}

#[test]
fn a_backup_of_nothing_and_to_nowhere_says_so() {
    let data = directory();
    let node = start(data.path());
    let app = node.database("app").unwrap();
    let error = app.backup(data.path().join("missing/copy.db")).unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    node.drop_database("app").unwrap();
    let error = app.backup(data.path().join("copy.db")).unwrap_err();
    assert!(error.to_string().contains("no database named"), "{error}");
    assert!(!data.path().join("copy.db").exists());
}

#[test]
fn a_transaction_that_is_too_large_names_the_option_and_leaves_nothing() {
    let data = directory();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .transaction_bytes(1 << 20)
        .start()
        .unwrap();
    let app = node.database("app").unwrap();
    app.execute("CREATE TABLE t (x)", ()).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO t SELECT randomblob(1000) FROM n";
    let error = app.execute(fill, params![2000]).unwrap_err();
    assert!(matches!(error, Error::Sqlite { code: 13, .. }), "{error:?}");
    assert!(error.to_string().contains("--transaction-bytes"), "{error}");
    assert_eq!(integer(&app, "SELECT count(*) FROM t"), 0);
    for _ in 0..4 {
        app.execute(fill, params![500]).unwrap();
    }
    let open = app.transaction().unwrap();
    open.execute("DELETE FROM t WHERE rowid = 1", ()).unwrap();
    // Up to the commit it may still be in SQLite's cache.
    let filled = open.execute(fill, params![2000]);
    let error = filled.and_then(|_| open.commit()).unwrap_err();
    assert!(error.to_string().contains("--transaction-bytes"), "{error}");
    let error = app.execute("VACUUM", ()).unwrap_err();
    assert!(error.to_string().contains("--transaction-bytes"), "{error}");
    assert_eq!(integer(&app, "SELECT count(*) FROM t"), 2000);
}

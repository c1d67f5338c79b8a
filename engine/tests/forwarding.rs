//! The Rust API on a node that does not lead: every call goes to the leader, and its answer is the one
//! that the leader's own callers get.

mod embedded_cluster;

use std::time::{Duration, Instant};

use embedded_cluster::Cluster;
use futures_lite::future::block_on;
use ringlite::{Database, Error, ReadLevel, Value, params};

/// Many nodes share the cores: nobody is to stand too soon.
fn start() -> Cluster {
    Cluster::start_with(Duration::from_secs(1))
}

fn integer(database: &Database, sql: &str) -> i64 {
    let rows = database.query(sql, ()).unwrap();
    rows.first().unwrap().get(0).unwrap()
}

#[test]
fn every_call_of_a_follower_is_one_of_the_leader() {
    let cluster = start();
    let followers = cluster.followers();
    // It is made at the leader, by its first use.
    let database = followers[0].database("made").unwrap();
    database
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", ())
        .unwrap();
    let executed = database
        .execute(
            "INSERT INTO t VALUES (?, ?), (?, ?)",
            params![5, "x", 9, 1.5],
        )
        .unwrap();
    assert_eq!((executed.changes, executed.last_insert_rowid), (2, 9));
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.25),
        Value::Text("ä".into()),
        Value::Blob(vec![0, 255]),
    ];
    let rows = database
        .query("SELECT ?, ?, ?, ?, ?", values.to_vec())
        .unwrap();
    assert_eq!(rows.into_values(), [values]);
    let on_leader = cluster.leader().database("made").unwrap();
    assert_eq!(integer(&on_leader, "SELECT count(*) FROM t"), 2);
    block_on(async {
        let executed = database
            .execute_async("DELETE FROM t WHERE a = 5", ())
            .await;
        assert_eq!(executed.unwrap().changes, 1);
        let rows = database.query_async("SELECT a FROM t", ()).await.unwrap();
        assert_eq!(rows.into_values(), [[Value::Integer(9)]]);
        let read = database.query_with_async(ReadLevel::Leader, "SELECT ?", params![7]);
        assert_eq!(read.await.unwrap().into_values(), [[Value::Integer(7)]]);
        let transaction = database.transaction_async().await.unwrap();
        let inserted = transaction.execute_async("INSERT INTO t VALUES (10, 1)", ());
        inserted.await.unwrap();
        transaction.commit_async().await.unwrap();
    });
    assert_eq!(integer(&database, "SELECT max(a) FROM t"), 10);

    // A transaction is seen by nobody until it commits, in all of its databases.
    followers[1].database("other").unwrap();
    let transaction = database.transaction_over(&["other"]).unwrap();
    transaction.execute("CREATE TABLE other.u (a)", ()).unwrap();
    transaction
        .execute("INSERT INTO t VALUES (11, 1)", ())
        .unwrap();
    let own = transaction.query("SELECT max(a) FROM t", ()).unwrap();
    assert_eq!(own.first().unwrap().get::<i64>(0).unwrap(), 11);
    assert_eq!(integer(&database, "SELECT max(a) FROM t"), 10);
    transaction.commit().unwrap();
    assert_eq!(integer(&on_leader, "SELECT max(a) FROM t"), 11);
    let other = followers[1].database("other").unwrap();
    assert_eq!(integer(&other, "SELECT count(*) FROM u"), 0);
    drop({
        let transaction = database.transaction().unwrap();
        transaction.execute("DELETE FROM t", ()).unwrap();
        transaction
    });
    assert_eq!(integer(&database, "SELECT count(*) FROM t"), 3);

    // Databases as a whole.
    followers[0].create_database("small", 512).unwrap();
    let small = followers[0].database("small").unwrap();
    assert_eq!(integer(&small, "PRAGMA page_size"), 512);
    followers[0].drop_database("small").unwrap();
    // Who had it open is told so, and does not make it anew.
    for words in ["dropped", "no database named", "no database named"] {
        let error = small.execute("CREATE TABLE t (a)", ()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = followers[1].drop_database("small").unwrap_err();
    assert!(error.to_string().contains("no database named"), "{error}");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let copy = directory.path().join("copy.db");
    database.backup(&copy).unwrap();
    let copy = rusqlite::Connection::open(copy).unwrap();
    let count = copy.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    assert_eq!(count, Ok(3));
}

#[test]
fn errors_are_those_of_the_leader() {
    let cluster = start();
    let database = cluster.followers()[0].database("app").unwrap();
    database
        .execute("CREATE TABLE k (a INTEGER PRIMARY KEY)", ())
        .unwrap();
    database.execute("INSERT INTO k VALUES (1)", ()).unwrap();
    let here = cluster.leader().database("app").unwrap();
    for sql in ["INSERT INTO k VALUES (1)", "SELECT nonsense", "COMMIT", "%"] {
        let error = database.execute(sql, ()).unwrap_err();
        assert_eq!(error, here.execute(sql, ()).unwrap_err(), "{sql}");
        assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
    }
    let large = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70) \
                 SELECT zeroblob(1000000) FROM n";
    let error = database.query(large, ()).unwrap_err();
    assert_eq!(error, here.query(large, ()).unwrap_err());
    assert!(matches!(error, Error::Busy { .. }), "{error:?}");
    // In a transaction it may be as large.
    let transaction = database.transaction().unwrap();
    assert_eq!(transaction.query(large, ()).unwrap().len(), 70);
    transaction.rollback().unwrap();
    // It would lose what is behind the NUL on its way.
    for (sql, parameter) in [("SELECT ?", "a\0b"), ("SELECT ? \0", "a")] {
        let error = database.query(sql, params![parameter]).unwrap_err();
        assert!(error.to_string().contains("NUL"), "{error}");
    }
    assert_eq!(integer(&database, "SELECT count(*) FROM k"), 1);
}

#[test]
fn what_runs_at_the_leader_can_be_interrupted() {
    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let cluster = start();
    let database = cluster.followers()[0].database("app").unwrap();
    let interrupt = database.interrupt_handle();
    interrupt.interrupt();
    for round in 0..3 {
        assert_eq!(integer(&database, "SELECT count(*) FROM t"), round);
        for write in [false, true] {
            std::thread::scope(|scope| {
                let runs = scope.spawn(|| match write {
                    true => database
                        .execute(&format!("INSERT INTO t {ENDLESS}"), ())
                        .map(drop),
                    false => database.query(ENDLESS, ()).map(drop),
                });
                std::thread::sleep(Duration::from_millis(100));
                let began = Instant::now();
                interrupt.interrupt();
                interrupt.interrupt();
                let error = runs.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::Sqlite { code: 9, .. }), "{error:?}");
                // Long before its limit.
                assert!(began.elapsed() < Duration::from_secs(20));
            });
        }
        // The session goes on.
        database.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    }
}

/// The leader that stops hands over, and everybody finds the next one. (On a machine that is too busy for
/// the hand-over, what is under way has an unknown outcome.)
#[test]
fn when_the_leader_is_stopped_nothing_is_refused_and_nothing_is_done_twice() {
    const WRITERS: i64 = 3;
    let mut cluster = start();
    let stopped = cluster.leader_place();
    let leader = cluster.nodes[stopped].take().unwrap();
    let handles: Vec<Database> = cluster
        .nodes
        .iter()
        .flatten()
        .map(|node| node.database("app").unwrap())
        .collect();
    handles[0]
        .execute("CREATE TABLE w (writer, n)", ())
        .unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let told: Vec<(i64, i64)> = std::thread::scope(|scope| {
        let (stop, handles) = (&stop, &handles);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let database = &handles[writer as usize % handles.len()];
                    let (mut acknowledged, mut unknown) = (0, 0);
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let n = acknowledged + unknown;
                        let sql = "INSERT INTO w VALUES (?, ?)";
                        let written = match n % 5 {
                            4 => database.transaction().and_then(|transaction| {
                                transaction.execute(sql, params![writer, n])?;
                                transaction.commit()
                            }),
                            _ => database.execute(sql, params![writer, n]).map(drop),
                        };
                        match written {
                            Ok(()) => acknowledged += 1,
                            Err(Error::OutcomeUnknown) => unknown += 1,
                            // It has to be begun again, and was not committed.
                            Err(Error::NotLeader { .. }) if n % 5 == 4 => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    (acknowledged, unknown)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        leader.stop().unwrap();
        std::thread::sleep(Duration::from_secs(3));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    println!("acknowledged and unknown: {told:?}");
    for (writer, (acknowledged, unknown)) in (0_i64..).zip(told) {
        assert!(acknowledged > 10, "that was no load");
        assert!(unknown <= 1, "more is unknown than was under way");
        let sql = format!("SELECT count(*), count(DISTINCT n) FROM w WHERE writer = {writer}");
        let rows = handles[1].query(&sql, ()).unwrap();
        let counts: [i64; 2] = [0, 1].map(|at: usize| rows.first().unwrap().get(at).unwrap());
        assert_eq!(counts[0], counts[1], "a row was written twice");
        assert!((acknowledged..=acknowledged + unknown).contains(&counts[0]));
    }
}

/// A transaction that was begun by a statement is lost with the leader, and what follows must not be
/// committed by itself.
#[test]
fn what_belonged_to_a_transaction_is_not_run_outside_of_it() {
    let mut cluster = start();
    let stopped = cluster.leader_place();
    let leader = cluster.nodes[stopped].take().unwrap();
    let handles: Vec<Database> = cluster
        .nodes
        .iter()
        .flatten()
        .map(|node| node.database("app").unwrap())
        .collect();
    let mut transactions = Vec::new();
    for database in &handles {
        database.execute("BEGIN", ()).unwrap();
        assert_eq!(integer(database, "SELECT count(*) FROM t"), 0);
    }
    // BEGIN is what SQLite says it is, so that it waits for nobody.
    transactions.push(handles[0].transaction().unwrap());
    leader.stop().unwrap();
    for database in &handles {
        let error = database
            .execute("INSERT INTO t VALUES (1)", ())
            .unwrap_err();
        // What was sent to a leader that went away may have been committed, for all that one knows here.
        let is_told = matches!(error, Error::NotLeader { .. } | Error::OutcomeUnknown);
        assert!(is_told, "{error:?}");
    }
    for transaction in transactions {
        for sql in ["INSERT INTO t VALUES (1)", "COMMIT"] {
            let error = transaction.execute(sql, ()).unwrap_err();
            let is_told = matches!(error, Error::NotLeader { .. } | Error::OutcomeUnknown);
            assert!(is_told, "{error:?}");
        }
    }
    // On a machine that is busy with other things leadership may be lost once more.
    let (mut acknowledged, mut sent) = (0, 0);
    for database in &handles {
        let rows = integer(database, "SELECT count(*) FROM t");
        assert!((acknowledged..=sent).contains(&rows), "{rows} rows");
        sent += 1;
        match database.execute("INSERT INTO t VALUES (1)", ()) {
            Ok(_) => acknowledged += 1,
            Err(error) => assert!(matches!(error, Error::OutcomeUnknown), "{error:?}"),
        }
    }
}

/// With nobody to lead, calls end.
#[test]
fn without_a_leader_a_call_says_so_in_time() {
    let mut cluster = start();
    let follower = cluster
        .leader_place()
        .checked_sub(1)
        .unwrap_or(cluster.nodes.len() - 1);
    let node = cluster.nodes[follower].take().unwrap();
    let database = node.database("app").unwrap();
    assert_eq!(integer(&database, "SELECT count(*) FROM t"), 0);
    for other in cluster.nodes.iter_mut().filter_map(Option::take) {
        other.stop().unwrap();
    }
    let began = Instant::now();
    let error = database
        .execute("INSERT INTO t VALUES (1)", ())
        .unwrap_err();
    assert!(
        matches!(error, Error::NotLeader { .. } | Error::OutcomeUnknown),
        "{error:?}"
    );
    assert!(node.database("new").is_err());
    assert!(node.drop_database("app").is_err());
    assert!(database.transaction().is_err());
    println!("four refusals took {:?}", began.elapsed());
    // What is here can be read.
    assert!(node.database("app").is_ok());
    let rows = database.query_with(ReadLevel::LOCAL, "SELECT count(*) FROM t", ());
    assert_eq!(rows.unwrap().len(), 1);
    node.stop().unwrap();
    let error = database
        .execute("INSERT INTO t VALUES (1)", ())
        .unwrap_err();
    assert_eq!(error, Error::Stopped);
}

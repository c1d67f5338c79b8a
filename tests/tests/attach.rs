//! Transactions over two databases, on real nodes: as whole as those over one.
//!
//! `KILLS` sets how often the leader is killed under transfers between the databases (3 unless told).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::client::ClientError;
use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientOptions, ReadLevel, Value};
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASES: [&str; 2] = ["left", "right"];
const ACCOUNTS: i64 = 10;
const BALANCE: i64 = 100;
const WHOLE: i64 = 2 * ACCOUNTS * BALANCE;
const SUM: &str = "SELECT (SELECT sum(balance) FROM main.accounts) \
                   + (SELECT sum(balance) FROM other.accounts)";
const START: &str = "SELECT (SELECT count(*) FROM main.transfers) \
                     - (SELECT count(*) FROM other.transfers)";

fn start(directory: &Path, arguments: &[&str]) -> LocalCluster {
    let launch = Launch::program(PROGRAM)
        .with_arguments(scene::SMALL_SEGMENTS)
        .with_arguments(arguments.iter().copied());
    let mut cluster = scene::launch_nodes(directory, 3, launch);
    for database in DATABASES {
        let mut client = scene::open(&mut cluster, database);
        let schema = format!(
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER); \
             CREATE TABLE transfers (id INTEGER PRIMARY KEY, data); \
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS} - 1) \
             INSERT INTO accounts SELECT i, {BALANCE} FROM n"
        );
        client.execute(&schema, &[]).unwrap();
    }
    cluster
}

/// A client that has one database open and the other one attached as `other`.
fn connect(addresses: &[String], own: usize) -> Result<Client, ClientError> {
    let mut client = Client::connect(addresses, ClientOptions::default())?;
    client.open(DATABASES[own])?;
    client.execute(&format!("ATTACH '{}' AS other", DATABASES[1 - own]), &[])?;
    Ok(client)
}

/// Moves some money from one database to the other, and notes in both that it has.
fn transfer(client: &mut Client, number: i64) -> Result<(), ClientError> {
    let account = Value::Integer(number % ACCOUNTS);
    client.execute(["BEGIN", "BEGIN IMMEDIATE"][(number % 2) as usize], &[])?;
    for (schema, amount) in [("other", 1), ("main", -1)] {
        let moved = format!("UPDATE {schema}.accounts SET balance = balance + ?1 WHERE id = ?2");
        client.execute(&moved, &[Value::Integer(amount), account.clone()])?;
        let noted = format!("INSERT INTO {schema}.transfers VALUES (?1, NULL)");
        client.execute(&noted, &[Value::Integer(number)])?;
    }
    client.execute("COMMIT", &[]).map(drop)
}

fn numbers_in(client: &mut Client, schema: &str) -> BTreeSet<i64> {
    let sql = format!("SELECT id FROM {schema}.transfers");
    let rows = client.query(&sql, &[]).unwrap().rows;
    let ids = rows.into_iter().flatten().map(|value| match value {
        Value::Integer(id) => id,
        other => panic!("{other:?}"),
    });
    ids.collect()
}

/// At each node, in what it has applied by `index`, the sum of the two databases is whole.
fn assert_whole_everywhere(cluster: &mut LocalCluster) {
    let index = DATABASES.map(|name| scene::assert_identical(cluster, name).applied);
    let level = ReadLevel::Local {
        index_min: index[0].max(index[1]),
        staleness_max: None,
    };
    for address in cluster.addresses() {
        let mut node = Client::connect_to(&address).unwrap();
        let sums = DATABASES.map(|name| {
            let sql = "SELECT sum(balance) FROM accounts";
            match node.query_at(level, name, sql).unwrap().rows[0][0] {
                Value::Integer(sum) => sum,
                ref other => panic!("{other:?}"),
            }
        });
        assert_eq!(sums[0] + sums[1], WHOLE, "{address}: {sums:?}");
    }
}

#[test]
fn transfers_between_databases_are_whole_whatever_happens_to_leaders() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &[]);
    let addresses = cluster.addresses();
    let (stop, next) = (AtomicBool::new(false), AtomicI64::new(0));
    let (acknowledged, looks) = (Mutex::new(BTreeSet::new()), AtomicUsize::new(0));
    let kills = process::size("KILLS", 3);
    thread::scope(|scope| {
        for own in [0, 1, 0, 1] {
            let (addresses, stop, next, acknowledged) = (&addresses, &stop, &next, &acknowledged);
            scope.spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let Some(connected) = &mut client else {
                        client = connect(addresses, own).ok();
                        continue;
                    };
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match transfer(connected, number) {
                        Ok(()) => drop(acknowledged.lock().unwrap().insert(number)),
                        // Nobody is told that a database is locked.
                        Err(error) => {
                            assert!(!error.to_string().contains("locked"), "{error}");
                            client = None;
                        }
                    }
                }
            });
        }
        for in_transactions in [false, true] {
            let (addresses, stop, looks) = (&addresses, &stop, &looks);
            scope.spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let Some(connected) = &mut client else {
                        client = connect(addresses, 0).ok();
                        continue;
                    };
                    match look(connected, in_transactions) {
                        Ok(()) => drop(looks.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => client = None,
                    }
                }
            });
        }
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(700));
            let leader = scene::leader_of(&mut cluster);
            cluster.kill(leader);
            thread::sleep(Duration::from_millis(700));
            cluster.start_node(leader).unwrap();
        }
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
    });
    assert_whole_everywhere(&mut cluster);
    let mut client = connect(&addresses, 0).unwrap();
    assert_eq!(scene::integer(&mut client, SUM), WHOLE);
    let [left, right] = ["main", "other"].map(|schema| numbers_in(&mut client, schema));
    assert_eq!(left, right, "each transfer is in both");
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.is_subset(&left), "an acknowledged one is lost");
    let (transfers, looks) = (acknowledged.len(), looks.into_inner());
    println!("{kills} kills, {transfers} transfers, {looks} looks");
    assert!(
        transfers > 50 * kills && looks > 50 * kills,
        "that was no load"
    );
    // The files are whole without their log, and the log without its leader.
    cluster.kill_all();
    for id in 1..=3 {
        cluster.start_node(id).unwrap();
    }
    assert_whole_everywhere(&mut cluster);
}

/// Sees the whole sum, in one statement or in two of one transaction.
fn look(client: &mut Client, in_transactions: bool) -> Result<(), ClientError> {
    if !in_transactions {
        let sum = client.query(SUM, &[])?.rows;
        assert_eq!(sum, [[Value::Integer(WHOLE)]]);
        return Ok(());
    }
    client.execute("BEGIN DEFERRED", &[])?;
    let mut whole = 0;
    for schema in ["main", "other"] {
        let sql = format!("SELECT sum(balance) FROM {schema}.accounts");
        match client.query(&sql, &[])?.rows[0][0] {
            Value::Integer(sum) => whole += sum,
            ref other => panic!("{other:?}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(whole, WHOLE, "its snapshots are of two moments");
    client.execute("COMMIT", &[]).map(drop)
}

/// The long transaction runs on a worker thread while others write in other databases; it commits
/// as a whole, or not at all because it is too large for the second one.
#[test]
fn a_long_transaction_over_two_databases_leaves_the_core_and_commits_as_a_whole() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &["--transaction-bytes", "1000000"]);
    let addresses = cluster.addresses();
    let mut quick = scene::open(&mut cluster, "quick");
    quick.execute("CREATE TABLE t (a)", &[]).unwrap();
    let mut neighbour = scene::open(&mut cluster, DATABASES[0]);
    neighbour.execute("BEGIN DEFERRED", &[]).unwrap();
    let count = "SELECT count(*) FROM transfers";
    assert_eq!(scene::integer(&mut neighbour, count), 0);

    let mut client = connect(&addresses, 0).unwrap();
    let mut client = thread::scope(|scope| {
        let long = scope.spawn(move || {
            let script = "BEGIN; INSERT INTO main.transfers VALUES (1, NULL); \
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000000) \
                INSERT INTO other.transfers SELECT max(i), NULL FROM n; COMMIT";
            client.execute(script, &[]).unwrap();
            client
        });
        let mut slowest = Duration::ZERO;
        let mut commits = 0;
        while !long.is_finished() {
            let begun = Instant::now();
            quick.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
            slowest = slowest.max(begun.elapsed());
            commits += 1;
        }
        println!("{commits} commits beside it, the slowest {slowest:?}");
        assert!(commits > 10, "they waited for it");
        long.join().unwrap()
    });
    assert_eq!(scene::integer(&mut client, START), 0);

    // Its pages fit in the page cache, so that only the commit finds that they are too many.
    let too_large = "BEGIN; INSERT INTO main.transfers VALUES (2, NULL); \
        WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n LIMIT 400) \
        INSERT INTO other.transfers SELECT i, hex(zeroblob(1900)) FROM n; COMMIT";
    let error = client.execute(too_large, &[]).unwrap_err().to_string();
    assert!(error.contains("--transaction-bytes"), "{error}");
    assert_eq!(scene::integer(&mut client, START), 0, "half of it is there");
    assert_eq!(
        scene::integer(&mut client, "SELECT count(*) FROM main.transfers"),
        1
    );
    transfer(&mut client, 7).unwrap();
    // Nobody else has noticed anything.
    assert_eq!(scene::integer(&mut neighbour, count), 0);
    neighbour.execute("COMMIT", &[]).unwrap();
    assert_eq!(scene::integer(&mut neighbour, count), 2);
    assert_whole_everywhere(&mut cluster);
}

//! Statements that run for seconds: nobody else waits for them, they can be interrupted, and they
//! end with their client.
//!
//! `LONG_SECONDS` sets how long the scan runs (2 unless told); the write runs for half of it.
//! `P99_FACTOR` is how many times the quiet p99 of commits the one beside long statements may be.

use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::wire::{Request, Response};
use ringlite::{Client, ClientOptions, Value};
use ringlite_tests::raw::{Answer, RawConnection};
use ringlite_tests::{process, scene};
use rustix::process::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
/// Where the long statements are.
const SLOW: &str = "slow";
/// Where others commit meanwhile.
const QUICK: &str = "quick";
const INTERRUPT: u64 = 9;
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT count(*) FROM n";
const ENDLESS_WRITE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                             INSERT INTO t SELECT count(*) FROM n";
/// A statement is stopped within this, on a busy machine.
const SOON: Duration = Duration::from_secs(1);

fn start(directory: &std::path::Path, arguments: &[&str]) -> LocalCluster {
    let launch = Launch::program(PROGRAM)
        .with_arguments(scene::SMALL_SEGMENTS)
        .with_arguments(arguments.iter().copied());
    let mut cluster = scene::launch_nodes(directory, 3, launch);
    for database in [SLOW, QUICK] {
        let mut client = scene::open(&mut cluster, database);
        client.execute("CREATE TABLE t (a)", &[]).unwrap();
    }
    cluster
}

fn patient_client(cluster: &mut LocalCluster, database: &str) -> Client {
    let options = ClientOptions {
        request_timeout: Duration::from_secs(120),
        ..ClientOptions::default()
    };
    let mut client = Client::connect(&cluster.addresses(), options).unwrap();
    client.open(database).unwrap();
    client
}

/// Commits rows for `time`; how long each took, sorted.
fn commit_for(client: &mut Client, time: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let mut took = Vec::new();
    while start.elapsed() < time {
        let begun = Instant::now();
        client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
        took.push(begun.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    took.sort();
    took
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// A count that takes about `time` on this machine.
fn counting_to(client: &mut Client, time: Duration) -> String {
    let count = |limit: u64| {
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {limit}) ")
    };
    let sample = 1_000_000;
    let begun = Instant::now();
    client
        .query(&format!("{} SELECT count(*) FROM n", count(sample)), &[])
        .unwrap();
    let limit = time.as_secs_f64() / begun.elapsed().as_secs_f64() * sample as f64;
    count(limit as u64)
}

#[test]
fn nobody_waits_for_a_long_scan_or_a_long_write() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &[]);
    let scan_time = Duration::from_secs(process::size("LONG_SECONDS", 2) as u64);
    let (mut scanner, mut writer) = (
        patient_client(&mut cluster, SLOW),
        patient_client(&mut cluster, SLOW),
    );
    let mut quick = patient_client(&mut cluster, QUICK);
    let term = quick.status().unwrap()["term"].clone();
    let scan = counting_to(&mut scanner, scan_time) + "SELECT count(*) FROM n";
    let write = counting_to(&mut writer, scan_time / 2) + "INSERT INTO t SELECT count(*) FROM n";
    commit_for(&mut quick, Duration::from_millis(300));
    let quiet = commit_for(&mut quick, scan_time);
    let beside = thread::scope(|scope| {
        let scanned = scope.spawn(|| {
            let begun = Instant::now();
            scanner.query(&scan, &[]).unwrap();
            begun.elapsed()
        });
        let written = scope.spawn(|| {
            let begun = Instant::now();
            writer.execute(&write, &[]).unwrap();
            begun.elapsed()
        });
        let beside = commit_for(&mut quick, scan_time);
        println!(
            "scan {:?}, write {:?}",
            scanned.join().unwrap(),
            written.join().unwrap()
        );
        beside
    });
    let (quiet_p99, beside_p99) = (percentile(&quiet, 99), percentile(&beside, 99));
    println!(
        "commits in another database: quiet p50 {:?} p99 {quiet_p99:?} ({}), beside a long scan \
         and a long write p50 {:?} p99 {beside_p99:?} max {:?} ({})",
        percentile(&quiet, 50),
        quiet.len(),
        percentile(&beside, 50),
        beside.last().unwrap(),
        beside.len(),
    );
    let factor = process::size("P99_FACTOR", 5) as u32;
    assert!(beside_p99 < quiet_p99 * factor, "commits waited");
    assert_eq!(
        quick.status().unwrap()["term"],
        term,
        "there was an election"
    );
    assert_eq!(scene::integer(&mut writer, "SELECT count(*) FROM t"), 1);
    scene::assert_identical(&mut cluster, SLOW);
}

/// A connection to the leader on which an endless statement runs.
fn endless(cluster: &mut LocalCluster, request: &Request) -> RawConnection {
    let address = scene::connect(cluster).address().to_owned();
    let mut connection = RawConnection::with_database(&address, SLOW);
    connection.say(request);
    thread::sleep(Duration::from_millis(300));
    connection
}

fn query() -> Request {
    Request::QuerySql {
        database: 0,
        sql: ENDLESS.into(),
        parameters: Vec::new(),
    }
}

fn execute() -> Request {
    Request::ExecuteSql {
        database: 0,
        sql: ENDLESS_WRITE.into(),
        parameters: Vec::new(),
    }
}

#[test]
fn an_interrupt_ends_a_long_statement() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &[]);
    let empty = Answer::Response(Response::Empty);
    let interrupt = Request::Interrupt { database: 0 };

    let mut reader = endless(&mut cluster, &query());
    let begun = Instant::now();
    assert_eq!(reader.ask(&interrupt), empty, "in place of the rows");
    assert!(begun.elapsed() < SOON);

    let mut writer = endless(&mut cluster, &execute());
    let begun = Instant::now();
    let (code, message) = writer.ask(&interrupt).failure();
    assert_eq!(code, INTERRUPT, "{message}");
    assert_eq!(writer.hear(), empty, "the interrupt has its answer too");
    assert!(begun.elapsed() < SOON);

    // Both connections are usable, and the lock is free.
    for connection in [&mut reader, &mut writer] {
        let answer = connection.ask(&Request::ExecuteSql {
            database: 0,
            sql: "INSERT INTO t VALUES (1)".into(),
            parameters: Vec::new(),
        });
        assert!(
            matches!(answer, Answer::Response(Response::Result { .. })),
            "{answer:?}"
        );
    }
    let mut client = scene::open(&mut cluster, SLOW);
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 2);
}

#[test]
fn an_interrupt_ends_the_wait_for_the_write_lock() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &[]);
    let mut holder = scene::open(&mut cluster, SLOW);
    holder.execute("BEGIN IMMEDIATE", &[]).unwrap();
    let mut writer = endless(&mut cluster, &execute());
    let (code, message) = writer.ask(&Request::Interrupt { database: 0 }).failure();
    assert_eq!(code, INTERRUPT, "{message}");
    holder.execute("COMMIT", &[]).unwrap();
}

/// The majority stands still for a moment, so that the interrupt comes while what was written waits for it.
/// On a busy machine the leader may give up first, and then it is tried again.
#[test]
fn an_interrupt_that_comes_too_late_hides_no_answer() {
    const ATTEMPTS: usize = 20;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &[]);
    for attempt in 1..=ATTEMPTS {
        let leader = scene::leader_of(&mut cluster);
        let address = scene::connect(&mut cluster).address().to_owned();
        let mut connection = RawConnection::with_database(&address, SLOW);
        let others = (1..=3).filter(|id| *id != leader);
        let others: Vec<_> = others.map(|id| cluster.process_of(id).unwrap()).collect();
        let tell = |what| others.iter().for_each(|id| process::signal(*id, what));
        tell(Signal::STOP);
        connection.say(&Request::QuerySql {
            database: 0,
            // Long enough to leave the core: only then the connection is listened to meanwhile.
            sql: format!(
                "INSERT INTO t SELECT {attempt} + 0 * (SELECT count(*) FROM \
                 (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) \
                 SELECT i FROM n)) RETURNING a"
            ),
            parameters: Vec::new(),
        });
        thread::sleep(Duration::from_millis(100));
        connection.say(&Request::Interrupt { database: 0 });
        thread::sleep(Duration::from_millis(30));
        tell(Signal::CONT);
        let answer = connection.hear();
        if matches!(answer, Answer::Response(Response::Rows(_))) {
            assert_eq!(connection.hear(), Answer::Response(Response::Empty));
            return;
        }
        let mut client = scene::open(&mut cluster, SLOW);
        let written = format!("SELECT count(*) FROM t WHERE a = {attempt}");
        let is_told = matches!(answer, Answer::Response(Response::Empty));
        let rows = scene::integer(&mut client, &written);
        assert!(
            !is_told || rows == 0,
            "it was told as interrupted, and is there"
        );
    }
    panic!("it came too late in none of {ATTEMPTS} attempts");
}

#[test]
fn a_long_statement_ends_with_its_client() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &[]);
    let mut client = scene::open(&mut cluster, SLOW);
    for request in [query(), execute()] {
        drop(endless(&mut cluster, &request));
        let begun = Instant::now();
        client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
        assert!(begun.elapsed() < SOON, "the lock was not free");
        while client.status().unwrap()["sessions"] != 1 {
            assert!(begun.elapsed() < SOON, "the session is still there");
            thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 2);
}

#[test]
fn a_statement_is_stopped_at_the_limit_and_a_killed_leader_leaves_nothing() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &["--statement-time", "700"]);
    let mut client = scene::open(&mut cluster, SLOW);
    for sql in [ENDLESS, ENDLESS_WRITE] {
        let begun = Instant::now();
        let error = client.query(sql, &[]).unwrap_err();
        assert!(error.to_string().contains("--statement-time"), "{error}");
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(600) && took < SOON * 2,
            "{took:?}"
        );
    }
    // With one of each in flight.
    let _reader = endless(&mut cluster, &query());
    let _writer = endless(&mut cluster, &execute());
    let leader = scene::leader_of(&mut cluster);
    cluster.kill(leader);
    let mut client = scene::open(&mut cluster, SLOW);
    client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    cluster.start_node(leader).unwrap();
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 1);
    scene::assert_identical(&mut cluster, SLOW);
}

/// Rows of some milliseconds each, which commit on a worker thread, until the leader is gone;
/// the last one that was acknowledged.
fn write_slowly(client: &mut Client, first: i64) -> i64 {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) \
               INSERT INTO t SELECT ?1 + count(*) * 0 FROM n";
    let mut acknowledged = first;
    while client
        .execute(sql, &[Value::Integer(acknowledged + 1)])
        .is_ok()
    {
        acknowledged += 1;
    }
    acknowledged
}

/// The largest number that was seen until the leader is gone.
fn read_on(client: &mut Client, first: i64) -> i64 {
    let mut seen = first;
    while let Ok(batch) = client.query("SELECT coalesce(max(a), 0) FROM t", &[]) {
        match batch.rows[0][0] {
            Value::Integer(number) => {
                assert!(number >= seen, "{number} after {seen}");
                seen = number;
            }
            ref other => panic!("not a number, but {other:?}"),
        }
    }
    seen
}

/// Readers see a commit of another thread before its own client hears of it, and even before it
/// can be captured. `KILLS` sets how often the leader is killed (2 unless told).
#[test]
fn what_was_told_of_long_writes_survives_the_leader() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), &[]);
    let (mut told, mut loaded) = (0, 0);
    for _ in 0..process::size("KILLS", 2) {
        let mut writer = patient_client(&mut cluster, SLOW);
        let mut readers = [(); 3].map(|()| patient_client(&mut cluster, SLOW));
        let leader = scene::leader_of(&mut cluster);
        let (written, seen) = thread::scope(|scope| {
            let written = scope.spawn(|| write_slowly(&mut writer, told));
            let seen: Vec<_> = readers
                .iter_mut()
                .map(|reader| scope.spawn(move || read_on(reader, told)))
                .collect();
            thread::sleep(Duration::from_millis(700));
            cluster.kill(leader);
            let seen = seen.into_iter().map(|seen| seen.join().unwrap());
            (written.join().unwrap(), seen.max().unwrap())
        });
        loaded += usize::from(written > told);
        let mut client = scene::open(&mut cluster, SLOW);
        let found = scene::integer(&mut client, "SELECT coalesce(max(a), 0) FROM t");
        assert!(
            found >= written,
            "{written} was acknowledged, {found} is there"
        );
        assert!(found >= seen, "{seen} was seen, {found} is there");
        let rows = scene::integer(&mut client, "SELECT count(*) FROM t");
        assert_eq!(rows, found, "none is missing, and none is there twice");
        told = found;
        cluster.start_node(leader).unwrap();
        scene::assert_identical(&mut cluster, SLOW);
    }
    assert!(loaded > 0, "no leader has lasted for one write");
}

/// A statement deep inside SQLite's recursive code runs on a stack of ours.
#[test]
fn deeply_nested_sql_does_not_overflow_the_stack() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), 1);
    let mut client = scene::open(&mut cluster, SLOW);
    client.execute("CREATE TABLE t (a)", &[]).unwrap();
    let nest = |open: &str, core: &str, close: &str, depth: usize| {
        open.repeat(depth) + core + &close.repeat(depth)
    };
    let union = vec!["SELECT 1"; 500].join(" UNION SELECT 2 UNION ALL ");
    for depth in [10, 90, 300, 900, 5_000, 100_000] {
        let texts = [
            format!("SELECT {}", nest("(", "1", ")", depth)),
            format!("SELECT {}", nest("-", "1", "", depth)),
            format!("SELECT {}", nest("abs(", "1", ")", depth)),
            format!("SELECT {}", nest("1 + (", "1", ")", depth)),
            format!("SELECT {}", nest("(SELECT ", "1", ")", depth)),
            format!(
                "SELECT 1 WHERE {}",
                nest("EXISTS (SELECT 1 FROM t WHERE ", "1", ")", depth)
            ),
            nest("SELECT * FROM (", "SELECT 1", ")", depth),
            nest(
                "SELECT a FROM (SELECT a, count(*) FROM (",
                "SELECT a FROM t",
                ") GROUP BY a)",
                depth,
            ),
            format!("SELECT {}", nest("CASE WHEN 1 THEN ", "1", " END", depth)),
            format!("SELECT json('{}')", nest("[", "", "]", depth)),
            format!("SELECT 'a' LIKE '{}'", nest("%_", "", "", depth)),
            format!(
                "WITH {} SELECT 1",
                (0..depth.min(2_000))
                    .map(|number| {
                        format!(
                            "c{number} AS (SELECT * FROM {})",
                            match number {
                                0 => "t".to_owned(),
                                _ => format!("c{}", number - 1),
                            }
                        )
                    })
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            union.clone(),
        ];
        for sql in texts {
            // An answer of any kind: the node lives.
            let answer = client.query(&sql, &[]);
            if let Err(error) = answer {
                assert!(!error.is_connection_lost(), "{}: {error}", &sql[..60]);
            }
        }
    }
    let row = client.query("SELECT 1", &[]).unwrap().rows;
    assert_eq!(row, [[Value::Integer(1)]]);
    assert_eq!(cluster.dead_node(), None);
}

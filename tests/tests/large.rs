//! A database much larger than a node's memory: loading it, reading it at random, committing while
//! pages are moved into its file, restarting.
//!
//! `LARGE_MEGABYTES` sets its size (48 unless told), `LARGE_NODES` the number of nodes (1), `LARGE_READS`
//! how many rows are read (2,000), `LARGE_SECONDS` how long it is committed to (2).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringlite::local_cluster::LocalCluster;
use ringlite::{Client, Node, ReadLevel, Value, params};
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "large";
const ROW_BYTES: usize = 5_000;
const ROWS_PER_STATEMENT: usize = 200;
/// More than this a node may never hold in memory, however large its databases are.
const ANONYMOUS_BYTES_MAX: u64 = 256 << 20;
const RESTART_TIME_MAX: Duration = Duration::from_secs(2);
/// What is committed within this behind a write into the file counts as beside a backfill.
const FLUSH_TIME: Duration = Duration::from_millis(100);

fn anonymous_bytes(cluster: &LocalCluster, nodes: usize) -> u64 {
    let nodes = (1..=nodes).filter_map(|id| cluster.process_of(id));
    nodes.map(process::anonymous_bytes).max().unwrap_or(0)
}

fn mibps(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / f64::from(1 << 20)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    match sorted {
        [] => Duration::ZERO,
        _ => sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)],
    }
}

/// When pages were written into `file`, until `stop`: seen by the time of its last change.
fn watch_backfills(file: &Path, stop: &AtomicBool) -> Vec<Instant> {
    let changed = || file.metadata().unwrap().modified().unwrap();
    let mut last = changed();
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
        let now = changed();
        if now != last {
            seen.push(Instant::now());
            last = now;
        }
    }
    seen
}

/// Inserts rows for `time`, and prints how long commits took while the node moved pages into
/// `file`, or flushed it, and at other times. Returns how many rows there are more.
fn commit_beside_backfills(
    client: &mut Client,
    file: &Path,
    time: Duration,
    first: usize,
) -> usize {
    let stop = AtomicBool::new(false);
    let mut commits = Vec::new();
    let backfills = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch_backfills(file, &stop));
        let start = Instant::now();
        while start.elapsed() < time {
            let values = [first + commits.len(), ROW_BYTES];
            let values = values.map(|number| Value::Integer(number as i64));
            let began = Instant::now();
            let insert = "INSERT INTO t VALUES (?1, randomblob(?2))";
            client.execute(insert, &values).unwrap();
            commits.push((began, Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    // The flush behind the last write of a backfill does not change the file any more.
    let is_beside = |(began, ended): &(Instant, Instant)| {
        let after = backfills.partition_point(|seen| seen < began);
        let before = after.checked_sub(1).map(|before| backfills[before]);
        before.is_some_and(|before| *began - before < FLUSH_TIME)
            || backfills.get(after).is_some_and(|seen| seen < ended)
    };
    let times = |beside: bool| {
        let times = commits.iter().filter(|commit| is_beside(commit) == beside);
        let mut times: Vec<_> = times.map(|(began, ended)| *ended - *began).collect();
        times.sort_unstable();
        times
    };
    let (beside, quiet) = (times(true), times(false));
    let (beside_p99, quiet_p99) = (percentile(&beside, 99), percentile(&quiet, 99));
    println!(
        "commits while pages are moved: {}, p50 {:?}, p99 {beside_p99:?}; at other times: {}, p50 \
         {:?}, p99 {quiet_p99:?}: {:.2} times",
        beside.len(),
        percentile(&beside, 50),
        quiet.len(),
        percentile(&quiet, 50),
        beside_p99.as_secs_f64() / quiet_p99.as_secs_f64()
    );
    assert!(!beside.is_empty(), "no pages were moved");
    commits.len()
}

/// Reads rows of a cold database in no order, and prints how long that took.
fn read_at_random(who: &str, rows: usize, mut read: impl FnMut(i64)) {
    // Only root can make the kernel forget the files; without it the reads are just faster.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    let reads = process::size("LARGE_READS", 2_000);
    let mut times: Vec<_> = (0..reads)
        .map(|number| {
            // A walk that visits distant rows.
            let id = (number * 7_919_999) % rows;
            let began = Instant::now();
            read(id as i64);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "{reads} reads by key at random of {who}, after the page cache was dropped: p50 {:?}, p99 \
         {:?}",
        percentile(&times, 50),
        percentile(&times, 99)
    );
}

/// Reads by a node of this process, on the thread that asks.
fn read_in_process(cluster: &LocalCluster, rows: usize) {
    let node = Node::builder(cluster.data_of(1))
        .listen(cluster.addresses()[0].clone())
        .start()
        .unwrap();
    let database = node.database(DATABASE).unwrap();
    let length = "SELECT length(data) FROM t WHERE id = ?";
    read_at_random("a thread of the node's process", rows, |id| {
        let found = database.query_with(ReadLevel::Leader, length, params![id]);
        let found = found.unwrap();
        let length: i64 = found.iter().next().unwrap().get(0).unwrap();
        assert_eq!(length, ROW_BYTES as i64);
    });
    node.stop().unwrap();
}

#[test]
fn a_database_larger_than_memory_is_loaded_read_and_restarted_with_little_of_it() {
    let bytes = process::size("LARGE_MEGABYTES", 48) << 20;
    let nodes = process::size("LARGE_NODES", 1);
    let rows = bytes / ROW_BYTES;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), nodes);
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)", &[])
        .unwrap();

    let began = Instant::now();
    let mut most = 0;
    let insert = "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2) \
                  INSERT INTO t SELECT i, randomblob(?3) FROM n";
    for first in (0..rows).step_by(ROWS_PER_STATEMENT) {
        let last = (first + ROWS_PER_STATEMENT).min(rows);
        let values = [first, last, ROW_BYTES].map(|number| Value::Integer(number as i64));
        client.execute(insert, &values).unwrap();
        most = most.max(anonymous_bytes(&cluster, nodes));
    }
    println!(
        "loaded {rows} rows, {} MiB, at {:.0} MiB/s; at most {} MiB anonymous",
        bytes >> 20,
        mibps(bytes, began.elapsed()),
        most >> 20
    );
    assert!(most < ANONYMOUS_BYTES_MAX, "{most} bytes");
    scene::assert_identical(&mut cluster, DATABASE);

    let length = "SELECT length(data) FROM t WHERE id = ?";
    read_at_random("a TCP client", rows, |id| {
        let found = client.query(length, &[Value::Integer(id)]).unwrap();
        assert_eq!(found.rows, [[Value::Integer(ROW_BYTES as i64)]]);
    });

    let seconds = process::size("LARGE_SECONDS", 2) as u64;
    let leader = scene::leader_of(&mut cluster);
    let data = cluster.data_of(leader);
    let file = data.join("shard-0/databases").join(DATABASE);
    let more = commit_beside_backfills(&mut client, &file, Duration::from_secs(seconds), rows);

    for id in 1..=nodes {
        cluster.kill(id);
    }
    let began = Instant::now();
    for id in 1..=nodes {
        cluster.start_node(id).unwrap();
    }
    let mut client = scene::open(&mut cluster, DATABASE);
    let restarted = began.elapsed();
    println!(
        "from the kill to serving: {restarted:?}; {} MiB anonymous",
        anonymous_bytes(&cluster, nodes) >> 20
    );
    assert!(restarted < RESTART_TIME_MAX, "{restarted:?}");
    let last = scene::integer(&mut client, "SELECT max(id) FROM t");
    assert_eq!(last, (rows + more) as i64 - 1);

    if nodes == 1 {
        cluster.kill(1);
        read_in_process(&cluster, rows);
    }
}

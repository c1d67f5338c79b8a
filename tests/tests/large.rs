//! A database much larger than a node's memory: loading it, reading it at random, restarting.
//!
//! `LARGE_MEGABYTES` sets its size (48 unless told), `LARGE_NODES` the number of nodes (1).

use std::time::{Duration, Instant};

use ringlite::Value;
use ringlite::local_cluster::LocalCluster;
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "large";
const ROW_BYTES: usize = 5_000;
const ROWS_PER_STATEMENT: usize = 200;
const READS: usize = 2_000;
/// More than this a node may never hold in memory, however large its databases are.
const ANONYMOUS_BYTES_MAX: u64 = 256 << 20;
const RESTART_TIME_MAX: Duration = Duration::from_secs(2);

fn anonymous_bytes(cluster: &LocalCluster, nodes: usize) -> u64 {
    let nodes = (1..=nodes).filter_map(|id| cluster.process_of(id));
    nodes.map(process::anonymous_bytes).max().unwrap_or(0)
}

fn mibps(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / f64::from(1 << 20)
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

    // Only root can make the kernel forget the files; without it the reads are just faster.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    let mut times: Vec<_> = (0..READS)
        .map(|read| {
            // A walk that visits distant rows in no order.
            let id = (read * 7_919_999) % rows;
            let began = Instant::now();
            let length = "SELECT length(data) FROM t WHERE id = ?";
            let found = client.query(length, &[Value::Integer(id as i64)]).unwrap();
            assert_eq!(found.rows, [[Value::Integer(ROW_BYTES as i64)]]);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "reads by key at random after the page cache was dropped: p50 {:?}, p99 {:?}",
        times[READS / 2],
        times[READS * 99 / 100]
    );

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
    assert_eq!(last, rows as i64 - 1);
}

//! Load without an end: memory and disk stay bounded, the databases stay equal, and a node that is
//! stopped leaves plain SQLite files behind.
//!
//! `ENDLESS_SECONDS` sets how long each load lasts (6 unless told).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::Value;
use ringlite::local_cluster::LocalCluster;
use ringlite_tests::{process, scene};
use rustix::process::{Pid, Signal};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "load";
const NODES: usize = 3;
/// More than this a node may never hold in memory, whatever was written.
const ANONYMOUS_BYTES_MAX: u64 = 256 << 20;
/// Segments of 8 MiB: those in use, the reserve, and those that wait to be recycled.
const LOG_BYTES_MAX: u64 = 160 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(250);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What was seen of the nodes while they were under load.
#[derive(Debug, Default)]
struct Seen {
    anonymous_bytes: u64,
    log_bytes: u64,
}

impl Seen {
    fn look(&mut self, cluster: &LocalCluster) {
        for id in 1..=NODES {
            if let Some(node) = cluster.process_of(id) {
                let anonymous = process::anonymous_bytes(node);
                self.anonymous_bytes = self.anonymous_bytes.max(anonymous);
            }
            let log = cluster.data_of(id).join("shard-0/log");
            self.log_bytes = self.log_bytes.max(size_of_files(&log));
        }
    }
}

fn size_of_files(directory: &Path) -> u64 {
    let Ok(files) = directory.read_dir() else {
        return 0;
    };
    // A file may be renamed or removed between the two looks at it.
    let sizes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    sizes.sum()
}

fn written_bytes(cluster: &LocalCluster) -> u64 {
    let nodes = (1..=NODES).filter_map(|id| cluster.process_of(id));
    nodes.map(process::written_bytes).sum()
}

/// Inserts and rewrites rows of 100 bytes from `clients` connections; returns how many rows.
fn load(cluster: &mut LocalCluster, clients: usize, length: Duration, seen: &mut Seen) -> u64 {
    let clients: Vec<_> = (0..clients)
        .map(|_| scene::open(cluster, DATABASE))
        .collect();
    let rows = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (rows, stop) = (&rows, &stop);
        for (number, mut client) in clients.into_iter().enumerate() {
            scope.spawn(move || {
                let text = "x".repeat(100);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    // The table stays small, so that what grows is not the data.
                    let id = number as i64 * 1_000 + count % 1_000;
                    let row = [Value::Integer(id), Value::Text(text.clone())];
                    client
                        .execute("INSERT OR REPLACE INTO t VALUES (?, ?)", &row)
                        .unwrap();
                    rows.fetch_add(1, Ordering::Relaxed);
                    count += 1;
                }
            });
        }
        let end = Instant::now() + length;
        while Instant::now() < end {
            seen.look(cluster);
            thread::sleep(LOOK_EVERY);
        }
        stop.store(true, Ordering::Relaxed);
    });
    rows.into_inner()
}

#[test]
fn memory_and_log_stay_bounded_and_a_stop_leaves_plain_files() {
    let length = Duration::from_secs(process::size("ENDLESS_SECONDS", 6) as u64);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), NODES);
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)", &[])
        .unwrap();
    let mut seen = Seen::default();
    for clients in [1, 64] {
        let before = written_bytes(&cluster);
        let rows = load(&mut cluster, clients, length, &mut seen);
        let written = written_bytes(&cluster) - before;
        println!(
            "{clients} clients: {rows} rows, {} bytes written to disk per row and node; {seen:?}",
            written / rows.max(1) / NODES as u64
        );
    }
    assert!(seen.anonymous_bytes < ANONYMOUS_BYTES_MAX, "{seen:?}");
    assert!(seen.log_bytes < LOG_BYTES_MAX, "{seen:?}");
    scene::assert_identical(&mut cluster, DATABASE);
    let rows = scene::integer(&mut client, "SELECT count(*) FROM t");

    for id in 1..=NODES {
        stop(&mut cluster, id);
    }
    for id in 1..=NODES {
        let file = cluster.data_of(id).join("shard-0/databases").join(DATABASE);
        assert_eq!(plain_rows(&file), rows, "node {id}");
    }
    for id in 1..=NODES {
        cluster.start_node(id).unwrap();
    }
    let mut client = scene::open(&mut cluster, DATABASE);
    assert_eq!(
        scene::integer(&mut client, "SELECT count(*) FROM t"),
        rows,
        "after the restart"
    );
    scene::assert_identical(&mut cluster, DATABASE);
}

/// Tells a node to stop, as an operator does, and waits until it has.
fn stop(cluster: &mut LocalCluster, id: usize) {
    let node = cluster.process_of(id).expect("the node runs");
    let pid = Pid::from_raw(node.cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let deadline = Instant::now() + STOP_TIMEOUT;
    while cluster.dead_node() != Some(id) {
        assert!(Instant::now() < deadline, "node {id} does not stop");
        thread::sleep(Duration::from_millis(5));
    }
    cluster.kill(id);
}

/// The rows of the table by plain SQLite, which finds the file in order.
fn plain_rows(file: &Path) -> i64 {
    let connection = rusqlite::Connection::open(file).unwrap();
    let integrity: String = connection
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(integrity, "ok", "{}", file.display());
    let count = "SELECT count(*) FROM t";
    connection.query_row(count, (), |row| row.get(0)).unwrap()
}

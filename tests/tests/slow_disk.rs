//! Disks that take their time: for reads of a database that is not in the page cache, and for the
//! flushes of a file that is being restored. The shard's core goes on meanwhile.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringlite::Client;
use ringlite::client::SourceFile;
use ringlite_tests::disk::{self, Disk};
use ringlite_tests::lone_node::LoneNode;
use ringlite_tests::scene;
use ringlite_tests::trace::{self, Call, Tracer};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DISK_BYTES: usize = 128 << 20;
/// One in each page.
const ROWS: i64 = 100;
const COLD: &str = "cold";
/// How long one flush of the disk takes.
const FLUSH_TIME: Duration = Duration::from_millis(700);
const FILE_BYTES: usize = 24 << 20;
const QUICK: &str = "quick";
/// How long one read of the disk takes.
const READ_TIME: Duration = Duration::from_millis(200);

fn start(data: &Path) -> LoneNode {
    let mut node = LoneNode::spawn(&[PROGRAM, "serve"], data, 0);
    if let Err(finished) = node.wait_until_it_serves() {
        panic!("the node does not start: {finished:?}");
    }
    node
}

fn open(node: &LoneNode, database: &str) -> Client {
    let mut client = node.client().expect("the node serves");
    client.open(database).unwrap();
    client
}

/// Takes a database's file out of the page cache.
fn evict(data: &Path, database: &str) {
    let file = File::open(data.join("shard-0/databases").join(database)).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// The calls of the shard's own thread that read the file of a database.
fn reads_on_core<'a>(calls: &'a [Call], core: u32, database: &str) -> Vec<&'a Call> {
    let file = format!("/{database}>");
    let reads = calls.iter().filter(|call| {
        call.thread == core && call.name.starts_with("pread") && call.rest.contains(&file)
    });
    reads.collect()
}

#[test]
fn commits_go_on_while_a_scan_waits_for_the_disk() {
    if let Some(why) = disk::missing() {
        println!("NOT CHECKED, no disk was slow: {why}");
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = directory.path().join("data");
    let mut node = start(&data);
    let mut cold = open(&node, COLD);
    cold.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    // Neighbours in the table are no neighbours in the file, so that reading ahead helps little.
    cold.execute(
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT {ROWS}) \
             INSERT INTO t SELECT (i * 37) % {ROWS}, randomblob(3000) FROM n"
        ),
        &[],
    )
    .unwrap();
    open(&node, QUICK)
        .execute("CREATE TABLE t (a)", &[])
        .unwrap();
    assert_eq!(node.stop().code, Some(0));

    // That database alone moves to the slow disk: a loop device does one thing at a time.
    let disk = Disk::new(DISK_BYTES);
    disk.format();
    let mounted = disk.mount().expect("a new file system can be mounted");
    let databases = data.join("shard-0/databases");
    for name in [COLD.to_owned(), format!("{COLD}.sum")] {
        let (here, there) = (databases.join(&name), mounted.path().join(&name));
        std::fs::copy(&here, &there).unwrap();
        std::fs::remove_file(&here).unwrap();
        std::os::unix::fs::symlink(&there, &here).unwrap();
    }

    // Neither SQLite nor the kernel has pages of it now.
    let mut node = start(&data);
    let mut quick = open(&node, QUICK);
    quick.execute("INSERT INTO t VALUES (0)", &[]).unwrap();
    // A session reads the first page on the core when it begins.
    let mut scanner = open(&node, COLD);
    evict(&data, COLD);
    // The shard's own thread comes before those that do what blocks for it.
    let mut threads = trace::threads(node.process());
    threads.sort();
    let core = threads.iter().find(|(_, name)| name == "ringlite-1");
    let (core, _) = core.unwrap_or_else(|| panic!("no thread of the shard in {threads:?}"));
    let tracer = Command::new("strace").arg("-V").output().is_ok().then(|| {
        let output = directory.path().join("trace");
        Tracer::attach(node.process(), &output).unwrap()
    });
    disk.device.set_read_time(READ_TIME);
    let (scan_time, mut took) = thread::scope(|scope| {
        let scan = scope.spawn(move || {
            let begun = Instant::now();
            let sum = "SELECT sum(length(b)) FROM t WHERE a >= 0";
            assert_eq!(scene::integer(&mut scanner, sum), ROWS * 3000);
            begun.elapsed()
        });
        let mut took = Vec::new();
        while !scan.is_finished() {
            let begun = Instant::now();
            quick.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
            took.push(begun.elapsed());
        }
        (scan.join().unwrap(), took)
    });
    disk.device.set_read_time(Duration::ZERO);
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    println!(
        "the scan took {scan_time:?}; {} commits beside it, p50 {:?}, p99 {p99:?}, max {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1],
    );
    assert!(scan_time > 5 * READ_TIME, "the scan found its pages cached");
    assert!(p99 < READ_TIME / 2, "commits have waited for reads");
    match tracer {
        Some(tracer) => {
            let calls = tracer.detach();
            let reads = reads_on_core(&calls, *core, COLD);
            let waiting = |call: &&&Call| !call.rest.contains("RWF_NOWAIT");
            assert_eq!(reads.iter().find(waiting), None, "a read that may wait");
            assert!(!reads.is_empty(), "the trace is not of the shard's thread");
        }
        None => println!("NOT CHECKED, what the core reads: there is no strace"),
    }
    assert_eq!(node.stop().code, Some(0));
}

/// Commits until `is_over`; how long each took, sorted.
fn commit_until(client: &mut Client, is_over: impl Fn() -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !is_over() {
        let begun = Instant::now();
        client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    took
}

#[test]
fn commits_go_on_while_a_restored_file_waits_for_the_disk() {
    if let Some(why) = disk::missing() {
        println!("NOT CHECKED, no disk was slow: {why}");
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = directory.path().join("data");
    assert_eq!(start(&data).stop().code, Some(0));
    // The pieces of the file go to the slow disk, and the log stays where it is.
    let disk = Disk::new(DISK_BYTES);
    disk.format();
    let mounted = disk.mount().expect("a new file system can be mounted");
    std::fs::remove_dir_all(data.join("tmp")).unwrap();
    std::os::unix::fs::symlink(mounted.path(), data.join("tmp")).unwrap();
    let path = directory.path().join("large.db");
    let plain = rusqlite::Connection::open(&path).unwrap();
    plain
        .execute_batch(&format!(
            "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob({FILE_BYTES}))"
        ))
        .unwrap();
    drop(plain);

    let mut node = start(&data);
    let mut quick = open(&node, QUICK);
    quick.execute("CREATE TABLE t (a)", &[]).unwrap();
    disk.device.set_flush_time(FLUSH_TIME);
    let (sent, took) = thread::scope(|scope| {
        let mut sender = node.client().unwrap();
        let mut file = SourceFile::open(&path, false).unwrap();
        let sent = scope.spawn(move || {
            let begun = Instant::now();
            sender
                .send_restore("large", &mut file, false, |_, _| ())
                .unwrap();
            begun.elapsed()
        });
        let took = commit_until(&mut quick, || sent.is_finished());
        (sent.join().unwrap(), took)
    });
    disk.device.set_flush_time(Duration::ZERO);
    let p99 = took[took.len() * 99 / 100];
    let slow = took.iter().filter(|time| **time > FLUSH_TIME / 2).count();
    println!(
        "the file took {sent:?}; {} commits beside it, p99 {p99:?}, max {:?}",
        took.len(),
        took[took.len() - 1],
    );
    assert!(sent > 3 * FLUSH_TIME, "the disk was not slow");
    assert!(slow < 2, "{slow} commits have waited for flushes");
    assert_eq!(node.stop().code, Some(0));
}

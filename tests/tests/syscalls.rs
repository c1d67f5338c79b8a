//! What a commit asks of the kernel: the log goes to the disk through io_uring, past the page
//! cache, and nothing on the way of a commit waits in another system call.
//!
//! It needs strace. Without it the test fails, unless `RINGLITE_NO_STRACE=1` allows to leave it
//! out. `COMMITS` sets how many commits are looked at (300 unless told).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, Value};
use ringlite_tests::trace::{self, Call, Tracer};
use ringlite_tests::{process, scene, segments};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "traced";
const CLIENTS: usize = 8;
const O_DIRECT: u32 = 0o40_000;
const O_DSYNC: u32 = 0o10_000;
/// Large enough that no window in which calls are counted needs a new one.
const SEGMENT_MIB: &str = "64";
/// The one in use, the one that is ready, and the one after it.
const SEGMENTS_AHEAD: usize = 3;

/// What flushes a file, and so has no place on the way of a commit.
const FLUSHES: [&str; 6] = [
    "fsync",
    "fdatasync",
    "sync_file_range",
    "msync",
    "sync",
    "syncfs",
];
/// What writes to a file by a call of its own.
const WRITES: [&str; 7] = [
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
];

/// How often a window is tried.
const WINDOWS_MAX: usize = 10;

/// Calls for each commit, in hundredths: generous bounds that a lost batch or a wait in the wrong
/// place breaks.
const FUTEX_MAX_PERCENT: usize = 20;
const ENTER_MAX_PERCENT: usize = 2_500;

fn strace_is_there() -> bool {
    if std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_ok()
    {
        return true;
    }
    let allowed = std::env::var("RINGLITE_NO_STRACE").is_ok_and(|value| value == "1");
    assert!(
        allowed,
        "there is no strace; install it, or set RINGLITE_NO_STRACE=1"
    );
    println!("NOT RUN: there is no strace");
    false
}

/// Waits until the node has made the segments that it keeps ahead, and makes no other.
fn wait_for_segments(data: &Path) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let log = data.join("shard-0").join("log");
        let unfinished = std::fs::read_dir(log)
            .unwrap()
            .flatten()
            .any(|file| file.path().extension().is_some_and(|end| end == "new"));
        let segments = segments::segments(data);
        if segments.len() >= SEGMENTS_AHEAD && !unfinished {
            return segments;
        }
        assert!(
            Instant::now() < deadline,
            "the segments are not ready: {segments:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn commit(client: &mut Client, count: usize) {
    for _ in 0..count {
        let row = [Value::Text("x".repeat(100))];
        client
            .execute("INSERT INTO t (b) VALUES (?)", &row)
            .unwrap();
    }
}

/// The calls of one node while `act` runs, in a window in which no pages are moved into the files of
/// databases: that goes on every few seconds, beside the commits, and flushes.
fn traced(cluster: &LocalCluster, id: usize, output: &Path, mut act: impl FnMut()) -> Vec<Call> {
    let manifest = cluster.data_of(id).join("shard-0").join("manifest.a");
    let saved = || std::fs::metadata(&manifest).and_then(|file| file.modified());
    for _ in 0..WINDOWS_MAX {
        let before = saved().unwrap();
        let tracer = Tracer::attach(cluster.process_of(id).unwrap(), output).unwrap();
        act();
        let calls = tracer.detach();
        if saved().unwrap() == before {
            return calls;
        }
    }
    panic!("pages were moved in each of {WINDOWS_MAX} windows");
}

fn print_table(title: &str, calls: &[Call], commits: usize) {
    println!("{title}: {commits} commits");
    println!("| system call | calls | per commit |\n|---|---|---|");
    for (name, count) in trace::count(calls) {
        println!(
            "| {name} | {count} | {:.2} |",
            count as f64 / commits as f64
        );
    }
}

/// Whether a call of [`WRITES`] is to a file of the node, and not to a socket or an eventfd.
fn is_to_a_file(call: &Call, data: &Path) -> bool {
    call.rest.contains(&format!("<{}", data.display()))
}

fn judge(calls: &[Call], commits: usize, data: &Path) {
    let counts = trace::count(calls);
    for name in FLUSHES {
        assert_eq!(counts.get(name), None, "{name} on the way of a commit");
    }
    for call in calls {
        let writes = WRITES.contains(&call.name.as_str()) && is_to_a_file(call, data);
        assert!(
            !writes,
            "a write to a file on the way of a commit: {call:?}"
        );
        let opens = call.name.starts_with("open") && call.rest.contains("/log/");
        assert!(!opens, "the window is not free of new segments: {call:?}");
    }
    let enters = counts.get("io_uring_enter").copied().unwrap_or(0);
    assert!(
        enters > 0,
        "no io_uring_enter: the trace is not of the node"
    );
    assert!(
        enters * 100 <= commits * ENTER_MAX_PERCENT,
        "{enters} times io_uring_enter"
    );
    let futexes = counts.get("futex").copied().unwrap_or(0);
    assert!(
        futexes * 100 <= commits * FUTEX_MAX_PERCENT,
        "{futexes} times futex"
    );
}

#[test]
fn a_commit_is_one_durable_write_through_the_ring_and_no_flush() {
    if !strace_is_there() {
        return;
    }
    let commits = process::size("COMMITS", 300);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let launch = Launch::program(PROGRAM).with_arguments(["--segment-mib", SEGMENT_MIB]);
    let mut cluster = scene::launch_nodes(directory.path(), 3, launch);
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    for id in 1..=3 {
        wait_for_segments(&cluster.data_of(id));
    }
    commit(&mut client, 100);
    let leader = scene::leader_of(&mut cluster);
    for (title, id) in [("the leader", leader), ("a follower", leader % 3 + 1)] {
        let data = cluster.data_of(id);
        check_log_flags(&cluster, id);
        let output = directory.path().join("trace");
        let before = segments::segments(&data);
        let calls = traced(&cluster, id, &output, || commit(&mut client, commits));
        assert_eq!(
            before,
            segments::segments(&data),
            "the window needed a new segment"
        );
        print_table(title, &calls, commits);
        judge(&calls, commits, &data);
    }
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| scene::open(&mut cluster, DATABASE))
        .collect();
    let each = commits / 4;
    let calls = traced(&cluster, leader, &directory.path().join("trace"), || {
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(move || commit(client, each));
            }
        });
    });
    print_table(
        "the leader, with eight clients at once",
        &calls,
        CLIENTS * each,
    );
    judge(&calls, CLIENTS * each, &cluster.data_of(leader));
    scene::assert_identical(&mut cluster, DATABASE);
}

/// The segment that is written to is opened so that each write goes past the page cache and is
/// durable when it completes.
fn check_log_flags(cluster: &LocalCluster, id: usize) {
    let files = trace::open_files(cluster.process_of(id).unwrap());
    let log = cluster.data_of(id).join("shard-0").join("log");
    let of_log: Vec<_> = files
        .iter()
        .filter(|(path, _)| path.starts_with(&log))
        .collect();
    assert!(
        !of_log.is_empty(),
        "node {id} has no segment open: {files:?}"
    );
    for (path, flags) in of_log {
        let wanted = O_DIRECT | O_DSYNC;
        assert_eq!(
            flags & wanted,
            wanted,
            "{} has the flags {flags:o}",
            path.display()
        );
    }
    let hard_state = files.iter().find(|(path, _)| path.ends_with("hard-state"));
    assert!(
        hard_state.is_some_and(|(_, flags)| flags & O_DSYNC != 0),
        "{hard_state:?}"
    );
}

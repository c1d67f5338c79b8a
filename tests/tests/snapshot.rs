//! Members that lack what the log has no more: they get a snapshot, from real processes that go on
//! under load, are killed, and have little memory.
//!
//! `SNAPSHOT_MEGABYTES` sets the size of the database (64 unless told).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, Value};
use ringlite_tests::{process, scene, segments};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "large";
const SECOND: &str = "second";
const NODES: usize = 3;
const ROW_BYTES: usize = 4_000;
const ROWS_PER_STATEMENT: usize = 200;
/// What a node's memory may grow by while it sends or receives a snapshot.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// Between two commits of one of the writers whose latency is measured: 1,000 commits/s in all.
const PACE: Duration = Duration::from_millis(5);
const WRITERS: usize = 5;
/// Of each of them.
const QUIET_COMMITS: usize = 600;
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(300);

/// A short WAL and a short window, so that what a member misses is soon not in the log any more.
const ARGUMENTS: [&str; 6] = [
    "--segment-mib",
    "4",
    "--wal-kib",
    "1024",
    "--log-window-mib",
    "8",
];

fn start(directory: &Path, mib_per_second: &str) -> LocalCluster {
    let launch = Launch::program(PROGRAM)
        .with_arguments(ARGUMENTS)
        .with_arguments(["--snapshot-mib-per-second", mib_per_second]);
    scene::launch_nodes(directory, NODES, launch)
}

fn megabytes() -> usize {
    process::size("SNAPSHOT_MEGABYTES", 64)
}

/// Adds rows of random bytes to a database, which has a table then.
fn fill(cluster: &mut LocalCluster, database: &str, megabytes: usize) {
    let mut client = scene::open(cluster, database);
    let table = "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, data BLOB)";
    client.execute(table, &[]).unwrap();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
                  INSERT INTO t (data) SELECT randomblob(?2) FROM n";
    for _ in 0..(megabytes << 20).div_ceil(ROW_BYTES * ROWS_PER_STATEMENT) {
        let values = [ROWS_PER_STATEMENT, ROW_BYTES].map(|number| Value::Integer(number as i64));
        client.execute(insert, &values).unwrap();
    }
}

/// Any member that does not lead.
fn follower_of(cluster: &mut LocalCluster) -> usize {
    let leader = scene::leader_of(cluster);
    (1..=NODES).find(|id| *id != leader).unwrap()
}

/// Kills a member, and writes until the others cannot give it what it has missed any more.
fn leave_behind(cluster: &mut LocalCluster, id: usize) {
    cluster.kill(id);
    let mut client = scene::open(cluster, DATABASE);
    let missed_from = client.digest(DATABASE, 0).unwrap().applied;
    fill(cluster, DATABASE, 24);
    // What is in the files is let go of after 5 s at the latest.
    let deadline = Instant::now() + Duration::from_secs(30);
    for other in (1..=NODES).filter(|other| *other != id) {
        while log_base(&cluster.data_of(other)) <= missed_from {
            assert!(Instant::now() < deadline, "the log is not cut");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Behind which entry the log of a node begins, by its manifest (docs/FORMAT.md).
fn log_base(data: &Path) -> u64 {
    let manifest = std::fs::read(data.join("shard-0/manifest.a")).unwrap();
    u64::from_le_bytes(manifest[48..56].try_into().unwrap())
}

fn said(cluster: &LocalCluster, id: usize, words: &str) -> usize {
    let log = std::fs::read_to_string(cluster.log_of(id)).unwrap_or_default();
    log.lines().filter(|line| line.contains(words)).count()
}

const INSTALLED: &str = "was installed";
const ANEW: &str = "goes on at file 0, offset 0";
const RESUMED: &str = "goes on at file ";

fn await_installation(cluster: &mut LocalCluster, id: usize, count: usize) {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    while said(cluster, id, INSTALLED) < count {
        if let Some(dead) = cluster.dead_node() {
            panic!("node {dead} died: {}", cluster.last_words_of(dead));
        }
        assert!(Instant::now() < deadline, "no snapshot was installed");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of a snapshot that have arrived at a member.
fn arrived_bytes(cluster: &LocalCluster, id: usize) -> u64 {
    let staged: PathBuf = cluster.data_of(id).join("shard-0/snapshot");
    let Ok(files) = std::fs::read_dir(staged) else {
        return 0;
    };
    let sizes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    sizes.sum()
}

fn await_arrival(cluster: &LocalCluster, id: usize, bytes: u64) {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    while arrived_bytes(cluster, id) < bytes {
        assert!(Instant::now() < deadline, "nothing arrives at node {id}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// How long the commits of the writers took, each with one every [`PACE`], until `is_over`.
fn commit_paced(clients: &mut [Client], is_over: impl Fn(usize) -> bool + Sync) -> Vec<Duration> {
    let commit = |client: &mut Client| {
        let mut times = Vec::new();
        let mut due = Instant::now();
        while !is_over(times.len()) {
            due = (due + PACE).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let began = Instant::now();
            client
                .execute("INSERT INTO t (data) VALUES (randomblob(100))", &[])
                .unwrap();
            times.push(began.elapsed());
        }
        times
    };
    let mut times: Vec<_> = thread::scope(|scope| {
        let writers = clients
            .iter_mut()
            .map(|client| scope.spawn(|| commit(client)));
        let writers: Vec<_> = writers.collect();
        let times = writers.into_iter().map(|writer| writer.join().unwrap());
        times.flatten().collect()
    });
    times.sort_unstable();
    times
}

fn percentile(times: &[Duration], per_mille: usize) -> Duration {
    times[(times.len() * per_mille / 1_000).min(times.len() - 1)]
}

/// The most anonymous memory of some processes above what they had, watched until `is_over`.
fn watch_growth(processes: &[u32], is_over: &AtomicBool) -> Vec<u64> {
    let look = |processes: &[u32]| -> Vec<u64> {
        let bytes = processes.iter().copied().map(process::anonymous_bytes);
        bytes.collect()
    };
    let before = look(processes);
    let mut growth = vec![0; processes.len()];
    while !is_over.load(Ordering::Relaxed) {
        for (most, (now, before)) in growth.iter_mut().zip(look(processes).iter().zip(&before)) {
            *most = (*most).max(now.saturating_sub(*before));
        }
        thread::sleep(Duration::from_millis(20));
    }
    growth
}

#[test]
fn a_member_that_was_away_for_too_long_gets_a_snapshot_while_commits_go_on() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), "64");
    fill(&mut cluster, DATABASE, megabytes());
    fill(&mut cluster, SECOND, 1);
    let behind = follower_of(&mut cluster);
    leave_behind(&mut cluster, behind);
    let mut clients = [(); WRITERS].map(|()| scene::open(&mut cluster, DATABASE));
    let quiet = commit_paced(&mut clients, |count| count >= QUIET_COMMITS);

    let leader = scene::leader_of(&mut cluster);
    cluster.start_node(behind).unwrap();
    thread::sleep(Duration::from_millis(300));
    let processes = [leader, behind].map(|id| cluster.process_of(id).unwrap());
    let began = Instant::now();
    let is_over = AtomicBool::new(false);
    let (busy, growth) = thread::scope(|scope| {
        let growth = scope.spawn(|| watch_growth(&processes, &is_over));
        let busy = commit_paced(&mut clients, |_| said(&cluster, behind, INSTALLED) > 0);
        is_over.store(true, Ordering::Relaxed);
        (busy, growth.join().unwrap())
    });
    let took = began.elapsed();
    println!(
        "{} MiB arrived in {took:?} beside {} commits; quiet p50 {:?} p99 {:?}, meanwhile p50 {:?} \
         p99 {:?}; memory grew by {} KiB on the leader and {} KiB on the member",
        megabytes() + 25,
        busy.len(),
        percentile(&quiet, 500),
        percentile(&quiet, 990),
        percentile(&busy, 500),
        percentile(&busy, 990),
        growth[0] >> 10,
        growth[1] >> 10,
    );
    for bytes in growth {
        assert!(bytes < GROWTH_BYTES_MAX, "{bytes} bytes");
    }
    scene::assert_identical(&mut cluster, DATABASE);
    scene::assert_identical(&mut cluster, SECOND);

    // What it has now it keeps, and its log is one that a restart accepts.
    cluster.kill(behind);
    cluster.start_node(behind).unwrap();
    fill(&mut cluster, DATABASE, 1);
    scene::assert_identical(&mut cluster, DATABASE);
    assert_eq!(said(&cluster, behind, INSTALLED), 1);
}

#[test]
fn a_snapshot_survives_kills_of_either_end() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), "12");
    fill(&mut cluster, DATABASE, megabytes());
    let behind = follower_of(&mut cluster);
    leave_behind(&mut cluster, behind);
    cluster.start_node(behind).unwrap();

    // The member is killed, twice, and goes on where it was.
    for times in 1..=2 {
        await_arrival(&cluster, behind, times * (18 << 20));
        assert_eq!(
            said(&cluster, behind, ANEW),
            1,
            "only the first one began anew"
        );
        cluster.kill(behind);
        assert_eq!(said(&cluster, behind, INSTALLED), 0);
        cluster.start_node(behind).unwrap();
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        // The first one began at the beginning.
        while said(&cluster, behind, RESUMED) <= times as usize {
            assert!(Instant::now() < deadline, "it does not go on");
            thread::sleep(Duration::from_millis(20));
        }
    }
    // The leader is killed: the next one begins its own, which the member needs for a quorum.
    await_arrival(&cluster, behind, 40 << 20);
    assert_eq!(said(&cluster, behind, ANEW), 1);
    let leader = scene::leader_of(&mut cluster);
    cluster.kill(leader);
    await_installation(&mut cluster, behind, 1);
    fill(&mut cluster, DATABASE, 1);
    cluster.start_node(leader).unwrap();
    scene::assert_identical(&mut cluster, DATABASE);
}

/// The leader finds a record of its log damaged while it reads it for a member: that one gets the
/// databases in its place, and the leader goes on.
#[test]
fn a_member_gets_a_snapshot_in_place_of_a_log_that_is_damaged() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The window holds all of it.
    let launch = Launch::program(PROGRAM).with_arguments(ARGUMENTS[..4].iter().copied());
    let mut cluster = scene::launch_nodes(directory.path(), NODES, launch);
    fill(&mut cluster, DATABASE, 4);
    scene::assert_identical(&mut cluster, DATABASE);
    let behind = follower_of(&mut cluster);
    cluster.kill(behind);
    let missed_from = scene::connect(&mut cluster).digest(DATABASE, 0).unwrap();
    // More than the memory keeps of the log.
    fill(&mut cluster, DATABASE, 48);
    let leader = scene::leader_of(&mut cluster);
    let records = segments::records(&cluster.data_of(leader));
    let record = records
        .iter()
        .find(|record| record.index > missed_from.applied + 3 && record.payload_bytes > 0);
    record.unwrap().flip_a_bit();
    cluster.start_node(behind).unwrap();
    await_installation(&mut cluster, behind, 1);
    assert!(
        said(&cluster, leader, "cannot be read") > 0,
        "nobody has met it"
    );
    fill(&mut cluster, DATABASE, 1);
    scene::assert_identical(&mut cluster, DATABASE);
    assert_eq!(scene::leader_of(&mut cluster), leader, "it goes on");
    // When it starts again it repairs its own log, if the record is still a part of it.
    cluster.kill(leader);
    fill(&mut cluster, DATABASE, 1);
    cluster.start_node(leader).unwrap();
    scene::assert_identical(&mut cluster, DATABASE);
}

/// Databases come and go while others are copied.
#[test]
fn databases_that_are_dropped_and_made_meanwhile_are_right_afterwards() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = start(directory.path(), "8");
    fill(&mut cluster, DATABASE, 16);
    for name in ["dropped", "replaced"] {
        fill(&mut cluster, name, 1);
    }
    let behind = follower_of(&mut cluster);
    leave_behind(&mut cluster, behind);
    cluster.start_node(behind).unwrap();
    await_arrival(&cluster, behind, 4 << 20);
    let mut client = scene::connect(&mut cluster);
    for name in ["dropped", "replaced"] {
        client.drop_database(name).unwrap();
    }
    for name in ["replaced", "made"] {
        fill(&mut cluster, name, 2);
    }
    assert_eq!(
        said(&cluster, behind, INSTALLED),
        0,
        "too late for this test"
    );
    await_installation(&mut cluster, behind, 1);
    for name in [DATABASE, "replaced", "made"] {
        scene::assert_identical(&mut cluster, name);
    }
    let left = cluster.data_of(behind).join("shard-0/databases/dropped");
    assert!(!left.exists());
}

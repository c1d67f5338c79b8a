//! Reads under leases: real nodes, started with `--lease`.
//!
//! The count of messages needs strace. Without it that test fails, unless `RINGLITE_NO_STRACE=1`
//! allows to leave it out.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientError, ClientOptions, Value};
use ringlite_tests::trace::{self, Tracer};
use ringlite_tests::{process, scene};
use rustix::process::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "leased";
const READS: usize = 400;
/// How often a leader is stopped.
const STOPS: i64 = 4;
/// Clients whose requests wait in their sockets while it is.
const CLIENTS: usize = 8;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn start(directory: &Path, arguments: &[&'static str]) -> LocalCluster {
    let launch = Launch::program(PROGRAM)
        .with_arguments(scene::SMALL_SEGMENTS)
        .with_arguments(arguments.iter().copied());
    let mut cluster = scene::launch_nodes(directory, 3, launch);
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute(
            "CREATE TABLE state (value INTEGER); INSERT INTO state VALUES (0)",
            &[],
        )
        .unwrap();
    cluster
}

const READ: &str = "SELECT value FROM state";

/// How many messages the leader sends, to clients and to the other nodes, while it answers
/// [`READS`] reads of one client.
fn sends(arguments: &[&'static str]) -> usize {
    let directory = directory();
    let mut cluster = start(directory.path(), arguments);
    let leader = scene::leader_of(&mut cluster);
    let mut client = scene::open(&mut cluster, DATABASE);
    assert_eq!(scene::integer(&mut client, READ), 0);
    let output = directory.path().join("trace");
    let tracer = Tracer::attach(cluster.process_of(leader).unwrap(), &output).unwrap();
    let began = Instant::now();
    for _ in 0..READS {
        assert_eq!(scene::integer(&mut client, READ), 0);
    }
    let time = began.elapsed();
    let calls = tracer.detach();
    let sends = trace::count(&calls).get("sendto").copied().unwrap_or(0);
    // A heartbeat every 50 ms to two others, and their answers are theirs.
    let heartbeats = 2 * (time.as_millis() / 50 + 2) as usize;
    println!(
        "{arguments:?}: {sends} sends for {READS} reads in {time:?}; heartbeats: {heartbeats}"
    );
    assert_eq!(leader, scene::leader_of(&mut cluster), "it leads no longer");
    sends.saturating_sub(READS + heartbeats)
}

#[test]
fn a_read_under_a_lease_asks_nobody() {
    let strace = std::process::Command::new("strace").arg("-V").output();
    if strace.is_err() {
        let allowed = std::env::var("RINGLITE_NO_STRACE").is_ok_and(|value| value == "1");
        assert!(allowed, "install strace, or set RINGLITE_NO_STRACE=1");
        println!("NOT RUN: there is no strace");
        return;
    }
    // Where all cores are shared a heartbeat may be late, and a read without a lease in between.
    assert!(sends(&["--lease"]) < READS / 4);
    assert!(
        sends(&[]) > READS,
        "without a lease each read asks two others"
    );
}

/// The times of linearizable reads of one client at the leader, sorted.
fn read_times(arguments: &[&'static str], reads: usize) -> Vec<Duration> {
    let directory = directory();
    let mut cluster = start(directory.path(), arguments);
    let mut client = scene::open(&mut cluster, DATABASE);
    let mut times: Vec<Duration> = (0..reads)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(scene::integer(&mut client, READ), 0);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Prints how long a linearizable read takes with and without a lease, alternating.
#[test]
#[ignore = "a measurement, for a quiet machine; READS sets how many reads are timed"]
fn latency_with_and_without_a_lease() {
    let reads = process::size("READS", 5_000);
    for _ in 0..2 {
        for arguments in [&["--lease"][..], &[]] {
            let times = read_times(arguments, reads);
            let at = |percent: usize| times[(reads - 1) * percent / 100];
            println!(
                "{arguments:?}: p50 {:?}, p99 {:?} of {reads} reads",
                at(50),
                at(99)
            );
        }
    }
}

fn signal(cluster: &LocalCluster, id: usize, what: Signal) {
    process::signal(cluster.process_of(id).unwrap(), what);
}

/// A client of one node, whether it leads or not.
fn client_of(address: &str) -> Client {
    let options = ClientOptions {
        request_timeout: Duration::from_secs(60),
        ..ClientOptions::default()
    };
    let mut client = Client::connect_to_with(address, options).unwrap();
    client.open(DATABASE).unwrap();
    client
}

/// Writes at whoever leads without the node that is stopped.
fn write_elsewhere(cluster: &LocalCluster, stopped: usize, value: i64) {
    let mut addresses = cluster.addresses();
    addresses.remove(stopped - 1);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let written =
            Client::connect(&addresses, ClientOptions::default()).and_then(|mut client| {
                client.open(DATABASE)?;
                client.execute("UPDATE state SET value = ?", &[Value::Integer(value)])
            });
        match written {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// A leader is stopped with its lease valid, and requests wait in its sockets. Another one is elected
/// and writes. Then the first one goes on: whatever it answers was asked before the write, but
/// answered after it, and what it held was no longer the state when it could have looked.
#[test]
fn a_leader_that_stood_still_answers_nothing_old() {
    let directory = directory();
    let mut cluster = start(directory.path(), &["--lease"]);
    let mut refused = 0;
    for stop in 1..=STOPS {
        let leader = scene::leader_of(&mut cluster);
        scene::assert_identical(&mut cluster, DATABASE);
        let address = cluster.addresses()[leader - 1].clone();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| client_of(&address)).collect();
        for client in &mut clients {
            // Its transaction's snapshot is of later.
            client.execute("BEGIN DEFERRED", &[]).unwrap();
        }
        clients.extend((0..CLIENTS).map(|_| client_of(&address)));
        assert_eq!(
            clients[0].status().unwrap()["lease"],
            true,
            "the leader has no lease"
        );
        signal(&cluster, leader, Signal::STOP);
        process::wait_until_it_stands_still(cluster.process_of(leader).unwrap());
        let answers: Vec<Result<i64, ClientError>> = thread::scope(|scope| {
            let waiting: Vec<_> = clients
                .iter_mut()
                .map(|client| {
                    scope.spawn(|| {
                        let rows = client.query(READ, &[])?.rows;
                        match rows[0][0] {
                            Value::Integer(value) => Ok(value),
                            ref other => panic!("{other:?}"),
                        }
                    })
                })
                .collect();
            // All requests are in the sockets by the time that somebody else leads.
            write_elsewhere(&cluster, leader, stop);
            signal(&cluster, leader, Signal::CONT);
            let answers = waiting.into_iter().map(|waiting| waiting.join().unwrap());
            answers.collect()
        });
        for answer in answers {
            match answer {
                Ok(value) => assert_eq!(value, stop, "an old value was read"),
                Err(error) => {
                    assert!(error.is_not_leader(), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!(
            scene::integer(&mut scene::open(&mut cluster, DATABASE), READ),
            stop
        );
    }
    assert!(refused > 0, "no leader was deposed");
    assert_eq!(cluster.dead_node(), None);
}

/// One node was started without leases: it would not keep what the others rely on.
#[test]
fn nodes_that_differ_do_not_talk_to_each_other() {
    let directory = directory();
    let with_lease = ["sh", "-c", "exec \"$@\" --lease", "sh"].map(str::to_owned);
    let mut launch = Launch::program(PROGRAM).with_arguments(scene::SMALL_SEGMENTS);
    launch.wrappers = vec![with_lease.to_vec(), with_lease.to_vec(), Vec::new()];
    let mut cluster = scene::launch_nodes(directory.path(), 3, launch);
    let mut client = scene::open(&mut cluster, DATABASE);
    client.execute("CREATE TABLE t (a)", &[]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let words = std::fs::read_to_string(cluster.log_of(3)).unwrap();
        if words.contains("only one of the two nodes was started with --lease") {
            break;
        }
        assert!(Instant::now() < deadline, "{words}");
        thread::sleep(Duration::from_millis(20));
    }
    let status = Client::connect_to(&cluster.addresses()[2])
        .and_then(|mut node| node.status())
        .unwrap();
    assert!(status["leader"].is_null(), "{status}");
    // Alone with a node of its kind it would lead; and those two go on without it.
    client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    assert_ne!(scene::leader_of(&mut cluster), 3);
}

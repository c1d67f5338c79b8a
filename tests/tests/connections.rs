//! Many connections to one node: idle ones cost little, busy ones are treated alike, and more than the
//! process has descriptors for do no harm.
//!
//! `CONNECTIONS_IDLE` sets how many are idle (500 unless told), `CONNECTIONS_OPEN` how many of these have
//! a database open (100), `CONNECTIONS_ACTIVE` how many write at the same time (60) and
//! `CONNECTIONS_SECONDS` for how long (2).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringlite::local_cluster::Launch;
use ringlite::wire::{PROTOCOL_VERSION, Request};
use ringlite::{Client, Value};
use ringlite_tests::raw::{Answer, RawConnection};
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "crowded";
/// An idle connection may take so much of a node's memory, and one with a database open so much.
const IDLE_BYTES_MAX: u64 = 16 << 10;
const OPEN_BYTES_MAX: u64 = 256 << 10;
/// SQLITE_BUSY: another time, or another node.
const BUSY: u64 = 5;

#[test]
fn idle_connections_are_cheap_and_busy_ones_are_treated_alike() {
    let idle = process::size("CONNECTIONS_IDLE", 500);
    let open = process::size("CONNECTIONS_OPEN", 100).min(idle);
    let active = process::size("CONNECTIONS_ACTIVE", 60);
    let time = Duration::from_secs(process::size("CONNECTIONS_SECONDS", 2) as u64);
    process::allow_descriptors();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut cluster, client) = scene::start_with_table(PROGRAM, directory.path(), 3, DATABASE);
    let address = client.address().to_owned();
    let leader = scene::leader_of(&mut cluster);
    let node = cluster.process_of(leader).unwrap();

    let grows = |count: usize, connect: &dyn Fn() -> RawConnection| {
        let before = process::anonymous_bytes(node);
        let connections: Vec<_> = (0..count).map(|_| connect()).collect();
        let grown = process::anonymous_bytes(node).saturating_sub(before) / count.max(1) as u64;
        println!("{count} connections take {grown} bytes each");
        (connections, grown)
    };
    let (_idle, bytes) = grows(idle - open, &|| RawConnection::client(&address));
    assert!(bytes < IDLE_BYTES_MAX, "{bytes} bytes");
    let (_open, bytes) = grows(open, &|| RawConnection::with_database(&address, DATABASE));
    assert!(bytes < OPEN_BYTES_MAX, "{bytes} bytes");

    let is_over = AtomicBool::new(false);
    let mut counts: Vec<usize> = std::thread::scope(|scope| {
        let write = |number: usize| {
            let mut client = Client::connect_to(&address).unwrap();
            client.open(DATABASE).unwrap();
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                let row = Value::Integer(number as i64);
                client
                    .execute("INSERT INTO t (b) VALUES (?)", &[row])
                    .unwrap();
                count += 1;
            }
            count
        };
        let writers: Vec<_> = (0..active)
            .map(|number| scope.spawn(move || write(number)))
            .collect();
        std::thread::sleep(time);
        is_over.store(true, Ordering::Relaxed);
        let counts = writers.into_iter().map(|writer| writer.join().unwrap());
        counts.collect()
    });
    counts.sort_unstable();
    let (least, median, most) = (counts[0], counts[active / 2], counts[active - 1]);
    println!(
        "{active} writers: the least commits were {least}, the median {median}, the most {most}"
    );
    assert!(least * 3 >= median, "somebody was left behind");
    scene::assert_identical(&mut cluster, DATABASE);
}

#[test]
fn connections_beyond_the_descriptors_are_refused_and_hurt_nobody() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut launch = Launch::program(PROGRAM).with_arguments(scene::SMALL_SEGMENTS);
    launch.wrappers = vec![vec!["prlimit".to_owned(), "--nofile=256:256".to_owned()]; 3];
    let mut cluster = scene::launch_nodes(directory.path(), 3, launch);
    let mut client = scene::open(&mut cluster, DATABASE);
    client.execute("CREATE TABLE t (a)", &[]).unwrap();
    let address = client.address().to_owned();

    let mut served = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut connection = RawConnection::open(&address);
        connection.send(&PROTOCOL_VERSION.to_le_bytes());
        match connection.ask(&Request::Client { id: 0 }) {
            Answer::Response(ringlite::wire::Response::Failure { code, message }) => {
                assert_eq!(code, BUSY, "{message}");
                assert!(message.contains("256 file descriptors"), "{message}");
                refused += 1;
            }
            Answer::Response(_) => served.push(connection),
            other => panic!("after {} connections: {other:?}", served.len()),
        }
    }
    println!("{} connections served, {refused} refused", served.len());
    assert!(served.len() > 100 && refused > 50, "{refused} of 300");

    // The log goes on in fresh segments, pages go into files, and the leader leads.
    let term = client.status().unwrap()["term"].clone();
    for _ in 0..12 {
        client
            .execute(
                "INSERT INTO t VALUES (zeroblob(0)), (randomblob(2000000))",
                &[],
            )
            .unwrap();
    }
    assert_eq!(cluster.dead_node(), None);
    assert_eq!(client.status().unwrap()["term"], term);

    drop(served);
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = Client::connect_to(&address).and_then(|mut client| client.open(DATABASE))
    {
        assert!(Instant::now() < deadline, "{error}");
    }
    // Whoever does not say what he is keeps nobody out for long.
    let silent: Vec<_> = (0..300).map(|_| RawConnection::open(&address)).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = Client::connect_to(&address).and_then(|mut client| client.open(DATABASE))
    {
        assert!(Instant::now() < deadline, "{error}");
    }
    drop(silent);
    scene::assert_identical(&mut cluster, DATABASE);
}

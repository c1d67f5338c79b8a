//! A node in this process, whose calls go to a leader in a process of its own: the leader is killed, and
//! leadership is moved, while it is asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, Database, Error, Node, Value, params};
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "forwarded";
const WRITERS: i64 = 4;
/// The id of the node in this process.
const OWN: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Three nodes, of which the third is of this process.
fn start(directory: &tempfile::TempDir) -> (LocalCluster, Node) {
    let launch = Launch::program(PROGRAM).with_arguments(scene::SMALL_SEGMENTS);
    let mut cluster = scene::launch_nodes(directory.path(), 3, launch);
    let mut client = scene::open(&mut cluster, DATABASE);
    client.execute("CREATE TABLE w (writer, n)", &[]).unwrap();
    scene::assert_identical(&mut cluster, DATABASE);
    cluster.kill(OWN);
    let addresses = cluster.addresses();
    let node = Node::builder(cluster.data_of(OWN))
        .id(OWN as u64)
        .cluster((1..).zip(addresses.iter().cloned()))
        .listen(&addresses[OWN - 1])
        .segment_bytes(8 << 20)
        .start()
        .unwrap();
    node.wait_for_leader(TIMEOUT).unwrap();
    lead_elsewhere(&cluster);
    (cluster, node)
}

/// Makes one of the other processes lead.
fn lead_elsewhere(cluster: &LocalCluster) -> usize {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let led = Client::connect(&cluster.addresses(), ringlite::ClientOptions::default());
        let mut client = led.unwrap();
        match cluster.id_at(client.address()) {
            Some(OWN) => drop(client.transfer_leadership(0)),
            Some(leader) => return leader,
            None => {}
        }
        assert!(Instant::now() < deadline, "node {OWN} leads");
    }
}

/// What one writer was told of its rows, by number.
#[derive(Default)]
struct Told {
    acknowledged: Vec<i64>,
    unknown: Vec<i64>,
}

/// Writes rows, each of them once, until `stop`.
fn write(database: &Database, writer: i64, stop: &AtomicBool) -> Told {
    let mut told = Told::default();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let insert = "INSERT INTO w VALUES (?, ?)";
        let written = if n % 4 == 3 {
            database.transaction().and_then(|transaction| {
                transaction.execute(insert, params![writer, n])?;
                transaction.commit()
            })
        } else {
            database.execute(insert, params![writer, n]).map(drop)
        };
        match written {
            Ok(()) => told.acknowledged.push(n),
            Err(Error::OutcomeUnknown) => told.unknown.push(n),
            // A transaction that was under way. It was not committed, which the check looks for.
            Err(Error::NotLeader { .. }) if n % 4 == 3 => {}
            Err(error) => panic!("row {n} of {writer}: {error:?}"),
        }
    }
    told
}

/// Every acknowledged row is there once, one of an unknown outcome at most once, and no other one is.
fn check(database: &Database, told: &[Told]) {
    for (writer, told) in (0_i64..).zip(told) {
        let rows = database
            .query("SELECT n FROM w WHERE writer = ?", params![writer])
            .unwrap();
        let mut found: Vec<i64> = rows.iter().map(|row| row.get(0).unwrap()).collect();
        found.sort_unstable();
        let before = found.len();
        found.dedup();
        assert_eq!(found.len(), before, "a row of {writer} was written twice");
        for n in &told.acknowledged {
            assert!(found.contains(n), "row {n} of {writer} is lost");
        }
        for n in &found {
            assert!(
                told.acknowledged.contains(n) || told.unknown.contains(n),
                "row {n} of {writer} was refused, and is there"
            );
        }
    }
}

/// Runs `act` beside writers on handles of their own; returns what they were told.
fn write_while(node: &Node, act: impl FnOnce()) -> Vec<Told> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let database = node.database(DATABASE).unwrap();
                scope.spawn(move || write(&database, writer, stop))
            })
            .collect();
        let stop_anyway = StopOnDrop(stop);
        act();
        drop(stop_anyway);
        let told = writers.into_iter().map(|writer| writer.join().unwrap());
        told.collect()
    })
}

/// Also when a check panics meanwhile.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn sums(told: &[Told]) -> (usize, usize) {
    let acknowledged = told.iter().map(|told| told.acknowledged.len()).sum();
    (
        acknowledged,
        told.iter().map(|told| told.unknown.len()).sum(),
    )
}

#[test]
fn a_leader_that_is_killed_leaves_unknown_what_was_under_way_and_nothing_else() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut cluster, node) = start(&directory);
    let kills = process::size("KILLS", 3);
    let told = write_while(&node, || {
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(300));
            let leader = lead_elsewhere(&cluster);
            thread::sleep(Duration::from_millis(300));
            cluster.kill(leader);
            thread::sleep(Duration::from_millis(700));
            cluster.start_node(leader).unwrap();
            // Another kill needs a majority without it.
            thread::sleep(Duration::from_millis(1_500));
        }
    });
    let (acknowledged, unknown) = sums(&told);
    println!("{kills} kills: {acknowledged} rows acknowledged, {unknown} of an unknown outcome");
    assert!(acknowledged > 100, "that was no load");
    assert!(
        unknown <= kills * WRITERS as usize,
        "more is unknown than was under way"
    );
    check(&node.database(DATABASE).unwrap(), &told);
}

#[test]
fn leadership_that_is_handed_over_leaves_nothing_unknown() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (cluster, node) = start(&directory);
    let transfers = process::size("TRANSFERS", 5);
    let mut moved = 0;
    let told = write_while(&node, || {
        for _ in 0..transfers {
            thread::sleep(Duration::from_millis(300));
            let found = Client::connect(&cluster.addresses(), ringlite::ClientOptions::default());
            // To any of the three: also home, and away again.
            moved += usize::from(found.unwrap().transfer_leadership(0).is_ok());
        }
        thread::sleep(Duration::from_millis(300));
    });
    let (acknowledged, unknown) = sums(&told);
    println!(
        "{moved} transfers: {acknowledged} rows acknowledged, {unknown} of an unknown outcome"
    );
    assert!(moved > 0 && acknowledged > 100, "that was no load");
    assert_eq!(unknown, 0);
    let database = node.database(DATABASE).unwrap();
    check(&database, &told);
    let count = database.query("SELECT count(*) FROM w", ()).unwrap();
    assert_eq!(count.into_values(), [[Value::Integer(acknowledged as i64)]]);
}

//! SIGKILL under load: of one node, of the leader, of all at once. No acknowledged row is lost,
//! no row appears that nobody sent, every node comes back, and the databases are identical.
//!
//! `KILLS` sets how often each is done (3 unless told; the full size is 20), `OUTAGE_MEGABYTES` how
//! much a node misses that is down for long (40 unless told; a leader keeps 32 in memory).

use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::LocalCluster;
use ringlite::{Client, ClientOptions, Value};
use ringlite_tests::oracle::{self, Oracle};
use ringlite_tests::{process, scene, segments};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const WRITERS: i64 = 4;
const PAUSE: Duration = Duration::from_millis(2);

fn kills() -> usize {
    process::size("KILLS", 3)
}

/// Kills, waits, starts again, under load, and checks after each time.
fn kill_again_and_again(name: &str, nodes: usize, mut kill: impl FnMut(&mut LocalCluster, usize)) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), nodes);
    let addresses = cluster.addresses();
    let mut oracle = Oracle::new(&addresses).unwrap();
    for round in 0..kills() {
        oracle.write_while(&addresses, WRITERS, PAUSE, || {
            thread::sleep(Duration::from_millis(250));
            kill(&mut cluster, round);
            thread::sleep(Duration::from_millis(500));
        });
        let mut client = scene::connect(&mut cluster);
        client.open(oracle::DATABASE).unwrap();
        oracle.check(&oracle::rows_of(&mut client).unwrap());
        scene::assert_identical(&mut cluster, oracle::DATABASE);
        assert_eq!(cluster.dead_node(), None, "all nodes are back");
    }
    let rows = oracle.acknowledged();
    println!("{name}: {} kills, {rows} acknowledged rows", kills());
    assert!(rows > kills() * 50, "only {rows} rows: that was no load");
}

#[test]
fn of_one_node() {
    kill_again_and_again("one node", 3, |cluster, round| {
        let id = round % 3 + 1;
        cluster.kill(id);
        thread::sleep(Duration::from_millis(200));
        cluster.start_node(id).unwrap();
    });
}

#[test]
fn of_the_leader() {
    kill_again_and_again("the leader", 3, |cluster, _| {
        let address = scene::connect(cluster).address().to_owned();
        let leader = cluster.id_at(&address).unwrap();
        cluster.kill(leader);
        thread::sleep(Duration::from_millis(500));
        cluster.start_node(leader).unwrap();
    });
}

#[test]
fn of_all_nodes_at_once() {
    kill_again_and_again("all nodes", 3, |cluster, _| {
        cluster.kill_all();
        for id in 1..=3 {
            cluster.start_node(id).unwrap();
        }
        drop(scene::connect(cluster));
    });
}

#[test]
fn of_a_node_that_is_alone() {
    kill_again_and_again("a node alone", 1, |cluster, _| {
        cluster.kill(1);
        cluster.start_node(1).unwrap();
        drop(scene::connect(cluster));
    });
}

#[test]
fn of_the_leader_and_then_of_its_successor() {
    kill_again_and_again("two leaders", 3, |cluster, _| {
        let first = scene::leader_of(cluster);
        cluster.kill(first);
        let second = scene::leader_of(cluster);
        assert_ne!(first, second);
        // Two of three are down for a moment: nobody can lead.
        cluster.kill(second);
        cluster.start_node(first).unwrap();
        let third = scene::leader_of(cluster);
        assert_ne!(second, third);
        cluster.start_node(second).unwrap();
    });
}

#[test]
fn of_a_majority_stops_the_rest_until_it_is_back() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), 3);
    let mut client = scene::open(&mut cluster, "d");
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY)", &[])
        .unwrap();
    client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    let leader = cluster.id_at(client.address()).unwrap();
    let others: Vec<usize> = (1..=3).filter(|id| *id != leader).collect();
    for id in &others {
        cluster.kill(*id);
    }
    let unknown = client.execute("INSERT INTO t VALUES (2)", &[]).unwrap_err();
    assert!(
        unknown.is_outcome_unknown() || unknown.is_not_leader(),
        "{unknown}"
    );
    let error = client.query("SELECT a FROM t", &[]).unwrap_err();
    assert!(error.is_not_leader(), "{error}");
    let options = ClientOptions {
        find_leader_timeout: Duration::from_secs(1),
        ..ClientOptions::default()
    };
    let nobody = Client::connect(&cluster.addresses(), options).unwrap_err();
    assert!(nobody.to_string().contains("majority"), "{nobody}");
    for id in others {
        cluster.start_node(id).unwrap();
    }
    let mut client = scene::open(&mut cluster, "d");
    let found = client.query("SELECT a FROM t", &[]).unwrap().rows.concat();
    let refused = unknown.is_not_leader().then_some(Value::Integer(2));
    assert!(found.contains(&Value::Integer(1)), "{found:?}");
    assert!(
        refused.is_none_or(|row| !found.contains(&row)),
        "{found:?}, though {unknown}"
    );
    scene::assert_identical(&mut cluster, "d");
}

/// What the node misses is more than the leader keeps in memory, and goes over several segments.
#[test]
fn of_a_node_that_is_down_for_long_is_made_good_from_the_disk() {
    const BLOB_BYTES: usize = 256 << 10;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), 3);
    let mut client = scene::open(&mut cluster, "d");
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)", &[])
        .unwrap();
    let leader = cluster.id_at(client.address()).unwrap();
    let down = leader % 3 + 1;
    cluster.kill(down);
    let rows = (process::size("OUTAGE_MEGABYTES", 40) << 20) / BLOB_BYTES;
    for row in 0..rows {
        let blob = Value::Blob(vec![(row % 251) as u8; BLOB_BYTES]);
        client
            .execute("INSERT INTO t (b) VALUES (?)", &[blob])
            .unwrap();
    }
    let written = segments::segments(&cluster.data_of(leader)).len();
    assert!(written > 5, "only {written} segments");
    cluster.start_node(down).unwrap();
    scene::assert_identical(&mut cluster, "d");
    // A majority of the others has what it applies, so that its own log may be behind for a while.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // The oldest records may be cut off already.
        let records = segments::records(&cluster.data_of(down));
        let newest = records.iter().map(|record| record.index).max();
        if newest > Some(rows as u64) {
            break;
        }
        assert!(Instant::now() < deadline, "only up to {newest:?}");
        thread::sleep(Duration::from_millis(50));
    }
    // It counts as a majority with either of the others, and it can lead.
    cluster.kill(leader);
    let mut client = scene::open(&mut cluster, "d");
    let count = scene::integer(&mut client, "SELECT count(*) FROM t");
    assert_eq!(count, i64::try_from(rows).unwrap());
    client
        .execute("INSERT INTO t (b) VALUES (NULL)", &[])
        .unwrap();
    cluster.start_node(leader).unwrap();
    scene::assert_identical(&mut cluster, "d");
}

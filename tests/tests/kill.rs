//! SIGKILL under load: of one node, of the leader, of all at once. No acknowledged row is lost,
//! no row appears that nobody sent, every node comes back, and the databases are identical.
//!
//! `KILLS` sets how often each is done (3 unless told; the full size is 20).

use std::thread;
use std::time::Duration;

use ringlite::local_cluster::LocalCluster;
use ringlite_tests::oracle::{self, Oracle};
use ringlite_tests::scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const WRITERS: i64 = 4;
const PAUSE: Duration = Duration::from_millis(2);

fn kills() -> usize {
    std::env::var("KILLS").map_or(3, |text| text.parse().expect("KILLS is a number"))
}

/// Kills, waits, starts again, under load, and checks after each time.
fn kill_again_and_again(name: &str, mut kill: impl FnMut(&mut LocalCluster, usize)) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), 3);
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
    kill_again_and_again("one node", |cluster, round| {
        let id = round % 3 + 1;
        cluster.kill(id);
        thread::sleep(Duration::from_millis(200));
        cluster.start_node(id).unwrap();
    });
}

#[test]
fn of_the_leader() {
    kill_again_and_again("the leader", |cluster, _| {
        let address = scene::connect(cluster).address().to_owned();
        let leader = cluster.id_at(&address).unwrap();
        cluster.kill(leader);
        thread::sleep(Duration::from_millis(500));
        cluster.start_node(leader).unwrap();
    });
}

#[test]
fn of_all_nodes_at_once() {
    kill_again_and_again("all nodes", |cluster, _| {
        cluster.kill_all();
        for id in 1..=3 {
            cluster.start_node(id).unwrap();
        }
        drop(scene::connect(cluster));
    });
}

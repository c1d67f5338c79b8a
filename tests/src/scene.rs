//! A directory with a cluster of real nodes in it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringlite::client::DatabaseDigest;
use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientOptions};

/// Small segments, so that a test does not write zeros most of its time.
pub const SMALL_SEGMENTS: [&str; 2] = ["--segment-mib", "8"];

const START_TIMEOUT: Duration = Duration::from_secs(30);
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts `count` nodes of `program` below `directory`, and waits for a leader.
///
/// # Panics
/// If they do not start or elect no leader.
pub fn start(program: &str, directory: &Path, count: usize) -> LocalCluster {
    let launch = Launch::program(program).with_arguments(SMALL_SEGMENTS);
    let mut cluster =
        LocalCluster::start(directory, count, launch).expect("the nodes can be started");
    connect(&mut cluster);
    cluster
}

/// A client of the leader.
///
/// # Panics
/// If there is none.
pub fn connect(cluster: &mut LocalCluster) -> Client {
    let options = ClientOptions {
        find_leader_timeout: START_TIMEOUT,
        ..ClientOptions::default()
    };
    match Client::connect(&cluster.addresses(), options) {
        Ok(client) => client,
        Err(error) => {
            let dead = cluster.dead_node();
            let words = dead.map(|id| (id, cluster.last_words_of(id)));
            panic!("no leader: {error}; dead node: {words:?}");
        }
    }
}

/// Waits until all nodes have what the leader has, and checks that their databases are the same
/// page by page.
///
/// # Panics
/// If they are not, or do not catch up.
pub fn assert_identical(cluster: &mut LocalCluster, database: &str) -> DatabaseDigest {
    let index = connect(cluster)
        .digest(database, 0)
        .expect("the leader gives a digest")
        .applied;
    let digests: Vec<_> = cluster
        .addresses()
        .iter()
        .map(|address| digest_at(address, database, index))
        .collect();
    assert!(
        digests.iter().all(|digest| digest == &digests[0]),
        "the databases differ: {digests:#?}"
    );
    digests[0].clone()
}

fn digest_at(address: &str, database: &str, index: u64) -> DatabaseDigest {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let digest = Client::connect_to(address).and_then(|mut node| node.digest(database, index));
        match digest {
            Ok(digest) => return digest,
            Err(error) if Instant::now() > deadline => {
                panic!("{address} has not caught up to {index}: {error}")
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

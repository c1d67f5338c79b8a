//! A directory with a cluster of real nodes in it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringlite::client::DatabaseDigest;
use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientOptions, Value};

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
    launch_nodes(directory, count, launch)
}

/// Starts `count` nodes as `launch` says, and waits for a leader.
///
/// # Panics
/// If they do not start or elect no leader.
pub fn launch_nodes(directory: &Path, count: usize, launch: Launch) -> LocalCluster {
    let mut cluster =
        LocalCluster::start(directory, count, launch).expect("the nodes can be started");
    connect(&mut cluster);
    cluster
}

/// Starts `count` nodes of `program` below `directory`, with a database that has a table of numbers
/// `t (a INTEGER PRIMARY KEY, b)`.
///
/// # Panics
/// If they do not start or elect no leader.
pub fn start_with_table(
    program: &str,
    directory: &Path,
    count: usize,
    database: &str,
) -> (LocalCluster, Client) {
    let mut cluster = start(program, directory, count);
    let mut client = open(&mut cluster, database);
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .expect("a table can be made");
    (cluster, client)
}

/// The id of the leader.
///
/// # Panics
/// If there is none.
pub fn leader_of(cluster: &mut LocalCluster) -> usize {
    let address = connect(cluster).address().to_owned();
    cluster.id_at(&address).expect("the leader is a member")
}

/// A client of the leader with a database open.
///
/// # Panics
/// If there is no leader or it does not open the database.
pub fn open(cluster: &mut LocalCluster, database: &str) -> Client {
    let mut client = connect(cluster);
    client.open(database).expect("the database opens");
    client
}

/// The integer that a query gives.
///
/// # Panics
/// If it fails or gives anything else than one integer.
pub fn integer(client: &mut Client, sql: &str) -> i64 {
    let rows = client.query(sql, &[]).expect("the query succeeds").rows;
    match rows.as_slice() {
        [row] if row.len() == 1 => match row[0] {
            Value::Integer(integer) => integer,
            ref other => panic!("not an integer, but {other:?}"),
        },
        other => panic!("not one value, but {other:?}"),
    }
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
    let mut index = connect(cluster)
        .digest(database, 0)
        .expect("the leader gives a digest")
        .applied;
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let digests: Vec<_> = cluster
            .addresses()
            .iter()
            .map(|address| digest_at(address, database, index))
            .collect();
        // An election may come in between, whose leader begins with an entry; then they are of different
        // indexes, though nobody writes.
        index = digests
            .iter()
            .map(|digest| digest.applied)
            .fold(0, u64::max);
        if digests.iter().any(|digest| digest.applied < index) {
            assert!(
                Instant::now() < deadline,
                "the log goes on without an end: {digests:#?}"
            );
            continue;
        }
        assert!(
            digests.iter().all(|digest| digest == &digests[0]),
            "the databases differ: {digests:#?}"
        );
        return digests[0].clone();
    }
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

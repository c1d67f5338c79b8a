//! Three nodes in this process, with the database `app` and its table `t(x)`.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ringlite::{Node, ReadLevel};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Option<Node>>,
    _directory: TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(Duration::from_millis(250))
    }

    pub(crate) fn start_with(election: Duration) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let sockets: Vec<_> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let members: Vec<_> = (1..)
            .zip(&sockets)
            .map(|(id, socket)| (id, socket.local_addr().unwrap().to_string()))
            .collect();
        drop(sockets);
        let nodes = members
            .iter()
            .map(|(id, address)| {
                let node = Node::builder(directory.path().join(id.to_string()))
                    .id(*id)
                    .listen(address)
                    .cluster(members.clone())
                    .segment_bytes(4 << 20)
                    .timeouts(Duration::from_millis(50), election)
                    .start();
                Some(node.unwrap())
            })
            .collect();
        let cluster = Self {
            nodes,
            _directory: directory,
        };
        let database = cluster.leader().database("app").unwrap();
        database.execute("CREATE TABLE t (x)", ()).unwrap();
        cluster.wait_for_the_database();
        cluster
    }

    /// Waits until every node has applied the creation of the database and of its table.
    pub(crate) fn wait_for_the_database(&self) {
        let deadline = Instant::now() + TIMEOUT;
        for node in self.nodes.iter().flatten() {
            let has_table = || {
                let database = node.database("app")?;
                database.query_with(ReadLevel::LOCAL, "SELECT x FROM t", ())
            };
            while let Err(error) = has_table() {
                assert!(Instant::now() < deadline, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub(crate) fn leader_place(&self) -> usize {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let leads = |node: &Option<Node>| {
                let status = node.as_ref().and_then(Node::status);
                status.is_some_and(|status| {
                    status.leader.is_some_and(|leader| leader.id == status.id)
                })
            };
            if let Some(place) = self.nodes.iter().position(leads) {
                return place;
            }
            assert!(Instant::now() < deadline, "no leader");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn leader(&self) -> &Node {
        self.nodes[self.leader_place()].as_ref().unwrap()
    }

    pub(crate) fn followers(&self) -> Vec<&Node> {
        let leader = self.leader_place();
        let others = self.nodes.iter().enumerate();
        others
            .filter(|(place, _)| *place != leader)
            .map(|(_, node)| node.as_ref().unwrap())
            .collect()
    }
}

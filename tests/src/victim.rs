//! A leader that is treated badly, and what it has to keep through it.

use std::path::Path;

use ringlite::local_cluster::LocalCluster;
use ringlite::{Client, Value};

use crate::raw::RawConnection;
use crate::{process, scene};

/// The database that it has open.
pub const DATABASE: &str = "hostile";
/// How much the node's memory may grow from one test's hostility.
const GROWTH_BYTES_MAX: u64 = 48 << 20;
const ROWS: i64 = 50;

/// Three nodes; the leader is treated badly.
pub struct Victim {
    /// The nodes.
    pub cluster: LocalCluster,
    /// The id of the leader at the start.
    pub leader: usize,
    /// Where it listens.
    pub address: String,
    writes: i64,
    resident_bytes: u64,
}

impl Victim {
    /// Starts three nodes of `program` below `directory`, with a table of 50 rows.
    ///
    /// # Panics
    /// If that fails.
    pub fn start(program: &str, directory: &Path) -> Self {
        let mut cluster = scene::start(program, directory, 3);
        let mut client = scene::open(&mut cluster, DATABASE);
        client
            .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
            .unwrap();
        for row in 1..=ROWS {
            let row = [Value::Integer(row), Value::Blob(vec![0; 1000])];
            client.execute("INSERT INTO t VALUES (?, ?)", &row).unwrap();
        }
        let leader = cluster.id_at(client.address()).unwrap();
        let process = cluster.process_of(leader).unwrap();
        Self {
            resident_bytes: process::resident_bytes(process),
            address: client.address().to_owned(),
            writes: ROWS,
            cluster,
            leader,
        }
    }

    /// The node still leads, writes and reads.
    ///
    /// # Panics
    /// If not.
    pub fn serves_on(&mut self, after: &str) {
        let mut client = Client::connect_to(&self.address).unwrap();
        let served = client.open(DATABASE).and_then(|()| {
            client.execute("INSERT INTO t (b) VALUES (?)", &[Value::Text(after.into())])
        });
        self.writes += 1;
        let served = served.unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(served.last_insert_rowid, self.writes, "after {after}");
        assert_eq!(self.cluster.dead_node(), None, "after {after}");
    }

    /// At the end: nothing has died or panicked, the nodes agree, and memory has not grown.
    ///
    /// # Panics
    /// If that is not so.
    pub fn check(&mut self) {
        self.serves_on("everything");
        let process = self.cluster.process_of(self.leader).unwrap();
        let grown = process::resident_bytes(process).saturating_sub(self.resident_bytes);
        println!("the node's memory has grown by {} KiB", grown >> 10);
        assert!(
            grown < GROWTH_BYTES_MAX,
            "memory has grown by {grown} bytes"
        );
        scene::assert_identical(&mut self.cluster, DATABASE);
        for id in 1..=3 {
            let told = std::fs::read_to_string(self.cluster.log_of(id)).unwrap();
            assert!(!told.contains("panicked"), "node {id}: {told}");
        }
    }

    /// A connection to the node that has the database open.
    pub fn database(&self) -> RawConnection {
        RawConnection::with_database(&self.address, DATABASE)
    }
}

//! What a replica is told at its start: the members, its patience, and its bounds.

use std::fmt;

use ringlite_raft::NodeId;

use super::payload;
use super::roles::RoleTargets;
use crate::shards::ShardPlace;

/// A node and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub id: NodeId,
    /// `HOST:PORT`, exactly as the members were configured.
    pub address: String,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "node {} at {}", self.id.0, self.address)
    }
}

/// How large the WAL of a database gets before it is begun anew.
pub(crate) const WAL_BYTES_DEFAULT: u64 = 32 << 20;

/// How much of the log is kept for members that are down: half a minute of a thousand small commits
/// a second, and the time that a restart takes at any rate.
pub(crate) const LOG_WINDOW_BYTES_DEFAULT: u64 = 256 << 20;

/// Settings and bounds of a replica. Times are in ticks of its runtime.
#[derive(Clone, Debug)]
pub struct Config {
    /// The consensus core's settings.
    pub raft: ringlite_raft::Config,
    /// Which of the node's shards it is.
    pub shard: ShardPlace,
    /// Whether the shards' leaders are spread over the voters.
    pub spread: bool,
    /// Addresses of nodes that the configuration in the log does not tell, or not yet.
    pub members: Vec<NodeAddress>,
    /// How many voters and standbys this node keeps while it leads. The same on all nodes.
    pub roles: RoleTargets,
    /// How long a voter may be silent before a standby takes its place.
    pub voter_gone_ticks: u64,
    /// How long a change of members may take, such as to let one catch up.
    pub member_wait_ticks: u64,
    /// How long a request waits for the write lock.
    pub write_wait_ticks: u64,
    /// How long a transaction that holds the write lock may idle.
    pub write_idle_ticks: u64,
    /// How long a client that restores a file may say nothing.
    pub restore_idle_ticks: u64,
    /// How long a session that does not write may hold a snapshot.
    pub snapshot_ticks: u64,
    /// How many requests may wait for one database's write lock, or for one session's long run.
    pub write_queue_max: usize,
    /// How many batches may be in the log and not durable on this node: while so many are, what
    /// commits locally gathers in the next batch.
    pub batches_in_flight_max: usize,
    /// Bytes of pages that committed locally and not yet in Raft; beyond it writes wait.
    pub uncommitted_bytes_max: usize,
    /// An entry that has become this long is followed by another one of the same run.
    pub part_bytes: usize,
    /// Once the file of a database lacks so many bytes of frames they are moved into it.
    pub backfill_bytes: u64,
    /// What the file of a database lacks for so long is moved into it, however little it is.
    pub backfill_ticks_max: u64,
    /// A WAL that has grown to so many bytes of frames is begun anew as soon as its readers allow.
    pub wal_bytes_max: u64,
    /// The end of the log, in bytes, that is kept for members that lack it. One that lacks more gets a
    /// snapshot.
    pub log_window_bytes: u64,
    /// If its readers do not allow it until the WAL has grown to this, they are ended.
    pub wal_bytes_hard: u64,
}

impl Config {
    /// The defaults, for ticks of 10 ms.
    pub fn new(raft: ringlite_raft::Config, members: Vec<NodeAddress>) -> Self {
        // Whoever starts with more voters wants them.
        let voters = raft
            .bootstrap
            .voter_count()
            .max(RoleTargets::default().voters);
        Self {
            raft,
            shard: ShardPlace::LONE,
            spread: false,
            members,
            roles: RoleTargets {
                voters,
                ..RoleTargets::default()
            },
            voter_gone_ticks: 6_000,
            member_wait_ticks: 3_000,
            write_wait_ticks: 500,
            write_idle_ticks: 1_000,
            restore_idle_ticks: 3_000,
            snapshot_ticks: 3_000,
            write_queue_max: 4_096,
            batches_in_flight_max: 1,
            uncommitted_bytes_max: 64 << 20,
            part_bytes: payload::PART_BYTES,
            backfill_bytes: WAL_BYTES_DEFAULT / 4,
            backfill_ticks_max: 500,
            wal_bytes_max: WAL_BYTES_DEFAULT,
            wal_bytes_hard: WAL_BYTES_DEFAULT * 4,
            log_window_bytes: LOG_WINDOW_BYTES_DEFAULT,
        }
    }

    /// Sets the bounds that follow from the size of a WAL.
    pub(crate) fn set_wal_bytes(&mut self, bytes: u64) {
        self.backfill_bytes = bytes / 4;
        self.wal_bytes_max = bytes;
        self.wal_bytes_hard = bytes.saturating_mul(4);
    }
}

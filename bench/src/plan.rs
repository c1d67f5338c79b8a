//! What is measured, in which order, and how.

use std::path::Path;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::embedded;
use crate::error::MeasureError;
use crate::measure::{Outcome, Subject};
use crate::workload;

/// The length of a raw durable write: what a commit of one row writes at the least, twice.
pub(crate) const RAW_WRITE_BYTES: usize = 8 << 10;

/// The raw durable write, which everything is compared with.
pub(crate) const RAW_WRITE: Subject = Subject {
    system: "disk",
    nodes: 0,
    transport: "pwrite",
    workload: "write-8192",
    connections: 1,
};

/// The loopback round trip.
pub(crate) const ROUND_TRIP: Subject = Subject {
    system: "loopback",
    nodes: 0,
    transport: "tcp",
    workload: "ping-64",
    connections: 1,
};

/// The length of an entry that replication alone carries: the record of a commit of one row.
pub(crate) const REPLICATED_BYTES: usize = 4 << 10;

/// Replication alone, the floor of every commit on three nodes.
pub(crate) const REPLICATION: Subject = Subject {
    system: "replication",
    nodes: 3,
    transport: "tcp",
    workload: "write-4096",
    connections: 1,
};

/// A cluster that nobody uses.
pub(crate) const IDLE: Subject = Subject {
    system: SYSTEM,
    nodes: 3,
    transport: "tcp",
    workload: "idle",
    connections: 0,
};

pub(crate) const EMBEDDED: &str = "embedded";
pub(crate) const TCP: &str = "tcp";
const SYSTEM: &str = "ringlite";

const fn ringlite(nodes: usize, transport: &'static str, connections: usize) -> Subject {
    Subject {
        system: SYSTEM,
        nodes,
        transport,
        workload: workload::NAME,
        connections,
    }
}

/// One node in this process, one writer.
pub(crate) const EMBEDDED_ALONE: Subject = ringlite(1, EMBEDDED, 1);
/// Three nodes, one client.
pub(crate) const THREE_NODES_ALONE: Subject = ringlite(3, TCP, 1);
/// Three nodes, many clients.
pub(crate) const THREE_NODES_CROWDED: Subject = ringlite(3, TCP, 64);

/// All measures of Ringlite in their order.
pub(crate) const MEASURES: [Subject; 6] = [
    EMBEDDED_ALONE,
    ringlite(1, EMBEDDED, 64),
    ringlite(1, TCP, 1),
    THREE_NODES_ALONE,
    ringlite(3, TCP, 16),
    THREE_NODES_CROWDED,
];

/// Takes one of the [`MEASURES`], on fresh nodes with their data in `directory`.
pub(crate) fn measure(
    subject: &Subject,
    directory: &Path,
    length: Duration,
) -> Result<Outcome, MeasureError> {
    match (subject.transport, subject.connections) {
        (EMBEDDED, 1) => embedded::blocking(directory, length),
        (EMBEDDED, writers) => embedded::asynchronous(directory, writers, length),
        (_, connections) => Cluster::start(directory, subject.nodes)?.load(connections, length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = MEASURES.iter().map(Subject::name).collect();
        names.extend([RAW_WRITE, ROUND_TRIP, REPLICATION, IDLE].map(|subject| subject.name()));
        names.sort_unstable();
        assert!(names.is_sorted_by(|left, right| left < right), "{names:?}");
    }
}

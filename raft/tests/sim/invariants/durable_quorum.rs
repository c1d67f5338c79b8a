//! What is committed is on the stable storage of a majority, or was and is owed since it rotted.

use crate::sim::node::Node;
use ringlite_raft::Entry;

pub(crate) fn check(nodes: &[Node], entry: &Entry) {
    let holds = |node: &&Node| node.disk.holds_or_owes(entry.term, entry.index);
    let holders = nodes.iter().filter(holds).count();
    assert!(
        holders * 2 > nodes.len(),
        "{} is committed, but durable on {holders}",
        entry.index
    );
}

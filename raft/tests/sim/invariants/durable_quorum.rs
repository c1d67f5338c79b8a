//! What is committed is on the stable storage of a majority of those who vote, or was and is owed
//! since it rotted.

use crate::sim::node::Node;
use ringlite_raft::{Configuration, Entry};

/// `configuration` is the one by which the leader counted. A snapshot that covers the entry counts
/// for it.
pub(crate) fn check(nodes: &[Node], configuration: &Configuration, entry: &Entry) {
    let holds = |node: &Node| node.disk.holds_or_owes(entry.term, entry.index);
    let holders = configuration
        .voters()
        .filter(|voter| holds(&nodes[voter.0 as usize - 1]))
        .count();
    assert!(
        holders * 2 > configuration.voter_count(),
        "{} is committed, but durable on {holders} voters",
        entry.index
    );
}

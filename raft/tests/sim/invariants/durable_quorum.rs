//! What is committed is on the stable storage of a majority.

use crate::sim::node::Node;
use ringlite_raft::Entry;

pub(crate) fn check(nodes: &[Node], entry: &Entry) {
    let position = entry.index.0 as usize - 1;
    let holds = |node: &&Node| node.disk.durable.get(position).map(|held| held.term);
    let holders = nodes
        .iter()
        .filter(|node| holds(node) == Some(entry.term))
        .count();
    assert!(
        holders * 2 > nodes.len(),
        "{} is committed, but durable on {holders}",
        entry.index
    );
}

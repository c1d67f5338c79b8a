//! What a node believes to be held by all members is on the stable storage of each of them, so that
//! cutting the log there takes from nobody what only the log could give.

use super::state_machine_safety::Committed;
use crate::sim::node::Node;
use ringlite_raft::{LogIndex, Status};

pub(crate) fn check(nodes: &[Node], status: &Status, committed: &Committed) {
    let index = status.matched_by_all;
    if index == LogIndex::ZERO {
        return;
    }
    let position = index.0 as usize - 1;
    for node in nodes {
        // What has rotted since is owed.
        if node.disk.debt.is_some() {
            continue;
        }
        let held = node.disk.durable.get(position);
        assert!(
            held.is_some()
                && committed
                    .entries
                    .get(position)
                    .is_none_or(|e| Some(e) == held),
            "{index} is said to be held by all, but one member lacks it"
        );
    }
}

//! What is committed is on the stable storage of a majority of the voters, or was until it was damaged
//! there.

use std::collections::BTreeSet;

use ringlite_raft::{LogIndex, NodeId};

/// `holders`: those that have the entry. It must be a majority of one of `sets`, as it is not known
/// whether the voters changed just before it was committed or just after that.
pub(crate) fn check(index: LogIndex, holders: &BTreeSet<NodeId>, sets: &[Vec<NodeId>]) {
    let is_majority = |voters: &Vec<NodeId>| {
        let count = voters
            .iter()
            .filter(|voter| holders.contains(voter))
            .count();
        count * 2 > voters.len()
    };
    assert!(
        sets.iter().any(is_majority),
        "{index} is committed, but durable only on {holders:?} of {sets:?}"
    );
}

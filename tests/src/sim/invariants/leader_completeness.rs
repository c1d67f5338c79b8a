//! A new leader holds everything that was committed before.

use std::collections::BTreeMap;

use ringlite_raft::LogIndex;

use super::state_machine_safety::Committed;
use crate::sim::disk::Held;

/// `log`: what the leader's log holds, from behind its base on.
pub(crate) fn check(log: &BTreeMap<LogIndex, Held>, base: LogIndex, committed: &Committed) {
    for (index, entry) in committed.from(base.next()) {
        assert_eq!(
            log.get(&index),
            Some(&entry),
            "the new leader lacks the committed entry {index}"
        );
    }
}

//! A new leader holds everything that was committed before.

use super::state_machine_safety::Committed;
use ringlite_raft::{LogIndex, Raft};

pub(crate) fn check(leader: &Raft, committed: &Committed) {
    for (position, entry) in committed.entries.iter().enumerate() {
        let index = LogIndex(position as u64 + 1);
        if index < leader.status().base {
            continue;
        }
        let held = leader.entry_term(index);
        assert_eq!(
            held,
            Some(entry.term),
            "the new leader lacks the committed entry {index}"
        );
    }
}

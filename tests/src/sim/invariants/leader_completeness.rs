//! A new leader holds everything that was committed in the terms before its own. (One that hears of its
//! votes late may find that there is a newer leader, of whose entries it knows nothing.)

use std::collections::BTreeMap;

use ringlite_raft::{LogIndex, Term};

use super::state_machine_safety::Committed;
use crate::sim::disk::Held;

/// `log`: what the leader's log holds, from behind its base on.
pub(crate) fn check(
    log: &BTreeMap<LogIndex, Held>,
    base: LogIndex,
    term: Term,
    committed: &Committed,
) {
    for (index, entry) in committed.before(term, base.next()) {
        assert_eq!(
            log.get(&index),
            Some(&entry),
            "the new leader lacks the committed entry {index}"
        );
    }
}

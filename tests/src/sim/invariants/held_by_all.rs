//! What a node cuts its log behind is on the stable storage of each member, or was until it was damaged
//! there, so that it takes from nobody what only the log could give.

use ringlite_raft::LogIndex;

use super::state_machine_safety::Committed;
use crate::sim::disk::Disk;

pub(crate) fn check<'a>(
    members: impl Iterator<Item = &'a Disk>,
    index: LogIndex,
    committed: &Committed,
) {
    let entry = committed.from(index).next().map(|(_, entry)| entry);
    let entry = entry.unwrap_or_else(|| panic!("{index} is cut, but not committed"));
    for member in members {
        assert!(
            member.holds_or_owes(index, entry),
            "{index} is cut off, but one member lacks it"
        );
    }
}

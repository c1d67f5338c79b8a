//! What a node cuts its log behind is on the stable storage of each member, or was until it was damaged
//! there, or the log behind it is longer than the window; and it is still there for whoever gets a
//! snapshot that needs it.

use ringlite_raft::{LogIndex, NodeId};

use super::state_machine_safety::Committed;
use crate::sim::disk::Disk;

/// A cut of a log.
pub(crate) struct Cut {
    /// The last entry that is gone.
    pub(crate) up_to: LogIndex,
    /// What was appended behind it, in bytes of records.
    pub(crate) bytes_behind: u64,
    /// What has to be kept for members that lack it.
    pub(crate) window_bytes: u64,
    /// The base of a snapshot that is on its way to a member.
    pub(crate) held_from: Option<LogIndex>,
}

pub(crate) fn check<'a>(
    cut: &Cut,
    members: impl Iterator<Item = (NodeId, &'a Disk)>,
    committed: &Committed,
) {
    let index = cut.up_to;
    let entry = committed.from(index).next().map(|(_, entry)| entry);
    let entry = entry.unwrap_or_else(|| panic!("{index} is cut, but not committed"));
    assert!(
        cut.held_from.is_none_or(|base| index <= base),
        "{index} is cut off, but a snapshot on its way needs what is behind {:?}",
        cut.held_from
    );
    if cut.bytes_behind >= cut.window_bytes {
        return;
    }
    for (id, disk) in members {
        assert!(
            disk.holds_or_owes(index, entry),
            "{index} is cut off, but {id} has only {}, and only {} bytes are behind it",
            disk.durable_last(),
            cut.bytes_behind
        );
    }
}

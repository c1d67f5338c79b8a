//! What is committed is on the stable storage of a majority, or was until it was damaged there.

use ringlite_raft::LogIndex;

use crate::sim::disk::{Disk, Held};

pub(crate) fn check<'a>(
    voters: impl ExactSizeIterator<Item = &'a Disk>,
    index: LogIndex,
    entry: Held,
) {
    let size = voters.len();
    let holders = voters.filter(|disk| disk.holds_or_owes(index, entry));
    let holders = holders.count();
    assert!(
        holders * 2 > size,
        "{index} is committed, but durable on {holders} of {size}"
    );
}

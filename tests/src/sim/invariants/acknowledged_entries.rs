//! A node that acknowledges entries has them on stable storage.

use ringlite_raft::LogIndex;

use crate::sim::disk::Disk;

/// `term`: of the acknowledgement; `current`: of the node. One of an earlier term may speak of
/// entries that are gone since.
pub(crate) fn check(disk: &Disk, match_index: LogIndex, term: u64, current: u64) {
    assert!(
        term < current || match_index == LogIndex::ZERO || match_index <= disk.durable_last(),
        "{match_index} is acknowledged in term {term} of {current}, but durable is only {}",
        disk.durable_last()
    );
}

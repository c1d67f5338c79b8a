//! A read is answered at an index that covers everything acknowledged before it began.

use ringlite_raft::{LogIndex, ReadId};

/// `floor`: the highest commit index of any node when the read began; nothing above it can have
/// been acknowledged to a client by then.
pub(crate) fn check(id: ReadId, index: LogIndex, floor: LogIndex) {
    assert!(
        index >= floor,
        "the read {id} is stale: it sees {index}, but {floor} was acknowledged"
    );
}

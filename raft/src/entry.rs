//! What Raft replicates: an entry, and the few things that its kind may be.

use crate::types::{LogIndex, Term};
use bytes::Bytes;

/// The longest payload of one entry, in bytes. A larger transaction travels in several entries.
///
/// It bounds a record on disk and, with [`FRAME_BODY_BYTES_MAX`](crate::FRAME_BODY_BYTES_MAX), a
/// message between peers, so that neither reader ever allocates more than it was promised.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What an entry is for. Raft itself looks into configurations only.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// The first entry of a leader. Committing it commits everything before it (thesis, 6.4).
    Noop = 1,
    /// A transaction batch, or the last part of a large one.
    Data = 2,
    /// A part of a large transaction; more parts follow, and the last one is `Data`.
    DataPart = 3,
    /// The members of the cluster from here on; see [`Configuration`](crate::Configuration).
    Configuration = 4,
}

impl EntryKind {
    /// The kind that a byte on disk or wire stands for; `None` for a byte of no known kind.
    pub const fn from_byte(byte: u8) -> Option<EntryKind> {
        match byte {
            1 => Some(EntryKind::Noop),
            2 => Some(EntryKind::Data),
            3 => Some(EntryKind::DataPart),
            4 => Some(EntryKind::Configuration),
            _ => None,
        }
    }

    /// The byte that stands for this kind on disk and wire.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }
}

/// One entry of the replicated log.
///
/// Two entries with equal index and term are equal in every byte, on every node, for ever (log
/// matching, Raft paper 5.3). Cloning is cheap: the payload is shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// Its place in the log.
    pub index: LogIndex,
    /// What it is for.
    pub kind: EntryKind,
    /// At most [`PAYLOAD_BYTES_MAX`] bytes. Opaque to Raft, unless it is a configuration.
    pub payload: Bytes,
}

/// Where a log begins: behind this entry. What is at or below it has been cut off, because it is in
/// the databases' files.
///
/// The default, index 0 of term 0, is a log that was never cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBase {
    /// The last index that was cut off.
    pub index: LogIndex,
    /// The term of the entry there.
    pub term: Term,
}

/// The entries from `first` on have this term, up to the next run or the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// The first index of the run.
    pub first: LogIndex,
    /// The term of all entries in it.
    pub term: Term,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_its_byte_and_no_other_byte_is_a_kind() {
        let known: Vec<u8> = (0..=255)
            .filter(|&byte| EntryKind::from_byte(byte).is_some_and(|kind| kind.to_byte() == byte))
            .collect();
        assert_eq!(known, [1, 2, 3, 4]);
        assert_eq!((0..=255).filter_map(EntryKind::from_byte).count(), 4);
    }
}

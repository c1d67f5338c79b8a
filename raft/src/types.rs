//! The numbers of the protocol, each with a type of its own.
//!
//! A term can never be passed where an index is wanted, and a completed disk write can never be
//! taken for a read request. All of them are plain `u64` inside, because codecs need the bytes.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number! {
    /// A Raft term: one election, at most one leader (Raft paper, section 5.1).
    ///
    /// Term 0 exists only before the first election; no entry ever carries it.
    Term, "t"
}
number! {
    /// The place of an entry in the replicated log. The first entry has index 1.
    ///
    /// Index 0 means "before the first entry": every log matches there, with term 0.
    LogIndex, "i"
}
number! {
    /// The name of a node within its cluster. It is chosen once and never reused.
    NodeId, "n"
}
number! {
    /// One disk operation, hard state or log append, in one sequence per [`Raft`](crate::Raft).
    ///
    /// Ids only grow. So the late completion of an append that was truncated in the meantime can
    /// never count for a newer one: it has a smaller id, and the newer one is still outstanding.
    IoId, "io"
}
number! {
    /// One request for a linearizable read, named by the caller. A retry needs a fresh id.
    ReadId, "r"
}

impl Term {
    /// No node ever gets here. A greater term, from a peer or a disk, is refused, so that counting
    /// up never overflows.
    pub const MAX: Term = Term(u64::MAX / 2);

    /// The following term.
    pub const fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl LogIndex {
    /// Before the first entry.
    pub const ZERO: LogIndex = LogIndex(0);

    /// No log ever gets here. A greater index, from a peer or a disk, is refused, so that counting
    /// up never overflows.
    pub const MAX: LogIndex = LogIndex(u64::MAX / 2);

    /// The following index.
    pub const fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }

    /// The index before this one; of index 0, index 0.
    pub const fn prev(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_with_their_kind() {
        assert_eq!(Term(3).to_string(), "t3");
        assert_eq!(LogIndex(4).to_string(), "i4");
        assert_eq!(NodeId(5).to_string(), "n5");
        assert_eq!(IoId(6).to_string(), "io6");
        assert_eq!(ReadId(7).to_string(), "r7");
    }

    #[test]
    fn an_index_steps_both_ways_and_stops_at_zero() {
        assert_eq!(LogIndex(4).next(), LogIndex(5));
        assert_eq!(LogIndex(4).prev(), LogIndex(3));
        assert_eq!(LogIndex::ZERO.prev(), LogIndex::ZERO);
    }
}

//! Why a log cannot be recovered, in sentences for the operator.

use crate::debt::Debt;
use crate::record::RecordIdentity;
use crate::types::{LogIndex, Term};

/// What proves that a damaged or missing record was durable once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Evidence {
    /// A record that was written later says so.
    #[error("the record {index} in segment {segment} was written when {durable_upto} was durable")]
    LaterRecord {
        /// The segment of the later record.
        segment: u64,
        /// The index of the later record.
        index: LogIndex,
        /// What was durable when it was written.
        durable_upto: LogIndex,
    },
    /// The hard state says so.
    #[error("the hard state says that {index} of epoch {epoch} was durable")]
    DurableMark {
        /// What was durable.
        index: LogIndex,
        /// The epoch of the mark; 0 if unknown.
        epoch: u64,
    },
    /// The log was cut behind it, so that it was durable.
    #[error("the log begins behind {index}, whose record is kept")]
    Base {
        /// The index of the base.
        index: LogIndex,
    },
    /// A record that was written later, or this one itself, lies in its place.
    #[error("the record {index} of segment {segment} lies here")]
    Misplaced {
        /// The segment that the record names.
        segment: u64,
        /// The index of the record.
        index: LogIndex,
    },
    /// A later segment of the same epoch goes on behind it.
    #[error("segment {segment} goes on with {index}")]
    LaterSegment {
        /// The later segment.
        segment: u64,
        /// Its first index.
        index: LogIndex,
    },
    /// A later epoch starts behind it.
    #[error("the epoch {epoch} in segment {segment} starts at {first}")]
    LaterEpoch {
        /// A segment of the later epoch.
        segment: u64,
        /// The later epoch.
        epoch: u64,
        /// Its first index.
        first: LogIndex,
    },
    /// A later epoch follows on another entry than the one that is left: the epoch that held it is gone.
    #[error(
        "the epoch {epoch} in segment {segment} follows on {index} of {term}, of which nothing is left, and \
         not on that of {found}"
    )]
    EntryBefore {
        /// A segment of the later epoch.
        segment: u64,
        /// The later epoch.
        epoch: u64,
        /// The index of the entry before it.
        index: LogIndex,
        /// The term of that entry.
        term: Term,
        /// The term of the entry that is left there.
        found: Term,
    },
}

/// A place where the log was durable, and is damaged or missing now.
///
/// The log that was recovered ends before it; long before, where only what is known to be committed is sure
/// to be no void record. A node that is alone must not go on with that: what it
/// acknowledged would be lost in silence. A member of a cluster may, if it makes its
/// [debt](Fault::debt) durable first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the record {index} at offset {offset} of segment {segment} was durable and is damaged or missing \
     now: {evidence}"
)]
pub struct Fault {
    /// The segment.
    pub segment: u64,
    /// Where the record is or would be, in bytes.
    pub offset: u64,
    /// Its index.
    pub index: LogIndex,
    /// What proves that it was durable.
    pub evidence: Evidence,
    /// The end of the log as the headers tell it that are left.
    pub(super) end: Debt,
    /// The highest index of which the evidence speaks.
    pub(super) proven: LogIndex,
    /// Nothing is left of the newest epoch, so that it is not known which terms it held.
    pub(super) newest_is_gone: bool,
    /// There was an epoch behind the one with the damage. Another one, of which nothing is left, may have
    /// been between them, and have voided what is before the damage.
    pub(super) voided_from_is_unknown: bool,
}

impl Fault {
    /// What this node may have acknowledged before the damage. `term` is that of its hard state, which
    /// no entry exceeds.
    pub fn debt(&self, term: Term) -> Debt {
        let bound = Debt {
            term,
            index: self.proven,
        };
        if self.newest_is_gone {
            return bound.max(self.end);
        }
        if self.proven <= self.end.index {
            return self.end;
        }
        bound
    }
}

/// Why a log cannot be recovered. Nothing may be written to it, and this node may not vote as if
/// it had forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// A record of another cluster, shard or life of the data directory.
    #[error(
        "the record at offset {offset} of segment {segment} belongs to cluster \
         {:032x}, shard {}, incarnation {:016x}, but this log to cluster {:032x}, shard {}, \
         incarnation {:016x}", found.cluster, found.shard, found.incarnation,
        expected.cluster, expected.shard, expected.incarnation
    )]
    WrongIdentity {
        /// The segment.
        segment: u64,
        /// Where the record is, in bytes.
        offset: u64,
        /// Whose record it is.
        found: RecordIdentity,
        /// Whose log this is.
        expected: RecordIdentity,
    },
    /// A record that another version of this program wrote.
    #[error(
        "the record at offset {offset} of segment {segment} has format version {found}, which this \
         program does not read"
    )]
    UnknownVersion {
        /// The segment.
        segment: u64,
        /// Where the record is, in bytes.
        offset: u64,
        /// Its format version.
        found: u16,
    },
    /// Whole records that contradict each other. No crash or damage does that; a bug did.
    #[error("the record at offset {offset} of segment {segment} breaks the rule that {rule}")]
    Inconsistent {
        /// The segment.
        segment: u64,
        /// Where the record is, in bytes.
        offset: u64,
        /// The rule, as a clause.
        rule: &'static str,
    },
    /// The scans are not in the order of their segments.
    #[error("segment {after} cannot follow segment {before}")]
    SegmentOrder {
        /// The number of one segment.
        before: u64,
        /// The number of the one after it.
        after: u64,
    },
}

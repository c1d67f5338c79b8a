//! What a node owes whose log was damaged: the promises that it cannot prove any more.
//!
//! A member of a cluster that finds a durable entry damaged goes on with the log cut below it. It may
//! have acknowledged that entry and the ones behind it, and leaders may have counted it when they
//! committed them. The debt is the end of the log as it was, or a bound above it. While the log ends
//! below it the node does not campaign and votes for nobody whose log ends below it. Why nothing that
//! was acknowledged can be lost by that, as long as a minority is damaged:
//!
//! 1. The node grants no vote that it would have refused with its whole log: the rule compares a
//!    candidate with the end of that log, or with something above it. So every majority of voters
//!    that had a committed entry still refuses each candidate that lacks it, damaged or not, and
//!    a leader that counts an acknowledgement given before the damage commits nothing that a later
//!    election could undo.
//! 2. A node with a debt is no candidate. So whoever is elected has a whole log, and by the argument
//!    of the Raft paper (5.4.3) it has every committed entry.
//! 3. Of the majority that had an entry, at least one is not damaged. So the entry exists, and can be
//!    elected and copied.
//! 4. Once the node's own durable log ends at or above the debt, the rule for whole logs says the same
//!    as the debt did, for good: a log that is truncated later ends in a higher term.
//!
//! Valid entries behind the damaged one are cut too. That changes none of this, because the debt speaks
//! of the end of the log and not of the damaged entry. If more than a minority is damaged, those that
//! owe refuse, and nobody is elected until an operator decides (`ringlite recover`).

use crate::types::{LogIndex, Term};

/// The end of the log that a node may have acknowledged and does not hold any more. Ends of logs are
/// compared by term and then by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Debt {
    /// The term of the last entry, or a bound above it.
    pub term: Term,
    /// The index of the last entry.
    pub index: LogIndex,
}

impl std::fmt::Display for Debt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of {}", self.index, self.term)
    }
}

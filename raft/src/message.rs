//! What peers say to each other.
//!
//! A message names its term, never its sender: the connection knows who sits at the other end.

pub(crate) mod codec;

use crate::entry::Entry;
use crate::types::{LogIndex, Term};

/// One message between two nodes of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Would you vote for me?" Changes nothing at the receiver (thesis, 9.6).
    PreVote {
        /// The term in which the sender would campaign: its own plus one.
        term: Term,
        /// The last index of its log.
        last_index: LogIndex,
        /// The term of that entry.
        last_term: Term,
    },
    /// The answer to a [`Message::PreVote`].
    PreVoteReply {
        /// The term asked for if granted, else the receiver's own, so that a node that fell behind
        /// learns of it.
        term: Term,
        /// Whether the vote would be given.
        granted: bool,
    },
    /// "Vote for me" (Raft paper, 5.2). Sent once the sender's own vote is durable.
    Vote {
        /// The term of the election.
        term: Term,
        /// The last index of the candidate's log.
        last_index: LogIndex,
        /// The term of that entry.
        last_term: Term,
        /// The leader itself told the sender to stand, so that nobody stands by that leader.
        by_transfer: bool,
    },
    /// The answer to a [`Message::Vote`]. Sent once the vote is durable.
    VoteReply {
        /// The term of the voter.
        term: Term,
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries from the leader, perhaps none (Raft paper, 5.3). They may be in the leader's memory
    /// only, because it writes its own copy at the same time (thesis, 10.2.1).
    Append {
        /// The term of the leader.
        term: Term,
        /// The index just before the first entry.
        prev_index: LogIndex,
        /// The term of the entry there.
        prev_term: Term,
        /// What is committed. It may lie beyond the entries of this message.
        commit: LogIndex,
        /// What all voters and standbys are known to hold durably: a hint for what may leave memory
        /// and log. Never above what is committed.
        matched_by_all: LogIndex,
        /// Contiguous from `prev_index + 1` on.
        entries: Vec<Entry>,
    },
    /// The answer to a [`Message::Append`]. An acceptance is sent once the entries are durable.
    AppendReply {
        /// The term of the follower.
        term: Term,
        /// What became of the entries.
        result: AppendResult,
    },
    /// "I still lead." Without entries, and without a check of the log.
    Heartbeat {
        /// The term of the leader.
        term: Term,
        /// What is committed and known to match at this follower.
        commit: LogIndex,
        /// What all voters and standbys are known to hold durably: a hint, as in an append.
        matched_by_all: LogIndex,
        /// Grows with each round. An echo proves that the leader led after the round began.
        round: u64,
    },
    /// The answer to a [`Message::Heartbeat`].
    HeartbeatReply {
        /// The term of the follower.
        term: Term,
        /// The round of the heartbeat; 0, for which no read waits, in the answer to a leader of an
        /// older term, so that it proves nothing.
        round: u64,
    },
    /// "Stand for election at once": from a leader that hands over (thesis, 3.10).
    TimeoutNow {
        /// The term of the leader.
        term: Term,
    },
    /// "You do not belong to the cluster any more": to a node that was removed, when its removal is
    /// committed and whenever it asks. The receiver believes it only if it knows of no newer
    /// configuration.
    Removed {
        /// The term of the sender.
        term: Term,
        /// An index up to which the log is committed, and where the receiver is no member.
        commit: LogIndex,
        /// The term of the entry there.
        commit_term: Term,
    },
}

impl Message {
    /// The term that the message names.
    pub const fn term(&self) -> Term {
        match self {
            Message::PreVote { term, .. }
            | Message::PreVoteReply { term, .. }
            | Message::Vote { term, .. }
            | Message::VoteReply { term, .. }
            | Message::Append { term, .. }
            | Message::AppendReply { term, .. }
            | Message::Heartbeat { term, .. }
            | Message::HeartbeatReply { term, .. }
            | Message::TimeoutNow { term }
            | Message::Removed { term, .. } => *term,
        }
    }
}

/// What became of the entries of an [`Message::Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResult {
    /// The follower's log equals the leader's up to this index, durably.
    Accepted {
        /// The last index that the message verified.
        match_index: LogIndex,
    },
    /// The follower has another entry, or none, where the message's entries would follow on.
    Rejected {
        /// `prev_index` of the message, by which a late reply is told from a current one.
        prev_index: LogIndex,
        /// Where the logs may still agree.
        conflict: Conflict,
    },
    /// The same, of a follower whose log was damaged: it may lack entries that it accepted before.
    Damaged {
        /// `prev_index` of the message.
        prev_index: LogIndex,
        /// Where the logs may still agree.
        conflict: Conflict,
    },
}

/// A follower's hint after a rejection, with which the leader backs up one term per round.
///
/// The logs cannot agree above `index`. If the leader has no entry of `term` there, they cannot
/// agree at or above `first` either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The lower of the rejected `prev_index` and the follower's last index.
    pub index: LogIndex,
    /// The follower's term at `index`.
    pub term: Term,
    /// The first index of that term in the follower's log; 0 for an empty log.
    pub first: LogIndex,
}

//! What a follower does with what its leader sends (Raft paper, figure 2).

use super::{AppendOrHeartbeat, Raft};
use crate::entry::Entry;
use crate::log::{self, Offer};
use crate::message::{AppendResult, Conflict, Message};
use crate::status::Role;
use crate::types::{LogIndex, NodeId, Term};

impl Raft {
    /// Follows the sender of an append or heartbeat, if it leads the current or a newer term.
    ///
    /// A deposed leader is told of the newer term; else it would go on for as long as its other
    /// followers are silent.
    pub(super) fn follow(&mut self, from: NodeId, term: Term, what: &AppendOrHeartbeat) -> bool {
        if term < self.hard_state.term {
            self.tell_newer_term(from, what);
            return false;
        }
        let other = self.leader.filter(|&leader| leader != from);
        if term == self.hard_state.term && other.is_some() {
            // Two leaders of one term cannot be: this is no message of a correct peer.
            self.dropped += 1;
            return false;
        }
        self.become_follower(term, Some(from));
        true
    }

    fn tell_newer_term(&mut self, to: NodeId, what: &AppendOrHeartbeat) {
        let term = self.hard_state.term;
        let message = match *what {
            AppendOrHeartbeat::Heartbeat { round } => Message::HeartbeatReply { term, round },
            AppendOrHeartbeat::Append { prev_index } => {
                let nowhere = Conflict {
                    index: LogIndex::ZERO,
                    term: Term(0),
                    first: LogIndex::ZERO,
                };
                let result = AppendResult::Rejected {
                    prev_index,
                    conflict: nowhere,
                };
                Message::AppendReply { term, result }
            }
        };
        self.send_after_hard_state(to, message);
    }

    pub(super) fn append_offered(
        &mut self,
        from: NodeId,
        (prev_index, prev_term): (LogIndex, Term),
        commit: LogIndex,
        entries: Vec<Entry>,
    ) {
        assert_eq!(self.role, Role::Follower);
        if !log::is_contiguous(prev_index, prev_term, self.hard_state.term, &entries) {
            self.dropped += 1;
            return;
        }
        let verified = entries.last().map_or(prev_index, |entry| entry.index);
        match self.log.offer(prev_index, prev_term, entries) {
            Offer::Taken { truncate, new } => {
                self.io.append(truncate, new);
                // What lies behind the verified part may still be another leader's.
                self.commit_to(commit.min(verified));
                self.send_acceptance(from, verified);
            }
            Offer::Conflict(conflict) => {
                let term = self.hard_state.term;
                let result = AppendResult::Rejected {
                    prev_index,
                    conflict,
                };
                self.send_after_hard_state(from, Message::AppendReply { term, result });
            }
            Offer::AgainstCommit => self.dropped += 1,
        }
    }

    pub(super) fn heartbeat_heard(&mut self, from: NodeId, commit: LogIndex, round: u64) {
        assert_eq!(self.role, Role::Follower);
        // The leader sends no more than what this node acknowledged in this term, so the log
        // matches up to there; a leader that says more is not believed beyond the end of the log.
        self.commit_to(commit.min(self.log.last()));
        let term = self.hard_state.term;
        self.send_after_hard_state(from, Message::HeartbeatReply { term, round });
    }
}

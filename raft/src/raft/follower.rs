//! What a follower does with what its leader sends (Raft paper, figure 2).

use super::Raft;
use crate::entry::{Entry, EntryKind};
use crate::log::{self, Offer};
use crate::membership::Configuration;
use crate::message::{AppendResult, Message};
use crate::status::Role;
use crate::types::{LogIndex, NodeId, Term};

impl Raft {
    /// Follows the sender of an append or heartbeat, if it leads the current or a newer term.
    ///
    /// A deposed leader is told of the newer term; else it would go on for as long as its other
    /// followers are silent. The answer names round 0, for which no read waits. An echo of the
    /// deposed leader's round under the newer term would be dangerous: if that node restarts,
    /// counts rounds from zero again and wins the newer term, the late echo would confirm a round
    /// of the new leadership before anybody has heard of it, and a stale read could be answered.
    pub(super) fn follow(&mut self, from: NodeId, term: Term) -> bool {
        let current = self.hard_state.term;
        if term < current {
            let message = Message::HeartbeatReply {
                term: current,
                round: 0,
            };
            self.send_after_hard_state(from, message);
            return false;
        }
        let other = self.leader.filter(|&leader| leader != from);
        if term == current && other.is_some() {
            // Two leaders of one term cannot be: this is no message of a correct peer.
            self.dropped += 1;
            return false;
        }
        self.become_follower(term, Some(from));
        true
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
        let mut configurations = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Configuration);
        if configurations.any(|entry| Configuration::decode(entry.payload.clone()).is_err()) {
            self.dropped += 1;
            return;
        }
        let mut verified = entries.last().map_or(prev_index, |entry| entry.index);
        match self.log.offer(prev_index, prev_term, entries) {
            Offer::Taken { truncate, new } => {
                self.io.append(truncate, new);
                if mutation!(UnverifiedCommits) {
                    verified = self.log.last();
                }
                self.configuration_may_have_changed();
                // What lies behind the verified part may still be another leader's.
                self.commit_to(commit.min(verified));
                self.send_acceptance(from, verified);
            }
            Offer::Conflict(conflict) => {
                let term = self.hard_state.term;
                let result = if self.debt.is_some() && !mutation!(LossNotTold) {
                    AppendResult::Damaged {
                        prev_index,
                        conflict,
                    }
                } else {
                    AppendResult::Rejected {
                        prev_index,
                        conflict,
                    }
                };
                self.send_after_hard_state(from, Message::AppendReply { term, result });
            }
            Offer::AgainstCommit => self.dropped += 1,
        }
    }

    /// The leader tells what all voters and standbys hold durably.
    pub(super) fn matched_by_all_heard(&mut self, index: LogIndex) {
        // This node may be none of them, or not know yet what is committed.
        self.matched_by_all = index.min(self.log.commit()).min(self.io.durable());
        self.evict();
    }

    pub(super) fn heartbeat_heard(&mut self, from: NodeId, commit: LogIndex, round: u64) {
        assert_eq!(self.role, Role::Follower);
        // The leader sends no more than what this node acknowledged in this term, so the log
        // matches up to there; a leader that says more is not believed beyond the end of the log.
        if self.installing.is_none() {
            self.commit_to(commit.min(self.log.last()));
        }
        let term = self.hard_state.term;
        self.send_after_hard_state(from, Message::HeartbeatReply { term, round });
    }
}

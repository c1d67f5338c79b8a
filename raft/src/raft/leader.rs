//! What a leader does with the replies: progress, commit, and proofs of leadership.

use super::Raft;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::log;
use crate::membership::MemberRole;
use crate::message::{AppendResult, Conflict};
use crate::progress::Mode;
use crate::quorum;
use crate::status::Role;
use crate::types::{LogIndex, NodeId, Term};

impl Raft {
    /// Whether a follower's reply is for this leader in its current term. A newer term ends it.
    pub(super) fn is_reply_to_this_leader(&mut self, from: NodeId, term: Term) -> bool {
        if self.role == Role::Leader && !self.peers.contains_key(&from) {
            // It left, and what it knows of terms is nobody's business any more.
            return false;
        }
        if term > self.hard_state.term {
            self.become_follower(term, None);
            return false;
        }
        let current = self.role == Role::Leader && term == self.hard_state.term;
        if current && let Some(progress) = self.peers.get_mut(&from) {
            progress.silent_ticks = 0;
        }
        current
    }

    pub(super) fn append_replied(&mut self, from: NodeId, result: AppendResult) {
        let last = self.log.last();
        let Some(progress) = self.peers.get_mut(&from) else {
            return;
        };
        match result {
            AppendResult::Accepted { match_index } => {
                if match_index > last {
                    self.dropped += 1;
                    return;
                }
                let grew = match_index > progress.match_index;
                progress.accepted(match_index);
                if grew {
                    self.commit_what_a_majority_holds();
                }
            }
            AppendResult::Rejected {
                prev_index,
                conflict,
            } => {
                // One below the match is late.
                if prev_index > progress.match_index {
                    self.log_differs(from, prev_index, conflict);
                }
            }
            AppendResult::Damaged {
                prev_index,
                conflict,
            } => {
                // What it acknowledged before may be gone. A late message of this kind costs a probe.
                progress.forget_match_above(conflict.index.min(prev_index.prev()));
                self.log_differs(from, prev_index, conflict);
            }
        }
    }

    /// The peer has another entry, or none, where the last message would follow on.
    fn log_differs(&mut self, from: NodeId, prev_index: LogIndex, conflict: Conflict) {
        let Some(progress) = self.peers.get_mut(&from) else {
            return;
        };
        // The rejection of a probe that is not the current one is late.
        let late = match progress.mode {
            Mode::Probe => prev_index != progress.next.prev(),
            Mode::Replicate => false,
            Mode::Snapshot => true,
        };
        if late || prev_index >= progress.next {
            return;
        }
        let possible = self
            .log
            .last_possible_match(conflict)
            .min(prev_index.prev());
        progress.probe_from(possible.next());
    }

    pub(super) fn heartbeat_replied(&mut self, from: NodeId, round: u64) {
        if round > self.round {
            self.dropped += 1;
            return;
        }
        if let Some(progress) = self.peers.get_mut(&from) {
            progress.round = progress.round.max(round);
        }
        self.answer_confirmed_reads();
    }

    /// Answers the reads whose round a majority has echoed. The leader itself is at the newest one.
    pub(super) fn answer_confirmed_reads(&mut self) {
        if self.reads.is_empty() && self.config.lease_ticks == 0 {
            return;
        }
        let own = self.is_voter().then_some(self.round);
        let voters = self
            .peers
            .values()
            .filter(|peer| peer.role == MemberRole::Voter);
        let mut rounds: Vec<u64> = voters.map(|peer| peer.round).chain(own).collect();
        let confirmed = quorum::reached_by_majority(&mut rounds);
        self.lease.confirmed(confirmed);
        for (id, index) in self.reads.confirm(confirmed) {
            self.events.push(Effect::ReadReady { id, index });
        }
    }

    /// Commits up to the highest index that a majority of the voters holds durably, this node
    /// counting like any other, if the entry there is of the current term (Raft paper, 5.4.2 and
    /// figure 8). The newest configuration counts, also for entries from before it.
    pub(super) fn commit_what_a_majority_holds(&mut self) {
        assert_eq!(self.role, Role::Leader);
        let own = self.is_voter().then_some(self.io.durable().0);
        let voters = self
            .peers
            .values()
            .filter(|peer| peer.role == MemberRole::Voter);
        let mut durable: Vec<u64> = voters.map(|peer| peer.match_index.0).chain(own).collect();
        let held = LogIndex(quorum::reached_by_majority(&mut durable));
        debug_assert_eq!(held, self.held_by_majority_naive());
        let before = self.log.commit();
        if self.log.term(held) == Some(self.hard_state.term) {
            self.commit_to(held);
        }
        self.note_matched_by_all();
        if self.log.commit() > before {
            self.configurations_committed(before);
        }
    }

    /// The same from the definition, and from the configuration instead of the progress of peers.
    fn held_by_majority_naive(&self) -> LogIndex {
        let configuration = self.configuration();
        let held_by = |voter: NodeId| {
            let own = voter == self.config.id;
            let peer = self.peers.get(&voter).map(|peer| peer.match_index);
            if own { Some(self.io.durable()) } else { peer }
        };
        let held: Vec<LogIndex> = configuration.voters().filter_map(held_by).collect();
        let by_majority = |index: &LogIndex| {
            let holders = held.iter().filter(|&other| other >= index).count();
            holders * 2 > configuration.voter_count()
        };
        held.iter()
            .copied()
            .filter(by_majority)
            .max()
            .unwrap_or_default()
    }

    /// Notes what all those hold that get the log.
    pub(super) fn note_matched_by_all(&mut self) {
        let peers = self.peers.values().filter(|peer| peer.role.replicates());
        let own = self.io.durable().min(self.log.commit());
        self.matched_by_all = peers.map(|peer| peer.match_index).fold(own, LogIndex::min);
        self.evict();
    }

    pub(super) fn tick_leader(&mut self) {
        for progress in self.peers.values_mut() {
            progress.silent_ticks = progress.silent_ticks.saturating_add(1);
            if progress.read_failed {
                progress.read_failed = false;
                progress.reading = false;
            }
        }
        if self.lost_its_quorum() {
            self.become_follower(self.hard_state.term, None);
            return;
        }
        if self.stalls_others() {
            self.resign();
            return;
        }
        self.lease.tick();
        self.tick_transfer();
        self.timers.heartbeat += 1;
        if self.timers.heartbeat >= self.config.heartbeat_ticks {
            self.timers.heartbeat = 0;
            self.heartbeat_due = true;
            self.look_for_losses();
        }
        self.tell_commit();
    }

    /// Check-quorum (thesis, 6.2): a leader that no majority hears must not keep its clients.
    fn lost_its_quorum(&self) -> bool {
        let max = self.config.election_timeout_ticks_max;
        let heard = self
            .peers
            .values()
            .filter(|peer| peer.role == MemberRole::Voter && peer.silent_ticks < max)
            .count();
        let own = usize::from(self.is_voter());
        heard + own < quorum::majority(self.configuration().voter_count())
    }

    /// Storage has read entries for a peer. They are believed only if they are what the log says
    /// they must be: the answer may be late, from before this node lost and regained leadership.
    pub(super) fn entries_read(&mut self, peer: NodeId, entries: Vec<Entry>) {
        let term = self.hard_state.term;
        let Some(progress) = self
            .peers
            .get_mut(&peer)
            .filter(|progress| progress.reading)
        else {
            return;
        };
        if entries.is_empty() {
            if progress.read_in_vain() && progress.mode != Mode::Snapshot {
                progress.await_snapshot(progress.next);
            }
            return;
        }
        progress.reading = false;
        let prev = progress.next.prev();
        let Some(prev_term) = self.log.term(prev) else {
            return;
        };
        let known = entries
            .iter()
            .all(|entry| self.log.term(entry.index) == Some(entry.term));
        let fits = progress.mode == Mode::Replicate
            && known
            && log::is_contiguous(prev, prev_term, term, &entries);
        if fits {
            progress.stage(entries);
        }
    }
}

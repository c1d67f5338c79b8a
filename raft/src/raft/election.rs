//! Terms, votes and timers (Raft paper, 5.2; pre-vote and check-quorum: thesis, 9.6 and 6.2).

use super::Raft;
use super::lease::Lease;
use crate::config::HardState;
use crate::debt::Debt;
use crate::effect::TransferOutcome;
use crate::entry::EntryKind;
use crate::message::Message;
use crate::quorum;
use crate::status::Role;
use crate::types::{LogIndex, NodeId, Term};
use bytes::Bytes;

/// Between two pre-votes of a follower whose leader's connection was reset, in ticks.
const LOST_RETRY_TICKS: (u32, u32) = (2, 4);
/// How long such a candidate waits for votes before it tries again, in ticks: votes need a durable
/// write, pre-votes do not.
const LOST_CANDIDACY_TICKS: (u32, u32) = (5, 10);

/// Counters of ticks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    /// Since the election timer was last restarted.
    pub(crate) election: u32,
    /// When it fires.
    pub(crate) election_timeout: u32,
    /// Since a message of the leader; the stickiness of a follower ends by it.
    pub(crate) leader_silent: u32,
    /// How long this node goes on with short timeouts, because its leader's connection was reset.
    pub(crate) lost_leader: u32,
    /// Since a leader's last heartbeat.
    pub(crate) heartbeat: u32,
}

impl Raft {
    pub(super) fn tick(&mut self) {
        self.io.tick();
        if self.role == Role::Leader {
            self.tick_leader();
            return;
        }
        self.timers.lost_leader = self.timers.lost_leader.saturating_sub(1);
        self.timers.leader_silent = self.timers.leader_silent.saturating_add(1);
        self.timers.election += 1;
        if self.timers.election < self.timers.election_timeout {
            return;
        }
        if !self.may_stand() {
            self.become_follower(self.hard_state.term, None);
            self.restart_election_timer();
            if !self.is_electable() && !self.is_removed() {
                self.ask_whether_member();
            }
        } else if self.is_sole_voter() && self.role == Role::Candidate {
            // It waits for its own disk only.
            self.restart_election_timer();
        } else {
            self.pre_campaign();
        }
    }

    /// Whether this node could lead if it were elected. Not with a log that it cannot prove.
    pub(super) fn may_stand(&self) -> bool {
        self.is_electable()
            && !self.is_removed()
            && self.installing.is_none()
            && !self.stalls_others()
            && (self.debt.is_none() || mutation!(DebtorStands))
    }

    /// Whether a disk operation has been under way for too long.
    pub(super) fn disk_stalled(&self) -> bool {
        let limit = u64::from(self.config.disk_stall_ticks);
        limit > 0 && self.io.oldest_age_ticks() >= limit
    }

    /// Whether others should go on without this node, because its disk hangs (hashicorp/raft #503:
    /// a leader that heartbeats and cannot write freezes its cluster for ever). A sole voter waits.
    pub(super) fn stalls_others(&self) -> bool {
        self.disk_stalled() && !self.is_sole_voter()
    }

    /// Draws a new timeout and starts counting from zero.
    pub(super) fn restart_election_timer(&mut self) {
        let (min, max) = if self.timers.lost_leader == 0 {
            (
                self.config.election_timeout_ticks_min,
                self.config.election_timeout_ticks_max,
            )
        } else if self.role == Role::Candidate {
            LOST_CANDIDACY_TICKS
        } else {
            LOST_RETRY_TICKS
        };
        self.timers.election = 0;
        self.timers.election_timeout = self.random.between(min, max);
    }

    /// Whether this node stands by its leader and helps nobody against it (thesis, 4.2.3).
    ///
    /// With leases that is a promise which outlives what the node knows of its leader: a node that
    /// has just started may have made it before.
    fn is_sticky(&self) -> bool {
        let heard_lately = self.timers.leader_silent < self.config.election_timeout_ticks_min;
        let promised = self.leader.is_some() || self.has_leases();
        self.role == Role::Leader || (promised && heard_lately)
    }

    fn has_leases(&self) -> bool {
        self.config.lease_ticks > 0
    }

    /// Whether a log that ends there may lead: not below this one (Raft paper, 5.4.1), and not below
    /// what this one was before it was damaged.
    fn may_lead(&self, last_term: Term, last_index: LogIndex) -> bool {
        let end = Debt {
            term: last_term,
            index: last_index,
        };
        let is_owed = Some(end) < self.debt && !mutation!(DebtorVotes);
        self.log.is_up_to_date(last_term, last_index) && !is_owed
    }

    /// The connection with a peer was reset: its process is most likely gone.
    ///
    /// A follower of it need not wait for the timeout. The ranks keep the survivors from standing
    /// against each other; short retries follow for one election timeout, because the others may
    /// learn of the loss a little later and refuse until then. With leases a follower keeps its
    /// promise instead.
    pub(super) fn peer_lost(&mut self, peer: NodeId) {
        if let Some(progress) = self.peers.get_mut(&peer) {
            progress.lost();
        }
        if self.role == Role::Leader || self.leader != Some(peer) || self.has_leases() {
            return;
        }
        self.leader = None;
        self.timers.lost_leader = self.config.election_timeout_ticks_max;
        let remaining = self.configuration().voters();
        let before = remaining.filter(|&voter| voter != peer && voter < self.config.id);
        let rank = before.count() as u32;
        self.timers.election = 0;
        self.timers.election_timeout = 1 + 2 * rank;
        self.announce();
    }

    /// Asks whether an election would be won. Changes neither term nor vote.
    fn pre_campaign(&mut self) {
        self.role = Role::PreCandidate;
        self.leader = None;
        self.votes = [self.config.id].into();
        self.restart_election_timer();
        self.announce();
        let term = self.hard_state.term.next();
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        for voter in self.other_voters() {
            self.send(
                voter,
                Message::PreVote {
                    term,
                    last_index,
                    last_term,
                },
            );
        }
        if self.has_the_votes() {
            self.campaign(false);
        }
    }

    /// Stands for election in a new term; `by_transfer`: because the leader told it to.
    ///
    /// The requests wait for the candidate's own vote to be durable. If they did not, a crash could
    /// take the vote and the end of the log; the node would stand again in the same term, and votes
    /// for its longer log would elect the shorter one.
    pub(super) fn campaign(&mut self, by_transfer: bool) {
        assert!(self.is_electable(), "this node cannot lead");
        assert!(
            by_transfer || self.is_sole_voter() || !self.has_leases() || !self.is_sticky(),
            "a candidate breaks its promise to its leader"
        );
        self.role = Role::Candidate;
        self.leader = None;
        self.votes = [self.config.id].into();
        let term = self.hard_state.term.next();
        self.save_hard_state(HardState {
            term,
            vote: Some(self.config.id),
        });
        self.restart_election_timer();
        self.announce();
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        for voter in self.other_voters() {
            self.send_after_hard_state(
                voter,
                Message::Vote {
                    term,
                    last_index,
                    last_term,
                    by_transfer,
                },
            );
        }
    }

    /// Follows whoever leads `term`, or waits for somebody to.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(
            term >= self.hard_state.term,
            "the term would fall to {term}"
        );
        let was_leading = self.role == Role::Leader;
        let newer = term > self.hard_state.term;
        if newer {
            self.save_hard_state(HardState { term, vote: None });
        }
        if leader.is_some() {
            self.timers.lost_leader = 0;
            self.timers.leader_silent = 0;
        }
        if newer || was_leading || self.role != Role::Follower || leader.is_some() {
            self.role = Role::Follower;
            self.restart_election_timer();
        }
        self.leader = leader;
        self.votes.clear();
        self.peers.clear();
        self.reads.clear();
        self.heartbeat_due = false;
        self.lease = Lease::default();
        self.announce();
        self.end_transfer(TransferOutcome::SteppedDown);
    }

    /// Leads the current term, beginning with a no-op that will commit all earlier terms.
    fn become_leader(&mut self) {
        assert_eq!(
            self.role,
            Role::Candidate,
            "only a candidate can win an election"
        );
        assert!(
            self.io.after_hard_state().is_none() || mutation!(VoteBeforeSync),
            "a leader's vote for itself is durable"
        );
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.votes.clear();
        self.timers.lost_leader = 0;
        self.timers.heartbeat = 0;
        self.lease = Lease::new(self.config.lease_ticks);
        self.configuration_may_have_changed();
        self.announce();
        // The followers learn of the leader by the append of the no-op, in this same turn.
        self.noop = self.append_own(EntryKind::Noop, Bytes::new());
    }

    pub(super) fn pre_vote_asked(
        &mut self,
        from: NodeId,
        term: Term,
        last_index: LogIndex,
        last_term: Term,
    ) {
        let granted = !self.is_sticky()
            && !self.stalls_others()
            && term > self.hard_state.term
            && self.may_lead(last_term, last_index);
        if granted && self.timers.lost_leader > 0 && self.role == Role::Follower {
            // Let the one who asked first go on, instead of standing against it.
            self.restart_election_timer();
        }
        // The refusal names our term, so that a node that fell behind can catch up and be heard.
        let term = if granted { term } else { self.hard_state.term };
        let term = if mutation!(RefusalWithoutTerm) {
            Term(0)
        } else {
            term
        };
        self.send_after_hard_state(from, Message::PreVoteReply { term, granted });
    }

    pub(super) fn pre_vote_replied(&mut self, from: NodeId, term: Term, granted: bool) {
        if !granted {
            if term > self.hard_state.term {
                self.become_follower(term, None);
            }
            return;
        }
        if self.role == Role::PreCandidate && term == self.hard_state.term.next() {
            self.votes.insert(from);
            if self.has_the_votes() {
                self.campaign(false);
            }
        }
    }

    pub(super) fn vote_asked(
        &mut self,
        from: NodeId,
        term: Term,
        (last_index, last_term): (LogIndex, Term),
        by_transfer: bool,
    ) {
        if self.stalls_others() {
            // A vote could not be saved, and a new term would only come in the way of others.
            return;
        }
        // With leases the promise to a leader also holds in a newer term, which this node may have
        // learned from the refusal of a pre-vote since, without a vote in it.
        let is_news = term > self.hard_state.term
            || self.has_leases() && term == self.hard_state.term && self.hard_state.vote.is_none();
        if is_news && self.is_sticky() && !by_transfer {
            // No answer and no new term: a node that lost touch must not depose a leader that the
            // others hear (thesis, 4.2.3).
            return;
        }
        if term > self.hard_state.term {
            self.become_follower(term, None);
        }
        let current = self.hard_state.term;
        let may_vote = match self.hard_state.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none(),
        } || mutation!(TwoVotesInATerm);
        let granted = term == current && may_vote && self.may_lead(last_term, last_index);
        if granted {
            if self.hard_state.vote.is_none() {
                self.save_hard_state(HardState {
                    term,
                    vote: Some(from),
                });
            }
            self.restart_election_timer();
        }
        self.send_after_hard_state(
            from,
            Message::VoteReply {
                term: current,
                granted,
            },
        );
    }

    pub(super) fn vote_replied(&mut self, from: NodeId, term: Term, granted: bool) {
        if term > self.hard_state.term {
            self.become_follower(term, None);
        } else if term == self.hard_state.term && granted && self.role == Role::Candidate {
            self.votes.insert(from);
            self.count_votes();
        }
    }

    /// Leads if a majority voted for this candidate and its own vote is durable.
    pub(super) fn count_votes(&mut self) {
        if self.has_the_votes() && self.io.after_hard_state().is_none() {
            self.become_leader();
        }
    }

    /// Whether a majority of the voters, by this candidate's log, is for it.
    fn has_the_votes(&self) -> bool {
        let configuration = self.configuration();
        let votes = configuration
            .voters()
            .filter(|voter| self.votes.contains(voter));
        votes.count() >= quorum::majority(configuration.voter_count())
    }

    fn save_hard_state(&mut self, hard_state: HardState) {
        assert!(
            hard_state.term >= self.hard_state.term,
            "the term would fall"
        );
        self.hard_state = hard_state;
        let mut saved = hard_state;
        if mutation!(VoteNotSaved) {
            saved.vote = None;
        }
        self.io.save(saved);
    }
}

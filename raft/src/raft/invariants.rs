//! What is always true of a replica between two steps.

use super::Raft;
use crate::status::Role;
use crate::types::LogIndex;

impl Raft {
    /// Checks everything that must hold between two steps. Meant for tests and the simulator.
    ///
    /// # Panics
    /// If something does not hold: that is a bug of this crate.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        self.io.check_invariants(self.log.last());
        assert!(
            self.log.last_term() <= self.hard_state.term,
            "the log is ahead of the term"
        );
        let leading = self.role == Role::Leader;
        assert_eq!(
            leading,
            self.leader == Some(self.config.id),
            "who leads knows it"
        );
        let peers = if leading {
            self.config.voters.len() - 1
        } else {
            0
        };
        assert_eq!(
            self.peers.len(),
            peers,
            "there is progress for each peer of a leader"
        );
        assert!(
            leading || self.reads.is_empty(),
            "only a leader holds reads"
        );
        if matches!(self.role, Role::PreCandidate | Role::Candidate) {
            assert!(self.leader.is_none(), "a candidate knows no leader");
            assert!(
                self.votes.contains(&self.config.id),
                "a candidate votes for itself"
            );
        }
        if matches!(self.role, Role::Candidate | Role::Leader) {
            assert_eq!(self.hard_state.vote, Some(self.config.id));
        }
        if leading {
            assert_eq!(
                self.log.last_term(),
                self.hard_state.term,
                "a leader has its no-op"
            );
            assert!(self.noop > LogIndex::ZERO && self.noop <= self.log.last());
        }
        assert!(
            self.log.base() <= self.matched_by_all
                && self.matched_by_all <= self.log.commit().min(self.io.durable()),
            "{} is held by all, the log begins behind {}",
            self.matched_by_all,
            self.log.base()
        );
        for progress in self.peers.values() {
            assert!(
                progress.damaged || progress.match_index >= self.matched_by_all,
                "a peer lacks what everybody has"
            );
            progress.check_invariants(self.log.last());
            assert!(
                progress.round <= self.round,
                "a round was echoed before it began"
            );
        }
        assert!(self.timers.election < self.timers.election_timeout || leading);
    }
}

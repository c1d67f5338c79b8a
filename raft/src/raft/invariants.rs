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
        let members = self.configuration().members().iter();
        let others = members.filter(|member| leading && member.id != self.config.id);
        assert!(
            others
                .map(|member| (member.id, member.role))
                .eq(self.peers.iter().map(|(&id, peer)| (id, peer.role))),
            "there is progress for each other member of a leader"
        );
        assert!(
            leading || (self.transfer.is_none() && !self.lease.is_valid()),
            "only a leader hands over or has a lease"
        );
        assert!(
            self.installing.is_none() || self.role == Role::Follower,
            "only a follower installs a snapshot"
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
            self.matched_by_all <= self.log.commit().min(self.io.durable()),
            "{} is held by all",
            self.matched_by_all
        );
        for progress in self.peers.values() {
            progress.check_invariants(self.log.last());
            assert!(
                progress.round <= self.round,
                "a round was echoed before it began"
            );
        }
        assert!(self.timers.election < self.timers.election_timeout || leading);
    }
}

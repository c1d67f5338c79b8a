//! A leader's lease: for how long it may answer reads without asking (thesis, 6.4.1).
//!
//! A voter that answered a heartbeat refuses to elect another leader until it has heard nothing for
//! the shortest election timeout. So from when the heartbeats of a round were *sent* no other leader
//! can be elected for that long, if a majority answered that round. What is assumed of clocks is at
//! [`Config::lease_ticks`](crate::Config::lease_ticks).
//!
//! The argument stands while members change. A candidate knows its configuration from this leader,
//! directly or over others, so that it had heard from this leader after that configuration was made,
//! and waited out a whole timeout of its own since then; and a round that was sent later was answered
//! by a majority of that configuration or of one that has a voter in common with each of its
//! majorities.

use std::collections::VecDeque;

/// Rounds that are remembered until they are answered; of more, the newest count.
const ROUNDS_MAX: usize = 64;

/// The lease of one leader in one term.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    /// The length, in ticks; 0: there are no leases.
    ticks: u64,
    /// Ticks since this leader was elected.
    now: u64,
    /// Rounds that no majority has answered yet, each with when it was sent.
    sent: VecDeque<(u64, u64)>,
    /// When the newest round was sent that a majority has answered.
    confirmed: Option<u64>,
    /// There is no lease any more in this term.
    ended: bool,
}

impl Lease {
    pub(super) fn new(ticks: u32) -> Lease {
        Lease {
            ticks: u64::from(ticks),
            ..Lease::default()
        }
    }

    pub(super) fn tick(&mut self) {
        self.now += 1;
    }

    /// A round of heartbeats goes out now.
    pub(super) fn sent(&mut self, round: u64) {
        if self.ticks == 0 {
            return;
        }
        if self.sent.len() == ROUNDS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((round, self.now));
    }

    /// A majority has answered all rounds up to this one.
    pub(super) fn confirmed(&mut self, round: u64) {
        while let Some((_, sent)) = self.sent.front().filter(|(first, _)| *first <= round) {
            self.confirmed = Some(*sent);
            self.sent.pop_front();
        }
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn is_valid(&self) -> bool {
        let valid = |sent: u64| self.now - sent < self.ticks;
        !self.ended && self.confirmed.is_some_and(valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_its_round_was_sent() {
        let mut lease = Lease::new(3);
        lease.sent(1);
        lease.tick();
        lease.tick();
        lease.sent(2);
        assert!(!lease.is_valid(), "nobody has answered");
        lease.confirmed(1);
        assert!(lease.is_valid());
        lease.tick();
        assert!(!lease.is_valid(), "three ticks after round 1 was sent");
        lease.confirmed(2);
        assert!(lease.is_valid());
        lease.end();
        lease.sent(3);
        lease.confirmed(3);
        assert!(!lease.is_valid());
    }

    #[test]
    fn without_leases_there_is_never_one() {
        let mut lease = Lease::new(0);
        lease.sent(1);
        lease.confirmed(1);
        assert!(!lease.is_valid());
    }
}

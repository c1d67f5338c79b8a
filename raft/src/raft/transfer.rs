//! Handing leadership over: on request, and when this node should not lead any longer.

use super::Raft;
use crate::effect::{Effect, TransferOutcome};
use crate::message::Message;
use crate::refusal::{NotLeader, TransferError};
use crate::status::Role;
use crate::types::{LogIndex, NodeId, Term};

/// A transfer under way (thesis, 3.10).
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Transfer {
    to: NodeId,
    /// Ticks since it began.
    ticks: u32,
    /// The target has everything and was told to stand.
    told: bool,
}

impl Raft {
    /// Begins to hand leadership over to a voter, or with `None` to the one that is furthest. From
    /// now on proposals are refused. The target is brought up to date, and then told to stand for
    /// election at once. [`Effect::TransferEnded`] tells the end of it, within one election timeout.
    ///
    /// # Errors
    /// The target is no other voter, is not in touch, or lacks too much. Nothing has changed.
    pub fn transfer(&mut self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.role != Role::Leader {
            let leader = self.leader;
            return Err(NotLeader { leader }.into());
        }
        if let Some(to) = self.transferring_to() {
            return Err(TransferError::Transferring { to });
        }
        let to = match to {
            None => self.furthest_voter().ok_or(TransferError::Nobody)?,
            Some(to) => {
                if to == self.config.id || !self.configuration().is_voter(to) {
                    return Err(TransferError::NotAVoter { to });
                }
                self.check_fit(to)?;
                to
            }
        };
        self.transfer = Some(Transfer {
            to,
            ticks: 0,
            told: false,
        });
        Ok(to)
    }

    pub(super) fn transferring_to(&self) -> Option<NodeId> {
        self.transfer.map(|transfer| transfer.to)
    }

    /// The fit voter with the most of the log; of equal ones the one with the lowest id.
    fn furthest_voter(&self) -> Option<NodeId> {
        let voters = self.other_voters();
        let fit = voters
            .iter()
            .filter(|&&voter| self.check_fit(voter).is_ok());
        let matched = |id: &NodeId| self.peers.get(id).map(|progress| progress.match_index);
        fit.copied().reduce(|best, other| {
            if matched(&other) > matched(&best) {
                other
            } else {
                best
            }
        })
    }

    /// At the end of each turn: the target is told to stand as soon as it has everything.
    pub(super) fn drive_transfer(&mut self) {
        let Some(transfer) = self.transfer.filter(|transfer| !transfer.told) else {
            return;
        };
        let matched = self.peers.get(&transfer.to);
        let matched = matched.map_or(LogIndex::ZERO, |progress| progress.match_index);
        if matched == self.log.last() {
            self.tell_to_stand(transfer.to);
            self.transfer = Some(Transfer {
                told: true,
                ..transfer
            });
        }
    }

    /// A transfer that takes too long is given up, and also one whose target lost its vote.
    pub(super) fn tick_transfer(&mut self) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        transfer.ticks += 1;
        let Transfer { to, ticks, .. } = *transfer;
        if ticks >= self.config.election_timeout_ticks_max || !self.configuration().is_voter(to) {
            self.end_transfer(TransferOutcome::Abandoned);
        }
    }

    pub(super) fn end_transfer(&mut self, outcome: TransferOutcome) {
        if let Some(Transfer { to, .. }) = self.transfer.take() {
            self.events.push(Effect::TransferEnded { to, outcome });
        }
    }

    /// Stops leading on its own account, and has the best voter stand at once, so that the others
    /// need not wait for their timeouts.
    pub(super) fn resign(&mut self) {
        assert_eq!(self.role, Role::Leader);
        // So that the others learn of what is committed, first of all of a change of members.
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_heartbeat(peer);
        }
        if let Some(successor) = self.furthest_voter() {
            self.tell_to_stand(successor);
        }
        self.become_follower(self.hard_state.term, None);
    }

    /// From here on no lease of this term is valid: the message may arrive at any time, and those
    /// who vote then do not wait for this leader's lease to end.
    fn tell_to_stand(&mut self, to: NodeId) {
        self.lease.end();
        let term = self.hard_state.term;
        self.send(to, Message::TimeoutNow { term });
    }

    /// The leader wants this node to take over.
    pub(super) fn told_to_stand(&mut self, from: NodeId, term: Term) {
        let is_leader = term == self.hard_state.term && self.leader == Some(from);
        if is_leader && self.may_stand() {
            self.campaign(true);
        }
    }
}

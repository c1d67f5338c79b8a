//! Changes of members: one at a time, in force from the moment they are in the log (thesis, 4).

use super::Raft;
use crate::entry::EntryKind;
use crate::membership::{Configuration, MemberRole, MembershipChange};
use crate::message::Message;
use crate::progress::Progress;
use crate::refusal::{ChangeError, NotLeader, Unfit};
use crate::status::{Membership, PeerStatus, Role};
use crate::types::{LogIndex, NodeId, Term};

impl Raft {
    /// The newest configuration in this node's log, committed or not: the one that counts.
    pub fn configuration(&self) -> &Configuration {
        self.log.configuration().1
    }

    /// The configuration as of an entry; what a manifest stores for a base, or a snapshot brings.
    /// `None` below the base and beyond the end of the log.
    pub fn configuration_at(&self, index: LogIndex) -> Option<&Configuration> {
        self.log.configuration_at(index)
    }

    /// What this leader knows about the other members, in order of their ids; nothing if it does not
    /// lead.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        self.peers.iter().map(|(&id, progress)| PeerStatus {
            id,
            role: progress.role,
            mode: progress.mode,
            matched: progress.match_index,
            silent_ticks: progress.silent_ticks,
        })
    }

    /// Appends an entry by which the members change, and returns its index. The change counts at
    /// once; it lasts if [`Effect::Committed`](crate::Effect::Committed) reaches the index while the
    /// term is still the same.
    ///
    /// A leader that removes or demotes itself leads until the change is committed, and then hands
    /// over to another voter.
    ///
    /// # Errors
    /// The change is impossible, or not possible now. Nothing was appended.
    pub fn change_membership(
        &mut self,
        change: &MembershipChange,
    ) -> Result<LogIndex, ChangeError> {
        if self.role != Role::Leader {
            let leader = self.leader;
            return Err(NotLeader { leader }.into());
        }
        if let Some(to) = self.transferring_to() {
            return Err(ChangeError::Transferring { to });
        }
        if !self.is_serving() && !mutation!(ChangeBeforeTheNoop) {
            return Err(ChangeError::NotServing);
        }
        let (index, configuration) = self.log.configuration();
        if index > self.log.commit() && !mutation!(TwoChangesAtATime) {
            return Err(ChangeError::InProgress { index });
        }
        let changed = configuration.changed(change)?;
        let id = change.member();
        if changed.is_voter(id) && !configuration.is_voter(id) {
            self.check_fit(id)?;
        }
        Ok(self.append_own(EntryKind::Configuration, changed.encode()))
    }

    /// Whether a member is in touch and has nearly all of the log, so that nothing stops for long
    /// when it becomes a voter or the leader.
    pub(super) fn check_fit(&self, id: NodeId) -> Result<(), Unfit> {
        let last = self.log.last();
        let progress = self.peers.get(&id);
        let matched = progress.map_or(LogIndex::ZERO, |progress| progress.match_index);
        let silent_ticks = progress.map_or(u32::MAX, |progress| progress.silent_ticks);
        if silent_ticks >= self.config.election_timeout_ticks_min {
            return Err(Unfit::Silent { id, silent_ticks });
        }
        if matched.0 + self.config.lag_entries_max < last.0 {
            return Err(Unfit::Lagging { id, matched, last });
        }
        Ok(())
    }

    pub(super) fn is_voter(&self) -> bool {
        self.configuration().is_voter(self.config.id)
    }

    /// Whether this node may lead as far as its role goes: it votes, or did so until a change that
    /// is not committed yet. If nobody else holds that change, nobody else can be elected (thesis,
    /// 4.2.2 and figure 4.6). Its own vote counts only if it votes by the newest configuration.
    pub(super) fn is_electable(&self) -> bool {
        let committed = self.log.configuration_at(self.log.commit());
        self.is_voter() || committed.is_some_and(|known| known.is_voter(self.config.id))
    }

    pub(super) fn is_sole_voter(&self) -> bool {
        self.is_voter() && self.configuration().voter_count() == 1
    }

    /// The other voters, ascending.
    pub(super) fn other_voters(&self) -> Vec<NodeId> {
        let voters = self.configuration().voters();
        voters.filter(|&voter| voter != self.config.id).collect()
    }

    pub(super) fn membership(&self) -> Membership {
        if self.is_removed() {
            return Membership::Removed;
        }
        match self.configuration().role(self.config.id) {
            Some(role) => Membership::Member(role),
            None => Membership::Outside,
        }
    }

    /// Whether this node was a member and is known to be none any more, for good.
    pub(super) fn is_removed(&self) -> bool {
        let (index, configuration) = self.log.configuration();
        let left = index <= self.log.commit() && configuration.role(self.config.id).is_none();
        // Of two places in the committed log the later one has the greater (term, index). A
        // configuration of this node's own that is older than where it is no member is history, and
        // one that is not committed and of an older term is void.
        let at = index.max(self.log.base());
        let known = self.log.term(at).map(|term| (term, at));
        let told = self.told_removed.is_some() && self.told_removed >= known;
        self.was_member && (left || told)
    }

    /// The newest configuration may be another one now: a leader has progress for each member, and
    /// everybody remembers whether it was one.
    pub(super) fn configuration_may_have_changed(&mut self) {
        let (_, configuration) = self.log.configuration();
        self.was_member |= configuration.role(self.config.id).is_some();
        if self.role != Role::Leader {
            return;
        }
        self.peers.retain(|&id, _| configuration.role(id).is_some());
        let last = self.log.last();
        for member in configuration.members() {
            if member.id == self.config.id {
                continue;
            }
            let progress = self.peers.entry(member.id);
            let progress = progress.or_insert_with(|| Progress::new(member.role, last));
            progress.role = member.role;
        }
        self.note_matched_by_all();
    }

    /// A leader's commit index went from `before` to what it is now: those that left are told, and
    /// it hands over if it votes no longer itself.
    pub(super) fn configurations_committed(&mut self, before: LogIndex) {
        let up_to = self.log.commit();
        let mut left: Vec<NodeId> = Vec::new();
        for (index, now) in self.log.configurations_between(before, up_to) {
            let earlier = self.log.configuration_at(index.prev());
            let members = earlier.map_or(&[][..], Configuration::members).iter();
            let gone = members.filter(|member| now.role(member.id).is_none());
            left.extend(gone.map(|member| member.id));
        }
        for id in left {
            if id != self.config.id {
                self.tell_removed(id);
            }
        }
        let (index, configuration) = self.log.configuration();
        if index <= up_to && !configuration.is_voter(self.config.id) {
            self.resign();
        }
    }

    /// A node that is no member as far as the log is committed learns it, whatever it asked for: it
    /// may have been down when it was removed.
    pub(super) fn answer_stranger(&mut self, from: NodeId) {
        let commit = self.log.commit();
        let configuration = self.log.configuration_at(commit);
        // A node without members was not added anywhere itself and can tell nobody anything.
        let is_stranger = configuration
            .is_some_and(|known| !known.members().is_empty() && known.role(from).is_none());
        if is_stranger && from != self.config.id {
            self.tell_removed(from);
        }
    }

    fn tell_removed(&mut self, to: NodeId) {
        let commit = self.log.commit();
        if let Some(commit_term) = self.log.term(commit) {
            let term = self.hard_state.term;
            let message = Message::Removed {
                term,
                commit,
                commit_term,
            };
            self.send_after_hard_state(to, message);
        }
    }

    pub(super) fn removal_heard(&mut self, place: (Term, LogIndex)) {
        self.told_removed = self.told_removed.max(Some(place));
        if self.is_removed() && matches!(self.role, Role::PreCandidate | Role::Candidate) {
            self.become_follower(self.hard_state.term, None);
        }
    }

    /// A standby or spare that hears no leader asks the members whether it is one still; it has no
    /// vote to ask for. Nobody answers a member.
    pub(super) fn ask_whether_member(&mut self) {
        let members = self.configuration().members().iter();
        let others: Vec<NodeId> = members
            .filter(|member| member.id != self.config.id && member.role != MemberRole::Spare)
            .map(|member| member.id)
            .collect();
        let term = self.hard_state.term;
        for other in others {
            self.send_after_hard_state(other, Message::HeartbeatReply { term, round: 0 });
        }
    }
}

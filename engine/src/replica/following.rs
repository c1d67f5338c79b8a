//! How the groups of a node's other shards follow the first one's: the same members with the same roles,
//! and a leader where its leader wants it.
//!
//! The first shard's group alone decides who the members are. What it has committed reaches the other
//! shards of each node within the process. Of each group the leader takes the next step, one change at a
//! time, by the rules of its own log: a voter is made of who has caught up with *this* log. A leader whose
//! node is behind with the first shard's log may undo a step of another one; that is put right as soon as
//! it knows more, and no step can lose anything that is committed.

use ringlite_raft::{LogIndex, MemberRole, MembershipChange, NodeId};

use super::member::Member;
use super::{Replica, Status};

/// So many election timeouts lie between the first two attempts of a leader to move its leadership to the
/// same node; then twice as many, and so on.
const ATTEMPT_AGAIN_TIMEOUTS: u64 = 10;
/// And no more than so many.
const ATTEMPT_AGAIN_TIMEOUTS_MAX: u64 = 160;
/// So many pass before a new leader moves its leadership at all: what its node knows of the first shard's
/// leader may be older than the reason for which it was elected.
const SETTLE_TIMEOUTS: u64 = 3;

/// What the first shard's group has decided, as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guidance {
    /// The members, as committed; without this node if it was removed.
    pub members: Vec<Member>,
    /// Who leads it. While nobody is known to, the members may be those of long ago.
    pub leader: Option<NodeId>,
    /// Whether this node is a member no more, and is to lead nothing.
    pub is_removed: bool,
}

/// Tells whether the guidance is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuidanceStamp {
    configuration_index: LogIndex,
    leader: Option<NodeId>,
    is_removed: bool,
}

/// What a replica follows, and how.
#[derive(Debug, Default)]
pub(super) struct Following {
    guidance: Option<Guidance>,
    /// Leadership stays where it is until then, whoever is to have it.
    settled_at: u64,
    /// The last attempt to move it.
    attempt: Option<Attempt>,
}

/// An attempt to move leadership, during which the leader takes no writes.
#[derive(Debug)]
struct Attempt {
    /// `None` for anybody.
    to: Option<NodeId>,
    /// When the next one to the same node may be made.
    again_at: u64,
    /// How many ticks lie between the two.
    pause: u64,
}

impl Replica {
    /// What changes whenever [`Replica::guidance`] does; `None` while the newest change of the members is
    /// not committed, which nobody is to follow.
    pub(crate) fn guidance_stamp(&self) -> Option<GuidanceStamp> {
        let raft = self.raft.status();
        let stamp = GuidanceStamp {
            configuration_index: raft.configuration_index,
            leader: raft.leader,
            is_removed: self.is_removed(),
        };
        (!self.is_change_in_flight()).then_some(stamp)
    }

    /// What the other shards of this node are to follow.
    pub(crate) fn guidance(&self) -> Guidance {
        let raft = self.raft.status();
        let mut members = self.members();
        let mut leader = raft.leader;
        let is_removed = self.is_removed();
        if is_removed {
            members.retain(|member| member.id != raft.id);
            leader = None;
        }
        Guidance {
            members,
            leader,
            is_removed,
        }
    }

    pub(super) fn guided(&mut self, guidance: Guidance) {
        self.following.guidance = Some(guidance);
    }

    /// This node has just been elected.
    pub(super) fn settle_as_leader(&mut self) {
        let timeout = u64::from(self.config.raft.election_timeout_ticks_max);
        self.following.settled_at = self.now + SETTLE_TIMEOUTS * timeout;
        self.following.attempt = None;
    }

    /// With each tick: the next step towards what the first shard has.
    pub(super) fn follow_first_shard(&mut self) {
        let Some(guidance) = &self.following.guidance else {
            return;
        };
        let is_up_to_date = guidance.leader.is_some() || guidance.is_removed;
        if !is_up_to_date
            || !self.serving
            || self.is_flushing()
            || self.is_change_in_flight()
            || self.is_handing_over()
        {
            return;
        }
        let own = self.raft.status().id;
        let members = self.members();
        let waits_for_voter = guidance.members.iter().any(|wanted| {
            let known = members.iter().find(|member| member.id == wanted.id);
            wanted.role == MemberRole::Voter
                && known.is_none_or(|known| known.role != MemberRole::Voter)
        });
        for change in changes_towards(&members, &guidance.members) {
            let leaves = voter_lost_by(&change, &members);
            // As many voters as can be are kept until others take their place.
            let stays =
                |voter| (waits_for_voter && !self.is_silent(voter)) || !self.can_spare(voter);
            if leaves.is_some_and(stays) {
                continue;
            }
            if leaves == Some(own) {
                // The next leader does it.
                if self.raft.configuration().voter_count() > 1 {
                    self.move_leadership(None);
                    return;
                }
                continue;
            }
            // What is not possible now may be so with the next tick.
            if self.raft.change_membership(&change).is_ok() {
                return;
            }
        }
        self.follow_leader();
    }

    /// Whether the other voters can do without this one: those that are in touch are a majority of them.
    fn can_spare(&self, voter: NodeId) -> bool {
        let own = self.raft.status().id;
        let configuration = self.raft.configuration();
        let left: Vec<_> = configuration.voters().filter(|id| *id != voter).collect();
        let here = left
            .iter()
            .filter(|id| **id == own || !self.is_silent(**id));
        here.count() > left.len() / 2
    }

    /// Hands leadership to the node that is to have it, if that can lead.
    fn follow_leader(&mut self) {
        if let Some(wanted) = self.successor() {
            self.move_leadership(Some(wanted));
        }
    }

    /// The other node that is to lead, if it can.
    pub(super) fn successor(&self) -> Option<NodeId> {
        let guidance = self.following.guidance.as_ref()?;
        let wanted = self.wanted_leader(guidance)?;
        let can_lead = wanted != self.raft.status().id
            && self.raft.configuration().is_voter(wanted)
            && !self.is_silent(wanted)
            && self.is_caught_up(wanted);
        can_lead.then_some(wanted)
    }

    /// Begins to hand leadership over, unless that was tried not long ago.
    fn move_leadership(&mut self, to: Option<NodeId>) {
        let timeout = u64::from(self.config.raft.election_timeout_ticks_max);
        let before = self.following.attempt.take_if(|attempt| attempt.to == to);
        let (may_at, pause) = match &before {
            Some(attempt) => (attempt.again_at, attempt.pause * 2),
            None => (0, ATTEMPT_AGAIN_TIMEOUTS * timeout),
        };
        if self.now < may_at.max(self.following.settled_at) {
            self.following.attempt = before;
            return;
        }
        let pause = pause.min(ATTEMPT_AGAIN_TIMEOUTS_MAX * timeout);
        self.following.attempt = Some(Attempt {
            to,
            again_at: self.now + pause,
            pause,
        });
        self.hand_over(None, to);
    }

    fn wanted_leader(&self, guidance: &Guidance) -> Option<NodeId> {
        let first = guidance.leader?;
        if !self.config.spread {
            return Some(first);
        }
        let voters = guidance.members.iter();
        let voters = voters.filter(|member| member.role == MemberRole::Voter);
        let mut voters: Vec<_> = voters.map(|member| member.id).collect();
        voters.sort_unstable();
        let at = voters.iter().position(|voter| *voter == first)?;
        Some(voters[(at + self.config.shard.number as usize) % voters.len()])
    }
}

/// Whether all shards have committed the members, and their roles, that the first one has.
pub(crate) fn all_follow(shards: &[Status]) -> bool {
    let members = |shard: &Status| -> Vec<_> {
        let members = shard.members.iter().map(|status| &status.member);
        let members = members.map(|member| (member.id, member.role, member.incarnation));
        members.collect()
    };
    let wanted = shards.first().map(members);
    let mut shards = shards.iter();
    shards.all(|shard| shard.members_committed && Some(members(shard)) == wanted)
}

/// What leads from `members` to `wanted`, in the order in which it is to be tried: first what adds, then
/// what takes away, the voters last.
fn changes_towards(members: &[Member], wanted: &[Member]) -> Vec<MembershipChange> {
    use MemberRole::{Spare, Standby, Voter};
    let find = |all: &[Member], id| all.iter().find(|member| member.id == id).cloned();
    let mut changes = Vec::new();
    let missing = wanted.iter().filter(|one| find(members, one.id).is_none());
    changes.extend(missing.map(|one| MembershipChange::Add {
        id: one.id,
        role: Spare,
        context: one.context(),
    }));
    let mut promotions = Vec::new();
    let mut demotions = Vec::new();
    for member in members {
        let id = member.id;
        let Some(goal) = find(wanted, id) else {
            demotions.push((member.role == Voter, MembershipChange::Remove { id }));
            continue;
        };
        if ![0, goal.incarnation].contains(&member.incarnation) {
            // Another data directory has its id now, which holds nothing of what this one has voted for
            // and acknowledged: it comes in as anybody does, without a vote.
            demotions.push((member.role == Voter, MembershipChange::Remove { id }));
            continue;
        }
        if goal.context() != member.context() {
            changes.push(MembershipChange::SetContext {
                id,
                context: goal.context(),
            });
        }
        match (member.role, goal.role) {
            // Whoever shall vote is a standby first.
            (Spare, Voter | Standby) => {
                promotions.push(MembershipChange::SetRole { id, role: Standby });
            }
            (Standby, Voter) => promotions.push(MembershipChange::SetRole { id, role: Voter }),
            (from, role) if from != role => {
                demotions.push((from == Voter, MembershipChange::SetRole { id, role }));
            }
            _ => {}
        }
    }
    changes.append(&mut promotions);
    demotions.sort_by_key(|(is_voter, _)| *is_voter);
    changes.extend(demotions.into_iter().map(|(_, change)| change));
    changes
}

/// The voter that votes no longer after a change.
fn voter_lost_by(change: &MembershipChange, members: &[Member]) -> Option<NodeId> {
    let id = match change {
        MembershipChange::Remove { id } => *id,
        MembershipChange::SetRole { id, role } if *role != MemberRole::Voter => *id,
        _ => return None,
    };
    let mut voters = members
        .iter()
        .filter(|member| member.role == MemberRole::Voter);
    voters.find(|voter| voter.id == id).map(|voter| voter.id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(id: u64, role: MemberRole, weight: u64) -> Member {
        of_directory(id, role, weight, id)
    }

    fn of_directory(id: u64, role: MemberRole, weight: u64, incarnation: u64) -> Member {
        Member {
            id: NodeId(id),
            role,
            assigned: None,
            address: format!("host:{id}"),
            incarnation,
            failure_domain: 0,
            weight,
        }
    }

    fn apply(members: &mut Vec<Member>, change: &MembershipChange) {
        let context = |member: &Member, context: &bytes::Bytes| {
            Member::of(&ringlite_raft::Member {
                id: member.id,
                role: member.role,
                context: context.clone(),
            })
            .unwrap()
        };
        match change {
            MembershipChange::Add {
                id,
                role,
                context: text,
            } => {
                members.push(context(&member(id.0, *role, 0), text));
            }
            MembershipChange::Remove { id } => members.retain(|member| member.id != *id),
            MembershipChange::SetRole { id, role } => {
                members
                    .iter_mut()
                    .find(|member| member.id == *id)
                    .unwrap()
                    .role = *role;
            }
            MembershipChange::SetContext { id, context: text } => {
                let member = members.iter_mut().find(|member| member.id == *id).unwrap();
                *member = context(member, text);
            }
        }
        members.sort_by_key(|member| member.id);
    }

    fn some_members() -> impl Strategy<Value = Vec<Member>> {
        let role = prop_oneof![
            Just(MemberRole::Voter),
            Just(MemberRole::Standby),
            Just(MemberRole::Spare)
        ];
        let one = (role, 0..2_u64, 0..3_u64);
        prop::collection::btree_map(1..6_u64, one, 1..6).prop_map(|members| {
            let members = members.into_iter();
            members
                .map(|(id, (role, weight, directory))| of_directory(id, role, weight, directory))
                .collect()
        })
    }

    proptest! {
        /// Whatever the members are, the first change of each round leads to those that are wanted, a
        /// spare never becomes a voter at once, and no directory gets the place of another one.
        #[test]
        fn it_ends_where_it_shall(mut members in some_members(), wanted in some_members()) {
            for _ in 0..100 {
                let changes = changes_towards(&members, &wanted);
                let Some(change) = changes.first() else {
                    prop_assert_eq!(members, wanted);
                    return Ok(());
                };
                let before = members.clone();
                apply(&mut members, change);
                for member in &members {
                    let was = before.iter().find(|was| was.id == member.id);
                    let was_role = was.map_or(MemberRole::Spare, |was| was.role);
                    prop_assert!((was_role, member.role) != (MemberRole::Spare, MemberRole::Voter));
                    let was_incarnation = was.map_or(0, |was| was.incarnation);
                    prop_assert!([0, member.incarnation].contains(&was_incarnation));
                }
            }
            prop_assert!(false, "it comes to no end");
        }
    }

    #[test]
    fn voters_go_last() {
        let members = [
            member(1, MemberRole::Voter, 0),
            member(2, MemberRole::Voter, 0),
        ];
        let wanted = [
            member(1, MemberRole::Voter, 0),
            member(3, MemberRole::Voter, 0),
        ];
        let changes = changes_towards(&members, &wanted);
        assert!(
            matches!(
                changes[..],
                [
                    MembershipChange::Add {
                        id: NodeId(3),
                        role: MemberRole::Spare,
                        ..
                    },
                    MembershipChange::Remove { id: NodeId(2) },
                ]
            ),
            "{changes:?}"
        );
        assert_eq!(voter_lost_by(&changes[1], &members), Some(NodeId(2)));
        assert_eq!(voter_lost_by(&changes[0], &members), None);
    }
}

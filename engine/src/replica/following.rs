//! How the groups of a node's other shards follow the first one's: the same members with the same roles,
//! and a leader where its leader wants it.
//!
//! The first shard's group alone decides who the members are. What it has committed reaches the other
//! shards of each node within the process. Of each group the leader takes the next step, one change at a
//! time, by the rules of its own log: a voter is made of who has caught up with *this* log. A leader whose
//! node is behind with the first shard's log may undo a step of another one; that is put right as soon as
//! it knows more, and no step can lose anything that is committed.

use ringlite_raft::{LogIndex, MemberRole, MembershipChange, NodeId};

use super::Replica;
use super::member::Member;

/// So many election timeouts lie between two attempts to move leadership to the same node.
const ATTEMPT_AGAIN_TIMEOUTS: u64 = 10;

/// What the first shard's group has decided, as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guidance {
    /// The members, as committed; without this node if it was removed.
    pub members: Vec<Member>,
    /// Who leads it.
    pub leader: Option<NodeId>,
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
    /// Leadership stays where it is until then.
    stays_until: u64,
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
        if self.is_removed() {
            members.retain(|member| member.id != raft.id);
            leader = None;
        }
        Guidance { members, leader }
    }

    pub(super) fn guided(&mut self, guidance: Guidance) {
        self.following = Following {
            guidance: Some(guidance),
            stays_until: self.now,
        };
    }

    /// With each tick: the next step towards what the first shard has.
    pub(super) fn follow_first_shard(&mut self) {
        let Some(guidance) = &self.following.guidance else {
            return;
        };
        if !self.serving
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
                    self.hand_over(None, None);
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
        let wanted = self
            .following
            .guidance
            .as_ref()
            .and_then(|guidance| self.wanted_leader(guidance));
        let own = self.raft.status().id;
        let Some(wanted) = wanted.filter(|wanted| *wanted != own) else {
            return;
        };
        let can_lead = self.raft.configuration().is_voter(wanted)
            && !self.is_silent(wanted)
            && self.is_caught_up(wanted);
        if can_lead && self.now >= self.following.stays_until {
            let timeout = u64::from(self.config.raft.election_timeout_ticks_max);
            self.following.stays_until = self.now + ATTEMPT_AGAIN_TIMEOUTS * timeout;
            self.hand_over(None, Some(wanted));
        }
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
        Member {
            id: NodeId(id),
            role,
            assigned: None,
            address: format!("host:{id}"),
            incarnation: id,
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
        prop::collection::btree_map(1..6_u64, (role, 0..2_u64), 1..6).prop_map(|members| {
            let members = members.into_iter();
            members
                .map(|(id, (role, weight))| member(id, role, weight))
                .collect()
        })
    }

    proptest! {
        /// Whatever the members are, the first change of each round leads to those that are wanted, and
        /// a spare never becomes a voter at once.
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
                    let was = was.map_or(MemberRole::Spare, |was| was.role);
                    prop_assert!((was, member.role) != (MemberRole::Spare, MemberRole::Voter));
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

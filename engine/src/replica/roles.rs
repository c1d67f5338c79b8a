//! Which member should do what: a decision from the leader's view of all members, one change at a
//! time.
//!
//! The leader keeps the numbers of voters and standbys at their targets. A voter that is gone for
//! long is replaced: **first a standby is promoted, then the voter that is gone is demoted**. The
//! other order would pass through a smaller set of voters, in which the return of the one that is gone
//! could not help if a second one failed meanwhile; and a majority of the larger set is there whenever
//! one of the smaller set was, since the newcomer is.
//!
//! A second voter alone would make things worse than one: two must both be there for every commit. So
//! a lone voter stays alone until two others can follow.
//!
//! Among equals that one becomes a voter, or stays one, whose failure domain has no other voter, then
//! the one with the lower weight, then the one with the lower id.

use ringlite_raft::{MemberRole, NodeId};

/// How many members should be what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleTargets {
    /// Voters, at least 1.
    pub voters: usize,
    /// Standbys.
    pub standbys: usize,
}

impl Default for RoleTargets {
    fn default() -> Self {
        Self {
            voters: 3,
            standbys: 3,
        }
    }
}

/// What the leader knows of a member, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: NodeId,
    pub(super) role: MemberRole,
    pub(super) failure_domain: u64,
    pub(super) weight: u64,
    pub(super) presence: Presence,
    /// Whether it holds so much of the log that it may vote.
    pub(super) is_caught_up: bool,
    /// Its role stays as it is.
    pub(super) is_leader: bool,
    /// What an operator wants it to do: that, and nothing else, as long as it is there.
    pub(super) assigned: Option<MemberRole>,
}

impl Candidate {
    /// Whether its role is the leader's choice.
    fn is_movable(&self) -> bool {
        !self.is_leader && self.assigned.is_none()
    }
}

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Presence {
    /// It was heard of just now.
    Here,
    /// It was not, but it may come back.
    Silent,
    /// It was silent for so long that another one shall do its work.
    Gone,
}

/// The next change of a role, if one is due.
pub(super) fn next_change(
    members: &[Candidate],
    targets: RoleTargets,
) -> Option<(NodeId, MemberRole)> {
    let view = View { members };
    let missing = targets.voters.saturating_sub(view.lasting(Voter));
    keep_assigned(view)
        .or_else(|| promote_to_voter(view, missing))
        .or_else(|| demote_voter(view, targets.voters))
        // Whoever shall vote is a standby first.
        .or_else(|| keep_standbys(view, targets.standbys + missing))
}

use MemberRole::{Spare, Standby, Voter};

/// The next step of a member that is there to the role that it was assigned. It may have lost that role
/// while it was gone.
fn keep_assigned(view: View<'_>) -> Option<(NodeId, MemberRole)> {
    let mut others = view
        .members
        .iter()
        .filter(|member| !member.is_leader && member.presence == Presence::Here);
    others.find_map(|member| {
        let assigned = member.assigned.filter(|role| *role != member.role)?;
        let next = match (member.role, assigned) {
            // Whoever shall vote is a standby first.
            (Spare, Voter) => Standby,
            (Standby, Voter) => return member.is_caught_up.then_some((member.id, Voter)),
            (Voter, _) => return view.can_spare(member).then_some((member.id, assigned)),
            _ => assigned,
        };
        Some((member.id, next))
    })
}

fn promote_to_voter(view: View<'_>, missing: usize) -> Option<(NodeId, MemberRole)> {
    let ready: Vec<_> = view
        .movable(Standby, Presence::Here)
        .filter(|member| member.is_caught_up)
        .collect();
    let is_alone = view.of(Voter).count() == 1;
    if missing == 0 || (is_alone && missing > 1 && ready.len() < 2) {
        return None;
    }
    let best = ready.into_iter().min_by_key(|member| view.rank(member))?;
    Some((best.id, Voter))
}

fn demote_voter(view: View<'_>, target: usize) -> Option<(NodeId, MemberRole)> {
    if view.lasting(Voter) < target {
        return None;
    }
    let mut gone = view
        .of(Voter)
        .filter(|member| member.presence == Presence::Gone);
    let demoted = match gone.next() {
        Some(gone) => (gone, Spare),
        None if view.of(Voter).count() > target => {
            let worst = view.worst(Voter)?;
            (worst, Standby)
        }
        None => return None,
    };
    view.can_spare(demoted.0)
        .then_some((demoted.0.id, demoted.1))
}

fn keep_standbys(view: View<'_>, target: usize) -> Option<(NodeId, MemberRole)> {
    let lasting = view.lasting(Standby);
    if lasting < target {
        let spares = view.movable(Spare, Presence::Here);
        let best = spares.min_by_key(|member| view.rank(member))?;
        return Some((best.id, Standby));
    }
    let mut gone = view.movable(Standby, Presence::Gone);
    if let Some(gone) = gone.next() {
        return Some((gone.id, Spare));
    }
    if lasting > target {
        return Some((view.worst(Standby)?.id, Spare));
    }
    None
}

#[derive(Clone, Copy)]
struct View<'a> {
    members: &'a [Candidate],
}

impl<'a> View<'a> {
    fn of(self, role: MemberRole) -> impl Iterator<Item = &'a Candidate> {
        self.members
            .iter()
            .filter(move |member| member.role == role)
    }

    /// How many members in a role are not gone.
    fn lasting(self, role: MemberRole) -> usize {
        self.of(role)
            .filter(|member| member.presence != Presence::Gone)
            .count()
    }

    fn movable(self, role: MemberRole, presence: Presence) -> impl Iterator<Item = &'a Candidate> {
        self.of(role)
            .filter(move |member| member.is_movable() && member.presence == presence)
    }

    /// Whether the other voters can do without this one. Those that are silent may be as good as gone:
    /// the others must be a majority without them.
    fn can_spare(self, voter: &Candidate) -> bool {
        let here = |member: &&Candidate| member.presence == Presence::Here && member.id != voter.id;
        let left = self.of(Voter).count() - 1;
        self.of(Voter).filter(here).count() > left / 2
    }

    /// The less, the better is a member as a voter.
    fn rank(self, member: &Candidate) -> (bool, u64, NodeId) {
        let shares_domain = self.of(Voter).any(|voter| {
            voter.id != member.id
                && voter.presence != Presence::Gone
                && voter.failure_domain == member.failure_domain
        });
        (shares_domain, member.weight, member.id)
    }

    /// Whom to move down where there are too many: one that is silent rather than one that is here.
    fn worst(self, role: MemberRole) -> Option<&'a Candidate> {
        let movable = self.of(role).filter(|member| member.is_movable());
        movable.max_by_key(|member| (member.presence, self.rank(member)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGETS: RoleTargets = RoleTargets {
        voters: 3,
        standbys: 3,
    };

    fn member(id: u64, role: MemberRole) -> Candidate {
        Candidate {
            id: NodeId(id),
            role,
            failure_domain: 0,
            weight: 0,
            presence: Presence::Here,
            is_caught_up: true,
            // Node 1 leads.
            is_leader: id == 1,
            assigned: None,
        }
    }

    /// `V`, `S` and `P` are a voter, a standby and a spare from node 1 on; `s` is a standby that has
    /// not caught up. A `?` behind one means that it is silent, a `!` that it is gone.
    fn cluster(text: &str) -> Vec<Candidate> {
        let mut members: Vec<Candidate> = Vec::new();
        for letter in text.chars() {
            let id = members.len() as u64 + 1;
            match letter {
                'V' => members.push(member(id, Voter)),
                'S' => members.push(member(id, Standby)),
                'P' => members.push(member(id, Spare)),
                's' => members.push(Candidate {
                    is_caught_up: false,
                    ..member(id, Standby)
                }),
                '?' => members.last_mut().unwrap().presence = Presence::Silent,
                '!' => members.last_mut().unwrap().presence = Presence::Gone,
                _ => panic!("{letter}"),
            }
        }
        members
    }

    #[test]
    fn the_table() {
        for (members, change) in [
            ("V", None),
            // A newcomer catches up, and waits for a third one.
            ("VP", Some((2, Standby))),
            ("VS", None),
            ("VSs", None),
            ("VSS", Some((2, Voter))),
            ("VVS", Some((3, Voter))),
            ("VVs", None),
            ("VVV", None),
            // Somebody is gone: one comes first, then one goes.
            ("VVV?S", None),
            ("VVV!S", Some((4, Voter))),
            ("VVV!VS", Some((3, Spare))),
            ("VVV!", None),
            ("VVV!s", None),
            ("VVV!S?", None),
            ("VVV!P", Some((4, Standby))),
            // It is back, and is of use again.
            ("VVVP", Some((4, Standby))),
            // Too many of them.
            ("VVVV", Some((4, Standby))),
            ("VVVV?", Some((4, Standby))),
            ("VVV?V", Some((3, Standby))),
            ("VVVV?V?", Some((5, Standby))),
            ("VVVSSSS", Some((7, Spare))),
            ("VVVSSS!S", Some((6, Spare))),
            ("VVVSS!P", Some((6, Standby))),
            // None of those that are here can be spared.
            ("VVVVV?V?", Some((6, Standby))),
            ("VV?V?", None),
        ] {
            let found = next_change(&cluster(members), TARGETS);
            let wanted = change.map(|(id, role)| (NodeId(id), role));
            assert_eq!(found, wanted, "{members}");
        }
    }

    #[test]
    fn ties_are_broken_by_domain_then_weight_then_id() {
        let mut members = cluster("VVSSS");
        for (at, domain, weight) in [(1, 1, 0), (2, 1, 0), (3, 2, 9), (4, 2, 5)] {
            members[at].failure_domain = domain;
            members[at].weight = weight;
        }
        // Node 3 shares its domain with node 2, and node 5 weighs less than node 4.
        assert_eq!(next_change(&members, TARGETS), Some((NodeId(5), Voter)));
        members[4].role = Voter;
        members[2].role = Voter;
        // Nodes 2 and 3 share a domain.
        assert_eq!(next_change(&members, TARGETS), Some((NodeId(3), Standby)));
    }

    #[test]
    fn what_an_operator_has_assigned_stays_and_comes_back() {
        for (members, id, assigned, change) in [
            ("VVVV", 4, Voter, Some((3, Standby))),
            ("VVS", 3, Standby, None),
            ("VVP", 3, Spare, None),
            // It was replaced while it was gone, and is back: it votes again, and then another one goes.
            ("VVVP", 4, Voter, Some((4, Standby))),
            ("VVVS", 4, Voter, Some((4, Voter))),
            ("VVVs", 4, Voter, None),
            ("VVV!SS", 3, Voter, Some((4, Voter))),
            ("VVV!VS", 3, Voter, Some((3, Spare))),
            ("VVVSSSS", 7, Standby, Some((6, Spare))),
            // A leader before this one did not get to the end of it.
            ("VVV", 3, Spare, Some((3, Spare))),
            ("VV?V", 3, Spare, None),
            ("VVVP", 4, Standby, Some((4, Standby))),
            // The leader itself stays.
            ("VVV", 1, Standby, None),
        ] {
            let mut found = cluster(members);
            found[id - 1].assigned = Some(assigned);
            let wanted = change.map(|(id, role)| (NodeId(id), role));
            assert_eq!(
                next_change(&found, TARGETS),
                wanted,
                "{members}: {id} is to be a {assigned}"
            );
        }
    }

    fn any_member(id: u64) -> impl Strategy<Value = Candidate> {
        let role = prop_oneof![Just(Voter), Just(Standby), Just(Spare)];
        let presence = prop_oneof![
            3 => Just(Presence::Here),
            1 => Just(Presence::Silent),
            1 => Just(Presence::Gone),
        ];
        let assigned = prop_oneof![
            6 => Just(None),
            1 => Just(Some(Voter)),
            1 => Just(Some(Standby)),
            1 => Just(Some(Spare)),
        ];
        let numbers = (0..3_u64, 0..3_u64, any::<bool>());
        (role, presence, assigned, numbers).prop_map(move |(role, presence, assigned, numbers)| {
            let (failure_domain, weight, is_caught_up) = numbers;
            Candidate {
                failure_domain,
                weight,
                presence,
                is_caught_up,
                assigned,
                ..member(id, role)
            }
        })
    }

    fn any_cluster() -> impl Strategy<Value = Vec<Candidate>> {
        (0..9_u64).prop_flat_map(|others| {
            let others: Vec<_> = (0..others).map(|id| any_member(id + 2)).collect();
            others.prop_map(|mut members| {
                members.insert(0, member(1, Voter));
                members
            })
        })
    }

    fn here(members: &[Candidate]) -> usize {
        let voters = View { members }.of(Voter);
        voters
            .filter(|member| member.presence == Presence::Here)
            .count()
    }

    fn has_majority(members: &[Candidate]) -> bool {
        here(members) > View { members }.of(Voter).count() / 2
    }

    proptest! {
        #[test]
        fn changes_keep_a_majority_and_come_to_an_end(
            mut members in any_cluster(),
            voters in 1..6_usize,
            standbys in 0..4_usize,
        ) {
            let targets = RoleTargets { voters, standbys };
            for _ in 0..40 {
                let Some((id, role)) = next_change(&members, targets) else {
                    break;
                };
                let had_majority = has_majority(&members);
                let at = members.iter().position(|member| member.id == id).unwrap();
                prop_assert!(!members[at].is_leader);
                if let Some(assigned) = members[at].assigned {
                    // It is on its way there, or a voter that is gone.
                    let is_gone = members[at].presence == Presence::Gone;
                    prop_assert!(members[at].role != assigned || (is_gone && role == Spare));
                }
                if role == Voter {
                    prop_assert_eq!(members[at].presence, Presence::Here);
                    prop_assert!(members[at].is_caught_up);
                    prop_assert_eq!(members[at].role, Standby);
                }
                members[at].role = role;
                prop_assert!(has_majority(&members) || !had_majority);
            }
            prop_assert_eq!(next_change(&members, targets), None, "{:?}", members);
            // What could be a voter is one, if voters are missing.
            let view = View { members: &members };
            let ready = view.movable(Standby, Presence::Here).filter(|member| member.is_caught_up);
            let missing = view.lasting(Voter) < voters;
            prop_assert!(!missing || ready.count() < 2);
        }
    }
}

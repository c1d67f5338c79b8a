//! The members of the cluster, as the leader changes them: what is asked of it, and what keeps the
//! numbers of voters and standbys.
//!
//! A request is a goal. While it is not reached, the next change towards it is proposed as soon as no
//! other change is under way; so a goal that takes several changes, and one that is asked for again
//! after a change of leaders, need no memory of what was done.

use ringlite_raft::{ChangeError, LogIndex, MemberRole, Membership, MembershipChange, NodeId};

use super::member::{ADDRESS_BYTES_MAX, Member};
use super::request::{MemberRequest, Reply, RequestId};
use super::roles::{Candidate, Presence, next_change};
use super::{Effect, Replica};
use crate::error::Error;

/// How many requests may be under way.
const GOALS_MAX: usize = 64;
/// Ids that the cluster chooses begin behind this. The index of the entry that adds the member is
/// added, so that no id is ever chosen twice; below are the ids that operators choose.
const CHOSEN_IDS_BEHIND: u64 = 1_000;

/// What a client waits for.
#[derive(Debug)]
struct Goal {
    request: RequestId,
    wanted: MemberRequest,
    asked_at: u64,
    deadline: u64,
    /// The member that has been made for it.
    member: Option<NodeId>,
}

/// The leader's work on the members.
#[derive(Debug, Default)]
pub(super) struct MemberWork {
    goals: Vec<Goal>,
}

/// What a goal needs next.
enum Step {
    Done(Reply),
    Change(MembershipChange),
    /// Something has to happen first, such as catching up.
    Wait,
}

/// A member, and what this node knows of its progress.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The member.
    pub member: Member,
    /// What it is known to hold durably; `None` on a node that does not lead.
    pub matched: Option<LogIndex>,
    /// For how many ticks the leader has not heard of it; `None` on a node that does not lead.
    pub silent_ticks: Option<u64>,
}

impl Replica {
    /// All members by the newest configuration in this node's log. A node that has just joined knows
    /// those that it was told of.
    pub fn members(&self) -> Vec<Member> {
        let configuration = self.raft.configuration();
        let members = configuration.members().iter();
        members.map(|member| self.described(member)).collect()
    }

    /// The members with what this node knows of their progress.
    pub fn member_statuses(&self) -> Vec<MemberStatus> {
        let raft = self.raft.status();
        let leads = raft.leader == Some(raft.id);
        let status = |member: Member| {
            let is_self = member.id == raft.id;
            let peer = self.raft.peers().find(|peer| peer.id == member.id);
            MemberStatus {
                matched: match peer {
                    Some(peer) => Some(peer.matched),
                    None => (is_self && leads).then_some(raft.durable),
                },
                silent_ticks: match peer {
                    Some(peer) => Some(u64::from(peer.silent_ticks)),
                    None => (is_self && leads).then_some(0),
                },
                member,
            }
        };
        self.members().into_iter().map(status).collect()
    }

    /// This node as the configuration has it.
    pub(crate) fn own_member(&self) -> Option<Member> {
        let configuration = self.raft.configuration();
        let member = configuration.member(self.raft.status().id)?;
        Some(self.described(member))
    }

    /// Whether this node was removed from the cluster.
    pub(crate) fn is_removed(&self) -> bool {
        self.raft.status().membership == Membership::Removed
    }

    /// A member without a context of ours, as tests make them, is described by the settings.
    fn described(&self, member: &ringlite_raft::Member) -> Member {
        Member::of(member).unwrap_or_else(|| {
            let mut known = self.config.members.iter();
            let known = known.find(|known| known.id == member.id);
            Member {
                id: member.id,
                role: member.role,
                address: known.map_or(String::new(), |known| known.address.clone()),
                // It is no place that waits for somebody.
                incarnation: u64::MAX,
                failure_domain: 0,
                weight: 0,
                assigned: None,
            }
        })
    }

    /// The members changed: the runtime shall know whom to talk to.
    pub(super) fn tell_members(&mut self) {
        let members = self.members();
        self.effects.push_back(Effect::SetMembers { members });
    }

    /// Takes a request about the members.
    pub(super) fn change_members(&mut self, request: RequestId, wanted: MemberRequest) {
        if let MemberRequest::Transfer { to } = wanted {
            self.hand_over(Some(request), to);
            return;
        }
        if self.member_work.goals.len() >= GOALS_MAX {
            let what = "as many changes of members as may wait are waiting";
            self.refuse(request, Error::Busy { what });
            return;
        }
        self.member_work.goals.push(Goal {
            request,
            wanted,
            asked_at: self.now,
            deadline: self.now + self.config.member_wait_ticks,
            member: None,
        });
        self.drive_members();
    }

    /// Leadership is lost: whoever waits may ask the next leader.
    pub(super) fn forget_member_work(&mut self) -> Vec<RequestId> {
        let work = std::mem::take(&mut self.member_work);
        work.goals.into_iter().map(|goal| goal.request).collect()
    }

    /// Goes on with what is wanted, and answers what is reached. Called with each tick, and whenever
    /// something was committed.
    pub(super) fn drive_members(&mut self) {
        if !self.serving || self.is_flushing() {
            return;
        }
        let mut goals = std::mem::take(&mut self.member_work.goals);
        goals.retain_mut(|goal| self.pursue(goal));
        goals.append(&mut self.member_work.goals);
        self.member_work.goals = goals;
    }

    /// Takes the next step to a goal; false if it has its answer.
    fn pursue(&mut self, goal: &mut Goal) -> bool {
        if self.is_change_in_flight() {
            return true;
        }
        let id = goal.request;
        if self.is_leaders_exit(&goal.wanted) && self.now < goal.deadline {
            // The next leader does it, so that no write is caught in the middle: whoever asks hears
            // "not leader" when this one leads no longer.
            if !self.is_handing_over() {
                self.hand_over(None, None);
            }
            return true;
        }
        match self.next_step(goal) {
            Ok(Step::Done(reply)) => self.answer_confirmed(id, Ok(reply)),
            Ok(Step::Change(change)) => match self.raft.change_membership(&change) {
                Ok(_) => return true,
                Err(error) if may_pass(&error) && self.now < goal.deadline => return true,
                Err(ChangeError::NotLeader(_)) => self.refuse(id, self.not_leader()),
                Err(error) => self.answer_from_log(id, refused(error.to_string())),
            },
            Ok(Step::Wait) if self.now < goal.deadline => return true,
            Ok(Step::Wait) => {
                let what = "the member has not caught up yet";
                self.refuse(id, Error::Busy { what });
            }
            Err(error) => self.answer_from_log(id, error),
        }
        false
    }

    /// Whether this leader itself is to vote no longer, and others could lead.
    fn is_leaders_exit(&self, wanted: &MemberRequest) -> bool {
        let leaves = match wanted {
            MemberRequest::Remove { id } => *id,
            MemberRequest::Assign {
                id,
                role: Some(MemberRole::Standby | MemberRole::Spare),
            } => *id,
            _ => return false,
        };
        leaves == self.raft.status().id && self.raft.configuration().voter_count() > 1
    }

    /// Whether a change is in the log and not committed. There is one at a time.
    pub(super) fn is_change_in_flight(&self) -> bool {
        let raft = self.raft.status();
        raft.configuration_index > raft.commit && !mutation!(TwoChangesAtATime)
    }

    fn next_step(&self, goal: &mut Goal) -> Result<Step, Error> {
        let members = self.members();
        let find = |id: NodeId| members.iter().find(|member| member.id == id);
        match &goal.wanted {
            MemberRequest::Join { .. } => self.step_to_join(goal, &members),
            MemberRequest::Add { id, address } => {
                if let Some(made) = goal.member
                    && find(made).is_some()
                {
                    return Ok(Step::Done(Reply::Done));
                }
                check_address(address)?;
                if let Some(other) = members
                    .iter()
                    .find(|member| Some(member.id) == *id || member.address == *address)
                {
                    return Err(refused(format!(
                        "{} is a member already",
                        other.node_address()
                    )));
                }
                let member = Member {
                    id: id.unwrap_or_else(|| self.choose_id(&members)),
                    role: MemberRole::Spare,
                    address: address.clone(),
                    incarnation: 0,
                    failure_domain: 0,
                    weight: 0,
                    assigned: None,
                };
                goal.member = Some(member.id);
                Ok(Step::Change(addition(&member)))
            }
            MemberRequest::Assign { id, role } => {
                let member = find(*id).ok_or_else(|| no_member(*id))?;
                if member.assigned != *role {
                    // First, so that a leader that comes in between does not undo the rest.
                    let assigned = Member {
                        assigned: *role,
                        ..member.clone()
                    };
                    let context = assigned.context();
                    return Ok(Step::Change(MembershipChange::SetContext {
                        id: *id,
                        context,
                    }));
                }
                Ok(role.map_or(Step::Done(Reply::Done), |role| {
                    self.step_to_role(member, role)
                }))
            }
            MemberRequest::Remove { id } => {
                if find(*id).is_some() {
                    goal.member = Some(*id);
                    return Ok(Step::Change(MembershipChange::Remove { id: *id }));
                }
                match goal.member {
                    Some(_) => Ok(Step::Done(Reply::Done)),
                    None => Err(no_member(*id)),
                }
            }
            MemberRequest::Transfer { .. } => unreachable!("a transfer is no goal"),
        }
    }

    fn step_to_role(&self, member: &Member, role: MemberRole) -> Step {
        let id = member.id;
        if member.role == role {
            return Step::Done(Reply::Done);
        }
        if role != MemberRole::Voter {
            return Step::Change(MembershipChange::SetRole { id, role });
        }
        if member.role == MemberRole::Spare {
            let role = MemberRole::Standby;
            return Step::Change(MembershipChange::SetRole { id, role });
        }
        if self.is_caught_up(id) {
            Step::Change(MembershipChange::SetRole { id, role })
        } else {
            Step::Wait
        }
    }

    fn step_to_join(&self, goal: &Goal, members: &[Member]) -> Result<Step, Error> {
        let MemberRequest::Join {
            id,
            incarnation,
            address,
            failure_domain,
            weight,
        } = &goal.wanted
        else {
            unreachable!("it is asked of those who join");
        };
        let known = members
            .iter()
            .find(|member| member.incarnation == *incarnation);
        let reserved = members.iter().find(|member| {
            member.incarnation == 0 && id.map_or(member.address == *address, |id| id == member.id)
        });
        if let Some(member) = known.or(reserved) {
            let mut changed = Member {
                incarnation: *incarnation,
                failure_domain: failure_domain.unwrap_or(member.failure_domain),
                weight: weight.unwrap_or(member.weight),
                ..member.clone()
            };
            if !address.is_empty() {
                check_address(address)?;
                changed.address.clone_from(address);
            }
            if changed == *member {
                return Ok(Step::Done(Reply::Joined { id: member.id }));
            }
            let context = changed.context();
            let id = member.id;
            return Ok(Step::Change(MembershipChange::SetContext { id, context }));
        }
        check_address(address)?;
        if let Some(other) = id.and_then(|id| members.iter().find(|member| member.id == id)) {
            return Err(refused(format!(
                "{} is a member with another data directory; leave --id out to take its place as a new \
                 member",
                other.node_address()
            )));
        }
        // Whoever had the address has lost its disk: it cannot come back, and must not vote as if it
        // remembered.
        if let Some(before) = members.iter().find(|member| member.address == *address) {
            let patience = 2 * u64::from(self.config.raft.election_timeout_ticks_max);
            if !self.is_silent(before.id) {
                if self.now < goal.asked_at + patience {
                    return Ok(Step::Wait);
                }
                return Err(refused(format!(
                    "{} is there; give each node an address of its own",
                    before.node_address()
                )));
            }
            let id = before.id;
            return Ok(Step::Change(MembershipChange::Remove { id }));
        }
        Ok(Step::Change(addition(&Member {
            id: id.unwrap_or_else(|| self.choose_id(members)),
            role: MemberRole::Spare,
            address: address.clone(),
            incarnation: *incarnation,
            failure_domain: failure_domain.unwrap_or(0),
            weight: weight.unwrap_or(0),
            assigned: None,
        })))
    }

    /// An id that no node has ever been given: that of the entry which will bring it.
    fn choose_id(&self, members: &[Member]) -> NodeId {
        let mut id = NodeId(CHOSEN_IDS_BEHIND + self.raft.status().last.next().0);
        while members.iter().any(|member| member.id == id) {
            id.0 += 1;
        }
        id
    }

    pub(super) fn is_caught_up(&self, id: NodeId) -> bool {
        let raft = self.raft.status();
        let behind_max = self.config.raft.lag_entries_max;
        let mut peers = self.raft.peers();
        let peer = peers.find(|peer| peer.id == id);
        peer.is_some_and(|peer| peer.matched.0 + behind_max >= raft.last.0)
    }

    /// Whether a member has said nothing for as long as it takes to elect another leader.
    pub(super) fn is_silent(&self, id: NodeId) -> bool {
        let mut peers = self.raft.peers();
        let peer = peers.find(|peer| peer.id == id);
        peer.is_some_and(|peer| peer.silent_ticks >= self.config.raft.election_timeout_ticks_min)
    }

    /// With each tick: keeps the numbers of voters and standbys.
    pub(super) fn keep_roles(&mut self) {
        let can_change = (self.serving || mutation!(ChangeBeforeTheNoop))
            && !self.is_flushing()
            && !self.is_change_in_flight()
            && !self.is_handing_over()
            && self.member_work.goals.is_empty();
        // The least that there can be to do takes two.
        if !can_change || self.raft.configuration().members().len() < 2 {
            return;
        }
        let candidates = self.candidates();
        if let Some((id, role)) = next_change(&candidates, self.config.roles) {
            let change = MembershipChange::SetRole { id, role };
            // What is not possible now may be so with the next tick.
            drop(self.raft.change_membership(&change));
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let own = self.raft.status().id;
        let presence = |id: NodeId| {
            let mut peers = self.raft.peers();
            let silent = match peers.find(|peer| peer.id == id) {
                _ if id == own => 0,
                Some(peer) => u64::from(peer.silent_ticks),
                None => u64::MAX,
            };
            if silent >= self.config.voter_gone_ticks {
                Presence::Gone
            } else if silent >= u64::from(self.config.raft.election_timeout_ticks_min) {
                Presence::Silent
            } else {
                Presence::Here
            }
        };
        let members = self.members().into_iter();
        // Nobody has taken the place of one without an incarnation.
        let taken = members.filter(|member| member.incarnation != 0);
        taken
            .map(|member| Candidate {
                id: member.id,
                role: member.role,
                failure_domain: member.failure_domain,
                weight: member.weight,
                presence: presence(member.id),
                is_caught_up: self.is_caught_up(member.id),
                is_leader: member.id == own,
                assigned: member.assigned,
            })
            .collect()
    }
}

fn addition(member: &Member) -> MembershipChange {
    MembershipChange::Add {
        id: member.id,
        role: member.role,
        context: member.context(),
    }
}

/// Whether the same change may be possible a little later.
fn may_pass(error: &ChangeError) -> bool {
    matches!(
        error,
        ChangeError::NotServing
            | ChangeError::InProgress { .. }
            | ChangeError::Transferring { .. }
            | ChangeError::Unfit(_)
    )
}

fn check_address(address: &str) -> Result<(), Error> {
    if address.contains(':') && address.len() <= ADDRESS_BYTES_MAX {
        return Ok(());
    }
    Err(refused(format!(
        "{address:?} is no address: it is HOST:PORT, of at most {ADDRESS_BYTES_MAX} bytes"
    )))
}

fn no_member(id: NodeId) -> Error {
    refused(format!("there is no member with the id {}", id.0))
}

fn refused(what: String) -> Error {
    Error::misuse(rusqlite::ffi::SQLITE_ERROR, what)
}

//! Elections and changes of members, exhaustively: every order of events of a small cluster of real
//! replicas, within stated bounds, by the model checker `stateright`.
//!
//! What is simplified makes more possible than there is, or leaves out what other tests cover:
//! - a node may stand for election at any moment, as if its leader had told it to, so that neither
//!   timers nor pre-votes hold it back;
//! - messages arrive in any order or never; none arrives twice;
//! - a disk operation is complete at the end of the step that asked for it (torn and late writes are
//!   the simulators' matter);
//! - a node may crash and restart between any two steps; it does not know then what is committed.

use super::Raft;
use crate::config::{Config, HardState, RestoredLog};
use crate::effect::{Effect, Input};
use crate::entry::{Entry, EntryKind, TermRun};
use crate::membership::{MemberRole, MembershipChange};
use crate::message::{Message, codec};
use crate::status::Role;
use crate::types::{LogIndex, NodeId, Term};
use bytes::Bytes;
use stateright::{Checker, Model, Property};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The property that nothing is broken.
const SAFE: &str = "nothing is broken";

/// How much is explored.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    nodes: u64,
    /// The first so many vote from the start; the others are standbys.
    voters: u64,
    terms: u64,
    /// Proposals of all leaders together.
    proposals: u8,
    /// Changes of roles by all leaders together.
    changes: u8,
    crashes: u8,
}

#[derive(Clone, Debug)]
struct Node {
    raft: Raft,
    hard_state: HardState,
    log: Vec<Entry>,
}

/// The cluster at one moment.
#[derive(Clone, Debug)]
struct World {
    nodes: Vec<Node>,
    /// From, to, frame.
    network: BTreeSet<(NodeId, NodeId, Vec<u8>)>,
    proposals: u8,
    changes: u8,
    crashes: u8,
    /// What has happened so far, as the properties need it.
    leaders: BTreeMap<Term, NodeId>,
    /// Each with the term of the leader that committed it.
    committed: Vec<(Entry, Term)>,
    broken: Option<&'static str>,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for node in &self.nodes {
            let raft = &node.raft;
            // Timers and randomness play no part here, the ids of completed writes none anywhere.
            raft.role.hash(hasher);
            raft.leader.hash(hasher);
            raft.votes.hash(hasher);
            raft.peers.hash(hasher);
            raft.noop.hash(hasher);
            raft.matched_by_all.hash(hasher);
            raft.was_member.hash(hasher);
            raft.told_removed.hash(hasher);
            raft.transfer.hash(hasher);
            raft.log.commit().hash(hasher);
            node.hard_state.hash(hasher);
            node.log.hash(hasher);
        }
        self.network.hash(hasher);
        (self.proposals, self.changes, self.crashes).hash(hasher);
        self.leaders.hash(hasher);
        self.committed.hash(hasher);
        self.broken.hash(hasher);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        let hash = |world: &World| {
            let mut hasher = DefaultHasher::new();
            world.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Deliver(NodeId, NodeId, Vec<u8>),
    Stand(NodeId),
    Propose(NodeId),
    Change(NodeId, MembershipChange),
    Crash(NodeId),
}

struct Cluster {
    bounds: Bounds,
}

fn decoded(frame: &[u8]) -> Message {
    let header = frame.first_chunk().expect("a header");
    let body = Bytes::copy_from_slice(&frame[codec::FRAME_HEADER_BYTES..]);
    codec::decode(header, body).expect("a frame of ours").1
}

/// Whether a message can still change its receiver, or what that one says to others. The rest is
/// left out, as if it were lost.
fn may_matter(receiver: &Raft, from: NodeId, message: &Message) -> bool {
    let HardState { term, vote } = receiver.hard_state;
    let current = message.term() == term;
    match message {
        _ if message.term() < term => false,
        Message::Vote { .. } if current => vote.is_none_or(|vote| vote == from),
        Message::VoteReply { granted, .. } if current => {
            *granted && receiver.role == Role::Candidate
        }
        Message::AppendReply { .. } if current => receiver.role == Role::Leader,
        Message::HeartbeatReply { .. } => !current,
        _ => true,
    }
}

impl Cluster {
    fn config(&self, id: NodeId) -> Config {
        let ids = (1..=self.bounds.nodes).map(NodeId);
        let mut config = Config::new(id, ids.collect(), 1);
        let mut bootstrap = config.bootstrap.clone();
        for id in self.bounds.voters + 1..=self.bounds.nodes {
            let role = MemberRole::Standby;
            let id = NodeId(id);
            let standby = MembershipChange::SetRole { id, role };
            bootstrap = bootstrap.changed(&standby).expect("a role of a member");
        }
        config.bootstrap = bootstrap;
        // So that lagging members may be promoted, which is worse than what may happen.
        config.lag_entries_max = 100;
        config
    }

    /// The node takes its effects; what they ask of the disk is done.
    fn settle(&self, world: &mut World, at: NodeId) {
        loop {
            let node = &mut world.nodes[at.0 as usize - 1];
            node.raft.check_invariants();
            let effects = node.raft.take_effects();
            if effects.is_empty() {
                break;
            }
            let mut done = None;
            for effect in effects {
                match effect {
                    Effect::SaveHardState { io, hard_state } => {
                        node.hard_state = hard_state;
                        done = Some(io);
                    }
                    Effect::Append {
                        io,
                        truncate_from,
                        entries,
                    } => {
                        if let Some(from) = truncate_from {
                            node.log.retain(|entry| entry.index < from);
                        }
                        node.log.extend(entries);
                        done = Some(io);
                    }
                    Effect::Send { to, message, .. } => {
                        let mut frame = Vec::new();
                        codec::encode(0, &message, &mut frame);
                        world.network.insert((at, to, frame));
                    }
                    Effect::Committed { up_to } => {
                        let new = &node.log[..up_to.0 as usize];
                        let term = node.hard_state.term;
                        let common = new.len().min(world.committed.len());
                        let mut both = new.iter().zip(&world.committed);
                        if both.any(|(entry, (known, _))| entry != known) {
                            world.broken = Some("two nodes committed different entries");
                        }
                        let fresh = new[common..].iter();
                        world
                            .committed
                            .extend(fresh.map(|entry| (entry.clone(), term)));
                    }
                    Effect::RoleChanged {
                        role: Role::Leader,
                        term,
                        ..
                    } => {
                        if *world.leaders.entry(term).or_insert(at) != at {
                            world.broken = Some("two leaders in one term");
                        }
                        let lacks = |(entry, by): &(Entry, Term)| {
                            *by < term && node.raft.entry_term(entry.index) != Some(entry.term)
                        };
                        if world.committed.iter().any(lacks) {
                            world.broken = Some("a leader lacks a committed entry");
                        }
                    }
                    _ => {}
                }
            }
            if let Some(io) = done {
                node.raft.step(Input::Persisted { io });
            }
        }
        let World { nodes, network, .. } = world;
        network.retain(|(from, to, frame)| {
            let node = nodes.get(to.0 as usize - 1);
            node.is_some_and(|node| may_matter(&node.raft, *from, &decoded(frame)))
        });
    }

    fn restart(&self, world: &mut World, at: NodeId) {
        let node = &mut world.nodes[at.0 as usize - 1];
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &node.log {
            if runs.last().is_none_or(|run| run.term < entry.term) {
                let (first, term) = (entry.index, entry.term);
                runs.push(TermRun { first, term });
            }
        }
        let log = RestoredLog {
            runs,
            last: LogIndex(node.log.len() as u64),
            tail: node.log.clone(),
            ..RestoredLog::default()
        };
        node.raft = self.replica(at, node.hard_state, log);
        self.settle(world, at);
    }

    fn replica(&self, id: NodeId, hard_state: HardState, log: RestoredLog) -> Raft {
        let raft = Raft::new(self.config(id), hard_state, log);
        let mut raft = raft.expect("what was saved belongs together");
        // Nobody holds anybody back for having heard of a leader lately.
        raft.timers.leader_silent = u32::MAX / 2;
        raft
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let nodes = (1..=self.bounds.nodes).map(|id| Node {
            raft: self.replica(NodeId(id), HardState::default(), RestoredLog::default()),
            hard_state: HardState::default(),
            log: Vec::new(),
        });
        vec![World {
            nodes: nodes.collect(),
            network: BTreeSet::new(),
            proposals: 0,
            changes: 0,
            crashes: 0,
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let messages = world.network.iter().cloned();
        actions.extend(messages.map(|(from, to, frame)| Action::Deliver(from, to, frame)));
        for (node, id) in world.nodes.iter().zip((1..).map(NodeId)) {
            let raft = &node.raft;
            let leads = raft.role == Role::Leader;
            let term = raft.hard_state.term.0;
            if !leads && term < self.bounds.terms && raft.may_stand() {
                actions.push(Action::Stand(id));
            }
            if leads && world.proposals < self.bounds.proposals {
                actions.push(Action::Propose(id));
            }
            if leads && world.changes < self.bounds.changes {
                for member in (1..=self.bounds.nodes).map(NodeId) {
                    let role = match raft.configuration().role(member) {
                        Some(MemberRole::Voter) => MemberRole::Standby,
                        _ => MemberRole::Voter,
                    };
                    let change = MembershipChange::SetRole { id: member, role };
                    actions.push(Action::Change(id, change));
                }
            }
            if world.crashes < self.bounds.crashes && raft.role != Role::Follower {
                actions.push(Action::Crash(id));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let at = match action {
            Action::Deliver(from, to, frame) => {
                let message = decoded(&frame);
                world.network.remove(&(from, to, frame));
                let raft = &mut world.nodes[to.0 as usize - 1].raft;
                raft.step(Input::Receive { from, message });
                raft.timers.leader_silent = u32::MAX / 2;
                to
            }
            Action::Stand(id) => {
                world.nodes[id.0 as usize - 1].raft.campaign(true);
                id
            }
            Action::Propose(id) => {
                world.proposals += 1;
                let raft = &mut world.nodes[id.0 as usize - 1].raft;
                raft.propose(EntryKind::Data, Bytes::new()).ok()?;
                id
            }
            Action::Change(id, change) => {
                world.changes += 1;
                let raft = &mut world.nodes[id.0 as usize - 1].raft;
                raft.change_membership(&change).ok()?;
                id
            }
            Action::Crash(id) => {
                world.crashes += 1;
                self.restart(&mut world, id);
                id
            }
        };
        self.settle(&mut world, at);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAFE, |_, world: &World| world.broken.is_none()),
            Property::sometimes(
                "the last term commits something",
                |cluster: &Cluster, world: &World| {
                    let last = world.committed.last();
                    last.is_some_and(|(entry, _)| entry.term == Term(cluster.bounds.terms))
                },
            ),
            Property::sometimes(
                "a change of members is committed",
                |cluster: &Cluster, world: &World| {
                    let changes =
                        |(entry, _): &(Entry, Term)| entry.kind == EntryKind::Configuration;
                    cluster.bounds.changes == 0 || world.committed.iter().any(changes)
                },
            ),
        ]
    }
}

/// Explores everything within the bounds, and demands that it is as much as it was when the test was
/// written: fewer states would mean that something cannot happen any more.
fn explore(bounds: Bounds, states_min: usize) {
    let cluster = Cluster { bounds };
    let checker = cluster.checker().threads(2).spawn_bfs().join();
    println!(
        "{bounds:?}: {} states, {} of them different, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    if let Some(path) = checker.discovery(SAFE) {
        let mut text = String::new();
        for (world, action) in path.into_vec() {
            let action = action.map(|action| match action {
                Action::Deliver(from, to, frame) => {
                    format!("{from} => {to}: {:?}", decoded(&frame))
                }
                other => format!("{other:?}"),
            });
            text += &format!(
                "{}\n",
                action
                    .or(world.broken.map(str::to_owned))
                    .unwrap_or_default()
            );
        }
        panic!("the model is broken:\n{text}");
    }
    checker.assert_properties();
    assert!(checker.unique_state_count() >= states_min);
}

const THREE: Bounds = Bounds {
    nodes: 3,
    voters: 3,
    terms: 2,
    proposals: 0,
    changes: 0,
    crashes: 0,
};

#[test]
fn elections_are_safe() {
    explore(Bounds { terms: 3, ..THREE }, 42_868);
    explore(
        Bounds {
            crashes: 1,
            ..THREE
        },
        14_485,
    );
}

#[test]
fn a_change_of_members_is_safe() {
    explore(
        Bounds {
            changes: 1,
            ..THREE
        },
        40_863,
    );
}

#[test]
#[ignore = "takes minutes"]
fn more_of_everything_is_safe() {
    let promotions = Bounds { voters: 2, ..THREE };
    explore(
        Bounds {
            changes: 2,
            ..promotions
        },
        92_109,
    );
    explore(
        Bounds {
            terms: 3,
            changes: 1,
            ..promotions
        },
        60_854,
    );
    explore(
        Bounds {
            proposals: 1,
            crashes: 1,
            ..THREE
        },
        108_682,
    );
}

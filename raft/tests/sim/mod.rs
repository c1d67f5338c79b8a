//! A whole cluster in one thread: real replicas, real frames, real records and recovery; network,
//! disks, clock and faults are simulated. A run is a function of its seed.

mod churn;
mod damage;
mod disk;
pub(crate) mod faults;
pub(crate) mod invariants;
mod network;
mod node;
mod random;

use bytes::Bytes;
use faults::Faults;
use invariants::{Invariants, durable_quorum, fresh_reads, leader_completeness};
use network::{Network, Weather};
use node::{Node, Reading};
use random::Random;
use ringlite_raft::{
    AppendResult, Config, Configuration, Effect, EntryKind, Input, IoId, LogIndex, Message, NodeId,
    Raft, ReadId, Role, Term, TransferOutcome,
};

/// Units of simulated time per tick.
pub(crate) const TICK: u64 = 4;
/// The longest election timeout, in ticks.
pub(crate) const ELECTION_TICKS_MAX: u32 = 20;

pub(crate) struct Cluster {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    network: Network,
    random: Random,
    faults: Faults,
    pub(crate) invariants: Invariants,
    /// The highest commit index of any node so far.
    commit_max: LogIndex,
    next_payload: u64,
    next_read: u64,
    cache_bytes_max: usize,
    slow_disk: u64,
    /// How often a node cuts its log, per mille of its turns.
    log_cut: u64,
    /// It may cut what others lack.
    cuts_beyond: bool,
    hung_disk: u64,
    disk_stall_ticks: u32,
    lease_ticks: u32,
    lag_entries_max: u64,
    /// The first nodes begin as voters; the others wait to be added.
    founders: usize,
    churn: churn::Churn,
    pub(crate) reads_answered: u64,
    pub(crate) storage_reads: u64,
    pub(crate) restarts: u64,
    /// A hash over everything that happened.
    pub(crate) trace: u64,
}

impl Cluster {
    pub(crate) fn new(seed: u64, size: usize) -> Cluster {
        let mut random = Random::new(seed);
        let faults = Faults::new(&mut random);
        // Who may be damaged is a matter of who votes, and stays so.
        let joiners = if faults.rot > 0 {
            0
        } else {
            [0, 3][random.below(2) as usize]
        };
        let nodes = (1..=size as u64 + joiners)
            .map(|id| Node::new(id, random.below(TICK)))
            .collect();
        let weather = Weather {
            loss: [0, 20, 100, 200][random.below(4) as usize],
            repeat: [0, 50, 200][random.below(3) as usize],
            slow: [0, 20, 150][random.below(3) as usize],
            slow_time_max: random.between(10, 60 * TICK),
        };
        let mut cluster = Cluster {
            now: 0,
            nodes,
            network: Network::new(weather),
            faults,
            cache_bytes_max: [0, 500, 1 << 20][random.below(3) as usize],
            slow_disk: [0, 30, 200][random.below(3) as usize],
            log_cut: [0, 5, 50][random.below(3) as usize],
            cuts_beyond: random.per_mille(500),
            hung_disk: [0, 5][random.below(2) as usize],
            disk_stall_ticks: [0, 12, 1000][random.below(3) as usize],
            lease_ticks: [0, 0, 4, 8][random.below(4) as usize],
            lag_entries_max: [0, 10, 1000][random.below(3) as usize],
            founders: size,
            churn: churn::Churn::new(&mut random, joiners > 0),
            random,
            invariants: Invariants::default(),
            commit_max: LogIndex::ZERO,
            next_payload: 0,
            next_read: 0,
            reads_answered: 0,
            storage_reads: 0,
            restarts: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        };
        if cluster.faults.rot > 0 {
            cluster.log_cut = 0;
        }
        for node in 0..cluster.nodes.len() {
            cluster.start(node);
        }
        cluster
    }

    fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Starts a node from what its disk holds.
    pub(crate) fn start(&mut self, at: usize) {
        let voters = (1..=self.founders as u64).map(NodeId).collect();
        let mut config = Config::new(NodeId(at as u64 + 1), voters, self.random.number());
        if at >= self.founders {
            config.bootstrap = Configuration::default();
        }
        config.lag_entries_max = self.lag_entries_max;
        config.disk_stall_ticks = self.disk_stall_ticks;
        config.lease_ticks = self.lease_ticks;
        config.election_timeout_ticks_min = ELECTION_TICKS_MAX / 2;
        config.election_timeout_ticks_max = ELECTION_TICKS_MAX;
        config.heartbeat_ticks = 2;
        config.append_bytes_max = 400;
        config.window_bytes_max = 1200;
        config.log_cache_bytes_max = self.cache_bytes_max;
        let (hard_state, log, found) = self.nodes[at].disk.restart();
        self.nodes[at].applied = log.base.index;
        self.faults.struck.starts_behind_a_base += u64::from(log.base.index > LogIndex::ZERO);
        self.note(found.last.0 ^ (found.epoch << 32));
        self.invariants.seen.restarted(at, hard_state.term);
        assert!(
            found.commit <= self.commit_max,
            "a commit index from nowhere"
        );
        let mut told: Vec<Term> = Vec::new();
        for entry in &self.nodes[at].disk.durable {
            self.invariants
                .entries
                .appended(entry, told.last().copied().unwrap_or_default());
            told.push(entry.term);
        }
        self.nodes[at].told = told;
        let raft = Raft::new(config, hard_state, log).expect("what was saved belongs together");
        self.nodes[at].raft = Some(raft);
        self.nodes[at].life += 1;
        self.restarts += 1;
        self.flush(at);
    }

    /// The process dies and the power fails. Peers may learn of the lost connection.
    pub(crate) fn crash(&mut self, at: usize) {
        self.note(0xdead ^ at as u64);
        self.nodes[at].disk.crash(&mut self.random);
        self.nodes[at].forget();
        for peer in 0..self.nodes.len() {
            if self.random.per_mille(700) {
                self.lose_connection(peer, at);
            }
        }
    }

    /// `at` notices that its connection with `peer` was reset.
    fn lose_connection(&mut self, at: usize, peer: usize) {
        if at != peer && self.nodes[at].raft.is_some() {
            let peer = NodeId(peer as u64 + 1);
            self.nodes[at].inbox.push(Input::PeerLost { peer });
        }
    }

    /// One unit of time with faults and clients.
    pub(crate) fn step_with_faults(&mut self) {
        faults::strike(self);
        if self.random.per_mille(150) {
            self.propose_somewhere();
        }
        if self.random.per_mille(60) {
            self.read_somewhere();
        }
        churn::strike(self);
        self.step();
    }

    /// Everything is repaired: all nodes run, all links work, nothing is lost any more.
    pub(crate) fn heal(&mut self) {
        self.network.cut.clear();
        self.network.weather = Weather::CALM;
        self.slow_disk = 0;
        self.hung_disk = 0;
        self.nodes.iter_mut().for_each(|node| node.paused_until = 0);
        for at in 0..self.nodes.len() {
            if self.nodes[at].raft.is_none() {
                self.start(at);
            }
        }
    }

    /// One unit of time.
    pub(crate) fn step(&mut self) {
        self.now += 1;
        for (from, to, message) in self.network.arrivals(self.now) {
            if self.nodes[to].raft.is_some() {
                let from = NodeId(from as u64 + 1);
                self.nodes[to].inbox.push(Input::Receive { from, message });
            }
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].raft.is_some() {
                self.run(at);
            }
        }
        churn::deliver_snapshots(self);
    }

    /// One node handles what has come in: in one turn, or in several.
    fn run(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(io) = node.disk.complete(self.now) {
            node.inbox.push(Input::Persisted { io });
        }
        if self.now % TICK == node.tick_phase {
            node.missed_ticks += 1;
        }
        if self.now < node.paused_until {
            return;
        }
        node.read_due(self.now);
        if node.inbox.len() > 1 && self.random.per_mille(200) {
            let with = self.random.below(node.inbox.len() as u64) as usize;
            node.inbox.swap(0, with);
        }
        // All ticks that have passed come before what came in.
        let ticks = std::mem::take(&mut node.missed_ticks) as usize;
        node.inbox
            .splice(0..0, std::iter::repeat_n(Input::Tick, ticks));
        for input in std::mem::take(&mut self.nodes[at].inbox) {
            self.input(at, input);
            if self.random.per_mille(300) {
                self.flush(at);
            }
        }
        self.flush(at);
        let delay = if self.random.per_mille(self.hung_disk) {
            self.random.between(61, 400)
        } else if self.random.per_mille(self.slow_disk) {
            self.random.between(1, 60)
        } else {
            1
        };
        let node = &mut self.nodes[at];
        let commit = node
            .raft
            .as_ref()
            .map_or(LogIndex::ZERO, |raft| raft.status().commit);
        if node.disk.start(self.now, commit, delay) && delay > 60 {
            self.faults.struck.hangs += 1;
        }
        self.complete_install(at);
        self.cut_log(at);
    }

    /// Perhaps the node cuts its log, as far as it may.
    fn cut_log(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(up_to) = node.disk.complete_cut(self.now, &mut self.random) {
            node.inbox.push(Input::Cut { up_to });
            self.faults.struck.log_cuts += 1;
        }
        let Some(raft) = &node.raft else {
            return;
        };
        let status = raft.status();
        let mut may_go = status.durable.min(node.applied);
        if !self.cuts_beyond {
            may_go = may_go.min(status.matched_by_all);
        }
        let base = node.disk.base();
        if may_go > base && !node.disk.is_cutting() && self.random.per_mille(self.log_cut) {
            let up_to = LogIndex(self.random.between(base.0 + 1, may_go.0));
            let done_at = self.now + self.random.between(1, 20);
            let configuration = raft.configuration_at(up_to).expect("in the log").clone();
            node.disk.start_cut(up_to, configuration, done_at);
        }
    }

    fn input(&mut self, at: usize, input: Input) {
        let node = &mut self.nodes[at];
        let persisted = match input {
            Input::Persisted { io } => Some(io),
            _ => None,
        };
        let Some(raft) = &mut node.raft else {
            return;
        };
        raft.step(input);
        raft.check_invariants();
        let status = raft.status();
        assert_eq!(
            status.dropped, 0,
            "a correct peer's message was called nonsense"
        );
        if let Some(io) = persisted {
            node.persisted = io;
        }
        if node.disk.debt.is_some() && status.debt.is_none() {
            node.disk.debt = None;
            self.faults.struck.repaired += 1;
        }
        assert!(
            status.debt.is_none() || matches!(status.role, Role::Follower),
            "a node stands for election with a log that it cannot prove"
        );
        self.invariants.seen.step(at, &status);
        self.note(status.term.0 ^ (status.last.0 << 20) ^ (status.commit.0 << 40) ^ self.now);
        self.release(at);
    }

    /// Sends what waited for the disk.
    fn release(&mut self, at: usize) {
        let persisted = self.nodes[at].persisted;
        let held = std::mem::take(&mut self.nodes[at].held);
        for (after, to, message) in held {
            if after <= persisted {
                self.send(at, to, &message);
            } else {
                self.nodes[at].held.push((after, to, message));
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        match message {
            Message::VoteReply {
                term,
                granted: true,
            } => {
                self.invariants.elections.voted(from, *term, to);
            }
            Message::AppendReply {
                term,
                result: AppendResult::Accepted { match_index },
            } => {
                // It may speak for an earlier term, of entries gone since; else it is true.
                let raft = self.nodes[from].raft.as_ref().expect("a running node");
                let durable = self.nodes[from].disk.durable.len() as u64;
                let stale = raft.status().term > *term;
                assert!(
                    stale || match_index.0 <= durable,
                    "an acknowledgement before its time"
                );
            }
            _ => {}
        }
        let says_own_term = !matches!(
            message,
            Message::PreVote { .. } | Message::PreVoteReply { granted: true, .. }
        );
        if says_own_term {
            self.invariants.seen.said(from, message.term());
        }
        self.note(from as u64 ^ ((to as u64) << 8) ^ (message.term().0 << 16));
        self.network
            .send((from, to), message, self.now, &mut self.random);
    }

    /// Ends a turn.
    fn flush(&mut self, at: usize) {
        let Some(raft) = &mut self.nodes[at].raft else {
            return;
        };
        let effects = raft.take_effects();
        raft.check_invariants();
        let mut disk_began = false;
        for effect in effects {
            match effect {
                Effect::Send { to, message, after } => {
                    let to = to.0 as usize - 1;
                    match after {
                        Some(io) if io > self.nodes[at].persisted => {
                            self.nodes[at].held.push((io, to, message));
                        }
                        _ => {
                            assert!(!disk_began || after.is_some(), "the disk went first");
                            self.send(at, to, &message);
                        }
                    }
                }
                Effect::SaveHardState { io, hard_state } => {
                    disk_began = true;
                    self.nodes[at].disk.save(io, hard_state);
                }
                Effect::Append {
                    io,
                    truncate_from,
                    entries,
                } => {
                    disk_began = true;
                    self.append(at, io, truncate_from, entries);
                }
                Effect::Committed { up_to } => self.apply(at, up_to),
                Effect::ReadReady { id, index } => {
                    let floor = self.nodes[at]
                        .reads
                        .remove(&id)
                        .expect("a read of this node");
                    fresh_reads::check(id, index, floor);
                    self.reads_answered += 1;
                    let raft = self.nodes[at].raft.as_ref().expect("a running node");
                    self.faults.struck.lease_reads += u64::from(raft.status().lease);
                }
                Effect::ReadEntries {
                    peer, from, up_to, ..
                } => {
                    self.storage_reads += 1;
                    assert!(from > self.nodes[at].disk.base(), "{from} was cut");
                    let due = self.now + self.random.between(1, 4);
                    let peer = peer.0;
                    self.nodes[at].readings.push(Reading {
                        due,
                        peer,
                        from,
                        up_to,
                    });
                }
                Effect::SendSnapshot { peer } => self.send_snapshot(at, peer),
                Effect::ConfigurationChanged { index } => self.note(index.0 ^ (at as u64) << 50),
                Effect::TransferEnded { outcome, .. } => match outcome {
                    TransferOutcome::SteppedDown => self.faults.struck.transfers += 1,
                    TransferOutcome::Abandoned => self.faults.struck.transfers_abandoned += 1,
                },
                Effect::RoleChanged { role, term, .. } => {
                    if role == Role::Leader {
                        self.invariants.elections.leads(at, term);
                        let raft = self.nodes[at].raft.as_ref().expect("a running node");
                        leader_completeness::check(raft, &self.invariants.committed);
                    } else {
                        self.nodes[at].reads.clear();
                    }
                }
            }
        }
    }

    fn append(
        &mut self,
        at: usize,
        io: IoId,
        truncate_from: Option<LogIndex>,
        entries: Vec<ringlite_raft::Entry>,
    ) {
        let told = &mut self.nodes[at].told;
        if let Some(from) = truncate_from {
            told.truncate(from.prev().0 as usize);
        }
        for entry in &entries {
            assert_eq!(
                entry.index.0,
                told.len() as u64 + 1,
                "an append leaves a gap"
            );
            let before = told.last().copied().unwrap_or_default();
            self.invariants.entries.appended(entry, before);
            told.push(entry.term);
        }
        self.nodes[at].disk.append(io, truncate_from, entries);
    }

    fn apply(&mut self, at: usize, up_to: LogIndex) {
        while self.nodes[at].applied < up_to {
            let index = self.nodes[at].applied.next();
            let entry = self.nodes[at].entry(index);
            if self.invariants.committed.applied(&entry) {
                self.faults.struck.changes += u64::from(entry.kind == EntryKind::Configuration);
                let raft = self.nodes[at].raft.as_ref().expect("a running node");
                // Others learn of it later, and may know of other members then.
                if raft.status().role == Role::Leader {
                    durable_quorum::check(&self.nodes, raft.configuration(), &entry);
                }
            }
            self.nodes[at].applied = index;
        }
        self.commit_max = self.commit_max.max(up_to);
        if let Some(raft) = &mut self.nodes[at].raft {
            raft.applied(up_to);
        }
    }

    /// A client proposes to any node that believes to lead.
    fn propose_somewhere(&mut self) {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        for _ in 0..self.random.between(1, 4) {
            self.next_payload += 1;
            let mut payload = self.next_payload.to_le_bytes().to_vec();
            let long = self.random.per_mille(30);
            payload.resize(
                if long {
                    9000
                } else {
                    8 + self.random.below(90) as usize
                },
                7,
            );
            if let Some(raft) = &mut self.nodes[at].raft {
                // A refusal is fine: this node does not lead.
                let _ = raft.propose(EntryKind::Data, Bytes::from(payload));
            }
        }
    }

    fn read_somewhere(&mut self) {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        let leads = |raft: &Raft| raft.status().role == Role::Leader;
        if self.nodes[at].raft.as_ref().is_some_and(leads) {
            self.next_read += 1;
            let id = ReadId(self.next_read);
            self.nodes[at].reads.insert(id, self.commit_max);
            self.nodes[at].inbox.push(Input::ReadIndex { id });
        }
    }

    /// The node that leads and serves in the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let serving = |at: &usize| {
            self.nodes[*at]
                .raft
                .as_ref()
                .is_some_and(|raft| raft.status().serving)
        };
        let term = |at: &usize| self.nodes[*at].raft.as_ref().map(|raft| raft.status().term);
        (0..self.nodes.len()).filter(serving).max_by_key(term)
    }

    pub(crate) fn faults_struck(&self) -> faults::Struck {
        let disks = self.nodes.iter().map(|node| &node.disk);
        faults::Struck {
            lost: self.network.lost,
            repeated: self.network.repeated,
            torn: disks.clone().map(|disk| disk.torn).sum(),
            cuts: disks.clone().map(|disk| disk.cuts).sum(),
            removed: disks.map(|disk| disk.removed).sum(),
            ..self.faults.struck
        }
    }

    /// After healing: a leader, a fresh commit, a read, and equal logs, in time.
    pub(crate) fn check_liveness(&mut self) {
        let deadline = self.now + 20 * u64::from(ELECTION_TICKS_MAX) * TICK;
        let mut wanted: Option<LogIndex> = None;
        let answered = self.reads_answered;
        loop {
            assert!(
                self.now < deadline,
                "no progress after healing: {}",
                self.describe()
            );
            self.step();
            let Some(leader) = self.leader() else {
                continue;
            };
            let raft = self.nodes[leader].raft.as_mut().expect("a running node");
            let fresh = wanted.is_some_and(|index| index <= raft.status().last);
            if !fresh {
                wanted = raft
                    .propose(EntryKind::Data, Bytes::from_static(b"fresh"))
                    .ok();
            }
            if self.reads_answered == answered {
                self.read_somewhere();
            }
            if self.is_well(leader, wanted) && self.reads_answered > answered {
                break;
            }
        }
        let leader = self.leader().expect("a leader");
        let raft = self.nodes[leader].raft.as_ref().expect("a running node");
        for entry in &self.invariants.committed.entries {
            durable_quorum::check(&self.nodes, raft.configuration(), entry);
        }
    }

    /// All who get the log have applied it up to `wanted`, and nobody else stands for election.
    fn is_well(&self, leader: usize, wanted: Option<LogIndex>) -> bool {
        let raft = self.nodes[leader].raft.as_ref().expect("a running node");
        let configuration = raft.configuration();
        let (mut ids, mut nodes) = (1.., self.nodes.iter());
        nodes.all(|node| {
            let status = node.raft.as_ref().map(Raft::status);
            match ids.next().and_then(|id| configuration.role(NodeId(id))) {
                Some(role) if role.replicates() => {
                    wanted.is_some_and(|index| node.applied >= index) && node.disk.debt.is_none()
                }
                _ => status.is_some_and(|status| status.role == Role::Follower),
            }
        })
    }

    fn describe(&self) -> String {
        let states = self.nodes.iter().map(|node| {
            let status = node.raft.as_ref().map(Raft::status);
            format!("{status:?}")
        });
        states.collect::<Vec<_>>().join("; ")
    }
}

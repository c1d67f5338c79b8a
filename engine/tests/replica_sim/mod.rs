//! A whole cluster in one thread: real replicas over real SQLite; network, disks, clock, clients
//! and faults are simulated. A run is a function of its seed.

mod checks;
mod client;
mod disk;
pub(crate) mod faults;
mod network;
mod node;
mod operation;
mod oracle;
mod random;
mod snapshots;

use std::hash::{DefaultHasher, Hash, Hasher};

use ringlite::replica::request::{Reply, RequestId, SessionId};
use ringlite::replica::{Config, Input, NodeAddress};
use ringlite_raft::{LogIndex, NodeId};

use client::{Client, Wish};
use faults::Faults;
use network::{Network, Weather};
use node::Node;
use operation::{FLEETING, Operation, RESTORED, Role};
use oracle::Oracle;
use random::Random;
use snapshots::Copies;

/// Units of simulated time per tick.
const TICK: u64 = 4;
/// The longest election timeout, in ticks.
const ELECTION_TICKS_MAX: u32 = 50;
/// Sessions from here on ask for digests, each of one of these databases.
const DIGEST_SESSION: u64 = 1 << 32;
const DIGESTED: [&str; 4] = ["db0", "db1", FLEETING, RESTORED];

/// The settings that differ from run to run.
#[derive(Clone, Copy)]
struct Bounds {
    batches_in_flight_max: usize,
    uncommitted_bytes_max: usize,
    write_queue_max: usize,
    write_idle_ticks: u64,
    part_bytes: usize,
    log_cache_bytes_max: usize,
    election_timeout_ticks_max: u32,
    slow_disk: u64,
    backfill_bytes: u64,
    backfill_ticks_max: u64,
    wal_bytes_max: u64,
    log_window_bytes: u64,
}

pub(crate) struct Cluster {
    now: u64,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    network: Network,
    copies: Copies,
    random: Random,
    pub(crate) faults: Faults,
    oracle: Oracle,
    bounds: Bounds,
    /// Whether nodes and clients have faults and work.
    is_stormy: bool,
    sessions: u64,
    digest_serial: u64,
    /// The checks' own request, and its answer.
    listens_to: Option<RequestId>,
    overheard: Option<ringlite::Result<Reply>>,
    restarts: u64,
    /// A hash over everything that happened.
    pub(crate) trace: u64,
}

/// What a run was good for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Yield {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    pub(crate) constraint_errors: u64,
    pub(crate) digests: u64,
    pub(crate) restarts: u64,
    pub(crate) roll_backs: u64,
    pub(crate) torn: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) storage_reads: u64,
    pub(crate) databases: u64,
    pub(crate) stand_stills: u64,
    pub(crate) drops: u64,
    pub(crate) restores: u64,
    pub(crate) backfills: u64,
    pub(crate) wal_restarts: u64,
    pub(crate) cuts: u64,
    pub(crate) long_runs: u64,
    pub(crate) snapshots: u64,
    pub(crate) snapshots_interrupted: u64,
    pub(crate) snapshot_files_gone: u64,
}

impl Yield {
    pub(crate) fn add(&mut self, other: &Yield) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.constraint_errors += other.constraint_errors;
        self.digests += other.digests;
        self.restarts += other.restarts;
        self.roll_backs += other.roll_backs;
        self.torn += other.torn;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.storage_reads += other.storage_reads;
        self.databases += other.databases;
        self.stand_stills += other.stand_stills;
        self.drops += other.drops;
        self.restores += other.restores;
        self.backfills += other.backfills;
        self.wal_restarts += other.wal_restarts;
        self.cuts += other.cuts;
        self.long_runs += other.long_runs;
        self.snapshots += other.snapshots;
        self.snapshots_interrupted += other.snapshots_interrupted;
        self.snapshot_files_gone += other.snapshot_files_gone;
    }

    /// Whether so many seeds have given enough to be worth their time.
    pub(crate) fn is_rich(&self, seeds: u64) -> bool {
        let rare = [
            self.unknown,
            self.refused,
            self.constraint_errors,
            self.roll_backs,
            self.torn,
            self.lost,
            self.repeated,
            self.storage_reads,
            self.databases,
            self.stand_stills,
            self.drops,
            self.restores,
            self.backfills,
            self.wal_restarts,
            self.cuts,
            self.long_runs,
            self.snapshots,
            self.snapshots_interrupted,
            self.snapshot_files_gone,
        ];
        self.acknowledged > 40 * seeds
            && self.reads > 20 * seeds
            && self.digests > 5 * seeds
            && rare.iter().all(|count| *count > 0)
    }
}

impl Cluster {
    pub(crate) fn new(seed: u64, size: usize) -> Cluster {
        let mut random = Random::new(seed);
        let nodes = (1..=size as u64)
            .map(|id| Node::new(id, random.below(TICK), random.number()))
            .collect();
        let bounds = Bounds {
            batches_in_flight_max: random.one_of(&[1, 1, 2, 8]),
            uncommitted_bytes_max: random.one_of(&[1, 20_000, 1 << 20]),
            write_queue_max: random.one_of(&[1, 3, 100]),
            write_idle_ticks: random.one_of(&[15, 40]),
            part_bytes: random.one_of(&[5_000, 9_000, 1 << 20]),
            log_cache_bytes_max: random.one_of(&[0, 20_000, 1 << 20]),
            // The longer it is, the longer an old leader goes on beside a new one.
            election_timeout_ticks_max: random.one_of(&[20, ELECTION_TICKS_MAX]),
            slow_disk: random.one_of(&[0, 50, 300]),
            backfill_bytes: random.one_of(&[1, 30_000, 1 << 20]),
            backfill_ticks_max: random.one_of(&[5, 100]),
            wal_bytes_max: random.one_of(&[1, 60_000, 1 << 20]),
            log_window_bytes: random.one_of(&[0, 100_000, 1 << 20]),
        };
        let is_focused = random.per_mille(500);
        let clients = (0..random.between(3, 12))
            .map(|client| {
                let role = match client % 3 {
                    _ if !is_focused => Role::Any,
                    0 if client == 0 => Role::Writer,
                    1 => Role::Reader,
                    _ => Role::Other,
                };
                Client::new(&mut random, size, role)
            })
            .collect();
        let mut cluster = Cluster {
            now: 0,
            nodes,
            clients,
            network: Network::new(),
            copies: Copies::default(),
            faults: Faults::new(&mut random),
            oracle: Oracle::default(),
            bounds,
            is_stormy: false,
            sessions: 0,
            digest_serial: 0,
            listens_to: None,
            overheard: None,
            restarts: 0,
            trace: 0,
            random,
        };
        let leave_per_mille = cluster.random.one_of(&[0, 50, 500]);
        for at in 0..size {
            cluster.nodes[at].leave_per_mille = leave_per_mille;
            cluster.start(at);
        }
        cluster.create_schema();
        cluster
    }

    fn note(&mut self, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        (self.trace, what).hash(&mut hasher);
        self.trace = hasher.finish();
    }

    /// Starts a node from what its disk holds.
    fn start(&mut self, at: usize) {
        self.restarts += 1;
        let size = self.nodes.len() as u64;
        let voters = (1..=size).map(NodeId).collect();
        let seed = self.random.number();
        let mut raft = ringlite_raft::Config::new(NodeId(at as u64 + 1), voters, seed);
        raft.election_timeout_ticks_min = 10;
        raft.election_timeout_ticks_max = self.bounds.election_timeout_ticks_max;
        raft.heartbeat_ticks = 2;
        raft.append_bytes_max = 12_000;
        raft.window_bytes_max = 30_000;
        raft.log_cache_bytes_max = self.bounds.log_cache_bytes_max;
        let members = (1..=size).map(|id| NodeAddress {
            id: NodeId(id),
            address: format!("node{id}"),
        });
        let mut config = Config::new(raft, members.collect());
        config.write_wait_ticks = 60;
        config.write_idle_ticks = self.bounds.write_idle_ticks;
        config.write_queue_max = self.bounds.write_queue_max;
        config.batches_in_flight_max = self.bounds.batches_in_flight_max;
        config.uncommitted_bytes_max = self.bounds.uncommitted_bytes_max;
        config.part_bytes = self.bounds.part_bytes;
        config.backfill_bytes = self.bounds.backfill_bytes;
        config.backfill_ticks_max = self.bounds.backfill_ticks_max;
        config.wal_bytes_max = self.bounds.wal_bytes_max;
        config.log_window_bytes = self.bounds.log_window_bytes;
        self.nodes[at].start(config, self.now);
    }

    /// The process dies and the power fails. Peers and clients may learn of the lost connection.
    fn crash(&mut self, at: usize) {
        self.note(("crash", at));
        self.nodes[at].disk.crash(&mut self.random);
        drop(self.nodes[at].forget());
        for peer in 0..self.nodes.len() {
            if self.random.per_mille(700) {
                self.lose_connection(peer, at);
            }
        }
        let size = self.nodes.len();
        for client in &mut self.clients {
            if client.node == at {
                client.connection_lost(&mut self.oracle, &mut self.random, size);
            }
        }
    }

    /// `at` notices that its connection with `peer` was reset.
    fn lose_connection(&mut self, at: usize, peer: usize) {
        if at != peer
            && let Some(process) = &mut self.nodes[at].process
        {
            let peer = NodeId(peer as u64 + 1);
            process.inbox.push_back(Input::PeerLost { peer });
        }
    }

    /// One unit of time with faults and clients that go on with new operations.
    pub(crate) fn step_in_storm(&mut self) {
        if !self.is_stormy {
            self.is_stormy = true;
            self.network.weather = Weather::drawn(&mut self.random);
        }
        faults::strike(self);
        for at in 0..self.clients.len() {
            if self.clients[at].is_idle() && self.random.per_mille(400) {
                self.begin_operation(at);
            } else if self.random.per_mille(3) {
                let wish = self.clients[at].walk_out(&mut self.oracle);
                self.fulfil(at, wish);
            }
        }
        if self.random.per_mille(15) {
            let at = self.random.below(self.nodes.len() as u64) as usize;
            let database = self.random.below(DIGESTED.len() as u64);
            self.ask_for_digest(at, database, LogIndex(0));
        }
        self.step();
    }

    fn begin_operation(&mut self, client: usize) {
        let role = self.clients[client].role;
        let next = match role {
            // It knows better than to write where a write would only hang.
            Role::Writer => match self.leader().filter(|at| self.hears_a_majority(*at)) {
                Some(leader) => Some(leader),
                None => return,
            },
            // Also nodes that do not lead any more have to be asked.
            _ if self.random.per_mille(150) => {
                Some(self.random.below(self.nodes.len() as u64) as usize)
            }
            _ => None,
        };
        if let Some(next) = next.filter(|next| *next != self.clients[client].node) {
            let wish = self.clients[client].change_session();
            self.fulfil(client, wish);
            self.clients[client].node = next;
        }
        let operation = Operation::drawn(&mut self.oracle, &mut self.random, role);
        self.clients[client].begin(operation, self.now);
    }

    fn hears_a_majority(&self, at: usize) -> bool {
        let cut = &self.network.cut;
        let linked = |peer: &usize| !cut.contains(&(at, *peer)) && !cut.contains(&(*peer, at));
        (0..self.nodes.len()).filter(linked).count() > self.nodes.len() / 2
    }

    /// One unit of time.
    fn step(&mut self) {
        self.now += 1;
        for (from, to, message) in self.network.arrivals(self.now) {
            if let Some(process) = &mut self.nodes[to].process {
                let from = NodeId(from as u64 + 1);
                process.inbox.push_back(Input::Receive { from, message });
            }
        }
        for at in 0..self.clients.len() {
            let wish = self.clients[at].act(self.now, &mut self.sessions, &mut self.oracle);
            self.fulfil(at, wish);
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.is_some() {
                self.run(at);
            }
        }
        snapshots::carry_on(self);
    }

    fn fulfil(&mut self, client: usize, wish: Option<Wish>) {
        let at = self.clients[client].node;
        let options = self.clients[client].options();
        match wish {
            None => {}
            Some(Wish::Close(session)) => {
                if let Some(process) = &mut self.nodes[at].process {
                    process.inbox.push_back(Input::SessionClosed { session });
                }
            }
            Some(Wish::Ask(id, request)) => match &mut self.nodes[at].process {
                Some(process) => {
                    assert!(process.pending.insert(id));
                    process.inbox.push_back(Input::Asked {
                        id,
                        options,
                        request,
                    });
                }
                None => {
                    let size = self.nodes.len();
                    self.clients[client].connection_lost(&mut self.oracle, &mut self.random, size);
                }
            },
        }
    }

    fn ask_for_digest(&mut self, at: usize, database: u64, index_min: LogIndex) {
        self.digest_serial += 1;
        let session = SessionId(DIGEST_SESSION + database);
        let database = DIGESTED[database as usize].to_owned();
        let serial = self.digest_serial;
        let id = RequestId { session, serial };
        if let Some(process) = &mut self.nodes[at].process {
            process.pending.insert(id);
            process.inbox.push_back(Input::DigestAsked {
                id,
                database,
                index_min,
            });
        }
    }

    /// One node handles what has come in: in one turn, or in several.
    fn run(&mut self, at: usize) {
        if self.now < self.nodes[at].stands_still_until {
            return;
        }
        let (now, slow) = (self.now, self.random.per_mille(self.bounds.slow_disk));
        let node = &mut self.nodes[at];
        node.disk_delay = if slow {
            self.random.between(2, 60)
        } else {
            self.random.between(1, 2)
        };
        node.gather(now);
        if now % TICK == node.tick_phase {
            node.running().inbox.push_back(Input::Tick);
        }
        let inbox = &mut node.running().inbox;
        if inbox.len() > 1 && self.random.per_mille(200) {
            // Links and clients are read in any order.
            let asked_first = self.random.per_mille(500);
            let is_message = |input: &Input| matches!(input, Input::Receive { .. });
            inbox
                .make_contiguous()
                .sort_by_key(|input| is_message(input) == asked_first);
        }
        while let Some(input) = self.nodes[at].running().inbox.pop_front() {
            self.nodes[at].input(input, now);
            if self.random.per_mille(150) {
                self.nodes[at].end_turn(now);
            }
        }
        self.nodes[at].end_turn(now);
        self.flush(at);
    }

    /// Hands out what the node has to say.
    fn flush(&mut self, at: usize) {
        for (to, message) in std::mem::take(&mut self.nodes[at].sent) {
            self.note((at, to.0, message.term().0));
            let to = to.0 as usize - 1;
            self.network
                .send((at, to), &message, self.now, &mut self.random);
        }
        let status = self.nodes[at].running().replica.status();
        self.note((status.term, status.last.0, status.commit.0));
        let size = self.nodes.len();
        for (id, reply) in std::mem::take(&mut self.nodes[at].replies) {
            self.note((id.session.0, id.serial, format!("{reply:?}")));
            if self.listens_to == Some(id) {
                self.overheard = Some(reply);
                continue;
            }
            if id.session.0 >= DIGEST_SESSION {
                self.digest_answered(id, reply);
                continue;
            }
            for client in 0..self.clients.len() {
                let tools = (&mut self.oracle, &mut self.random, size);
                let before = self.clients[client].node;
                let wish = self.clients[client].answered(id, reply.clone(), self.now, tools);
                let after = std::mem::replace(&mut self.clients[client].node, before);
                self.fulfil(client, wish);
                self.clients[client].node = after;
            }
        }
    }

    /// The node that leads and serves in the highest term.
    fn leader(&self) -> Option<usize> {
        let serves = |at: &usize| {
            self.nodes[*at].process.as_ref().is_some_and(|process| {
                let leader = process.replica.leader();
                leader.is_some_and(|leader| leader.id == self.nodes[*at].id)
            })
        };
        let term = |at: &usize| {
            let process = self.nodes[*at].process.as_ref();
            process.map(|process| process.replica.status().term)
        };
        (0..self.nodes.len()).filter(serves).max_by_key(term)
    }

    pub(crate) fn harvest(&self) -> Yield {
        let nodes = || self.nodes.iter();
        Yield {
            acknowledged: self.oracle.acknowledged,
            refused: self.oracle.refused,
            unknown: self.oracle.unknown,
            reads: self.oracle.reads,
            constraint_errors: self.oracle.constraint_errors,
            digests: self.oracle.digests_taken() as u64,
            restarts: self.restarts,
            roll_backs: nodes().map(|node| node.roll_backs).sum(),
            long_runs: nodes().map(|node| node.long_runs).sum(),
            torn: nodes().map(|node| node.disk.torn).sum(),
            lost: self.network.lost,
            repeated: self.network.repeated,
            storage_reads: nodes().map(|node| node.storage_reads).sum(),
            databases: self.oracle.extra_databases,
            stand_stills: self.faults.struck.stand_stills,
            drops: self.oracle.drops,
            restores: self.oracle.restores,
            backfills: nodes().map(|node| node.backfills).sum(),
            wal_restarts: nodes().map(|node| node.wal_restarts).sum(),
            cuts: nodes().map(|node| node.cuts).sum(),
            snapshots: self.copies.installed,
            snapshots_interrupted: self.copies.interrupted,
            snapshot_files_gone: self.copies.gone,
        }
    }
}

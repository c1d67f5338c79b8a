//! The cluster: nodes, clients and the network between them, one unit of time after the other.

use std::hash::{DefaultHasher, Hash, Hasher};

use ringlite::Error;
use ringlite::replica::Input;
use ringlite::replica::request::{Reply, RequestId, SessionId};
use ringlite_raft::{
    AppendResult, Configuration, Debt, EntryKind, LogIndex, MemberRole, Message, NodeId,
    Role as RaftRole, Term,
};
use tempfile::TempDir;

use super::client::{Client, Wish};
use super::clock::TICK;
use super::faults::Faults;
use super::invariants::{
    Invariants, acknowledged_entries, durable_quorum, kept_log, leader_completeness,
};
use super::members::Newcomers;
use super::network::{Network, Weather};
use super::node::{Identity, Node};
use super::operation::{FLEETING, Operation, RESTORED, Role};
use super::operators::{OPERATOR_SESSION, Operators};
use super::oracle::Oracle;
use super::random::Random;
use super::settings::{Mode, Settings};
use super::snapshots::Snapshots;
use super::sqlite;
use super::tally::{Kind, Tally};
use super::told_log::ToldLog;

/// Sessions from here on ask for digests, each of one of these databases.
pub(super) const DIGEST_SESSION: u64 = 1 << 32;
pub(super) const DIGESTED: [&str; 4] = ["db0", "db1", FLEETING, RESTORED];

pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    pub(crate) now: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) network: Network,
    pub(super) snapshots: Snapshots,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) invariants: Invariants,
    pub(super) oracle: Oracle,
    pub(super) tally: Tally,
    pub(super) operators: Operators,
    pub(super) newcomers: Newcomers,
    /// Whether nodes and clients have faults and work.
    pub(super) is_stormy: bool,
    /// Whether leadership changes hands, and nothing goes wrong.
    pub(super) is_orderly: bool,
    pub(super) sessions: u64,
    pub(super) digest_serial: u64,
    /// The checks' own request, and its answer.
    pub(super) listens_to: Option<RequestId>,
    pub(super) overheard: Option<ringlite::Result<Reply>>,
    /// A hash over everything that happened.
    pub(crate) trace: u64,
    pub(super) directory: TempDir,
}

impl Cluster {
    pub(crate) fn new(seed: u64) -> Cluster {
        let mut random = Random::new(seed);
        let settings = Settings::drawn(seed, &mut random);
        // Files are synced, which memory does faster.
        let shared_memory = std::path::Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("ringlite-sim-");
        let directory = match shared_memory.is_dir() {
            true => builder.tempdir_in(shared_memory),
            false => builder.tempdir(),
        };
        let directory = directory.expect("a directory");
        let size = settings.size;
        let founders = Identity::founders(size).into_iter();
        let nodes = founders
            .map(|founder| Node::new(founder, directory.path(), &settings, &mut random))
            .collect();
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
            snapshots: Snapshots::default(),
            faults: Faults::new(&settings, &mut random),
            invariants: Invariants::default(),
            oracle: Oracle::default(),
            tally: Tally::default(),
            operators: Operators::default(),
            newcomers: Newcomers::default(),
            is_stormy: false,
            is_orderly: false,
            sessions: 0,
            digest_serial: 0,
            listens_to: None,
            overheard: None,
            trace: seed,
            random,
            settings,
            directory,
        };
        cluster.oracle.files_rot = cluster.settings.mode == Mode::AnyFile;
        for at in 0..size {
            cluster.start(at);
        }
        cluster.create_schema();
        cluster
    }

    pub(super) fn note(&mut self, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        (self.trace, what).hash(&mut hasher);
        self.trace = hasher.finish();
    }

    /// Starts a node from what its disk holds.
    pub(super) fn start(&mut self, at: usize) {
        let seed = self.random.number();
        let config = self.settings.config(&self.nodes[at].identity, seed);
        let is_alone = self.settings.size == 1 && !self.settings.churns;
        let started = self.nodes[at].start(config, is_alone, self.now);
        if let Err(reason) = started {
            self.note(("refuses", at));
            assert!(
                self.faults.atlas.is_damaged(at),
                "node {at} does not start, though its disk is as it should be: {reason}"
            );
            self.tally.count(Kind::RefusedStart);
            self.nodes[at].refuses = Some(reason);
            return;
        }
        // What was damaged was no part of the log, or is none any more, or has to be repaired.
        let owes = self.nodes[at].disk.owes();
        self.tally.add(
            Kind::DamageFound,
            u64::from(owes && self.faults.atlas.is_damaged(at)),
        );
        self.faults.atlas.started(at, owes);
        let status = self.nodes[at].running().replica.status();
        self.note(("start", at, status.term, status.last.0, status.commit.0));
        self.invariants.seen.restarted(at, status.term);
        self.invariants
            .elections
            .restarted(at, self.nodes[at].found);
        let log = &self.nodes[at].told;
        let mut before = log.base.term;
        for (index, held) in &log.entries {
            self.invariants.entries.appended(*index, *held, before);
            before = held.term;
        }
        self.flush(at);
    }

    /// The process ends, with the power of its node or alone. Peers and clients may learn of it.
    pub(super) fn crash(&mut self, at: usize, power_fails: bool) {
        self.note(("crash", at, power_fails));
        if power_fails {
            self.tally.count(Kind::PowerLoss);
            self.nodes[at].disk.lose_power(&mut self.tally);
        } else {
            self.tally.count(Kind::Kill);
            self.nodes[at].disk.kill(&mut self.tally);
        }
        self.end_process(at);
    }

    pub(super) fn end_process(&mut self, at: usize) {
        let is_switching = self.nodes[at].disk.is_switching();
        self.tally.add(Kind::SwitchCrash, u64::from(is_switching));
        drop(self.nodes[at].forget());
        self.snapshots.process_ended(at);
        self.operators.process_ended(at);
        if self.is_stormy && self.random.per_mille(400) {
            let soon = self.now + self.random.between(1, 12);
            self.nodes[at].restarts_at = Some(soon);
        }
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
    pub(super) fn lose_connection(&mut self, at: usize, peer: usize) {
        let id = self.nodes[peer].id;
        if at != peer
            && let Some(process) = &mut self.nodes[at].process
        {
            process.inbox.push_back(Input::PeerLost { peer: id });
        }
    }

    /// One unit of time with faults and clients that go on with new operations.
    pub(crate) fn step_in_storm(&mut self) {
        if !self.is_stormy {
            self.is_stormy = true;
            let slow_time_max = 5 * u64::from(self.settings.election_ticks_max) * 4;
            if self.settings.scheme.is_none() {
                self.network.weather = Weather::drawn(&mut self.random, slow_time_max);
            }
        }
        self.strike();
        self.operate();
        self.change_members();
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

    pub(super) fn begin_operation(&mut self, client: usize) {
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
        let is_cut = |link| self.network.is_cut(link, self.now);
        let linked = |peer: &usize| !is_cut((at, *peer)) && !is_cut((*peer, at));
        (0..self.nodes.len()).filter(linked).count() > self.nodes.len() / 2
    }

    /// One unit of time.
    pub(super) fn step(&mut self) {
        self.now += 1;
        for (from, to, message) in self.network.arrivals(self.now, &mut self.tally) {
            let from = self.nodes[from].id;
            if let Some(process) = &mut self.nodes[to].process {
                process.inbox.push_back(Input::Receive { from, message });
            }
        }
        for at in 0..self.clients.len() {
            let wish = self.clients[at].act(self.now, &mut self.sessions, &mut self.oracle);
            self.fulfil(at, wish);
        }
        self.stream_snapshots();
        self.carry_on_stops();
        self.carry_on_changes();
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.is_some() {
                self.run(at);
            }
        }
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

    pub(super) fn ask_for_digest(&mut self, at: usize, database: u64, index_min: LogIndex) {
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
        let now = self.now;
        let node = &mut self.nodes[at];
        if now < node.stands_still_until {
            return;
        }
        sqlite::set_time(node.clock.julian_day(now));
        node.gather(now);
        let ticks = node.clock.ticks(now);
        node.disk.tick(ticks);
        let inbox = &mut node.running().inbox;
        if inbox.len() > 1 && self.random.per_mille(200) {
            // Links and clients are read in any order.
            let asked_first = self.random.per_mille(500);
            let is_message = |input: &Input| matches!(input, Input::Receive { .. });
            inbox
                .make_contiguous()
                .sort_by_key(|input| is_message(input) == asked_first);
        }
        // Leases need the ticks that have passed to come before everything else.
        let ticks_first = self.settings.lease_ticks > 0 || self.random.per_mille(500);
        let inbox = &mut self.nodes[at].running().inbox;
        for _ in 0..ticks {
            match ticks_first {
                true => inbox.push_front(Input::Tick),
                false => inbox.push_back(Input::Tick),
            }
        }
        while let Some(input) = self.nodes[at].running().inbox.pop_front() {
            self.nodes[at].input(input, now);
            let status = self.nodes[at].running().replica.status();
            self.invariants.seen.step(at, status.term, status.commit);
            let is_last = self.nodes[at].crashes_at.is_some();
            if self.random.per_mille(150) && !is_last {
                self.nodes[at].end_turn(now);
                self.look(at);
            }
        }
        self.nodes[at].end_turn(now);
        self.flush(at);
    }

    /// Checks what a node has done to its log, at the end of a turn.
    fn look(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for (index, held, before) in std::mem::take(&mut node.appended) {
            self.invariants.entries.appended(index, held, before);
        }
        let cut = node.cut.take();
        if node.trouble.is_some() {
            // The turn has no end.
            return;
        }
        let status = node.running().replica.status();
        let node = &self.nodes[at];
        if status.role == RaftRole::Leader && self.invariants.elections.leads(at, Term(status.term))
        {
            self.tally.count(Kind::Election);
            let committed = &self.invariants.committed;
            let term = Term(status.term);
            leader_completeness::check(&node.told.entries, node.told.base.index, term, committed);
        }
        for index in node.checked.0 + 1..=status.commit.0 {
            let index = LogIndex(index);
            let entry = node.told.entries.get(&index).copied();
            let entry = entry.expect("what is committed is in the log");
            if self
                .invariants
                .committed
                .commits(index, entry, Term(status.term))
            {
                self.tally.count(Kind::Commit);
                let is_change = entry.kind == EntryKind::Configuration;
                self.tally.add(Kind::Reconfigured, u64::from(is_change));
                let holders = self
                    .nodes
                    .iter()
                    .filter(|node| node.disk.holds_or_owes(index, entry));
                let holders = holders.map(|node| node.id).collect();
                durable_quorum::check(index, &holders, &self.voters_at(at, index));
            }
        }
        if let Some(up_to) = cut {
            let cut = kept_log::Cut {
                up_to,
                bytes_behind: self.nodes[at].told.bytes_behind(up_to),
                window_bytes: self.settings.log_window_bytes,
                held_from: self.held_from(at),
            };
            // Those that have been members ever since, as far as anybody knows.
            let configurations = self.configurations_at(at, up_to);
            let is_kept_for = |node: &&Node| {
                let role = |known: &&Configuration| known.role(node.id);
                let mut roles = configurations.iter().map(role);
                roles.all(|role| role.is_some_and(MemberRole::replicates))
            };
            let members = self.nodes.iter().filter(is_kept_for);
            let disks = members.map(|node| (node.id, &node.disk));
            kept_log::check(&cut, disks, &self.invariants.committed);
        }
        self.nodes[at].checked = status.commit.max(self.nodes[at].checked);
    }

    /// Hands out what the node has to say.
    fn flush(&mut self, at: usize) {
        self.look(at);
        let status = self.nodes[at].running().replica.status();
        for (to, message) in std::mem::take(&mut self.nodes[at].sent) {
            self.note((at, to.0, message.term().0));
            let Some(to) = self.position(to).filter(|to| self.are_linked(at, *to)) else {
                continue;
            };
            self.check_message(at, to, &message, status.term);
            let tools = (&mut self.random, &mut self.tally);
            self.network.send((at, to), &message, self.now, tools);
        }
        self.note((status.term, status.last.0, status.commit.0));
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let directory_name = self.directory.path().display().to_string();
        for (id, reply) in std::mem::take(&mut self.nodes[at].replies) {
            // Texts may name files, whose directory has another name in each run.
            let text = format!("{reply:?}").replace(&directory_name, "");
            self.note((id.session.0, id.serial, text));
            if self.listens_to == Some(id) {
                self.overheard = Some(reply);
                continue;
            }
            if id.session == OPERATOR_SESSION {
                self.operator_answered(id, reply);
                continue;
            }
            let idle_time = self.settings.write_idle_ticks * TICK * 9 / 10;
            let has_idled = |client: &Client| client.has_idled(id, idle_time);
            assert!(
                !self.is_orderly
                    || !matches!(reply, Err(Error::OutcomeUnknown))
                    || self.clients.iter().any(has_idled),
                "{id:?} is left without a known outcome by a leader that hands over"
            );
            if id.session.0 >= DIGEST_SESSION {
                self.digest_answered(id, reply);
                continue;
            }
            for client in 0..self.clients.len() {
                let tools = (&mut self.oracle, &mut self.random, ids.as_slice());
                let before = self.clients[client].node;
                let wish = self.clients[client].answered(id, reply.clone(), self.now, tools);
                let after = std::mem::replace(&mut self.clients[client].node, before);
                self.fulfil(client, wish);
                self.clients[client].node = after;
            }
        }
        if !self.nodes[at].disk.owes() && self.faults.atlas.settled(at) {
            self.tally.count(Kind::Repaired);
        }
        if let Some(trouble) = self.nodes[at].trouble {
            // The runtime stops a node whose disk fails.
            self.note(("trouble", at, trouble));
            self.nodes[at].disk.kill(&mut self.tally);
            self.end_process(at);
        }
    }

    fn check_message(&mut self, from: usize, to: usize, message: &Message, current: u64) {
        match message {
            Message::Vote {
                term,
                last_index,
                last_term,
                ..
            } => {
                let end = Debt {
                    term: *last_term,
                    index: *last_index,
                };
                let disk = &self.nodes[from].disk;
                self.invariants.candidacies.stands(disk, from, *term, end);
            }
            Message::VoteReply {
                term,
                granted: true,
            } => {
                let disk = &self.nodes[from].disk;
                self.invariants.candidacies.voted(disk, from, *term, to);
                let candidate = self.nodes[to].id;
                self.invariants.elections.voted(from, *term, candidate);
            }
            Message::AppendReply {
                term,
                result: AppendResult::Accepted { match_index },
            } => acknowledged_entries::check(&self.nodes[from].disk, *match_index, term.0, current),
            _ => {}
        }
        let says_own_term = !matches!(
            message,
            Message::PreVote { .. } | Message::PreVoteReply { granted: true, .. }
        );
        if says_own_term {
            self.invariants.seen.said(from, message.term().0);
        }
    }

    /// The members as of an entry that a node has, and all later ones that anybody knows of.
    fn configurations_at(&self, at: usize, index: LogIndex) -> Vec<&Configuration> {
        let own = self.nodes[at].told.configuration_at(index).into_iter();
        let all = self.nodes.iter();
        let later = all.flat_map(|node| node.told.configurations_behind(index));
        own.chain(later).collect()
    }

    /// The sets of voters by which an entry may have become committed, as the newest one in the leader's
    /// log counts.
    fn voters_at(&self, at: usize, index: LogIndex) -> Vec<Vec<NodeId>> {
        let configurations = self.configurations_at(at, index).into_iter();
        let mut sets: Vec<Vec<NodeId>> = configurations
            .map(|configuration| configuration.voters().collect())
            .collect();
        sets.sort();
        sets.dedup();
        sets
    }

    /// Whether a message gets from one node to another: by a link of the sender's, or because the
    /// receiver has dialled it.
    fn are_linked(&self, from: usize, to: usize) -> bool {
        let (sender, receiver) = (&self.nodes[from], &self.nodes[to]);
        let has_dialled = receiver.process.is_some() && receiver.links.contains(&sender.id);
        sender.links.contains(&receiver.id) || has_dialled
    }

    /// The node that leads and serves in the highest term.
    pub(super) fn leader(&self) -> Option<usize> {
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

    /// The nodes that hold the log, as the leader knows them, and have not refused to start.
    pub(super) fn sound(&self) -> Vec<usize> {
        let leader = self.leader().map(|leader| &self.nodes[leader].told);
        let known = leader.and_then(ToldLog::configuration);
        let is_sound = |at: &usize| {
            let node = &self.nodes[*at];
            let role = known.map(|known| known.role(node.id));
            let holds_the_log = role.is_none_or(|role| role.is_some_and(MemberRole::replicates));
            node.refuses.is_none() && !node.is_retired && holds_the_log
        };
        (0..self.nodes.len()).filter(is_sound).collect()
    }

    pub(crate) fn harvest(&self) -> Tally {
        let mut sum = self.tally.clone();
        sum.merge(&self.oracle.tally);
        for node in &self.nodes {
            sum.merge(&node.tally);
        }
        let nodes = self.nodes.iter();
        let wrong = nodes.filter(|node| !node.clock.is_right()).count();
        sum.add(Kind::ClockRate, wrong as u64);
        sum.add(Kind::Lease, u64::from(self.settings.lease_ticks > 0));
        sum.add(Kind::Created, self.oracle.extra_databases);
        sum
    }
}

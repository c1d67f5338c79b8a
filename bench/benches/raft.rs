//! The steps of one commit on three replicas, in memory: propose, append, acknowledge, commit.

use std::collections::VecDeque;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringlite_raft::{
    Config, Effect, EntryKind, HardState, Input, LogIndex, Message, NodeId, Raft, RestoredLog, Role,
};

const NODES: u64 = 3;
/// Proposals of one turn.
const BATCH: usize = 64;
/// More than an election takes.
const TICKS_MAX: usize = 1_000;

/// Three replicas whose disks and network take no time and lose nothing.
struct Cluster {
    replicas: Vec<Raft>,
    mail: VecDeque<(NodeId, NodeId, Message)>,
    committed: Vec<LogIndex>,
    leader: usize,
}

impl Cluster {
    /// With an elected leader that serves.
    fn new() -> Self {
        let voters: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
        let replicas = voters.iter().map(|&id| {
            let config = Config::new(id, voters.clone(), id.0);
            Raft::new(config, HardState::default(), RestoredLog::default())
                .expect("an empty log fits any voter")
        });
        let mut cluster = Self {
            replicas: replicas.collect(),
            mail: VecDeque::new(),
            committed: vec![LogIndex::ZERO; NODES as usize],
            leader: 0,
        };
        for _ in 0..TICKS_MAX {
            for replica in &mut cluster.replicas {
                replica.step(Input::Tick);
            }
            cluster.settle();
            let leads = |replica: &Raft| replica.status().role == Role::Leader;
            if let Some(leader) = cluster.replicas.iter().position(leads) {
                cluster.leader = leader;
                return cluster;
            }
        }
        panic!("no leader after {TICKS_MAX} ticks");
    }

    /// Commits `payloads` as the entries of one turn.
    fn commit(&mut self, payloads: impl IntoIterator<Item = Bytes>) {
        let mut last = LogIndex::ZERO;
        for payload in payloads {
            last = self.replicas[self.leader]
                .propose(EntryKind::Data, payload)
                .expect("no time passes, so that no leader is deposed");
        }
        self.settle();
        assert!(self.committed[self.leader] >= last);
    }

    /// Works until nothing is left to do.
    fn settle(&mut self) {
        (0..self.replicas.len()).for_each(|at| self.turn(at));
        while let Some((from, to, message)) = self.mail.pop_front() {
            let at = to.0 as usize - 1;
            self.replicas[at].step(Input::Receive { from, message });
            self.turn(at);
        }
    }

    /// Executes the effects of one replica, until it has no more.
    fn turn(&mut self, at: usize) {
        loop {
            let mut persisted = None;
            for effect in self.replicas[at].take_effects() {
                match effect {
                    Effect::SaveHardState { io, .. } | Effect::Append { io, .. } => {
                        persisted = Some(io);
                    }
                    Effect::Send { to, message, .. } => {
                        self.mail.push_back((NodeId(at as u64 + 1), to, message));
                    }
                    Effect::Committed { up_to } => {
                        self.committed[at] = up_to;
                        self.replicas[at].applied(up_to);
                    }
                    other => drop(black_box(other)),
                }
            }
            match persisted {
                Some(io) => self.replicas[at].step(Input::Persisted { io }),
                None => return,
            }
        }
    }
}

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raft/commit on 3 nodes");
    let payload = Bytes::from(vec![0xa5; 500]);
    for entries in [1, BATCH] {
        let mut cluster = Cluster::new();
        group.throughput(Throughput::Elements(entries as u64));
        group.bench_function(format!("{entries} per turn"), |bencher| {
            bencher.iter(|| cluster.commit(std::iter::repeat_n(payload.clone(), entries)));
        });
    }
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);

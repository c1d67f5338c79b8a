//! Members that come and go, leadership that moves, snapshots under way, and processes that stand
//! still for a while.

use super::disk::Snapshot;
use super::random::Random;
use super::{Cluster, TICK};
use bytes::Bytes;
use ringlite_raft::{
    Input, InstallError, MemberRole, MembershipChange, NodeId, Role, SnapshotResult,
};
use std::collections::BTreeSet;

/// The chances of a run, per ten thousand units of time.
pub(crate) struct Churn {
    change: u64,
    transfer: u64,
    pause: u64,
    /// Who was ever proposed for removal: no id is used twice.
    left: BTreeSet<NodeId>,
    /// Snapshots on their way.
    streams: Vec<Stream>,
}

struct Stream {
    due: u64,
    from: usize,
    /// Which life of the sender it belongs to.
    life: u64,
    to: usize,
    snapshot: Snapshot,
}

impl Churn {
    pub(super) fn new(random: &mut Random, members_change: bool) -> Churn {
        Churn {
            change: if members_change { 300 } else { 0 },
            transfer: [0, 40][random.below(2) as usize],
            pause: [0, 30][random.below(2) as usize],
            left: BTreeSet::new(),
            streams: Vec::new(),
        }
    }
}

/// Perhaps somebody asks for a change now, or a process stands still.
pub(super) fn strike(cluster: &mut Cluster) {
    let at = cluster.random.below(cluster.nodes.len() as u64) as usize;
    let chance = |cluster: &mut Cluster, chance: u64| cluster.random.below(10_000) < chance;
    if chance(cluster, cluster.churn.change) {
        cluster.change_members(at);
    }
    if chance(cluster, cluster.churn.transfer) {
        let to = NodeId(cluster.random.between(1, cluster.nodes.len() as u64));
        let to = cluster.random.per_mille(600).then_some(to);
        if let Some(raft) = &mut cluster.nodes[at].raft {
            // A refusal is fine.
            let _ = raft.transfer(to);
        }
    }
    if chance(cluster, cluster.churn.pause) && cluster.nodes[at].raft.is_some() {
        cluster.faults.struck.pauses += 1;
        cluster.nodes[at].paused_until = cluster.now + cluster.random.between(1, 60 * TICK);
    }
}

/// The snapshots that have arrived by now.
pub(super) fn deliver_snapshots(cluster: &mut Cluster) {
    let now = cluster.now;
    let streams = std::mem::take(&mut cluster.churn.streams);
    for stream in streams {
        if stream.due > now {
            cluster.churn.streams.push(stream);
            continue;
        }
        let sender = &cluster.nodes[stream.from];
        if sender.raft.is_none() || sender.life != stream.life {
            continue;
        }
        let result = cluster.arrive(&stream);
        if let Some(result) = result {
            let peer = NodeId(stream.to as u64 + 1);
            let input = Input::SnapshotSent { peer, result };
            cluster.nodes[stream.from].inbox.push(input);
        } else {
            cluster.churn.streams.push(Stream {
                due: now + 4,
                ..stream
            });
        }
    }
}

impl Cluster {
    fn change_members(&mut self, at: usize) {
        let size = self.nodes.len() as u64;
        let Some(raft) = &mut self.nodes[at].raft else {
            return;
        };
        if raft.status().role != Role::Leader {
            return;
        }
        let random = &mut self.random;
        let id = NodeId(random.between(1, size));
        let role = match random.below(4) {
            0 => MemberRole::Spare,
            1 => MemberRole::Standby,
            _ => MemberRole::Voter,
        };
        let context = Bytes::copy_from_slice(&random.number().to_le_bytes());
        let change = match raft.configuration().role(id) {
            None if self.churn.left.contains(&id) => return,
            None => MembershipChange::Add { id, role, context },
            Some(_) if random.per_mille(150) => MembershipChange::Remove { id },
            Some(_) if random.per_mille(100) => MembershipChange::SetContext { id, context },
            Some(_) => MembershipChange::SetRole { id, role },
        };
        if raft.change_membership(&change).is_ok()
            && let MembershipChange::Remove { id } = change
        {
            self.churn.left.insert(id);
        }
    }

    /// A leader begins to stream what it has applied.
    pub(super) fn send_snapshot(&mut self, at: usize, peer: NodeId) {
        let node = &self.nodes[at];
        let raft = node.raft.as_ref().expect("a running node");
        let (index, life) = (node.applied, node.life);
        let configuration = raft.configuration_at(index).expect("in the log").clone();
        let entries = self.invariants.committed.entries[..index.0 as usize].to_vec();
        let due = self.now + self.random.between(2, 30 * TICK);
        self.churn.streams.push(Stream {
            due,
            from: at,
            life,
            to: peer.0 as usize - 1,
            snapshot: Snapshot {
                entries,
                configuration,
            },
        });
    }

    /// A snapshot is complete at the receiver, or fails. `None`: it is still being installed.
    fn arrive(&mut self, stream: &Stream) -> Option<SnapshotResult> {
        let base = stream.snapshot.base();
        let cut = self.network.cut.contains(&(stream.from, stream.to));
        let fails = cut || self.random.per_mille(100);
        let done_at = self.now + self.random.between(1, 20);
        let node = &mut self.nodes[stream.to];
        let paused = self.now < node.paused_until;
        let (false, false, Some(raft)) = (fails, paused, &mut node.raft) else {
            return Some(SnapshotResult::Failed);
        };
        let installed = SnapshotResult::Installed { base: base.index };
        match raft.begin_install(base) {
            Ok(()) => {
                node.disk.start_install(stream.snapshot.clone(), done_at);
                None
            }
            Err(InstallError::NotNeeded { .. }) => Some(installed),
            Err(InstallError::Installing { base: other }) if other == base.index => None,
            Err(_) => Some(SnapshotResult::Failed),
        }
    }

    /// The switch to a snapshot, if it is due.
    pub(super) fn complete_install(&mut self, at: usize) {
        let Some(snapshot) = self.nodes[at].disk.complete_install(self.now) else {
            return;
        };
        self.faults.struck.installs += 1;
        let base = snapshot.base();
        let node = &mut self.nodes[at];
        node.applied = base.index;
        node.told = snapshot.entries.iter().map(|entry| entry.term).collect();
        node.readings.clear();
        let configuration = snapshot.configuration;
        self.input(
            at,
            Input::Installed {
                base,
                configuration,
            },
        );
        self.flush(at);
    }
}

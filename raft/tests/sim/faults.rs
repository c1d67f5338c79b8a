//! What goes wrong, and when: crashes, partitions of several shapes, connections that are reset.

use super::Cluster;
use super::damage;
use super::random::Random;

/// How often each kind of fault really happened. A kind that never happens tests nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Struck {
    pub(crate) crashes: u64,
    pub(crate) partitions: u64,
    pub(crate) one_way: u64,
    pub(crate) resets: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) torn: u64,
    pub(crate) cuts: u64,
    pub(crate) log_cuts: u64,
    pub(crate) removed: u64,
    pub(crate) starts_behind_a_base: u64,
    pub(crate) changes: u64,
    pub(crate) transfers: u64,
    pub(crate) transfers_abandoned: u64,
    pub(crate) pauses: u64,
    pub(crate) installs: u64,
    pub(crate) hangs: u64,
    pub(crate) lease_reads: u64,
    pub(crate) rotten: u64,
    pub(crate) repaired: u64,
}

/// The chances of a run, per ten thousand units of time.
pub(crate) struct Faults {
    crash: u64,
    restart: u64,
    partition: u64,
    mend: u64,
    reset: u64,
    /// Without a means to bring a node up to date that lacks what was cut, logs are not cut then.
    pub(super) rot: u64,
    pub(super) struck: Struck,
}

impl Faults {
    pub(super) fn new(random: &mut Random) -> Faults {
        Faults {
            crash: [0, 20, 80][random.below(3) as usize],
            restart: random.between(50, 400),
            partition: [0, 30, 100][random.below(3) as usize],
            mend: random.between(50, 300),
            reset: [0, 20, 60][random.below(3) as usize],
            rot: [0, 0, 300][random.below(3) as usize],
            struck: Struck::default(),
        }
    }
}

/// Perhaps something goes wrong now, or is repaired.
pub(super) fn strike(cluster: &mut Cluster) {
    let size = cluster.nodes.len();
    let at = cluster.random.below(size as u64) as usize;
    let chance = |cluster: &mut Cluster, chance: u64| cluster.random.below(10_000) < chance;
    if cluster.nodes[at].raft.is_none() {
        if chance(cluster, cluster.faults.rot) {
            damage::strike(cluster, at);
        }
        if chance(cluster, cluster.faults.restart) {
            cluster.start(at);
        }
    } else if chance(cluster, cluster.faults.crash) {
        cluster.faults.struck.crashes += 1;
        cluster.crash(at);
        // Now and then the power of the whole room fails.
        if chance(cluster, 1500) {
            (0..size).for_each(|other| {
                if cluster.nodes[other].raft.is_some() {
                    cluster.crash(other);
                }
            });
        }
    }
    if size > 1 && chance(cluster, cluster.faults.partition) {
        cut(cluster, at);
    }
    if chance(cluster, cluster.faults.mend) {
        cluster.network.cut.clear();
    }
    if size > 1 && chance(cluster, cluster.faults.reset) {
        let peer = cluster.random.below(size as u64) as usize;
        cluster.faults.struck.resets += 1;
        cluster.lose_connection(at, peer);
    }
}

fn cut(cluster: &mut Cluster, at: usize) {
    let size = cluster.nodes.len();
    let random = &mut cluster.random;
    let links = &mut cluster.network.cut;
    let struck = &mut cluster.faults.struck;
    match random.below(4) {
        // Two groups.
        0 => {
            let side = random.number();
            let side_of = |node: usize| (side >> node) & 1;
            let pairs = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
            links.extend(pairs.filter(|&(from, to)| side_of(from) != side_of(to)));
            struck.partitions += 1;
        }
        // One link, both ways: a partial mesh.
        1 => {
            let peer = random.below(size as u64) as usize;
            links.extend([(at, peer), (peer, at)]);
            struck.partitions += 1;
        }
        // One node is deaf, or dumb.
        2 => {
            let deaf = random.per_mille(500);
            links.extend((0..size).map(|peer| if deaf { (peer, at) } else { (at, peer) }));
            struck.one_way += 1;
        }
        // One link, one way.
        _ => {
            let peer = random.below(size as u64) as usize;
            links.insert((at, peer));
            struck.one_way += 1;
        }
    }
}

//! What goes wrong, and when: crashes, partitions of several shapes, connections that are reset.

use super::Cluster;
use super::random::Random;

/// How often each kind of fault really happened. A kind that never happens tests nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Struck {
    pub(crate) crashes: u64,
    pub(crate) partitions: u64,
    pub(crate) one_way: u64,
    pub(crate) resets: u64,
    pub(crate) stand_stills: u64,
}

impl Struck {
    pub(crate) fn add(&mut self, other: &Struck) {
        self.crashes += other.crashes;
        self.partitions += other.partitions;
        self.one_way += other.one_way;
        self.resets += other.resets;
        self.stand_stills += other.stand_stills;
    }

    pub(crate) fn is_rich(&self) -> bool {
        [self.crashes, self.partitions, self.one_way, self.resets]
            .iter()
            .all(|count| *count > 0)
    }
}

/// The chances of a run, per ten thousand units of time.
pub(crate) struct Faults {
    crash: u64,
    restart: u64,
    partition: u64,
    mend: u64,
    reset: u64,
    stand_still: u64,
    pub(crate) struck: Struck,
}

impl Faults {
    pub(super) fn new(random: &mut Random) -> Faults {
        Faults {
            crash: random.one_of(&[0, 10, 30]),
            restart: random.between(50, 400),
            partition: random.one_of(&[0, 60, 150]),
            mend: random.between(20, 200),
            reset: random.one_of(&[0, 20, 60]),
            stand_still: random.one_of(&[0, 30, 100]),
            struck: Struck::default(),
        }
    }
}

/// Perhaps something goes wrong now, or is repaired.
pub(super) fn strike(cluster: &mut Cluster) {
    let size = cluster.nodes.len();
    let at = cluster.random.below(size as u64) as usize;
    let chance = |cluster: &mut Cluster, chance: u64| cluster.random.below(10_000) < chance;
    if cluster.nodes[at].process.is_none() {
        if chance(cluster, cluster.faults.restart) {
            cluster.start(at);
        }
    } else if chance(cluster, cluster.faults.crash) {
        cluster.faults.struck.crashes += 1;
        cluster.crash(at);
        // Now and then the power of the whole room fails.
        if chance(cluster, 1500) {
            for other in 0..size {
                if cluster.nodes[other].process.is_some() {
                    cluster.crash(other);
                }
            }
        }
    }
    if size > 1 && chance(cluster, cluster.faults.partition) {
        cut(cluster, at);
    }
    if chance(cluster, cluster.faults.stand_still) {
        stop(cluster, at);
    }
    for at in 0..size {
        let now = cluster.now;
        if cluster.nodes[at].crashes_at.is_some_and(|then| then <= now) {
            cluster.faults.struck.crashes += 1;
            cluster.crash(at);
        }
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

/// A process gets no time for a while, and has a lot to do in one turn then; now and then it is
/// its last one.
fn stop(cluster: &mut Cluster, at: usize) {
    let at = cluster
        .leader()
        .filter(|_| cluster.random.per_mille(300))
        .unwrap_or(at);
    let until = cluster.now + cluster.random.between(5, 150);
    let crashes = cluster.random.per_mille(200);
    let soon = until + cluster.random.between(1, 6);
    let node = &mut cluster.nodes[at];
    if node.process.is_some() {
        cluster.faults.struck.stand_stills += 1;
        node.stands_still_until = until;
        node.crashes_at = crashes.then_some(soon);
    }
}

fn cut(cluster: &mut Cluster, at: usize) {
    let size = cluster.nodes.len();
    let leader = cluster.leader();
    let random = &mut cluster.random;
    // The leader is the most interesting one.
    let at = leader.filter(|_| random.per_mille(600)).unwrap_or(at);
    let links = &mut cluster.network.cut;
    let struck = &mut cluster.faults.struck;
    match random.below(7) {
        // Two groups.
        0 => {
            let side = random.number();
            let side_of = |node: usize| (side >> node) & 1;
            let pairs = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
            links.extend(pairs.filter(|&(from, to)| side_of(from) != side_of(to)));
            struck.partitions += 1;
        }
        // One node is alone.
        1..4 => {
            links.extend((0..size).flat_map(|peer| [(at, peer), (peer, at)]));
            struck.partitions += 1;
        }
        // One link, both ways: a partial mesh.
        4 => {
            let peer = random.below(size as u64) as usize;
            links.extend([(at, peer), (peer, at)]);
            struck.partitions += 1;
        }
        // One node is deaf, or dumb.
        5 => {
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

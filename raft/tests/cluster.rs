//! Clusters of one, three and five nodes under faults, from seeds.
//!
//! `RAFT_SEEDS` sets how many seeds run (300 by default), `RAFT_SEED` runs a single one:
//! `RAFT_SEED=17 cargo test -p ringlite-raft --test cluster`. `RINGLITE_MUTATION` switches a known bug on, in a
//! build with the feature `mutations`.

mod sim;

use sim::faults::Struck;
use sim::{Cluster, TICK};

const SEEDS: u64 = 300;
const FAULTY_TICKS: u64 = 300;

/// Runs one seed: faults, then healing. Returns the cluster for what the tests want to count.
fn run(seed: u64) -> Cluster {
    let size = [3, 5, 3, 1, 3][seed as usize % 5];
    let mut cluster = Cluster::new(seed, size);
    for _ in 0..FAULTY_TICKS * TICK {
        cluster.step_with_faults();
    }
    cluster.heal();
    cluster.check_liveness();
    cluster
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

#[test]
fn all_invariants_hold_under_faults_and_the_cluster_heals() {
    #[cfg(feature = "mutations")]
    if let Ok(name) = std::env::var("RINGLITE_MUTATION") {
        ringlite_raft::mutation::switch_on(&name);
    }
    if let Some(seed) = setting("RAFT_SEED") {
        run(seed);
        return;
    }
    let seeds = setting("RAFT_SEEDS").unwrap_or(SEEDS);
    let mut sum = Struck::default();
    let (mut elections, mut committed, mut reads, mut storage_reads) = (0, 0, 0, 0);
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let cluster = outcome.unwrap_or_else(|panic| {
            eprintln!("reproduce: RAFT_SEED={seed} cargo test -p ringlite-raft --test cluster");
            std::panic::resume_unwind(panic)
        });
        let struck = cluster.faults_struck();
        sum.crashes += struck.crashes;
        sum.partitions += struck.partitions;
        sum.one_way += struck.one_way;
        sum.resets += struck.resets;
        sum.lost += struck.lost;
        sum.repeated += struck.repeated;
        sum.torn += struck.torn;
        sum.cuts += struck.cuts;
        sum.log_cuts += struck.log_cuts;
        sum.removed += struck.removed;
        sum.starts_behind_a_base += struck.starts_behind_a_base;
        sum.changes += struck.changes;
        sum.transfers += struck.transfers;
        sum.transfers_abandoned += struck.transfers_abandoned;
        sum.pauses += struck.pauses;
        sum.installs += struck.installs;
        sum.hangs += struck.hangs;
        sum.lease_reads += struck.lease_reads;
        sum.rotten += struck.rotten;
        sum.repaired += struck.repaired;
        elections += cluster.invariants.elections.count();
        committed += cluster.invariants.committed.entries.len();
        reads += cluster.reads_answered;
        storage_reads += cluster.storage_reads;
    }
    println!("{seeds} seeds: {sum:?}");
    println!(
        "{elections} elections, {committed} committed, {reads} reads, {storage_reads} from storage"
    );
    let kinds = [
        sum.crashes,
        sum.partitions,
        sum.one_way,
        sum.resets,
        sum.lost,
        sum.repeated,
        sum.torn,
        sum.cuts,
        sum.log_cuts,
        sum.removed,
        sum.starts_behind_a_base,
        sum.changes,
        sum.transfers,
        sum.transfers_abandoned,
        sum.pauses,
        sum.installs,
        sum.hangs,
        sum.lease_reads,
        sum.rotten,
        sum.repaired,
        storage_reads,
        reads,
    ];
    assert!(
        seeds < 100 || kinds.iter().all(|&count| count > 0),
        "a kind of fault never struck"
    );
    assert!(
        seeds < 100 || committed as u64 > seeds * 20,
        "too little was committed to test much"
    );
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0..10 {
        assert_eq!(
            run(seed).trace,
            run(seed).trace,
            "seed {seed} ran in two ways"
        );
    }
    assert_ne!(
        run(0).trace,
        run(2).trace,
        "the trace does not depend on the run"
    );
}

//! Clusters of one, three and five replicas with SQL clients under faults, from seeds.
//!
//! `REPLICA_SEEDS=100..2000 cargo test -p ringlite --test replica_cluster` runs those seeds, and
//! `REPLICA_SEEDS=17` runs one.

mod replica_sim;

use std::ops::Range;

use replica_sim::faults::Struck;
use replica_sim::{Cluster, Yield};

const SEEDS: Range<u64> = 0..60;
const STORM_UNITS: u64 = 4_000;

/// Runs one seed: a storm, then healing, then the checks.
fn run(seed: u64) -> Cluster {
    let size = [3, 3, 5, 3, 1][seed as usize % 5];
    let mut cluster = Cluster::new(seed, size);
    for _ in 0..STORM_UNITS {
        cluster.step_in_storm();
    }
    cluster.heal();
    cluster.check();
    cluster
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("REPLICA_SEEDS") else {
        return SEEDS;
    };
    let number = |text: &str| -> u64 {
        text.parse()
            .unwrap_or_else(|_| panic!("REPLICA_SEEDS is A..B or one number, not {text:?}"))
    };
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    }
}

#[test]
fn no_promise_is_broken_under_faults_and_the_cluster_heals() {
    let seeds = seeds();
    let count = seeds.end - seeds.start;
    let mut sum = Yield::default();
    let mut struck = Struck::default();
    let mut failed = Vec::new();
    for seed in seeds {
        let Ok(cluster) = std::panic::catch_unwind(|| run(seed)) else {
            println!("REPLICA_SEEDS={seed} fails");
            failed.push(seed);
            continue;
        };
        sum.add(&cluster.harvest());
        struck.add(&cluster.faults.struck);
    }
    println!("{count} seeds: {sum:?} {struck:?}");
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
    assert!(
        count < 50 || (sum.is_rich(count) && struck.is_rich()),
        "something never happened, so that it was not tested"
    );
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [0, 1, 2] {
        assert_eq!(run(seed).trace, run(seed).trace, "seed {seed}");
    }
    assert_ne!(run(0).trace, run(1).trace);
}

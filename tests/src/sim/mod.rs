//! The simulator: a whole cluster in one thread.
//!
//! The replicas, the consensus core, the formats of the log, their recovery, the VFS and SQLite are
//! the real ones; network, drives, clocks, clients and faults are simulated. A run is a function of
//! its seed: first a storm, in which everything goes wrong that [`tally::Kind`] lists, then healing,
//! then the checks that need a cluster that works. Everything in `invariants` is checked all the time.
//!
//! A process runs one simulation at a time, on one thread: SQLite's source of random numbers is one
//! per process, so that runs side by side would shift each other's draws. [`crate::sim_farm`] runs
//! many seeds, in as many processes as there are cores.

mod adversary;
mod atlas;
mod client;
mod clock;
mod cluster;
mod databases;
mod disk;
mod faults;
mod healing;
mod invariants;
mod members;
mod network;
mod node;
mod operation;
mod operators;
mod oracle;
mod random;
mod settings;
mod snapshots;
mod sqlite;
pub mod tally;
mod told_log;

use cluster::Cluster;
use settings::Mode;
use tally::{Kind, Tally};

/// What came of a seed.
pub struct Outcome {
    /// A hash over everything that happened: equal for equal seeds.
    pub trace: u64,
    /// The simulated time, in microseconds.
    pub microseconds: u64,
    /// What happened.
    pub tally: Tally,
}

/// Runs one seed.
///
/// # Panics
/// If anything is not as it must be. Where the panic is says which check has failed.
pub fn run(seed: u64) -> Outcome {
    // What is made once in a process must not draw from the run's randomness.
    operation::restored_file();
    sqlite::seed_randomness(seed);
    let mut cluster = Cluster::new(seed);
    let mode = cluster.settings.mode;
    for _ in 0..cluster.settings.storm_units {
        cluster.step_in_storm();
    }
    cluster.heal();
    if !cluster.recovers() {
        cluster.check_refusal();
    } else if mode == Mode::AnyFile {
        cluster.check_replicas();
        cluster.oracle.check_histories();
    } else {
        cluster.check();
    }
    let mut tally = cluster.harvest();
    tally.add(Kind::BeyondAtlas, u64::from(mode != Mode::Recoverable));
    Outcome {
        trace: cluster.trace,
        microseconds: cluster.now * clock::UNIT_MICROSECONDS,
        tally,
    }
}

//! Measures with nodes that are processes of their own, as in production.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientOptions};

use crate::error::MeasureError;
use crate::load;
use crate::measure::Outcome;
use crate::workload;

/// The first argument that makes this program a node, as [`Launch::program`] passes it. The others
/// are those of `ringlite serve`.
pub(crate) const SERVE: &str = "serve";

/// How long the nodes may take to start, zero their first segments and elect a leader.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// From the last work of a node until it counts as idle.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// Nodes on this machine with the table that is written to. They end when it is dropped, and
/// with this process however it ends.
pub(crate) struct Cluster {
    processes: LocalCluster,
    nodes: usize,
}

impl Cluster {
    /// Starts `nodes` nodes with their data below `directory`, and waits until they serve.
    pub(crate) fn start(directory: &Path, nodes: usize) -> Result<Self, MeasureError> {
        let program = std::env::current_exe().map_err(MeasureError::Processes)?;
        let launch = Launch::program(program);
        let processes =
            LocalCluster::start(directory, nodes, launch).map_err(MeasureError::Processes)?;
        let mut cluster = Self { processes, nodes };
        cluster
            .make_table()
            .map_err(|error| cluster.blamed(error))?;
        Ok(cluster)
    }

    fn make_table(&self) -> Result<(), MeasureError> {
        let options = ClientOptions {
            find_leader_timeout: START_PATIENCE,
            ..ClientOptions::default()
        };
        let mut client = Client::connect(&self.processes.addresses(), options)?;
        client.open(workload::DATABASE)?;
        client.execute(workload::CREATE, &[])?;
        Ok(())
    }

    /// Writes to it over `connections` connections at once.
    pub(crate) fn load(
        &mut self,
        connections: usize,
        length: Duration,
    ) -> Result<Outcome, MeasureError> {
        let addresses = self.processes.addresses();
        let addresses: Vec<SocketAddr> = addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect();
        let outcome = load::over_tcp(&addresses, connections, length);
        outcome.map_err(|error| self.blamed(error))
    }

    /// The part of a core that each node uses while nobody asks anything of it, in per cent.
    pub(crate) fn idle_cpu_percent(&self, length: Duration) -> Result<Vec<f64>, MeasureError> {
        std::thread::sleep(SETTLE_TIME);
        let before = self.cpu_times()?;
        std::thread::sleep(length);
        let after = self.cpu_times()?;
        let used = before.iter().zip(&after).map(|(before, after)| {
            let seconds = after.saturating_sub(*before).as_secs_f64();
            100.0 * seconds / length.as_secs_f64()
        });
        Ok(used.collect())
    }

    fn cpu_times(&self) -> Result<Vec<Duration>, MeasureError> {
        (1..=self.nodes)
            .filter_map(|id| self.processes.process_of(id))
            .map(|process| cpu_time(process).map_err(MeasureError::Processes))
            .collect()
    }

    /// The death of a node explains any other error.
    fn blamed(&mut self, error: MeasureError) -> MeasureError {
        match self.processes.dead_node() {
            Some(id) => MeasureError::Died {
                id,
                words: self.processes.last_words_of(id),
            },
            None => error,
        }
    }
}

/// What a process, with all its threads, has used of the cores since it started.
fn cpu_time(process: u32) -> std::io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| {
        std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("/proc/{process}/stat is not as documented: {stat}"),
        )
    })?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(
        ticks as f64 / ticks_per_second as f64,
    ))
}

/// utime and stime, fields 14 and 15 (proc_pid_stat(5)). The name in field 2 may contain anything,
/// but only it contains parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 5 0 99 1 2";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("7 (name) S 1"), None);
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn this_process_has_a_cpu_time() {
        assert!(cpu_time(std::process::id()).is_ok());
    }
}

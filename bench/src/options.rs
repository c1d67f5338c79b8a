//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::systems::Kind;
use crate::workload::Workload;

/// Measures the latency and the throughput of Ringlite's commits, and beside them what the disk and
/// the network can do, SQLite alone, and other replicated databases.
#[derive(Debug, Parser)]
#[command(name = "ringlite-bench", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Subcommands>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Where the nodes keep their data while it runs; it must be on a disk with direct writes
    /// [default: a new directory here]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Where to look for the peers' programs before PATH
    #[arg(long, value_name = "DIR")]
    pub(crate) peers: Option<PathBuf>,
    /// Print how long each stage of Ringlite's commits takes under a few loads, and end
    #[arg(long)]
    pub(crate) stages: bool,
    /// Print the names of all measures and how long they take, and end
    #[arg(long)]
    pub(crate) list: bool,
}

/// What else it can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Compare two runs by their ratios to the raw limit, and print what got slower
    Compare(Compare),
}

/// What is compared.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The JSON of the run before
    pub(crate) before: PathBuf,
    /// The JSON of the run after
    pub(crate) after: PathBuf,
    /// How much slower a measure has to be to be told, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub(crate) tolerance: f64,
}

/// Where the results go.
#[derive(Debug, Default, Args)]
pub(crate) struct Output {
    /// Write one JSON object per measure, to standard output without a FILE, as without a terminal
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// Write a report with plots, one file that opens without a network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Selection {
    /// Measure all workloads and the peers too, five times, in under 40 minutes
    #[arg(long)]
    pub(crate) full: bool,
    /// These systems: sqlite-full, sqlite-normal, ringlite, dqlite, rqlite, etcd, hiqlite
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = parse_system)]
    pub(crate) systems: Option<Vec<String>>,
    /// These workloads: insert-100, upsert-1k, read, mix-95-5, mix-50-50, ten-rows, new-order,
    /// bulk-250
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = parse_workload)]
    pub(crate) workloads: Option<Vec<Workload>>,
    /// These numbers of connections
    #[arg(long, value_name = "N,...", value_delimiter = ',',
          value_parser = parse_connections)]
    pub(crate) connections: Option<Vec<usize>>,
    /// In open loops with so many requests a second in all, instead of back to back
    #[arg(long, value_name = "N,...", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rates: Option<Vec<u64>>,
    /// In closed loops with one request of each connection in so many microseconds, instead of back
    /// to back
    #[arg(long, value_name = "MICROS,...", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..=60_000_000))]
    pub(crate) paces: Option<Vec<u64>>,
    /// How often each is measured, the systems in turn [default: 1, or 5 with --full]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) repetitions: Option<usize>,
    /// How long each is measured, after a warm-up [default: 3, or what fits with --full]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) seconds: Option<f64>,
    /// Only the measures whose name contains this, such as `3/tcp`
    #[arg(long, value_name = "PATTERN")]
    pub(crate) only: Option<String>,
}

impl Selection {
    /// Whether a system is wanted: unless told, the peers only in a full run.
    pub(crate) fn wants_system(&self, kind: Kind) -> bool {
        match &self.systems {
            Some(systems) => systems.iter().any(|system| system == kind.system()),
            None => self.full || !kind.is_peer(),
        }
    }

    /// Whether loads are chosen instead of those of a profile.
    pub(crate) fn has_loads(&self) -> bool {
        self.workloads.is_some()
            || self.connections.is_some()
            || self.rates.is_some()
            || self.paces.is_some()
    }
}

fn parse_system(name: &str) -> Result<String, String> {
    if Kind::ALL.iter().any(|kind| kind.system() == name) {
        Ok(name.to_owned())
    } else {
        Err("there is no such system".to_owned())
    }
}

fn parse_workload(name: &str) -> Result<Workload, String> {
    Workload::named(name).ok_or_else(|| "there is no such workload".to_owned())
}

fn parse_connections(count: &str) -> Result<usize, String> {
    in_range(count, 1..=10_000)
}

fn parse_count(count: &str) -> Result<usize, String> {
    in_range(count, 1..=1_000)
}

fn in_range(count: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize, String> {
    let parsed = count.parse().ok().filter(|count| range.contains(count));
    parsed.ok_or_else(|| format!("it is no number from {} to {}", range.start(), range.end()))
}

fn parse_seconds(seconds: &str) -> Result<f64, String> {
    let parsed = seconds.parse().ok();
    parsed
        .filter(|seconds| (0.05..=3600.0).contains(seconds))
        .ok_or_else(|| "it is no number from 0.05 to 3600".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("ringlite-bench").chain(words.split_whitespace()))
    }

    #[test]
    fn choices_are_lists() {
        let arguments = parse(
            "--systems ringlite,etcd --workloads insert-100,read --connections 1,64 \
             --rates 500,1000 --paces 5000 --repetitions 7 --seconds 0.5",
        );
        let selection = arguments.unwrap().selection;
        assert_eq!(selection.systems.unwrap(), ["ringlite", "etcd"]);
        assert_eq!(
            selection.workloads.unwrap(),
            [Workload::Insert, Workload::Read]
        );
        assert_eq!(selection.connections.unwrap(), [1, 64]);
        assert_eq!(selection.rates.unwrap(), [500, 1000]);
        assert_eq!(selection.paces.unwrap(), [5000]);
        assert_eq!(selection.repetitions, Some(7));
        assert_eq!(selection.seconds, Some(0.5));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for words in [
            "--systems postgres",
            "--workloads insert",
            "--connections 0",
            "--rates 0",
            "--seconds 0",
            "--repetitions 0",
            "compare one.json",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn json_goes_to_a_file_or_to_standard_output() {
        let json = |words| parse(words).unwrap().output.json;
        assert_eq!(json(""), None);
        assert_eq!(json("--json"), Some(PathBuf::from("-")));
        assert_eq!(
            json("--json out.json --full"),
            Some(PathBuf::from("out.json"))
        );
    }

    #[test]
    fn two_runs_are_compared() {
        let arguments = parse("compare one.json two.json --tolerance 5").unwrap();
        let Some(Subcommands::Compare(compare)) = arguments.command else {
            panic!("no subcommand");
        };
        assert_eq!(compare.after, PathBuf::from("two.json"));
        assert_eq!(compare.tolerance, 5.0);
    }
}

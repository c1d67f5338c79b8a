//! Runs seeds of the simulator and tells what happened in them.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use ringlite_tests::sim::tally::{Kind, Tally};
use ringlite_tests::sim_farm::{self, SeedReport};
#[cfg(feature = "mutations")]
use ringlite_tests::sim_mutations;

/// Something that never happened in so many seeds was not tested.
const SEEDS_FOR_EVERYTHING: u64 = 100;
/// After so many failures no more seeds are begun.
const FAILURES_MAX: usize = 20;

/// Simulates clusters of real replicas under faults.
///
/// On a terminal it shows its progress and a table; else it prints JSON.
#[derive(Parser)]
struct Arguments {
    /// The seeds to run, as FROM..TO.
    #[arg(long, value_parser = parse_range, default_value = "0..200", conflicts_with = "seed")]
    seeds: Range<u64>,
    /// Runs one seed twice, and prints the hash of what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs each seed twice and compares the hashes of what happened.
    #[arg(long)]
    twice: bool,
    /// How many processes run at the same time; by default as many as there are cores.
    #[arg(long)]
    jobs: Option<usize>,
    /// Switches known bugs on, one after the other, and tells which check catches each, within the
    /// seeds. Only in builds with the feature `mutations`.
    #[cfg(feature = "mutations")]
    #[arg(long)]
    mutations: bool,
    /// Only these bugs.
    #[cfg(feature = "mutations")]
    #[arg(long)]
    mutation: Vec<String>,
    /// What the parent starts.
    #[arg(long, hide = true)]
    worker: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed
        .filter(|range: &Range<u64>| !range.is_empty())
        .ok_or_else(|| format!("{text:?} is not FROM..TO with FROM below TO"))
}

/// What came of all seeds.
#[derive(Default)]
struct Summary {
    seeds: u64,
    microseconds: u64,
    tally: Tally,
    failures: Vec<SeedReport>,
    traces: BTreeMap<u64, u64>,
    differing: Vec<u64>,
}

impl Summary {
    /// Takes one report. Returns whether to go on.
    fn take(&mut self, report: SeedReport) -> bool {
        if report.failure.is_some() {
            self.failures.push(report);
        } else {
            let trace = *self.traces.entry(report.seed).or_insert(report.trace);
            if trace != report.trace {
                self.differing.push(report.seed);
            }
            self.seeds += 1;
            self.microseconds += report.microseconds;
            self.tally.merge(&report.tally);
        }
        self.failures.len() < FAILURES_MAX
    }

    fn missing(&self) -> Vec<&'static str> {
        if self.seeds < SEEDS_FOR_EVERYTHING {
            return Vec::new();
        }
        let missing = self.tally.missing();
        missing.into_iter().map(Kind::name).collect()
    }

    fn hours(&self) -> f64 {
        self.microseconds as f64 / 3.6e9
    }

    fn print_json(&self, seconds: f64) {
        let counts = |faults: bool| -> BTreeMap<&str, u64> {
            let kinds = Kind::ALL.iter().filter(|kind| kind.is_fault() == faults);
            kinds
                .map(|kind| (kind.name(), self.tally.of(*kind)))
                .collect()
        };
        let failures: Vec<_> = self
            .failures
            .iter()
            .map(|report| serde_json::json!({"seed": report.seed, "failure": report.failure}))
            .collect();
        let summary = serde_json::json!({
            "seeds": self.seeds,
            "seconds": seconds,
            "simulated_hours": self.hours(),
            "faults": counts(true),
            "events": counts(false),
            "never_happened": self.missing(),
            "differing_traces": self.differing,
            "failures": failures,
        });
        println!("{summary:#}");
    }

    fn print_table(&self, seconds: f64) {
        println!(
            "{} seeds, {:.2} simulated hours in {seconds:.0} s",
            self.seeds,
            self.hours()
        );
        for kind in Kind::ALL {
            println!("{:>12}  {}", self.tally.of(*kind), kind.name());
        }
        for seed in &self.differing {
            println!("seed {seed} ran in two ways");
        }
        for name in self.missing() {
            println!("never happened, and so was not tested: {name}");
        }
        for report in &self.failures {
            if let Some(failure) = &report.failure {
                println!("seed {} failed at {}", report.seed, failure.check);
                println!("  {}", failure.message.replace('\n', "\n  "));
                println!("  reproduce: sim --seed {}", report.seed);
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.worker {
        sim_farm::work();
        return ExitCode::SUCCESS;
    }
    let binary = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("sim"));
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    #[cfg(feature = "mutations")]
    if arguments.mutations {
        let caught = sim_mutations::run(&binary, jobs, arguments.seeds, &arguments.mutation);
        return ExitCode::from(u8::from(!caught));
    }
    let range = arguments
        .seed
        .map_or(arguments.seeds, |seed| seed..seed + 1);
    let times = match arguments.seed.is_some() || arguments.twice {
        true => 2,
        false => 1,
    };
    let seeds = range.flat_map(|seed| std::iter::repeat_n(seed, times));
    let count = seeds.clone().count() as u64;
    let progress = if std::io::stderr().is_terminal() {
        ProgressBar::new(count)
    } else {
        ProgressBar::hidden()
    };
    let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left{msg}";
    progress.set_style(ProgressStyle::with_template(style).expect("a template"));
    let begun = Instant::now();
    let mut summary = Summary::default();
    sim_farm::run(&binary, jobs.min(count as usize), None, seeds, |report| {
        progress.inc(1);
        let goes_on = summary.take(report);
        if !summary.failures.is_empty() {
            progress.set_message(format!(", {} failed", summary.failures.len()));
        }
        goes_on
    });
    progress.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(seed) = arguments.seed {
        for trace in summary.traces.values() {
            println!("seed {seed}: trace {trace:016x}, twice");
        }
    }
    if std::io::stdout().is_terminal() || arguments.seed.is_some() {
        summary.print_table(seconds);
    } else {
        summary.print_json(seconds);
    }
    let is_sound =
        summary.failures.is_empty() && summary.differing.is_empty() && summary.missing().is_empty();
    ExitCode::from(u8::from(!is_sound))
}

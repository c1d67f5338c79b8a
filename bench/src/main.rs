//! Ringlite's load generator: commit latency, beside what the disk and the network can do.
//!
//! `cargo run --release -p ringlite-bench` measures everything in about a minute. The nodes of a
//! cluster are processes of this same program.

mod cluster;
mod connection;
mod directory;
mod embedded;
mod error;
mod goals;
mod load;
mod machine;
mod measure;
mod plan;
mod report;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cluster::Cluster;
use directory::RunDirectory;
use error::MeasureError;
use measure::{Limits, Measure, Outcome, Subject};
use report::Report;

/// The allocator of the `ringlite` binary, so that its nodes are measured as they run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The idle nodes are watched for at least so long: their CPU time is counted in hundredths of a
/// second.
const IDLE_TIME_MIN: Duration = Duration::from_secs(3);

/// Measures the latency of Ringlite's commits, and beside it the raw durable write of 8 KiB and
/// the loopback round trip of the same run.
#[derive(Debug, Parser)]
#[command(name = "ringlite-bench", version, max_term_width = 100)]
struct Arguments {
    /// Take only the measures whose name contains this, such as `3/tcp`
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// How long to measure each, after a warm-up
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print one JSON object per measure, as without a terminal
    #[arg(long)]
    json: bool,
    /// Where the nodes keep their data while it runs; it must be on a disk with direct writes
    /// [default: a new directory here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the names of all measures and end
    #[arg(long)]
    list: bool,
}

impl Arguments {
    fn wants(&self, subject: &Subject) -> bool {
        let name = subject.name();
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(cluster::SERVE) {
        return ringlite::cli::main();
    }
    let arguments = Arguments::parse();
    if arguments.list {
        for subject in plan::MEASURES.iter().chain([&plan::IDLE]) {
            println!("{}", subject.name());
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringlite-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), MeasureError> {
    let parent = arguments.dir.as_deref().unwrap_or(Path::new("."));
    let directory = RunDirectory::new(parent).map_err(MeasureError::Directory)?;
    let warning = machine::warning_if_busy();
    if let Some(warning) = &warning {
        eprintln!("{warning}");
    }
    let mut report = Report::new(arguments.json);
    let limits = measure_limits(&mut report, &directory.path(), arguments.length())?;
    for subject in plan::MEASURES
        .iter()
        .filter(|subject| arguments.wants(subject))
    {
        let outcome = Report::while_working(&subject.name(), || {
            let directory = directory.new_part().map_err(MeasureError::Directory)?;
            plan::measure(subject, directory.path(), arguments.length())
        })?;
        add(&mut report, *subject, arguments.length(), &outcome, limits)?;
    }
    let mut idle_cpu_percent = Vec::new();
    if arguments.wants(&plan::IDLE) {
        let length = arguments.length().max(IDLE_TIME_MIN);
        idle_cpu_percent = Report::while_working(&plan::IDLE.name(), || {
            let directory = directory.new_part().map_err(MeasureError::Directory)?;
            Cluster::start(directory.path(), plan::IDLE.nodes)?.idle_cpu_percent(length)
        })?;
        let measure = Measure::new(plan::IDLE, length, &Outcome::new(), limits);
        report
            .add_idle(&measure, &idle_cpu_percent)
            .map_err(MeasureError::Report)?;
    }
    let verdicts = goals::judge(report.measures(), &idle_cpu_percent);
    report
        .finish(&verdicts, warning.as_deref())
        .map_err(MeasureError::Report)
}

/// Measures what the machine can do.
fn measure_limits(
    report: &mut Report,
    directory: &Path,
    length: Duration,
) -> Result<Limits, MeasureError> {
    let raw_write = Report::while_working(&plan::RAW_WRITE.name(), || {
        ringlite::probe::raw_write(directory, plan::RAW_WRITE_BYTES, length)
            .map_err(MeasureError::RawWrite)
    })?;
    let round_trip = Report::while_working(&plan::ROUND_TRIP.name(), || {
        ringlite::probe::round_trip(length).map_err(MeasureError::RoundTrip)
    })?;
    let replication = Report::while_working(&plan::REPLICATION.name(), || {
        ringlite::probe::replicated_write(directory, plan::REPLICATED_BYTES, length)
            .map_err(MeasureError::Replication)
    })?;
    let limits = Limits {
        raw_write_p50_us: measure::micros(raw_write.value_at_quantile(0.5)),
        round_trip_p50_us: measure::micros(round_trip.value_at_quantile(0.5)),
    };
    for (subject, latencies) in [
        (plan::RAW_WRITE, raw_write),
        (plan::ROUND_TRIP, round_trip),
        (plan::REPLICATION, replication),
    ] {
        add(report, subject, length, &Outcome::of(latencies), limits)?;
    }
    Ok(limits)
}

fn add(
    report: &mut Report,
    subject: Subject,
    length: Duration,
    outcome: &Outcome,
    limits: Limits,
) -> Result<(), MeasureError> {
    let measure = Measure::new(subject, length, outcome, limits);
    report.add(measure, outcome).map_err(MeasureError::Report)
}

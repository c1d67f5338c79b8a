//! Many seeds of the simulator, in as many processes as there are cores.
//!
//! Processes and not threads, as SQLite's source of random numbers is one per process. A worker reads
//! seeds from its input and writes a line of JSON for each; it ends after a seed that failed, so that
//! nothing of it is left behind, and another one takes its place.

use std::io::{BufRead as _, BufReader, Write as _};
use std::panic::{catch_unwind, set_hook};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sim;
use crate::sim::tally::Tally;

/// The argument that makes the binary a worker.
pub const WORKER: &str = "--worker";
/// The variable that names the bug which a worker switches on.
const MUTATION: &str = "RINGLITE_MUTATION";
/// A seed that takes longer than this hangs.
const SEED_TIME_MAX: Duration = Duration::from_secs(300);

/// Why a seed failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The place of the check, as `FILE:LINE`.
    pub check: String,
    /// What it says.
    pub message: String,
}

/// What came of one seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened; 0 for a seed that failed.
    pub trace: u64,
    /// The simulated time.
    pub microseconds: u64,
    /// What happened.
    pub tally: Tally,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

impl SeedReport {
    fn failed(seed: u64, failure: Failure) -> Self {
        Self {
            seed,
            trace: 0,
            microseconds: 0,
            tally: Tally::default(),
            failure: Some(failure),
        }
    }
}

/// The main function of a worker.
pub fn work() {
    static PANIC: Mutex<Option<Failure>> = Mutex::new(None);
    set_hook(Box::new(|panic| {
        let place = panic.location();
        let mut first = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| Failure {
            check: place.map_or(String::new(), |at| format!("{}:{}", at.file(), at.line())),
            message: panic.payload_as_str().unwrap_or("a panic").to_owned(),
        });
    }));
    #[cfg(feature = "mutations")]
    if let Ok(name) = std::env::var(MUTATION) {
        ringlite_raft::mutation::switch_on(&name);
        ringlite_vfs::mutation::switch_on(&name);
    }
    let begun = AtomicU64::new(0);
    thread::scope(|scope| {
        let (alive, watched) = mpsc::channel::<()>();
        let begun = &begun;
        scope.spawn(move || watch(begun, &watched));
        for line in std::io::stdin().lines() {
            let seed = line.ok().and_then(|line| line.trim().parse().ok());
            let Some(seed) = seed else {
                break;
            };
            begun.fetch_add(1, Ordering::Relaxed);
            let report = match catch_unwind(|| sim::run(seed)) {
                Ok(outcome) => SeedReport {
                    seed,
                    trace: outcome.trace,
                    microseconds: outcome.microseconds,
                    tally: outcome.tally,
                    failure: None,
                },
                Err(_) => {
                    let failure = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let unknown = Failure {
                        check: String::new(),
                        message: "a panic without a message".to_owned(),
                    };
                    SeedReport::failed(seed, failure.unwrap_or(unknown))
                }
            };
            let has_failed = report.failure.is_some();
            let line = serde_json::to_string(&report).expect("a report is JSON");
            if writeln!(std::io::stdout(), "{line}").is_err() || has_failed {
                break;
            }
        }
        drop(alive);
    });
}

/// Ends the process if it takes too long for one seed.
fn watch(begun: &AtomicU64, alive: &mpsc::Receiver<()>) {
    let mut before = 0;
    while alive.recv_timeout(SEED_TIME_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
        let now = begun.load(Ordering::Relaxed);
        if now == before && now > 0 {
            std::process::abort();
        }
        before = now;
    }
}

/// A process that runs seeds.
struct Worker {
    child: Child,
    seeds: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Worker {
    fn start(binary: &Path, mutation: Option<&str>) -> Self {
        let mut command = Command::new(binary);
        command.arg(WORKER);
        if let Some(mutation) = mutation {
            command.env(MUTATION, mutation);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the simulator starts");
        let seeds = child.stdin.take().expect("a pipe");
        let reports = BufReader::new(child.stdout.take().expect("a pipe"));
        Self {
            child,
            seeds,
            reports,
        }
    }

    fn run(&mut self, seed: u64) -> SeedReport {
        let mut line = String::new();
        let asked = writeln!(self.seeds, "{seed}");
        let answered = asked.and_then(|()| self.reports.read_line(&mut line));
        match answered.map(|_| serde_json::from_str(&line)) {
            Ok(Ok(report)) => report,
            _ => SeedReport::failed(
                seed,
                Failure {
                    check: "the process".to_owned(),
                    message: match self.child.wait() {
                        Ok(status) => format!("it crashed, or took too long: {status}"),
                        Err(error) => error.to_string(),
                    },
                },
            ),
        }
    }

    fn end(self) {
        let Self {
            mut child, seeds, ..
        } = self;
        drop(seeds);
        // It ends with its input.
        drop(child.wait());
    }
}

/// Runs seeds on `jobs` workers of `binary`, and gives each report to `each`, in any order. Ends early
/// when `each` returns false. `mutation`: a bug that is switched on meanwhile, in a build for that.
pub fn run(
    binary: &Path,
    jobs: usize,
    mutation: Option<&str>,
    seeds: impl Iterator<Item = u64> + Send,
    mut each: impl FnMut(SeedReport) -> bool,
) {
    let seeds = Mutex::new(seeds);
    let (reports, received) = mpsc::sync_channel(jobs);
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (seeds, reports) = (&seeds, reports.clone());
            scope.spawn(move || {
                let mut worker = Worker::start(binary, mutation);
                loop {
                    let seed = seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(seed) = seed else {
                        break;
                    };
                    let report = worker.run(seed);
                    if report.failure.is_some() {
                        std::mem::replace(&mut worker, Worker::start(binary, mutation)).end();
                    }
                    if reports.send(report).is_err() {
                        break;
                    }
                }
                worker.end();
            });
        }
        drop(reports);
        for report in received {
            if !each(report) {
                break;
            }
        }
    });
}

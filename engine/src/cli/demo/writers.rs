//! The demo's clients: each inserts numbered rows, and remembers which were acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{Client, ClientError, ClientOptions};
use crate::rows::Value;

/// A row of the demo: which client wrote it, and which of its rows it is.
pub(super) type RowKey = (i64, i64);

const INSERT: &str = "INSERT INTO demo (client, number, note) VALUES (?, ?, ?)";
/// The row of a hundred bytes that everything is measured with.
const NOTE_BYTES: usize = 100;

/// What a round of writing has shown.
pub(super) struct Written {
    pub(super) acknowledged: BTreeSet<RowKey>,
    /// Sent, and neither acknowledged nor refused: they may be there or not.
    pub(super) unknown: BTreeSet<RowKey>,
    /// Nanoseconds from request to acknowledgement.
    pub(super) latency: Histogram<u64>,
    /// Every moment at which an acknowledged request was sent, with the moment of its answer.
    commits: Vec<(Instant, Instant)>,
    pub(super) seconds: f64,
}

impl Written {
    /// When the first commit was acknowledged whose request was sent after `moment`.
    pub(super) fn first_commit_after(&self, moment: Instant) -> Option<Instant> {
        self.commits
            .iter()
            .filter(|(sent, _)| *sent >= moment)
            .map(|(_, answered)| *answered)
            .min()
    }

    pub(super) fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.seconds
    }
}

struct Writer {
    client: Client,
    number: i64,
    next: i64,
    written: Written,
}

fn empty() -> Written {
    Written {
        acknowledged: BTreeSet::new(),
        unknown: BTreeSet::new(),
        // From nanoseconds to a minute, to three digits: bounds that the type allows.
        latency: Histogram::new_with_max(60_000_000_000, 3).unwrap_or_else(|_| unreachable!()),
        commits: Vec::new(),
        seconds: 0.0,
    }
}

/// Lets `clients` write for `duration`; `meanwhile` runs beside them and may end it early.
pub(super) fn write(
    addresses: &[String],
    first_client: i64,
    clients: i64,
    duration: Duration,
    meanwhile: impl FnOnce(),
) -> Result<Written, ClientError> {
    let mut writers = (first_client..first_client + clients)
        .map(|number| {
            let mut client = Client::connect(addresses, ClientOptions::default())?;
            client.open(super::DATABASE)?;
            Ok(Writer {
                client,
                number,
                next: 0,
                written: empty(),
            })
        })
        .collect::<Result<Vec<_>, ClientError>>()?;
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let results: Vec<Result<(), ClientError>> = std::thread::scope(|scope| {
        let running: Vec<_> = writers
            .iter_mut()
            .map(|writer| scope.spawn(|| writer.run(&stop)))
            .collect();
        meanwhile();
        std::thread::sleep(duration.saturating_sub(started.elapsed()));
        stop.store(true, Ordering::Relaxed);
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    results.into_iter().collect::<Result<(), _>>()?;
    let mut all = empty();
    all.seconds = started.elapsed().as_secs_f64();
    for writer in writers {
        all.acknowledged.extend(writer.written.acknowledged);
        all.unknown.extend(writer.written.unknown);
        all.commits.extend(writer.written.commits);
        all.latency += writer.written.latency;
    }
    Ok(all)
}

impl Writer {
    fn run(&mut self, stop: &AtomicBool) -> Result<(), ClientError> {
        let note = Value::Text("x".repeat(NOTE_BYTES));
        while !stop.load(Ordering::Relaxed) {
            let key = (self.number, self.next);
            let row = [Value::Integer(key.0), Value::Integer(key.1), note.clone()];
            let sent = Instant::now();
            match self.client.execute(INSERT, &row) {
                Ok(_) => {
                    let answered = Instant::now();
                    let nanoseconds = (answered - sent).as_nanos() as u64;
                    self.written.latency.saturating_record(nanoseconds);
                    self.written.commits.push((sent, answered));
                    self.written.acknowledged.insert(key);
                    self.next += 1;
                }
                Err(error) if error.is_not_leader() => self.client.reconnect()?,
                Err(error) if error.is_outcome_unknown() || error.is_connection_lost() => {
                    self.written.unknown.insert(key);
                    self.next += 1;
                    self.client.reconnect()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

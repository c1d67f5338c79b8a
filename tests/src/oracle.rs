//! Writers that know what must be in the database afterwards.
//!
//! Each row is written at most once under a number of its own. A row is *acknowledged*, or its
//! outcome is *unknown* (the connection broke, or the node said so), or it was refused, in which
//! case it is written again under the same number. Afterwards every acknowledged row must be
//! there, and no row that is neither acknowledged nor unknown.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::{Client, ClientError, ClientOptions, Value};

/// The database that the oracle writes to.
pub const DATABASE: &str = "oracle";

/// A row: its writer, and its number among the writer's rows.
pub type RowKey = (i64, i64);

/// What is known of the rows that were sent.
#[derive(Debug, Default)]
pub struct Oracle {
    acknowledged: BTreeSet<RowKey>,
    unknown: BTreeSet<RowKey>,
    writers: i64,
    /// When rows were acknowledged; in order, once the writers have ended.
    acknowledged_at: Vec<Instant>,
    /// What writers were told that they should not be told.
    errors: Vec<String>,
}

impl Oracle {
    /// An oracle for a new table in the cluster at `addresses`.
    ///
    /// # Errors
    /// If the table cannot be created.
    pub fn new(addresses: &[String]) -> Result<Self, ClientError> {
        let mut client = Client::connect(addresses, ClientOptions::default())?;
        client.open(DATABASE)?;
        client.execute(
            "CREATE TABLE entries (writer INTEGER, number INTEGER, note TEXT, \
             PRIMARY KEY (writer, number))",
            &[],
        )?;
        Ok(Self::default())
    }

    /// Lets `count` writers write, with `pause` between two rows of one, until `meanwhile` ends.
    pub fn write_while<T>(
        &mut self,
        addresses: &[String],
        count: i64,
        pause: Duration,
        meanwhile: impl FnOnce() -> T,
    ) -> T {
        let stop = AtomicBool::new(false);
        let first = self.writers;
        self.writers += count;
        let (written, result) = thread::scope(|scope| {
            let stop = &stop;
            let writers: Vec<_> = (first..first + count)
                .map(|writer| scope.spawn(move || write(addresses, writer, pause, stop)))
                .collect();
            let stop_anyway = StopOnDrop(stop);
            let result = meanwhile();
            drop(stop_anyway);
            let written: Vec<Self> = writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer does not panic"))
                .collect();
            (written, result)
        });
        for one in written {
            self.acknowledged.extend(one.acknowledged);
            self.unknown.extend(one.unknown);
            self.acknowledged_at.extend(one.acknowledged_at);
            self.errors.extend(one.errors);
        }
        self.acknowledged_at.sort_unstable();
        result
    }

    /// How many rows were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// How many rows have an unknown outcome.
    pub fn unknown(&self) -> usize {
        self.unknown.len()
    }

    /// The longest time without an acknowledgement that ends between `from` and `to`.
    ///
    /// # Panics
    /// If there was none from `from` on.
    pub fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        let mut before = from;
        let mut longest = None;
        for &at in &self.acknowledged_at {
            if at > from && before < to {
                longest = longest.max(Some(at - before));
                before = at;
            }
        }
        longest.expect("something was acknowledged")
    }

    /// Checks what `found` says against what is known.
    ///
    /// # Panics
    /// If an acknowledged row is missing, a row is there that nobody sent, or a writer was told
    /// something else than that the node does not lead or the outcome is unknown.
    pub fn check(&self, found: &BTreeSet<RowKey>) {
        assert!(
            self.errors.is_empty(),
            "unexpected errors: {:?}",
            self.errors
        );
        let lost: Vec<_> = self.acknowledged.difference(found).collect();
        assert!(lost.is_empty(), "acknowledged rows are lost: {lost:?}");
        let phantom: Vec<_> = found
            .difference(&self.acknowledged)
            .filter(|row| !self.unknown.contains(row))
            .collect();
        assert!(phantom.is_empty(), "rows that nobody sent: {phantom:?}");
    }
}

/// Stops the writers also when a check panics meanwhile.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The rows that a node has.
///
/// # Errors
/// If they cannot be read.
pub fn rows_of(client: &mut Client) -> Result<BTreeSet<RowKey>, ClientError> {
    let mut found = BTreeSet::new();
    client.query_each("SELECT writer, number FROM entries", &[], |batch| {
        for row in &batch.rows {
            let [Value::Integer(writer), Value::Integer(number)] = row[..] else {
                panic!("a row of another shape: {row:?}");
            };
            found.insert((writer, number));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn write(addresses: &[String], writer: i64, pause: Duration, stop: &AtomicBool) -> Oracle {
    let mut own = Oracle::default();
    let mut number = 0;
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(connected) = &mut client else {
            client = connect(addresses);
            continue;
        };
        let row = [
            Value::Integer(writer),
            Value::Integer(number),
            Value::Text("x".repeat(100)),
        ];
        match connected.execute("INSERT INTO entries VALUES (?, ?, ?)", &row) {
            Ok(executed) => {
                assert_eq!(executed.changes, 1);
                own.acknowledged_at.push(Instant::now());
                own.acknowledged.insert((writer, number));
                number += 1;
                thread::sleep(pause);
            }
            Err(error) if error.is_not_leader() => client = None,
            Err(error) if error.is_outcome_unknown() || error.is_connection_lost() => {
                own.unknown.insert((writer, number));
                number += 1;
                client = None;
            }
            Err(error) => {
                own.errors.push(error.to_string());
                return own;
            }
        }
    }
    own
}

/// A client of the leader, if there is one soon.
fn connect(addresses: &[String]) -> Option<Client> {
    let options = ClientOptions {
        find_leader_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_secs(10),
    };
    let mut client = Client::connect(addresses, options).ok()?;
    client.open(DATABASE).ok()?;
    Some(client)
}

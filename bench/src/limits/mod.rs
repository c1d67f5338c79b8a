//! What the machine can do, measured with nothing of any system in between: durable writes, round
//! trips, and the two together as replication needs them.

mod block_file;
mod glommio;
mod replication;
mod ring;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::MeasureError;
use crate::measure::Subject;
use crate::outcome::Outcome;
use crate::pace::{Pace, Schedule, Window};
use crate::systems::allowed_cores;

/// The length of the raw write that everything is compared with: what a commit of one row writes
/// at the least, twice.
pub(crate) const RAW_WRITE_BYTES: usize = 8 << 10;
/// The length of an entry that replication alone carries: the record of a commit of one row.
const REPLICATED_BYTES: usize = 4 << 10;
/// The length of a message of a round trip.
const MESSAGE_BYTES: usize = 64;

/// Something that the machine can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// A write past the page cache that the disk has made durable, on a bare io_uring ring.
    RingWrite { bytes: usize },
    /// The same through glommio.
    GlommioWrite { bytes: usize },
    /// A message over the loopback interface and back, by blocking calls.
    RoundTrip,
    /// The same through glommio.
    GlommioRoundTrip,
    /// An entry sent to two followers and written by all, until one of them says so; on bare rings.
    Replication,
    /// [`Self::RAW_WRITE`] while cores are kept awake, as a node that has work does.
    AwakeWrite,
    /// [`Self::RoundTrip`] so.
    AwakeRoundTrip,
    /// [`Self::Replication`] so.
    AwakeReplication,
}

impl Limit {
    /// The raw write that everything is compared with.
    pub(crate) const RAW_WRITE: Self = Self::RingWrite {
        bytes: RAW_WRITE_BYTES,
    };

    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::RAW_WRITE,
        Self::RingWrite { bytes: 4 << 10 },
        Self::RingWrite { bytes: 64 << 10 },
        Self::GlommioWrite { bytes: 4 << 10 },
        Self::GlommioWrite { bytes: 8 << 10 },
        Self::GlommioWrite { bytes: 64 << 10 },
        Self::RoundTrip,
        Self::GlommioRoundTrip,
        Self::Replication,
        Self::AwakeWrite,
        Self::AwakeRoundTrip,
        Self::AwakeReplication,
    ];

    /// The same without a request that cores stay awake.
    fn asleep(self) -> Self {
        match self {
            Self::AwakeWrite => Self::RAW_WRITE,
            Self::AwakeRoundTrip => Self::RoundTrip,
            Self::AwakeReplication => Self::Replication,
            limit => limit,
        }
    }

    /// Whether cores are kept awake for it.
    fn is_awake(self) -> bool {
        self.asleep() != self
    }

    /// Whether this process may do what it takes.
    pub(crate) fn is_possible(self) -> bool {
        !self.is_awake() || ringlite::probe::keep_awake().is_some()
    }

    /// Whether it can be measured at a pace of its own.
    pub(crate) fn can_be_paced(self) -> bool {
        matches!(self, Self::RingWrite { .. } | Self::Replication)
    }

    /// What is measured.
    pub(crate) fn subject(self, pace: Pace) -> Subject {
        let (system, nodes, transport, workload) = match self {
            Self::AwakeWrite | Self::AwakeRoundTrip | Self::AwakeReplication => {
                let asleep = self.asleep().subject(pace);
                return Subject {
                    transport: format!("{}-awake", asleep.transport),
                    ..asleep
                };
            }
            Self::RingWrite { bytes } => ("disk", 0, "io_uring", format!("write-{bytes}")),
            Self::GlommioWrite { bytes } => ("disk", 0, "glommio", format!("write-{bytes}")),
            Self::RoundTrip => ("loopback", 0, "tcp", format!("ping-{MESSAGE_BYTES}")),
            Self::GlommioRoundTrip => (
                "loopback",
                0,
                "tcp-glommio",
                format!("ping-{MESSAGE_BYTES}"),
            ),
            Self::Replication => ("replication", 3, "tcp", format!("write-{REPLICATED_BYTES}")),
        };
        Subject {
            system: system.to_owned(),
            nodes,
            transport: transport.to_owned(),
            workload,
            connections: 1,
            pace_us: 0.0,
            open_loop: false,
        }
        .at(pace)
    }

    /// Measures it with its files in `directory`.
    pub(crate) fn measure(
        self,
        directory: &Path,
        pace: Pace,
        length: Duration,
    ) -> Result<Outcome, MeasureError> {
        let _awake = self.is_awake().then(ringlite::probe::keep_awake);
        match self.asleep() {
            Self::RingWrite { bytes } => {
                ring::writes(directory, bytes, pace, length).map_err(MeasureError::RawWrite)
            }
            Self::GlommioWrite { bytes } => glommio::writes(directory, bytes, length),
            Self::RoundTrip => ringlite::probe::round_trip(length)
                .map(Outcome::of)
                .map_err(MeasureError::RoundTrip),
            Self::GlommioRoundTrip => glommio::round_trips(MESSAGE_BYTES, length),
            // What is asleep is none of the last three.
            _ => replication::entries(directory, REPLICATED_BYTES, pace, length)
                .map_err(MeasureError::Replication),
        }
    }
}

/// Repeats `act` at a pace for `length`, after a warm-up, and counts how long each one took.
fn repeat<E>(
    pace: Pace,
    length: Duration,
    mut act: impl FnMut() -> Result<(), E>,
) -> Result<Outcome, E> {
    let window = Window::after_warm_up(pace, length);
    let mut schedule = Schedule::of_connection(window, 0, 1);
    let mut outcome = Outcome::new();
    let mut free = Instant::now();
    while let Some(due) = schedule.next_due(free) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        act()?;
        free = Instant::now();
        outcome.count(&window, (schedule.latency_from(due, sent), free), Ok(()));
    }
    Ok(outcome)
}

/// The first and the last core that this process may run on.
fn two_cores() -> (usize, usize) {
    let cores = allowed_cores();
    let first = cores.first().copied().unwrap_or(0);
    (first, cores.last().copied().unwrap_or(first))
}

/// Pins the calling thread.
fn pin(core: usize) -> std::io::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_measured_and_leaves_no_file() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let length = Duration::from_millis(40);
        for limit in Limit::ALL {
            let outcome = limit.measure(directory.path(), Pace::BackToBack, length);
            let outcome = outcome.unwrap();
            // In the warm-up too: on a busy machine there may be little more.
            assert!(outcome.answered_in_all > 0, "{limit:?}");
            assert_eq!(directory.path().read_dir().unwrap().count(), 0, "{limit:?}");
        }
    }

    #[test]
    fn a_paced_limit_keeps_its_pace() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let pace = Pace::Closed(Duration::from_millis(10));
        let length = Duration::from_millis(200);
        for limit in [Limit::RAW_WRITE, Limit::Replication] {
            let outcome = limit.measure(directory.path(), pace, length).unwrap();
            let answered = outcome.answered_in_all;
            assert!((1..=25).contains(&answered), "{answered}");
        }
    }
}

//! Where the time of a commit goes: a histogram for each stage on its way.
//!
//! It is always on: it takes a few readings of the clock per commit, and a fixed amount of memory.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Times below this are not told apart, in ns.
const TIME_MIN: u64 = 100;
/// Nor are longer ones than this: one minute.
const TIME_MAX: u64 = 60_000_000_000;
/// Significant decimal digits.
const DIGITS: u8 = 2;

/// A stage of a commit. The first four and the last two are those of single transactions, the
/// others those of entries, which many transactions may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From the request's arrival until SQLite begins, its turn to write included.
    Wait,
    /// SQLite, up to its commit into the WAL in memory.
    Execute,
    /// Taking the changed pages out of the WAL.
    Capture,
    /// From the end of that until the entry with them goes to the log and to the other nodes: the
    /// log write before it is waited for, and the entry is made.
    Encode,
    /// From there until the log's write is given to the kernel.
    Submit,
    /// The log's write, until it is on this node's stable storage.
    LocalDurable,
    /// From the making of the entry until it is on the stable storage of a majority, as far as this
    /// node knows.
    MajorityDurable,
    /// From there until the answer goes to the client's connection, or the caller's thread.
    Release,
    /// From the request's arrival to its answer.
    Total,
}

impl Stage {
    /// All stages, in their order.
    pub const ALL: [Self; 9] = [
        Self::Wait,
        Self::Execute,
        Self::Capture,
        Self::Encode,
        Self::Submit,
        Self::LocalDurable,
        Self::MajorityDurable,
        Self::Release,
        Self::Total,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Wait => "wait",
            Self::Execute => "execute",
            Self::Capture => "capture",
            Self::Encode => "encode",
            Self::Submit => "submit",
            Self::LocalDurable => "local durable",
            Self::MajorityDurable => "majority durable",
            Self::Release => "release",
            Self::Total => "total",
        })
    }
}

/// How long one stage has taken since the node was started. All times are in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageTimes {
    /// Which stage.
    pub stage: Stage,
    /// How often it was gone through.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: f64,
    /// Longer than 99 % of all.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// The histograms of a node.
pub(crate) struct Stages {
    times: RefCell<Vec<Histogram<u32>>>,
}

impl Default for Stages {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(TIME_MIN, TIME_MAX, DIGITS);
        let histogram = histogram.expect("the bounds are those of a histogram");
        Self {
            times: RefCell::new(vec![histogram; Stage::ALL.len()]),
        }
    }
}

impl Stages {
    /// Counts one that has taken so long.
    pub(crate) fn count(&self, stage: Stage, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.times.borrow_mut()[stage as usize].saturating_record(nanos.max(TIME_MIN));
    }

    /// All of them, in their order.
    pub(crate) fn read(&self) -> Vec<StageTimes> {
        let times = self.times.borrow();
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let read = Stage::ALL.iter().zip(times.iter());
        read.map(|(stage, times)| StageTimes {
            stage: *stage,
            count: times.len(),
            mean_us: times.mean() / 1e3,
            p50_us: micros(times.value_at_quantile(0.5)),
            p99_us: micros(times.value_at_quantile(0.99)),
            max_us: micros(times.max()),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_histogram() {
        let stages = Stages::default();
        for (position, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, position);
            for _ in 0..=position {
                stages.count(*stage, Duration::from_micros(10 * position as u64));
            }
        }
        for (position, times) in stages.read().iter().enumerate() {
            assert_eq!(times.stage, Stage::ALL[position]);
            assert_eq!(times.count, position as u64 + 1);
            let expected = 10.0 * position as f64;
            assert!(
                (times.p50_us - expected).abs() <= expected / 50.0 + 0.2,
                "{times:?}"
            );
        }
    }

    #[test]
    fn no_time_is_too_long_or_too_short() {
        let stages = Stages::default();
        stages.count(Stage::Total, Duration::ZERO);
        stages.count(Stage::Total, Duration::MAX);
        assert_eq!(stages.read()[Stage::Total as usize].count, 2);
    }
}

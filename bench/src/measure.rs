//! One measure: what ran, and what came of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::error::Failure;

/// The longest latency that is told from longer ones: one minute, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;
/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;
/// The warm-up before each measure, as a part of its length.
const WARM_UP_PART: u32 = 4;

/// What is measured, without its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Subject {
    /// Who does the work: `ringlite`, or what it is compared with.
    pub(crate) system: &'static str,
    /// How many nodes replicate it; 0 where there is none.
    pub(crate) nodes: usize,
    /// How the work gets there.
    pub(crate) transport: &'static str,
    /// What the work is.
    pub(crate) workload: &'static str,
    /// How many at a time ask for it, each waiting for its own answer.
    pub(crate) connections: usize,
}

impl Subject {
    /// A name to choose it by.
    pub(crate) fn name(&self) -> String {
        let Self {
            system,
            nodes,
            transport,
            workload,
            connections,
        } = self;
        format!("{system}/{nodes}/{transport}/{workload}/{connections}")
    }
}

/// A measure, as it is printed: the fields are those of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measure {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) subject: Subject,
    /// For how long, without the warm-up.
    pub(crate) seconds: f64,
    /// How many were done in that time.
    pub(crate) commits: u64,
    /// How many failed in that time.
    pub(crate) errors: u64,
    /// How many were done per second.
    pub(crate) rate: f64,
    /// The median latency, in microseconds, as all of the following.
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// The median of a raw durable write of 8 KiB in the same run.
    pub(crate) raw_write_p50_us: f64,
    /// The median of a loopback round trip in the same run.
    pub(crate) round_trip_p50_us: f64,
}

/// What the machine can do, to compare with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) raw_write_p50_us: f64,
    pub(crate) round_trip_p50_us: f64,
}

impl Measure {
    /// Puts together what `subject` gave within `length`.
    pub(crate) fn new(
        subject: Subject,
        length: Duration,
        outcome: &Outcome,
        limits: Limits,
    ) -> Self {
        let latencies = &outcome.latencies;
        let at = |quantile| micros(latencies.value_at_quantile(quantile));
        let seconds = length.as_secs_f64();
        Self {
            subject,
            seconds,
            commits: latencies.len(),
            errors: outcome
                .failures
                .values()
                .map(|failures| failures.count)
                .sum(),
            rate: round(latencies.len() as f64 / seconds),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(latencies.max()),
            raw_write_p50_us: limits.raw_write_p50_us,
            round_trip_p50_us: limits.round_trip_p50_us,
        }
    }
}

/// Nanoseconds as microseconds with one decimal.
pub(crate) fn micros(nanoseconds: u64) -> f64 {
    round(nanoseconds as f64 / 1e3)
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The time in which things count. What ends before it is warm-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    opens: Instant,
    closes: Instant,
}

impl Window {
    /// Opens after a warm-up from now on, and stays open for `length`.
    pub(crate) fn after_warm_up(length: Duration) -> Self {
        let opens = Instant::now() + length / WARM_UP_PART;
        Self {
            opens,
            closes: opens + length,
        }
    }

    fn contains(&self, moment: Instant) -> bool {
        (self.opens..self.closes).contains(&moment)
    }

    /// Whether nothing that begins at `moment` can count any more.
    pub(crate) fn is_closed_at(&self, moment: Instant) -> bool {
        moment >= self.closes
    }

    /// When it closes.
    pub(crate) fn closes(&self) -> Instant {
        self.closes
    }
}

/// Requests that failed in the same way.
#[derive(Clone, Debug)]
pub(crate) struct Failures {
    /// How many.
    pub(crate) count: u64,
    /// What was said about the first one.
    pub(crate) words: String,
}

/// What came of the requests of a measure.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// From before the request until its answer, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// The requests that failed, by kind.
    pub(crate) failures: BTreeMap<String, Failures>,
}

impl Outcome {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX, LATENCY_DIGITS)
                .expect("the bounds are in order and the digits at most 5"),
            failures: BTreeMap::new(),
        }
    }

    /// Latencies that were recorded elsewhere.
    pub(crate) fn of(latencies: Histogram<u64>) -> Self {
        Self {
            latencies,
            failures: BTreeMap::new(),
        }
    }

    /// A request that took from `start` to `end` was answered: with nothing, or with a failure.
    pub(crate) fn count(
        &mut self,
        window: &Window,
        (start, end): (Instant, Instant),
        answer: Result<(), Failure>,
    ) {
        if !window.contains(end) {
            return;
        }
        match answer {
            Ok(()) => {
                let nanoseconds = u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX);
                self.latencies.saturating_record(nanoseconds);
            }
            Err(failure) => self.fail(failure, 1),
        }
    }

    /// Counts failures, whenever they happened.
    pub(crate) fn fail(&mut self, failure: Failure, count: u64) {
        let known = self.failures.entry(failure.kind);
        let known = known.or_insert(Failures {
            count: 0,
            words: failure.words,
        });
        known.count += count;
    }

    /// Adds what another thread has counted.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latencies
            .add(&other.latencies)
            .expect("all histograms have the same bounds");
        for (kind, Failures { count, words }) in other.failures {
            self.fail(Failure { kind, words }, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject {
        system: "ringlite",
        nodes: 3,
        transport: "tcp",
        workload: "insert-100",
        connections: 16,
    };

    #[test]
    fn a_measure_has_the_fields_that_scripts_read() {
        let measure = Measure::new(
            SUBJECT,
            Duration::from_secs(2),
            &Outcome::new(),
            Limits::default(),
        );
        let json = serde_json::to_value(&measure).unwrap();
        let mut found: Vec<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected =
            "system nodes transport workload connections seconds commits errors rate \
                            p50_us p90_us p99_us p999_us max_us raw_write_p50_us round_trip_p50_us"
                .split_whitespace()
                .collect::<Vec<_>>();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(SUBJECT.name(), "ringlite/3/tcp/insert-100/16");
    }

    #[test]
    fn only_what_ends_in_the_window_counts() {
        let opens = Instant::now();
        let second = Duration::from_secs(1);
        let window = Window {
            opens,
            closes: opens + 4 * second,
        };
        let mut outcome = Outcome::new();
        for (end, succeeds) in [(0, true), (1, true), (2, false), (4, false)] {
            let end = opens + end * second;
            let failure = || Failure {
                kind: "code 5".to_owned(),
                words: "busy".to_owned(),
            };
            let answer = succeeds.then_some(()).ok_or_else(failure);
            outcome.count(&window, (end - second, end), answer);
        }
        let mut total = Outcome::new();
        total.merge(outcome.clone());
        total.merge(outcome);
        let limits = Limits::default();
        let measure = Measure::new(SUBJECT, 4 * second, &total, limits);
        let counts = (measure.commits, measure.errors, measure.rate);
        assert_eq!(
            counts,
            (4, 2, 1.0),
            "what ends as the window closes is too late"
        );
        assert!((measure.p50_us - 1e6).abs() < 1e3, "{}", measure.p50_us);
    }
}

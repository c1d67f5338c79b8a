//! What came of the requests of one measure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::pace::{Schedule, Window};

/// The longest latency that is told from longer ones: one minute, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;
/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;
/// How long a connection waits after a failure before it sends again, so that failures that come
/// at once do not take the cores from those who succeed.
pub(crate) const FAILURE_PAUSE: Duration = Duration::from_millis(1);
/// The kind of failure of requests that were due and never sent.
const UNSENT: &str = "not sent";

/// A request that failed, as it is counted.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What failures of the same kind have in common.
    pub(crate) kind: String,
    /// What was said about this one.
    pub(crate) words: String,
}

/// Requests that failed in the same way.
#[derive(Clone, Debug)]
pub(crate) struct Failures {
    /// How many.
    pub(crate) count: u64,
    /// What was said about the first one.
    pub(crate) words: String,
}

/// Counts of requests, and their latencies.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// From when a request was sent, or due, until its answer, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Requests that were answered and count.
    pub(crate) answered: u64,
    /// Requests that were answered within the window, whenever they were due.
    pub(crate) answered_in_window: u64,
    /// Requests that were answered at all, in the warm-up too.
    pub(crate) answered_in_all: u64,
    /// The requests that failed, by kind.
    pub(crate) failures: BTreeMap<String, Failures>,
}

impl Outcome {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX, LATENCY_DIGITS)
                .expect("the bounds are in order and the digits at most 5"),
            answered: 0,
            answered_in_window: 0,
            answered_in_all: 0,
            failures: BTreeMap::new(),
        }
    }

    /// Latencies that were recorded elsewhere, all of which count.
    pub(crate) fn of(latencies: Histogram<u64>) -> Self {
        let answered = latencies.len();
        Self {
            latencies,
            answered,
            answered_in_window: answered,
            answered_in_all: answered,
            failures: BTreeMap::new(),
        }
    }

    /// A request was answered, with nothing or with a failure, at `end`. Its latency counts from
    /// `from`.
    pub(crate) fn count(
        &mut self,
        window: &Window,
        (from, end): (Instant, Instant),
        answer: Result<(), Failure>,
    ) {
        match answer {
            Ok(()) => {
                self.answered_in_all += 1;
                self.answered_in_window += u64::from(window.contains(end));
                if window.counts(from, end) {
                    self.answered += 1;
                    self.record(end - from);
                }
            }
            Err(failure) => {
                if window.counts(from, end) {
                    self.fail(failure, 1);
                }
            }
        }
    }

    /// Counts what a connection was to send and did not get to by `end`. Their latencies would have
    /// been longer than what is recorded for them.
    pub(crate) fn count_unsent(&mut self, window: &Window, schedule: &Schedule, end: Instant) {
        for due in schedule
            .unsent()
            .filter(|due| window.contains(*due) && *due < end)
        {
            self.record(end - due);
            let failure = Failure {
                kind: UNSENT.to_owned(),
                words: "requests were due and all connections busy until the end".to_owned(),
            };
            self.fail(failure, 1);
        }
    }

    fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanoseconds);
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

    /// How many requests failed.
    pub(crate) fn errors(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }

    /// Adds what another thread has counted.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latencies
            .add(&other.latencies)
            .expect("all histograms have the same bounds");
        self.answered += other.answered;
        self.answered_in_window += other.answered_in_window;
        self.answered_in_all += other.answered_in_all;
        for (kind, Failures { count, words }) in other.failures {
            self.fail(Failure { kind, words }, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;

    /// A system that answers after a millisecond, but once stalls for a second, under one
    /// connection that sends at `pace`.
    fn with_a_stall(pace: Pace) -> Outcome {
        let window = Window::after_warm_up(pace, Duration::from_secs(4));
        let mut outcome = Outcome::new();
        let mut schedule = Schedule::of_connection(window, 0, 1);
        let begin = Instant::now();
        let stall = begin + Duration::from_secs(2);
        let (mut now, mut stalled) = (begin, false);
        while let Some(due) = schedule.next_due(now) {
            let sent = due.max(now);
            let takes = if !stalled && sent >= stall {
                stalled = true;
                Duration::from_secs(1)
            } else {
                Duration::from_millis(1)
            };
            now = sent + takes;
            let from = schedule.latency_from(due, sent);
            outcome.count(&window, (from, now), Ok(()));
        }
        outcome.count_unsent(&window, &schedule, now);
        outcome
    }

    #[test]
    fn an_open_loop_shows_a_stall_and_a_closed_one_hides_it() {
        let every = Duration::from_millis(10);
        let open = with_a_stall(Pace::Open(every));
        let closed = with_a_stall(Pace::Closed(every));
        let p90 = |outcome: &Outcome| outcome.latencies.value_at_quantile(0.9) / 1_000_000;
        // One request in four was due during the stall, or while it was made up for.
        assert!(p90(&open) > 400, "{} ms", p90(&open));
        assert_eq!(p90(&closed), 1);
        assert_eq!(open.latencies.max() / 1_000_000_000, 1);
        assert_eq!(open.answered, 400);
        assert_eq!(open.errors(), 0);
    }

    #[test]
    fn what_an_overloaded_system_never_got_counts_as_late() {
        let window = Window::after_warm_up(Pace::open_at(1_000), Duration::from_secs(1));
        let mut schedule = Schedule::of_connection(window, 0, 1);
        let begin = Instant::now();
        let mut outcome = Outcome::new();
        let due = schedule.next_due(begin).unwrap();
        let end = window.gives_up() + Duration::from_secs(1);
        outcome.count(&window, (due, end), Ok(()));
        assert_eq!(schedule.next_due(end), None);
        outcome.count_unsent(&window, &schedule, end);
        assert_eq!(outcome.errors(), 1_000);
        assert_eq!((outcome.answered, outcome.answered_in_all), (0, 1));
        assert!(outcome.latencies.value_at_quantile(0.5) > 1_000_000_000);
    }

    #[test]
    fn only_what_ends_in_the_window_counts() {
        let second = Duration::from_secs(1);
        let window = Window::after_warm_up(Pace::BackToBack, 4 * second);
        let opens = window.gives_up() - 4 * second;
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
        let counts = (total.answered, total.errors(), total.answered_in_window);
        assert_eq!(
            counts,
            (4, 2, 4),
            "what ends as the window closes is too late"
        );
        assert_eq!(total.latencies.len(), 4);
    }
}

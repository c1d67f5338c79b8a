//! What `ringlite-bench` and the program that drives hiqlite say to each other: a line of JSON
//! there, a line of JSON back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcome::{Failures, Outcome};
use crate::pace::Pace;

/// What the driver is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Does this node lead, with all others as voters?
    Leads,
    /// Make the tables.
    Prepare,
    /// Load the cluster from this process.
    Load {
        workload: String,
        connections: usize,
        pace: WirePace,
        length: Duration,
    },
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Whether it leads.
    Leads(bool),
    /// It is done.
    Done,
    /// It has loaded the cluster.
    Loaded(WireOutcome),
    /// It cannot.
    Failed(String),
}

/// [`Pace`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum WirePace {
    BackToBack,
    Closed(Duration),
    Open(Duration),
}

/// [`Outcome`] on the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireOutcome {
    /// Latencies and how often they were.
    latencies: Vec<(u64, u64)>,
    answered: u64,
    answered_in_window: u64,
    answered_in_all: u64,
    failures: BTreeMap<String, (u64, String)>,
}

impl From<Pace> for WirePace {
    fn from(pace: Pace) -> Self {
        match pace {
            Pace::BackToBack => Self::BackToBack,
            Pace::Closed(every) => Self::Closed(every),
            Pace::Open(every) => Self::Open(every),
        }
    }
}

impl From<WirePace> for Pace {
    fn from(pace: WirePace) -> Self {
        match pace {
            WirePace::BackToBack => Self::BackToBack,
            WirePace::Closed(every) => Self::Closed(every),
            WirePace::Open(every) => Self::Open(every),
        }
    }
}

impl From<&Outcome> for WireOutcome {
    fn from(outcome: &Outcome) -> Self {
        let recorded = outcome.latencies.iter_recorded();
        Self {
            latencies: recorded
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
                .collect(),
            answered: outcome.answered,
            answered_in_window: outcome.answered_in_window,
            answered_in_all: outcome.answered_in_all,
            failures: outcome
                .failures
                .iter()
                .map(|(kind, failures)| (kind.clone(), (failures.count, failures.words.clone())))
                .collect(),
        }
    }
}

impl From<WireOutcome> for Outcome {
    fn from(wire: WireOutcome) -> Self {
        let mut outcome = Self::new();
        for (latency, count) in wire.latencies {
            outcome.latencies.saturating_record_n(latency, count);
        }
        outcome.answered = wire.answered;
        outcome.answered_in_window = wire.answered_in_window;
        outcome.answered_in_all = wire.answered_in_all;
        outcome.failures = wire
            .failures
            .into_iter()
            .map(|(kind, (count, words))| (kind, Failures { count, words }))
            .collect();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Failure;

    #[test]
    fn an_outcome_survives_the_wire() {
        let mut outcome = Outcome::new();
        for latency in [10_000, 20_000, 20_000, 5_000_000] {
            outcome.latencies.saturating_record(latency);
        }
        outcome.answered = 4;
        let failure = Failure {
            kind: "code 5".to_owned(),
            words: "busy".to_owned(),
        };
        outcome.fail(failure, 3);
        let json = serde_json::to_string(&WireOutcome::from(&outcome)).unwrap();
        let back: WireOutcome = serde_json::from_str(&json).unwrap();
        let back = Outcome::from(back);
        assert_eq!(back.latencies, outcome.latencies);
        assert_eq!((back.answered, back.errors()), (4, 3));
    }
}

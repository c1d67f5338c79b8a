//! One measure: what ran, and what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::pace::Pace;

/// The quantiles that are kept of each measure, besides those with a field of their own.
const QUANTILES: [f64; 14] = [
    0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0,
];

/// What is measured, without its outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Subject {
    /// Who does the work: `ringlite`, or what it is compared with.
    pub(crate) system: String,
    /// How many nodes replicate it; 0 where there is none.
    pub(crate) nodes: usize,
    /// How the work gets there.
    pub(crate) transport: String,
    /// What the work is.
    pub(crate) workload: String,
    /// How many at a time ask for it, each waiting for its own answer.
    pub(crate) connections: usize,
    /// From one request until the next one is due, in microseconds: of each connection, or of all
    /// together in an open loop. 0 if it follows at once.
    #[serde(default)]
    pub(crate) pace_us: f64,
    /// Whether requests are due at fixed times, and latencies count from these.
    #[serde(default)]
    pub(crate) open_loop: bool,
}

impl Subject {
    /// The same at another pace.
    pub(crate) fn at(mut self, pace: Pace) -> Self {
        let every = match pace {
            Pace::BackToBack => Duration::ZERO,
            Pace::Closed(every) | Pace::Open(every) => every,
        };
        self.pace_us = every.as_secs_f64() * 1e6;
        self.open_loop = matches!(pace, Pace::Open(_));
        self
    }

    /// A name to choose it by, such as `ringlite/3/tcp/insert-100/64`; behind it the pace, as
    /// `@5000us` or, in an open loop, `@2000/s`.
    pub(crate) fn name(&self) -> String {
        let Self {
            system,
            nodes,
            transport,
            workload,
            connections,
            pace_us,
            open_loop,
        } = self;
        let name = format!("{system}/{nodes}/{transport}/{workload}/{connections}");
        match (*pace_us > 0.0, open_loop) {
            (false, _) => name,
            (true, false) => format!("{name}@{pace_us:.0}us"),
            (true, true) => format!("{name}@{:.0}/s", self.rate_due()),
        }
    }

    /// How many requests are due a second in an open loop.
    pub(crate) fn rate_due(&self) -> f64 {
        1e6 / self.pace_us
    }
}

/// A measure, as it is printed: the fields are those of the JSON object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) subject: Subject,
    /// For how long, without the warm-up.
    pub(crate) seconds: f64,
    /// How many were done in that time; in an open loop, how many that were due in it were done.
    pub(crate) commits: u64,
    /// How many failed.
    pub(crate) errors: u64,
    /// How many were done per second.
    pub(crate) rate: f64,
    /// The median latency, in microseconds, as all of the following.
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// The median of a raw durable write of 8 KiB in the same repetition, at the same pace if that
    /// is a closed one.
    pub(crate) raw_write_p50_us: f64,
    /// The median of a loopback round trip in the same repetition.
    pub(crate) round_trip_p50_us: f64,
    /// Which repetition it is of, from 1.
    #[serde(default)]
    pub(crate) repetition: usize,
    /// Quantiles and their latencies in microseconds.
    #[serde(default)]
    pub(crate) quantiles_us: Vec<(f64, f64)>,
    /// Failures by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failures: BTreeMap<String, u64>,
    /// The bytes that each node handed to its disk for each operation, in the order of the nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) disk_bytes_per_commit: Vec<f64>,
    /// The part of a core that each idle node uses, in per cent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cpu_percent: Vec<f64>,
    /// The resident memory of each idle node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) resident_mib: Vec<f64>,
}

/// A figure of a measure.
pub(crate) type Figure = fn(&Measure) -> f64;

/// What the machine can do, to compare with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// The median of a raw write by its pace, in microseconds, back to back as 0.
    pub(crate) raw_write_p50_us: Vec<(f64, f64)>,
    /// The median of a round trip.
    pub(crate) round_trip_p50_us: f64,
}

impl Limits {
    /// What a measure of `subject` is compared with: 0 if nothing was measured.
    pub(crate) fn raw_write_for(&self, subject: &Subject) -> f64 {
        let pace_us = if subject.open_loop {
            0.0
        } else {
            subject.pace_us
        };
        let same = self
            .raw_write_p50_us
            .iter()
            .find(|(pace, _)| *pace == pace_us);
        same.or(self.raw_write_p50_us.first())
            .map_or(0.0, |(_, p50)| *p50)
    }
}

impl Measure {
    /// Puts together what `subject` gave within `length`.
    pub(crate) fn new(
        subject: Subject,
        repetition: usize,
        length: Duration,
        outcome: &Outcome,
        limits: &Limits,
    ) -> Self {
        let latencies = &outcome.latencies;
        let at = |quantile| micros(latencies.value_at_quantile(quantile));
        let seconds = length.as_secs_f64();
        Self {
            seconds,
            commits: outcome.answered,
            errors: outcome.errors(),
            rate: round(outcome.answered_in_window as f64 / seconds),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(latencies.max()),
            raw_write_p50_us: limits.raw_write_for(&subject),
            round_trip_p50_us: limits.round_trip_p50_us,
            repetition,
            quantiles_us: QUANTILES.map(|quantile| (quantile, at(quantile))).into(),
            failures: outcome
                .failures
                .iter()
                .map(|(kind, failures)| (kind.clone(), failures.count))
                .collect(),
            disk_bytes_per_commit: Vec::new(),
            cpu_percent: Vec::new(),
            resident_mib: Vec::new(),
            subject,
        }
    }

    /// How many raw durable writes the median latency is.
    pub(crate) fn raw_writes(&self) -> f64 {
        self.p50_us / self.raw_write_p50_us
    }
}

/// Nanoseconds as microseconds with one decimal.
pub(crate) fn micros(nanoseconds: u64) -> f64 {
    round(nanoseconds as f64 / 1e3)
}

pub(crate) fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn subject() -> Subject {
        Subject {
            system: "ringlite".to_owned(),
            nodes: 3,
            transport: "tcp".to_owned(),
            workload: "insert-100".to_owned(),
            connections: 16,
            pace_us: 0.0,
            open_loop: false,
        }
    }

    #[test]
    fn a_measure_has_the_fields_that_scripts_read() {
        let length = Duration::from_secs(2);
        let measure = Measure::new(subject(), 1, length, &Outcome::new(), &Limits::default());
        let json = serde_json::to_value(&measure).unwrap();
        let found = json.as_object().unwrap();
        for field in "system nodes transport workload connections pace_us seconds commits errors \
                      rate p50_us p90_us p99_us p999_us max_us raw_write_p50_us round_trip_p50_us"
            .split_whitespace()
        {
            assert!(found.contains_key(field), "{field}");
        }
        let back: Measure = serde_json::from_value(json).unwrap();
        assert_eq!(back.subject, measure.subject);
    }

    #[test]
    fn a_name_tells_the_pace() {
        assert_eq!(subject().name(), "ringlite/3/tcp/insert-100/16");
        let paced = subject().at(Pace::Closed(Duration::from_millis(5)));
        assert_eq!(paced.name(), "ringlite/3/tcp/insert-100/16@5000us");
        assert_eq!(paced.pace_us, 5000.0);
        let open = subject().at(Pace::open_at(2000));
        assert_eq!(open.name(), "ringlite/3/tcp/insert-100/16@2000/s");
    }

    #[test]
    fn a_measure_is_compared_with_the_raw_write_at_its_pace() {
        let limits = Limits {
            raw_write_p50_us: vec![(0.0, 40.0), (5000.0, 200.0)],
            round_trip_p50_us: 20.0,
        };
        let paced = subject().at(Pace::Closed(Duration::from_millis(5)));
        assert_eq!(limits.raw_write_for(&subject()), 40.0);
        assert_eq!(limits.raw_write_for(&paced), 200.0);
        let open = subject().at(Pace::open_at(200));
        assert_eq!(limits.raw_write_for(&open), 40.0);
    }
}

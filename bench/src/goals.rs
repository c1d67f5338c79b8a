//! What Ringlite promises on a machine of two cores, and whether this run shows it.

use crate::measure::{Measure, Subject};
use crate::plan::{EMBEDDED_ALONE, REPLICATION, THREE_NODES_ALONE, THREE_NODES_CROWDED};

const RAW_WRITES_MAX: f64 = 2.5;
const THREE_NODES_P50_US_MAX: f64 = 300.0;
const CROWDED_RATE_MIN: f64 = 10_000.0;
const IDLE_CPU_PERCENT_MAX: f64 = 1.0;

/// A goal and the figure of this run.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    /// Whether it is reached.
    pub(crate) reached: bool,
    /// The goal, and the figure.
    pub(crate) text: String,
}

/// Judges the goals that this run has figures for.
pub(crate) fn judge(measures: &[Measure], idle_cpu_percent: &[f64]) -> Vec<Verdict> {
    let find = |subject: Subject| measures.iter().find(|measure| measure.subject == subject);
    let mut verdicts = Vec::new();
    if let Some(measure) = find(EMBEDDED_ALONE) {
        let ratio = measure.p50_us / measure.raw_write_p50_us;
        verdicts.push(Verdict {
            reached: ratio < RAW_WRITES_MAX,
            text: format!(
                "one node, embedded, one writer: p50 is {ratio:.2} x the raw write \
                 (goal: under {RAW_WRITES_MAX})"
            ),
        });
    }
    if let Some(measure) = find(THREE_NODES_ALONE) {
        let floor = find(REPLICATION).map_or_else(String::new, |floor| {
            format!(", {:.2} x replication alone", measure.p50_us / floor.p50_us)
        });
        verdicts.push(Verdict {
            reached: measure.p50_us < THREE_NODES_P50_US_MAX,
            text: format!(
                "three nodes, one TCP client: p50 is {:.0} \u{b5}s{floor} \
                 (goal: under {THREE_NODES_P50_US_MAX:.0})",
                measure.p50_us
            ),
        });
    }
    if let Some(measure) = find(THREE_NODES_CROWDED) {
        verdicts.push(Verdict {
            reached: measure.rate > CROWDED_RATE_MIN,
            text: format!(
                "three nodes, 64 TCP clients: {:.0} commits/s (goal: over {CROWDED_RATE_MIN:.0})",
                measure.rate
            ),
        });
    }
    if let Some(most) = idle_cpu_percent.iter().copied().reduce(f64::max) {
        let each: Vec<String> = idle_cpu_percent
            .iter()
            .map(|percent| format!("{percent:.2}"))
            .collect();
        verdicts.push(Verdict {
            reached: most < IDLE_CPU_PERCENT_MAX,
            text: format!(
                "an idle node: {} % of a core on three nodes \
                 (goal: under {IDLE_CPU_PERCENT_MAX:.0} % each)",
                each.join(", ")
            ),
        });
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::{Limits, Outcome};

    fn measure(subject: Subject, p50_us: f64, rate: f64) -> Measure {
        let limits = Limits {
            raw_write_p50_us: 40.0,
            round_trip_p50_us: 20.0,
        };
        let mut measure = Measure::new(subject, Duration::from_secs(1), &Outcome::new(), limits);
        (measure.p50_us, measure.rate) = (p50_us, rate);
        measure
    }

    #[test]
    fn a_goal_is_reached_only_below_or_above_its_bound() {
        for (p50_us, rate, idle, reached) in [
            (99.0, 10_001.0, 0.9, [true, true, true, true]),
            (100.0, 10_000.0, 1.0, [false, true, false, false]),
            (301.0, 0.0, 50.0, [false; 4]),
        ] {
            let measures = [EMBEDDED_ALONE, THREE_NODES_ALONE, THREE_NODES_CROWDED]
                .map(|subject| measure(subject, p50_us, rate));
            let verdicts = judge(&measures, &[0.1, idle, 0.0]);
            let found: Vec<bool> = verdicts.iter().map(|verdict| verdict.reached).collect();
            assert_eq!(found, reached, "{verdicts:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&[], &[]), []);
    }
}

//! What the repetitions of one measure say together: their median, and how far they are apart.

use crate::measure::{Measure, Subject, round};

/// A figure over repetitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// That of some figures; `None` if there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures
            .into_iter()
            .filter(|figure| figure.is_finite())
            .collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = match figures.len() % 2 {
            1 => *figures.get(middle)?,
            _ => f64::midpoint(*figures.get(middle.checked_sub(1)?)?, *figures.get(middle)?),
        };
        Some(Self {
            median,
            min: *figures.first()?,
            max: *figures.last()?,
        })
    }

    /// How far the furthest figure is from the median, in per cent of it.
    pub(crate) fn percent(&self) -> f64 {
        let furthest = (self.max - self.median).max(self.median - self.min);
        100.0 * furthest / self.median
    }
}

/// All repetitions of a measure.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) subject: Subject,
    pub(crate) measures: Vec<Measure>,
}

impl Summary {
    /// Those of all measures, in the order in which their subjects came first.
    pub(crate) fn of_all(measures: &[Measure]) -> Vec<Self> {
        let mut summaries: Vec<Self> = Vec::new();
        for measure in measures {
            let known = summaries
                .iter_mut()
                .find(|summary| summary.subject == measure.subject);
            match known {
                Some(summary) => summary.measures.push(measure.clone()),
                None => summaries.push(Self {
                    subject: measure.subject.clone(),
                    measures: vec![measure.clone()],
                }),
            }
        }
        summaries
    }

    /// A figure over the repetitions.
    pub(crate) fn spread(&self, figure: impl Fn(&Measure) -> f64) -> Option<Spread> {
        Spread::of(self.measures.iter().map(figure))
    }

    /// The median of a figure; 0 if there is none.
    pub(crate) fn median(&self, figure: impl Fn(&Measure) -> f64) -> f64 {
        self.spread(figure).map_or(0.0, |spread| spread.median)
    }

    /// The largest of the nodes' figures, over the repetitions.
    pub(crate) fn of_nodes(&self, figures: impl Fn(&Measure) -> &[f64]) -> Option<Spread> {
        let largest = |measure| figures(measure).iter().copied().reduce(f64::max);
        Spread::of(self.measures.iter().filter_map(largest))
    }

    /// How many requests failed in all repetitions.
    pub(crate) fn errors(&self) -> u64 {
        self.measures.iter().map(|measure| measure.errors).sum()
    }

    /// The median of each quantile, as pairs of both.
    pub(crate) fn quantiles(&self) -> Vec<(f64, f64)> {
        let Some(first) = self.measures.first() else {
            return Vec::new();
        };
        (0..first.quantiles_us.len())
            .filter_map(|index| {
                let of = |measure: &Measure| measure.quantiles_us.get(index).copied();
                let latencies = self.measures.iter().filter_map(of);
                let median = Spread::of(latencies.map(|(_, latency)| latency))?.median;
                Some((first.quantiles_us[index].0, round(median)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::Limits;
    use crate::measure::tests::subject;
    use crate::outcome::Outcome;

    #[test]
    fn a_spread_is_of_the_figures_there_are() {
        let spread = Spread::of([4.0, 1.0, f64::NAN, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 4.0));
        assert_eq!(spread.percent(), 100.0);
        assert_eq!(Spread::of([1.0, 3.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn repetitions_come_together() {
        let measure = |connections, repetition, latency: u64| {
            let mut outcome = Outcome::new();
            outcome.latencies.saturating_record(latency);
            let subject = Subject {
                connections,
                ..subject()
            };
            let length = Duration::from_secs(1);
            Measure::new(subject, repetition, length, &outcome, &Limits::default())
        };
        let measures = [
            measure(1, 1, 1_000),
            measure(64, 1, 9_000),
            measure(1, 2, 3_000),
        ];
        let summaries = Summary::of_all(&measures);
        assert_eq!(summaries.len(), 2);
        assert_eq!(summaries[0].measures.len(), 2);
        assert_eq!(summaries[0].median(|measure| measure.p50_us), 2.0);
        let quantiles = summaries[0].quantiles();
        assert_eq!(quantiles.last(), Some(&(1.0, 2.0)));
    }
}

//! What Ringlite aims at on a machine of two cores that holds all nodes, and whether this run shows
//! it.

use std::fmt;

use crate::measure::{Figure, Measure};
use crate::summary::Summary;

/// The peers whose clients come over the network.
const REMOTE_PEERS: [&str; 3] = ["dqlite/3/tcp", "rqlite/3/http", "etcd/3/http"];

/// A goal and the figure of this run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// What is measured.
    pub(crate) goal: &'static str,
    /// How much it is, in `unit`.
    pub(crate) figure: f64,
    pub(crate) unit: &'static str,
    /// What is aimed at, and what is to be reached at the least.
    pub(crate) aim: f64,
    pub(crate) least: f64,
    /// Whether a larger figure is better.
    pub(crate) more_is_better: bool,
}

/// How far a goal is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Aim,
    Least,
    Missed,
}

impl Verdict {
    /// How far it is reached.
    pub(crate) fn mark(&self) -> Mark {
        let reaches = |bound: f64| {
            if self.more_is_better {
                self.figure >= bound
            } else {
                self.figure <= bound
            }
        };
        if reaches(self.aim) {
            Mark::Aim
        } else if reaches(self.least) {
            Mark::Least
        } else {
            Mark::Missed
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark() {
            Mark::Aim => "\u{2713}",
            Mark::Least => "~",
            Mark::Missed => "\u{2717}",
        };
        let Self {
            goal,
            figure,
            unit,
            aim,
            least,
            ..
        } = self;
        let bound = if self.more_is_better {
            "at least"
        } else {
            "at most"
        };
        let [figure, aim, least] = [figure, aim, least].map(|value| said(*value));
        write!(
            formatter,
            "{mark} {goal}: {figure} {unit} (aim {aim}, {bound} {least})"
        )
    }
}

/// A figure with as many digits as tell something.
pub(crate) fn said(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// Judges the goals that this run has figures for.
pub(crate) fn judge(summaries: &[Summary]) -> Vec<Verdict> {
    let run = Figures { summaries };
    let p50 = |name: &str| run.median(name, |measure| measure.p50_us);
    let p999 = |name: &str| run.median(name, |measure| measure.p999_us);
    let rate = |name: &str| run.median(name, |measure| measure.rate);
    let least = |figure: Option<f64>, bound: Option<f64>| Some(figure? / bound?);
    let quarter = |best: Option<f64>, aim: f64| best.map_or(aim, |best| (best / 4.0).max(aim));
    let best_p50 = run.best_peer("insert-100/1", |measure| measure.p50_us);
    let best_p999 = run.best_peer("insert-100/1", |measure| measure.p999_us);
    let below = |goal, figure: Option<f64>, unit, aim, least| {
        figure.map(|figure| Verdict {
            goal,
            figure,
            unit,
            aim,
            least,
            more_is_better: false,
        })
    };
    let above = |goal, figure: Option<f64>, aim, least| {
        figure.map(|figure| Verdict {
            goal,
            figure,
            unit: "commits/s",
            aim,
            least,
            more_is_better: true,
        })
    };
    let embedded = "ringlite/1/embedded/insert-100/1";
    let embedded_paced = "ringlite/1/embedded/insert-100/1@5000us";
    let leader = "ringlite/3/embedded/insert-100/1";
    let leader_paced = "ringlite/3/embedded/insert-100/1@5000us";
    let client = "ringlite/3/tcp/insert-100/1";
    let idle = "ringlite/3/tcp/idle/0";
    [
        below(
            "one node, embedded, one writer, p50",
            least(p50(embedded), p50("sqlite-full/1/embedded/insert-100/1")),
            "x SQLite FULL",
            1.0,
            1.4,
        ),
        below(
            "the same, one commit each 5 ms",
            least(
                p50(embedded_paced),
                p50("disk/0/io_uring/write-8192/1@5000us"),
            ),
            "x the raw write at that pace",
            1.15,
            1.4,
        ),
        below(
            "the same, beside SQLite",
            least(
                p50(embedded_paced),
                p50("sqlite-full/1/embedded/insert-100/1@5000us"),
            ),
            "x SQLite FULL at that pace",
            1.0,
            1.0,
        ),
        below(
            "three nodes, embedded on the leader, one writer, p50",
            p50(leader),
            "\u{b5}s",
            105.0,
            150.0,
        ),
        below(
            "the same, one commit each 5 ms",
            least(
                p50(leader_paced),
                p50("replication/3/tcp/write-4096/1@5000us"),
            ),
            "x replication alone at that pace",
            1.1,
            1.4,
        ),
        below(
            "three nodes, one TCP client, p50",
            p50(client),
            "\u{b5}s",
            125.0,
            quarter(best_p50, 125.0),
        ),
        best_p999.and_then(|best| {
            below(
                "the same, p99.9 beside the best peer's",
                p999(client).map(|own| own / best),
                "x",
                0.1,
                0.25,
            )
        }),
        above(
            "three nodes, 64 TCP clients",
            rate("ringlite/3/tcp/insert-100/64"),
            60_000.0,
            30_000.0,
        ),
        above(
            "one node, embedded, 64 writers",
            rate("ringlite/1/embedded/insert-100/64"),
            150_000.0,
            76_000.0,
        ),
        below(
            "linearizable read by key, three nodes, one TCP client, p50",
            p50("ringlite/3/tcp/read/1"),
            "\u{b5}s",
            60.0,
            80.0,
        ),
        below(
            "disk bytes of a node per row, three nodes, 64 TCP clients",
            run.nodes("ringlite/3/tcp/insert-100/64", |measure| {
                &measure.disk_bytes_per_commit
            }),
            "bytes",
            300.0,
            1_000.0,
        ),
        below(
            "an idle node of three",
            run.nodes(idle, |measure| &measure.cpu_percent),
            "% of a core",
            1.0,
            2.0,
        ),
        below(
            "an idle node's resident memory",
            run.nodes(idle, |measure| &measure.resident_mib),
            "MiB",
            20.0,
            40.0,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The figures of a run by the names of its measures.
struct Figures<'run> {
    summaries: &'run [Summary],
}

impl Figures<'_> {
    fn find(&self, name: &str) -> Option<&Summary> {
        let mut summaries = self.summaries.iter();
        summaries.find(|summary| summary.subject.name() == name)
    }

    fn median(&self, name: &str, figure: Figure) -> Option<f64> {
        Some(self.find(name)?.spread(figure)?.median)
    }

    /// The least of a figure among the peers that are reached over the network.
    fn best_peer(&self, load: &str, figure: Figure) -> Option<f64> {
        REMOTE_PEERS
            .iter()
            .filter_map(|peer| self.median(&format!("{peer}/{load}"), figure))
            .filter(|figure| *figure > 0.0)
            .reduce(f64::min)
    }

    fn nodes(&self, name: &str, figures: fn(&Measure) -> &[f64]) -> Option<f64> {
        Some(self.find(name)?.of_nodes(figures)?.median)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::tests::subject;
    use crate::measure::{Limits, Measure, Subject};
    use crate::outcome::Outcome;

    fn measured(system: &str, transport: &str, p50_us: f64) -> Summary {
        let subject = Subject {
            system: system.to_owned(),
            transport: transport.to_owned(),
            connections: 1,
            ..subject()
        };
        let length = Duration::from_secs(1);
        let limits = Limits::default();
        let measure = Measure::new(subject.clone(), 1, length, &Outcome::new(), &limits);
        Summary {
            subject,
            measures: vec![Measure { p50_us, ..measure }],
        }
    }

    fn mark_of_client(p50_us: f64, peers: &[Summary]) -> Mark {
        let own = measured("ringlite", "tcp", p50_us);
        let all: Vec<Summary> = peers.iter().cloned().chain([own]).collect();
        let verdicts = judge(&all);
        let goal = "three nodes, one TCP client, p50";
        let verdict = verdicts.iter().find(|verdict| verdict.goal == goal);
        verdict.unwrap().mark()
    }

    #[test]
    fn the_best_peer_sets_the_bound() {
        let peers = [
            measured("etcd", "http", 720.0),
            measured("dqlite", "tcp", 960.0),
        ];
        assert_eq!(mark_of_client(125.0, &peers), Mark::Aim);
        assert_eq!(mark_of_client(179.0, &peers), Mark::Least);
        assert_eq!(mark_of_client(181.0, &peers), Mark::Missed);
        assert_eq!(mark_of_client(179.0, &[]), Mark::Missed);
    }

    #[test]
    fn a_verdict_is_a_sentence() {
        let verdict = Verdict {
            goal: "three nodes, 64 TCP clients",
            figure: 42_123.4,
            unit: "commits/s",
            aim: 60_000.0,
            least: 30_000.0,
            more_is_better: true,
        };
        assert_eq!(
            verdict.to_string(),
            "~ three nodes, 64 TCP clients: 42123 commits/s (aim 60000, at least 30000)"
        );
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&[]), []);
    }
}

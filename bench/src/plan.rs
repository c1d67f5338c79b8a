//! What is measured: of which systems which loads, in which order, how often and how long.

use std::time::Duration;

use crate::limits::Limit;
use crate::load::Load;
use crate::measure::Subject;
use crate::options::Selection;
use crate::pace::Pace;
use crate::systems::Kind;
use crate::workload::Workload;

/// The pace of an appliance: one commit in each such time.
pub(crate) const PACED: Pace = Pace::Closed(Duration::from_millis(5));

const SECONDS_DEFAULT: f64 = 3.0;
const REPETITIONS_FULL: usize = 5;
/// What a full run may take, with some reserve below its limit of 40 minutes.
const FULL_TIME: Duration = Duration::from_secs(34 * 60);
/// What starting, preparing and stopping a system takes.
const START_TIME: Duration = Duration::from_secs(6);
/// The warm-up and what it takes to connect, as a part of a measure's length.
const OVERHEAD_PART: f64 = 0.4;
/// The idle nodes are watched for so long: their CPU time is counted in hundredths of a second.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(3);
/// Connections of the open loop.
const OPEN_CONNECTIONS: usize = 64;
/// Requests a second of the open loop.
const RATES: [u64; 6] = [500, 1_000, 2_000, 4_000, 8_000, 16_000];

/// A system and how it is loaded.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    /// Whether it is first watched while it does nothing.
    pub(crate) idle: bool,
    /// Of the open loops of a workload, the slower ones come first.
    pub(crate) loads: Vec<Load>,
}

impl Part {
    /// What a load of it is called.
    pub(crate) fn subject(&self, load: &Load) -> Subject {
        Subject {
            workload: load.workload.name().to_owned(),
            connections: load.connections,
            ..self.idle_subject()
        }
        .at(load.pace)
    }

    /// What watching it idle is called.
    pub(crate) fn idle_subject(&self) -> Subject {
        Subject {
            system: self.kind.system().to_owned(),
            nodes: self.kind.nodes(),
            transport: self.kind.transport().to_owned(),
            workload: "idle".to_owned(),
            connections: 0,
            pace_us: 0.0,
            open_loop: false,
        }
    }

    /// How many measures it is.
    fn measures(&self) -> usize {
        self.loads.len() + usize::from(self.idle)
    }
}

/// All of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Measured at the beginning of each repetition.
    pub(crate) limits: Vec<(Limit, Pace)>,
    pub(crate) parts: Vec<Part>,
    pub(crate) repetitions: usize,
    /// How long each measure takes, without its warm-up.
    pub(crate) length: Duration,
}

impl Plan {
    /// The plan that `selection` asks for.
    pub(crate) fn new(selection: &Selection) -> Self {
        let wants = |subject: &Subject| {
            let only = selection.only.as_ref();
            only.is_none_or(|only| subject.name().contains(only))
        };
        let mut parts: Vec<Part> = Kind::ALL
            .into_iter()
            .filter(|kind| selection.wants_system(*kind))
            .map(|kind| Part {
                kind,
                idle: has_idle(kind, selection),
                loads: loads(kind, selection),
            })
            .collect();
        for part in &mut parts {
            let whole = part.clone();
            part.idle &= wants(&whole.idle_subject());
            part.loads.retain(|load| wants(&whole.subject(load)));
        }
        parts.retain(|part| part.measures() > 0);
        let mut plan = Self {
            limits: limits(selection, &parts),
            parts,
            repetitions: selection.repetitions.unwrap_or(if selection.full {
                REPETITIONS_FULL
            } else {
                1
            }),
            length: Duration::from_secs_f64(selection.seconds.unwrap_or(SECONDS_DEFAULT)),
        };
        if selection.full && selection.seconds.is_none() {
            plan.length = plan.length.min(plan.length_that_fits());
        }
        plan
    }

    /// How many measures all repetitions are.
    pub(crate) fn measures(&self) -> usize {
        let parts: usize = self.parts.iter().map(Part::measures).sum();
        self.repetitions * (self.limits.len() + parts)
    }

    /// How long the run takes, about.
    pub(crate) fn time(&self) -> Duration {
        let timed = u32::try_from(self.timed_measures()).unwrap_or(u32::MAX);
        self.fixed_time() + (self.length * timed).mul_f64(1.0 + OVERHEAD_PART)
    }

    /// Starting systems and watching them idle.
    fn fixed_time(&self) -> Duration {
        let one = |part: &Part| START_TIME + IDLE_TIME * u32::from(part.idle);
        let all: Duration = self.parts.iter().map(one).sum();
        all * u32::try_from(self.repetitions).unwrap_or(u32::MAX)
    }

    /// How many measures take the length that was chosen.
    fn timed_measures(&self) -> usize {
        let loads: usize = self.parts.iter().map(|part| part.loads.len()).sum();
        self.repetitions * (self.limits.len() + loads)
    }

    /// The length of a measure with which the run ends in time.
    fn length_that_fits(&self) -> Duration {
        let left = FULL_TIME.saturating_sub(self.fixed_time());
        let measures = u32::try_from(self.timed_measures().max(1)).unwrap_or(u32::MAX);
        (left / measures).div_f64(1.0 + OVERHEAD_PART)
    }
}

/// Whether a system is watched while it does nothing: not those in this process, which is busy.
fn has_idle(kind: Kind, selection: &Selection) -> bool {
    let apart = kind.transport() != "embedded" || kind == Kind::Hiqlite;
    let chosen = selection.full || kind.nodes() == 3;
    apart && chosen && !selection.has_loads()
}

fn limits(selection: &Selection, parts: &[Part]) -> Vec<(Limit, Pace)> {
    let mut paces: Vec<Pace> = parts
        .iter()
        .flat_map(|part| &part.loads)
        .map(|load| load.pace)
        .filter(|pace| matches!(pace, Pace::Closed(_)))
        .collect();
    paces.dedup();
    paces.sort_by_key(|pace| match pace {
        Pace::Closed(every) => *every,
        _ => Duration::ZERO,
    });
    paces.dedup();
    let needed = [Limit::RAW_WRITE, Limit::RoundTrip, Limit::Replication];
    let back_to_back = Limit::ALL
        .into_iter()
        .filter(|limit| selection.full || needed.contains(limit) || !selection.has_loads())
        .filter(|limit| limit.is_possible())
        .map(|limit| (limit, Pace::BackToBack));
    let paced = paces.iter().flat_map(|pace| {
        let limits = needed.into_iter().filter(|limit| limit.can_be_paced());
        limits.map(|limit| (limit, *pace))
    });
    back_to_back.chain(paced).collect()
}

/// The loads of a system.
fn loads(kind: Kind, selection: &Selection) -> Vec<Load> {
    let mut loads = if selection.has_loads() {
        chosen_loads(selection)
    } else if selection.full {
        full_loads()
    } else {
        short_loads(kind)
    };
    loads.retain(|load| kind.can(load.workload));
    loads
}

/// Every combination of what was chosen.
fn chosen_loads(selection: &Selection) -> Vec<Load> {
    let workloads = selection.workloads.as_deref();
    let connections = selection.connections.as_deref().unwrap_or(&[1]);
    let mut paces = Vec::new();
    if selection.rates.is_none() && selection.paces.is_none() {
        paces.push(Pace::BackToBack);
    }
    let closed = selection.paces.iter().flatten();
    paces.extend(closed.map(|every| Pace::Closed(Duration::from_micros(*every))));
    let mut rates = selection.rates.clone().unwrap_or_default();
    rates.sort_unstable();
    paces.extend(rates.into_iter().map(Pace::open_at));
    let mut loads = Vec::new();
    for workload in workloads.unwrap_or(&[Workload::Insert]) {
        for connections in connections {
            loads.extend(paces.iter().map(|pace| Load {
                workload: *workload,
                connections: *connections,
                pace: *pace,
            }));
        }
    }
    loads
}

fn back_to_back(workload: Workload, connections: &[usize]) -> impl Iterator<Item = Load> {
    connections.iter().map(move |connections| Load {
        workload,
        connections: *connections,
        pace: Pace::BackToBack,
    })
}

fn short_loads(kind: Kind) -> Vec<Load> {
    let connections: &[usize] = match kind {
        Kind::SqliteFull | Kind::SqliteNormal => &[1],
        Kind::Embedded { nodes: 1 } => &[1, 64],
        Kind::Embedded { .. } | Kind::Served { nodes: 1 } => &[1],
        _ => &[1, 16, 64],
    };
    let mut loads: Vec<Load> = back_to_back(Workload::Insert, connections).collect();
    if kind != Kind::SqliteNormal {
        loads.push(paced());
    }
    if kind.transport() != "embedded" && kind.nodes() == 3 {
        loads.extend(back_to_back(Workload::Read, &[1]));
    }
    loads
}

fn full_loads() -> Vec<Load> {
    let mut loads: Vec<Load> = Vec::new();
    for (workload, connections) in [
        (Workload::Insert, [1, 4, 16, 64, 256].as_slice()),
        (Workload::Upsert, &[1, 64]),
        (Workload::Read, &[1, 16, 64]),
        (Workload::MostlyRead, &[16]),
        (Workload::HalfRead, &[16]),
        (Workload::FewRows, &[1, 16]),
        (Workload::NewOrder, &[1, 16]),
        (Workload::Bulk, &[1]),
    ] {
        loads.extend(back_to_back(workload, connections));
    }
    loads.push(paced());
    loads.extend(RATES.map(|rate| Load {
        workload: Workload::Insert,
        connections: OPEN_CONNECTIONS,
        pace: Pace::open_at(rate),
    }));
    loads
}

/// One writer at the pace of an appliance.
fn paced() -> Load {
    Load {
        workload: Workload::Insert,
        connections: 1,
        pace: PACED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plan: &Plan) -> Vec<String> {
        let limits = plan.limits.iter().map(|(limit, pace)| limit.subject(*pace));
        let parts = plan.parts.iter().flat_map(|part| {
            let loads = part.loads.iter().map(|load| part.subject(load));
            let idle = part.idle.then(|| part.idle_subject());
            idle.into_iter().chain(loads)
        });
        limits.chain(parts).map(|subject| subject.name()).collect()
    }

    fn selection(full: bool) -> Selection {
        Selection {
            full,
            ..Selection::default()
        }
    }

    #[test]
    fn names_are_unique() {
        for full in [false, true] {
            let mut names = names(&Plan::new(&selection(full)));
            names.sort_unstable();
            assert!(names.is_sorted_by(|left, right| left < right), "{names:?}");
        }
    }

    #[test]
    fn the_profiles_end_in_time() {
        let short = Plan::new(&selection(false));
        assert!(
            short.time() < Duration::from_secs(180),
            "{:?}",
            short.time()
        );
        let full = Plan::new(&selection(true));
        assert!(
            full.time() <= FULL_TIME + Duration::from_secs(1),
            "{:?}",
            full.time()
        );
        assert!(
            full.length >= Duration::from_millis(500),
            "{:?}",
            full.length
        );
        assert_eq!(full.repetitions, 5);
    }

    #[test]
    fn a_short_run_has_no_peers_and_a_full_one_all_workloads() {
        let short = Plan::new(&selection(false));
        assert!(short.parts.iter().all(|part| !part.kind.is_peer()));
        let full = Plan::new(&selection(true));
        assert_eq!(full.parts.len(), Kind::ALL.len());
        for part in full.parts {
            for workload in Workload::ALL {
                let has = part.loads.iter().any(|load| load.workload == workload);
                assert_eq!(has, part.kind.can(workload), "{part:?} {workload:?}");
            }
        }
    }

    #[test]
    fn choices_are_combined() {
        let chosen = Selection {
            systems: Some(vec!["etcd".to_owned(), "ringlite".to_owned()]),
            workloads: Some(vec![Workload::Insert, Workload::NewOrder]),
            connections: Some(vec![1, 8]),
            paces: Some(vec![5000]),
            rates: Some(vec![2000, 1000]),
            only: Some("/3/".to_owned()),
            ..Selection::default()
        };
        let names = names(&Plan::new(&chosen));
        for name in [
            "disk/0/io_uring/write-8192/1@5000us",
            "replication/3/tcp/write-4096/1@5000us",
            "etcd/3/http/insert-100/8@1000/s",
            "ringlite/3/embedded/new-order/1@5000us",
            "ringlite/3/tcp/new-order/8@2000/s",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        for part in ["etcd/3/http/new-order", "ringlite/1/", "sqlite", "idle"] {
            assert!(!names.iter().any(|name| name.contains(part)), "{part}");
        }
        // Three limits, two of them paced; of etcd, and of Ringlite embedded and over the wire,
        // two numbers of connections at three paces.
        assert_eq!(names.len(), 3 + 2 + 6 + 2 * 12);
    }
}

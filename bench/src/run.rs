//! Takes the measures of a plan, the systems in turn.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::directory::RunDirectory;
use crate::error::MeasureError;
use crate::limits::Limit;
use crate::load::Load;
use crate::measure::{Limits, Measure, Subject, micros, round};
use crate::outcome::Outcome;
use crate::pace::Pace;
use crate::plan::{IDLE_TIME, Part, Plan};
use crate::report::Report;
use crate::systems::System;
use crate::usage::Usage;

const TICK: Duration = Duration::from_millis(100);
/// From the last work of a node until it counts as idle.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// An open loop that answers less than this part of what is due is saturated.
const SATURATED_PART: f64 = 0.9;

/// A run under way.
pub(crate) struct Run<'run> {
    plan: &'run Plan,
    directory: &'run RunDirectory,
    peers: Option<&'run Path>,
    report: Report,
    progress: ProgressBar,
    repetition: usize,
    limits: Limits,
}

impl<'run> Run<'run> {
    /// Begins a run with the data of its systems in `directory`.
    pub(crate) fn new(
        plan: &'run Plan,
        directory: &'run RunDirectory,
        peers: Option<&'run Path>,
        report: Report,
    ) -> Self {
        let progress = ProgressBar::new(plan.measures() as u64);
        let style = "{spinner} {pos}/{len} {wide_bar} {msg} ({elapsed}, {eta} left)";
        if let Ok(style) = ProgressStyle::with_template(style) {
            progress.set_style(style);
        }
        progress.enable_steady_tick(TICK);
        Self {
            plan,
            directory,
            peers,
            report,
            progress,
            repetition: 0,
            limits: Limits::default(),
        }
    }

    /// Takes all measures. A system that cannot be measured is told and left out. Whether all could.
    pub(crate) fn take_all(mut self) -> Result<bool, MeasureError> {
        let plan = self.plan;
        for repetition in 1..=plan.repetitions {
            self.repetition = repetition;
            self.take_limits()?;
            // Each time another system comes first, so that none is always behind the same one.
            let first = (repetition - 1) % plan.parts.len().max(1);
            let (before, after) = plan.parts.split_at(first);
            for part in after.iter().chain(before) {
                if let Err(error) = self.take_part(part) {
                    let what = part.kind.system().to_owned();
                    self.told(|report| report.fail(what, &error))?;
                }
            }
        }
        self.progress.finish_and_clear();
        self.report.finish().map_err(MeasureError::Report)
    }

    /// Measures what the machine can do.
    fn take_limits(&mut self) -> Result<(), MeasureError> {
        self.limits = Limits::default();
        let mut taken = Vec::new();
        for (limit, pace) in &self.plan.limits {
            let subject = limit.subject(*pace);
            self.progress.set_message(subject.name());
            let directory = self.directory.new_part().map_err(MeasureError::Directory)?;
            let outcome = limit.measure(directory.path(), *pace, self.plan.length)?;
            let p50 = micros(outcome.latencies.value_at_quantile(0.5));
            match limit {
                &Limit::RAW_WRITE => {
                    self.limits.raw_write_p50_us.push((subject.pace_us, p50));
                }
                Limit::RoundTrip => self.limits.round_trip_p50_us = p50,
                _ => {}
            }
            taken.push((subject, outcome));
        }
        for (subject, outcome) in taken {
            self.add(self.measure(subject, &outcome), &outcome)?;
        }
        Ok(())
    }

    /// Starts a system, and takes its measures.
    fn take_part(&mut self, part: &Part) -> Result<(), MeasureError> {
        let name = format!("{}/{}", part.kind.system(), part.kind.nodes());
        self.progress.set_message(format!("{name}: starting"));
        let directory = self.directory.new_part().map_err(MeasureError::Directory)?;
        let mut system = part.kind.start(directory.path(), self.peers)?;
        if part.idle {
            let subject = part.idle_subject();
            self.progress.set_message(subject.name());
            let (cpu_percent, resident_mib) = watch_idle(&*system)?;
            let measure = Measure {
                seconds: IDLE_TIME.as_secs_f64(),
                quantiles_us: Vec::new(),
                cpu_percent,
                resident_mib,
                ..self.measure(subject, &Outcome::new())
            };
            self.add(measure, &Outcome::new())?;
        }
        if part.loads.is_empty() {
            return Ok(());
        }
        self.progress.set_message(format!("{name}: making tables"));
        system.prepare()?;
        let mut saturated: Option<Load> = None;
        for load in &part.loads {
            let subject = part.subject(load);
            let slower = saturated.filter(|slower| is_faster_than(slower, load));
            if let Some(slower) = slower {
                let slower = part.subject(&slower).name();
                self.told(|_| {
                    eprintln!("{}: not run, {slower} is too much already", subject.name());
                    Ok(())
                })?;
                self.progress.inc(1);
                continue;
            }
            self.progress.set_message(subject.name());
            let before = usages(&*system)?;
            let outcome = system.load(*load, self.plan.length)?;
            let after = usages(&*system)?;
            let operations = outcome.answered_in_all.max(1) as f64;
            let written = before.iter().zip(&after).map(|(before, after)| {
                after.written_bytes.saturating_sub(before.written_bytes) as f64 / operations
            });
            let measure = Measure {
                disk_bytes_per_commit: written.map(f64::round).collect(),
                ..self.measure(subject, &outcome)
            };
            let due = measure.subject.rate_due();
            if matches!(load.pace, Pace::Open(_)) && measure.rate < SATURATED_PART * due {
                saturated = Some(*load);
            }
            self.add(measure, &outcome)?;
        }
        Ok(())
    }

    fn measure(&self, subject: Subject, outcome: &Outcome) -> Measure {
        let length = self.plan.length;
        Measure::new(subject, self.repetition, length, outcome, &self.limits)
    }

    fn add(&mut self, measure: Measure, outcome: &Outcome) -> Result<(), MeasureError> {
        self.progress.inc(1);
        self.told(|report| report.add(measure, outcome))
    }

    /// Lets the report speak without the progress in between.
    fn told(
        &mut self,
        tell: impl FnOnce(&mut Report) -> std::io::Result<()>,
    ) -> Result<(), MeasureError> {
        let report = &mut self.report;
        let told = self.progress.suspend(|| tell(report));
        told.map_err(MeasureError::Report)
    }
}

/// Whether `load` is the same open loop as `slower` at a higher rate.
fn is_faster_than(slower: &Load, load: &Load) -> bool {
    let same = Load {
        pace: slower.pace,
        ..*load
    };
    same == *slower && matches!(load.pace, Pace::Open(_))
}

fn usages(system: &dyn System) -> Result<Vec<Usage>, MeasureError> {
    let processes = system.processes().into_iter();
    let usages: std::io::Result<_> = processes.map(Usage::of).collect();
    usages.map_err(MeasureError::Processes)
}

/// The part of a core that each node uses while nobody asks anything of it, in per cent, and its
/// resident memory in MiB.
fn watch_idle(system: &dyn System) -> Result<(Vec<f64>, Vec<f64>), MeasureError> {
    std::thread::sleep(SETTLE_TIME);
    let before = usages(system)?;
    std::thread::sleep(IDLE_TIME);
    let after = usages(system)?;
    let cpu = before.iter().zip(&after).map(|(before, after)| {
        let used = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        100.0 * used / IDLE_TIME.as_secs_f64()
    });
    let mebibyte = f64::from(1 << 20);
    let resident = after
        .iter()
        .map(|usage| usage.resident_bytes as f64 / mebibyte);
    Ok((cpu.map(round).collect(), resident.map(round).collect()))
}

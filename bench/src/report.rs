//! The results: a table for people, one JSON object per line for programs.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::goals::Verdict;
use crate::measure::{Measure, Outcome};

const TICK: Duration = Duration::from_millis(100);

/// How much of the cores the nodes use that nobody asks anything of. It goes out as one object
/// with the fields of a measure, all zero where nothing was committed, and one more.
#[derive(Serialize)]
struct Idle<'measure> {
    #[serde(flatten)]
    measure: &'measure Measure,
    cpu_percent: &'measure [f64],
}

/// Where the results go.
pub(crate) struct Report {
    json: bool,
    measures: Vec<Measure>,
}

impl Report {
    /// JSON if it is asked for or standard output is no terminal.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json: json || !io::stdout().is_terminal(),
            measures: Vec::new(),
        }
    }

    /// Does some work with a sign of life on standard error.
    pub(crate) fn while_working<T>(what: &str, work: impl FnOnce() -> T) -> T {
        let progress = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            progress.set_style(style);
        }
        progress.enable_steady_tick(TICK);
        let result = work();
        progress.finish_and_clear();
        result
    }

    /// Takes a result. As JSON it is out at once, so that a run that breaks off has told what it
    /// knew.
    pub(crate) fn add(&mut self, measure: Measure, outcome: &Outcome) -> io::Result<()> {
        for (kind, failures) in &outcome.failures {
            let (name, count) = (measure.subject.name(), failures.count);
            eprintln!(
                "{name}: {count} failed with {kind}, such as: {}",
                failures.words
            );
        }
        if self.json {
            print_json(&measure)?;
        }
        self.measures.push(measure);
        Ok(())
    }

    /// Takes the result of doing nothing.
    pub(crate) fn add_idle(&mut self, measure: &Measure, cpu_percent: &[f64]) -> io::Result<()> {
        if self.json {
            print_json(&Idle {
                measure,
                cpu_percent,
            })?;
        }
        Ok(())
    }

    /// All results so far.
    pub(crate) fn measures(&self) -> &[Measure] {
        &self.measures
    }

    /// Ends with the table, unless the results went out as JSON, and the verdicts, which are worth
    /// little after a warning.
    pub(crate) fn finish(self, verdicts: &[Verdict], warning: Option<&str>) -> io::Result<()> {
        if !self.json {
            writeln!(io::stdout(), "{}", table(&self.measures))?;
        }
        for Verdict { reached, text } in verdicts {
            let mark = if *reached { '\u{2713}' } else { '\u{2717}' };
            eprintln!("{mark} {text}");
        }
        if let Some(warning) = warning {
            eprintln!("These verdicts prove nothing: when the run began, {warning}");
        }
        Ok(())
    }
}

fn print_json(object: &impl Serialize) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, object)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

fn table(measures: &[Measure]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "measure",
        "rate/s",
        "p50 \u{b5}s",
        "p90",
        "p99",
        "p99.9",
        "max",
        "p50 / raw",
        "errors",
    ]);
    for measure in measures {
        table.add_row([
            measure.subject.name(),
            format!("{:.0}", measure.rate),
            format!("{:.1}", measure.p50_us),
            format!("{:.1}", measure.p90_us),
            format!("{:.0}", measure.p99_us),
            format!("{:.0}", measure.p999_us),
            format!("{:.0}", measure.max_us),
            format!("{:.2}", measure.p50_us / measure.raw_write_p50_us),
            measure.errors.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

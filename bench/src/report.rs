//! The results: a table for people, one JSON object per line for programs, a page with plots.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde::Serialize;

use crate::about::About;
use crate::goals;
use crate::html;
use crate::measure::{Figure, Measure};
use crate::options::Output;
use crate::outcome::Outcome;
use crate::summary::Summary;

/// A system that could not be measured, or a measure that could not be taken.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failed {
    /// What was to be measured.
    pub(crate) failed: String,
    /// Why it was not.
    pub(crate) words: String,
}

/// Where the results go.
pub(crate) struct Report {
    /// One JSON object per line.
    json: Option<Box<dyn Write>>,
    /// Whether the table goes to standard output, which the JSON leaves free.
    has_table: bool,
    html: Option<PathBuf>,
    about: About,
    measures: Vec<Measure>,
    failed: Vec<Failed>,
}

/// What the run is, as the first object of the JSON.
#[derive(Serialize)]
struct Opening<'about> {
    about: &'about About,
}

impl Report {
    /// JSON if it is asked for or standard output is no terminal.
    pub(crate) fn new(output: &Output, about: About) -> io::Result<Self> {
        let to_standard_output = match &output.json {
            Some(path) => path == Path::new("-"),
            None => !io::stdout().is_terminal(),
        };
        let json: Option<Box<dyn Write>> = match &output.json {
            _ if to_standard_output => Some(Box::new(io::stdout())),
            Some(path) => Some(Box::new(BufWriter::new(File::create(path)?))),
            None => None,
        };
        // Whether it can be written is known before the run.
        if let Some(path) = &output.html {
            File::create(path)?;
        }
        let mut report = Self {
            json,
            has_table: !to_standard_output,
            html: output.html.clone(),
            about,
            measures: Vec::new(),
            failed: Vec::new(),
        };
        let Self { json, about, .. } = &mut report;
        write_json(json.as_deref_mut(), &Opening { about })?;
        Ok(report)
    }

    /// Takes a result. As JSON it is out at once, so that a run that breaks off has told what it
    /// knew.
    pub(crate) fn add(&mut self, measure: Measure, outcome: &Outcome) -> io::Result<()> {
        for (kind, failures) in &outcome.failures {
            let (name, count) = (measure.subject.name(), failures.count);
            let words = &failures.words;
            eprintln!("{name}: {count} failed with {kind}, such as: {words}");
        }
        write_json(self.json.as_deref_mut(), &measure)?;
        self.measures.push(measure);
        Ok(())
    }

    /// Takes what could not be measured.
    pub(crate) fn fail(&mut self, what: String, error: &dyn std::error::Error) -> io::Result<()> {
        eprintln!("{what}: not measured: {error}");
        let failed = Failed {
            failed: what,
            words: error.to_string(),
        };
        write_json(self.json.as_deref_mut(), &failed)?;
        self.failed.push(failed);
        Ok(())
    }

    /// Ends with the table, the verdicts and the page. Whether everything was measured.
    pub(crate) fn finish(self) -> io::Result<bool> {
        let summaries = Summary::of_all(&self.measures);
        if self.has_table {
            writeln!(io::stdout(), "{}", table(&summaries))?;
            if let Some(idle) = idle_table(&summaries) {
                writeln!(io::stdout(), "{idle}")?;
            }
        }
        let verdicts = goals::judge(&summaries);
        for verdict in &verdicts {
            eprintln!("{verdict}");
        }
        if let Some(warning) = &self.about.warning {
            eprintln!("These verdicts prove nothing: when the run began, {warning}");
        }
        for missing in &self.about.missing {
            eprintln!("not measured: {}: {}", missing.system, missing.why);
        }
        if let Some(path) = &self.html {
            let page = html::page(&self.about, &summaries, &verdicts, &self.failed);
            std::fs::write(path, page)?;
        }
        Ok(self.failed.is_empty())
    }
}

fn write_json(
    output: Option<&mut (dyn Write + 'static)>,
    object: &impl Serialize,
) -> io::Result<()> {
    let Some(output) = output else {
        return Ok(());
    };
    serde_json::to_writer(&mut *output, object)?;
    output.write_all(b"\n")?;
    output.flush()
}

/// A table without rules between its rows, and with numbers in all columns but the first.
pub(crate) fn plain_table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What idle nodes use, if any were watched.
fn idle_table(summaries: &[Summary]) -> Option<Table> {
    let rows: Vec<Vec<String>> = summaries
        .iter()
        .filter_map(|summary| {
            let cpu = summary.of_nodes(|measure| &measure.cpu_percent)?;
            let memory = summary.of_nodes(|measure| &measure.resident_mib)?;
            Some(vec![
                summary.subject.name(),
                format!("{:.2}", cpu.median),
                format!("{:.0}", memory.median),
            ])
        })
        .collect();
    let header = [
        "idle, the busiest and the largest node",
        "% of a core",
        "MiB",
    ];
    (!rows.is_empty()).then(|| plain_table(&header, rows.into_iter()))
}

fn table(summaries: &[Summary]) -> Table {
    let header = [
        "measure",
        "rate/s",
        "p50 \u{b5}s",
        "\u{b1} %",
        "p90",
        "p99",
        "p99.9",
        "max",
        "p50 / raw",
        "disk B/op",
        "errors",
    ];
    let loaded = summaries
        .iter()
        .filter(|summary| summary.subject.connections > 0);
    let rows = loaded.map(|summary| {
        let median = |figure: Figure| summary.median(figure);
        let spread = summary.spread(|measure| measure.p50_us);
        let spread = spread.filter(|_| summary.measures.len() > 1);
        let disk = summary.of_nodes(|measure| &measure.disk_bytes_per_commit);
        vec![
            summary.subject.name(),
            format!("{:.0}", median(|measure| measure.rate)),
            format!("{:.1}", median(|measure| measure.p50_us)),
            spread.map_or_else(String::new, |spread| format!("{:.0}", spread.percent())),
            format!("{:.1}", median(|measure| measure.p90_us)),
            format!("{:.0}", median(|measure| measure.p99_us)),
            format!("{:.0}", median(|measure| measure.p999_us)),
            format!("{:.0}", median(|measure| measure.max_us)),
            format!("{:.2}", median(Measure::raw_writes)),
            disk.map_or_else(String::new, |disk| format!("{:.0}", disk.median)),
            summary.errors().to_string(),
        ]
    });
    plain_table(&header, rows)
}

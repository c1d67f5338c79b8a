//! Compares two runs by their ratios to the raw limit of each, so that a machine that was slower
//! that day is not taken for a slower program.

use std::path::{Path, PathBuf};

use comfy_table::Table;

use crate::measure::{Figure, Measure};
use crate::options::Compare;
use crate::report::plain_table;
use crate::summary::{Spread, Summary};

/// The system that a commit can make slower.
const PRODUCT: &str = "ringlite";

/// Why two runs cannot be compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file is something else.
    #[error("{}, line {line}, is no measure: {source}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
    /// The runs have no measure in common.
    #[error("the two runs have no measure of Ringlite in common")]
    NothingInCommon,
}

/// What became of a figure from one run to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Less than the tolerance, or less than the repetitions differ among themselves.
    None,
    Slower,
    Faster,
}

/// Prints what changed. Whether nothing got slower.
pub(crate) fn compare(arguments: &Compare) -> Result<bool, CompareError> {
    let before = read(&arguments.before)?;
    let after = read(&arguments.after)?;
    let rows = rows(&before, &after, arguments.tolerance / 100.0);
    if rows.is_empty() {
        return Err(CompareError::NothingInCommon);
    }
    println!("{}", table(&rows));
    let slower = rows
        .iter()
        .filter(|row| row.change == Change::Slower)
        .count();
    let count = rows.len();
    println!(
        "{slower} of {count} figures got slower by more than {} %",
        arguments.tolerance
    );
    Ok(slower == 0)
}

/// The measures of a run, of which a file has one object per line.
fn read(path: &Path) -> Result<Vec<Summary>, CompareError> {
    let text = std::fs::read_to_string(path).map_err(|source| CompareError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut measures = Vec::new();
    for (line, json) in (1..).zip(text.lines()) {
        let failed = |source| CompareError::Line {
            path: path.to_owned(),
            line,
            source,
        };
        let object: serde_json::Value = serde_json::from_str(json).map_err(failed)?;
        // Other objects tell about the run, or what was not measured.
        if object.get("system").is_some() {
            let measure: Measure = serde_json::from_value(object).map_err(failed)?;
            measures.push(measure);
        }
    }
    Ok(Summary::of_all(&measures))
}

/// A figure of both runs, as a multiple of the raw limit: the more, the slower.
struct Row {
    name: String,
    before: Spread,
    after: Spread,
    change: Change,
}

fn rows(before: &[Summary], after: &[Summary], tolerance: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    // The limits and the other systems are as they are.
    let own = |summary: &&Summary| summary.subject.system == PRODUCT;
    for after in after.iter().filter(own) {
        let same = |before: &&Summary| before.subject == after.subject;
        let Some(before) = before.iter().find(same) else {
            continue;
        };
        let figures: [(&str, Figure); 2] = [
            ("p50 / raw write", Measure::raw_writes),
            // The time of one operation: the median does not see it where many are under way.
            ("time per operation / raw write", |measure| {
                1e6 / measure.rate / measure.raw_write_p50_us
            }),
        ];
        // At a fixed pace the rate says nothing.
        let figures = if after.subject.pace_us > 0.0 {
            &figures[..1]
        } else {
            &figures[..]
        };
        for (figure, of) in figures {
            let (Some(old), Some(new)) = (before.spread(of), after.spread(of)) else {
                continue;
            };
            if new.median == 0.0 {
                continue;
            }
            rows.push(Row {
                name: format!("{}: {figure}", after.subject.name()),
                before: old,
                after: new,
                change: change(&old, &new, tolerance),
            });
        }
    }
    rows
}

/// A figure has changed if its median has by more than the tolerance, and no repetition of the one
/// run is as good as one of the other.
fn change(before: &Spread, after: &Spread, tolerance: f64) -> Change {
    if after.median > before.median * (1.0 + tolerance) && after.min > before.max {
        Change::Slower
    } else if before.median > after.median * (1.0 + tolerance) && before.min > after.max {
        Change::Faster
    } else {
        Change::None
    }
}

fn table(rows: &[Row]) -> Table {
    let rows = rows.iter().map(|row| {
        let said = |spread: &Spread| {
            let Spread { median, min, max } = spread;
            format!("{median:.2} ({min:.2} to {max:.2})")
        };
        let percent = 100.0 * (row.after.median / row.before.median - 1.0);
        let mark = match row.change {
            Change::None => "",
            Change::Slower => " slower",
            Change::Faster => " faster",
        };
        vec![
            row.name.clone(),
            said(&row.before),
            said(&row.after),
            format!("{percent:+.0} %{mark}"),
        ]
    });
    plain_table(&["figure", "before", "after", "change"], rows)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::tests::subject;
    use crate::measure::{Limits, Subject};
    use crate::outcome::Outcome;

    /// The lines of a run whose repetitions have these medians and raw limits, in microseconds.
    fn run(medians: &[(u64, f64)]) -> String {
        let mut lines = String::from("{\"about\":{}}\n");
        for (median, raw_write) in medians {
            let mut outcome = Outcome::new();
            outcome.latencies.saturating_record(median * 1000);
            let limits = Limits {
                raw_write_p50_us: vec![(0.0, *raw_write)],
                round_trip_p50_us: 20.0,
            };
            let length = Duration::from_secs(1);
            let mut measure = Measure::new(subject(), 1, length, &outcome, &limits);
            measure.rate = 1e6 / *median as f64;
            lines += &serde_json::to_string(&measure).unwrap();
            lines += "\n";
        }
        lines
    }

    /// Whether nothing got slower.
    fn compared(before: &[(u64, f64)], after: &[(u64, f64)]) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, run: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, run).unwrap();
            path
        };
        compare(&Compare {
            before: path("before", run(before)),
            after: path("after", run(after)),
            tolerance: 10.0,
        })
        .unwrap()
    }

    #[test]
    fn only_what_is_slower_beyond_the_machine_and_the_spread_is_told() {
        let before = [(100, 40.0), (104, 40.0)];
        assert!(compared(&before, &before));
        assert!(!compared(&before, &[(120, 40.0), (121, 40.0)]));
        // The machine was slower.
        assert!(compared(&before, &[(200, 80.0), (210, 80.0)]));
        // One repetition was as good as before.
        assert!(compared(&before, &[(130, 40.0), (103, 40.0)]));
        assert!(compared(&before, &[(60, 40.0), (61, 40.0)]));
    }

    #[test]
    fn another_system_is_not_compared() {
        let limits = Limits::default();
        let other = Subject {
            system: "disk".to_owned(),
            ..subject()
        };
        let length = Duration::from_secs(1);
        let measure = Measure::new(other, 1, length, &Outcome::new(), &limits);
        let run = Summary::of_all(&[measure]);
        assert!(rows(&run, &run, 0.1).is_empty());
    }

    #[test]
    fn a_file_that_is_no_run_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        std::fs::write(&path, "{}\nnonsense\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}

//! Where the time of a commit goes: the histograms that the leader keeps, after some load.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use ringlite::StageTimes;

use crate::directory::RunDirectory;
use crate::error::MeasureError;
use crate::load::Load;
use crate::options::Selection;
use crate::pace::Pace;
use crate::systems::Kind;
use crate::workload::Workload;

const COLUMNS: [&str; 6] = ["stage", "count", "mean us", "p50 us", "p99 us", "max us"];
/// The systems and how many connections load each.
const LOADS: [(Kind, usize); 4] = [
    (Kind::Embedded { nodes: 1 }, 1),
    (Kind::Embedded { nodes: 1 }, 64),
    (Kind::Served { nodes: 3 }, 1),
    (Kind::Served { nodes: 3 }, 64),
];

/// Loads Ringlite in several ways for `length` each, always started anew, and prints what the
/// leader has noted from its start on.
pub(crate) fn print(
    directory: &RunDirectory,
    selection: &Selection,
    length: Duration,
) -> Result<(), MeasureError> {
    for (kind, connections) in LOADS {
        let what = format!("{}/{}/{connections}", kind.nodes(), kind.transport());
        if selection
            .only
            .as_ref()
            .is_some_and(|only| !what.contains(only))
        {
            continue;
        }
        let part = directory.new_part().map_err(MeasureError::Directory)?;
        let mut system = kind.start(part.path(), None)?;
        system.prepare()?;
        let load = Load {
            workload: Workload::Insert,
            connections,
            pace: Pace::BackToBack,
        };
        let outcome = system.load(load, length)?;
        let rate = outcome.answered_in_window as f64 / length.as_secs_f64();
        println!("{what}: {rate:.0} commits/s\n{}", table(&system.stages()?));
    }
    Ok(())
}

fn table(stages: &[StageTimes]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(COLUMNS);
    for times in stages {
        let micros = [times.mean_us, times.p50_us, times.p99_us, times.max_us];
        let mut row = vec![times.stage.to_string(), times.count.to_string()];
        row.extend(micros.map(|micros| format!("{micros:.1}")));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

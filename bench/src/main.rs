//! The instrument: latency and throughput of Ringlite's commits, beside what the disk and the
//! network can do, SQLite alone, and other replicated databases.
//!
//! `cargo run --release -p ringlite-bench` measures the limits, SQLite and Ringlite in under three
//! minutes; `README.md` beside this package tells the rest. Ringlite's nodes are processes of this
//! same program.

mod about;
mod compare;
mod directory;
mod drive;
mod error;
mod goals;
mod html;
mod limits;
mod load;
mod machine;
mod measure;
mod operation;
mod options;
mod outcome;
mod pace;
mod plan;
mod plot;
mod process;
mod report;
mod run;
mod stages;
mod summary;
mod systems;
mod threads;
mod usage;
mod workload;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use about::About;
use directory::RunDirectory;
use error::MeasureError;
use options::{Arguments, Subcommands};
use plan::Plan;
use report::Report;
use run::Run;

/// The allocator of the `ringlite` binary, so that its nodes are measured as they run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(systems::SERVE) => return ringlite::cli::main(),
        Some(process::ATTACHED) => return process::become_attached(std::env::args_os().skip(2)),
        _ => {}
    }
    let arguments = Arguments::parse();
    let all_well = match &arguments.command {
        Some(Subcommands::Compare(compare)) => {
            compare::compare(compare).map_err(|error| error.to_string())
        }
        None => measure(&arguments).map_err(|error| error.to_string()),
    };
    match all_well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringlite-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes the measures that are asked for. Whether all of them could be taken.
fn measure(arguments: &Arguments) -> Result<bool, MeasureError> {
    let mut plan = Plan::new(&arguments.selection);
    if arguments.list {
        for (limit, pace) in &plan.limits {
            println!("{}", limit.subject(*pace).name());
        }
        for part in &plan.parts {
            let idle = part.idle.then(|| part.idle_subject());
            let loads = part.loads.iter().map(|load| part.subject(load));
            for subject in idle.into_iter().chain(loads) {
                println!("{}", subject.name());
            }
        }
        eprintln!("{}", announcement(&plan));
        return Ok(true);
    }
    let parent = arguments.dir.as_deref().unwrap_or(Path::new("."));
    let peers = arguments.peers.as_deref();
    let directory = RunDirectory::new(parent).map_err(MeasureError::Directory)?;
    let about = About::new(&mut plan, &directory.path(), peers);
    if let Some(warning) = &about.warning {
        eprintln!("{warning}");
    }
    for system in &about.systems {
        eprintln!("{}: {}; {}", system.system, system.version, system.settings);
    }
    for missing in &about.missing {
        eprintln!("{} is left out: {}", missing.system, missing.why);
    }
    if arguments.stages {
        stages::print(&directory, &arguments.selection, plan.length)?;
        return Ok(true);
    }
    eprintln!("{}", announcement(&plan));
    let report = Report::new(&arguments.output, about).map_err(MeasureError::Report)?;
    Run::new(&plan, &directory, peers, report).take_all()
}

fn announcement(plan: &Plan) -> String {
    format!(
        "{} measures of {:.1} s, which takes about {}",
        plan.measures(),
        plan.length.as_secs_f64(),
        about::minutes(plan.time())
    )
}

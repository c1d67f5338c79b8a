//! `ringlite inspect`: what lies in a data directory.

use std::io::{self, Write};
use std::path::PathBuf;

use super::output::{Format, print_json, print_object_table, print_table};
use crate::storage::{Found, Inspection, StorageError, inspect};

/// Show what lies in a data directory: whose it is, its log, its databases, and any damage
///
/// Nothing is written. It works on a damaged directory and on one that a node uses; what such a node
/// writes at this moment may look unfinished. On a terminal the answer is tables, otherwise JSON.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The data directory of a node
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Show this shard alone [default: all that the directory has]
    #[arg(long, value_name = "K")]
    shard: Option<u32>,
    /// List every record of the log
    #[arg(long)]
    records: bool,
    /// Print JSON on a terminal too
    #[arg(long)]
    json: bool,
}

/// Why a directory cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// It cannot be read.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// The answer cannot be printed.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Looks at the directory and prints what is there.
///
/// # Errors
/// If there is no such directory, and those of the output. The caller prints it.
pub(crate) fn run(args: &InspectArgs) -> Result<(), InspectError> {
    let first = inspect(&args.directory, args.shard.unwrap_or(0), args.records)?;
    let shards = match args.shard {
        Some(_) => 1,
        None => first.identity.good().map_or(1, |identity| identity.shards),
    };
    let mut found = vec![first];
    for shard in 1..shards {
        found.push(inspect(&args.directory, shard, args.records)?);
    }
    let format = if args.json {
        Format::Json
    } else {
        Format::of_stdout()
    };
    let out = &mut io::stdout().lock();
    let printed = match format {
        Format::Json if found.len() > 1 => json(&found).and_then(|value| print_json(out, &value)),
        Format::Json => json(&found[0]).and_then(|value| print_json(out, &value)),
        Format::Table | Format::Csv => {
            let mut found = found.iter();
            found.try_for_each(|found| print_tables(out, found))
        }
    };
    match printed {
        // That nobody reads the answer any more is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn json(value: &impl serde::Serialize) -> io::Result<serde_json::Value> {
    serde_json::to_value(value).map_err(io::Error::other)
}

fn print_tables(out: &mut impl Write, found: &Inspection) -> io::Result<()> {
    if let Some(shard) = found.shard {
        writeln!(out, "==== shard {shard} ====")?;
    }
    writeln!(
        out,
        "{}{}",
        found.directory,
        if found.in_use {
            " (in use by a node)"
        } else {
            ""
        }
    )?;
    print_part(out, "identity", &found.identity)?;
    for (name, copy) in ["hard state, copy A", "hard state, copy B"]
        .iter()
        .zip(&found.hard_state)
    {
        print_part(out, name, copy)?;
    }
    for (name, copy) in ["manifest.a", "manifest.b"].iter().zip(&found.manifest) {
        print_part(out, name, copy)?;
    }
    print_segments(out, found)?;
    print_part(out, "log", &found.log)?;
    let number =
        |number: Option<u64>| number.map_or_else(|| "missing".to_owned(), |n| n.to_string());
    let databases = found.databases.iter().map(|database| {
        vec![
            database.name.clone(),
            database.id.to_string(),
            database.page_size.to_string(),
            database.applied.to_string(),
            database.target.to_string(),
            number(database.file_bytes),
        ]
    });
    writeln!(out, "\ndatabases")?;
    let header = ["name", "id", "page size", "applied", "target", "file bytes"];
    print_table(out, &header, databases)?;
    for name in &found.unknown_files {
        writeln!(out, "no manifest names the file {name:?}")?;
    }
    out.flush()
}

fn print_part<T: serde::Serialize>(
    out: &mut impl Write,
    name: &str,
    part: &Found<T>,
) -> io::Result<()> {
    writeln!(out, "\n{name}")?;
    match part {
        Found::Good(part) => print_object_table(out, &json(part)?),
        Found::Bad(why) => writeln!(out, "BAD: {why}"),
    }
}

fn print_segments(out: &mut impl Write, found: &Inspection) -> io::Result<()> {
    writeln!(out, "\nsegments")?;
    let optional = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
    let rows = found.segments.iter().map(|segment| {
        let remark = match &segment.damage {
            _ if segment.obsolete => "obsolete".to_owned(),
            Some(damage) => damage.clone(),
            None => String::new(),
        };
        vec![
            segment.number.to_string(),
            segment.bytes.to_string(),
            optional(segment.epoch),
            segment.follows_on.as_ref().map_or_else(String::new, |end| {
                format!("i{} of t{}", end.index, end.term)
            }),
            optional(segment.first),
            optional(segment.last),
            segment.records.to_string(),
            segment.end.to_string(),
            remark,
        ]
    });
    let header = [
        "number",
        "bytes",
        "epoch",
        "follows on",
        "first",
        "last",
        "records",
        "end",
        "remark",
    ];
    print_table(out, &header, rows)?;
    for segment in found
        .segments
        .iter()
        .filter(|segment| !segment.list.is_empty())
    {
        writeln!(out, "\nrecords of segment {}", segment.number)?;
        let rows = segment.list.iter().map(|record| {
            vec![
                record.offset.to_string(),
                record.index.to_string(),
                record.term.to_string(),
                record.kind.clone(),
                record.payload_bytes.to_string(),
                record.durable_upto.to_string(),
                record.commit.to_string(),
            ]
        });
        let header = [
            "offset",
            "index",
            "term",
            "kind",
            "payload bytes",
            "durable",
            "commit",
        ];
        print_table(out, &header, rows)?;
    }
    Ok(())
}

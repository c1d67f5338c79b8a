//! `ringlite recover`: a node goes on alone after the loss of a majority, or of a part of its log.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use crate::storage::{Forced, StorageError};

/// Let a node go on alone with what it has, when the others are lost for good or its log is damaged
///
/// The node becomes the only member of its cluster, and its log ends before the first damaged record.
/// Whatever was acknowledged and is not in its log is lost. The command says what that may be, asks, and
/// keeps a copy of what it changes. The other members must never be started again with their old
/// directories: they could elect a leader of their own.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    /// The data directory of the node; no node may run on it
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    /// The directory does not allow it.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// The node starts without it.
    #[error("{} needs no recovery: it is whole, and its node is the only member", path.display())]
    Needless {
        /// The directory.
        path: PathBuf,
    },
    /// Nobody has said yes.
    #[error("nothing was changed: say yes on a terminal, or use --yes")]
    NotConfirmed,
    /// The terminal cannot be used.
    #[error("cannot ask: {0}")]
    Terminal(#[from] io::Error),
}

/// Explains, asks, and does it.
///
/// # Errors
/// If it is not possible, not needed, or not confirmed. The caller prints it.
pub(crate) fn run(args: &RecoverArgs) -> Result<(), RecoverError> {
    let mut forced = Forced::plan(&args.directory)?;
    // An earlier attempt may have been interrupted between two shards.
    forced.retain(|shard| !shard.is_needless());
    if forced.is_empty() {
        return Err(RecoverError::Needless {
            path: args.directory.clone(),
        });
    }
    for shard in &forced {
        if shard.place().count > 1 {
            eprintln!("In {}:", shard.place());
        }
        for line in explain(shard) {
            eprintln!("{line}");
        }
    }
    if !args.yes && !confirms()? {
        return Err(RecoverError::NotConfirmed);
    }
    let mut node = 0;
    Forced::carry_out_all(forced, |place, done| {
        node = done.node.0;
        println!(
            "node {} is a cluster of its own now, with its log{} up to {}; what was changed is in {}",
            done.node,
            match place.count {
                1 => String::new(),
                _ => format!(" of {place}"),
            },
            done.last,
            done.kept.display()
        );
    })?;
    println!(
        "start it with: ringlite serve --data {} --id {node} --listen HOST:PORT",
        args.directory.display(),
    );
    Ok(())
}

fn explain(forced: &Forced) -> Vec<String> {
    let mut lines = Vec::new();
    let (node, others) = forced.members();
    if others.is_empty() {
        lines.push(format!("Node {node} is the only member of its cluster."));
    } else {
        let names: Vec<_> = others.iter().map(u64::to_string).collect();
        let names = names.join(", ");
        lines.push(format!(
            "Node {node} will be the only member of its cluster, without node {names}. Whatever they have \
             acknowledged without it is lost. Never start them again with their old directories: empty \
             these first. If a majority of the members can still run, do not do this."
        ));
    }
    if let Some(fault) = forced.fault() {
        lines.push(format!("Its log is damaged: {fault}."));
    }
    lines.push(format!("Its log is kept up to {}.", forced.last()));
    if let Some(owed) = forced.owed() {
        lines.push(format!(
            "LOST: everything behind that. It may have acknowledged entries up to {owed}."
        ));
    }
    for database in forced.torn_databases() {
        lines.push(format!(
            "The file of database {database:?} may hold a part of what is lost, and may be no sound \
             database any more: run PRAGMA integrity_check, or restore it from a backup."
        ));
    }
    if forced.votes_lost() {
        lines.push(
            "Both copies of its hard state are damaged: whom it has voted for is unknown."
                .to_owned(),
        );
    }
    lines
}

fn confirms() -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Go on? Type yes: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

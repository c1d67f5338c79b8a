//! The command line.

mod backup;
mod cluster;
mod demo;
mod inspect;
mod members;
mod output;
mod progress;
mod recover;
mod serve;
mod shell;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Replicated SQLite at the speed of the disk.
#[derive(Debug, Parser)]
#[command(name = "ringlite", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: alone, as a member of a fixed cluster, or joining a running one
    Serve(Box<serve::ServeArgs>),
    /// Type SQL at a cluster, or run it from an argument or a file
    Shell(shell::ShellArgs),
    /// Look at a cluster and change its members; create and drop databases
    Cluster(cluster::ClusterArgs),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Inspect(inspect::InspectArgs),
    Recover(recover::RecoverArgs),
    /// Start three nodes here, write, kill the leader, and check that nothing is lost
    Demo(demo::DemoArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("RINGLITE_LOG")
                .unwrap_or_else(|_| "ringlite=info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let result = match arguments.command {
        Command::Serve(args) => serve::run(*args).map_err(Into::into),
        Command::Shell(args) => shell::run(args).map_err(Into::into),
        Command::Cluster(args) => cluster::run(args).map_err(Into::into),
        Command::Backup(args) => backup::run_backup(&args).map_err(Into::into),
        Command::Restore(args) => backup::run_restore(&args).map_err(Into::into),
        Command::Inspect(args) => inspect::run(&args).map_err(Into::into),
        Command::Recover(args) => recover::run(&args).map_err(Into::into),
        Command::Demo(args) => demo::run(args).map_err(Into::into),
    };
    finish(result)
}

/// The addresses in a list with commas.
fn split_addresses(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The exit code for `result`, with its error told on standard error.
fn finish(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringlite: {error}");
            ExitCode::FAILURE
        }
    }
}

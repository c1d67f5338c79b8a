//! The command line of the program under test, run as a user does.

use std::process::Command;
use std::time::Duration;

use ringlite::local_cluster::LocalCluster;

use crate::process::{self, Finished};

const LIMIT: Duration = Duration::from_secs(60);

/// How a result is printed.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// One array of objects per result.
    Json,
    /// A header and records.
    Csv,
}

/// Runs `ringlite shell` on one database of a cluster.
#[derive(Debug)]
pub struct Shell<'a> {
    program: &'a str,
    addresses: String,
    database: &'a str,
}

impl<'a> Shell<'a> {
    /// A shell of `program` on `database`.
    pub fn new(program: &'a str, cluster: &LocalCluster, database: &'a str) -> Self {
        Self {
            program,
            addresses: cluster.addresses().join(","),
            database,
        }
    }

    /// Runs SQL that is given on the standard input.
    pub fn script(&self, format: Format, sql: &str) -> Finished {
        process::run(&mut self.command(format), sql.as_bytes(), LIMIT)
    }

    /// Runs SQL that is given as an argument.
    pub fn argument(&self, format: Format, sql: &str) -> Finished {
        process::run(self.command(format).arg(sql), b"", LIMIT)
    }

    /// Runs SQL that has to succeed, and returns what it prints as JSON.
    pub fn json(&self, sql: &str) -> String {
        self.script(Format::Json, sql).succeeded()
    }

    fn command(&self, format: Format) -> Command {
        let mut command = Command::new(self.program);
        let name = match format {
            Format::Json => "json",
            Format::Csv => "csv",
        };
        command
            .args(["shell", &self.addresses, "--db", self.database])
            .args(["--format", name]);
        command
    }
}

/// What `ringlite cluster ADDRESS digest DATABASE --json` prints, once the node has applied
/// `index`.
///
/// # Panics
/// If it fails or prints no JSON.
pub fn digest(program: &str, address: &str, database: &str, index: u64) -> serde_json::Value {
    let mut command = Command::new(program);
    command
        .args(["cluster", address, "digest", database, "--json"])
        .args(["--index", &index.to_string()]);
    let answer = process::run(&mut command, b"", LIMIT).succeeded();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"))
}

//! `ringlite cluster`: what one node says about itself and its copies.

use std::io::{self, Write};

use super::output::{Format, print_json, print_object_table};
use crate::client::{Client, ClientError, DatabaseDigest};

/// Ask a node about itself
///
/// The node that is named answers, whether it leads or not. On a terminal the answer is a table,
/// otherwise JSON.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// The address of the node
    #[arg(value_name = "ADDR")]
    pub(crate) address: String,
    /// What to ask
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// A question to a node.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum ClusterCommand {
    /// The digest of the node's copy of a database; equal copies have equal digests
    Digest {
        /// The name of the database
        #[arg(value_name = "DB")]
        database: String,
        /// Wait until the node has applied the log up to this index
        #[arg(long, value_name = "N", default_value_t = 0)]
        index: u64,
        /// Print JSON on a terminal too
        #[arg(long)]
        json: bool,
    },
    /// The state of the node
    Status {
        /// Print JSON on a terminal too
        #[arg(long)]
        json: bool,
    },
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The node does not answer, or not with what was asked for.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The answer cannot be printed.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Asks the node and prints the answer.
///
/// # Errors
/// Those of the connection and of the output. The caller prints it.
pub(crate) fn run(args: ClusterArgs) -> Result<(), ClusterError> {
    let ClusterArgs { address, command } = args;
    let mut client = Client::connect_to(&address)?;
    let (answer, json) = match command {
        ClusterCommand::Digest {
            database,
            index,
            json,
        } => (
            digest_object(&database, &client.digest(&database, index)?),
            json,
        ),
        ClusterCommand::Status { json } => (client.status()?, json),
    };
    let format = if json {
        Format::Json
    } else {
        Format::of_stdout()
    };
    match print(&mut io::stdout().lock(), &answer, format) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn digest_object(database: &str, digest: &DatabaseDigest) -> serde_json::Value {
    serde_json::json!({
        "database": database,
        "applied": digest.applied,
        "page_count": digest.page_count,
        "page_size": digest.page_size,
        "digest": digest.digest,
    })
}

fn print(out: &mut impl Write, answer: &serde_json::Value, format: Format) -> io::Result<()> {
    match format {
        Format::Json => print_json(out, answer)?,
        Format::Table | Format::Csv => print_object_table(out, answer)?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> serde_json::Value {
        let digest = "0f".to_owned();
        let digest = DatabaseDigest {
            applied: 7,
            page_count: 2,
            page_size: 4096,
            digest,
        };
        digest_object("main.db", &digest)
    }

    #[test]
    fn a_digest_as_json_can_be_read() {
        let mut out = Vec::new();
        print(&mut out, &answer(), Format::Json).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read["applied"], 7);
        assert_eq!(read["digest"], "0f");
    }

    #[test]
    fn a_digest_as_a_table_names_each_field() {
        let mut out = Vec::new();
        print(&mut out, &answer(), Format::Table).unwrap();
        let text = String::from_utf8(out).unwrap();
        for field in ["database", "main.db", "applied", "page_count", "4096", "0f"] {
            assert!(text.contains(field), "{field} in\n{text}");
        }
    }
}

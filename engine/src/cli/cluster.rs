//! `ringlite cluster`: what one node says about the cluster and its copies; members changed;
//! databases made and dropped.

use std::io::{self, IsTerminal as _, Write};

use super::members::{self, Change, RoleArgument};
use super::output::{Format, print_json, print_object_table, print_table};
use super::split_addresses;
use crate::client::{Client, ClientError, ClientOptions, DatabaseDigest};
use crate::wire::DatabaseEntry;

/// Look at a cluster and change its members; create and drop databases
///
/// Questions are answered by the node that is named, whether it leads or not. On a terminal the
/// answer is a table, otherwise JSON. What changes something goes to the leader, which is found
/// through the node; several addresses can then be given, separated by commas.
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
    /// The databases of the node, with their sizes in bytes
    Databases {
        /// Print JSON on a terminal too
        #[arg(long)]
        json: bool,
    },
    /// Create an empty database; without this, its first use creates it with pages of 4096 bytes
    Create {
        /// The name of the database
        #[arg(value_name = "DB")]
        database: String,
        /// The size of its pages in bytes, for ever: a power of two from 512 to 65536
        #[arg(long, value_name = "N", default_value_t = 4096)]
        page_size: u32,
    },
    /// Drop a database, with all that is in it, on all nodes
    Drop {
        /// The name of the database
        #[arg(value_name = "DB")]
        database: String,
        /// Do not ask on a terminal
        #[arg(long)]
        yes: bool,
    },
    /// The state of the node, and of all members
    Status {
        /// Print JSON on a terminal too
        #[arg(long)]
        json: bool,
    },
    /// Make a place for a node that will join. (A node that is started with --join makes its own)
    Add {
        /// Where the node will be reached
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// The id that it will have [default: the leader chooses]
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        id: u64,
    },
    /// Give a member a role, which it keeps under every leader, or let the leader choose again. The
    /// leader keeps the numbers of voters and standbys: if there are too many, another one steps back
    Assign {
        /// Its id or address
        #[arg(value_name = "MEMBER")]
        member: String,
        /// Its role; auto takes back what was assigned
        #[arg(value_enum)]
        role: RoleArgument,
    },
    /// Remove a member for ever; its node stops serving
    Remove {
        /// Its id or address
        #[arg(value_name = "MEMBER")]
        member: String,
    },
    /// Hand leadership over to another voter
    Transfer {
        /// Its id or address [default: the one with the most of the log]
        #[arg(value_name = "MEMBER")]
        to: Option<String>,
    },
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The node does not answer, or not with what was asked for.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// No member has this id or address.
    #[error("no member has the id or address {name:?}; the members are {members}")]
    NoMember {
        /// What was asked for.
        name: String,
        /// Those that there are.
        members: String,
    },
    /// A person has said no.
    #[error("{0:?} was not dropped")]
    NotConfirmed(String),
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
    let (answer, json) = match command {
        ClusterCommand::Create {
            database,
            page_size,
        } => return Ok(leader(&address)?.create_database(&database, page_size)?),
        ClusterCommand::Drop { database, yes } => {
            if !yes && io::stdin().is_terminal() && !confirms_drop(&database)? {
                return Err(ClusterError::NotConfirmed(database));
            }
            return Ok(leader(&address)?.drop_database(&database)?);
        }
        ClusterCommand::Databases { json } => {
            let databases = Client::connect_to(&address)?.databases()?;
            return printed(print_databases(
                &mut io::stdout().lock(),
                &databases,
                format(json),
            ));
        }
        ClusterCommand::Digest {
            database,
            index,
            json,
        } => (
            digest_object(
                &database,
                &Client::connect_to(&address)?.digest(&database, index)?,
            ),
            json,
        ),
        ClusterCommand::Status { json } => {
            let status = members::status(&address)?;
            let mut out = io::stdout().lock();
            return printed(members::print_status(&mut out, &status, format(json)));
        }
        ClusterCommand::Add {
            address: of_node,
            id,
        } => {
            let change = Change::Add {
                address: of_node,
                id,
            };
            return members::change(&address, &change);
        }
        ClusterCommand::Assign { member, role } => {
            return members::change(&address, &Change::Assign { member, role });
        }
        ClusterCommand::Remove { member } => {
            return members::change(&address, &Change::Remove { member });
        }
        ClusterCommand::Transfer { to } => {
            return members::change(&address, &Change::Transfer { to });
        }
    };
    printed(print(&mut io::stdout().lock(), &answer, format(json)))
}

fn format(json: bool) -> Format {
    if json {
        Format::Json
    } else {
        Format::of_stdout()
    }
}

/// That nobody reads the answer any more is no error.
fn printed(result: io::Result<()>) -> Result<(), ClusterError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A client of the leader.
fn leader(addresses: &str) -> Result<Client, ClientError> {
    Client::connect(&split_addresses(addresses), ClientOptions::default())
}

fn confirms_drop(database: &str) -> io::Result<bool> {
    eprint!("Drop {database:?} with all that is in it, on all nodes? Type its name: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == database)
}

pub(crate) fn print_databases(
    out: &mut impl Write,
    databases: &[DatabaseEntry],
    format: Format,
) -> io::Result<()> {
    let bytes = |database: &DatabaseEntry| database.page_size * database.page_count;
    match format {
        Format::Json => {
            let objects = databases.iter().map(|database| {
                serde_json::json!({
                    "name": database.name,
                    "id": database.id,
                    "page_size": database.page_size,
                    "page_count": database.page_count,
                    "bytes": bytes(database),
                })
            });
            print_json(out, &objects.collect::<Vec<_>>().into())?;
        }
        Format::Table | Format::Csv => {
            let rows = databases.iter().map(|database| {
                vec![
                    database.name.clone(),
                    database.id.to_string(),
                    database.page_size.to_string(),
                    bytes(database).to_string(),
                ]
            });
            print_table(out, &["name", "id", "page size", "bytes"], rows)?;
        }
    }
    out.flush()
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

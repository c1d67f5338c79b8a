//! The commands of the shell, which begin with a dot.

use std::io::{self, Write};

use clap::ValueEnum;

use super::session::{Session, StatementError};
use crate::{
    cli::output::{Format, print_json, print_object_table, print_table},
    client::Client,
    rows::{RowBatch, Value},
};

/// What `.help` prints.
pub(super) const HELP: &str = "\
.cluster          the members of the cluster
.format FORMAT    print results as table, json or csv
.help             this list
.leader           the address of the leader
.quit             leave (also ctrl-d)
.schema [TABLE]   the statements that created the database, or one table and what belongs to it
.status           the state of the leader
.tables           the tables and views
Anything else is SQL, up to a semicolon.
";

const TABLES: &str = "SELECT name FROM sqlite_schema \
    WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";

const SCHEMA: &str = "SELECT sql FROM sqlite_schema \
    WHERE sql IS NOT NULL AND (?1 IS NULL OR tbl_name = ?1 COLLATE NOCASE) \
    ORDER BY tbl_name, type DESC, name";

/// Why a command has not done what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// There is no such command.
    #[error("there is no command {name}; .help lists them")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// A command with the wrong arguments.
    #[error("usage: {usage}")]
    Usage {
        /// How it is used.
        usage: &'static str,
    },
    /// The server did not answer it.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Statement(StatementError::Output(error))
    }
}

/// What comes after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Quit,
}

/// Runs the command in `line`.
pub(super) fn run(
    session: &mut Session,
    line: &str,
    out: &mut impl Write,
) -> Result<Next, CommandError> {
    let words: Vec<&str> = line
        .trim()
        .trim_end_matches(';')
        .split_whitespace()
        .collect();
    match words.as_slice() {
        [".help"] => out.write_all(HELP.as_bytes())?,
        [".quit" | ".exit"] => return Ok(Next::Quit),
        [".format", format] => session.format = parse_format(format)?,
        [".format", ..] => {
            return Err(CommandError::Usage {
                usage: FORMAT_USAGE,
            });
        }
        [".tables"] => {
            let tables = session.ask(|client| client.query(TABLES, &[]))?;
            print_lines(out, &tables, "")?;
        }
        [".schema"] => print_schema(session, Value::Null, out)?,
        [".schema", table] => print_schema(session, Value::Text((*table).to_owned()), out)?,
        [".schema", ..] => {
            return Err(CommandError::Usage {
                usage: ".schema [TABLE]",
            });
        }
        [".cluster"] => print_cluster(session, out)?,
        [".status"] => {
            let status = session.ask(Client::status)?;
            match session.format {
                Format::Table | Format::Csv => print_object_table(out, &status)?,
                Format::Json => print_json(out, &status)?,
            }
        }
        [".leader"] => match session.ask(Client::leader)? {
            Some(leader) => writeln!(out, "{}", leader.address)?,
            None => writeln!(out, "{} knows no leader", session.address())?,
        },
        [name, ..] => {
            return Err(CommandError::Unknown {
                name: (*name).to_owned(),
            });
        }
        [] => {}
    }
    out.flush()?;
    Ok(Next::GoOn)
}

const FORMAT_USAGE: &str = ".format table|json|csv";

fn parse_format(name: &str) -> Result<Format, CommandError> {
    Format::from_str(name, true).map_err(|_| CommandError::Usage {
        usage: FORMAT_USAGE,
    })
}

fn print_schema(
    session: &mut Session,
    table: Value,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let parameters = [table];
    let schema = session.ask(|client| client.query(SCHEMA, &parameters))?;
    Ok(print_lines(out, &schema, ";")?)
}

/// Prints the texts of the first column.
fn print_lines(out: &mut impl Write, batch: &RowBatch, end: &str) -> io::Result<()> {
    for row in &batch.rows {
        if let Some(Value::Text(text)) = row.first() {
            writeln!(out, "{text}{end}")?;
        }
    }
    Ok(())
}

fn print_cluster(session: &mut Session, out: &mut impl Write) -> Result<(), CommandError> {
    let servers = session.ask(Client::cluster)?;
    if session.format == Format::Json {
        let servers: Vec<serde_json::Value> = servers
            .iter()
            .map(|server| {
                serde_json::json!({
                    "id": server.id, "address": server.address, "role": server.role.name(),
                })
            })
            .collect();
        return Ok(print_json(out, &servers.into())?);
    }
    let leader = session.address();
    let rows = servers.iter().map(|server| {
        let mark = if server.address == leader {
            " (leader)"
        } else {
            ""
        };
        let role = format!("{}{mark}", server.role.name());
        vec![server.id.to_string(), server.address.clone(), role]
    });
    Ok(print_table(out, &["id", "address", "role"], rows)?)
}

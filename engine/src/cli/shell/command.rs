//! The commands of the shell, which begin with a dot.

use std::{
    fs::File,
    io::{self, Write},
};

use clap::ValueEnum;

use super::{
    ShellError, dump,
    session::{Session, StatementError},
};
use crate::{
    cli::cluster::print_databases,
    cli::output::{Format, print_json, print_object_table, print_table},
    client::Client,
    rows::{RowBatch, Value},
};

/// What `.help` prints.
pub(super) const HELP: &str = "\
.cluster          the members of the cluster
.databases        the databases, with their sizes in bytes
.dump             the database as SQL text
.format FORMAT    print results as table, json or csv
.help             this list
.leader           the address of the leader
.quit             leave (also ctrl-d)
.read FILE        run the SQL and the commands in a file
.schema [TABLE]   the statements that created the database, or one table and what belongs to it
.status           the state of the leader
.tables           the tables and views
Anything else is SQL, up to a semicolon.
";

/// How deep files may read other files.
const FILES_OPEN_MAX: usize = 16;

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
    /// A file of `.read` cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something in a file of `.read` has not worked.
    #[error("{path}: {source}")]
    Script {
        /// The file.
        path: String,
        /// What happened.
        source: Box<ShellError>,
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
    if let Some(path) = line.trim().strip_prefix(".read ") {
        return read_file(session, path.trim(), out);
    }
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
        [".databases"] => {
            let databases = session.ask(Client::databases)?;
            print_databases(out, &databases, session.format)?;
        }
        [".dump"] => dump::dump(session, out)?,
        [".read"] => {
            return Err(CommandError::Usage {
                usage: ".read FILE",
            });
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

/// Runs what is in a file, up to the first error.
fn read_file(
    session: &mut Session,
    path: &str,
    out: &mut impl Write,
) -> Result<Next, CommandError> {
    let cannot = |source| CommandError::File {
        path: path.to_owned(),
        source,
    };
    if session.files_open >= FILES_OPEN_MAX {
        return Err(cannot(io::Error::other(
            "files read each other, too many deep",
        )));
    }
    let file = File::open(path).map_err(cannot)?;
    session.files_open += 1;
    let ran = super::run_script(session, io::BufReader::new(file), out);
    session.files_open -= 1;
    ran.map_err(|error| CommandError::Script {
        path: path.to_owned(),
        source: Box::new(error),
    })?;
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

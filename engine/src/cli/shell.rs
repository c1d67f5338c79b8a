//! `ringlite shell`: SQL on a cluster, typed, piped or given as an argument.
//!
//! Every statement goes to the leader as a query, as the peer's own shell does it, so that also
//! `INSERT ... RETURNING` prints its rows. Statements without columns print nothing.

mod command;
mod dump;
mod interactive;
mod script;
mod session;
mod transaction;

use std::io::{self, BufRead, IsTerminal, Write};

use rustyline::error::ReadlineError;

pub(crate) use command::CommandError;
pub(crate) use session::StatementError;

use super::output::Format;
use crate::client::{Client, ClientError, ClientOptions};
use crate::readers::ReadLevel;
use script::Script;
use session::Session;

/// How much of a statement an error message quotes, in characters.
const QUOTED_CHARACTERS_MAX: usize = 80;

/// Run SQL on a cluster
///
/// The SQL comes from the argument, from the standard input if that is no terminal, or is typed.
/// Except when it is typed, the first error ends the run, with a status that is not zero.
///
/// Results are tables on a terminal and JSON otherwise: one array of objects per statement. In
/// JSON and CSV a BLOB is written as in SQL, x'0a0b', a second column of the same name gets the
/// suffix _2, and in CSV a NULL is an empty field.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ShellArgs {
    /// Addresses of one or more nodes, separated by commas; the leader is found through them
    #[arg(value_name = "ADDR[,ADDR...]")]
    pub(crate) addresses: String,
    /// The database; it is created on its first use
    #[arg(long, value_name = "NAME", default_value = "main.db")]
    pub(crate) db: String,
    /// How fresh what is read has to be: at `leader` and `local` statements can only read, without
    /// transactions, and at `local` the first address that answers is asked, whoever leads
    #[arg(long, value_enum, default_value_t)]
    pub(crate) level: Level,
    /// How to print results; a table on a terminal and JSON otherwise
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// SQL statements, or one command of the shell (such as .tables)
    pub(crate) sql: Option<String>,
}

/// The levels of reads, as they are typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    #[default]
    Linearizable,
    Leader,
    Local,
}

impl Level {
    fn of_reads(self) -> ReadLevel {
        match self {
            Self::Linearizable => ReadLevel::Linearizable,
            Self::Leader => ReadLevel::Leader,
            Self::Local => ReadLevel::LOCAL,
        }
    }
}

/// Why the shell has ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// No leader, or the database cannot be opened.
    #[error("{0}")]
    Connect(#[source] ClientError),
    /// A statement of a script has not worked.
    #[error("{source}, in: {sql}")]
    Statement {
        /// The statement, shortened.
        sql: String,
        /// What happened.
        source: StatementError,
    },
    /// A command of a script has not worked.
    #[error("{0}")]
    Command(#[source] CommandError),
    /// The script cannot be read.
    #[error("cannot read the SQL from the standard input: {0}")]
    Input(#[source] io::Error),
    /// The terminal does not work.
    #[error("cannot read from the terminal: {0}")]
    Terminal(#[source] ReadlineError),
}

impl ShellError {
    /// Whether nobody reads the output any more, as in `ringlite shell ... | head`.
    fn is_broken_pipe(&self) -> bool {
        let (Self::Statement {
            source: StatementError::Output(error),
            ..
        }
        | Self::Command(CommandError::Statement(StatementError::Output(error)))) = self
        else {
            return false;
        };
        error.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Runs the shell until its input ends.
///
/// # Errors
/// Those of the connection, and, unless a person types, the first one of a statement or command.
/// The caller prints it.
pub(crate) fn run(args: ShellArgs) -> Result<(), ShellError> {
    let ShellArgs {
        addresses,
        db,
        level,
        format,
        sql,
    } = args;
    let addresses = super::split_addresses(&addresses);
    let format = format.unwrap_or_else(Format::of_stdout);
    let mut session = if level == Level::Local {
        let client = connect_to_any(&addresses).map_err(ShellError::Connect)?;
        Session::reading(client, format, level.of_reads(), &db)
    } else {
        let mut client =
            Client::connect(&addresses, ClientOptions::default()).map_err(ShellError::Connect)?;
        // The members are places to look for the next leader. It works without, if less well.
        let _ = client.cluster();
        if level == Level::Leader {
            Session::reading(client, format, level.of_reads(), &db)
        } else {
            client.open(&db).map_err(ShellError::Connect)?;
            Session::new(client, format)
        }
    };
    let mut out = io::BufWriter::new(io::stdout());
    let result = match sql {
        Some(sql) => run_script(&mut session, sql.as_bytes(), &mut out),
        None if io::stdin().is_terminal() => return interactive::run(&mut session, &db),
        None => run_script(&mut session, io::stdin().lock(), &mut out),
    };
    let result = match result {
        Err(error) if error.is_broken_pipe() => return Ok(()),
        other => other,
    };
    // Also before an error: what has worked was asked for.
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe && result.is_ok() => {
            Err(ShellError::Command(CommandError::from(error)))
        }
        _ => result,
    }
}

/// A client of the first node that answers.
fn connect_to_any(addresses: &[String]) -> Result<Client, ClientError> {
    let mut failed = None;
    for address in addresses {
        match Client::connect_to(address) {
            Ok(client) => return Ok(client),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Client::connect_to(""),
    }
}

/// Runs statements and commands as they come, up to the first error.
fn run_script(
    session: &mut Session,
    mut input: impl BufRead,
    mut out: &mut dyn Write,
) -> Result<(), ShellError> {
    let mut script = Script::default();
    let mut line = String::new();
    while input.read_line(&mut line).map_err(ShellError::Input)? > 0 {
        if !script.is_pending() && line.trim_start().starts_with('.') {
            let next = command::run(session, &line, &mut out).map_err(ShellError::Command)?;
            if next == command::Next::Quit {
                return Ok(());
            }
        } else {
            for statement in script.push(&line) {
                run_statement(session, &statement, &mut out)?;
            }
        }
        line.clear();
    }
    match script.finish() {
        Some(statement) => run_statement(session, &statement, &mut out),
        None => Ok(()),
    }
}

fn run_statement(session: &mut Session, sql: &str, out: &mut impl Write) -> Result<(), ShellError> {
    match session.run(sql, out) {
        Ok(_) => Ok(()),
        Err(source) => Err(ShellError::Statement {
            sql: shortened(sql),
            source,
        }),
    }
}

/// The statement on one line, cut where it gets long.
fn shortened(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTED_CHARACTERS_MAX) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        shell: ShellArgs,
    }

    #[test]
    fn the_arguments_can_be_given_in_any_order() {
        let line = [
            "shell", "a:1,b:2", "--format", "csv", "SELECT 1", "--db", "x",
        ];
        let ShellArgs {
            addresses,
            db,
            format,
            sql,
            ..
        } = Arguments::parse_from(line).shell;
        assert_eq!((addresses.as_str(), db.as_str()), ("a:1,b:2", "x"));
        assert_eq!(
            (format, sql.as_deref()),
            (Some(Format::Csv), Some("SELECT 1"))
        );
        let defaults = Arguments::parse_from(["shell", "a:1"]).shell;
        assert_eq!(
            (defaults.db.as_str(), defaults.format, defaults.sql),
            ("main.db", None, None)
        );
        assert!(Arguments::try_parse_from(["shell"]).is_err());
    }

    #[test]
    fn a_long_statement_is_quoted_in_short() {
        assert_eq!(shortened("SELECT\n  1;"), "SELECT 1;");
        let quoted = shortened(&"ä".repeat(200));
        assert_eq!(quoted, format!("{} ...", "ä".repeat(QUOTED_CHARACTERS_MAX)));
    }
}

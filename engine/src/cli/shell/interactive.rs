//! The shell for a person at a terminal.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustyline::{Config, DefaultEditor, error::ReadlineError};

use super::{
    ShellError, command,
    script::Script,
    session::{Printed, Session},
};

/// How many statements the history keeps.
const HISTORY_ENTRIES_MAX: usize = 10_000;

/// Reads statements and commands until the end.
pub(super) fn run(session: &mut Session, database: &str) -> Result<(), ShellError> {
    let config = Config::builder()
        .max_history_size(HISTORY_ENTRIES_MAX)
        .map_err(ShellError::Terminal)?
        .history_ignore_space(true)
        .build();
    let mut editor = DefaultEditor::with_config(config).map_err(ShellError::Terminal)?;
    let history = history_path();
    if let Some(path) = &history {
        // There is none at the first start. A history that cannot be read is no reason to stop.
        let _ = editor.load_history(path);
    }
    println!(
        "{database} at {}; .help lists the commands",
        session.address()
    );
    let left = read_statements(session, database, &mut editor);
    if let Some(path) = &history
        && let Err(error) = editor.append_history(path)
    {
        eprintln!("cannot write the history {}: {error}", path.display());
    }
    left
}

fn read_statements(
    session: &mut Session,
    database: &str,
    editor: &mut DefaultEditor,
) -> Result<(), ShellError> {
    let mut script = Script::default();
    let mut entry = String::new();
    loop {
        let prompt = prompt(database, session.in_transaction(), script.is_pending());
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                script.clear();
                entry.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(ShellError::Terminal(error)),
        };
        if !script.is_pending() && line.trim_start().starts_with('.') {
            let _ = editor.add_history_entry(line.as_str());
            match command::run(session, &line, &mut io::stdout().lock()) {
                Ok(command::Next::GoOn) => {}
                Ok(command::Next::Quit) => return Ok(()),
                Err(error) => eprintln!("Error: {error}"),
            }
            continue;
        }
        entry.push_str(&line);
        let statements = script.push(&format!("{line}\n"));
        if script.is_pending() {
            entry.push('\n');
        } else {
            let _ = editor.add_history_entry(std::mem::take(&mut entry));
        }
        for statement in statements {
            if !run_statement(session, &statement) {
                // What follows on the line was meant for when this one had worked.
                break;
            }
        }
    }
}

/// Runs a statement; whether it has worked.
fn run_statement(session: &mut Session, sql: &str) -> bool {
    let started = Instant::now();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = session.run(sql, &mut out);
    // A result that cannot be written has said so already, as the terminal is gone.
    let _ = out.flush();
    drop(out);
    match result {
        Ok(printed) => println!("{}", summary(printed, started.elapsed())),
        Err(error) => {
            eprintln!("Error: {error}");
            return false;
        }
    }
    true
}

fn summary(printed: Printed, elapsed: Duration) -> String {
    let milliseconds = elapsed.as_secs_f64() * 1000.0;
    match printed {
        Printed {
            has_columns: false, ..
        } => format!("OK ({milliseconds:.3} ms)"),
        Printed { row_count: 1, .. } => format!("1 row ({milliseconds:.3} ms)"),
        Printed { row_count, .. } => format!("{row_count} rows ({milliseconds:.3} ms)"),
    }
}

/// `main.db> `, with a star inside a transaction, and dots within a statement.
fn prompt(database: &str, in_transaction: bool, is_pending: bool) -> String {
    let star = if in_transaction { "*" } else { "" };
    if is_pending {
        let width = database.chars().count();
        return format!("{:>width$}{star}> ", "...");
    }
    format!("{database}{star}> ")
}

/// `ringlite/history` among the user's data; None if the environment does not say where that is.
fn history_path() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let data =
        absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|h| h.join(".local/share")))?;
    let directory = data.join("ringlite");
    fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_tells_the_state() {
        assert_eq!(prompt("main.db", false, false), "main.db> ");
        assert_eq!(prompt("main.db", true, false), "main.db*> ");
        assert_eq!(prompt("main.db", false, true), "    ...> ");
        assert_eq!(prompt("main.db", true, true), "    ...*> ");
        assert_eq!(prompt("a", false, true), "...> ");
    }

    #[test]
    fn the_summary_counts_rows() {
        let after = |has_columns, row_count| {
            summary(
                Printed {
                    has_columns,
                    row_count,
                },
                Duration::from_micros(1500),
            )
        };
        assert_eq!(after(false, 0), "OK (1.500 ms)");
        assert_eq!(after(true, 0), "0 rows (1.500 ms)");
        assert_eq!(after(true, 1), "1 row (1.500 ms)");
    }
}

//! A process of a system that is measured: its words go to a file, and it ends with this one.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use rustix::process::Signal;

/// The first argument that makes this program set itself to end with its parent, and become the
/// program that follows.
pub(crate) const ATTACHED: &str = "attached";

/// A running process. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Runs `program` with its words in `log`. Its standard input and output are pipes if `piped`.
    ///
    /// The process ends with the thread that calls this.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        log: &Path,
        piped: bool,
    ) -> io::Result<Self> {
        let words = File::create(log)?;
        let (input, output) = if piped {
            (Stdio::piped(), Stdio::piped())
        } else {
            (Stdio::null(), Stdio::from(words.try_clone()?))
        };
        let child = Command::new(std::env::current_exe()?)
            .arg(ATTACHED)
            .arg(program)
            .args(arguments)
            .stdin(input)
            .stdout(output)
            .stderr(words)
            .spawn()?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input and output, once.
    pub(crate) fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
    }

    /// Its last words, if it has ended by itself.
    pub(crate) fn last_words_if_ended(&mut self) -> Option<String> {
        if matches!(self.child.try_wait(), Ok(None)) {
            return None;
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        Some(log.lines().last().unwrap_or("(none)").to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `ringlite-bench attached PROGRAM ARGUMENTS` does.
pub(crate) fn become_attached(mut words: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let Some(program) = words.next() else {
        eprintln!("ringlite-bench: {ATTACHED} needs a program");
        return ExitCode::FAILURE;
    };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("ringlite-bench: a process cannot be bound to its parent: {error}");
        return ExitCode::FAILURE;
    }
    let error = Command::new(&program).args(words).exec();
    eprintln!(
        "ringlite-bench: {} cannot be run: {error}",
        program.display()
    );
    ExitCode::FAILURE
}

/// Where a program is that may not be installed: in `first` if that is given, otherwise in the
/// directories of PATH, and then where Go and Cargo install.
pub(crate) fn find(program: &str, first: Option<&Path>) -> Option<PathBuf> {
    let home = std::env::home_dir().unwrap_or_default();
    let go = std::env::var_os("GOBIN").map_or_else(|| home.join("go/bin"), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    // What a user has installed is usually newer than the distribution's.
    let mut directories = vec![go, home.join(".cargo/bin")];
    directories.extend(std::env::split_paths(&path));
    first
        .map(Path::to_owned)
        .into_iter()
        .chain(directories)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The first line that `program` says when it is run with `arguments`, as versions are said.
pub(crate) fn first_line(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().next().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_or_missing() {
        assert!(find("sh", None).is_some());
        assert_eq!(find("no-such-program", None), None);
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("sh");
        std::fs::write(&own, "").unwrap();
        assert_eq!(find("sh", Some(directory.path())), Some(own));
        assert_eq!(first_line(Path::new("echo"), &["1.2"]).unwrap(), "1.2");
    }
}

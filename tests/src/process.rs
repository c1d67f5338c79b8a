//! Programs that are run to their end within a time limit, and what the system says of processes.

use std::io::{Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};

/// What a program has left when it ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; None if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a program that succeeded.
    ///
    /// # Panics
    /// If it failed.
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The one sentence with which the program refused to go on.
    ///
    /// # Panics
    /// If it succeeded, panicked, was ended by a signal, or said anything else than log lines and
    /// one line that begins with `ringlite: `.
    pub fn refusal(&self) -> &str {
        assert!(
            self.code.is_some_and(|code| code != 0),
            "it should have failed: {self:?}"
        );
        for word in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            assert!(!self.stderr.contains(word), "{word:?} in {self:?}");
        }
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !is_log(line)).collect();
        let [line] = lines.as_slice() else {
            panic!("not one line, but {lines:#?}");
        };
        line.strip_prefix("ringlite: ")
            .unwrap_or_else(|| panic!("not in the program's voice: {line}"))
    }
}

/// Whether a line was written by the log and not by the program's end.
fn is_log(line: &str) -> bool {
    let level = line.split_whitespace().nth(1).unwrap_or_default();
    ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]
        .iter()
        .any(|known| level.contains(known))
}

/// Runs `command` with `input` on its standard input.
///
/// # Panics
/// If it cannot be started, or has not ended after `limit`; it is killed then.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Finished {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    thread::scope(|scope| {
        let stdin = child.stdin.take();
        // A program that ends early does not read all of it.
        scope.spawn(move || drop(stdin.map(|mut pipe| pipe.write_all(input))));
        let stdout = child.stdout.take();
        let stdout = scope.spawn(move || read_all(stdout));
        let stderr = child.stderr.take();
        let stderr = scope.spawn(move || read_all(stderr));
        let code = wait(&mut child, limit);
        let [stdout, stderr] = [stdout, stderr].map(|pipe| pipe.join().unwrap_or_default());
        let Some(code) = code else {
            panic!("{command:?} has not ended after {limit:?}: {stdout}\n{stderr}");
        };
        Finished {
            code,
            stdout,
            stderr,
        }
    })
}

/// Waits for the child's exit code; None, and the child is killed, if it takes too long.
fn wait(child: &mut Child, limit: Duration) -> Option<Option<i32>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status.code());
        }
        if Instant::now() > deadline {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still worth telling.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The memory of a process that is in RAM, in bytes.
///
/// # Panics
/// If there is no such process.
pub fn resident_bytes(process: u32) -> u64 {
    counter(process, "status", "VmRSS:") << 10
}

/// The same without pages of files, which the kernel may drop at any time.
///
/// # Panics
/// If there is no such process.
pub fn anonymous_bytes(process: u32) -> u64 {
    counter(process, "status", "RssAnon:") << 10
}

/// The bytes that a process has made the disk write so far.
///
/// # Panics
/// If there is no such process.
pub fn written_bytes(process: u32) -> u64 {
    counter(process, "io", "write_bytes:")
}

/// The number behind `name` in a file of `/proc` about a process.
fn counter(process: u32, file: &str, name: &str) -> u64 {
    let path = format!("/proc/{process}/{file}");
    let text = std::fs::read_to_string(&path).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{path} has no number {name}"))
}

/// The value of an environment variable that sets the size of a test, or `default`.
///
/// # Panics
/// If it is no number.
pub fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}"))
    })
}

/// Lets this process, and those that it starts, have as many descriptors as the system allows it.
pub fn allow_descriptors() {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let allowed = Rlimit {
        current: limits.maximum,
        ..limits
    };
    // With fewer the test says what it could not open.
    let _ = rustix::process::setrlimit(Resource::Nofile, allowed);
}

/// Sends a signal to a process.
///
/// # Panics
/// If there is no such process.
pub fn signal(process: u32, what: Signal) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    kill_process(process.expect("a process"), what).expect("it can be told");
}

/// Waits until every thread of a process has taken a SIGSTOP: what it is asked from now on it does not see
/// before it goes on.
///
/// # Panics
/// If there is no such process.
pub fn wait_until_it_stands_still(process: u32) {
    let stands = |thread: std::fs::DirEntry| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tT"))
    };
    let threads = || std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    while !threads().flatten().all(stands) {
        thread::yield_now();
    }
}

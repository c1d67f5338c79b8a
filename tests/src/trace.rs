//! What a running node asks of the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);

/// `strace`, attached to a process and all of its threads. Dropping it detaches it.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    output: PathBuf,
}

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The thread that made it.
    pub thread: u32,
    /// Its name.
    pub name: String,
    /// Its arguments and result; descriptors are followed by what they stand for, in `<>`.
    pub rest: String,
}

impl Tracer {
    /// Begins to trace a process into a file.
    ///
    /// # Errors
    /// If there is no strace.
    ///
    /// # Panics
    /// If it does not attach.
    pub fn attach(process: u32, output: &Path) -> std::io::Result<Self> {
        let strace = Command::new("strace")
            .args(["-f", "-y", "-qq", "-o"])
            .arg(output)
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let tracer = Self {
            strace,
            output: output.to_owned(),
        };
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        while !all_traced(process) {
            assert!(Instant::now() < deadline, "strace does not attach");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(tracer)
    }

    /// Detaches, and returns the calls in order.
    ///
    /// # Panics
    /// If strace has left no trace.
    pub fn detach(mut self) -> Vec<Call> {
        self.interrupt();
        let text = std::fs::read_to_string(&self.output).expect("strace leaves a trace");
        text.lines().filter_map(parse).collect()
    }

    fn interrupt(&mut self) {
        if let Some(pid) = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw) {
            // It may have ended with the process it traced.
            let _ = rustix::process::kill_process(pid, Signal::INT);
        }
        let _ = self.strace.wait();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.interrupt();
    }
}

/// Whether a tracer is attached to every thread of a process.
fn all_traced(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|id| id.trim() != "0")
    })
}

/// A line such as `1234 futex(0x7f, FUTEX_WAIT) = 0`. The second half of a call that another
/// thread has interrupted is not counted again.
fn parse(line: &str) -> Option<Call> {
    let (thread, call) = line.split_once(' ')?;
    let call = call.trim_start();
    if call.starts_with("<...") || call.starts_with("---") || call.starts_with("+++") {
        return None;
    }
    let (name, rest) = call.split_once('(')?;
    Some(Call {
        thread: thread.parse().ok()?,
        name: name.to_owned(),
        rest: rest.to_owned(),
    })
}

/// How often each call was made.
pub fn count(calls: &[Call]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.name.as_str()).or_default() += 1;
    }
    counts
}

/// The threads of a process, with their names.
///
/// # Panics
/// If there is no such process.
pub fn threads(process: u32) -> Vec<(u32, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let named = tasks.flatten().filter_map(|task| {
        let number = task.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((number, name.trim().to_owned()))
    });
    named.collect()
}

/// The open files of a process, with the flags that they were opened with.
///
/// # Panics
/// If there is no such process.
pub fn open_files(process: u32) -> Vec<(PathBuf, u32)> {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).expect("the process runs");
    let mut open = Vec::new();
    for file in files.flatten() {
        let number = file.file_name();
        let info = Path::new("/proc")
            .join(process.to_string())
            .join("fdinfo")
            .join(number);
        // It may have been closed since.
        let (Ok(path), Ok(info)) = (file.path().read_link(), std::fs::read_to_string(info)) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
        open.push((path, flags.unwrap_or_default()));
    }
    open
}

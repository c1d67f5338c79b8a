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
        calls(&text)
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

/// The calls of a trace, with lines such as `1234 futex(0x7f, FUTEX_WAIT) = 0`. A call that another
/// thread has interrupted is in two lines, and counts where it began.
fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: BTreeMap<u32, usize> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, text)) = line.split_once(' ') else {
            continue;
        };
        let (Ok(thread), text) = (thread.parse(), text.trim_start()) else {
            continue;
        };
        if let Some((_, rest)) = text
            .strip_prefix("<...")
            .and_then(|text| text.split_once('>'))
        {
            if let Some(began) = unfinished.remove(&thread) {
                calls[began].rest += rest;
            }
        } else if let Some((name, rest)) = text.split_once('(')
            && !text.starts_with(['-', '+'])
        {
            let rest = match rest.strip_suffix("<unfinished ...>") {
                Some(begun) => {
                    unfinished.insert(thread, calls.len());
                    begun
                }
                None => rest,
            };
            calls.push(Call {
                thread,
                name: name.to_owned(),
                rest: rest.to_owned(),
            });
        }
    }
    calls
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

#[cfg(test)]
mod tests {
    use super::{Call, calls};

    #[test]
    fn the_halves_of_a_call_are_put_together() {
        let trace = "12 preadv2(17</a>,  <unfinished ...>\n\
                     13 write(7, \"\", 8) = 8\n\
                     12 <... preadv2 resumed>[], 1, 0, RWF_NOWAIT) = 0\n\
                     13 +++ exited with 0 +++\n\
                     12 --- SIGINT (interrupt) ---\n";
        let call = |thread, name: &str, rest: &str| Call {
            thread,
            name: name.into(),
            rest: rest.into(),
        };
        let expected = [
            call(12, "preadv2", "17</a>,  [], 1, 0, RWF_NOWAIT) = 0"),
            call(13, "write", "7, \"\", 8) = 8"),
        ];
        assert_eq!(calls(trace), expected);
    }
}

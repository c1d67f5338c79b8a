//! One node, a cluster of its own, as a process.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::Client;
use tempfile::NamedTempFile;

use crate::process::Finished;

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);

/// A running node. Dropping it kills it.
pub struct LoneNode {
    child: Child,
    address: String,
    words: NamedTempFile,
}

impl LoneNode {
    /// Runs `command`, which ends with `serve`, on `data` with segments of 4 MiB, pinned to the
    /// `core`th of the cores that there are, over and over.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn spawn(command: &[&str], data: &Path, core: usize) -> Self {
        let words = tempfile::Builder::new().append(true).tempfile();
        let words = words.expect("a file can be made");
        let stderr = words.as_file().try_clone().expect("a file can be shared");
        let address = free_address();
        let child = Command::new(command[0])
            .args(&command[1..])
            .arg("--data")
            .arg(data)
            .args(["--listen", &address, "--segment-mib", "4"])
            // So little that backfills and restarts of the WAL go on all the time.
            .args(["--wal-kib", "64"])
            .arg("--stop-with-parent")
            .args(["--core", &allowed_core(core).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Self {
            child,
            address,
            words,
        }
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// What it left, if it ended instead; also if it did neither within 20 s and was killed.
    pub fn wait_until_it_serves(&mut self) -> Result<Client, Finished> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(mut client) = Client::connect_to(&self.address)
                && let Ok(Some(_)) = client.leader()
            {
                return Ok(client);
            }
            if let Some(finished) = self.finished() {
                return Err(finished);
            }
            if Instant::now() > deadline {
                let threads = self.threads();
                // It may have ended just now.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return Err(Finished {
                    code: None,
                    stdout: String::new(),
                    stderr: format!(
                        "{}(killed after 20 s; its threads: {threads})",
                        self.words()
                    ),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn client(&self) -> Result<Client, ringlite::ClientError> {
        Client::connect_to(&self.address)
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// What it left, if it has ended.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub fn finished(&mut self) -> Option<Finished> {
        let status = self.child.try_wait().expect("a child can be waited for")?;
        let mut stderr = self.words();
        if let Some(signal) = status.signal() {
            stderr += &format!("(ended by signal {signal})");
        }
        Some(Finished {
            code: status.code(),
            stdout: String::new(),
            stderr,
        })
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Panics
    /// If it does not within 20 s.
    pub fn stop(&mut self) -> Finished {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        self.wait_for_the_end(STOP_TIMEOUT)
            .unwrap_or_else(|| panic!("it does not stop: {}", self.words()))
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_the_end(&mut self, limit: Duration) -> Option<Finished> {
        let deadline = Instant::now() + limit;
        loop {
            let finished = self.finished();
            if finished.is_some() || Instant::now() > deadline {
                return finished;
            }
            thread::sleep(POLL);
        }
    }

    /// Where its threads are in the kernel.
    fn threads(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let mut threads = String::new();
        for task in tasks.into_iter().flatten().flatten() {
            for file in ["comm", "syscall", "stack"] {
                threads += &std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            }
        }
        threads
    }

    /// What it has written to its standard error so far.
    pub fn words(&self) -> String {
        let bytes = std::fs::read(&self.words).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for LoneNode {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the cores that this process may run on.
fn allowed_core(turn: usize) -> usize {
    let allowed = rustix::thread::sched_getaffinity(None).expect("a process has cores");
    let cores = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let cores: Vec<usize> = cores.collect();
    cores[turn % cores.len()]
}

/// An address of the loopback interface that nobody uses.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has free ports");
    let address = listener.local_addr().expect("a listener has an address");
    address.to_string()
}

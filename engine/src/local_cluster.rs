//! A cluster of node processes on this machine, as the demo, the tests and the benchmarks use it.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// How the nodes of a [`LocalCluster`] are run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program and its first arguments, up to and including `serve`.
    pub command: Vec<String>,
    /// Further arguments for `serve`, such as `--segment-mib 8`.
    pub arguments: Vec<String>,
    /// For each node the words that come before the program, such as `ip netns exec NAME`;
    /// empty for none.
    pub wrappers: Vec<Vec<String>>,
    /// The address of each node; free ports of the loopback interface if it is empty.
    pub addresses: Vec<String>,
}

impl Launch {
    /// Runs `program serve`.
    pub fn program(program: impl AsRef<Path>) -> Self {
        Self {
            command: vec![
                program.as_ref().to_string_lossy().into_owned(),
                "serve".to_owned(),
            ],
            arguments: Vec::new(),
            wrappers: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// Adds arguments for `serve`.
    #[must_use]
    pub fn with_arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(str::to_owned));
        self
    }
}

struct Process {
    address: String,
    child: Option<Child>,
}

/// Nodes 1 to n, each a process with a data directory of its own. Dropping it kills them.
pub struct LocalCluster {
    directory: PathBuf,
    launch: Launch,
    members: String,
    nodes: Vec<Process>,
}

impl LocalCluster {
    /// Starts `count` nodes with their data below `directory`.
    ///
    /// # Errors
    /// If no ports can be had or a process cannot be started.
    pub fn start(directory: &Path, count: usize, launch: Launch) -> io::Result<Self> {
        let addresses = if launch.addresses.is_empty() {
            free_addresses(count)?
        } else {
            launch.addresses.clone()
        };
        let members: Vec<String> = (1..)
            .zip(&addresses)
            .map(|(id, address)| format!("{id}={address}"))
            .collect();
        let mut cluster = Self {
            directory: directory.to_owned(),
            launch,
            members: members.join(","),
            nodes: addresses
                .into_iter()
                .map(|address| Process {
                    address,
                    child: None,
                })
                .collect(),
        };
        for id in 1..=count {
            cluster.start_node(id)?;
        }
        Ok(cluster)
    }

    /// Starts a node, for the first time or again.
    ///
    /// # Errors
    /// If its process cannot be started.
    pub fn start_node(&mut self, id: usize) -> io::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_of(id))?;
        let wrapper = self.launch.wrappers.get(id - 1).cloned();
        let words: Vec<String> = wrapper
            .unwrap_or_default()
            .into_iter()
            .chain(self.launch.command.clone())
            .collect();
        let [program, first @ ..] = words.as_slice() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let child = Command::new(program)
            .args(first)
            .args(["--stop-with-parent", "--id", &id.to_string()])
            .args(["--cluster", &self.members])
            .arg("--data")
            .arg(self.data_of(id))
            .args(&self.launch.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.nodes[id - 1].child = Some(child);
        Ok(())
    }

    /// The data directory of a node.
    pub fn data_of(&self, id: usize) -> PathBuf {
        self.directory.join(format!("node-{id}"))
    }

    /// The file that a node's own words go to.
    pub fn log_of(&self, id: usize) -> PathBuf {
        self.directory.join(format!("node-{id}.log"))
    }

    /// The last line that a node has said.
    pub fn last_words_of(&self, id: usize) -> String {
        let log = std::fs::read_to_string(self.log_of(id)).unwrap_or_default();
        log.lines().last().unwrap_or("(none)").to_owned()
    }

    /// Kills a node with SIGKILL: it has no chance to say goodbye.
    pub fn kill(&mut self, id: usize) {
        if let Some(mut child) = self.nodes[id - 1].child.take() {
            // It may have died by itself, which `dead_node` would have told.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills all nodes, none waiting for another.
    pub fn kill_all(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                let _ = child.kill();
            }
        }
        for id in 1..=self.nodes.len() {
            self.kill(id);
        }
    }

    /// The process of a running node.
    pub fn process_of(&self, id: usize) -> Option<u32> {
        self.nodes[id - 1].child.as_ref().map(Child::id)
    }

    /// Where the nodes listen, in the order of their ids.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// The node at `address`.
    pub fn id_at(&self, address: &str) -> Option<usize> {
        let at = self.nodes.iter().position(|node| node.address == address);
        at.map(|position| position + 1)
    }

    /// A node that has died although nobody killed it.
    pub fn dead_node(&mut self) -> Option<usize> {
        let has_died = |node: &mut Process| {
            let child = node.child.as_mut();
            child.is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
        };
        self.nodes
            .iter_mut()
            .position(has_died)
            .map(|position| position + 1)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Ports below those that the system gives to outgoing connections: such a connection could take
/// a node's port while the node is down, and then it could not come back.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Addresses of the loopback interface that nobody uses, all different.
///
/// # Errors
/// If there are not as many.
pub fn free_addresses(count: usize) -> io::Result<Vec<String>> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that look at the same time begin at different places.
    let start = std::process::id().wrapping_mul(997);
    let mut addresses = Vec::new();
    for _ in PORTS {
        if addresses.len() == count {
            return Ok(addresses);
        }
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = start.wrapping_add(step) % u32::from(PORTS.end - PORTS.start);
        let address = format!("127.0.0.1:{}", u32::from(PORTS.start) + offset);
        if TcpListener::bind(&address).is_ok() {
            addresses.push(address);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        "there are no free ports",
    ))
}

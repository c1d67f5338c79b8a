//! Nodes that come and go: each is a process that starts a cluster of its own or joins one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::client::DatabaseDigest;
use ringlite::local_cluster::free_addresses;
use ringlite::{Client, ClientError, ClientOptions};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{self, Finished};

const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A node, running or not.
pub struct Node {
    /// Where it is reached.
    pub address: String,
    /// Where it listens.
    listen: String,
    /// Its data directory.
    pub data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Nodes on this machine, the first of which has started their cluster. Dropping them kills them.
pub struct Nodes {
    program: String,
    directory: PathBuf,
    arguments: Vec<String>,
    /// In the order in which they were added.
    pub nodes: Vec<Node>,
}

impl Nodes {
    /// Starts a cluster of one below `directory`. All its nodes get `arguments`.
    ///
    /// # Panics
    /// If the node does not come to serve.
    pub fn start(program: &str, directory: &Path, arguments: &[&str]) -> Self {
        let mut nodes = Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            nodes: Vec::new(),
        };
        nodes.add(str::to_owned);
        nodes.run(0, &[]);
        drop(nodes.leader());
        nodes
    }

    /// Nodes that are started from now on get these arguments.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
    }

    /// Adds a node that does not run yet. The others reach it where `reached_at` says, which is told
    /// where it listens.
    ///
    /// # Panics
    /// If there are no ports.
    pub fn add(&mut self, reached_at: impl FnOnce(&str) -> String) -> usize {
        let number = self.nodes.len();
        let addresses = free_addresses(1).expect("there are ports");
        self.nodes.push(Node {
            address: reached_at(&addresses[0]),
            listen: addresses[0].clone(),
            data: self.directory.join(format!("node-{number}")),
            log: self.directory.join(format!("node-{number}.log")),
            child: None,
        });
        number
    }

    /// Starts another node that joins through the first one that runs.
    pub fn join(&mut self) -> usize {
        let number = self.add(str::to_owned);
        self.join_as(number);
        number
    }

    /// Starts a node, which asks for a place in the cluster if it has none.
    ///
    /// # Panics
    /// If no other node runs.
    pub fn join_as(&mut self, number: usize) {
        let mut others = self.nodes.iter().enumerate();
        let seed = others
            .find(|(at, node)| *at != number && node.child.is_some())
            .map(|(_, node)| node.address.clone())
            .expect("another node runs");
        self.run(number, &["--join", &seed]);
    }

    /// Starts a node that knows its cluster.
    pub fn restart(&mut self, number: usize) {
        self.run(number, &[]);
    }

    fn run(&mut self, number: usize, more: &[&str]) {
        let node = &mut self.nodes[number];
        let log = File::options().create(true).append(true).open(&node.log);
        let log = log.expect("a log can be written");
        let child = Command::new(&self.program)
            .arg("serve")
            .arg(&node.data)
            .args(["--listen", &node.listen, "--address", &node.address])
            .args(["--segment-mib", "8"])
            .arg("--stop-with-parent")
            .args(["--core", &(number % 2).to_string()])
            .args(&self.arguments)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn();
        node.child = Some(child.expect("a node can be started"));
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.nodes[number].child.take() {
            // It may have died by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks a node to stop, and waits until it has; its exit code.
    ///
    /// # Panics
    /// If it does not run.
    pub fn stop(&mut self, number: usize) -> Option<i32> {
        let mut child = self.nodes[number].child.take().expect("it runs");
        signal(&child, Signal::TERM);
        child.wait().expect("a child can be waited for").code()
    }

    /// What a node has written to its standard error.
    pub fn words(&self, number: usize) -> String {
        std::fs::read_to_string(&self.nodes[number].log).unwrap_or_default()
    }

    /// Where those that run are reached.
    pub fn addresses(&self) -> Vec<String> {
        let running = self.nodes.iter().filter(|node| node.child.is_some());
        running.map(|node| node.address.clone()).collect()
    }

    /// Where all of them are reached, whether they run or not.
    pub fn all_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// The node at an address.
    ///
    /// # Panics
    /// If it is none of these.
    pub fn at(&self, address: &str) -> usize {
        let mut nodes = self.nodes.iter();
        let found = nodes.position(|node| node.address == address);
        found.expect("a node has this address")
    }

    /// A client of the leader.
    ///
    /// # Panics
    /// If there is none.
    pub fn leader(&self) -> Client {
        let options = ClientOptions {
            find_leader_timeout: TIMEOUT,
            ..ClientOptions::default()
        };
        Client::connect(&self.addresses(), options).unwrap_or_else(|error| {
            let words = (0..self.nodes.len()).map(|number| self.words(number));
            panic!("{error}: {:#?}", words.collect::<Vec<_>>())
        })
    }

    /// What the leader says of the members.
    pub fn members(&self) -> Vec<Value> {
        let status = self.leader().status().expect("the leader tells its status");
        status["members"].as_array().cloned().unwrap_or_default()
    }

    /// How many voters, standbys and spares there are.
    pub fn roles(&self) -> [usize; 3] {
        let members = self.members();
        ["voter", "standby", "spare"].map(|role| {
            members
                .iter()
                .filter(|member| member["role"] == role)
                .count()
        })
    }

    /// Waits until there are so many voters, standbys and spares.
    ///
    /// # Panics
    /// If that takes longer than a minute.
    pub fn wait_for_roles(&self, roles: [usize; 3]) {
        wait_until(&format!("roles {roles:?}"), || {
            let found = self.roles();
            (found == roles)
                .then_some(())
                .ok_or_else(|| format!("{:#?}", self.members()))
        });
    }

    /// Runs `ringlite cluster`, at the first node that runs.
    pub fn cluster(&self, arguments: &[&str]) -> Finished {
        let addresses = self.addresses();
        let mut command = Command::new(&self.program);
        command.args(["cluster", &addresses[0]]).args(arguments);
        process::run(&mut command, b"", TIMEOUT)
    }

    /// Waits until all members that hold the log have what the leader has, and checks that their
    /// databases are the same page by page.
    ///
    /// # Panics
    /// If they are not, or do not catch up.
    pub fn assert_identical(&self, database: &str) {
        for member in self.members() {
            if member["role"] == "spare" {
                continue;
            }
            let address = member["address"].as_str().expect("an address").to_owned();
            // The leader may change roles meanwhile, which is an entry too.
            let (found, wanted) = wait_until(&format!("{address} at the end of the log"), || {
                let digests = self.digests(&address, database);
                let (found, wanted) = digests.map_err(|error| error.to_string())?;
                let is_same_index = found.applied == wanted.applied;
                is_same_index
                    .then_some((found.clone(), wanted))
                    .ok_or_else(|| format!("{found:?}"))
            });
            assert_eq!(found, wanted, "{address} differs");
        }
    }

    /// The digests of a node's copy and of the leader's.
    fn digests(
        &self,
        address: &str,
        database: &str,
    ) -> Result<(DatabaseDigest, DatabaseDigest), ClientError> {
        let wanted = self.leader().digest(database, 0)?;
        let found = Client::connect_to(address)?.digest(database, wanted.applied)?;
        Ok((found, wanted))
    }

    /// Lets a node stand still, and go on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, number: usize, what: Signal) {
        signal(self.nodes[number].child.as_ref().expect("it runs"), what);
    }
}

fn signal(child: &Child, what: Signal) {
    process::signal(child.id(), what);
}

/// Waits until `check` succeeds.
///
/// # Panics
/// If it does not within a minute.
pub fn wait_until<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match check() {
            Ok(found) => return found,
            Err(found) if Instant::now() > deadline => panic!("not {what}, but {found}"),
            Err(_) => thread::sleep(POLL),
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if thread::panicking() {
            for number in 0..self.nodes.len() {
                let address = &self.nodes[number].address;
                eprintln!("node {number} at {address}:\n{}", self.words(number));
            }
        }
        for number in 0..self.nodes.len() {
            self.kill(number);
        }
    }
}

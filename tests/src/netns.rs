//! A network of its own for each node: network namespaces around one switch.
//!
//! Every namespace has one interface, whose other end is a port of a bridge in one more namespace.
//! Cutting a node off takes its port at the switch down, as pulling a cable does: the node keeps
//! its address, and everything it sends is lost without a word. No address exists outside of the
//! namespaces, and dropping the network removes them all.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NAMES: &str = "/run/netns";
const PREFIX: &str = "ringlite";
const PORT: u16 = 9001;

/// Hosts 1 to n, and host 0 for those who look on, around a switch.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: usize,
}

impl Network {
    /// Makes the namespaces and connects them.
    ///
    /// # Errors
    /// What the system says, most likely that only root may do that.
    pub fn new(hosts: usize) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            prefix: format!("{PREFIX}-{}-{serial}", std::process::id()),
            hosts,
        };
        let switch = network.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        for host in 0..=hosts {
            network.add_host(host)?;
        }
        Ok(network)
    }

    fn add_host(&self, host: usize) -> Result<(), String> {
        let (name, switch, port) = (self.name(host), self.switch(), port(host));
        let address = format!("10.77.0.{}/24", host + 1);
        ip(&["netns", "add", &name])?;
        ip(&[
            "-n", &name, "link", "add", "lan", "type", "veth", "peer", "name", &port, "netns",
            &switch,
        ])?;
        ip(&["-n", &name, "address", "add", &address, "dev", "lan"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "lan", "up"])?;
        ip(&["-n", &switch, "link", "set", &port, "master", "switch"])?;
        ip(&["-n", &switch, "link", "set", &port, "up"])
    }

    fn name(&self, host: usize) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    /// Where a node on `host` listens.
    pub fn address(&self, host: usize) -> String {
        format!("10.77.0.{}:{PORT}", host + 1)
    }

    /// The words that run a program on `host`.
    pub fn wrapper(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.name(host)]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs `act` on a thread that is on `host`. Sockets that it makes stay there, wherever they
    /// are used; so do the threads and programs that it starts.
    ///
    /// # Panics
    /// If the namespace cannot be entered, or `act` panics.
    pub fn on<T: Send>(&self, host: usize, act: impl FnOnce() -> T + Send) -> T {
        let path = Path::new(NAMES).join(self.name(host));
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let file = File::open(&path).expect("the namespace exists");
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("the namespace can be entered");
                act()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Cuts `host` off from all others.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn cut_off(&self, host: usize) {
        self.set_port(host, "down");
    }

    /// Connects `host` again.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn reconnect(&self, host: usize) {
        self.set_port(host, "up");
    }

    fn set_port(&self, host: usize, state: &str) {
        ip(&["-n", &self.switch(), "link", "set", &port(host), state])
            .expect("the switch takes orders");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..=self.hosts {
            // Also where making the network has failed halfway.
            let _ = ip(&["netns", "delete", &self.name(host)]);
        }
        let _ = ip(&["netns", "delete", &self.switch()]);
    }
}

fn port(host: usize) -> String {
    format!("port{host}")
}

/// Removes what test processes have left that were killed.
fn sweep() {
    let Ok(names) = std::fs::read_dir(NAMES) else {
        return;
    };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let mut words = name.split('-');
        let process = match (words.next(), words.next()) {
            (Some(PREFIX), Some(process)) => process,
            _ => continue,
        };
        if !Path::new("/proc").join(process).exists() {
            // Another test process may sweep at the same time.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let told = |what: &str| format!("ip {}: {what}", arguments.join(" "));
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| told(&error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(told(String::from_utf8_lossy(&output.stderr).trim()))
}

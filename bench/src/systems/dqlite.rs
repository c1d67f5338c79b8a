//! dqlite: three processes of `dqlite-demo`, whose nodes listen for clients of the wire protocol.

use std::path::Path;
use std::time::{Duration, Instant};

use ringlite::Client;
use ringlite::wire::Role;

use crate::error::MeasureError;
use crate::process;
use crate::systems::dqlite_wire::Connection;
use crate::systems::remote::{Remote, free_addresses};

pub(super) const PROGRAM: &str = "dqlite-demo";
pub(super) const SETTINGS: &str = "dqlite-demo with its defaults: the log is written with \
     O_DIRECT and O_DSYNC before a commit is acknowledged, the databases are in memory; statements \
     over its own wire protocol; reads by the leader without asking the others";

const NODES: usize = 3;
const START_PATIENCE: Duration = Duration::from_secs(60);
const START_PAUSE: Duration = Duration::from_millis(100);

/// Starts the nodes, the first of which begins the cluster, and waits until all of them vote.
pub(super) fn start(program: &Path, directory: &Path) -> Result<Remote<Connection>, MeasureError> {
    let addresses = free_addresses(NODES, 2)?;
    let clients: Vec<String> = addresses.iter().map(|pair| pair[0].clone()).collect();
    let arguments = (1..)
        .zip(&addresses)
        .map(|(id, pair)| {
            let data = directory.join(format!("node-{id}"));
            let data = data.to_string_lossy();
            let mut words = vec!["--db", &pair[0], "--api", &pair[1], "--dir", &data];
            if id > 1 {
                words.extend(["--join", &clients[0]]);
            }
            words.into_iter().map(str::to_owned).collect()
        })
        .collect();
    for id in 1..=NODES {
        let data = directory.join(format!("node-{id}"));
        std::fs::create_dir(data).map_err(MeasureError::Directory)?;
    }
    let remote = Remote::start(program, directory, arguments, &clients)?;
    wait_for_voters(&clients[0])?;
    Ok(remote)
}

fn wait_for_voters(address: &str) -> Result<(), MeasureError> {
    let start = Instant::now();
    loop {
        let members = Client::connect_to(address).and_then(|mut client| client.cluster());
        let words = match members {
            Ok(members) => {
                let voters = members.iter().filter(|node| node.role == Role::Voter);
                let voters = voters.count();
                if voters == NODES {
                    return Ok(());
                }
                format!("{voters} nodes vote")
            }
            Err(error) => error.to_string(),
        };
        let waited = start.elapsed();
        if waited > START_PATIENCE {
            return Err(MeasureError::NotReady {
                system: "dqlite",
                waited,
                words,
            });
        }
        std::thread::sleep(START_PAUSE);
    }
}

/// The versions that Debian's package manager knows: the program does not tell its own.
pub(super) fn version() -> Option<String> {
    let query = ["-W", "-f=${Package} ${Version} ", "libdqlite0", "go-dqlite"];
    process::first_line(Path::new("dpkg-query"), &query)
}

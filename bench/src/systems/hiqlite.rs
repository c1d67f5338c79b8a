//! hiqlite: three processes of `ringlite-bench-hiqlite`, the load in the process of the leader.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use crate::drive::{Ask, Told};
use crate::error::MeasureError;
use crate::load::Load;
use crate::outcome::Outcome;
use crate::process::Process;
use crate::systems::System;
use crate::systems::remote::free_addresses;

pub(super) const PROGRAM: &str = "ringlite-bench-hiqlite";
pub(super) const SETTINGS: &str = "wal_sync Immediate: the log is synced before a commit is \
     acknowledged; otherwise the defaults; called in the leader's process, without a network between; \
     reads by query_consistent";

const NODES: usize = 3;
const START_PATIENCE: Duration = Duration::from_secs(60);
const START_PAUSE: Duration = Duration::from_millis(100);

/// The nodes, which end when it is dropped.
pub(super) struct Hiqlite {
    nodes: Vec<Driver>,
    /// The node that led when they had started.
    leader: usize,
}

/// A node and the pipes to it.
struct Driver {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Hiqlite {
    /// Starts the nodes, and waits until one of them leads all.
    pub(super) fn start(program: &Path, directory: &Path) -> Result<Self, MeasureError> {
        let addresses = free_addresses(NODES, 2)?;
        let members: Vec<String> = addresses.iter().map(|pair| pair.join(",")).collect();
        let mut nodes = Vec::new();
        for id in 1..=NODES {
            let data = directory.join(format!("node-{id}"));
            std::fs::create_dir(&data).map_err(MeasureError::Directory)?;
            let mut words = vec![id.to_string(), data.to_string_lossy().into_owned()];
            words.extend(members.iter().cloned());
            let log = directory.join(format!("node-{id}.log"));
            nodes.push(Driver::start(program, &words, &log)?);
        }
        let start = Instant::now();
        let leader = loop {
            if let Some(leader) = leader_of(&mut nodes)? {
                break leader;
            }
            let waited = start.elapsed();
            if waited > START_PATIENCE {
                return Err(MeasureError::NotReady {
                    system: "hiqlite",
                    waited,
                    words: "no node leads".to_owned(),
                });
            }
            std::thread::sleep(START_PAUSE);
        };
        Ok(Self { nodes, leader })
    }
}

fn leader_of(nodes: &mut [Driver]) -> Result<Option<usize>, MeasureError> {
    for (index, node) in nodes.iter_mut().enumerate() {
        if matches!(node.ask(&Ask::Leads)?, Told::Leads(true)) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

impl System for Hiqlite {
    fn prepare(&mut self) -> Result<(), MeasureError> {
        self.nodes[self.leader].ask(&Ask::Prepare).map(drop)
    }

    fn load(&mut self, load: Load, length: Duration) -> Result<Outcome, MeasureError> {
        let ask = Ask::Load {
            workload: load.workload.name().to_owned(),
            connections: load.connections,
            pace: load.pace.into(),
            length,
        };
        match self.nodes[self.leader].ask(&ask)? {
            Told::Loaded(outcome) => Ok(outcome.into()),
            other => Err(MeasureError::Driver(format!("{other:?}"))),
        }
    }

    fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.id()).collect()
    }
}

impl Driver {
    fn start(program: &Path, words: &[String], log: &Path) -> Result<Self, MeasureError> {
        let mut process =
            Process::start(program, words, log, true).map_err(MeasureError::Processes)?;
        let (input, output) = process
            .take_pipes()
            .ok_or_else(|| MeasureError::Driver("it has no pipes".to_owned()))?;
        Ok(Self {
            process,
            input,
            output: BufReader::new(output),
        })
    }

    fn ask(&mut self, ask: &Ask) -> Result<Told, MeasureError> {
        let mut line = serde_json::to_string(ask).map_err(std::io::Error::from);
        let said = line.as_mut().map(|line| {
            line.push('\n');
            self.input.write_all(line.as_bytes())
        });
        let mut answer = String::new();
        if matches!(said, Ok(Ok(()))) {
            self.output
                .read_line(&mut answer)
                .map_err(MeasureError::Processes)?;
        }
        match serde_json::from_str(&answer) {
            Ok(Told::Failed(words)) => Err(MeasureError::Driver(words)),
            Ok(told) => Ok(told),
            Err(_) => Err(MeasureError::Driver(
                self.process
                    .last_words_if_ended()
                    .unwrap_or_else(|| format!("{answer:?}")),
            )),
        }
    }
}

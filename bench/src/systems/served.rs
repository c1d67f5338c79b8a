//! Ringlite's nodes as processes of their own, as in production. They are this same program.

use std::path::Path;
use std::time::Duration;

use ringlite::{ClientOptions, StageTimes};

use crate::error::MeasureError;
use crate::load::Load;
use crate::outcome::Outcome;
use crate::systems::System;
use crate::systems::dqlite_wire::Connection;
use crate::systems::remote::{Remote, free_addresses};

/// The first argument that makes this program a node. The others are those of `ringlite serve`.
pub(crate) const SERVE: &str = "serve";
pub(super) const SETTINGS: &str = "the defaults";

/// The nodes, which end when it is dropped.
pub(super) struct Served(Remote<Connection>);

/// Starts `nodes` nodes.
pub(super) fn start(directory: &Path, nodes: usize) -> Result<Served, MeasureError> {
    let addresses = free_addresses(nodes, 1)?.concat();
    let arguments = (1..=nodes)
        .map(|id| arguments(directory, &addresses, id))
        .collect();
    let program = std::env::current_exe().map_err(MeasureError::Processes)?;
    Remote::start(&program, directory, arguments, &addresses).map(Served)
}

impl System for Served {
    fn prepare(&mut self) -> Result<(), MeasureError> {
        self.0.prepare()
    }

    fn load(&mut self, load: Load, length: Duration) -> Result<Outcome, MeasureError> {
        self.0.load(load, length)
    }

    fn processes(&self) -> Vec<u32> {
        self.0.processes()
    }

    fn stages(&self) -> Result<Vec<StageTimes>, MeasureError> {
        let addresses: Vec<String> = self.0.addresses().map(|at| at.to_string()).collect();
        let mut leader = ringlite::Client::connect(&addresses, ClientOptions::default())?;
        let mut status = leader.status()?;
        let stages = serde_json::from_value(status["stages"].take());
        stages.map_err(|error| MeasureError::Processes(error.into()))
    }
}

/// What makes this program node `id` of those at `addresses`.
pub(super) fn arguments(directory: &Path, addresses: &[String], id: usize) -> Vec<String> {
    let members: Vec<String> = (1..)
        .zip(addresses)
        .map(|(id, address)| format!("{id}={address}"))
        .collect();
    let data = directory.join(format!("node-{id}"));
    let words = [
        SERVE,
        "--id",
        &id.to_string(),
        "--cluster",
        &members.join(","),
        "--data",
        &data.to_string_lossy(),
    ];
    words.map(str::to_owned).into()
}

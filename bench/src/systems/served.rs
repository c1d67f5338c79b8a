//! Ringlite's nodes as processes of their own, as in production. They are this same program.

use std::path::Path;

use crate::error::MeasureError;
use crate::systems::dqlite_wire::Connection;
use crate::systems::remote::{Remote, free_addresses};

/// The first argument that makes this program a node. The others are those of `ringlite serve`.
pub(crate) const SERVE: &str = "serve";
pub(super) const SETTINGS: &str = "the defaults";

/// Starts `nodes` nodes.
pub(super) fn start(directory: &Path, nodes: usize) -> Result<Remote<Connection>, MeasureError> {
    let addresses = free_addresses(nodes, 1)?.concat();
    let arguments = (1..=nodes)
        .map(|id| arguments(directory, &addresses, id))
        .collect();
    let program = std::env::current_exe().map_err(MeasureError::Processes)?;
    Remote::start(&program, directory, arguments, &addresses)
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

//! A system whose nodes are processes and whose clients come over the network.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::error::MeasureError;
use crate::load::{self, Client, Load};
use crate::outcome::Outcome;
use crate::process::Process;
use crate::systems::System;

/// The nodes, which end when it is dropped.
pub(super) struct Remote<C> {
    nodes: Vec<Process>,
    addresses: Vec<SocketAddr>,
    client: PhantomData<C>,
}

impl<C: Client> Remote<C> {
    /// Starts nodes with the arguments that each one gets, and waits until one leads.
    pub(super) fn start(
        program: &Path,
        directory: &Path,
        arguments: Vec<Vec<String>>,
        addresses: &[String],
    ) -> Result<Self, MeasureError> {
        let mut nodes = Vec::new();
        for (number, arguments) in (1..).zip(arguments) {
            let log = directory.join(format!("node-{number}.log"));
            let node = Process::start(program, &arguments, &log, false);
            nodes.push(node.map_err(MeasureError::Processes)?);
        }
        let addresses = addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect();
        let mut remote = Self {
            nodes,
            addresses,
            client: PhantomData,
        };
        load::wait_for_leader::<C>(&remote.addresses).map_err(|error| remote.blamed(error))?;
        Ok(remote)
    }

    /// Where its nodes are.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().copied()
    }

    /// The death of a node explains any other error.
    fn blamed(&mut self, error: MeasureError) -> MeasureError {
        let died = (1..).zip(&mut self.nodes).find_map(|(id, node)| {
            let words = node.last_words_if_ended()?;
            Some(MeasureError::Died { id, words })
        });
        died.unwrap_or(error)
    }
}

impl<C: Client> System for Remote<C> {
    fn prepare(&mut self) -> Result<(), MeasureError> {
        load::prepare::<C>(&self.addresses).map_err(|error| self.blamed(error))
    }

    fn load(&mut self, load: Load, length: Duration) -> Result<Outcome, MeasureError> {
        load::run::<C>(&self.addresses, load, length).map_err(|error| self.blamed(error))
    }

    fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(Process::id).collect()
    }
}

/// `count` times `per_node` addresses of the loopback interface that nobody uses.
pub(super) fn free_addresses(
    count: usize,
    per_node: usize,
) -> Result<Vec<Vec<String>>, MeasureError> {
    let all = ringlite::local_cluster::free_addresses(count * per_node);
    let all = all.map_err(MeasureError::Processes)?;
    Ok(all.chunks(per_node).map(<[String]>::to_vec).collect())
}

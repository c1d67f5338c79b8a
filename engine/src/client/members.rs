//! A client's requests about the members of the cluster.

use super::{Client, ClientError};
use crate::wire::{MemberEntry, Request, Response, Role};

/// What a node is told that has become a member.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) cluster: u128,
    pub(crate) id: u64,
    pub(crate) shards: u64,
    pub(crate) members: Vec<MemberEntry>,
}

impl Client {
    /// Makes a place for a node, as a spare. The node takes it when it is started with `--join` and
    /// this id or address. An id of 0 lets the leader choose one.
    ///
    /// # Errors
    /// A failure if there is such a member already; otherwise as every request to the leader. After
    /// a lost connection it may have happened or not; asking again does no harm.
    pub fn add_member(&mut self, id: u64, address: &str) -> Result<(), ClientError> {
        let address = address.to_owned();
        self.request_empty(&Request::Add { id, address })
    }

    /// Gives a member a role, which it keeps under every leader; with `None` its role is the leader's
    /// choice again. One that lacks too much of the log to vote catches up first, which is waited for.
    ///
    /// # Errors
    /// A failure if there is no such member, if no voter would be left, or if it does not catch up
    /// in time; otherwise as [`Client::add_member`].
    pub fn assign_role(
        &mut self,
        id: u64,
        role: impl Into<Option<Role>>,
    ) -> Result<(), ClientError> {
        let role = role.into();
        self.request_empty(&Request::Assign { id, role })
    }

    /// Removes a member for ever. Its node is told, and serves no longer.
    ///
    /// # Errors
    /// A failure if there is no such member or no voter would be left; otherwise as
    /// [`Client::add_member`].
    pub fn remove_member(&mut self, id: u64) -> Result<(), ClientError> {
        self.request_empty(&Request::Remove { id })
    }

    /// Hands leadership over to a voter, or to the best one if `to` is 0.
    ///
    /// # Errors
    /// A failure if that node cannot lead, or does not within an election timeout: then this leader
    /// goes on. Otherwise as every request to the leader.
    pub fn transfer_leadership(&mut self, to: u64) -> Result<(), ClientError> {
        self.request_empty(&Request::Transfer { id: to })
    }

    /// The failure domain and the weight of the node.
    ///
    /// # Errors
    /// As every request.
    pub fn describe(&mut self) -> Result<(u64, u64), ClientError> {
        match self.request(&Request::Describe)? {
            Response::Metadata {
                failure_domain,
                weight,
            } => Ok((failure_domain, weight)),
            other => Err(self.unexpected("METADATA", &other)),
        }
    }

    /// Sets the weight of the node: among equals the one with the lower weight becomes a voter.
    ///
    /// # Errors
    /// As [`Client::add_member`].
    pub fn set_weight(&mut self, weight: u64) -> Result<(), ClientError> {
        self.request_empty(&Request::Weight { weight })
    }

    /// Asks the leader to make the caller's node a member, or to note what has changed about it.
    pub(crate) fn join(&mut self, request: &Request) -> Result<Joined, ClientError> {
        match self.request(request)? {
            Response::Joined {
                cluster,
                id,
                shards,
                members,
            } => Ok(Joined {
                cluster,
                id,
                shards,
                members,
            }),
            other => Err(self.unexpected("JOINED", &other)),
        }
    }
}

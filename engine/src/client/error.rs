//! What can go wrong for a client.

use std::{fmt, io, path::PathBuf};

use crate::wire::{FailureCode, WireError};

/// NOT_LEADER of nodes from before dqlite 1.0.
const NOT_LEADER_LEGACY: u64 = 8202;
/// LEADERSHIP_LOST of nodes from before dqlite 1.0.
const LEADERSHIP_LOST_LEGACY: u64 = 8458;

/// An address where the leader was looked for, and why it was not found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriedAddress {
    /// The address.
    pub address: String,
    /// What happened, as a phrase.
    pub outcome: String,
}

impl fmt::Display for TriedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.outcome)
    }
}

/// An error of a [`Client`](super::Client).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server refused the request, or SQLite did.
    #[error("{message} (code {code})")]
    Failure {
        /// SQLite's extended result code, or a [`FailureCode`].
        code: u64,
        /// SQLite's message, or the server's.
        message: String,
    },
    /// The connection failed. What the request under way has done is not known.
    #[error("cannot {action} {address}: {source}")]
    Io {
        /// The node's address.
        address: String,
        /// What was being done.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// No address led to the leader within the time.
    #[error(
        "no leader found ({}); check that a majority of the nodes is up",
        join(tried)
    )]
    NoLeader {
        /// What each address said last.
        tried: Vec<TriedAddress>,
    },
    /// A file of this machine cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// A file is no database that can be restored. Nothing has happened.
    #[error("{} cannot be restored: {reason}", path.display())]
    NotRestorable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The server's bytes are not the protocol.
    #[error("{address} does not speak the protocol ({source}); check the address and its version")]
    Protocol {
        /// The node's address.
        address: String,
        /// What is wrong with them.
        source: WireError,
    },
    /// The server's response is not one to the request.
    #[error("{address} answered {found} where {expected} was due; check its version")]
    UnexpectedResponse {
        /// The node's address.
        address: String,
        /// The response that was due.
        expected: &'static str,
        /// The one that came.
        found: &'static str,
    },
    /// The status of a node is no JSON.
    #[error("the status of {address} is no JSON ({source}); check its version")]
    StatusJson {
        /// The node's address.
        address: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The request cannot be sent. Nothing has happened.
    #[error("the request was not sent: {0}")]
    Request(#[source] WireError),
    /// An earlier request has lost the connection. Nothing has happened since.
    #[error("the connection to {address} was lost before; reconnect")]
    NotConnected {
        /// The node's address.
        address: String,
    },
    /// The prepared statement is of an earlier connection. Nothing has happened.
    #[error("the statement was prepared on an earlier connection; prepare it again")]
    StaleStatement,
}

impl ClientError {
    /// Whether the node does not lead. Nothing was done, and a transaction that was open is rolled
    /// back; it is safe to reconnect and try again.
    pub fn is_not_leader(&self) -> bool {
        matches!(self, Self::Failure { code, .. }
            if [FailureCode::NotLeader as u64, NOT_LEADER_LEGACY].contains(code))
    }

    /// Whether the node stopped leading while a commit was under way, so that it may or may not
    /// have happened.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Failure { code, .. }
            if [FailureCode::LeadershipLost as u64, LEADERSHIP_LOST_LEGACY].contains(code))
    }

    /// Whether the connection is gone; [`Client::reconnect`](super::Client::reconnect) makes a new
    /// one. Unless it was [`ClientError::NotConnected`] before the request was sent, what the
    /// request has done is not known.
    pub fn is_connection_lost(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::Protocol { .. }
                | Self::UnexpectedResponse { .. }
                | Self::NotConnected { .. }
        )
    }
}

fn join(tried: &[TriedAddress]) -> String {
    if tried.is_empty() {
        return "no address was given".to_owned();
    }
    tried
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

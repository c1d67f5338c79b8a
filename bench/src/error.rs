//! What can go wrong with a measure.

use std::time::Duration;

use ringlite::wire::{FailureCode, Response, WireError};
use ringlite::{ClientError, NodeError};

use crate::outcome::Failure;

/// Why a connection of the load generator failed, or one request on it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The node answered with a failure: the request was not done, the connection goes on.
    #[error("code {code}: {message}")]
    Failure {
        /// SQLite's code, or one of the protocol.
        code: u64,
        /// The node's words.
        message: String,
    },
    /// The node answered with something else.
    #[error("the answer {0} does not belong to the request")]
    Unexpected(&'static str),
    /// The node speaks another protocol.
    #[error(transparent)]
    Protocol(#[from] WireError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The node has gone away.
    #[error("the node closed the connection")]
    Closed,
    /// The node answered over HTTP with a failure.
    #[error("HTTP status {status}: {body}")]
    Status {
        /// The status.
        status: u16,
        /// The beginning of the answer.
        body: String,
    },
    /// The node answered over HTTP that a statement failed.
    #[error("{0}")]
    Refused(String),
    /// The node answered over HTTP with something else.
    #[error("the answer is not understood: {0}")]
    Answer(String),
    /// The system has no such operation.
    #[error("it has no operation like this")]
    Unsupported,
    /// No node leads.
    #[error("no node said within {waited:?} that it leads")]
    NoLeader {
        /// How long they were asked.
        waited: Duration,
    },
}

impl LoadError {
    /// What an answer means that is not the one that was waited for.
    pub(crate) fn unexpected(response: Response) -> Self {
        match response {
            Response::Failure { code, message } => Self::Failure { code, message },
            other => Self::Unexpected(other.name()),
        }
    }

    /// Whether the next request can go the same way: the node still leads and still answers.
    pub(crate) fn leaves_connection(&self) -> bool {
        let elsewhere = [FailureCode::NotLeader, FailureCode::LeadershipLost];
        match self {
            Self::Failure { code, .. } => !elsewhere.iter().any(|moved| *moved as u64 == *code),
            Self::Refused(_) | Self::Unsupported => true,
            _ => false,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let kind = match &error {
            LoadError::Failure { code, .. } => format!("code {code}"),
            LoadError::Unexpected(_) | LoadError::Protocol(_) => "protocol".to_owned(),
            LoadError::Io(_) | LoadError::Closed => "connection".to_owned(),
            LoadError::NoLeader { .. } => "no leader".to_owned(),
            LoadError::Status { status, .. } => format!("HTTP status {status}"),
            LoadError::Refused(words) => words.clone(),
            LoadError::Answer(_) => "answer".to_owned(),
            LoadError::Unsupported => "unsupported".to_owned(),
        };
        Self {
            kind,
            words: error.to_string(),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map_or(0, |error| error.extended_code);
        Self {
            kind: format!("code {code}"),
            words: error.to_string(),
        }
    }
}

impl From<ringlite::Error> for Failure {
    fn from(error: ringlite::Error) -> Self {
        Self {
            kind: format!("code {}", error.code()),
            words: error.to_string(),
        }
    }
}

/// Why a measure could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    /// The directory for the data cannot be made.
    #[error("the directory for the data cannot be made: {0}")]
    Directory(std::io::Error),
    /// The disk cannot be measured.
    #[error("the raw write cannot be measured: {0}; choose a directory on a disk with --dir")]
    RawWrite(std::io::Error),
    /// The loopback interface cannot be measured.
    #[error("the loopback round trip cannot be measured: {0}")]
    RoundTrip(std::io::Error),
    /// Replication without a product cannot be measured.
    #[error("replication alone cannot be measured: {0}")]
    Replication(std::io::Error),
    /// The tables cannot be made.
    #[error("the tables cannot be made: {}", .0.words)]
    Prepare(Failure),
    /// SQLite alone cannot be measured.
    #[error("SQLite alone cannot be measured: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The cluster does not get ready.
    #[error("{system} is not ready after {waited:?}: {words}")]
    NotReady {
        /// The system.
        system: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// What it said last.
        words: String,
    },
    /// The program that drives hiqlite says something else than agreed.
    #[error("the program that drives hiqlite said: {0}")]
    Driver(String),
    /// The processes of the nodes cannot be started, or looked at.
    #[error("the nodes cannot be run: {0}")]
    Processes(std::io::Error),
    /// A node process ended.
    #[error("node {id} ended by itself; its last words: {words}")]
    Died {
        /// The node.
        id: usize,
        /// The last line of its log.
        words: String,
    },
    /// The node in this process does not start.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// The node in this process refuses.
    #[error(transparent)]
    Embedded(#[from] ringlite::Error),
    /// The cluster does not serve.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The load generator does not get going.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no executor for it.
    #[error("an io_uring executor cannot be had: {0}")]
    Executor(String),
    /// The results cannot be written.
    #[error("the results cannot be written: {0}")]
    Report(std::io::Error),
}

impl From<NodeError> for MeasureError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

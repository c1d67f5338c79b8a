//! What can go wrong with a statement, as its caller sees it.

use crate::replica::NodeAddress;

/// Why a statement, or any other request to a node, did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite refused it. `code` is the extended result code.
    #[error("{message}")]
    Sqlite {
        /// Extended result code, such as 1555 for a primary key that exists already.
        code: i32,
        /// SQLite's own text, or ours where SQLite's would mislead.
        message: String,
    },
    /// This node does not lead. Nothing was committed, so that a retry at the leader is safe.
    #[error("not leader{}", leader.as_ref().map(|at| format!(" (the leader is {at})")).unwrap_or_default())]
    NotLeader {
        /// Who leads, where it is known.
        leader: Option<NodeAddress>,
    },
    /// The node was removed from its cluster and serves no longer.
    #[error(
        "not leader: this node was removed from the cluster; ask one of its members, or start it \
             with an empty data directory and --join to make it a new one"
    )]
    Removed,
    /// Leadership was lost after the commit had been handed to the log. The next leader may still
    /// commit it or not; only a look at the data tells.
    #[error("leadership lost: the outcome of this commit is unknown")]
    OutcomeUnknown,
    /// A named bound was reached; the request did nothing and may be repeated.
    #[error("busy: {what}; retry later")]
    Busy {
        /// Which bound, in words.
        what: &'static str,
    },
    /// A read at level `local` with a bound on its staleness: this node has not heard of a leader
    /// for longer.
    #[error("this node has not heard of a leader {}, and at most {limit_ms} ms was asked for: read elsewhere", stale(*age_ms))]
    TooStale {
        /// For how long, in ms; `u64::MAX` for never.
        age_ms: u64,
        /// How long was allowed, in ms.
        limit_ms: u64,
    },
    /// The session has no database open, because it never opened one or because this node has
    /// lost its leadership since.
    #[error("no database opened")]
    NoDatabaseOpened,
    /// The session's database has ended under it. Its open transaction is rolled back.
    #[error("the database {name:?} was {how}; open it again to go on")]
    DatabaseGone {
        /// Its name.
        name: String,
        /// What became of it.
        how: &'static str,
    },
    /// The session has a database open already.
    #[error("a database for this connection is already open")]
    AlreadyOpen,
    /// The request does not fit the session's state, for instance no database is open.
    #[error("{what}")]
    Misuse {
        /// What does not fit and what to do.
        what: String,
        /// The result code the client protocols report for it.
        code: i32,
    },
    /// The node stops or has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// dqlite's code for a request at a node that does not lead.
pub const CODE_NOT_LEADER: i32 = 10 | (40 << 8);
/// dqlite's code for a commit whose outcome is unknown.
pub const CODE_LEADERSHIP_LOST: i32 = 10 | (41 << 8);

impl Error {
    /// The code that the client protocols carry for it.
    pub fn code(&self) -> i32 {
        match self {
            Self::Sqlite { code, .. } | Self::Misuse { code, .. } => *code,
            // Clients then look for the leader elsewhere.
            Self::NotLeader { .. } | Self::Removed => CODE_NOT_LEADER,
            Self::OutcomeUnknown => CODE_LEADERSHIP_LOST,
            Self::NoDatabaseOpened => rusqlite::ffi::SQLITE_NOTFOUND,
            Self::DatabaseGone { .. } => rusqlite::ffi::SQLITE_CANTOPEN,
            Self::Busy { .. } | Self::TooStale { .. } | Self::AlreadyOpen => {
                rusqlite::ffi::SQLITE_BUSY
            }
            Self::Stopped => rusqlite::ffi::SQLITE_IOERR,
        }
    }

    /// A client has asked for it.
    pub(crate) fn interrupted() -> Self {
        Self::Sqlite {
            code: rusqlite::ffi::SQLITE_INTERRUPT,
            message: "the statement was interrupted".into(),
        }
    }

    /// Whether it says that a statement was interrupted, of which nothing is left then.
    pub(crate) fn is_interrupt(&self) -> bool {
        matches!(self, Self::Sqlite { code, .. } if *code == rusqlite::ffi::SQLITE_INTERRUPT)
    }

    /// A result has more bytes than may be given at once.
    pub(crate) fn result_too_large() -> Self {
        Self::Busy {
            what: "the result is larger than may be given at once: read it in a transaction, or less \
                   of it",
        }
    }

    /// A reader has held its snapshot for longer than the node keeps old pages for it.
    pub(crate) fn snapshot_too_old() -> Self {
        Self::Sqlite {
            code: rusqlite::ffi::SQLITE_ABORT_ROLLBACK,
            message: "snapshot too old: this read has held its snapshot for longer than the limit \
                 that --snapshot-time sets, and was ended so that old pages can be let go; run it \
                 again"
                .into(),
        }
    }

    pub(crate) fn misuse(code: i32, what: impl Into<String>) -> Self {
        Self::Misuse {
            what: what.into(),
            code,
        }
    }
}

fn stale(age_ms: u64) -> String {
    match age_ms {
        u64::MAX => "yet".into(),
        age_ms => format!("for {age_ms} ms"),
    }
}

/// The result of a request to a node.
pub type Result<T> = std::result::Result<T, Error>;

//! What clients ask of a replica, what SQL it asks of the runtime, and what comes back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ringlite_raft::{LogIndex, MemberRole, NodeId};
use ringlite_vfs::{Capture, PageSize};

use super::catalogue::DatabaseId;
use super::positions::Positions;
use crate::error::Error;
use crate::rows::{RowBatch, Value};

/// One client's connection state on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// One request of a session; the serial is chosen by the asker and comes back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Whose request.
    pub session: SessionId,
    /// Which of its requests.
    pub serial: u64,
}

/// How a session wants some statements to be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// A plain `BEGIN` means `BEGIN IMMEDIATE`, so that a transaction that will write waits for
    /// its turn at the start and never fails later with `SQLITE_BUSY_SNAPSHOT`.
    pub begin_immediate: bool,
}

/// A prepared statement of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementId(pub u32);

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Use the database of this name in the session.
    Open {
        /// The database's name.
        database: String,
        /// Whether to create it if there is none.
        create: bool,
    },
    /// Run SQL in the session.
    Sql(Work),
    /// Something that is not about the session's database.
    Admin(Admin),
    /// Something about the members of the cluster.
    Members(MemberRequest),
}

/// What is asked about the members of the cluster, of the leader. Where several changes are needed,
/// they are made one after the other, and the answer comes when the last one is committed. All of
/// them may be asked again without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberRequest {
    /// A node asks to become a member, or tells what has changed about it; answered by
    /// [`Reply::Joined`]. A member that is gone and had its address leaves.
    Join {
        /// The id that it wants or has; `None` if the leader shall choose one.
        id: Option<NodeId>,
        /// The incarnation of its data directory.
        incarnation: u64,
        /// Where it is reached; empty for what is known.
        address: String,
        /// `None` for what is known, or 0.
        failure_domain: Option<u64>,
        /// `None` for what is known, or 0.
        weight: Option<u64>,
    },
    /// Make a place for a node that will join.
    Add {
        /// The id that it will have; `None` if the leader shall choose one.
        id: Option<NodeId>,
        /// Where it will be reached.
        address: String,
    },
    /// Give a member a role, to keep under every leader. One that is to vote catches up first.
    Assign {
        /// The member.
        id: NodeId,
        /// Its role; `None`: what the leader chooses, from now on.
        role: Option<MemberRole>,
    },
    /// Remove a member for ever.
    Remove {
        /// The member.
        id: NodeId,
    },
    /// Hand leadership over; answered when this node leads no longer.
    Transfer {
        /// To this voter; `None` for the best one.
        to: Option<NodeId>,
    },
}

/// What a client asks about databases as a whole. It needs no open database, and is answered by
/// [`Reply::Done`].
#[derive(Clone, Debug, PartialEq)]
pub enum Admin {
    /// Nothing but the answer: when it comes, this node was the leader at or after the time of the
    /// request, so that its committed state has everything acknowledged before.
    Confirm,
    /// Create a database.
    Create {
        /// Its name, which must be free.
        name: String,
        /// The size of its pages.
        page_size: PageSize,
    },
    /// Drop a database: its sessions end, its file is removed on every node, its name is free.
    Drop {
        /// Its name.
        name: String,
    },
    /// The session will send a SQLite database file, from its start to its end.
    BeginRestore {
        /// The name of the database that it will be.
        name: String,
        /// The length of the file, in bytes.
        file_bytes: u64,
        /// Whether it may take the place of a database of this name.
        replace: bool,
    },
    /// The next bytes of the file, at most [`super::RESTORE_CHUNK_BYTES_MAX`].
    RestoreChunk(Bytes),
    /// The file is sent: make it the database.
    FinishRestore,
}

/// SQL work for the session's SQLite connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Connects the session to a database.
    Connect {
        /// The database.
        database: DatabaseId,
        /// How statements are to be understood.
        options: SessionOptions,
    },
    /// Compiles one statement.
    Prepare {
        /// Its text.
        sql: Arc<str>,
        /// Whether text after the first statement is allowed; its offset is then in the reply.
        allow_tail: bool,
    },
    /// Runs a prepared statement, or a script, that gives no rows.
    Execute(Source),
    /// Runs a single statement and gives its rows.
    Query {
        /// The statement.
        source: Source,
        /// How much at once.
        limit: RowLimit,
    },
    /// The next batch of the running query.
    Continue,
    /// Ends the running query, if there is one.
    Interrupt,
    /// Frees a prepared statement.
    Finalize(StatementId),
    /// Rolls the session's transaction back.
    Abort,
}

/// How many rows come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLimit {
    /// Batches of about this many bytes, each asked for by [`Work::Continue`].
    Batches {
        /// The bytes.
        bytes: usize,
    },
    /// All of them, and an error if they are more than this.
    Whole {
        /// The bytes.
        bytes_max: usize,
    },
}

/// The statement to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// One that was prepared.
    Prepared {
        /// Which.
        statement: StatementId,
        /// Its parameters, from the first.
        parameters: Vec<Value>,
    },
    /// Text: for [`Work::Execute`] any number of statements, each in its own transaction unless
    /// one is open, taking the parameters from left to right; for [`Work::Query`] a single one.
    Text {
        /// The text.
        sql: Arc<str>,
        /// Where in the text to begin, in bytes: what was before has run.
        from: usize,
        /// The parameters of all statements.
        parameters: Vec<Value>,
        /// How many of the parameters the statements before `from` have used.
        parameters_used: usize,
    },
}

impl Source {
    /// A text to run from its start.
    pub fn text(sql: impl Into<Arc<str>>, parameters: Vec<Value>) -> Self {
        Self::Text {
            sql: sql.into(),
            from: 0,
            parameters,
            parameters_used: 0,
        }
    }
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The database is open in the session.
    Opened,
    /// The statement is compiled.
    Prepared {
        /// Its id in the session.
        statement: StatementId,
        /// How many parameters it takes.
        parameters: u32,
        /// Where the text after it begins, in bytes; the text's length if there is none.
        tail: usize,
    },
    /// The statements ran.
    Executed(Executed),
    /// A batch of rows.
    Rows(RowBatch),
    /// A digest of a database.
    Digest(Digest),
    /// The node is a member.
    Joined {
        /// Its id.
        id: NodeId,
    },
    /// Done, and nothing to tell.
    Done,
}

/// What SQLite counts of an executed statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// The session's last inserted rowid.
    pub last_insert_rowid: i64,
    /// Rows changed by the session's last INSERT, UPDATE or DELETE.
    pub changes: u64,
}

/// A digest of a database at one applied index, to compare replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The applied index at which it was taken.
    pub applied: LogIndex,
    /// The database's size in pages.
    pub page_count: u32,
    /// The size of a page in bytes.
    pub page_size: u32,
    /// 128-bit hash (XXH3) of all pages in order, in hexadecimal.
    pub digest: String,
}

/// Where a session's connection stands after a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether BEGIN was given and neither COMMIT nor ROLLBACK.
    pub in_transaction: bool,
    /// Whether a read snapshot of any of its databases is held.
    pub has_snapshot: bool,
    /// Whether the write lock of any of its databases is held.
    pub has_write_lock: bool,
    /// The snapshot that was granted last, in each of its databases that it has read.
    pub snapshots: Positions,
    /// The databases that are attached to it, besides its own one.
    pub attached: Vec<DatabaseId>,
}

/// Why a run is stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Its client asked for it, or has left.
    Interrupted,
    /// It ran for longer than statements may.
    StatementTime,
    /// It would be one long statement too many.
    TooManyLong,
    /// Its snapshot is older than readers may hold one.
    SnapshotTooOld,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// It needs the write lock, which it may not take now; what is left to be run.
    NeedsWriteLock(Work),
    /// It gave this.
    Reply(Reply),
    /// It failed.
    Failed(Error),
}

/// A completed [`super::Effect::Run`].
#[derive(Debug)]
pub struct Ran {
    /// For whom it ran.
    pub request: RequestId,
    /// How it ended.
    pub outcome: Outcome,
    /// Where the connection stands now.
    pub standing: Standing,
    /// What was committed into the in-memory WALs of the session's databases and not captured
    /// before. What one transaction committed is here as a whole.
    pub captures: Vec<(DatabaseId, Capture)>,
    /// The databases whose snapshot in `standing` holds a commit that is in no capture yet: another
    /// thread is about to complete it.
    pub ahead: Vec<DatabaseId>,
}

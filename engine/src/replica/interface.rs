//! What goes into a replica and what comes out of it.

use bytes::Bytes;
use ringlite_raft::{Configuration, Debt, Entry, HardState, IoId, LogIndex, Message, NodeId, Role};
use ringlite_vfs::{Capture, CommitPoint, PageSize};

use super::catalogue::DatabaseId;
use super::config::NodeAddress;
use super::file::DatabaseFile;
use super::following::Guidance;
use super::member::Member;
use super::members::MemberStatus;
use super::payload::{DatabaseChange, RestoreId};
use super::request::{Ran, Reply, Request, RequestId, SessionId, SessionOptions, StopReason, Work};
use super::snapshot::{SnapshotHead, SnapshotId, SnapshotOutcome};
use crate::error::Error;

/// What happens to a replica.
#[derive(Debug)]
pub enum Input {
    /// A tick of the runtime's one timer.
    Tick,
    /// A message of another node.
    Receive {
        /// Its sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The connection from this node broke.
    PeerLost {
        /// The node.
        peer: NodeId,
    },
    /// Everything with this id or a smaller one is on stable storage.
    Persisted {
        /// The newest of a contiguous prefix.
        io: IoId,
    },
    /// Entries that [`Effect::ReadEntries`] asked for.
    EntriesRead {
        /// For whom.
        peer: NodeId,
        /// A prefix of what was asked.
        entries: Vec<Entry>,
    },
    /// A client asks.
    Asked {
        /// Who asks, and which of its requests it is.
        id: RequestId,
        /// How the session's statements are to be understood.
        options: SessionOptions,
        /// What it asks.
        request: Request,
    },
    /// A session has ended; what it left open is rolled back.
    SessionClosed {
        /// Which.
        session: SessionId,
    },
    /// A client wants what its session runs, or waits to run, to be stopped.
    Interrupted {
        /// Which session.
        session: SessionId,
    },
    /// SQL ran.
    Ran(Ran),
    /// SQL goes on on another thread; [`Input::Ran`] comes at its end.
    Left {
        /// For which request.
        request: RequestId,
        /// Whether it has begun to write.
        writes: bool,
    },
    /// SQL that goes on on another thread has committed something.
    Captured {
        /// What, in each database. What one transaction committed is here as a whole.
        captures: Vec<(DatabaseId, Capture)>,
    },
    /// A database was opened by [`Effect::OpenDatabase`], [`Effect::CreateDatabase`] or
    /// [`Effect::FinishRestore`].
    Opened {
        /// Which.
        database: DatabaseId,
        /// The size of its pages.
        page_size: PageSize,
        /// Its state.
        commit_point: CommitPoint,
    },
    /// What did not commit was undone by [`Effect::RollBack`].
    RolledBack {
        /// In which database.
        database: DatabaseId,
        /// Its state, as the new life of the in-memory WAL knows it.
        commit_point: CommitPoint,
    },
    /// A database was changed by [`Effect::Apply`].
    Applied {
        /// Which.
        database: DatabaseId,
        /// The entry that has changed it.
        index: LogIndex,
        /// Its state now.
        commit_point: CommitPoint,
    },
    /// Leadership goes to another voter, if this node leads and there is one: to the one that is to have it
    /// anyway, if it can.
    HandOver,
    /// What the first shard of this node has come to know; for the other ones.
    Guided(Guidance),
    /// The node is about to stop: nothing new is taken, and everything that is committed goes
    /// into the database files.
    Flush,
    /// The manifest that [`Effect::SaveManifest`] gave is on stable storage.
    ManifestSaved,
    /// [`Effect::Backfill`] is done: the file is synced.
    Backfilled {
        /// Which database.
        database: DatabaseId,
        /// The newest entry whose pages it has written; `None` if readers stood in the way, or
        /// there was nothing to write.
        end: Option<LogIndex>,
    },
    /// [`Effect::RestartWal`] was tried.
    WalRestarted {
        /// In which database.
        database: DatabaseId,
        /// The newest entry whose pages it has written, not yet durably.
        end: Option<LogIndex>,
        /// The state of the empty WAL; `None` if readers stood in the way.
        commit_point: Option<CommitPoint>,
    },
    /// The end of [`Effect::SendSnapshot`].
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// Which one.
        id: SnapshotId,
        /// Whether the member has installed it, or did not need it; else it was given up.
        is_installed: bool,
    },
    /// All files of a snapshot are here, durable, and nothing uses them. Answered by
    /// [`Effect::SnapshotEnded`]; until then there is no other.
    SnapshotArrived {
        /// What it consists of, with the targets of the end of the copy, and without databases that
        /// were dropped meanwhile.
        head: SnapshotHead,
    },
    /// [`Effect::InstallSnapshot`] is done, durably.
    SnapshotInstalled,
    /// A digest of a database is wanted.
    DigestAsked {
        /// Who asks.
        id: RequestId,
        /// The database's name.
        database: String,
        /// Not before this index is applied.
        index_min: LogIndex,
    },
}

/// What a replica wants done.
#[derive(Debug)]
pub enum Effect {
    /// Run SQL, and answer with [`Input::Ran`], before the next effect or after [`Input::Left`].
    Run {
        /// For which request.
        request: RequestId,
        /// What.
        work: Work,
        /// Whether it may take the database's write lock.
        may_write: bool,
    },
    /// Stop what a session runs on another thread.
    StopRun {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: StopReason,
    },
    /// Drop a session's connection; what it runs on another thread is stopped, and its end is not
    /// told.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Whether SQL may write at all on this node.
    SetWritable(bool),
    /// Open a database that was created in an earlier life; answered by [`Input::Opened`], unless
    /// its file is gone, because what the log has still to say of it is its end.
    OpenDatabase {
        /// Its id.
        id: DatabaseId,
        /// Its name.
        name: String,
        /// The size of its pages.
        page_size: PageSize,
    },
    /// Create the file of a database and open it; answered by [`Input::Opened`].
    CreateDatabase {
        /// Its id.
        id: DatabaseId,
        /// Its name.
        name: String,
        /// The size of its pages.
        page_size: PageSize,
    },
    /// Close a database and remove its file. No session is on it any more.
    RemoveDatabase {
        /// Which.
        database: DatabaseId,
    },
    /// Make room for a file that will become a database.
    BeginRestore {
        /// Its restore.
        restore: RestoreId,
    },
    /// Append to the file of a restore.
    WriteRestore {
        /// Which restore.
        restore: RestoreId,
        /// The bytes.
        bytes: Bytes,
    },
    /// Make the file of a restore the file of a database, durably, and open it; answered by
    /// [`Input::Opened`].
    FinishRestore {
        /// The restore.
        restore: RestoreId,
        /// The database's id.
        id: DatabaseId,
        /// The database's name.
        name: String,
    },
    /// Forget the file of a restore.
    DiscardRestore {
        /// Which restore.
        restore: RestoreId,
    },
    /// Append committed pages to a database's in-memory WAL; answered by [`Input::Applied`].
    Apply {
        /// The entry that they are of.
        index: LogIndex,
        /// The pages.
        change: DatabaseChange,
    },
    /// What a database's WAL holds up to here is committed: readers on other threads may see it.
    /// Performed before the answers that tell of it.
    ShowCommitted {
        /// Which database.
        database: DatabaseId,
        /// Its state at the commit index.
        to: CommitPoint,
    },
    /// Save the manifest durably; answered by [`Input::ManifestSaved`].
    SaveManifest {
        /// The log begins behind this entry, as far as the databases need it.
        base: LogIndex,
        /// Targets up to here came with a snapshot, and this node's log may end before them; 0 for
        /// none.
        owed: LogIndex,
        /// The members as of the base.
        configuration: Configuration,
        /// All databases.
        databases: Vec<DatabaseFile>,
    },
    /// Write what the file of a database lacks of the entries that end at `ends`, as far as
    /// readers let it, and sync the file; answered by [`Input::Backfilled`].
    Backfill {
        /// Which database.
        database: DatabaseId,
        /// Where each entry leaves the database; none: there is nothing but to sync.
        ends: Vec<(LogIndex, CommitPoint)>,
    },
    /// Write what the file still lacks and begin the WAL anew, at once; answered by
    /// [`Input::WalRestarted`].
    RestartWal {
        /// Of which database.
        database: DatabaseId,
        /// Where each entry that the file lacks leaves the database.
        ends: Vec<(LogIndex, CommitPoint)>,
    },
    /// End what other threads have been reading of a database for some time: its WAL is as long as
    /// it may get.
    EndReads {
        /// Which database.
        database: DatabaseId,
    },
    /// Nobody needs the log's entries up to here any more.
    CutLog {
        /// The last of them.
        up_to: LogIndex,
    },
    /// Stream the files of these databases to a member, which installs them; answered by
    /// [`Input::SnapshotSent`] unless [`Replica::snapshot_targets`](super::Replica::snapshot_targets)
    /// says that it is not wanted any more. When all files have been read, that tells the targets.
    SendSnapshot {
        /// To whom.
        to: NodeId,
        /// What it consists of.
        head: SnapshotHead,
    },
    /// Put a snapshot in the place of all databases, of the log and of the manifest, in this order:
    /// await all writes to the log; save a manifest with an empty log behind the snapshot's base
    /// and with its databases; remove the databases that are open; bring its files to their
    /// names. Answered by [`Input::SnapshotInstalled`]. A crash leaves either the old state or, once
    /// the manifest is saved, one from which a start finishes the rest.
    InstallSnapshot {
        /// What it consists of.
        head: SnapshotHead,
    },
    /// What has become of the snapshot that [`Input::SnapshotArrived`] told of.
    SnapshotEnded {
        /// What.
        outcome: SnapshotOutcome,
    },
    /// Undo what did not commit; answered by [`Input::RolledBack`].
    RollBack {
        /// In which database.
        database: DatabaseId,
        /// Its state at the commit index.
        to: CommitPoint,
    },
    /// Hash a database and answer the request.
    Digest {
        /// Who asked.
        request: RequestId,
        /// Which database.
        database: DatabaseId,
        /// Which state of it.
        at: CommitPoint,
        /// The applied index of that state.
        applied: LogIndex,
    },
    /// Answer a client.
    Reply {
        /// Which request.
        request: RequestId,
        /// The answer.
        reply: Result<Reply, Error>,
    },
    /// Send a message, held back until `after` is persisted.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// What must be on stable storage first.
        after: Option<IoId>,
    },
    /// Save term and vote durably; answered by [`Input::Persisted`].
    SaveHardState {
        /// Its id.
        io: IoId,
        /// What to save.
        hard_state: HardState,
    },
    /// Append to the log durably; answered by [`Input::Persisted`].
    Append {
        /// Its id.
        io: IoId,
        /// The log is void from here on, before the append.
        truncate_from: Option<LogIndex>,
        /// The entries.
        entries: Vec<Entry>,
        /// What its records may say of the commit index.
        commit: LogIndex,
    },
    /// Read entries from the log for a peer; answered by [`Input::EntriesRead`].
    ReadEntries {
        /// For whom.
        peer: NodeId,
        /// The first.
        from: LogIndex,
        /// The last.
        up_to: LogIndex,
        /// About how many bytes at once.
        bytes_max: usize,
    },
    /// The members are these: messages go to them.
    SetMembers {
        /// All of them, this node included if it is one.
        members: Vec<Member>,
    },
    /// The node must stop: it cannot go on without lying.
    Halt {
        /// Why, as a sentence.
        reason: String,
    },
}

/// Where a replica stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// The node itself.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Who leads and serves, as far as this node knows.
    pub leader: Option<NodeAddress>,
    /// The commit index.
    pub commit: LogIndex,
    /// The applied index.
    pub applied: LogIndex,
    /// The last index of its log.
    pub last: LogIndex,
    /// The last index of its log that is on stable storage.
    pub durable: LogIndex,
    /// What it may have acknowledged and does not hold, because its log was damaged: it is being
    /// repaired from the leader, and until then it does not campaign and votes for no shorter log.
    pub debt: Option<Debt>,
    /// This node leads and may answer linearizable reads without asking anybody, for now.
    pub lease: bool,
    /// Whether the node was removed from the cluster: it serves nobody any more.
    pub removed: bool,
    /// The members of the cluster by the newest configuration in the node's log.
    pub members: Vec<MemberStatus>,
    /// Whether that configuration is known to be committed.
    pub members_committed: bool,
    /// The databases, by name.
    pub databases: Vec<String>,
    /// Sessions with an open database.
    pub sessions: usize,
}

//! What goes into a replica and what comes out of it.

use crate::config::HardState;
use crate::entry::{Entry, LogBase};
use crate::membership::Configuration;
use crate::message::Message;
use crate::status::Role;
use crate::types::{IoId, LogIndex, NodeId, ReadId, Term};

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// One tick of the clock passed. With leases on, the ticks that have passed when a turn begins
    /// must come before the other inputs of that turn; see
    /// [`Config::lease_ticks`](crate::Config::lease_ticks).
    Tick,
    /// A peer sent a message. Messages may be lost, delayed, repeated and reordered.
    Receive {
        /// The peer, as its connection names it.
        from: NodeId,
        /// What it said.
        message: Message,
    },
    /// Everything with an id up to and including `io` is on stable storage. Out-of-order
    /// completions must be held back until the gap closes.
    Persisted {
        /// The end of the contiguous prefix of completed operations.
        io: IoId,
    },
    /// A linearizable read wants to know the index it must see (thesis, 6.4). Answered by
    /// [`Effect::ReadReady`]; a replica that does not lead drops it.
    ReadIndex {
        /// The request.
        id: ReadId,
    },
    /// The connection with a peer was reset, as happens when its process is killed.
    PeerLost {
        /// The peer.
        peer: NodeId,
    },
    /// The caller needs the entries up to here no longer, and neither does a restart: the log
    /// begins behind `up_to` from now on. At most what is applied and durable here. A member that
    /// lacks some of it will need a snapshot.
    Cut {
        /// The new base.
        up_to: LogIndex,
    },
    /// Storage answers an [`Effect::ReadEntries`], perhaps with a shorter prefix. An empty answer
    /// means that nothing could be read now; the request is repeated after a tick.
    EntriesRead {
        /// The peer that the entries are for.
        peer: NodeId,
        /// Contiguous, from the requested index on.
        entries: Vec<Entry>,
    },
    /// The end of what [`Effect::SendSnapshot`] asked for.
    SnapshotSent {
        /// The peer.
        peer: NodeId,
        /// What became of it.
        result: SnapshotResult,
    },
    /// A snapshot has taken the place of everything here, durably: files, manifest, log. Allowed by
    /// [`Raft::begin_install`](crate::Raft::begin_install) before. The log is empty behind `base`
    /// from now on, everything up to there is committed and applied, and the hard state stays as
    /// it is.
    Installed {
        /// The last entry that the snapshot covers, the same as when the installation began.
        base: LogBase,
        /// The members as of that entry.
        configuration: Configuration,
    },
}

/// What became of a snapshot on its way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotResult {
    /// The peer has installed it, or holds everything up to there already. The leader goes on with
    /// the entries behind it.
    Installed {
        /// The last index that the snapshot covers.
        base: LogIndex,
    },
    /// It did not get through. The peer is probed again after a heartbeat, and if it still needs a
    /// snapshot, that is asked for again.
    Failed,
}

/// How a transfer of leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferOutcome {
    /// This replica leads no longer. Who does comes with [`Effect::RoleChanged`], most likely the
    /// one who was chosen.
    SteppedDown,
    /// After one election timeout this replica still leads, and takes proposals again.
    Abandoned,
}

/// Something the runtime must do.
///
/// The effects of one turn come in the order of execution: messages that wait for nothing first,
/// then disk operations in the order of their ids, then messages that wait for one, then the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the hard state durable, in one write.
    SaveHardState {
        /// The operation.
        io: IoId,
        /// What to save.
        hard_state: HardState,
    },
    /// Make entries durable.
    Append {
        /// The operation.
        io: IoId,
        /// Entries at or above this index are void before the append.
        truncate_from: Option<LogIndex>,
        /// Contiguous, and following on the log as it then is.
        entries: Vec<Entry>,
    },
    /// Send a message to a peer. It may be lost.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to send.
        message: Message,
        /// The message must not leave before everything up to this operation is durable. After a
        /// crash it is void. `None`: send at once.
        after: Option<IoId>,
    },
    /// Entries up to this index are committed: they will never change and may be applied.
    ///
    /// They need not be durable in this node's own log yet, see
    /// [`Status::durable`](crate::Status::durable).
    Committed {
        /// The new commit index. It only grows.
        up_to: LogIndex,
    },
    /// A quorum confirmed this leadership after the read arrived. The read may be answered as soon
    /// as everything up to `index` is applied.
    ReadReady {
        /// The request.
        id: ReadId,
        /// At least every index whose commit was acknowledged before the request.
        index: LogIndex,
    },
    /// A peer needs entries that memory does not hold any more: read them from the log, answer with
    /// [`Input::EntriesRead`]. At most one request per peer is outstanding.
    ReadEntries {
        /// Who needs them.
        peer: NodeId,
        /// The first index wanted.
        from: LogIndex,
        /// The last index of use.
        up_to: LogIndex,
        /// About how many payload bytes to read; one entry at the least.
        bytes_max: usize,
    },
    /// The role, the term or the known leader changed.
    ///
    /// A replica that is no leader any more has forgotten its outstanding read requests: the caller
    /// fails them itself.
    RoleChanged {
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
    /// A peer needs what the log has no more: stream a snapshot to it, answer with
    /// [`Input::SnapshotSent`]. Until then the core does not ask again for this peer, unless it
    /// loses and regains leadership; if a stream to that peer is still under way then, go on with it.
    SendSnapshot {
        /// The peer.
        peer: NodeId,
    },
    /// The members changed, or a truncation took a change back: see
    /// [`Raft::configuration`](crate::Raft::configuration). They count from now on, although the
    /// entry need not be committed yet.
    ConfigurationChanged {
        /// The index of the entry that the configuration came with, or of the log's base.
        index: LogIndex,
    },
    /// A transfer of leadership that [`Raft::transfer`](crate::Raft::transfer) began has ended.
    TransferEnded {
        /// Who was to lead.
        to: NodeId,
        /// How it ended.
        outcome: TransferOutcome,
    },
}

//! Ringlite's consensus core and log format, without IO, clock, threads or randomness of its own.
//!
//! [`Raft`] is a state machine: [`Raft::step`] takes an [`Input`], [`Raft::take_effects`] hands out
//! once per turn what must be done, and every completion comes back as an input. The same replica
//! runs on real disks and in a simulator, where equal seeds give equal runs.
//!
//! ```
//! use ringlite_raft::{Config, Effect, HardState, Input, NodeId, Raft, RestoredLog};
//!
//! let config = Config::new(NodeId(1), vec![NodeId(1)], 42);
//! let mut raft = Raft::new(config, HardState::default(), RestoredLog::default())?;
//! // A sole voter campaigns at once; its vote counts when it is durable.
//! while !raft.status().serving {
//!     for effect in raft.take_effects() {
//!         if let Effect::SaveHardState { io, .. } | Effect::Append { io, .. } = effect {
//!             raft.step(Input::Persisted { io }); // here: after the write has completed
//!         }
//!     }
//! }
//! # Ok::<(), ringlite_raft::ConfigError>(())
//! ```
//!
//! # Parts
//! - the protocol: [`Raft`], [`Config`], [`Input`], [`Effect`], [`Status`];
//! - who belongs to a cluster: [`Configuration`], [`MembershipChange`];
//! - between peers: [`Message`] and its frames ([`encode`], [`frame_body_len`], [`decode`]);
//! - on disk: records ([`encode_record`], [`decode_record`]) and what a restart concludes from them
//!   ([`scan_segment`], [`recover`]).
//!
//! # Invariants
//! - Three kinds of trouble are kept apart: nonsense from a peer or a disk is dropped or a typed
//!   error; a bug of our own is an assertion, also in release builds; a failing environment is the
//!   runtime's matter.
//! - No vote and no acknowledgement leaves before the disk operation that it speaks of is durable.
//! - Deliberately absent: IO, clocks, threads, hash maps, unsafe code, generics over the caller.

#![forbid(unsafe_code)]

mod config;
mod debt;
mod effect;
mod entry;
#[cfg(test)]
mod hex;
mod io;
mod log;
mod membership;
mod message;
mod progress;
mod quorum;
mod raft;
mod random;
mod reads;
mod record;
mod recovery;
mod refusal;
mod status;
mod types;

pub use config::{Config, ConfigError, HardState, RestoredLog};
pub use debt::Debt;
pub use effect::{Effect, Input, SnapshotResult, TransferOutcome};
pub use entry::{Entry, EntryKind, LogBase, PAYLOAD_BYTES_MAX, TermRun};
pub use membership::{
    CONTEXT_BYTES_MAX, Configuration, ConfigurationError, MEMBERS_MAX, Member, MemberRole,
    MembershipChange,
};
pub use message::codec::{
    DecodeError, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FRAME_VERSION, decode, encode,
    frame_body_len,
};
pub use message::{AppendResult, Conflict, Message};
pub use progress::Mode;
pub use raft::Raft;
pub use record::{
    RECORD_ALIGN, RECORD_HEADER_BYTES, RECORD_VERSION, RecordError, RecordHeader, RecordIdentity,
    RecordPlace, decode_header, decode_record, encode_record, record_bytes,
};
pub use recovery::{
    Cut, Damage, DurableMark, Evidence, Fault, RecordPosition, RecoveredLog, RecoveryError,
    SegmentScan, recover, scan_segment,
};
pub use refusal::{ChangeError, InstallError, NotLeader, ProposeError, TransferError, Unfit};
pub use status::{Membership, PeerStatus, Role, Status};
pub use types::{IoId, LogIndex, NodeId, ReadId, Term};

//! What a replica can tell about itself.

use crate::debt::Debt;
use crate::membership::MemberRole;
use crate::progress::Mode;
use crate::types::{LogIndex, NodeId, Term};
use std::fmt;

/// What a replica is in its current term (Raft paper, 5.1; pre-candidate: thesis, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks whether it would win an election, without disturbing anybody.
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Role::Follower => "follower",
            Role::PreCandidate => "pre-candidate",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        })
    }
}

/// A view of a replica at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if known; this node itself when it leads.
    pub leader: Option<NodeId>,
    /// What is known to be committed.
    pub commit: LogIndex,
    /// The end of the log.
    pub last: LogIndex,
    /// How far this node's own log is durable.
    pub durable: LogIndex,
    /// The log begins behind this index.
    pub base: LogIndex,
    /// All voters and standbys, down or not, hold the log durably up to here, as far as this node
    /// knows: nobody will ask for what is at or below. A hint: it may fall when a member joins. It is
    /// never above `commit` or `durable`.
    pub matched_by_all: LogIndex,
    /// It leads and its no-op is committed, so that its commit index covers all earlier leaders'.
    pub serving: bool,
    /// What this node may have acknowledged and does not hold, because its log was damaged. Until it
    /// is repaired from the leader, the node does not campaign and votes for no shorter log.
    pub debt: Option<Debt>,
    /// Whether this node belongs to the cluster.
    pub membership: Membership,
    /// The index of the entry that the newest configuration came with, or of the base.
    pub configuration_index: LogIndex,
    /// To whom leadership is being transferred; proposals are refused meanwhile.
    pub transferring_to: Option<NodeId>,
    /// A disk operation is older than
    /// [`Config::disk_stall_ticks`](crate::Config::disk_stall_ticks): this node neither leads (other
    /// than alone), nor votes.
    pub disk_stalled: bool,
    /// Reads are answered without asking anybody, for now.
    pub lease: bool,
    /// How many inputs were dropped because no correct peer can have sent them.
    pub dropped: u64,
}

/// Whether a node belongs to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Membership {
    /// By the newest configuration that it knows of.
    Member(MemberRole),
    /// Not by the newest configuration that it knows of: it was not added yet, or that was too long
    /// ago to tell.
    Outside,
    /// It was a member, and its removal is committed.
    Removed,
}

/// What a leader knows about another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// Its role by the newest configuration.
    pub role: MemberRole,
    /// How the log is sent to it. Without meaning for a spare, which gets none.
    pub mode: Mode,
    /// What it is known to hold durably.
    pub matched: LogIndex,
    /// Ticks since it last answered, or since this node began to lead.
    pub silent_ticks: u32,
}

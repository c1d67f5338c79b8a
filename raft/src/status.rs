//! What a replica can tell about itself.

use crate::debt::Debt;
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
    /// Every member holds the log durably up to here, as far as this node knows: the log may be cut
    /// there. It only grows within a life, and is never above `commit` or `durable`. A member that
    /// is down holds it back, as there is no other way yet to give it what it lacks.
    pub matched_by_all: LogIndex,
    /// It leads and its no-op is committed, so that its commit index covers all earlier leaders'.
    pub serving: bool,
    /// What this node may have acknowledged and does not hold, because its log was damaged. Until it
    /// is repaired from the leader, the node does not campaign and votes for no shorter log.
    pub debt: Option<Debt>,
    /// How many inputs were dropped because no correct peer can have sent them.
    pub dropped: u64,
}

/// This replica does not lead; nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead{}", leader_clause(.leader))]
pub struct NotLeader {
    /// Who does, if known.
    pub leader: Option<NodeId>,
}

fn leader_clause(leader: &Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("; {leader} does"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_leader_is_a_sentence() {
        let known = NotLeader {
            leader: Some(NodeId(2)),
        };
        assert_eq!(known.to_string(), "this node does not lead; n2 does");
        assert_eq!(
            NotLeader { leader: None }.to_string(),
            "this node does not lead"
        );
    }
}

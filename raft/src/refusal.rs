//! Why a replica does not do what it is asked for. Nothing has changed then.

use crate::membership::ConfigurationError;
use crate::types::{LogIndex, NodeId, Term};

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

/// Why nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This replica does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// Leadership is being transferred. If that fails, proposals are taken again after one election
    /// timeout at the most.
    #[error("leadership is being transferred to {to}")]
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
}

/// Why a member is not fit to be made a voter or leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It has not answered within the shortest election timeout.
    #[error("{id} has not been heard from for {silent_ticks} ticks")]
    Silent {
        /// The member.
        id: NodeId,
        /// For how long, in ticks.
        silent_ticks: u32,
    },
    /// It lacks too much of the log.
    #[error(
        "{id} holds the log up to {matched} only, and the end is {last}: let it catch up first"
    )]
    Lagging {
        /// The member.
        id: NodeId,
        /// What it is known to hold durably.
        matched: LogIndex,
        /// The end of the leader's log.
        last: LogIndex,
    },
}

/// Why the members do not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// This replica does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// No entry of this leader's own term is committed yet. Until then an earlier leader's change
    /// may still come to light (Ongaro, raft-dev, 2015).
    #[error("this node has only just become leader: try again when it serves")]
    NotServing,
    /// There is one change at a time.
    #[error("the change of members at {index} is not committed yet: try again later")]
    InProgress {
        /// The index of that change.
        index: LogIndex,
    },
    /// Leadership is being transferred.
    #[error("leadership is being transferred to {to}: ask the new leader")]
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
    /// The member cannot vote yet.
    #[error("the member cannot be made a voter: {0}")]
    Unfit(#[from] Unfit),
    /// The change makes no sense.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
}

/// Why leadership is not transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This replica does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// Another transfer is under way.
    #[error("leadership is being transferred to {to} already")]
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
    /// Only another voter can lead.
    #[error("{to} is not another voter of this cluster")]
    NotAVoter {
        /// Who was to lead.
        to: NodeId,
    },
    /// No other voter is fit to lead.
    #[error("no other voter is in touch and has caught up")]
    Nobody,
    /// The chosen voter is not fit to lead.
    #[error("leadership cannot be transferred: {0}")]
    Unfit(#[from] Unfit),
}

/// Why a snapshot must not be installed here, or not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// This replica leads or stands for election.
    #[error("this node is no follower")]
    NotAFollower,
    /// The log goes as far as the snapshot, and further: nothing is missing here, and something
    /// might get lost. Throw the snapshot away.
    #[error("this node has everything up to {base} already")]
    NotNeeded {
        /// The last index that the snapshot covers.
        base: LogIndex,
    },
    /// The hard state must be at the snapshot's term first, durably; else a crash after the
    /// installation would leave a log that is ahead of it. The next heartbeat brings that about:
    /// try again.
    #[error("the snapshot ends in {snapshot}, and this node's hard state is not durable there yet")]
    TermNotDurable {
        /// The term of the last entry that the snapshot covers.
        snapshot: Term,
    },
    /// One is being installed.
    #[error("a snapshot up to {base} is being installed already")]
    Installing {
        /// The last index that it covers.
        base: LogIndex,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_sentences() {
        let leader = Some(NodeId(2));
        let not_leader = NotLeader { leader };
        assert_eq!(not_leader.to_string(), "this node does not lead; n2 does");
        let nobody = ProposeError::from(NotLeader { leader: None });
        assert_eq!(nobody.to_string(), "this node does not lead");
        let lagging = Unfit::Lagging {
            id: NodeId(3),
            matched: LogIndex(4),
            last: LogIndex(90),
        };
        assert_eq!(
            ChangeError::from(lagging).to_string(),
            "the member cannot be made a voter: n3 holds the log up to i4 only, and the end is i90: \
             let it catch up first"
        );
    }
}

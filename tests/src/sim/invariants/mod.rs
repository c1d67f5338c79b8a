//! What must be true at every moment of every run, a file for each.
//!
//! | property | source | file |
//! |---|---|---|
//! | at most one leader per term; one vote per node and term | paper, 5.2 | `election_safety` |
//! | equal index and term: equal entry, and equal before | paper, 5.3 | `log_matching` |
//! | a leader holds all that was committed | paper, 5.4 | `leader_completeness` |
//! | nodes commit the same entries | paper, 5.4.3 | `state_machine_safety` |
//! | what is committed is durable on a majority | design, promise 1 | `durable_quorum` |
//! | terms never fall, also over restarts; nor does a commit index in one life | `monotone` | `monotone` |
//! | an acknowledgement of entries speaks of what is durable | design, section 6 | `acknowledged_entries` |
//! | what a log is cut behind is durable on all, or out of the window | ARCHITECTURE.md | `kept_log` |
//! | a damaged node keeps what it promised with its whole log | design, promise 5 | `kept_promises` |
//! | equal applied index: equal bytes | design, promise 4 | `identical_databases` |
//! | what was acknowledged to a client stays | design, promise 1 | `acknowledged_writes` |
//! | what was refused, or never sent, is never seen | design, section 4 | `no_phantom` |
//! | a read sees all that was told to anybody before it was asked | design, promise 2 | `fresh_reads` |
//! | short histories of registers are linearizable | design, promise 2 | `linearizable` |

pub(crate) mod acknowledged_entries;
pub(crate) mod acknowledged_writes;
pub(crate) mod durable_quorum;
pub(crate) mod election_safety;
pub(crate) mod fresh_reads;
pub(crate) mod identical_databases;
pub(crate) mod kept_log;
pub(crate) mod kept_promises;
pub(crate) mod leader_completeness;
pub(crate) mod linearizable;
pub(crate) mod log_matching;
pub(crate) mod monotone;
pub(crate) mod no_phantom;
pub(crate) mod state_machine_safety;

/// All that the checkers of the log remember about a run.
#[derive(Default)]
pub(crate) struct Invariants {
    pub(crate) elections: election_safety::Elections,
    pub(crate) candidacies: kept_promises::Candidacies,
    pub(crate) entries: log_matching::Entries,
    pub(crate) committed: state_machine_safety::Committed,
    pub(crate) seen: monotone::Seen,
}

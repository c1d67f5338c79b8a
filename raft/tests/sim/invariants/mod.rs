//! What must be true at every moment of every run.
//!
//! | property | source | file |
//! |---|---|---|
//! | at most one leader per term; one vote per node and term | paper, 5.2 | `election_safety` |
//! | equal index and term: equal entry, and equal before | paper, 5.3 | `log_matching` |
//! | a leader holds all that was committed | paper, 5.4 | `leader_completeness` |
//! | nodes apply the same entries | paper, 5.4.3 | `state_machine_safety` |
//! | what is committed is durable on a majority of the voters | design, promise 1 | `durable_quorum` |
//! | terms never fall, also over restarts; nor does a commit index in one life | `monotone` |
//! | a read sees all that was acknowledged before it began | thesis, 6.4 | `fresh_reads` |

pub(crate) mod durable_quorum;
pub(crate) mod election_safety;
pub(crate) mod fresh_reads;
pub(crate) mod leader_completeness;
pub(crate) mod log_matching;
pub(crate) mod monotone;
pub(crate) mod state_machine_safety;

/// All that the checkers remember about a run.
#[derive(Default)]
pub(crate) struct Invariants {
    pub(crate) elections: election_safety::Elections,
    pub(crate) entries: log_matching::Entries,
    pub(crate) committed: state_machine_safety::Committed,
    pub(crate) seen: monotone::Seen,
}

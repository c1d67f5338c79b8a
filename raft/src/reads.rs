//! Linearizable reads that wait for a proof of leadership (thesis, 6.4).
//!
//! Every turn with reads has a heartbeat round of its own, and a round number is never used twice
//! by one leader (etcd #20418 reused one over a retry and served stale data). A follower's echo of
//! a round proves that it still followed this leader after all reads of earlier rounds had arrived.

use crate::types::{LogIndex, ReadId};
use std::collections::VecDeque;

#[derive(Clone, Debug)]
struct Batch {
    round: u64,
    index: LogIndex,
    ids: Vec<ReadId>,
}

/// The outstanding reads of a leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    /// Arrived in this turn, or before the leader's no-op was committed.
    arrived: Vec<ReadId>,
    /// Waiting for their round, in order of rounds.
    batches: VecDeque<Batch>,
}

impl Reads {
    pub(crate) fn push(&mut self, id: ReadId) {
        self.arrived.push(id);
    }

    pub(crate) fn has_arrivals(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Those that arrived, for who can answer them at once.
    pub(crate) fn take_arrivals(&mut self) -> Vec<ReadId> {
        std::mem::take(&mut self.arrived)
    }

    /// The reads that arrived wait for `round`; `index` is the commit index now.
    pub(crate) fn start_round(&mut self, round: u64, index: LogIndex) {
        let ids = std::mem::take(&mut self.arrived);
        if !ids.is_empty() {
            assert!(self.batches.back().is_none_or(|batch| batch.round < round));
            self.batches.push_back(Batch { round, index, ids });
        }
    }

    /// A quorum has echoed `round`: takes the reads that it answers.
    pub(crate) fn confirm(&mut self, round: u64) -> Vec<(ReadId, LogIndex)> {
        let mut ready = Vec::new();
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.round <= round)
        {
            if let Some(Batch { index, ids, .. }) = self.batches.pop_front() {
                ready.extend(ids.into_iter().map(|id| (id, index)));
            }
        }
        ready
    }

    pub(crate) fn clear(&mut self) {
        *self = Reads::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_answers_the_reads_that_came_before_it_and_no_others() {
        let mut reads = Reads::default();
        reads.push(ReadId(1));
        reads.push(ReadId(2));
        reads.start_round(5, LogIndex(7));
        reads.push(ReadId(3));
        reads.start_round(6, LogIndex(8));
        reads.push(ReadId(4));
        assert_eq!(reads.confirm(4), []);
        assert_eq!(
            reads.confirm(5),
            [(ReadId(1), LogIndex(7)), (ReadId(2), LogIndex(7))]
        );
        assert_eq!(reads.confirm(9), [(ReadId(3), LogIndex(8))]);
        assert!(reads.has_arrivals());
    }
}

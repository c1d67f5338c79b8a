//! At most one leader per term, and one vote per node and term.

use std::collections::BTreeMap;

use ringlite_raft::{HardState, NodeId, Term};

#[derive(Default)]
pub(crate) struct Elections {
    leaders: BTreeMap<Term, usize>,
    votes: BTreeMap<(usize, Term), NodeId>,
}

impl Elections {
    /// Returns whether this is news.
    pub(crate) fn leads(&mut self, node: usize, term: Term) -> bool {
        let before = self.leaders.len();
        let leader = *self.leaders.entry(term).or_insert(node);
        assert_eq!(leader, node, "two leaders in {term}");
        self.leaders.len() > before
    }

    /// A granted vote left the node.
    pub(crate) fn voted(&mut self, voter: usize, term: Term, candidate: NodeId) {
        let vote = *self.votes.entry((voter, term)).or_insert(candidate);
        assert_eq!(vote, candidate, "node {voter} voted twice in {term}");
    }

    /// What a node that starts again knows of its vote.
    pub(crate) fn restarted(&self, voter: usize, found: HardState) {
        if let Some(candidate) = self.votes.get(&(voter, found.term)) {
            assert_eq!(found.vote, Some(*candidate), "node {voter} forgot its vote");
        }
    }
}

//! Terms never fall, not even over a restart; a commit index never falls within one life.

use ringlite_raft::{LogIndex, Status, Term};
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Seen {
    /// What a node had made durable or said to others, so that it must survive.
    terms_said: BTreeMap<usize, Term>,
    life: BTreeMap<usize, (Term, LogIndex)>,
}

impl Seen {
    pub(crate) fn said(&mut self, node: usize, term: Term) {
        let said = self.terms_said.entry(node).or_default();
        *said = term.max(*said);
    }

    pub(crate) fn step(&mut self, node: usize, status: &Status) {
        let (term, commit) = *self.life.get(&node).unwrap_or(&(Term(0), LogIndex::ZERO));
        assert!(status.term >= term, "the term of node {node} fell");
        assert!(
            status.commit >= commit,
            "the commit index of node {node} fell"
        );
        self.life.insert(node, (status.term, status.commit));
    }

    pub(crate) fn restarted(&mut self, node: usize, term: Term) {
        let said = self.terms_said.get(&node).copied().unwrap_or_default();
        assert!(term >= said, "node {node} forgot {said} over a restart");
        self.life.remove(&node);
    }
}

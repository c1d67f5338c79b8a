//! Terms never fall, not even over a restart; a commit index never falls within one life.

use std::collections::BTreeMap;

use ringlite_raft::LogIndex;

#[derive(Default)]
pub(crate) struct Seen {
    /// What a node has said to others, so that it must survive.
    terms_said: BTreeMap<usize, u64>,
    life: BTreeMap<usize, (u64, LogIndex)>,
}

impl Seen {
    pub(crate) fn said(&mut self, node: usize, term: u64) {
        let said = self.terms_said.entry(node).or_default();
        *said = term.max(*said);
    }

    pub(crate) fn step(&mut self, node: usize, term: u64, commit: LogIndex) {
        let (term_before, commit_before) = self.life.get(&node).copied().unwrap_or_default();
        assert!(term >= term_before, "the term of node {node} fell");
        assert!(
            commit >= commit_before,
            "the commit index of node {node} fell"
        );
        self.life.insert(node, (term, commit));
    }

    pub(crate) fn restarted(&mut self, node: usize, term: u64) {
        let said = self.terms_said.get(&node).copied().unwrap_or_default();
        assert!(
            term >= said,
            "node {node} forgot term {said} over a restart"
        );
        self.life.remove(&node);
    }
}

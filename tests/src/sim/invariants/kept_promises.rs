//! A node whose log was damaged speaks neither as if it still had what it has lost, nor as if it had
//! never had it: it stands for no election, and votes for no log that ends below what its own was.

use std::collections::BTreeMap;

use ringlite_raft::{Debt, Term};

use crate::sim::disk::Disk;

#[derive(Default)]
pub(crate) struct Candidacies {
    /// Where the log of a candidate ended.
    ends: BTreeMap<(usize, Term), Debt>,
}

impl Candidacies {
    /// A node asks for votes.
    pub(crate) fn stands(&mut self, disk: &Disk, candidate: usize, term: Term, end: Debt) {
        if let Some(lost) = disk.lost_end() {
            panic!("node {candidate} stands in {term}, but has lost its log up to {lost}");
        }
        self.ends.insert((candidate, term), end);
    }

    /// A granted vote leaves a node.
    pub(crate) fn voted(&self, disk: &Disk, voter: usize, term: Term, candidate: usize) {
        let end = self.ends.get(&(candidate, term)).copied();
        assert!(
            end >= disk.lost_end(),
            "node {voter} votes in {term} for a log that ends at {end:?}, but has lost its own up to {:?}",
            disk.lost_end()
        );
    }
}

//! No two nodes commit different entries at one index, nor one node at two times.

use ringlite_raft::{LogIndex, Term};

use crate::sim::disk::Held;

/// The committed log: whoever commits an index first fixes it for everybody.
#[derive(Default)]
pub(crate) struct Committed {
    entries: Vec<Held>,
    /// In which term, at the latest.
    terms: Vec<Term>,
}

impl Committed {
    /// A node of this term knows that. Returns whether the index is committed for the first time anywhere.
    pub(crate) fn commits(&mut self, index: LogIndex, entry: Held, term: Term) -> bool {
        let position = index.0 as usize - 1;
        if let Some(known) = self.entries.get(position) {
            assert_eq!(
                *known, entry,
                "two different entries were committed at {index}"
            );
            return false;
        }
        assert_eq!(position, self.entries.len(), "an index was skipped");
        self.entries.push(entry);
        self.terms.push(term);
        true
    }

    /// What was committed before a term, from `first` on.
    pub(crate) fn before(
        &self,
        term: Term,
        first: LogIndex,
    ) -> impl Iterator<Item = (LogIndex, Held)> {
        let terms = self.terms.iter().skip(first.0 as usize - 1);
        let committed = self.from(first).zip(terms);
        let earlier = committed.filter(move |(_, committed_in)| **committed_in < term);
        earlier.map(|(entry, _)| entry)
    }

    /// What is committed from `first` on.
    pub(crate) fn from(&self, first: LogIndex) -> impl Iterator<Item = (LogIndex, Held)> {
        let indexes = (first.0..).map(LogIndex);
        let entries = self.entries.iter().skip(first.0 as usize - 1).copied();
        indexes.zip(entries)
    }
}

//! Two entries with equal index and term are equal, and so are the entries before them. It is
//! enough to compare each entry and the term before it: the rest follows by induction.

use ringlite_raft::{Entry, LogIndex, Term};
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Entries {
    known: BTreeMap<(LogIndex, Term), (Entry, Term)>,
}

impl Entries {
    /// A node appended this entry behind one of `term_before`.
    pub(crate) fn appended(&mut self, entry: &Entry, term_before: Term) {
        let key = (entry.index, entry.term);
        let known = self
            .known
            .entry(key)
            .or_insert_with(|| (entry.clone(), term_before));
        assert_eq!(
            known.0, *entry,
            "two entries at {} {}",
            entry.index, entry.term
        );
        assert_eq!(
            known.1, term_before,
            "two histories before {} {}",
            entry.index, entry.term
        );
    }
}

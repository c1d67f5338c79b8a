//! Two entries with equal index and term are equal, and so are the entries before them. It is
//! enough to compare each entry and the term before it: the rest follows by induction.

use std::collections::BTreeMap;

use ringlite_raft::{LogIndex, Term};

use crate::sim::disk::Held;

#[derive(Default)]
pub(crate) struct Entries {
    known: BTreeMap<(LogIndex, Term), (Held, Term)>,
}

impl Entries {
    /// A node appended this entry behind one of `term_before`.
    pub(crate) fn appended(&mut self, index: LogIndex, entry: Held, term_before: Term) {
        let new = (entry, term_before);
        let known = *self.known.entry((index, entry.term)).or_insert(new);
        assert_eq!(known.0, entry, "two entries at {index} {}", entry.term);
        assert_eq!(
            known.1, term_before,
            "two histories before {index} {}",
            entry.term
        );
    }
}

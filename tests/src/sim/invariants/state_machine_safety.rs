//! No two nodes commit different entries at one index, nor one node at two times.

use ringlite_raft::LogIndex;

use crate::sim::disk::Held;

/// The committed log: whoever commits an index first fixes it for everybody.
#[derive(Default)]
pub(crate) struct Committed {
    entries: Vec<Held>,
}

impl Committed {
    /// Returns whether the index is committed for the first time anywhere.
    pub(crate) fn commits(&mut self, index: LogIndex, entry: Held) -> bool {
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
        true
    }

    /// What is committed from `first` on.
    pub(crate) fn from(&self, first: LogIndex) -> impl Iterator<Item = (LogIndex, Held)> {
        let indexes = (first.0..).map(LogIndex);
        let entries = self.entries.iter().skip(first.0 as usize - 1).copied();
        indexes.zip(entries)
    }
}

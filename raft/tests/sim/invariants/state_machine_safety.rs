//! No two nodes apply different entries at one index, nor one node at two times.

use ringlite_raft::Entry;

/// The committed log: whoever applies an index first fixes it for everybody.
#[derive(Default)]
pub(crate) struct Committed {
    pub(crate) entries: Vec<Entry>,
}

impl Committed {
    /// Returns whether the index is applied for the first time anywhere.
    pub(crate) fn applied(&mut self, entry: &Entry) -> bool {
        let position = entry.index.0 as usize - 1;
        match self.entries.get(position) {
            Some(known) => {
                assert_eq!(known, entry, "two different entries were applied");
                false
            }
            None => {
                assert_eq!(position, self.entries.len(), "an index was skipped");
                self.entries.push(entry.clone());
                true
            }
        }
    }
}

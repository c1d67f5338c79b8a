//! What a log held durably and has lost to damage, for the checkers: the node may have acknowledged it,
//! and must not speak as if it still had it, nor as if it had never had it.

use std::collections::BTreeMap;

use ringlite_raft::{Debt, LogIndex};

use super::Held;

#[derive(Default)]
pub(super) struct Lost {
    entries: BTreeMap<LogIndex, Held>,
    /// The end of the log that held them.
    end: Option<Debt>,
}

impl Lost {
    /// These are gone, from the end of the log.
    pub(super) fn lose(&mut self, entries: BTreeMap<LogIndex, Held>) {
        let end = entries.last_key_value().map(|(index, held)| Debt {
            term: held.term,
            index: *index,
        });
        self.end = self.end.max(end);
        self.entries.extend(entries);
    }

    /// The log ends there durably: from there on it says by itself what was promised.
    pub(super) fn ends(&mut self, end: Debt) {
        if self.end.is_some_and(|lost| lost <= end) {
            *self = Lost::default();
        }
    }

    pub(super) fn end(&self) -> Option<Debt> {
        self.end
    }

    pub(super) fn has(&self, index: LogIndex, entry: Held) -> bool {
        self.entries.get(&index) == Some(&entry)
    }
}

//! The log that the disk will hold once it has done all that it was told.

use std::collections::BTreeMap;

use ringlite_raft::{Configuration, Entry, EntryKind, LogBase, LogIndex, Term};

use super::disk::Held;

/// An entry as a node was told to append it: its index, what it is, and the term before it.
pub(crate) type Appended = (LogIndex, Held, Term);

/// What a node was told to append, and what it knows of its members by that.
#[derive(Default)]
pub(crate) struct ToldLog {
    pub(crate) base: LogBase,
    pub(crate) entries: BTreeMap<LogIndex, Held>,
    /// The bytes of all records that the replica has seen in this life, and what they were up to each.
    total_bytes: u64,
    totals: BTreeMap<LogIndex, u64>,
    /// The members from each of these entries on.
    configurations: BTreeMap<LogIndex, Configuration>,
}

impl ToldLog {
    pub(super) fn append(
        &mut self,
        truncate_from: Option<LogIndex>,
        entries: &[Entry],
    ) -> Vec<Appended> {
        if let Some(from) = truncate_from {
            self.entries.split_off(&from);
            self.configurations.split_off(&from);
        }
        let mut appended = Vec::new();
        for entry in entries {
            let last = self.entries.last_key_value();
            let (last, before) = last.map_or((self.base.index, self.base.term), |(index, held)| {
                (*index, held.term)
            });
            assert_eq!(entry.index, last.next(), "an append leaves a gap");
            let held = Held::of(entry);
            self.entries.insert(entry.index, held);
            self.count(entry);
            self.note_members(entry);
            appended.push((entry.index, held, before));
        }
        appended
    }

    pub(super) fn count(&mut self, entry: &Entry) {
        self.total_bytes += ringlite_raft::record_bytes(entry.payload.len()) as u64;
        self.totals.insert(entry.index, self.total_bytes);
    }

    /// The bytes of the records behind an entry, as far as this life has seen them.
    pub(crate) fn bytes_behind(&self, index: LogIndex) -> u64 {
        let seen = self.totals.get(&index).copied();
        seen.map_or(self.total_bytes, |total| self.total_bytes - total)
    }

    pub(super) fn note_members(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::Configuration {
            let members = Configuration::decode(entry.payload.clone());
            let members = members.expect("a configuration");
            self.configurations.insert(entry.index, members);
        }
    }

    /// The members as of an entry, if the log reaches so far back.
    pub(crate) fn configuration_at(&self, index: LogIndex) -> Option<&Configuration> {
        let before = self.configurations.range(..=index).next_back();
        before.map(|(_, members)| members)
    }

    /// All later ones.
    pub(crate) fn configurations_behind(
        &self,
        index: LogIndex,
    ) -> impl Iterator<Item = &Configuration> {
        let later = self.configurations.range(index.next()..);
        later.map(|(_, members)| members)
    }

    /// The newest ones.
    pub(crate) fn configuration(&self) -> Option<&Configuration> {
        self.configurations.values().next_back()
    }

    /// Another log has taken its place: empty behind `base`, where the members are these.
    pub(super) fn replaced(&mut self, base: LogBase, members: Configuration) {
        *self = ToldLog {
            base,
            configurations: BTreeMap::from([(base.index, members)]),
            ..ToldLog::default()
        };
    }
}

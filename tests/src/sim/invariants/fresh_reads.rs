//! A read sees all that anybody was told before it was asked, and all see one history.

use std::collections::{BTreeMap, BTreeSet};

/// A register of one database, or a list.
pub(crate) type Register = (usize, u64);

/// Registers with versions: which write made which version, and the newest one that was told.
#[derive(Default)]
pub(crate) struct Versions {
    made_by: BTreeMap<(Register, i64), u64>,
    floors: BTreeMap<Register, i64>,
}

impl Versions {
    /// What a read that is asked now must show at least.
    pub(crate) fn floor(&self, register: Register) -> i64 {
        self.floors.get(&register).copied().unwrap_or(0)
    }

    /// A version was told by an answer to what was asked at `floor`.
    pub(crate) fn observe(&mut self, register: Register, floor: i64, version: i64, token: u64) {
        assert!(
            version >= floor,
            "register {register:?} is at {version}, but {floor} was known before"
        );
        let by = *self.made_by.entry((register, version)).or_insert(token);
        assert_eq!(
            by, token,
            "two histories: version {version} of register {register:?} was made twice"
        );
        let floor = self.floors.entry(register).or_insert(0);
        *floor = (*floor).max(version);
    }
}

/// Lists that are appended to: what they are known to begin with.
#[derive(Default)]
pub(crate) struct Lists {
    known: BTreeMap<Register, Vec<u64>>,
}

impl Lists {
    /// How long a list must be at least for a read that is asked now.
    pub(crate) fn floor(&self, list: Register) -> usize {
        self.known.get(&list).map_or(0, Vec::len)
    }

    /// A list was told by an answer to what was asked at `floor`.
    pub(crate) fn observe(&mut self, list: Register, floor: usize, found: &[u64]) {
        assert!(
            found.len() >= floor,
            "list {list:?} has {} elements, but {floor} were known before",
            found.len()
        );
        let distinct: BTreeSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), found.len(), "something was appended twice");
        let known = self.known.entry(list).or_default();
        let common = known.len().min(found.len());
        assert_eq!(
            known[..common],
            found[..common],
            "two histories of list {list:?}"
        );
        if found.len() > known.len() {
            known.extend_from_slice(&found[common..]);
        }
    }
}

//! What the clients were told, and what may therefore be seen by anybody.
//!
//! Each write carries a token of its own. A token that was acknowledged must be there for ever;
//! one that was refused must never be seen by anybody, before or after; one whose outcome is
//! unknown may be either.

use std::collections::{BTreeMap, BTreeSet};

/// What is known of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Asked, or about to be.
    Open,
    Acknowledged,
    Refused,
    /// The client was told that the outcome is unknown, or nothing at all.
    Unknown,
}

/// A register of one database: its version, and the token of the write that made it.
pub(crate) type Register = (usize, u64);

#[derive(Default)]
pub(crate) struct Oracle {
    fates: BTreeMap<u64, Fate>,
    next_token: u64,
    seen: BTreeSet<u64>,
    /// Which write made which version.
    versions: BTreeMap<(Register, i64), u64>,
    /// The newest version that anybody was told.
    floors: BTreeMap<Register, i64>,
    /// Rows that somebody was told to exist: by a constraint error, or by an acknowledgement.
    rows: BTreeSet<(usize, u64)>,
    /// The digests of each database at each applied index.
    digests: BTreeMap<(String, u64), String>,
    /// The newest databases that clients have asked for, besides the first ones.
    pub(crate) extra_databases: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    pub(crate) constraint_errors: u64,
    /// Databases that somebody was told to be dropped, and files to be restored.
    pub(crate) drops: u64,
    pub(crate) restores: u64,
}

impl Oracle {
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.fates.insert(self.next_token, Fate::Open);
        self.next_token
    }

    pub(crate) fn newest_token(&self) -> u64 {
        self.next_token
    }

    pub(crate) fn acknowledge(&mut self, token: u64) {
        self.acknowledged += 1;
        self.decide(token, Fate::Acknowledged);
    }

    pub(crate) fn refuse(&mut self, token: u64) {
        self.refused += 1;
        assert!(
            !self.seen.contains(&token),
            "{token} was refused after somebody had seen it"
        );
        self.decide(token, Fate::Refused);
    }

    pub(crate) fn leave_unknown(&mut self, token: u64) {
        self.unknown += 1;
        self.decide(token, Fate::Unknown);
    }

    pub(crate) fn is_open(&self, token: u64) -> bool {
        self.fates.get(&token) == Some(&Fate::Open)
    }

    fn decide(&mut self, token: u64, fate: Fate) {
        let before = self.fates.insert(token, fate);
        assert_eq!(before, Some(Fate::Open), "{token} was decided twice");
    }

    /// Somebody was shown what `token` has written.
    pub(crate) fn see(&mut self, token: u64) {
        self.seen.insert(token);
        match self.fates.get(&token) {
            None => panic!("{token} was seen, but never sent"),
            Some(Fate::Refused) => panic!("{token} was seen after it had been refused"),
            Some(_) => {}
        }
    }

    /// What a read that begins now must show at least.
    pub(crate) fn floor(&self, register: Register) -> i64 {
        self.floors.get(&register).copied().unwrap_or(0)
    }

    /// A version of a register was told by an answer to what was asked at `floor`.
    pub(crate) fn observe(&mut self, register: Register, floor: i64, version: i64, token: u64) {
        assert!(
            version >= floor,
            "register {register:?} is at {version}, but {floor} was known before"
        );
        if token != 0 {
            self.see(token);
        }
        let by = *self.versions.entry((register, version)).or_insert(token);
        assert_eq!(
            by, token,
            "two histories: version {version} of register {register:?} was made twice"
        );
        let floor = self.floors.entry(register).or_insert(0);
        *floor = (*floor).max(version);
    }

    /// Somebody was told that a row exists.
    pub(crate) fn row_exists(&mut self, database: usize, row: u64) {
        self.rows.insert((database, row));
    }

    pub(crate) fn rows_that_exist(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.rows.iter().copied()
    }

    /// At the end: exactly these tokens are in the databases.
    pub(crate) fn check_all(&mut self, found: &BTreeSet<u64>) {
        for token in found {
            self.see(*token);
        }
        for (token, fate) in &self.fates {
            assert_ne!(*fate, Fate::Open, "{token} was never decided");
            assert!(
                *fate != Fate::Acknowledged || found.contains(token),
                "{token} was acknowledged, and is lost"
            );
        }
    }

    /// A node has this digest at this index.
    pub(crate) fn digest(&mut self, database: &str, applied: u64, digest: &str) {
        let known = self
            .digests
            .entry((database.to_owned(), applied))
            .or_insert_with(|| digest.to_owned());
        assert_eq!(
            known, digest,
            "replicas of {database} differ at index {applied}"
        );
    }

    pub(crate) fn digests_taken(&self) -> usize {
        self.digests.len()
    }
}

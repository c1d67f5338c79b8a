//! What the clients were told, and what may therefore be seen by anybody.
//!
//! Each write carries a token of its own. A token that was acknowledged must be there for ever;
//! one that was refused must never be seen by anybody, before or after; one whose outcome is
//! unknown may be either.

use std::collections::{BTreeMap, BTreeSet};

use ringlite::Error;
use rusqlite::ffi;

use super::invariants::fresh_reads::{Lists, Versions};
use super::invariants::identical_databases::Digests;
use super::invariants::linearizable::Histories;
use super::invariants::{acknowledged_writes, no_phantom};
use super::tally::{Kind, Tally};

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

#[derive(Default)]
pub(crate) struct Oracle {
    fates: BTreeMap<u64, Fate>,
    next_token: u64,
    seen: BTreeSet<u64>,
    pub(crate) versions: Versions,
    pub(crate) lists: Lists,
    pub(crate) histories: Histories,
    pub(crate) digests: Digests,
    /// What is in the first of the databases that are written together, at the end.
    pairs: Vec<u64>,
    /// Rows that somebody was told to exist: by a constraint error, or by an acknowledgement.
    rows: BTreeSet<(usize, u64)>,
    /// The newest databases that clients have asked for, besides the first ones.
    pub(crate) extra_databases: u64,
    /// Files that somebody was told to be restored.
    pub(crate) restores: u64,
    pub(crate) tally: Tally,
    /// Whether files of databases are damaged, which is to be told.
    pub(crate) files_rot: bool,
}

impl Oracle {
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.fates.insert(self.next_token, Fate::Open);
        self.next_token
    }

    /// Whether an error tells of a damaged page, and there can be one.
    pub(crate) fn is_told_damage(&mut self, error: &Error) -> bool {
        let is_damage = matches!(
            error,
            Error::Sqlite {
                code: ffi::SQLITE_IOERR_DATA,
                ..
            } | Error::Misuse {
                code: ffi::SQLITE_IOERR,
                ..
            }
        );
        if is_damage && self.files_rot {
            self.tally.count(Kind::DamageTold);
        }
        is_damage && self.files_rot
    }

    /// A number that is used once and whose fate the histories keep.
    pub(crate) fn token_of_no_row(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn newest_token(&self) -> u64 {
        self.next_token
    }

    pub(crate) fn acknowledge(&mut self, token: u64) {
        self.tally.count(Kind::Acknowledged);
        self.decide(token, Fate::Acknowledged);
    }

    pub(crate) fn refuse(&mut self, token: u64) {
        self.tally.count(Kind::Refused);
        no_phantom::check_refused(token, self.seen.contains(&token));
        self.decide(token, Fate::Refused);
    }

    pub(crate) fn leave_unknown(&mut self, token: u64) {
        self.tally.count(Kind::Unknown);
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
        no_phantom::check_seen(token, self.fates.get(&token).copied());
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
        acknowledged_writes::check(&self.fates, found);
        let checked = self.histories.check();
        self.tally.add(Kind::HistoryChecked, checked);
    }

    /// What was written to both databases in one transaction is in both or in none.
    pub(crate) fn check_pairs(&mut self, database: usize, found: Vec<u64>) {
        match database {
            0 => self.pairs = found,
            _ => assert_eq!(self.pairs, found, "half a transaction"),
        }
    }

    /// The same where not everything can be read any more.
    pub(crate) fn check_histories(&mut self) {
        let checked = self.histories.check();
        self.tally.add(Kind::HistoryChecked, checked);
    }

    /// A node has this digest at this index.
    pub(crate) fn digest(&mut self, database: &str, applied: u64, digest: &str) {
        let compared = self.digests.observe(database, applied, digest);
        self.tally.add(Kind::Digest, u64::from(compared));
    }
}

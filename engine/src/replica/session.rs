//! A session as the replica sees it, and what it may do when.

use std::collections::VecDeque;

use super::catalogue::DatabaseId;
use super::gate::Held;
use super::long_runs::LongRun;
use super::request::{RequestId, Source, Standing, Work};
use crate::error::Error;

/// A session with an open database.
#[derive(Debug)]
pub(super) struct Session {
    /// Its own database, and those that it has attached.
    pub(super) databases: Vec<DatabaseId>,
    pub(super) standing: Standing,
    /// Counts its transactions, so that a reply that is released late confirms only its own.
    transaction: u64,
    /// Whether leadership was confirmed since the open transaction took its snapshot.
    confirmed: bool,
    /// Replies that wait at the gate.
    pub(super) held: u32,
    pub(super) last_active_tick: u64,
    /// Since when its connection has held a snapshot.
    pub(super) snapshot_since_tick: Option<u64>,
    /// Its run that left the core, and the requests that wait for that one.
    pub(super) long_run: Option<LongRun>,
    pub(super) waiting: VecDeque<(RequestId, Work)>,
    /// The request of which a part is committed already, while the rest of its script waits for a write
    /// lock. It must not be told that nothing was done.
    pub(super) partly_done: Option<RequestId>,
    /// Why the open transaction was ended without being asked; told once.
    pub(super) aborted: Option<Error>,
    /// Its end waits for that of the statement it was in.
    pub(super) is_closing: bool,
    /// What its next request is told when it has ended.
    pub(super) last_word: Option<Error>,
    /// Whether what runs may be more than one statement.
    is_script: bool,
    /// Whether its connection to the database is not made yet.
    pub(super) is_connecting: bool,
}

impl Session {
    pub(super) fn new(database: DatabaseId, now: u64) -> Self {
        Self {
            databases: vec![database],
            standing: Standing::default(),
            transaction: 0,
            confirmed: false,
            held: 0,
            last_active_tick: now,
            snapshot_since_tick: None,
            long_run: None,
            waiting: VecDeque::new(),
            partly_done: None,
            aborted: None,
            is_closing: false,
            last_word: None,
            is_script: false,
            is_connecting: true,
        }
    }

    /// Takes note of what is about to run.
    pub(super) fn runs(&mut self, work: &Work) {
        self.is_script = may_be_script(work);
    }

    /// Takes note of where its connection stands after a run; returns whether the run's snapshot
    /// needs a confirmation of leadership.
    pub(super) fn ran(&mut self, standing: Standing, now: u64) -> bool {
        self.snapshot_since_tick = match self.snapshot_since_tick {
            Some(since) if standing.has_snapshot && !self.is_script => Some(since),
            _ => standing.has_snapshot.then_some(now),
        };
        // A script can end the transaction and begin another one, which has a snapshot of its own.
        let goes_on = self.standing.in_transaction && standing.in_transaction && !self.is_script;
        let was_confirmed = self.standing.in_transaction && self.confirmed && !self.is_script;
        if self.standing.in_transaction && !goes_on {
            self.transaction += 1;
            self.confirmed = false;
        }
        self.standing = standing;
        !was_confirmed
    }

    /// The transaction that a reply given now belongs to, if it holds a snapshot.
    pub(super) fn snapshot_transaction(&self) -> Option<u64> {
        (self.standing.in_transaction && self.standing.has_snapshot).then_some(self.transaction)
    }

    /// A reply left the gate.
    pub(super) fn released(&mut self, held: &Held, now: u64) {
        self.held = self.held.saturating_sub(1);
        self.last_active_tick = now;
        if held.confirms_transaction == Some(self.transaction) {
            self.confirmed = true;
        }
    }
}

/// Whether `work` may be several statements. A semicolon in a literal or a comment counts as one
/// between statements, which costs a confirmation and no more.
fn may_be_script(work: &Work) -> bool {
    match work {
        Work::Execute(Source::Text { sql, from, .. }) => sql.get(*from..).is_none_or(|text| {
            text.trim_end_matches(|c: char| c.is_ascii_whitespace() || c == ';')
                .contains(';')
        }),
        _ => false,
    }
}

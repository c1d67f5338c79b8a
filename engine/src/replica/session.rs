//! A session as the replica sees it, and what it may do when.

use super::catalogue::DatabaseId;
use super::gate::Held;
use super::request::Standing;

/// A session with an open database.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) database: DatabaseId,
    pub(super) standing: Standing,
    /// Counts its transactions, so that a reply that is released late confirms only its own.
    transaction: u64,
    /// Whether leadership was confirmed since the open transaction took its snapshot.
    confirmed: bool,
    /// Replies that wait at the gate.
    pub(super) held: u32,
    pub(super) last_active_tick: u64,
    /// Why the open transaction was rolled back without being asked; told once.
    pub(super) aborted: bool,
}

impl Session {
    pub(super) fn new(database: DatabaseId, now: u64) -> Self {
        Self {
            database,
            standing: Standing::default(),
            transaction: 0,
            confirmed: false,
            held: 0,
            last_active_tick: now,
            aborted: false,
        }
    }

    /// Takes note of where its connection stands after a run; returns whether the run's snapshot
    /// needs a confirmation of leadership.
    pub(super) fn ran(&mut self, standing: Standing) -> bool {
        let was_confirmed = self.standing.in_transaction && self.confirmed;
        if self.standing.in_transaction && !standing.in_transaction {
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

//! The gate: holds each reply back until what it tells is committed and leadership was confirmed.
//!
//! A reply leaves when (a) the commit index has reached the newest entry in the snapshot that it
//! saw, and (b) leadership was confirmed at or after its request arrived. An entry that was
//! proposed after the arrival gives both with its commit; otherwise a ReadIndex round gives (b)
//! (Raft thesis, section 6.4).

use std::collections::BTreeMap;

use ringlite_raft::{LogIndex, ReadId};

use super::request::{Reply, RequestId};
use crate::error::Error;

/// A reply that must wait.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) request: RequestId,
    pub(super) reply: Result<Reply, Error>,
    /// Whether the request committed something: then losing leadership leaves its outcome open.
    pub(super) wrote: bool,
    /// The session's transaction that keeps the reply's snapshot in use: its later statements
    /// need no confirmation of their own once this reply has left.
    pub(super) confirms_transaction: Option<u64>,
}

/// Every reply that waits.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// By the entry to be committed; the number keeps replies for one entry in order.
    by_commit: BTreeMap<(LogIndex, u64), Held>,
    by_read: BTreeMap<ReadId, Vec<(LogIndex, Held)>>,
    held_count: u64,
}

impl Gate {
    /// Holds `held` until `index` is committed.
    pub(super) fn until_committed(&mut self, index: LogIndex, held: Held) {
        self.held_count += 1;
        self.by_commit.insert((index, self.held_count), held);
    }

    /// Holds `held` until the ReadIndex round `read` confirms leadership and `index` is committed.
    pub(super) fn until_confirmed(&mut self, read: ReadId, index: LogIndex, held: Held) {
        self.by_read.entry(read).or_default().push((index, held));
    }

    /// The commit index is now `commit`: what may leave.
    pub(super) fn committed(&mut self, commit: LogIndex) -> impl Iterator<Item = Held> + use<> {
        let waiting = self.by_commit.split_off(&(commit.next(), 0));
        std::mem::replace(&mut self.by_commit, waiting).into_values()
    }

    /// The round `read` was confirmed while `commit` was the commit index: what may leave.
    pub(super) fn confirmed(&mut self, read: ReadId, commit: LogIndex) -> Vec<Held> {
        let mut ready = Vec::new();
        for (index, held) in self.by_read.remove(&read).unwrap_or_default() {
            if index <= commit {
                ready.push(held);
            } else {
                self.until_committed(index, held);
            }
        }
        ready
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.by_commit.is_empty() && self.by_read.is_empty()
    }

    /// Leadership is lost: everything that still waits.
    pub(super) fn drain(&mut self) -> Vec<Held> {
        let reads = std::mem::take(&mut self.by_read).into_values().flatten();
        std::mem::take(&mut self.by_commit)
            .into_values()
            .chain(reads.map(|(_, held)| held))
            .collect()
    }
}

//! The batch: what committed locally and is not in an entry yet.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ringlite_raft::EntryKind;
use ringlite_vfs::{Capture, CommitPoint, Page, PageNumber};

use super::catalogue::DatabaseId;
use super::gate::Held;
use super::payload::{DatabaseChange, encode_changes};

/// The last image of each page that the batch's transactions changed in one database.
#[derive(Debug)]
struct PendingChange {
    pages: BTreeMap<PageNumber, Page>,
    page_count: u32,
    end: CommitPoint,
}

/// Transactions that will be one entry (or one run of entries), and the replies that wait for it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: BTreeMap<DatabaseId, PendingChange>,
    held: Vec<Held>,
    page_bytes: usize,
}

/// A batch made ready for the log.
#[derive(Debug)]
pub(super) struct SealedBatch {
    /// The payloads of its entries, in order.
    pub(super) parts: Vec<(EntryKind, Bytes)>,
    /// Where it leaves each database.
    pub(super) ends: Vec<(DatabaseId, CommitPoint)>,
    /// The replies that wait for it.
    pub(super) held: Vec<Held>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether it changes this database.
    pub(super) fn changes(&self, database: DatabaseId) -> bool {
        self.changes.contains_key(&database)
    }

    /// Bytes of page images in it.
    pub(super) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Adds a transaction that committed locally.
    pub(super) fn add(&mut self, database: DatabaseId, capture: Capture) {
        let Capture {
            pages,
            page_count,
            commit_point,
        } = capture;
        let change = self
            .changes
            .entry(database)
            .or_insert_with(|| PendingChange {
                pages: BTreeMap::new(),
                page_count,
                end: commit_point,
            });
        if page_count < change.page_count {
            let gone = change.pages.split_off(&PageNumber(page_count + 1));
            self.page_bytes -= gone.values().map(|page| page.len()).sum::<usize>();
        }
        for (number, page) in pages {
            let bytes = page.len();
            if mutation!(OldestImageWins) && change.pages.contains_key(&number) {
                continue;
            }
            if change.pages.insert(number, page).is_none() {
                self.page_bytes += bytes;
            }
        }
        change.page_count = page_count;
        change.end = commit_point;
    }

    /// Holds a reply until the batch is committed.
    pub(super) fn hold(&mut self, held: Held) {
        self.held.push(held);
    }

    /// Takes the batch out as the payloads of its entries, each about `part_bytes` at the most.
    pub(super) fn seal(&mut self, part_bytes: usize) -> SealedBatch {
        let Self { changes, held, .. } = std::mem::take(self);
        let mut ends = Vec::with_capacity(changes.len());
        let changes: Vec<_> = changes
            .into_iter()
            .map(|(database, change)| {
                ends.push((database, change.end));
                DatabaseChange {
                    database,
                    page_count: change.page_count,
                    pages: change.pages.into_iter().collect(),
                }
            })
            .collect();
        SealedBatch {
            parts: encode_changes(&changes, part_bytes),
            ends,
            held,
        }
    }

    /// Leadership is lost before the batch became an entry: the databases that it changed, and
    /// the replies that waited for it.
    pub(super) fn abandon(&mut self) -> (BTreeSet<DatabaseId>, Vec<Held>) {
        let Self { changes, held, .. } = std::mem::take(self);
        (changes.into_keys().collect(), held)
    }
}

//! How far the file of a database has followed its in-memory WAL.

use std::collections::VecDeque;

use ringlite_raft::LogIndex;
use ringlite_vfs::{CommitPoint, PageSize};

use super::catalogue::DatabaseId;

/// What a restart has to know of a database and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFile {
    /// Which database.
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
    /// The size of its pages.
    pub page_size: PageSize,
    /// The file is the state at this index, unless something above it was written already.
    pub applied: LogIndex,
    /// Nothing above this index was written to the file.
    pub target: LogIndex,
}

/// A database's file, seen from the log.
#[derive(Debug, Default)]
pub(super) struct FileState {
    /// The file holds every entry up to here, durably.
    pub(super) applied: LogIndex,
    /// The file may hold something of the entries up to here.
    pub(super) target: LogIndex,
    /// The file holds everything up to this entry, but perhaps not durably.
    pub(super) unsynced: Option<LogIndex>,
    /// Where each committed entry that touched the database, and that the file does not hold,
    /// leaves it.
    ends: VecDeque<(LogIndex, CommitPoint)>,
    /// Frames of the WAL up to here are in the file.
    written_frames: u32,
    /// The tick of the first commit that is not in the file.
    pub(super) dirty_since: Option<u64>,
    /// Not to be written before this tick.
    pub(super) not_before: u64,
    /// Whether readers stood in the way of the last backfill or restart.
    pub(super) is_blocked: bool,
}

impl FileState {
    /// A file that holds everything up to `applied`, and may hold something up to `target`.
    pub(super) fn new(applied: LogIndex, target: LogIndex) -> Self {
        Self {
            applied,
            target,
            ..Self::default()
        }
    }

    /// The entry `index` has committed, and leaves the database at `end`.
    pub(super) fn committed(&mut self, index: LogIndex, end: CommitPoint, now: u64) {
        self.ends.push_back((index, end));
        self.dirty_since.get_or_insert(now);
    }

    /// Whether the file lacks nothing.
    pub(super) fn is_clean(&self) -> bool {
        self.ends.is_empty() && self.unsynced.is_none()
    }

    /// The newest entry that the file lacks.
    pub(super) fn newest_end(&self) -> Option<LogIndex> {
        self.ends.back().map(|(index, _)| *index)
    }

    /// The entries up to `bound` that the file lacks.
    pub(super) fn ends_up_to(
        &self,
        bound: LogIndex,
    ) -> impl DoubleEndedIterator<Item = &(LogIndex, CommitPoint)> {
        let count = self.ends.partition_point(|(index, _)| *index <= bound);
        self.ends.range(..count)
    }

    /// How many frames the file lacks of the entries up to `bound`.
    pub(super) fn waiting_frames(&self, bound: LogIndex) -> u32 {
        let newest = self.ends_up_to(bound).next_back();
        newest.map_or(0, |(_, end)| {
            end.position.frame.saturating_sub(self.written_frames)
        })
    }

    /// The file holds everything up to the entry `end`.
    pub(super) fn written(&mut self, end: LogIndex) {
        while let Some((index, point)) = self.ends.front()
            && *index <= end
        {
            self.written_frames = point.position.frame;
            self.ends.pop_front();
        }
        self.unsynced = Some(end);
    }

    /// What was written is durable.
    pub(super) fn synced(&mut self, now: u64) {
        if let Some(end) = self.unsynced.take() {
            self.applied = self.applied.max(end);
        }
        self.dirty_since = (!self.ends.is_empty()).then_some(now);
    }

    /// The WAL is empty, and everything that was in it is in the file.
    pub(super) fn wal_restarted(&mut self) {
        assert!(self.ends.is_empty(), "the WAL was restarted too early");
        self.written_frames = 0;
    }

    /// A database that no entry up to `bound` has touched since follows without a write.
    pub(super) fn follow(&mut self, bound: LogIndex) {
        if self.is_clean() {
            self.applied = self.applied.max(bound);
        }
        self.target = self.target.max(self.applied);
    }
}

//! The databases of a shard: which exist, and how far each one's commits have got.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use ringlite_raft::LogIndex;
use ringlite_vfs::{CommitPoint, PageSize, WalPosition};

use super::file::FileState;

/// A database's identity: the index of the entry that created it in its shard's log. Dropping and
/// creating a database of one name therefore cannot meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(pub LogIndex);

impl fmt::Display for DatabaseId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// One database as the replica sees it.
#[derive(Debug)]
pub(super) struct DatabaseState {
    pub(super) name: String,
    pub(super) page_size: PageSize,
    /// How far its file has got.
    pub(super) file: FileState,
    /// The state at the commit index; unknown until the runtime has opened the file.
    pub(super) committed: Option<CommitPoint>,
    /// Where each entry of this leadership that touched the database leaves it, by index; all of
    /// them are above the commit index.
    in_flight: VecDeque<(LogIndex, CommitPoint)>,
}

/// What a reader's snapshot contains that is not committed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SnapshotContent {
    /// Only committed entries.
    Committed,
    /// Entries up to this one.
    UpTo(LogIndex),
    /// Also transactions that are not in an entry yet.
    Batch,
}

impl DatabaseState {
    /// Which entries a snapshot at `position` contains. `is_in_batch` says whether the batch
    /// changes the database.
    ///
    /// A roll-back gives the live state a position of a new generation, above `committed`, with
    /// nothing in between: so what is above all that is known is not for that in the batch.
    pub(super) fn content_of(&self, position: WalPosition, is_in_batch: bool) -> SnapshotContent {
        let committed = self.committed.as_ref().map(|point| point.position);
        if committed.is_some_and(|committed| position <= committed) {
            return SnapshotContent::Committed;
        }
        let mut ends = self.in_flight.iter();
        match ends.find(|(_, end)| position <= end.position) {
            Some((index, _)) => SnapshotContent::UpTo(*index),
            None if is_in_batch => SnapshotContent::Batch,
            None => match self.in_flight.back() {
                Some((index, _)) => SnapshotContent::UpTo(*index),
                None => SnapshotContent::Committed,
            },
        }
    }

    pub(super) fn proposed(&mut self, index: LogIndex, end: CommitPoint) {
        self.in_flight.push_back((index, end));
    }

    /// The commit index has reached `up_to`: the newest entry at or below it is the new base.
    pub(super) fn commit(&mut self, up_to: LogIndex, now: u64) {
        while let Some((index, end)) = self.in_flight.front().copied()
            && index <= up_to
        {
            self.in_flight.pop_front();
            self.entry_committed(index, end, now);
        }
    }

    /// The entry `index` is committed, and leaves the database at `end`.
    pub(super) fn entry_committed(&mut self, index: LogIndex, end: CommitPoint, now: u64) {
        self.committed = Some(end);
        self.file.committed(index, end, now);
    }

    pub(super) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The frames of its WAL, without those of the batch.
    pub(super) fn wal_frames(&self) -> u32 {
        let newest = self
            .in_flight
            .back()
            .map(|(_, end)| *end)
            .or(self.committed);
        newest.map_or(0, |end| end.position.frame)
    }

    /// Forgets the entries in flight; true if there were any.
    pub(super) fn abandon_in_flight(&mut self) -> bool {
        let any = !self.in_flight.is_empty();
        self.in_flight.clear();
        any
    }
}

/// All databases of the shard.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    by_id: BTreeMap<DatabaseId, DatabaseState>,
    by_name: BTreeMap<String, DatabaseId>,
    /// Creations of this leadership that are in the log and not committed yet.
    creating: BTreeMap<String, (LogIndex, PageSize)>,
}

impl Catalogue {
    pub(super) fn find(&self, name: &str) -> Option<DatabaseId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, id: DatabaseId) -> Option<&DatabaseState> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: DatabaseId) -> Option<&mut DatabaseState> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DatabaseId, &DatabaseState)> {
        self.by_id.iter().map(|(id, state)| (*id, state))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (DatabaseId, &mut DatabaseState)> {
        self.by_id.iter_mut().map(|(id, state)| (*id, state))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    pub(super) fn is_creating(&self, name: &str) -> bool {
        self.creating.contains_key(name)
    }

    pub(super) fn creation_proposed(&mut self, name: &str, index: LogIndex, page_size: PageSize) {
        self.creating.insert(name.to_owned(), (index, page_size));
    }

    /// The creations of this leadership that commit at or below `up_to`, in log order.
    pub(super) fn take_created(
        &mut self,
        up_to: LogIndex,
    ) -> impl Iterator<Item = (LogIndex, String, PageSize)> + use<> {
        let mut done: Vec<_> = self
            .creating
            .extract_if(.., |_, (index, _)| *index <= up_to)
            .map(|(name, (index, page_size))| (index, name, page_size))
            .collect();
        done.sort_by_key(|(index, ..)| *index);
        done.into_iter()
    }

    pub(super) fn abandon_creations(&mut self) {
        self.creating.clear();
    }

    /// Enters a database whose creation is committed; false if the name exists (two clients on
    /// two leaders asked for it), in which case the older one stays.
    pub(super) fn insert(
        &mut self,
        id: DatabaseId,
        name: &str,
        page_size: PageSize,
        file: FileState,
    ) -> bool {
        if self.by_name.contains_key(name) {
            return false;
        }
        self.by_name.insert(name.to_owned(), id);
        self.by_id.insert(
            id,
            DatabaseState {
                name: name.to_owned(),
                page_size,
                file,
                committed: None,
                in_flight: VecDeque::new(),
            },
        );
        true
    }
}

//! The databases of a shard: which exist, and how far each one's commits have got.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use ringlite_raft::LogIndex;
use ringlite_vfs::{CommitPoint, PageSize, WalPosition};

use super::databases::DROPPED;
use super::file::FileState;
use super::payload::DatabaseAct;
use crate::error::Error;

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
    /// Known once the runtime has opened the file.
    pub(super) page_size: PageSize,
    /// The first entry that is needed to make it again. `None` if a manifest or a snapshot brought it:
    /// the log here need not reach so far back.
    pub(super) made_from: Option<LogIndex>,
    /// How far its file has got.
    pub(super) file: FileState,
    /// The state at the commit index; unknown until the runtime has opened the file.
    pub(super) committed: Option<CommitPoint>,
    /// Where each entry of this leadership that touched the database leaves it, by index; all of
    /// them are above the commit index.
    in_flight: VecDeque<(LogIndex, CommitPoint)>,
}

/// What a reader's snapshot contains that is not committed yet; the more, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// The commit index has reached `up_to`: the newest entry at or below it is the new base. Returns
    /// where it leaves the database, if there is one.
    pub(super) fn commit(&mut self, up_to: LogIndex, now: u64) -> Option<CommitPoint> {
        let mut newest = None;
        while let Some((index, end)) = self.in_flight.front().copied()
            && index <= up_to
        {
            self.in_flight.pop_front();
            self.entry_committed(index, end, now);
            newest = Some(end);
        }
        newest
    }

    /// The entry `index` is committed, and leaves the database at `end`.
    pub(super) fn entry_committed(&mut self, index: LogIndex, end: CommitPoint, now: u64) {
        self.committed = Some(end);
        self.file.committed(index, end, now);
    }

    pub(super) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The bytes of the frames in its WAL, without those of the batch.
    pub(super) fn wal_bytes(&self) -> u64 {
        let in_flight = self.in_flight.back().map(|(_, end)| *end);
        let newest = in_flight.or(self.committed);
        let frames = newest.map_or(0, |end| end.position.frame);
        u64::from(frames) * u64::from(self.page_size.bytes())
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
    /// Acts of this leadership that are in the log and not committed yet, in log order.
    pending: VecDeque<(LogIndex, DatabaseAct)>,
}

impl Catalogue {
    /// The database of this name, as committed.
    pub(super) fn find(&self, name: &str) -> Option<DatabaseId> {
        self.by_name.get(name).copied()
    }

    /// The database of this name, unless the log holds its end already.
    pub(super) fn find_lasting(&self, name: &str) -> Option<DatabaseId> {
        self.find(name).filter(|id| !self.is_ending(*id))
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

    /// Whether the log holds an act that makes a database of this name.
    pub(super) fn is_creating(&self, name: &str) -> bool {
        self.pending.iter().any(|(_, act)| match act {
            DatabaseAct::Create { name: made, .. }
            | DatabaseAct::FinishRestore { name: made, .. } => made == name,
            _ => false,
        })
    }

    /// Whether there is such a database and the log does not hold its end.
    pub(super) fn is_lasting(&self, id: DatabaseId) -> bool {
        self.by_id.contains_key(&id) && !self.is_ending(id)
    }

    /// What to tell of a database that is not lasting.
    pub(super) fn gone(&self, id: DatabaseId) -> Error {
        let name = self.get(id).map(|state| state.name.clone());
        Error::DatabaseGone {
            name: name.unwrap_or_else(|| format!("number {id}")),
            how: DROPPED,
        }
    }

    fn is_ending(&self, id: DatabaseId) -> bool {
        self.pending.iter().any(|(_, act)| ends(act) == Some(id))
    }

    pub(super) fn act_proposed(&mut self, index: LogIndex, act: DatabaseAct) {
        self.pending.push_back((index, act));
    }

    /// The next act of this leadership that commits at or below `up_to`, in log order.
    pub(super) fn next_committed(&mut self, up_to: LogIndex) -> Option<(LogIndex, DatabaseAct)> {
        let (index, _) = self.pending.front()?;
        if *index > up_to {
            return None;
        }
        self.pending.pop_front()
    }

    /// Leadership is lost before these acts were committed: the databases that they would have
    /// ended, whose sessions are gone already.
    pub(super) fn abandon_pending(&mut self) -> Vec<DatabaseId> {
        let pending = std::mem::take(&mut self.pending);
        pending.iter().filter_map(|(_, act)| ends(act)).collect()
    }

    /// Enters a database whose creation is committed; false if the name exists (two clients on
    /// two leaders asked for it), in which case the older one stays.
    pub(super) fn insert(
        &mut self,
        id: DatabaseId,
        name: &str,
        made_from: Option<LogIndex>,
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
                page_size: PageSize::DEFAULT,
                made_from,
                file,
                committed: None,
                in_flight: VecDeque::new(),
            },
        );
        true
    }

    /// Takes out a database whose end is committed; its name, unless it has ended before.
    pub(super) fn remove(&mut self, id: DatabaseId) -> Option<String> {
        self.by_id.remove(&id)?;
        let (name, _) = self.by_name.extract_if(.., |_, of| *of == id).next()?;
        Some(name)
    }
}

/// The database that an act ends.
fn ends(act: &DatabaseAct) -> Option<DatabaseId> {
    match act {
        DatabaseAct::Drop { database } => Some(*database),
        DatabaseAct::FinishRestore { replaces, .. } => *replaces,
        _ => None,
    }
}

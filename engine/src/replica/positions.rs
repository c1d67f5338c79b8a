//! How far each of some databases was seen or written.

use ringlite_vfs::WalPosition;

use super::catalogue::DatabaseId;

/// A position in the WAL of each of a few databases; mostly of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(Vec<(DatabaseId, WalPosition)>);

impl Positions {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts `position` in, if it is beyond what is known of the database.
    pub fn raise(&mut self, database: DatabaseId, position: WalPosition) {
        match self.0.iter_mut().find(|(known, _)| *known == database) {
            Some((_, known)) => *known = position.max(*known),
            None => self.0.push((database, position)),
        }
    }

    /// Counts all of `others` in.
    pub fn raise_all(&mut self, others: &Positions) {
        for (database, position) in others.iter() {
            self.raise(database, position);
        }
    }

    /// The position in one database.
    pub fn get(&self, database: DatabaseId) -> Option<WalPosition> {
        let found = self.iter().find(|(known, _)| *known == database);
        found.map(|(_, position)| position)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (DatabaseId, WalPosition)> {
        self.0.iter().copied()
    }
}

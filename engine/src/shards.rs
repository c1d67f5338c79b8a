//! The shards of a node: which one a database is in, and how the threads of the process reach each.
//!
//! Shards share nothing on the way of a commit: each has its own executor, Raft group, log and databases.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::commands::{Command, Commands};
use crate::readers::Readers;
use crate::replica::Guidance;

/// How many shards a node can have.
pub(crate) const SHARDS_MAX: u32 = 64;

/// Which shard of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    /// Its number, from 0.
    pub number: u32,
    /// How many shards each node of the cluster has, at least 1.
    pub count: u32,
}

impl ShardPlace {
    /// The shard of a node that has one.
    pub const LONE: Self = Self {
        number: 0,
        count: 1,
    };

    /// Whether a database of this name is in this shard.
    pub fn owns(self, database: &str) -> bool {
        shard_of(database, self.count) == self.number
    }

    /// What the node's log says before what is about it: nothing where there is no other.
    pub(crate) fn prefix(self) -> String {
        match self.count {
            1 => String::new(),
            _ => format!("{self}: "),
        }
    }

    /// Whether it is the one that keeps the members, which the others follow.
    pub(crate) fn is_first(self) -> bool {
        self.number == 0
    }
}

impl fmt::Display for ShardPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "shard {} of {}", self.number, self.count)
    }
}

/// The number of the shard that a database of this name is in, on every node of a cluster with `shards`
/// shards: the CRC-32 (IEEE) of its name up to the first dot, modulo their number. So databases whose names
/// agree up to there are in one shard, and can be attached to each other.
pub fn shard_of(database: &str, shards: u32) -> u32 {
    let group = database.split('.').next().unwrap_or_default();
    crc32fast::hash(group.as_bytes()) % shards.max(1)
}

/// A shard as other threads reach it.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    pub(crate) commands: Commands,
    pub(crate) readers: Arc<Readers>,
}

/// All shards of the node of this process, once it is known how many there are: a node that joins learns
/// it from its cluster. Clones are of the same node.
#[derive(Clone, Default)]
pub(crate) struct Shards(Arc<Known>);

#[derive(Default)]
struct Known {
    handles: OnceLock<Box<[ShardHandle]>>,
    /// What the first shard has told the others.
    guidance: Mutex<Option<Guidance>>,
}

impl Shards {
    /// These are the shards, in order. To be called once.
    pub(crate) fn are(&self, handles: Vec<ShardHandle>) {
        let told = self.0.handles.set(handles.into());
        debug_assert!(told.is_ok(), "a node has its shards for life");
    }

    /// The shards, in order; `None` before the node's cluster has formed.
    pub(crate) fn all(&self) -> Option<&[ShardHandle]> {
        self.0.handles.get().map(AsRef::as_ref)
    }

    /// The shard of a database.
    pub(crate) fn of(&self, database: &str) -> Option<&ShardHandle> {
        let all = self.all()?;
        all.get(shard_of(database, all.len() as u32) as usize)
    }

    /// Tells all of them to stop: a node lives as long as all of its shards.
    pub(crate) fn stop(&self) {
        for shard in self.all().unwrap_or_default() {
            // One that has stopped by itself needs no telling.
            drop(shard.commands.send(Command::Stop));
        }
    }

    /// What threads that read beside a shard share with it.
    pub(crate) fn readers_of(&self, place: ShardPlace) -> &Arc<Readers> {
        match self.all().and_then(|all| all.get(place.number as usize)) {
            Some(handle) => &handle.readers,
            None => unreachable!("the shards are told before one of them starts"),
        }
    }

    /// What the first shard has told the others last.
    pub(crate) fn guidance(&self) -> Option<Guidance> {
        self.lock_guidance().clone()
    }

    /// The first shard tells the others.
    pub(crate) fn guide(&self, guidance: Guidance) {
        *self.lock_guidance() = Some(guidance);
        for other in self.all().unwrap_or_default().iter().skip(1) {
            // One that has stopped follows nobody.
            drop(other.commands.send(Command::Follow));
        }
    }

    fn lock_guidance(&self) -> MutexGuard<'_, Option<Guidance>> {
        self.0
            .guidance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_shard_for_ever() {
        // Of the directories that exist: a change of the function would lose their databases.
        for (name, of_2, of_3, of_64) in [
            ("main", 0, 2, 36),
            ("shop", 0, 0, 34),
            ("a", 1, 0, 3),
            ("b", 1, 2, 57),
            ("c", 1, 0, 47),
            ("orders", 0, 2, 46),
        ] {
            let found = [2, 3, 64].map(|shards| shard_of(name, shards));
            assert_eq!(found, [of_2, of_3, of_64], "{name}");
            let owner = ShardPlace {
                number: of_3,
                count: 3,
            };
            assert!(
                owner.owns(name)
                    && !ShardPlace {
                        number: (of_3 + 1) % 3,
                        ..owner
                    }
                    .owns(name)
            );
            assert!(ShardPlace::LONE.owns(name));
        }
    }

    #[test]
    fn only_what_is_before_the_first_dot_counts() {
        for shards in [1, 2, 3, 7] {
            assert_eq!(shard_of("shop.orders.db", shards), shard_of("shop", shards));
            assert_eq!(shard_of("shop.users", shards), shard_of("shop", shards));
        }
        let spread: std::collections::BTreeSet<_> = (0..100)
            .map(|n| shard_of(&format!("tenant-{n}"), 4))
            .collect();
        assert_eq!(spread.len(), 4);
    }
}

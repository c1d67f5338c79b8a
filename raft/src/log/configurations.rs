//! The configurations of a log: the one as of its base, and those that came with entries behind it.

use crate::membership::Configuration;
use crate::types::{LogIndex, NodeId};

/// Never empty: the configuration as of the base is always known, be it one without members.
#[derive(Clone, Debug)]
pub(crate) struct Configurations {
    /// Indexes strictly grow; the first is at or below the base of the log.
    known: Vec<(LogIndex, Configuration)>,
    /// Grows whenever the newest one becomes another.
    version: u64,
}

impl Configurations {
    pub(crate) fn new(base: LogIndex, configuration: Configuration) -> Configurations {
        Configurations {
            known: vec![(base, configuration)],
            version: 0,
        }
    }

    /// The newest one, committed or not, and the index of its entry.
    pub(crate) fn newest(&self) -> (LogIndex, &Configuration) {
        match self.known.last() {
            Some((index, configuration)) => (*index, configuration),
            None => unreachable!("the configuration as of the base is never removed"),
        }
    }

    /// The one that counts at an index from the base on.
    pub(crate) fn at(&self, index: LogIndex) -> &Configuration {
        let after = self.known.partition_point(|(first, _)| *first <= index);
        let found = after.checked_sub(1).and_then(|at| self.known.get(at));
        found.map_or_else(
            || unreachable!("{index} is below the base"),
            |known| &known.1,
        )
    }

    /// Those of entries in this range, ascending.
    pub(crate) fn between(
        &self,
        above: LogIndex,
        up_to: LogIndex,
    ) -> impl Iterator<Item = (LogIndex, &Configuration)> {
        let known = self.known.iter();
        known
            .filter(move |(index, _)| *index > above && *index <= up_to)
            .map(|(index, configuration)| (*index, configuration))
    }

    pub(crate) fn push(&mut self, index: LogIndex, configuration: Configuration) {
        assert!(index > self.newest().0, "configurations come in order");
        self.known.push((index, configuration));
        self.version += 1;
    }

    /// Everything from `from` on is void.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        let before = self.known.len();
        self.known.retain(|(index, _)| *index < from);
        self.version += u64::from(self.known.len() < before);
    }

    /// A snapshot took the place of everything.
    pub(crate) fn replace(&mut self, base: LogIndex, configuration: Configuration) {
        self.known = vec![(base, configuration)];
        self.version += 1;
    }

    /// Whether some known configuration had the node as a member.
    pub(crate) fn had_member(&self, id: NodeId) -> bool {
        let mut known = self.known.iter();
        known.any(|(_, configuration)| configuration.role(id).is_some())
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets what counts no longer anywhere from `base` on.
    pub(crate) fn cut(&mut self, base: LogIndex) {
        let after = self.known.partition_point(|(first, _)| *first <= base);
        self.known.drain(..after.saturating_sub(1));
    }

    pub(crate) fn check_invariants(&self, base: LogIndex, last: LogIndex) {
        let (first, newest) = (self.known.first(), self.known.last());
        assert!(first.is_some_and(|(index, _)| *index <= base));
        assert!(newest.is_some_and(|(index, _)| *index <= last));
        assert!(self.known.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}

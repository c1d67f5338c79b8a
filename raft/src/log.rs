//! The replicated log in memory: the terms of all entries, and the newest entries themselves.

mod configurations;
mod runs;

use crate::config::{ConfigError, RestoredLog};
use crate::entry::{Entry, EntryKind, LogBase};
use crate::membership::Configuration;
use crate::message::Conflict;
use crate::types::{LogIndex, NodeId, Term};
use configurations::Configurations;
use runs::TermRuns;
use std::collections::VecDeque;

/// What an entry costs in memory and in a message besides its payload, in bytes (about).
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 64;

/// What an entry counts for in windows, messages and the cache, in bytes.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD_BYTES
}

/// The log of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Terms of every entry from the base on; the base itself is the start of the first run.
    runs: TermRuns,
    configurations: Configurations,
    /// The newest entries: contiguous, ending at `last`.
    cache: VecDeque<Entry>,
    /// The sum of [`entry_bytes`] over the cache.
    cache_bytes: usize,
    cache_bytes_max: usize,
    last: LogIndex,
    /// Never above `last`; only grows.
    commit: LogIndex,
    /// What the caller has applied; entries above it stay in the cache. Never below the base.
    applied: LogIndex,
}

/// What became of entries that a leader offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// All of them are in the log now; `new` must be written, after a truncation at its start if
    /// `truncate` says so.
    Taken {
        truncate: Option<LogIndex>,
        new: Vec<Entry>,
    },
    /// They do not follow on what is here.
    Conflict(Conflict),
    /// They contradict a committed entry. No correct leader offers that.
    AgainstCommit,
}

impl Log {
    /// The log that storage found. `bootstrap` are the members until it tells of others.
    pub(crate) fn restore(
        found: RestoredLog,
        bootstrap: Configuration,
        cache_bytes_max: usize,
    ) -> Result<Log, ConfigError> {
        let RestoredLog {
            base,
            runs,
            last,
            commit,
            tail,
            debt: _,
            configuration,
            configurations,
        } = found;
        if base.index > last.min(commit) || (base.index == LogIndex::ZERO) != (base.term == Term(0))
        {
            return Err(ConfigError::Base {
                base: base.index,
                base_term: base.term,
                last,
                commit,
            });
        }
        let runs = TermRuns::restore(base, runs, last)?;
        if commit > last {
            return Err(ConfigError::CommitAboveLast { commit, last });
        }
        let mut wanted = last;
        for entry in tail.iter().rev() {
            let known = wanted > base.index && runs.term(wanted, last) == Some(entry.term);
            if entry.index != wanted || !known {
                return Err(ConfigError::Tail {
                    index: wanted,
                    commit,
                });
            }
            wanted = wanted.prev();
        }
        if wanted > commit {
            return Err(ConfigError::Tail {
                index: wanted,
                commit,
            });
        }
        let of_base = if base.index == LogIndex::ZERO && configuration.members().is_empty() {
            bootstrap
        } else {
            configuration
        };
        let mut known = Configurations::new(base.index, of_base);
        let in_tail = tail.first().map_or(last, |first| first.index.prev());
        let older = configurations.iter().filter(|entry| entry.index <= in_tail);
        let newer = tail
            .iter()
            .filter(|entry| entry.kind == EntryKind::Configuration);
        for Entry {
            term,
            index,
            kind,
            payload,
        } in older.chain(newer)
        {
            let index = *index;
            if *kind != EntryKind::Configuration
                || index <= known.newest().0
                || runs.term(index, last) != Some(*term)
            {
                return Err(ConfigError::NotAConfiguration { index });
            }
            let configuration = Configuration::decode(payload.clone())
                .map_err(|source| ConfigError::Configuration { index, source })?;
            known.push(index, configuration);
        }
        let cache_bytes = tail.iter().map(entry_bytes).sum();
        let cache = tail.into();
        let applied = base.index;
        Ok(Log {
            runs,
            configurations: known,
            cache,
            cache_bytes,
            cache_bytes_max,
            last,
            commit,
            applied,
        })
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    /// The log begins behind this index.
    pub(crate) fn base(&self) -> LogIndex {
        self.runs.base()
    }

    pub(crate) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(crate) fn last_term(&self) -> Term {
        self.runs.last_term()
    }

    /// The newest configuration, committed or not, with the index of its entry.
    pub(crate) fn configuration(&self) -> (LogIndex, &Configuration) {
        self.configurations.newest()
    }

    /// Whether some configuration of this log had the node as a member.
    pub(crate) fn had_member(&self, id: NodeId) -> bool {
        self.configurations.had_member(id)
    }

    /// Grows whenever the newest configuration becomes another.
    pub(crate) fn configuration_version(&self) -> u64 {
        self.configurations.version()
    }

    /// The configuration that counts at an index; `None` below the base and beyond the end.
    pub(crate) fn configuration_at(&self, index: LogIndex) -> Option<&Configuration> {
        let known = self.base() <= index && index <= self.last;
        known.then(|| self.configurations.at(index))
    }

    /// The configurations that came with entries above `above`, up to `up_to`.
    pub(crate) fn configurations_between(
        &self,
        above: LogIndex,
        up_to: LogIndex,
    ) -> impl Iterator<Item = (LogIndex, &Configuration)> {
        self.configurations.between(above, up_to)
    }

    /// The term at an index: `None` below the base and beyond the end. Term 0 at index 0.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        self.runs.term(index, self.last)
    }

    /// The entry at an index, if the cache still has it.
    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let first = self.cache.front()?.index;
        let offset = index.0.checked_sub(first.0)?;
        self.cache.get(usize::try_from(offset).ok()?)
    }

    /// The first index that the cache holds; one past the end if it is empty.
    pub(crate) fn cache_first(&self) -> LogIndex {
        self.cache
            .front()
            .map_or(self.last.next(), |entry| entry.index)
    }

    /// Entries from `from` on as far as `bytes_max` goes, but at least one; empty if the cache does
    /// not hold `from`.
    pub(crate) fn slice(&self, from: LogIndex, bytes_max: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut index = from;
        while let Some(entry) = self.entry(index) {
            bytes += entry_bytes(entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
            index = index.next();
        }
        entries
    }

    /// Whether a log that ends there may lead this one (Raft paper, 5.4.1).
    pub(crate) fn is_up_to_date(&self, last_term: Term, last_index: LogIndex) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last)
    }

    /// Appends an entry. One with a configuration has been checked to hold one.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert!(
            entry.index == self.last.next(),
            "{} does not follow {}",
            entry.index,
            self.last
        );
        self.runs.push(entry.index, entry.term);
        if entry.kind == EntryKind::Configuration {
            let configuration = Configuration::decode(entry.payload.clone())
                .unwrap_or_else(|error| unreachable!("{} was not checked: {error}", entry.index));
            self.configurations.push(entry.index, configuration);
        }
        self.last = entry.index;
        self.cache_bytes += entry_bytes(&entry);
        self.cache.push_back(entry);
    }

    /// Takes what a leader offers behind `prev` (Raft paper, figure 2, AppendEntries 2 to 4).
    ///
    /// Only a *conflicting* entry truncates. A message that was delayed or repeated, and ends
    /// before this log does, leaves what follows alone: it may long be acknowledged, even
    /// committed.
    pub(crate) fn offer(
        &mut self,
        mut prev: LogIndex,
        mut prev_term: Term,
        mut entries: Vec<Entry>,
    ) -> Offer {
        let base = self.base();
        if prev < base {
            // A late message. What is below the base is committed, so that a leader has the same
            // there; the rest is compared from the base on.
            let below = base.0 - prev.0;
            let below = usize::try_from(below).map_or(entries.len(), |n| n.min(entries.len()));
            let Some(at_base) = entries
                .drain(..below)
                .next_back()
                .filter(|entry| entry.index == base)
            else {
                return Offer::Taken {
                    truncate: None,
                    new: Vec::new(),
                };
            };
            (prev, prev_term) = (base, at_base.term);
        }
        if self.term(prev) != Some(prev_term) {
            if prev <= self.commit {
                return Offer::AgainstCommit;
            }
            return Offer::Conflict(self.conflict_at(prev));
        }
        let is_new = |entry: &Entry| self.term(entry.index) != Some(entry.term);
        let Some(first_new) = entries.iter().position(is_new) else {
            return Offer::Taken {
                truncate: None,
                new: Vec::new(),
            };
        };
        let from = entries[first_new].index;
        if from <= self.commit {
            return Offer::AgainstCommit;
        }
        let truncate = (from <= self.last).then_some(from);
        if truncate.is_some() {
            self.truncate(from);
        }
        let new = entries.split_off(first_new);
        for entry in &new {
            self.push(entry.clone());
        }
        Offer::Taken { truncate, new }
    }

    fn conflict_at(&self, prev: LogIndex) -> Conflict {
        let index = prev.min(self.last);
        let term = self
            .term(index)
            .expect("an index up to the last one has a term");
        Conflict {
            index,
            term,
            first: self.runs.first_of(index),
        }
    }

    /// The highest index at which a follower with this conflict may still agree with this log.
    ///
    /// Walking down from the follower's index to a term that is not above the follower's skips only
    /// places where the terms differ. If that term is lower than the follower's, the follower's
    /// whole run differs as well.
    pub(crate) fn last_possible_match(&self, conflict: Conflict) -> LogIndex {
        let from = conflict.index.min(self.last);
        let (index, term) = self.runs.last_at_most(from, conflict.term);
        if term == conflict.term {
            index
        } else {
            index.min(conflict.first.prev())
        }
    }

    fn truncate(&mut self, from: LogIndex) {
        assert!(
            from > self.commit,
            "{from} is committed and cannot be truncated"
        );
        assert!(
            from >= self.cache_first(),
            "the cache lost an uncommitted entry at {from}"
        );
        while self.cache.back().is_some_and(|entry| entry.index >= from) {
            if let Some(void) = self.cache.pop_back() {
                self.cache_bytes -= entry_bytes(&void);
            }
        }
        self.runs.truncate(from);
        self.configurations.truncate(from);
        self.last = from.prev();
    }

    /// Raises the commit index; true if it grew.
    pub(crate) fn commit_to(&mut self, index: LogIndex) -> bool {
        assert!(
            index <= self.last,
            "{index} cannot be committed: the log ends at {}",
            self.last
        );
        let grew = index > self.commit;
        self.commit = self.commit.max(index);
        grew
    }

    /// The caller applied everything up to `index`.
    pub(crate) fn applied(&mut self, index: LogIndex) {
        assert!(
            index <= self.commit,
            "{index} was applied before it was committed"
        );
        self.applied = self.applied.max(index);
    }

    /// Drops entries that are applied and durable here: those that everybody has, and others while
    /// the cache is above its bound.
    pub(crate) fn evict(&mut self, durable: LogIndex, matched_by_all: LogIndex) {
        let may_go = self.applied.min(durable);
        while let Some(oldest) = self.cache.front()
            && oldest.index <= may_go
            && (oldest.index <= matched_by_all || self.cache_bytes > self.cache_bytes_max)
        {
            self.pop_front();
        }
    }

    /// The log begins behind `up_to` from now on.
    pub(crate) fn cut(&mut self, up_to: LogIndex) {
        assert!(
            up_to <= self.applied,
            "the log is cut at {up_to}, but only {} is applied",
            self.applied
        );
        while self.cache.front().is_some_and(|entry| entry.index <= up_to) {
            self.pop_front();
        }
        self.runs.cut(up_to);
        self.configurations.cut(self.runs.base());
    }

    /// A snapshot took the place of everything: the log is empty behind `base`.
    pub(crate) fn replace(&mut self, base: LogBase, configuration: Configuration) {
        assert!(
            base.index > self.commit,
            "{} is committed already",
            base.index
        );
        self.runs = TermRuns::behind(base);
        self.configurations.replace(base.index, configuration);
        self.cache.clear();
        self.cache_bytes = 0;
        (self.last, self.commit, self.applied) = (base.index, base.index, base.index);
    }

    fn pop_front(&mut self) {
        if let Some(old) = self.cache.pop_front() {
            self.cache_bytes -= entry_bytes(&old);
        }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.applied <= self.commit && self.commit <= self.last);
        assert!(self.base() <= self.applied && self.base() < self.cache_first());
        assert!(
            self.cache_first() <= self.commit.next(),
            "an uncommitted entry left the cache"
        );
        self.runs.check_invariants(self.last);
        self.configurations.check_invariants(self.base(), self.last);
        let mut index = self.cache_first();
        let mut bytes = 0;
        for entry in &self.cache {
            assert_eq!(entry.index, index, "the cache has a gap");
            assert_eq!(
                Some(entry.term),
                self.term(index),
                "cache and runs differ at {index}"
            );
            bytes += entry_bytes(entry);
            index = index.next();
        }
        assert_eq!(
            index,
            self.last.next(),
            "the cache does not end where the log does"
        );
        assert_eq!(bytes, self.cache_bytes);
    }
}

/// Whether entries follow on `prev` without a gap, with terms that a leader of `term` may have.
pub(crate) fn is_contiguous(
    prev: LogIndex,
    prev_term: Term,
    term: Term,
    entries: &[Entry],
) -> bool {
    let mut index = prev;
    let mut last_term = prev_term;
    for entry in entries {
        if entry.index != index.next() || entry.term < last_term || entry.term == Term(0) {
            return false;
        }
        index = entry.index;
        last_term = entry.term;
    }
    last_term <= term
}

#[cfg(test)]
mod tests;

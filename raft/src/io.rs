//! Disk operations: which were asked for, which are durable, and what waits for them.
//!
//! Hard states and appends share one sequence, so that a vote can never overtake an append that was
//! accepted before it, nor the other way round (openraft, "io ordering").

use crate::config::HardState;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::types::{IoId, LogIndex};
use std::collections::VecDeque;

/// An append that is not known to be durable yet.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    io: IoId,
    /// The highest index that its completion proves durable. A truncation lowers it, so that a late
    /// completion never counts for entries that took the place of the truncated ones (the ABA case
    /// in etcd's rawnode.go).
    last: LogIndex,
}

/// The disk as the core sees it.
#[derive(Clone, Debug)]
pub(crate) struct Io {
    issued: IoId,
    persisted: IoId,
    /// The newest save of the hard state.
    hard_state: IoId,
    /// In order of id.
    appends: VecDeque<InFlight>,
    /// Operations of this turn, in order of id; not handed to the runtime yet.
    pending: Vec<Effect>,
    /// Everything up to here is on stable storage; never above the end of the log.
    durable: LogIndex,
    /// Ticks so far.
    now: u64,
    /// When each operation that is not durable yet was asked for; in order of id.
    outstanding: VecDeque<(IoId, u64)>,
}

impl Io {
    pub(crate) fn new(durable: LogIndex) -> Io {
        Io {
            issued: IoId(0),
            persisted: IoId(0),
            hard_state: IoId(0),
            appends: VecDeque::new(),
            pending: Vec::new(),
            durable,
            now: 0,
            outstanding: VecDeque::new(),
        }
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Saves a hard state. Two in a row become one, because the newer one says more.
    pub(crate) fn save(&mut self, state: HardState) {
        if let Some(Effect::SaveHardState { hard_state, .. }) = self.pending.last_mut() {
            *hard_state = state;
            return;
        }
        let io = self.issue();
        self.hard_state = io;
        self.pending.push(Effect::SaveHardState {
            io,
            hard_state: state,
        });
    }

    /// Appends entries behind whatever was appended before; joins the append before if it can.
    pub(crate) fn append(&mut self, truncate: Option<LogIndex>, new: Vec<Entry>) {
        let Some(last) = new.last().map(|entry| entry.index) else {
            return;
        };
        if let Some(from) = truncate {
            self.forget_from(from);
        } else if let Some(Effect::Append { io, entries, .. }) = self.pending.last_mut() {
            entries.extend(new);
            let in_flight = self.appends.back_mut();
            let in_flight = in_flight.filter(|in_flight| in_flight.io == *io);
            in_flight.expect("a pending append is in flight").last = last;
            return;
        }
        let io = self.issue();
        self.appends.push_back(InFlight { io, last });
        self.pending.push(Effect::Append {
            io,
            truncate_from: truncate,
            entries: new,
        });
    }

    /// Entries at or above `from` are void: no completion of an earlier append speaks of them.
    fn forget_from(&mut self, from: LogIndex) {
        self.durable = self.durable.min(from.prev());
        for in_flight in &mut self.appends {
            in_flight.last = in_flight.last.min(from.prev());
        }
    }

    /// The log is empty behind `base`, durably. Completions of earlier appends speak of nothing.
    pub(crate) fn replaced(&mut self, base: LogIndex) {
        let mut pending = self.pending.iter();
        assert!(
            pending.all(|effect| matches!(effect, Effect::SaveHardState { .. })),
            "an append would follow the snapshot that voids it"
        );
        self.durable = base;
        for in_flight in &mut self.appends {
            in_flight.last = base;
        }
    }

    pub(crate) fn tick(&mut self) {
        self.now += 1;
    }

    /// How many ticks ago the oldest operation was asked for that is not durable yet; 0 if there is
    /// none.
    pub(crate) fn oldest_age_ticks(&self) -> u64 {
        let oldest = self.outstanding.front();
        oldest.map_or(0, |(_, asked)| self.now - asked)
    }

    /// Everything up to `io` is durable. True if the durable part of the log grew.
    pub(crate) fn persisted(&mut self, io: IoId) -> bool {
        assert!(
            io <= self.issued,
            "{io} is durable, but only {} was asked for",
            self.issued
        );
        self.persisted = self.persisted.max(io);
        while self
            .outstanding
            .front()
            .is_some_and(|(oldest, _)| *oldest <= io)
        {
            self.outstanding.pop_front();
        }
        let before = self.durable;
        while self
            .appends
            .front()
            .is_some_and(|in_flight| in_flight.io <= io)
        {
            if let Some(done) = self.appends.pop_front() {
                self.durable = self.durable.max(done.last);
            }
        }
        self.durable > before
    }

    /// What a message must wait for that speaks of the term or the vote only.
    pub(crate) fn after_hard_state(&self) -> Option<IoId> {
        (self.hard_state > self.persisted).then_some(self.hard_state)
    }

    /// What a message must wait for that says "my log is durable up to `index`".
    pub(crate) fn after_index(&self, index: LogIndex) -> Option<IoId> {
        let append = if index <= self.durable {
            None
        } else {
            let covering = self
                .appends
                .iter()
                .find(|in_flight| in_flight.last >= index);
            Some(
                covering
                    .expect("an index that is not durable is in flight")
                    .io,
            )
        };
        append.max(self.after_hard_state())
    }

    /// The operations of this turn, in order of id.
    pub(crate) fn take_pending(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.pending)
    }

    fn issue(&mut self) -> IoId {
        self.issued = IoId(self.issued.0 + 1);
        self.outstanding.push_back((self.issued, self.now));
        self.issued
    }

    pub(crate) fn check_invariants(&self, last: LogIndex) {
        assert!(
            self.durable <= last,
            "durable {} is above last {last}",
            self.durable
        );
        assert!(self.persisted <= self.issued);
        let mut before = self.persisted;
        for in_flight in &self.appends {
            assert!(in_flight.io > before, "{} is out of order", in_flight.io);
            assert!(
                in_flight.last <= last,
                "{} covers more than the log",
                in_flight.io
            );
            before = in_flight.io;
        }
        let covered = self
            .appends
            .back()
            .map_or(self.durable, |newest| newest.last);
        assert!(
            self.durable.max(covered) == last,
            "the end of the log is on no way to the disk"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use crate::types::Term;
    use bytes::Bytes;

    fn entries(indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        indexes
            .map(|index| Entry {
                term: Term(1),
                index: LogIndex(index),
                kind: EntryKind::Data,
                payload: Bytes::new(),
            })
            .collect()
    }

    #[test]
    fn appends_of_one_turn_are_one_operation() {
        let mut io = Io::new(LogIndex(0));
        io.append(None, entries(1..=2));
        io.append(None, entries(3..=3));
        assert_eq!(io.take_pending().len(), 1);
        io.append(None, entries(4..=4));
        assert_eq!(io.after_index(LogIndex(3)), Some(IoId(1)));
        assert_eq!(io.after_index(LogIndex(4)), Some(IoId(2)));
        assert!(io.persisted(IoId(1)));
        assert_eq!(
            (io.durable(), io.after_index(LogIndex(3))),
            (LogIndex(3), None)
        );
    }

    #[test]
    fn a_late_completion_does_not_count_for_what_replaced_its_entries() {
        let mut io = Io::new(LogIndex(0));
        io.append(None, entries(1..=5));
        io.take_pending();
        io.append(Some(LogIndex(3)), entries(3..=5));
        assert!(io.persisted(IoId(1)));
        assert_eq!(io.durable(), LogIndex(2));
        assert_eq!(io.after_index(LogIndex(4)), Some(IoId(2)));
        assert!(io.persisted(IoId(2)));
        assert_eq!(io.durable(), LogIndex(5));
    }

    #[test]
    fn a_truncation_lowers_what_is_durable() {
        let mut io = Io::new(LogIndex(9));
        io.append(Some(LogIndex(4)), entries(4..=4));
        assert_eq!(io.durable(), LogIndex(3));
        io.check_invariants(LogIndex(4));
    }

    #[test]
    fn an_acknowledgement_waits_for_an_older_hard_state_too() {
        let mut io = Io::new(LogIndex(9));
        io.save(HardState {
            term: Term(2),
            vote: None,
        });
        assert_eq!(io.after_index(LogIndex(9)), Some(IoId(1)));
        io.append(None, entries(10..=10));
        assert_eq!(io.after_index(LogIndex(10)), Some(IoId(2)));
        assert_eq!(io.after_index(LogIndex(9)), Some(IoId(1)));
    }

    #[test]
    fn two_hard_states_in_a_row_are_one_but_an_append_between_keeps_them_apart() {
        let mut io = Io::new(LogIndex(0));
        io.save(HardState {
            term: Term(2),
            vote: None,
        });
        io.save(HardState {
            term: Term(3),
            vote: None,
        });
        assert_eq!(io.take_pending().len(), 1);
        io.save(HardState {
            term: Term(4),
            vote: None,
        });
        io.append(None, entries(1..=1));
        io.save(HardState {
            term: Term(5),
            vote: None,
        });
        io.append(None, entries(2..=2));
        assert_eq!(io.take_pending().len(), 4);
    }

    #[test]
    #[should_panic(expected = "only io0 was asked for")]
    fn a_completion_of_nothing_is_a_bug_of_the_runtime() {
        Io::new(LogIndex(0)).persisted(IoId(1));
    }
}

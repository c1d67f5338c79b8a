//! What a leader knows about one peer's log, and what is on its way there.

use crate::entry::Entry;
use crate::membership::MemberRole;
use crate::types::LogIndex;
use std::collections::VecDeque;

/// How a leader sends the log to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It looks for the place where the logs agree: one message, then wait.
    Probe,
    /// The place is known: messages follow each other without waiting, up to the window.
    Replicate,
    /// The peer needs entries that the log has no more: it gets a snapshot, and no entries until
    /// then.
    Snapshot,
}

/// How often in a row storage may have nothing to give before the peer is sent a snapshot instead;
/// there is a tick between two attempts.
const READS_FAILED_MAX: u32 = 20;

/// An append on its way.
#[derive(Clone, Copy, Debug, Hash)]
struct Sent {
    last: LogIndex,
    bytes: usize,
}

/// The leader's view of one peer. Always `match_index < next`.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Progress {
    pub(crate) role: MemberRole,
    pub(crate) mode: Mode,
    /// The peer's log equals the leader's up to here, durably.
    pub(crate) match_index: LogIndex,
    /// What to send next.
    pub(crate) next: LogIndex,
    /// In probe mode: a probe is out. In replicate mode unused.
    pub(crate) probe_sent: bool,
    /// The next probe, or the empty message that finds a loss, carries no entries: an earlier one
    /// was not answered, and the peer may be gone.
    pub(crate) nudge: bool,
    /// An acceptance came since the last heartbeat.
    pub(crate) acked_since_heartbeat: bool,
    /// The highest commit index that was sent to the peer and that its log could follow.
    pub(crate) told_commit: LogIndex,
    /// The highest heartbeat round that the peer echoed in this term.
    pub(crate) round: u64,
    /// Ticks since the peer last answered.
    pub(crate) silent_ticks: u32,
    /// Storage is reading entries for this peer, or was asked in vain during this tick.
    pub(crate) reading: bool,
    /// The last read brought nothing: ask again after a tick.
    pub(crate) read_failed: bool,
    /// So many reads in a row brought nothing.
    reads_failed: u32,
    /// In snapshot mode: the snapshot has been asked for and its end not been told. Else it is asked
    /// for as soon as the peer is heard.
    pub(crate) snapshot_asked: bool,
    /// What storage has read; the first is at `next`.
    staged: VecDeque<Entry>,
    in_flight: VecDeque<Sent>,
    in_flight_bytes: usize,
}

impl Progress {
    /// A peer of which a leader knows nothing yet, and hopes that its log is like its own.
    pub(crate) fn new(role: MemberRole, last: LogIndex) -> Progress {
        Progress {
            role,
            mode: Mode::Probe,
            match_index: LogIndex::ZERO,
            next: last.next(),
            probe_sent: false,
            nudge: false,
            acked_since_heartbeat: false,
            told_commit: LogIndex::ZERO,
            round: 0,
            silent_ticks: 0,
            reading: false,
            read_failed: false,
            reads_failed: 0,
            snapshot_asked: false,
            staged: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    /// Starts over from `next`, or from just behind the match if that is higher.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.mode = Mode::Probe;
        self.next = next.max(self.match_index.next());
        self.probe_sent = false;
        self.nudge = false;
        self.staged.clear();
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// The peer's log was damaged: it may hold nothing above `index`.
    pub(crate) fn forget_match_above(&mut self, index: LogIndex) {
        self.match_index = self.match_index.min(index);
        self.told_commit = self.told_commit.min(index);
    }

    /// The peer was lost and may come back with less than it had: with another disk, or with a log
    /// that it had to cut. What it held counts no longer.
    pub(crate) fn lost(&mut self) {
        self.match_index = LogIndex::ZERO;
        self.told_commit = LogIndex::ZERO;
        if self.mode != Mode::Snapshot {
            self.probe_from(self.next);
            self.nudge = true;
        }
    }

    /// The log cannot give the entry at `missing` or below, which the peer needs: it waits for a
    /// snapshot, or for word that it has the entry from elsewhere.
    pub(crate) fn await_snapshot(&mut self, missing: LogIndex) {
        self.probe_from(missing.next());
        self.mode = Mode::Snapshot;
        self.snapshot_asked = false;
        (self.reading, self.read_failed, self.reads_failed) = (false, false, 0);
    }

    /// Storage had nothing to give. True if it is not to be asked again.
    pub(crate) fn read_in_vain(&mut self) -> bool {
        self.read_failed = true;
        self.reads_failed += 1;
        self.reads_failed >= READS_FAILED_MAX
    }

    /// The peer's log matches up to `index`.
    pub(crate) fn accepted(&mut self, index: LogIndex) {
        self.match_index = self.match_index.max(index);
        self.acked_since_heartbeat = true;
        if self.mode == Mode::Snapshot && self.match_index.next() < self.next {
            return;
        }
        if self.mode != Mode::Replicate {
            self.probe_from(self.match_index.next());
            self.mode = Mode::Replicate;
        }
        self.advance_to(self.match_index.next());
        while self
            .in_flight
            .front()
            .is_some_and(|sent| sent.last <= self.match_index)
        {
            if let Some(arrived) = self.in_flight.pop_front() {
                self.in_flight_bytes -= arrived.bytes;
            }
        }
    }

    /// Entries up to `last` are on their way.
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: usize) {
        assert!(
            last >= self.next,
            "{last} was sent, but {} was next",
            self.next
        );
        self.in_flight.push_back(Sent { last, bytes });
        self.in_flight_bytes += bytes;
        self.advance_to(last.next());
    }

    pub(crate) fn has_room(&self, window_bytes_max: usize) -> bool {
        self.in_flight_bytes < window_bytes_max
    }

    /// Storage has read entries that start at `next`.
    pub(crate) fn stage(&mut self, entries: Vec<Entry>) {
        assert!(entries.first().is_none_or(|entry| entry.index == self.next));
        self.reads_failed = 0;
        self.staged = entries.into();
    }

    /// Read entries from `next` on, as far as `bytes_max` goes, but at least one if there is one.
    pub(crate) fn take_staged(&mut self, bytes_max: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = self.staged.front() {
            bytes += crate::log::entry_bytes(entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.extend(self.staged.pop_front());
        }
        entries
    }

    fn advance_to(&mut self, next: LogIndex) {
        self.next = self.next.max(next);
        while self
            .staged
            .front()
            .is_some_and(|entry| entry.index < self.next)
        {
            self.staged.pop_front();
        }
    }

    pub(crate) fn check_invariants(&self, last: LogIndex) {
        assert!(
            self.match_index < self.next,
            "{} matches, {} next",
            self.match_index,
            self.next
        );
        assert!(
            self.next <= last.next(),
            "{} is next, the log ends at {last}",
            self.next
        );
        let bytes: usize = self.in_flight.iter().map(|sent| sent.bytes).sum();
        assert_eq!(bytes, self.in_flight_bytes);
        let staged = self.staged.front();
        assert!(
            staged.is_none_or(|entry| entry.index == self.next),
            "stale entries are staged"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acceptance_ends_the_probe_and_frees_the_window() {
        let mut progress = Progress::new(MemberRole::Voter, LogIndex(10));
        progress.accepted(LogIndex(4));
        assert_eq!(
            (progress.mode, progress.next),
            (Mode::Replicate, LogIndex(5))
        );
        progress.sent(LogIndex(6), 100);
        progress.sent(LogIndex(9), 50);
        assert!(!progress.has_room(150));
        progress.accepted(LogIndex(6));
        assert!(progress.has_room(51) && !progress.has_room(50));
        progress.accepted(LogIndex(5));
        assert_eq!(
            (progress.match_index, progress.next),
            (LogIndex(6), LogIndex(10))
        );
        progress.check_invariants(LogIndex(10));
    }

    #[test]
    fn a_probe_never_goes_below_what_is_known_to_match() {
        let mut progress = Progress::new(MemberRole::Voter, LogIndex(10));
        progress.accepted(LogIndex(4));
        progress.sent(LogIndex(9), 50);
        progress.probe_from(LogIndex(2));
        assert_eq!((progress.mode, progress.next), (Mode::Probe, LogIndex(5)));
        assert!(progress.has_room(1));
        progress.check_invariants(LogIndex(10));
    }
}

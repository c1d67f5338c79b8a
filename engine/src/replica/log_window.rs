//! The end of the log that is kept for members that lack it, whether they are there or not.
//!
//! A member that is further behind than the window is left to a snapshot, so that one that is down
//! does not hold everybody's log. The window is a number of bytes, because that is what the log
//! takes on the disk.

use std::collections::VecDeque;

use ringlite_raft::{Entry, LogIndex};

/// How precisely the window is kept: one mark for each such part of it.
const MARKS: u64 = 256;

/// How far back the log's last bytes reach.
#[derive(Debug)]
pub(super) struct LogWindow {
    window_bytes: u64,
    /// Of all entries so far.
    total_bytes: u64,
    /// Entries, each with the total up to it, ascending. The first is the newest one that the window
    /// does not begin behind yet.
    marks: VecDeque<(LogIndex, u64)>,
}

impl LogWindow {
    pub(super) fn new(window_bytes: u64) -> Self {
        Self {
            window_bytes,
            total_bytes: 0,
            marks: VecDeque::new(),
        }
    }

    /// An entry has joined the log.
    pub(super) fn appended(&mut self, entry: &Entry) {
        // Void entries count on, which at the worst makes the window shorter by what they were.
        let kept = self
            .marks
            .partition_point(|(index, _)| *index < entry.index);
        self.marks.truncate(kept);
        self.total_bytes += ringlite_raft::record_bytes(entry.payload.len()) as u64;
        let newest = self.marks.back().map_or(0, |(_, total)| *total);
        if self.total_bytes - newest >= self.window_bytes / MARKS {
            self.marks.push_back((entry.index, self.total_bytes));
        }
        while let Some((_, total)) = self.marks.get(1)
            && self.total_bytes - total >= self.window_bytes
        {
            self.marks.pop_front();
        }
    }

    /// Another log has taken the place of this one.
    pub(super) fn replaced(&mut self) {
        self.marks.clear();
    }

    /// What is at or below is outside of the window.
    pub(super) fn start(&self) -> LogIndex {
        match self.marks.front() {
            Some((index, total)) if self.total_bytes - total >= self.window_bytes => *index,
            _ => LogIndex::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ringlite_raft::{EntryKind, Term};

    use super::*;

    const RECORD_BYTES: u64 = 4096;

    fn append(window: &mut LogWindow, indexes: std::ops::RangeInclusive<u64>) {
        for index in indexes {
            window.appended(&Entry {
                term: Term(1),
                index: LogIndex(index),
                kind: EntryKind::Data,
                payload: Bytes::from_static(&[1; 100]),
            });
        }
    }

    #[test]
    fn it_holds_its_bytes_and_little_more() {
        for records in [1, 10, 300, 1_000] {
            let mut window = LogWindow::new(records * RECORD_BYTES);
            for last in 1..=3_000 {
                append(&mut window, last..=last);
                let kept = last - window.start().0;
                assert!(kept >= records.min(last), "{kept} of {records} at {last}");
                assert!(kept <= records + records / MARKS + 1, "{kept} at {last}");
            }
            assert!(window.marks.len() as u64 <= MARKS + 2);
        }
    }

    #[test]
    fn what_is_void_is_no_mark() {
        let mut window = LogWindow::new(10 * RECORD_BYTES);
        append(&mut window, 1..=100);
        append(&mut window, 95..=96);
        assert!(window.start() < LogIndex(95));
        append(&mut window, 97..=110);
        assert_eq!(window.start(), LogIndex(100));
    }

    #[test]
    fn a_window_of_no_bytes_keeps_nothing() {
        let mut window = LogWindow::new(0);
        append(&mut window, 1..=5);
        assert_eq!(window.start(), LogIndex(5));
    }
}

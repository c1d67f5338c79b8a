//! The history of a WAL: which commits are part of it, across roll-backs and restarts.

use std::collections::BTreeMap;

use crate::header::{CommitPoint, IndexHeader, WalPosition};

/// What has committed, what of it was captured, and which commits are being read.
pub(crate) struct History {
    /// The header of the last commit, and the last one that was captured, applied or rolled back
    /// to.
    pub(crate) committed: IndexHeader,
    pub(crate) captured: IndexHeader,
    /// The header of the empty WAL that this history began with.
    start: IndexHeader,
    /// For each generation since the last restart that still has commits the frame it began at,
    /// ascending; never empty, and the first is 0. It grows by 16 bytes with each roll-back that
    /// does not go behind an earlier one, until the next restart.
    generations: Vec<WalPosition>,
    /// What the commit at the last restart was called before: it is frame 0 since then.
    before_restart: Vec<WalPosition>,
    /// The frames of pinned commits, by the number of the pin.
    pins: BTreeMap<u64, u32>,
    pins_made: u64,
}

impl History {
    /// The history of an empty WAL.
    pub(crate) fn new(header: IndexHeader) -> History {
        History {
            committed: header,
            captured: header,
            start: header,
            generations: vec![WalPosition {
                generation: 1,
                frame: 0,
            }],
            before_restart: Vec::new(),
            pins: BTreeMap::new(),
            pins_made: 0,
        }
    }

    /// The generation that lives now.
    pub(crate) fn generation(&self) -> u64 {
        self.generations.last().map_or(0, |last| last.generation)
    }

    /// The last commit.
    pub(crate) fn commit_point(&self) -> CommitPoint {
        let position = WalPosition {
            generation: self.generation(),
            frame: self.committed.max_frame(),
        };
        CommitPoint {
            position,
            header: self.committed,
        }
    }

    /// Whether the frames up to `position` are those that a reader saw there when it was the end.
    fn contains(&self, position: WalPosition) -> bool {
        let begins = self
            .generations
            .iter()
            .position(|at| at.generation == position.generation);
        begins.is_some_and(|index| {
            let end = self.generations.get(index + 1).map(|next| next.frame);
            let end = end.unwrap_or_else(|| self.committed.max_frame());
            (self.generations[index].frame..=end).contains(&position.frame)
        })
    }

    /// What `point` is called today; None if it is not part of the history, or lies before the last
    /// restart. The commit at the restart itself goes by its old names too.
    pub(crate) fn resolve(&self, point: &CommitPoint) -> Option<CommitPoint> {
        if self.contains(point.position) {
            return Some(*point);
        }
        self.before_restart
            .contains(&point.position)
            .then_some(CommitPoint {
                position: self.generations[0],
                header: self.start,
            })
    }

    /// Whether a position is of a generation that the last restart ended.
    pub(crate) fn is_before_restart(&self, position: WalPosition) -> bool {
        position.generation < self.generations[0].generation
    }

    /// Makes `to`, which is resolved, the last commit and begins a new generation there.
    pub(crate) fn roll_back(&mut self, to: &CommitPoint, generation: u64) {
        self.generations
            .retain(|at| at.generation <= to.position.generation);
        self.generations.push(WalPosition {
            generation,
            frame: to.position.frame,
        });
        self.committed = to.header;
        self.captured = to.header;
        self.pins.retain(|_, frame| *frame <= to.position.frame);
    }

    /// Begins a new generation, of an empty WAL with `header`. What came before is in the file.
    pub(crate) fn restart(&mut self, header: IndexHeader, generation: u64) {
        let frame = self.committed.max_frame();
        let names = self.generations.iter().map(|at| WalPosition {
            generation: at.generation,
            frame,
        });
        self.before_restart = names.filter(|name| self.contains(*name)).collect();
        self.generations = vec![WalPosition {
            generation,
            frame: 0,
        }];
        self.start = header;
        self.committed = header;
        self.captured = header;
    }

    /// Pins a frame; returns the number of the pin.
    pub(crate) fn pin(&mut self, frame: u32) -> u64 {
        self.pins_made += 1;
        self.pins.insert(self.pins_made, frame);
        self.pins_made
    }

    /// Gives a pin back.
    pub(crate) fn unpin(&mut self, pin: u64) {
        self.pins.remove(&pin);
    }

    /// The lowest frame that is pinned.
    pub(crate) fn oldest_pin(&self) -> Option<u32> {
        self.pins.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageSize;

    fn point(generation: u64, frame: u32) -> CommitPoint {
        let header = IndexHeader::empty(PageSize::DEFAULT, 1).next_commit(frame, 1);
        CommitPoint {
            position: WalPosition { generation, frame },
            header,
        }
    }

    fn history() -> History {
        History::new(IndexHeader::empty(PageSize::DEFAULT, 1))
    }

    #[test]
    fn a_history_knows_what_was_rolled_back() {
        let mut history = history();
        history.committed = point(1, 20).header;
        assert!(history.contains(point(1, 20).position));
        assert!(!history.contains(point(1, 21).position));
        assert!(!history.contains(point(2, 5).position));

        history.roll_back(&point(1, 10), 2);
        assert!(
            history.contains(point(1, 10).position) && !history.contains(point(1, 11).position)
        );
        history.committed = point(2, 15).header;
        assert!(history.contains(point(2, 15).position) && !history.contains(point(2, 9).position));

        history.roll_back(&point(1, 4), 3);
        assert!(!history.contains(point(2, 10).position));
        assert_eq!(history.commit_point().position, point(3, 4).position);
        assert!(history.contains(point(1, 4).position) && !history.contains(point(1, 5).position));
    }

    #[test]
    fn of_what_lies_before_a_restart_only_its_last_commit_is_known() {
        let mut history = history();
        history.committed = point(1, 20).header;
        history.roll_back(&point(1, 10), 2);
        let empty = IndexHeader::empty(PageSize::DEFAULT, 7);
        history.restart(empty, 3);
        assert_eq!(history.commit_point().position, point(3, 0).position);
        // Both names of frame 10 are the start of the new generation.
        for name in [point(1, 10), point(2, 10), point(3, 0)] {
            let today = history.resolve(&name).unwrap();
            assert_eq!(today.position, point(3, 0).position);
        }
        assert_eq!(history.resolve(&point(2, 10)).unwrap().header, empty);
        for gone in [point(1, 9), point(1, 20), point(2, 11), point(3, 1)] {
            assert!(history.resolve(&gone).is_none(), "{gone:?}");
        }
        assert!(history.is_before_restart(point(2, 10).position));
        assert!(!history.is_before_restart(point(3, 0).position));

        // They still are after a roll-back to there, and no longer after the next restart.
        history.committed = point(3, 4).header;
        let start = history.resolve(&point(1, 10)).unwrap();
        history.roll_back(&start, 4);
        assert_eq!(history.commit_point().position, point(4, 0).position);
        assert!(history.resolve(&point(2, 10)).is_some());
        history.committed = point(4, 6).header;
        history.restart(empty, 5);
        assert!(history.resolve(&point(2, 10)).is_none());
        assert!(history.resolve(&point(4, 6)).is_some());
    }

    #[test]
    fn the_oldest_pin_counts_and_pins_of_a_lost_future_go() {
        let mut history = history();
        history.committed = point(1, 20).header;
        assert_eq!(history.oldest_pin(), None);
        let early = history.pin(5);
        history.pin(15);
        let again = history.pin(5);
        history.unpin(early);
        assert_eq!(history.oldest_pin(), Some(5));
        history.unpin(again);
        assert_eq!(history.oldest_pin(), Some(15));
        history.roll_back(&point(1, 10), 2);
        assert_eq!(history.oldest_pin(), None);
    }
}

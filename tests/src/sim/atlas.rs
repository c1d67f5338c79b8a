//! Whose disks may be damaged beyond what they can repair by themselves.

use super::settings::{Mode, Settings};

/// What is known of a node's log, or of its only hard state or manifest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// It holds all that was durable.
    Whole,
    /// It was damaged since the last start, which will find out.
    Damaged,
    /// It was cut at the damage and lacks what the others have.
    Owing,
}

/// A node with a damaged log is repaired from the others. So that there is always one that has what it
/// lacks, no more than a minority is damaged or being repaired at a time: what is committed is on a
/// majority, and the last good copy of it is never destroyed. A node whose hard state or manifest is gone
/// starts no more, and counts for good.
pub(crate) struct Atlas {
    conditions: Vec<Condition>,
    nodes_max: usize,
}

impl Atlas {
    pub(super) fn new(settings: &Settings) -> Atlas {
        Atlas {
            conditions: vec![Condition::Whole; settings.size],
            nodes_max: match settings.mode {
                // Of members that come and go there may be few.
                Mode::Recoverable if settings.churns => 0,
                Mode::Recoverable | Mode::AnyFile => (settings.size - 1) / 2,
                Mode::AnyLog => settings.size,
            },
        }
    }

    fn count(&self) -> usize {
        let whole = |condition: &&Condition| **condition == Condition::Whole;
        self.conditions.len() - self.conditions.iter().filter(whole).count()
    }

    /// Whether a majority may be gone.
    pub(super) fn is_exceeded(&self) -> bool {
        self.count() > (self.conditions.len() - 1) / 2
    }

    pub(super) fn may_damage(&self, at: usize) -> bool {
        self.condition(at) != Condition::Whole || self.count() < self.nodes_max
    }

    pub(super) fn damaged(&mut self, at: usize) {
        self.set(at, Condition::Damaged);
    }

    pub(super) fn is_damaged(&self, at: usize) -> bool {
        self.condition(at) == Condition::Damaged
    }

    /// Nodes that join later are whole.
    fn condition(&self, at: usize) -> Condition {
        let condition = self.conditions.get(at).copied();
        condition.unwrap_or(Condition::Whole)
    }

    fn set(&mut self, at: usize, condition: Condition) {
        if let Some(of) = self.conditions.get_mut(at) {
            *of = condition;
        }
    }

    /// The node has started, and found what is damaged.
    pub(super) fn started(&mut self, at: usize, owes: bool) {
        let condition = match owes {
            true => Condition::Owing,
            false => Condition::Whole,
        };
        self.set(at, condition);
    }

    /// The node owes nothing. Returns whether it did until now.
    pub(super) fn settled(&mut self, at: usize) -> bool {
        let is_news = self.condition(at) == Condition::Owing;
        if is_news {
            self.set(at, Condition::Whole);
        }
        is_news
    }
}

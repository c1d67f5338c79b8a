//! What a shard notes of the commits that are under way, for their stages.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringlite_raft::{Entry, EntryKind, LogIndex};

use super::Shard;
use crate::replica::request::RequestId;
use crate::stages::{Stage, StageTimes, Stages};

/// The commits of this node that are under way. Runs that leave the core are not among them: they
/// take what they take.
pub(super) struct CommitTimes {
    stages: Rc<Stages>,
    /// When the runs ended whose pages are in no entry yet.
    ran: RefCell<Vec<Instant>>,
    /// The entries that are not committed, by their last index, and when they were made.
    made: RefCell<VecDeque<(LogIndex, Instant)>>,
    /// When the newest commit was noticed.
    committed: Cell<Option<Instant>>,
}

impl CommitTimes {
    pub(super) fn new(stages: Rc<Stages>) -> Self {
        Self {
            stages,
            ran: RefCell::default(),
            made: RefCell::default(),
            committed: Cell::new(None),
        }
    }

    /// A run has ended on the core with something to commit.
    fn ran(&self, asked: Instant, begun: Instant, capture: Duration) {
        let now = Instant::now();
        let stages = &self.stages;
        stages.count(Stage::Wait, begun.saturating_duration_since(asked));
        stages.count(Stage::Execute, (now - begun).saturating_sub(capture));
        stages.count(Stage::Capture, capture);
        self.ran.borrow_mut().push(now);
    }

    /// Entries go to the log, and to the other nodes.
    pub(super) fn appends(&self, entries: &[Entry]) {
        let mut ran = self.ran.borrow_mut();
        if ran.is_empty() {
            return;
        }
        let data = entries.iter().rfind(|entry| entry.kind == EntryKind::Data);
        if let Some(last) = data {
            let now = Instant::now();
            for ended in ran.drain(..) {
                self.stages.count(Stage::Encode, now - ended);
            }
            self.made.borrow_mut().push_back((last.index, now));
        }
    }

    /// Everything up to `index` is committed.
    pub(super) fn committed(&self, index: LogIndex) {
        let mut made = self.made.borrow_mut();
        while let Some((last, at)) = made.front()
            && *last <= index
        {
            let now = Instant::now();
            self.stages.count(Stage::MajorityDurable, now - *at);
            self.committed.set(Some(now));
            made.pop_front();
        }
    }

    /// What was under way is lost with this node's leadership.
    pub(super) fn abandon(&self) {
        self.ran.borrow_mut().clear();
        self.made.borrow_mut().clear();
    }

    /// The answer to a request that has committed something leaves.
    pub(super) fn answered(&self, asked: Instant) {
        let now = Instant::now();
        if let Some(committed) = self.committed.get() {
            self.stages.count(Stage::Release, now - committed);
        }
        self.stages.count(Stage::Total, now - asked);
    }
}

impl Shard {
    /// How long the stages of commits have taken here.
    pub(crate) fn stages(&self) -> Vec<StageTimes> {
        self.times.stages.read()
    }

    /// A run of `request` that began at `begun` has ended on the core with something to commit.
    pub(super) fn note_run(&self, request: RequestId, begun: Instant) {
        if let Some(waiting) = self.waiters.borrow_mut().get_mut(&request) {
            waiting.commits = true;
            let capture = self.sql.borrow().capture_time();
            self.times.ran(waiting.asked, begun, capture);
        }
    }
}

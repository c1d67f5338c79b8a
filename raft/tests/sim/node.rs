//! One node: a replica, its disk, and what a runtime keeps between them.

use super::disk::Disk;
use ringlite_raft::{Entry, Input, IoId, LogIndex, Message, NodeId, Raft, ReadId, Term};
use std::collections::BTreeMap;

/// A request to read entries, under way.
pub(crate) struct Reading {
    pub(crate) due: u64,
    pub(crate) peer: u64,
    pub(crate) from: LogIndex,
    pub(crate) up_to: LogIndex,
}

pub(crate) struct Node {
    /// None while the node is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    /// Messages that wait for the disk.
    pub(crate) held: Vec<(IoId, usize, Message)>,
    pub(crate) persisted: IoId,
    pub(crate) inbox: Vec<Input>,
    pub(crate) readings: Vec<Reading>,
    /// Applied up to here; starts over at each restart, from the base of the log.
    pub(crate) applied: LogIndex,
    /// Outstanding reads, each with the highest commit index of all nodes when it began.
    pub(crate) reads: BTreeMap<ReadId, LogIndex>,
    pub(crate) tick_phase: u64,
    /// The process stands still until then.
    pub(crate) paused_until: u64,
    /// Ticks that came while it stood still.
    pub(crate) missed_ticks: u64,
    /// How often it was started.
    pub(crate) life: u64,
    /// The terms of the log that the disk holds once it has done all that it was told.
    pub(crate) told: Vec<Term>,
}

impl Node {
    pub(crate) fn new(id: u64, tick_phase: u64) -> Node {
        Node {
            raft: None,
            disk: Disk::new(id),
            held: Vec::new(),
            persisted: IoId(0),
            inbox: Vec::new(),
            readings: Vec::new(),
            applied: LogIndex::ZERO,
            reads: BTreeMap::new(),
            tick_phase,
            paused_until: 0,
            missed_ticks: 0,
            life: 0,
            told: Vec::new(),
        }
    }

    /// Everything in memory is gone.
    pub(crate) fn forget(&mut self) {
        self.raft = None;
        self.held.clear();
        self.persisted = IoId(0);
        self.inbox.clear();
        self.readings.clear();
        self.applied = LogIndex::ZERO;
        self.reads.clear();
        self.paused_until = 0;
        self.missed_ticks = 0;
    }

    /// An entry from memory or from the disk, as a runtime would find it.
    pub(crate) fn entry(&self, index: LogIndex) -> Entry {
        let cached = self
            .raft
            .as_ref()
            .and_then(|raft| raft.entry(index))
            .cloned();
        assert!(index > self.disk.base(), "{index} is needed and was cut");
        cached.unwrap_or_else(|| self.disk.durable[index.0 as usize - 1].clone())
    }

    pub(crate) fn read_due(&mut self, now: u64) {
        let (due, later) = self
            .readings
            .drain(..)
            .partition(|reading| reading.due <= now);
        self.readings = later;
        let due: Vec<Reading> = due;
        for Reading {
            peer, from, up_to, ..
        } in due
        {
            let start = from.prev().0 as usize;
            let end = (up_to.0 as usize)
                .min(start + 3)
                .min(self.disk.durable.len());
            // What was cut since the request cannot be read any more.
            let entries = if from > self.disk.base() {
                self.disk.durable.get(start..end).unwrap_or(&[]).to_vec()
            } else {
                Vec::new()
            };
            self.inbox.push(Input::EntriesRead {
                peer: NodeId(peer),
                entries,
            });
        }
    }
}

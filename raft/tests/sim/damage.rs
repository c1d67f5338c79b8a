//! Bits that rot while a node is down: one record of its log is destroyed.
//!
//! The atlas: at most a minority is damaged or being repaired at a time, and nothing is destroyed of
//! which a lone node cannot know that it was durable (the last write before a crash, which looks like a
//! torn one).

use super::Cluster;
use super::disk::Disk;
use super::random::Random;
use ringlite_raft::{Debt, LogIndex, RecoveredLog, SegmentScan, Status, recover, scan_segment};

const BLOCK_BYTES: usize = 4096;

/// Perhaps a record of a node that is down rots.
pub(super) fn strike(cluster: &mut Cluster, at: usize) {
    let nodes = cluster.nodes.iter();
    let whole = nodes.filter(|node| {
        let owes = |status: Status| status.debt.is_some();
        let owing = node.raft.as_ref().map(|raft| owes(raft.status()));
        !node.disk.is_damaged && !owing.unwrap_or(node.disk.debt.is_some())
    });
    let majority = cluster.nodes.len() / 2 + 1;
    if whole.count() > majority && cluster.nodes[at].disk.rot(&mut cluster.random) {
        cluster.faults.struck.rotten += 1;
    }
}

impl Disk {
    /// Destroys a block of the log, or what it holds; false if there is none that can be missed.
    fn rot(&mut self, random: &mut Random) -> bool {
        if self.segments.is_empty() || self.is_damaged {
            return false;
        }
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        let number = numbers[random.below(numbers.len() as u64) as usize];
        let before = self.segments[&number].clone();
        let blocks = before.len() / BLOCK_BYTES;
        let start = random.below(blocks as u64) as usize * BLOCK_BYTES;
        let segment = self.segments.get_mut(&number).expect("a segment that is");
        match random.below(5) {
            0 => segment[start..start + BLOCK_BYTES].fill(0),
            1 => segment[start + random.below(144) as usize] ^= 1 << random.below(8),
            2 => segment[start + 144 + random.below(100) as usize] ^= 1 << random.below(8),
            // All of it: nothing is left of the epoch, if it had no other segment.
            3 => segment.fill(0),
            // A write that belongs somewhere else.
            _ => {
                let other = numbers[random.below(numbers.len() as u64) as usize];
                let from = random.below(blocks as u64) as usize * BLOCK_BYTES;
                let block = self.segments[&other][from..from + BLOCK_BYTES].to_vec();
                let segment = self.segments.get_mut(&number).expect("a segment that is");
                segment[start..start + BLOCK_BYTES].copy_from_slice(&block);
            }
        }
        let found = recover(self.scans(), self.mark, self.manifest.base).expect("a log of ours");
        match found.fault {
            Some(fault) => {
                self.is_damaged = true;
                if let Some(last) = self.durable.last() {
                    let (term, index) = (last.term, last.index);
                    let owed = fault.debt(self.hard_state.term);
                    assert!(owed >= Debt { term, index }, "{owed} is owed of {index}");
                }
                true
            }
            None => {
                let undecidable = !self.holds_what_was_durable(&found);
                if undecidable {
                    let epoch = |bytes: &[u8]| {
                        let scan = scan_segment(bytes, number, &self.identity);
                        scan.expect("a segment of ours").epoch()
                    };
                    let newest = self.scans().iter().filter_map(SegmentScan::epoch).max();
                    assert!(epoch(&before) >= newest, "what is gone was not missed");
                }
                if undecidable || self.segments[&number] == before {
                    self.segments.insert(number, before);
                }
                false
            }
        }
    }

    fn holds_what_was_durable(&self, found: &RecoveredLog) -> bool {
        let durable = self.durable.iter().skip(found.base.index.0 as usize);
        let mut records = found.records.iter();
        let mut next = || records.next().map(|record| (record.index, record.term));
        durable
            .map(|entry| (entry.index, entry.term))
            .all(|entry| next() == Some(entry))
    }

    /// The node starts with what is left, and owes the rest.
    pub(super) fn repair(&mut self, fault: ringlite_raft::Fault, kept: LogIndex) {
        // It is found again until something was written behind it.
        let is_known = self.is_damaged || self.debt.is_some();
        assert!(is_known, "a crash is not damage: {fault}");
        self.is_damaged = false;
        self.debt = self.debt.max(Some(fault.debt(self.hard_state.term)));
        self.durable.truncate(kept.0 as usize);
        self.segment_of.truncate(kept.0 as usize);
    }

    /// Whether it holds the entry there, or has promised to elect nobody who does not.
    pub(crate) fn holds_or_owes(&self, term: ringlite_raft::Term, index: LogIndex) -> bool {
        let held = self.durable.get(index.0 as usize - 1);
        held.is_some_and(|held| held.term == term) || self.debt >= Some(Debt { term, index })
    }
}

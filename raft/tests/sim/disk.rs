//! A disk with one write in flight. What has completed survives a crash; of the write in flight
//! each sector may be new, old or garbage. The log lies in it as real records, and a restart
//! recovers it with the real recovery. The base of the log is in a manifest beside it, which is
//! durable before any segment that it makes obsolete is removed.

use super::random::Random;
use bytes::Bytes;
use ringlite_raft::{
    Configuration, Debt, DurableMark, Entry, EntryKind, HardState, IoId, LogBase, LogIndex,
    RECORD_HEADER_BYTES, RecordIdentity, RecordPlace, RecoveredLog, RestoredLog, Term,
    encode_record, record_bytes, recover, scan_segment,
};
use std::collections::{BTreeMap, VecDeque};

const SEGMENT_BYTES: usize = 16 * 4096;
const SECTOR_BYTES: usize = 512;

enum Operation {
    Save {
        io: IoId,
        hard_state: HardState,
    },
    Append {
        io: IoId,
        truncate: Option<LogIndex>,
        entries: Vec<Entry>,
    },
}

struct InFlight {
    /// What is complete with it; none for the first parts of an append over several segments.
    io: Option<IoId>,
    done_at: u64,
    write: Write,
}

enum Write {
    HardState(HardState, DurableMark),
    Records {
        segment: u64,
        offset: usize,
        bytes: Vec<u8>,
        entries: Vec<Entry>,
    },
}

/// Where the next record goes.
struct Writer {
    epoch: u64,
    epoch_first: LogIndex,
    epoch_previous_term: Term,
    /// The terms of the entries that were given to the disk.
    terms: Vec<Term>,
    /// The number of the segment. None: start a fresh one.
    segment: Option<u64>,
    offset: usize,
    previous_crc: u32,
}

/// Where the log begins: behind the base, whose record is in the segment.
#[derive(Clone, Default)]
pub(super) struct Manifest {
    pub(super) base: LogBase,
    /// The members as of the base.
    configuration: Configuration,
    segment: u64,
}

/// What a snapshot brings: the state up to the last of these entries, and the members there.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) entries: Vec<Entry>,
    pub(crate) configuration: Configuration,
}

impl Snapshot {
    pub(crate) fn base(&self) -> LogBase {
        let last = self.entries.last().expect("a snapshot of something");
        LogBase {
            index: last.index,
            term: last.term,
        }
    }
}

pub(crate) struct Disk {
    pub(super) identity: RecordIdentity,
    /// By number.
    pub(super) segments: BTreeMap<u64, Vec<u8>>,
    pub(super) manifest: Manifest,
    /// A manifest on its way to the disk, and when it will be there.
    manifest_in_flight: Option<(u64, Manifest)>,
    pub(super) hard_state: HardState,
    pub(super) mark: DurableMark,
    /// Saved with the hard state.
    pub(crate) debt: Option<Debt>,
    /// Something has rotted since the last start.
    pub(super) is_damaged: bool,
    writer: Writer,
    /// The entries of completed writes, less what a truncation that was asked for takes away. Also
    /// those that were cut off, for the checkers to look at.
    pub(crate) durable: Vec<Entry>,
    /// The segment that holds each of them.
    pub(super) segment_of: Vec<u64>,
    /// The epoch in which the newest of them was written.
    durable_epoch: u64,
    /// A snapshot that is about to take the place of everything, and when.
    installing: Option<(u64, Snapshot)>,
    waiting: VecDeque<Operation>,
    in_flight: Option<InFlight>,
    pub(crate) torn: u64,
    pub(crate) cuts: u64,
    pub(crate) removed: u64,
}

impl Disk {
    pub(crate) fn new(node: u64) -> Disk {
        Disk {
            identity: RecordIdentity {
                cluster: 77,
                shard: 3,
                incarnation: node,
            },
            segments: BTreeMap::new(),
            manifest: Manifest::default(),
            manifest_in_flight: None,
            hard_state: HardState::default(),
            mark: DurableMark::default(),
            debt: None,
            is_damaged: false,
            writer: Writer {
                epoch: 1,
                epoch_first: LogIndex(1),
                epoch_previous_term: Term(0),
                terms: Vec::new(),
                segment: None,
                offset: 0,
                previous_crc: 0,
            },
            durable: Vec::new(),
            segment_of: Vec::new(),
            durable_epoch: 0,
            installing: None,
            waiting: VecDeque::new(),
            in_flight: None,
            torn: 0,
            cuts: 0,
            removed: 0,
        }
    }

    pub(crate) fn save(&mut self, io: IoId, hard_state: HardState) {
        self.waiting.push_back(Operation::Save { io, hard_state });
    }

    pub(crate) fn append(&mut self, io: IoId, truncate: Option<LogIndex>, entries: Vec<Entry>) {
        if let Some(from) = truncate {
            assert!(from > self.base(), "what was cut is truncated");
            self.durable.truncate(from.prev().0 as usize);
            self.segment_of.truncate(self.durable.len());
        }
        self.waiting.push_back(Operation::Append {
            io,
            truncate,
            entries,
        });
    }

    /// Starts the next write if none is in flight; true if it did.
    pub(crate) fn start(&mut self, now: u64, commit: LogIndex, delay: u64) -> bool {
        if self.in_flight.is_some() {
            return false;
        }
        let (io, write) = match self.waiting.pop_front() {
            None => return false,
            Some(Operation::Save { io, hard_state }) => {
                let index = LogIndex(self.durable.len() as u64);
                let mark = DurableMark {
                    epoch: self.durable_epoch,
                    index,
                };
                (Some(io), Write::HardState(hard_state, mark))
            }
            Some(Operation::Append {
                io,
                truncate,
                entries,
            }) => {
                if let Some(from) = truncate {
                    self.start_epoch(self.writer.epoch + 1, from);
                }
                self.encode(io, entries, commit)
            }
        };
        self.in_flight = Some(InFlight {
            io,
            done_at: now + delay,
            write,
        });
        true
    }

    fn start_epoch(&mut self, epoch: u64, epoch_first: LogIndex) {
        let mut terms = std::mem::take(&mut self.writer.terms);
        terms.truncate(epoch_first.prev().0 as usize);
        self.writer = Writer {
            epoch,
            epoch_first,
            epoch_previous_term: terms.last().copied().unwrap_or_default(),
            terms,
            segment: None,
            offset: 0,
            previous_crc: 0,
        };
    }

    /// As many records as fit into one segment; the rest goes back to the head of the queue.
    fn encode(
        &mut self,
        io: IoId,
        mut entries: Vec<Entry>,
        commit: LogIndex,
    ) -> (Option<IoId>, Write) {
        let bytes_of = |entry: &Entry| record_bytes(entry.payload.len());
        if self.writer.segment.is_none()
            || self.writer.offset + bytes_of(&entries[0]) > SEGMENT_BYTES
        {
            let number = self.newest_segment() + 1;
            self.segments.insert(number, vec![0; SEGMENT_BYTES]);
            self.writer.segment = Some(number);
            (self.writer.offset, self.writer.previous_crc) = (0, 0);
        }
        let segment = self.writer.segment.expect("a segment");
        let offset = self.writer.offset;
        let mut bytes = Vec::new();
        let mut count = 0;
        for entry in &entries {
            if offset + bytes.len() + bytes_of(entry) > SEGMENT_BYTES {
                break;
            }
            let place = RecordPlace {
                identity: self.identity,
                segment,
                epoch: self.writer.epoch,
                epoch_first: self.writer.epoch_first,
                epoch_previous_term: self.writer.epoch_previous_term,
                previous_header_crc: self.writer.previous_crc,
                durable_upto: LogIndex(self.durable.len() as u64),
                commit,
            };
            let start = bytes.len();
            bytes.resize(start + bytes_of(entry), 0xee);
            self.writer.previous_crc = encode_record(&place, entry, &mut bytes[start..]);
            self.writer.terms.push(entry.term);
            count += 1;
        }
        self.writer.offset += bytes.len();
        let rest = entries.split_off(count);
        let io = if rest.is_empty() {
            Some(io)
        } else {
            self.waiting.push_front(Operation::Append {
                io,
                truncate: None,
                entries: rest,
            });
            None
        };
        (
            io,
            Write::Records {
                segment,
                offset,
                bytes,
                entries,
            },
        )
    }

    /// Completes the write in flight if it is due; returns what is durable with it.
    pub(crate) fn complete(&mut self, now: u64) -> Option<IoId> {
        let due = self
            .in_flight
            .as_ref()
            .is_some_and(|write| write.done_at <= now);
        let InFlight { io, write, .. } = if due {
            self.in_flight.take()?
        } else {
            return None;
        };
        match write {
            Write::HardState(hard_state, mark) => {
                (self.hard_state, self.mark) = (hard_state, mark);
            }
            Write::Records {
                segment,
                offset,
                bytes,
                entries,
            } => {
                self.write(segment, offset, &bytes);
                // A truncation that was asked for since then may have made some of them void.
                let void_from = self.waiting.iter().find_map(|operation| match operation {
                    Operation::Append { truncate, .. } => *truncate,
                    Operation::Save { .. } => None,
                });
                for entry in entries {
                    if void_from.is_none_or(|from| entry.index < from)
                        && entry.index.0 == self.durable.len() as u64 + 1
                    {
                        self.durable.push(entry);
                        self.segment_of.push(segment);
                        self.durable_epoch = self.writer.epoch;
                    }
                }
            }
        }
        io
    }

    fn write(&mut self, segment: u64, offset: usize, bytes: &[u8]) {
        let target = self.segments.get_mut(&segment).expect("a segment that is");
        target[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn newest_segment(&self) -> u64 {
        self.segments.keys().next_back().copied().unwrap_or(0)
    }

    /// The log begins behind this index.
    pub(crate) fn base(&self) -> LogIndex {
        self.manifest.base.index
    }

    /// Starts to write a manifest by which the log begins behind `up_to`.
    pub(crate) fn start_cut(
        &mut self,
        up_to: LogIndex,
        configuration: Configuration,
        done_at: u64,
    ) {
        let position = up_to.prev().0 as usize;
        let base = LogBase {
            index: up_to,
            term: self.durable[position].term,
        };
        let segment = self.segment_of[position];
        self.manifest_in_flight = Some((
            done_at,
            Manifest {
                base,
                configuration,
                segment,
            },
        ));
    }

    pub(crate) fn is_cutting(&self) -> bool {
        self.manifest_in_flight.is_some() || self.installing.is_some()
    }

    /// The manifest is durable if it is due: segments may vanish now. Returns the new base.
    pub(crate) fn complete_cut(&mut self, now: u64, random: &mut Random) -> Option<LogIndex> {
        let (_, manifest) = self
            .manifest_in_flight
            .take_if(|(done_at, _)| *done_at <= now)?;
        let base = manifest.base.index;
        self.manifest = manifest;
        self.remove_some_obsolete(random);
        Some(base)
    }

    pub(crate) fn start_install(&mut self, snapshot: Snapshot, done_at: u64) {
        self.manifest_in_flight = None;
        self.installing = Some((done_at, snapshot));
    }

    /// The switch to the snapshot, if it is due; not before earlier appends are done with.
    pub(crate) fn complete_install(&mut self, now: u64) -> Option<Snapshot> {
        let appends = |operation: &Operation| matches!(operation, Operation::Append { .. });
        if self.in_flight.is_some() || self.waiting.iter().any(appends) {
            return None;
        }
        let (_, snapshot) = self.installing.take_if(|(done_at, _)| *done_at <= now)?;
        self.install(&snapshot);
        Some(snapshot)
    }

    /// A fresh segment, in an epoch of its own, with the record of the base; then the manifest.
    fn install(&mut self, snapshot: &Snapshot) {
        let base = snapshot.base();
        self.durable.clone_from(&snapshot.entries);
        self.durable.pop();
        self.writer.terms = self.durable.iter().map(|entry| entry.term).collect();
        self.start_epoch(self.writer.epoch + 1, base.index);
        self.writer.epoch_previous_term = Term(0);
        let last = snapshot.entries.last().expect("the base").clone();
        let (_, write) = self.encode(IoId(0), vec![last.clone()], base.index);
        let Write::Records {
            segment,
            offset,
            bytes,
            ..
        } = write
        else {
            unreachable!("a record is no hard state")
        };
        self.write(segment, offset, &bytes);
        self.durable.push(last);
        self.segment_of = vec![segment; self.durable.len()];
        self.durable_epoch = self.writer.epoch;
        self.manifest = Manifest {
            base,
            configuration: snapshot.configuration.clone(),
            segment,
        };
        self.segments = self.segments.split_off(&segment);
    }

    /// Removes segments that are no part of the log any more, in any order; some stay for later.
    fn remove_some_obsolete(&mut self, random: &mut Random) {
        let first = self.manifest.segment;
        let before = self.segments.len();
        self.segments
            .retain(|&number, _| number >= first || random.per_mille(400));
        self.removed += (before - self.segments.len()) as u64;
    }

    /// The power fails: what waits is gone, the write in flight is torn.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        self.waiting.clear();
        if let Some((_, snapshot)) = self.installing.take() {
            // One record flips all: the old state is found or the new one.
            self.in_flight = None;
            if random.per_mille(500) {
                self.install(&snapshot);
            }
        }
        // Two copies, written one after the other: the old or the new one is found.
        if let Some((_, manifest)) = self.manifest_in_flight.take()
            && random.per_mille(500)
        {
            self.manifest = manifest;
        }
        let Some(InFlight { write, .. }) = self.in_flight.take() else {
            return;
        };
        self.torn += 1;
        match write {
            // Two copies, written one after the other: the old or the new one is found.
            Write::HardState(hard_state, mark) => {
                if random.per_mille(500) {
                    (self.hard_state, self.mark) = (hard_state, mark);
                }
            }
            Write::Records {
                segment,
                offset,
                bytes,
                ..
            } => {
                let unit = [SECTOR_BYTES, 4096, bytes.len()][random.below(3) as usize];
                for (position, part) in bytes.chunks(unit).enumerate() {
                    let at = offset + position * unit;
                    match random.below(5) {
                        0 | 1 => self.write(segment, at, part),
                        2 => {
                            let garbage = vec![random.number() as u8 | 1; part.len()];
                            self.write(segment, at, &garbage);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    pub(super) fn scans(&self) -> Vec<ringlite_raft::SegmentScan> {
        let scans = self.segments.iter().map(|(&number, bytes)| {
            scan_segment(bytes, number, &self.identity).expect("a segment of ours")
        });
        scans.collect()
    }

    /// What the node finds when it starts again.
    pub(crate) fn restart(&mut self) -> (HardState, RestoredLog, RecoveredLog) {
        let Manifest { base, segment, .. } = self.manifest;
        self.segments = self.segments.split_off(&segment);
        let found = recover(self.scans(), self.mark, base).expect("a log of ours");
        if let Some(fault) = found.fault {
            self.repair(fault, found.last);
        }
        let kept = found.last.0 as usize;
        assert!(kept >= self.durable.len(), "recovery lost what was durable");
        let mut entries = self.durable[..base.index.0 as usize].to_vec();
        self.segment_of.truncate(entries.len());
        for record in &found.records {
            let start = record.offset as usize + RECORD_HEADER_BYTES;
            let payload = start..start + record.payload_bytes as usize;
            let payload = Bytes::copy_from_slice(&self.segments[&record.segment][payload]);
            entries.push(Entry {
                term: record.term,
                index: record.index,
                kind: record.kind,
                payload,
            });
            self.segment_of.push(record.segment);
        }
        for (old, new) in self.durable.iter().zip(&entries) {
            assert_eq!(old, new, "recovery changed what was durable");
        }
        self.cuts += u64::from(found.cut.is_some());
        self.durable_epoch = found.epoch;
        self.writer.terms = entries.iter().map(|entry| entry.term).collect();
        // The mark may know an epoch of which nothing is left.
        self.start_epoch(found.epoch.max(self.mark.epoch) + 1, found.last.next());
        assert!(found.highest_segment <= self.newest_segment());
        let tail = entries[found.commit.0 as usize..].to_vec();
        let behind = entries[base.index.0 as usize..].iter();
        let configurations = behind
            .filter(|entry| entry.kind == EntryKind::Configuration)
            .cloned()
            .collect();
        self.durable = entries;
        let (runs, last, commit) = (found.runs.clone(), found.last, found.commit);
        (
            self.hard_state,
            RestoredLog {
                base,
                runs,
                last,
                commit,
                tail,
                debt: self.debt,
                configuration: self.manifest.configuration.clone(),
                configurations,
            },
            found,
        )
    }
}

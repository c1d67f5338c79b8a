//! The log writer on a simulated drive: it keeps to the rules of the real one (one write in flight,
//! no offset written twice, a fresh segment per epoch) and writes the real records.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;

use ringlite::image::{HardStateImage, RecordImage, Restart, ShardImage};
use ringlite_raft::{
    Debt, Entry, EntryKind, HardState, IoId, LogBase, LogIndex, RecordPlace, Term, decode_record,
    encode_record, record_bytes,
};

use super::lost::Lost;
use super::medium::{Write, get};
use super::{Held, Trouble};

/// What gathers goes out in writes of at most about this size.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// After so many ticks without a write the durable mark is saved.
const MARK_AFTER_TICKS: u64 = 5;
/// How many entries are read at once for a peer.
const READ_ENTRIES_MAX: usize = 3;

enum Job {
    Save(IoId, HardState),
    SaveMark,
    Append {
        io: IoId,
        truncate_from: Option<LogIndex>,
        entries: VecDeque<Entry>,
        commit: LogIndex,
    },
}

/// A job that takes several writes.
enum Begun {
    Save {
        io: Option<IoId>,
        copies_left: usize,
    },
    Append {
        io: IoId,
        entries: VecDeque<Entry>,
        commit: LogIndex,
    },
}

/// What is true once a write is complete.
enum Then {
    HardState(HardStateImage),
    Records {
        entries: Vec<Entry>,
        evidence: LogIndex,
        epoch: u64,
    },
    /// The record that stands for the base of a new log.
    Base,
}

/// The log writer.
pub(super) struct LogWriter {
    segment_bytes: u64,
    jobs: VecDeque<Job>,
    begun: Option<Begun>,
    then: Option<Then>,
    hard_state: HardStateImage,
    /// The hard state that is on the medium, in both copies or on its way into the second.
    saved: HardStateImage,
    segment: Option<u64>,
    newest_segment: u64,
    offset: u64,
    previous_header_crc: u32,
    epoch: u64,
    epoch_first: LogIndex,
    epoch_previous_term: Term,
    durable_epoch: u64,
    base: LogBase,
    /// The last index that was given to the disk, and the last that the disk has.
    last: LogIndex,
    /// The end of what is written.
    end: Debt,
    durable_last: LogIndex,
    idle_ticks: u64,
    /// Where the log's records are.
    pub(super) places: BTreeMap<LogIndex, RecordImage>,
    /// What is durable of the log, for the checkers; also what was cut off since.
    pub(super) durable: BTreeMap<LogIndex, Held>,
    pub(super) lost: Lost,
    /// What the entries up to here did came with a snapshot.
    pub(super) installed: LogIndex,
    /// Something on the medium tells that everything up to here was durable.
    pub(super) evidence: LogIndex,
}

impl LogWriter {
    pub(super) fn new(segment_bytes: u64) -> LogWriter {
        LogWriter {
            segment_bytes,
            jobs: VecDeque::new(),
            begun: None,
            then: None,
            hard_state: HardStateImage::default(),
            saved: HardStateImage::default(),
            segment: None,
            newest_segment: 0,
            offset: 0,
            previous_header_crc: 0,
            epoch: 0,
            epoch_first: LogIndex(1),
            epoch_previous_term: Term(0),
            durable_epoch: 0,
            base: LogBase::default(),
            last: LogIndex::ZERO,
            end: Debt {
                term: Term(0),
                index: LogIndex::ZERO,
            },
            durable_last: LogIndex::ZERO,
            idle_ticks: 0,
            places: BTreeMap::new(),
            durable: BTreeMap::new(),
            lost: Lost::default(),
            installed: LogIndex::ZERO,
            evidence: LogIndex::ZERO,
        }
    }

    /// Goes on where recovery has left off: in a fresh segment and a new epoch.
    pub(super) fn restart(&mut self, found: &Restart) {
        let durable = std::mem::take(&mut self.durable);
        let lost = std::mem::take(&mut self.lost);
        let evidence = self.evidence.min(found.log.last);
        let installed = self.installed;
        *self = LogWriter::new(self.segment_bytes);
        self.hard_state = found.hard_state;
        self.saved = found.hard_state;
        self.newest_segment = found.newest_segment;
        self.epoch = found.newest_epoch + 1;
        self.durable_epoch = found.newest_epoch;
        self.epoch_first = found.log.last.next();
        self.base = found.log.base;
        self.last = found.log.last;
        self.durable_last = found.log.last;
        self.places = found
            .places
            .iter()
            .map(|place| (place.index, *place))
            .collect();
        self.durable = durable;
        self.lost = lost;
        self.lost
            .lose(self.durable.split_off(&found.log.last.next()));
        for entry in found.committed.iter().chain(&found.log.tail) {
            self.durable.insert(entry.index, Held::of(entry));
        }
        self.evidence = evidence;
        self.installed = installed;
        let last = found.log.runs.last();
        let term = last.map_or(found.log.base.term, |run| run.term);
        self.epoch_previous_term = term;
        self.ends(term, found.log.last);
    }

    /// Whether the node still owes what its log has lost.
    pub(super) fn owes(&self) -> bool {
        self.saved.debt.is_some()
    }

    pub(super) fn save(&mut self, io: IoId, hard_state: HardState) {
        self.idle_ticks = 0;
        self.jobs.push_back(Job::Save(io, hard_state));
    }

    pub(super) fn append(
        &mut self,
        io: IoId,
        truncate_from: Option<LogIndex>,
        entries: Vec<Entry>,
        commit: LogIndex,
    ) {
        self.idle_ticks = 0;
        if let Some(from) = truncate_from {
            // From now on the node does not speak for these any more.
            self.durable.split_off(&from);
        }
        self.jobs.push_back(Job::Append {
            io,
            truncate_from,
            entries: entries.into(),
            commit,
        });
    }

    pub(super) fn tick(&mut self, ticks: u64) {
        if self.durable_last == self.saved.durable_mark {
            return;
        }
        let before = self.idle_ticks;
        self.idle_ticks += ticks;
        if before < MARK_AFTER_TICKS && self.idle_ticks >= MARK_AFTER_TICKS {
            self.jobs.push_back(Job::SaveMark);
        }
    }

    /// The next write, if there is something to write; what is complete without one is told.
    pub(super) fn next_write(
        &mut self,
        image: &ShardImage,
        is_full: bool,
        done: &mut Option<IoId>,
    ) -> Result<Option<Write>, Trouble> {
        loop {
            match self.begun.take() {
                Some(Begun::Save { io, copies_left: 0 }) => *done = io.or(*done),
                Some(Begun::Save { io, copies_left }) => {
                    let copy = (2 - copies_left) as u64;
                    self.begun = Some(Begun::Save {
                        io,
                        copies_left: copies_left - 1,
                    });
                    let bytes = image.hard_state_copy(&self.hard_state);
                    self.then = Some(Then::HardState(self.hard_state));
                    return Ok(Some(Write {
                        path: image.hard_state_path(),
                        offset: copy * bytes.len() as u64,
                        bytes,
                    }));
                }
                Some(Begun::Append { io, entries, .. }) if entries.is_empty() => {
                    if self.hard_state.debt.is_some_and(|debt| debt <= self.end) {
                        // The log says by itself what the debt says.
                        self.hard_state.debt = None;
                        self.begin_save(Some(io));
                    } else {
                        *done = Some(io);
                    }
                }
                Some(Begun::Append {
                    io,
                    mut entries,
                    commit,
                }) => {
                    let write = self.write_some(image, &mut entries, commit, is_full)?;
                    self.begun = Some(Begun::Append {
                        io,
                        entries,
                        commit,
                    });
                    return Ok(Some(write));
                }
                None => match self.jobs.pop_front() {
                    None => return Ok(None),
                    Some(job) => self.begin(image, job, is_full)?,
                },
            }
        }
    }

    fn begin(&mut self, image: &ShardImage, job: Job, is_full: bool) -> Result<(), Trouble> {
        let io = match job {
            Job::Append {
                mut io,
                truncate_from,
                mut entries,
                mut commit,
            } => {
                if let Some(from) = truncate_from {
                    self.truncate(image, from, is_full)?;
                }
                let mut bytes: usize = entries.iter().map(bytes_of).sum();
                while bytes < WRITE_BYTES_MAX
                    && let Some(next) = self.take_appendable()
                {
                    bytes += next.1.iter().map(bytes_of).sum::<usize>();
                    io = next.0;
                    entries.extend(next.1);
                    commit = next.2;
                }
                self.begun = Some(Begun::Append {
                    io,
                    entries,
                    commit,
                });
                return Ok(());
            }
            Job::Save(io, hard_state) => {
                self.hard_state.hard_state = hard_state;
                Some(io)
            }
            Job::SaveMark => None,
        };
        self.begin_save(io);
        Ok(())
    }

    fn begin_save(&mut self, io: Option<IoId>) {
        self.hard_state.sequence += 1;
        self.hard_state.log_epoch = self.durable_epoch;
        self.hard_state.durable_mark = self.durable_last;
        self.begun = Some(Begun::Save { io, copies_left: 2 });
    }

    /// The next job, if it is an append that cuts nothing off.
    fn take_appendable(&mut self) -> Option<(IoId, VecDeque<Entry>, LogIndex)> {
        match self.jobs.pop_front()? {
            Job::Append {
                io,
                truncate_from: None,
                entries,
                commit,
            } => Some((io, entries, commit)),
            other => {
                self.jobs.push_front(other);
                None
            }
        }
    }

    fn write_some(
        &mut self,
        image: &ShardImage,
        entries: &mut VecDeque<Entry>,
        commit: LogIndex,
        is_full: bool,
    ) -> Result<Write, Trouble> {
        let first_bytes = entries.front().map_or(0, bytes_of) as u64;
        let segment = match self.segment {
            Some(segment) if self.offset + first_bytes <= self.segment_bytes => segment,
            _ => self.next_segment(image, is_full)?,
        };
        let room = (self.segment_bytes - self.offset) as usize;
        assert!(
            first_bytes as usize <= room,
            "a record outgrows its segment"
        );
        let offset = self.offset;
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        let mut written = Vec::new();
        while let Some(entry) = entries.front() {
            let end = bytes.len() + bytes_of(entry);
            if !written.is_empty() && end > room.min(WRITE_BYTES_MAX) {
                break;
            }
            assert_eq!(entry.index, self.last.next(), "the log has no gaps");
            let place = RecordPlace {
                identity: image.identity(),
                segment,
                epoch: self.epoch,
                epoch_first: self.epoch_first,
                epoch_previous_term: self.epoch_previous_term,
                previous_header_crc: self.previous_header_crc,
                durable_upto: self.durable_last,
                commit,
            };
            let start = bytes.len();
            bytes.resize(end, 0);
            self.previous_header_crc = encode_record(&place, entry, &mut bytes[start..]);
            places.push(RecordImage {
                index: entry.index,
                term: entry.term,
                segment,
                offset: offset + start as u64,
                payload_bytes: entry.payload.len(),
            });
            self.last = entry.index;
            written.extend(entries.pop_front());
        }
        self.offset += bytes.len() as u64;
        for place in &places {
            self.places.insert(place.index, *place);
        }
        self.then = Some(Then::Records {
            entries: written,
            evidence: self.durable_last,
            epoch: self.epoch,
        });
        Ok(Write {
            path: image.segment_path(segment),
            offset,
            bytes,
        })
    }

    fn truncate(
        &mut self,
        image: &ShardImage,
        from: LogIndex,
        is_full: bool,
    ) -> Result<(), Trouble> {
        self.next_segment(image, is_full)?;
        self.epoch += 1;
        self.epoch_first = from;
        self.epoch_previous_term = match self.places.get(&from.prev()) {
            Some(place) => place.term,
            None => self.base.term,
        };
        self.places.split_off(&from);
        self.last = from.prev();
        self.durable_last = self.durable_last.min(self.last);
        self.evidence = self.evidence.min(self.last);
        Ok(())
    }

    pub(super) fn next_segment(
        &mut self,
        image: &ShardImage,
        is_full: bool,
    ) -> Result<u64, Trouble> {
        if is_full {
            return Err(Trouble::Full);
        }
        self.newest_segment += 1;
        let number = self.newest_segment;
        self.segment = Some(number);
        (self.offset, self.previous_header_crc) = (0, 0);
        let made = File::create(image.segment_path(number));
        let zeroed = made.and_then(|file| file.set_len(self.segment_bytes));
        zeroed.expect("a segment");
        Ok(number)
    }

    /// The write that was given out last is on the medium.
    pub(super) fn written(&mut self) {
        match self.then.take() {
            None => {}
            Some(Then::Base) => self.base_is_durable(),
            Some(Then::HardState(image)) => {
                self.saved = image;
                if image.log_epoch == self.epoch {
                    self.evidence = self.evidence.max(image.durable_mark);
                }
            }
            Some(Then::Records {
                entries,
                evidence,
                epoch,
            }) => {
                self.durable_epoch = epoch;
                self.evidence = self.evidence.max(evidence);
                if let Some(last) = entries.last() {
                    self.durable_last = last.index;
                    let (term, index) = (last.term, last.index);
                    self.ends(term, index);
                }
                // A truncation that was asked for meanwhile makes some of them void.
                let void_from = self.jobs.iter().find_map(|job| match job {
                    Job::Append { truncate_from, .. } => *truncate_from,
                    Job::Save(..) | Job::SaveMark => None,
                });
                for entry in entries {
                    if void_from.is_none_or(|from| entry.index < from) {
                        self.durable.insert(entry.index, Held::of(&entry));
                    }
                }
            }
        }
    }

    /// Whether nothing is being written, or about to be.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.begun.is_none()
    }

    /// A log that begins behind `base`, in a segment that is no part of the old one: the write of its
    /// first record, and the number of the segment.
    pub(super) fn begin_anew(
        &mut self,
        image: &ShardImage,
        base: LogBase,
        is_full: bool,
    ) -> Result<(Write, u64), Trouble> {
        let number = self.next_segment(image, is_full)?;
        let path = image.staged_segment_path(number);
        std::fs::rename(image.segment_path(number), &path).expect("a segment");
        self.epoch += 1;
        let bytes = self.base_record(image, base, number);
        self.then = Some(Then::Base);
        let offset = 0;
        let write = Write {
            path,
            offset,
            bytes,
        };
        Ok((write, number))
    }

    /// The record that stands for the base of a log, and begins a fresh segment.
    pub(super) fn base_record(
        &mut self,
        image: &ShardImage,
        base: LogBase,
        segment: u64,
    ) -> Vec<u8> {
        self.epoch_first = base.index;
        self.epoch_previous_term = Term(0);
        let entry = Entry {
            term: base.term,
            index: base.index,
            kind: EntryKind::Noop,
            payload: bytes::Bytes::new(),
        };
        let place = RecordPlace {
            identity: image.identity(),
            segment,
            epoch: self.epoch,
            epoch_first: self.epoch_first,
            epoch_previous_term: self.epoch_previous_term,
            previous_header_crc: 0,
            durable_upto: base.index.prev(),
            commit: base.index,
        };
        let mut bytes = vec![0; bytes_of(&entry)];
        self.previous_header_crc = encode_record(&place, &entry, &mut bytes);
        self.offset = bytes.len() as u64;
        bytes
    }

    /// That record is on the medium.
    pub(super) fn base_is_durable(&mut self) {
        self.durable_epoch = self.epoch;
    }

    /// The manifest says that the log begins behind `base` in this segment, with nothing of before.
    pub(super) fn replaced(&mut self, image: &ShardImage, base: LogBase, segment: u64) {
        let staged = image.staged_segment_path(segment);
        std::fs::rename(staged, image.segment_path(segment)).expect("a staged segment");
        for place in std::mem::take(&mut self.places).values() {
            drop(std::fs::remove_file(image.segment_path(place.segment)));
        }
        self.base = base;
        self.last = base.index;
        self.holds_snapshot(base.index);
        self.ends(base.term, base.index);
        if self.hard_state.debt.is_some_and(|debt| debt <= self.end) {
            self.hard_state.debt = None;
            self.jobs.push_back(Job::SaveMark);
        }
    }

    /// The log ends here, durably.
    fn ends(&mut self, term: Term, index: LogIndex) {
        self.end = Debt { term, index };
        self.lost.ends(self.end);
    }

    /// What is durable now is the snapshot alone.
    pub(super) fn holds_snapshot(&mut self, base: LogIndex) {
        self.durable.clear();
        self.durable_last = base;
        self.evidence = base;
        self.installed = base;
    }

    /// The segment of a record, and the base that a log has that is cut behind it.
    pub(super) fn base_behind(&self, index: LogIndex) -> Option<(LogBase, u64)> {
        let place = self.places.get(&index)?;
        let term = self.durable.get(&index)?.term;
        Some((LogBase { index, term }, place.segment))
    }

    /// The segments before this one are no part of the log any more.
    pub(super) fn cut(&mut self, image: &ShardImage, base: LogIndex, segment: u64) {
        if let Some(place) = self.places.get(&base) {
            let (index, term) = (base, place.term);
            self.base = LogBase { index, term };
        }
        let kept = self.places.split_off(&base.next());
        let gone = std::mem::replace(&mut self.places, kept);
        let mut numbers: Vec<u64> = gone.values().map(|place| place.segment).collect();
        numbers.dedup();
        for number in numbers {
            if number < segment {
                // It may be gone already, as a recovery removes what it does not need.
                drop(std::fs::remove_file(image.segment_path(number)));
            }
        }
    }

    /// Entries for a peer that is far behind; a few at a time.
    pub(super) fn read(&self, image: &ShardImage, from: LogIndex, up_to: LogIndex) -> Vec<Entry> {
        let places = self
            .places
            .range(from..=up_to.max(from))
            .take(READ_ENTRIES_MAX);
        let mut entries = Vec::new();
        for (wanted, (index, place)) in (from.0..).zip(places) {
            if index.0 != wanted || !self.durable.contains_key(index) {
                break;
            }
            let bytes = record_bytes(place.payload_bytes);
            let record = get(&image.segment_path(place.segment), place.offset, bytes);
            let (header, payload) = decode_record(&record).expect("a record that was written");
            assert_eq!(header.index, *index, "another record");
            entries.push(Entry {
                term: header.term,
                index: header.index,
                kind: header.kind,
                payload: bytes::Bytes::copy_from_slice(&record[payload]),
            });
        }
        entries
    }

    /// Everything that was not written yet is forgotten.
    pub(super) fn forget(&mut self) {
        self.jobs.clear();
        self.begun = None;
        self.then = None;
    }
}

pub(super) fn bytes_of(entry: &Entry) -> usize {
    record_bytes(entry.payload.len())
}

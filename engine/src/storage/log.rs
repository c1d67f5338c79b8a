//! Where the records of the log are: reading entries that are in memory no longer, and cutting off
//! those that nobody needs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use glommio::io::DmaFile;
use ringlite_raft::{Entry, LogBase, LogIndex, Term, decode_record, record_bytes};

use super::StorageError;
use super::manifest::LogStart;
use super::segment::{self, SegmentReserve};

/// The place of one record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) term: Term,
    pub(super) offset: u32,
    pub(super) payload_bytes: u32,
}

impl Place {
    pub(super) fn new(segment: u64, offset: u64, term: Term, payload_bytes: u32) -> Self {
        Self {
            segment,
            term,
            // A segment is far below 4 GiB.
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            payload_bytes,
        }
    }
}

/// The index of the log: the place of each record.
pub(crate) struct Log {
    directory: PathBuf,
    reserve: Rc<SegmentReserve>,
    state: RefCell<State>,
}

struct State {
    start: LogStart,
    /// From the index behind the base on.
    places: VecDeque<Place>,
    /// The numbers of all segments of the log, ascending; the last one is being written.
    segments: VecDeque<u64>,
    /// Segments that are being read, and by how many.
    readers: BTreeMap<u64, usize>,
    /// Segments that the log was cut behind while they were being read.
    awaiting_readers: BTreeSet<u64>,
}

impl State {
    fn last(&self) -> LogIndex {
        LogIndex(self.start.base.index.0 + self.places.len() as u64)
    }

    /// Where an index above the base is in `places`.
    fn position(&self, index: LogIndex) -> Option<usize> {
        let behind = index.0.checked_sub(self.start.base.index.0)?;
        usize::try_from(behind).ok()?.checked_sub(1)
    }
}

impl Log {
    pub(super) fn new(
        directory: PathBuf,
        reserve: Rc<SegmentReserve>,
        start: LogStart,
        places: VecDeque<Place>,
        segments: VecDeque<u64>,
    ) -> Self {
        Self {
            directory,
            reserve,
            state: RefCell::new(State {
                start,
                places,
                segments,
                readers: BTreeMap::new(),
                awaiting_readers: BTreeSet::new(),
            }),
        }
    }

    pub(super) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// The log goes on in this segment.
    pub(super) fn begin_segment(&self, number: u64) {
        self.state.borrow_mut().segments.push_back(number);
    }

    /// The term of the entry before `index`, which is the base or behind it.
    pub(super) fn term_before(&self, index: LogIndex) -> Term {
        let state = self.state.borrow();
        let base = state.start.base;
        if index.prev() == base.index {
            return base.term;
        }
        let place = state.position(index.prev());
        let Some(place) = place.and_then(|at| state.places.get(at)) else {
            unreachable!(
                "{} is not in the log, which begins behind {}",
                index.prev(),
                base.index
            );
        };
        place.term
    }

    /// Entries from here on are void.
    pub(super) fn truncate(&self, from: LogIndex) {
        let mut state = self.state.borrow_mut();
        let Some(position) = state.position(from) else {
            unreachable!("{from} was cut off and cannot be truncated");
        };
        state.places.truncate(position);
    }

    /// The record of the next index is there.
    pub(super) fn push(&self, place: Place) {
        self.state.borrow_mut().places.push_back(place);
    }

    /// Where the log begins.
    pub(crate) fn start(&self) -> LogStart {
        self.state.borrow().start
    }

    /// Where the log would begin if it were cut behind `up_to`, for the manifest. `None` if it has no
    /// such entry, or none any more.
    pub(crate) fn start_behind(&self, up_to: LogIndex) -> Option<LogStart> {
        let state = self.state.borrow();
        let place = state.places.get(state.position(up_to)?)?;
        Some(LogStart {
            base: LogBase {
                index: up_to,
                term: place.term,
            },
            segment: place.segment,
        })
    }

    /// Cuts the log: the segments before `start` are used again or removed, in the background.
    ///
    /// The manifest must say `start` durably before this is called, and whoever was shown the
    /// entries before it must need them no longer.
    pub(crate) fn cut(&self, start: LogStart) {
        let mut state = self.state.borrow_mut();
        if start.base.index <= state.start.base.index {
            return;
        }
        assert!(
            start.base.index <= state.last(),
            "the log is cut at {}, but ends at {}",
            start.base.index,
            state.last()
        );
        let gone = (start.base.index.0 - state.start.base.index.0) as usize;
        state.places.drain(..gone);
        state.start = start;
        while let Some(&oldest) = state.segments.front()
            && oldest < start.segment
        {
            state.segments.pop_front();
            if state.readers.contains_key(&oldest) {
                state.awaiting_readers.insert(oldest);
            } else {
                self.reserve.recycle(oldest);
            }
        }
        // A long log leaves a long list behind.
        if state.places.capacity() / 4 > state.places.len() {
            let wanted = state.places.len() * 2;
            state.places.shrink_to(wanted);
        }
    }

    /// A new log takes the place of this one: it begins at `start`, has nothing behind it, and goes on
    /// in the segment of `start`. The old segments are used again or removed, in the background.
    ///
    /// The manifest must say `start` durably before this is called.
    pub(super) fn replace(&self, start: LogStart) {
        let mut state = self.state.borrow_mut();
        state.start = start;
        state.places = VecDeque::new();
        for segment in std::mem::take(&mut state.segments) {
            if state.readers.contains_key(&segment) {
                state.awaiting_readers.insert(segment);
            } else {
                self.reserve.recycle(segment);
            }
        }
        state.segments.push_back(start.segment);
    }

    /// Reads the entries from `from` to `up_to`, or the first of them if they exceed `bytes_max`.
    /// None if the log was cut behind `from`, and fewer if it is cut while they are read.
    pub(crate) async fn read(
        &self,
        from: LogIndex,
        up_to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut open: Option<OpenSegment<'_>> = None;
        for index in from.0..=up_to.0 {
            let index = LogIndex(index);
            let Some(place) = self.place(index) else {
                break;
            };
            if !entries.is_empty() && bytes + place.payload_bytes as usize > bytes_max {
                break;
            }
            bytes += place.payload_bytes as usize;
            let segment = match open.take() {
                Some(segment) if segment.number() == place.segment => segment,
                _ => OpenSegment::open(self.start_reading(place.segment)).await?,
            };
            entries.push(segment.read(index, place).await?);
            open = Some(segment);
        }
        Ok(entries)
    }

    /// From now on the segment is not used again before the reader is dropped.
    fn start_reading(&self, segment: u64) -> Reader<'_> {
        *self.state.borrow_mut().readers.entry(segment).or_default() += 1;
        Reader { log: self, segment }
    }

    fn stop_reading(&self, segment: u64) {
        let mut state = self.state.borrow_mut();
        if let Some(readers) = state.readers.get_mut(&segment) {
            *readers -= 1;
            if *readers > 0 {
                return;
            }
        }
        state.readers.remove(&segment);
        if state.awaiting_readers.remove(&segment) {
            self.reserve.recycle(segment);
        }
    }

    fn place(&self, index: LogIndex) -> Option<Place> {
        let state = self.state.borrow();
        state.places.get(state.position(index)?).copied()
    }
}

/// Keeps a segment from being used again.
///
/// A reader may be far behind, waiting for the disk, when the log is cut; and glommio panics if a
/// file loses its name while it is being opened.
struct Reader<'a> {
    log: &'a Log,
    segment: u64,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.log.stop_reading(self.segment);
    }
}

/// A segment that is being read.
struct OpenSegment<'a> {
    file: DmaFile,
    path: PathBuf,
    /// Dropped last.
    reader: Reader<'a>,
}

impl<'a> OpenSegment<'a> {
    async fn open(reader: Reader<'a>) -> Result<Self, StorageError> {
        let path = segment::path_in(&reader.log.directory, reader.segment);
        let file = DmaFile::open(&path)
            .await
            .map_err(|source| StorageError::glommio("read", &path, source))?;
        Ok(Self { reader, path, file })
    }

    fn number(&self) -> u64 {
        self.reader.segment
    }

    async fn read(&self, index: LogIndex, place: Place) -> Result<Entry, StorageError> {
        let bytes = record_bytes(place.payload_bytes as usize);
        let record = self.file.read_at(u64::from(place.offset), bytes).await;
        let record = record.map_err(|source| StorageError::glommio("read", &self.path, source))?;
        let damaged = |what: String| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
            StorageError::io("read a record in", &self.path, source)
        };
        let (header, payload) =
            decode_record(&record).map_err(|error| damaged(error.to_string()))?;
        if (header.index, header.term) != (index, place.term) {
            let (found, term) = (header.index, header.term);
            return Err(damaged(format!(
                "{found} of {term} is where {index} of {} was written",
                place.term
            )));
        }
        Ok(Entry {
            term: header.term,
            index,
            kind: header.kind,
            payload: Bytes::copy_from_slice(&record[payload]),
        })
    }
}

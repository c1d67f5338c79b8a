//! The log writer: appends to the log and saves of the hard state, one write in flight at a time.
//!
//! What gathers while a write is in flight becomes the next one. Each write is direct (O_DIRECT)
//! and durable when it completes (O_DSYNC); its length is checked. The first failed write poisons
//! the writer: nothing is retried, and the node stops (after a failed sync the page cache says
//! nothing about the disk, and a later success would prove nothing).
//!
//! One write in flight is what recovery relies on: a record that is followed by one of a later
//! write was durable, so that a bad one before it is corrupt and never merely torn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use glommio::channels::local_channel::{self, LocalSender};
use ringlite_raft::{
    Debt, Entry, EntryKind, HardState, IoId, LogBase, LogIndex, RecordIdentity, RecordPlace, Term,
    encode_record, record_bytes,
};

use super::durable::DurableFile;
use super::hard_state::{COPY_BYTES, HardStateRecord};
use super::log::{Log, Place};
use super::manifest::{LogStart, Manifest, ManifestFile};
use super::segment::{self, FreshSegment, SegmentReserve};
use super::{DataDirectory, Recovered, StorageError};
use crate::signal::Signal;
use crate::stages::{Stage, Stages};

/// What gathers goes out in writes of at most about this size, and at least one record.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// After so many ticks without a write the durable mark is saved, so that an idle tail has
/// evidence of having been durable.
const MARK_AFTER_TICKS: u32 = 5;

/// What became of writes.
#[derive(Debug)]
pub(crate) enum WriteDone {
    /// Everything up to this id is on stable storage.
    Persisted(IoId),
    /// A write failed; there will be no other.
    Failed(StorageError),
}

enum Job {
    SaveHardState {
        io: IoId,
        hard_state: HardState,
    },
    Append {
        io: IoId,
        truncate_from: Option<LogIndex>,
        entries: VecDeque<Entry>,
        commit: LogIndex,
        queued: Instant,
    },
    SaveMark,
    Replace(Box<Replacement>),
}

/// What takes the place of the whole log.
struct Replacement {
    base: LogBase,
    file: ManifestFile,
    /// Says what the databases are; where the log begins is filled in.
    manifest: Manifest,
    done: LocalSender<(ManifestFile, Manifest)>,
}

type Listener = Box<dyn Fn(WriteDone)>;

struct Shared {
    jobs: RefCell<VecDeque<Job>>,
    queued: Signal,
    listener: RefCell<Option<Listener>>,
    /// The last index that is durable without a gap.
    durable: Cell<LogIndex>,
    marked: Cell<LogIndex>,
    idle_ticks: Cell<u32>,
    stages: Rc<Stages>,
}

/// The handle by which a shard gives the writer work.
#[derive(Clone)]
pub(crate) struct LogWriter {
    shared: Rc<Shared>,
}

impl LogWriter {
    /// Tells whom to call about completed writes.
    pub(crate) fn on_done(&self, listener: impl Fn(WriteDone) + 'static) {
        self.shared.listener.replace(Some(Box::new(listener)));
    }

    /// Where it counts how long its writes take.
    pub(crate) fn stages(&self) -> Rc<Stages> {
        Rc::clone(&self.shared.stages)
    }

    /// Queues an append for the next flush.
    pub(crate) fn append(
        &self,
        io: IoId,
        truncate_from: Option<LogIndex>,
        entries: Vec<Entry>,
        commit: LogIndex,
    ) {
        self.push(Job::Append {
            io,
            truncate_from,
            entries: entries.into(),
            commit,
            queued: Instant::now(),
        });
    }

    /// Queues a save of term and vote for the next flush.
    pub(crate) fn save(&self, io: IoId, hard_state: HardState) {
        self.push(Job::SaveHardState { io, hard_state });
    }

    /// Replaces the log by an empty one that begins behind `base`, and the manifest by one that says
    /// so: everything of the old log, and of the old manifest, counts up to the moment when
    /// `manifest` is saved, and nothing afterwards. Returns both, with the beginning of the log
    /// filled in, when that has happened; never, if it fails, which the listener is told.
    ///
    /// Comes behind all writes that were queued before; nothing may be queued until it has returned.
    pub(crate) async fn replace_log(
        &self,
        base: LogBase,
        file: ManifestFile,
        manifest: Manifest,
    ) -> (ManifestFile, Manifest) {
        let (done, replaced) = local_channel::new_bounded(1);
        self.push(Job::Replace(Box::new(Replacement {
            base,
            file,
            manifest,
            done,
        })));
        self.flush();
        match replaced.recv().await {
            Some(replaced) => replaced,
            None => std::future::pending().await,
        }
    }

    fn push(&self, job: Job) {
        self.shared.jobs.borrow_mut().push_back(job);
    }

    /// Starts to write what is queued.
    pub(crate) fn flush(&self) {
        if !self.shared.jobs.borrow().is_empty() {
            self.shared.idle_ticks.set(0);
            self.shared.queued.raise();
        }
    }

    /// A tick has passed.
    pub(crate) fn tick(&self) {
        let shared = &self.shared;
        if shared.durable.get() == shared.marked.get() {
            return;
        }
        shared.idle_ticks.set(shared.idle_ticks.get() + 1);
        if shared.idle_ticks.get() == MARK_AFTER_TICKS {
            self.push(Job::SaveMark);
            shared.queued.raise();
        }
    }
}

/// Starts the log writer where recovery has left off: in a fresh segment and a new epoch, as
/// what a crash has left behind the last record must never be continued.
pub(crate) async fn start(
    directory: &DataDirectory,
    recovered: &Recovered,
) -> Result<(LogWriter, Rc<Log>), StorageError> {
    let reserve = Rc::new(SegmentReserve::start(
        directory.log(),
        recovered.newest_segment() + 1,
        directory.segment_bytes(),
    ));
    let segment = reserve.take().await?;
    let lacks_base = recovered.lacks_base();
    let (start, segments) = if lacks_base {
        let start = LogStart {
            segment: segment.number,
            ..recovered.manifest.log
        };
        (start, VecDeque::new())
    } else {
        (recovered.manifest.log, recovered.segments())
    };
    let log = Rc::new(Log::new(
        directory.log(),
        Rc::clone(&reserve),
        start,
        recovered.places(),
        segments,
    ));
    let shared = Rc::new(Shared {
        jobs: RefCell::default(),
        queued: Signal::default(),
        listener: RefCell::default(),
        durable: Cell::new(recovered.last()),
        marked: Cell::new(recovered.hard_state.durable_mark),
        idle_ticks: Cell::new(0),
        stages: Rc::default(),
    });
    log.begin_segment(segment.number);
    let mut task = Task {
        identity: directory.record_identity(),
        hard_state: recovered.hard_state,
        hard_state_file: DurableFile::open(&directory.hard_state_path()).await?,
        segment,
        segment_bytes: directory.segment_bytes(),
        reserve,
        log: Rc::clone(&log),
        epoch: recovered.newest_epoch() + 1,
        durable_epoch: recovered.newest_epoch(),
        epoch_first: recovered.last().next(),
        epoch_previous_term: recovered.end().term,
        offset: 0,
        previous_header_crc: 0,
        last: recovered.last(),
        queued: Instant::now(),
        shared: Rc::clone(&shared),
    };
    if lacks_base {
        task.replace_base(start.base).await?;
        let (mut file, manifest) = ManifestFile::open(directory).await?;
        let manifest = Manifest {
            log: start,
            ..manifest
        };
        file.save(&manifest).await?;
        for number in recovered.segments() {
            segment::remove(&directory.log(), number)?;
        }
    }
    glommio::spawn_local(task.run()).detach();
    Ok((LogWriter { shared }, log))
}

/// The writer's own task.
struct Task {
    identity: RecordIdentity,
    hard_state: HardStateRecord,
    hard_state_file: DurableFile,
    segment: FreshSegment,
    segment_bytes: u64,
    reserve: Rc<SegmentReserve>,
    log: Rc<Log>,
    epoch: u64,
    /// The newest epoch of which a record is durable. Only such a one may be in a mark: recovery
    /// takes a mark of an epoch that it finds nothing of for the loss of that epoch.
    durable_epoch: u64,
    /// The first index of the epoch, and the term of the entry before it.
    epoch_first: LogIndex,
    epoch_previous_term: Term,
    /// Where in the segment the next record begins.
    offset: u64,
    previous_header_crc: u32,
    /// The last index that was given to the disk.
    last: LogIndex,
    /// When the entries that are written were queued.
    queued: Instant,
    shared: Rc<Shared>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let job = self.shared.jobs.borrow_mut().pop_front();
            let done = match job {
                None => {
                    self.shared.queued.wait().await;
                    continue;
                }
                Some(Job::SaveHardState { io, hard_state }) => {
                    self.hard_state.term = hard_state.term;
                    self.hard_state.vote = hard_state.vote;
                    self.save_hard_state().await.map(|()| Some(io))
                }
                Some(Job::SaveMark) => self.save_hard_state().await.map(|()| None),
                Some(Job::Append {
                    io,
                    truncate_from,
                    entries,
                    commit,
                    queued,
                }) => {
                    self.queued = queued;
                    self.append(io, truncate_from, entries, commit).await
                }
                Some(Job::Replace(replacement)) => self.replace(*replacement).await.map(|()| None),
            };
            match done {
                Ok(Some(io)) => self.tell(WriteDone::Persisted(io)),
                Ok(None) => {}
                Err(error) => {
                    self.tell(WriteDone::Failed(error));
                    return;
                }
            }
        }
    }

    fn tell(&self, done: WriteDone) {
        if let Some(listener) = &*self.shared.listener.borrow() {
            listener(done);
        }
    }

    async fn save_hard_state(&mut self) -> Result<(), StorageError> {
        self.hard_state.sequence += 1;
        self.hard_state.log_epoch = self.durable_epoch;
        self.hard_state.durable_mark = self.shared.durable.get();
        for copy in 0..2 {
            let mut block = self.hard_state_file.buffer(COPY_BYTES);
            block.as_bytes_mut().fill(0);
            self.hard_state.encode(block.as_bytes_mut());
            let at = copy * COPY_BYTES as u64;
            self.hard_state_file.write(block, at).await?;
        }
        self.shared.marked.set(self.hard_state.durable_mark);
        Ok(())
    }

    /// Appends the entries of one job, and of the jobs behind it that can share its writes.
    async fn append(
        &mut self,
        io: IoId,
        truncate_from: Option<LogIndex>,
        mut entries: VecDeque<Entry>,
        mut commit: LogIndex,
    ) -> Result<Option<IoId>, StorageError> {
        if let Some(from) = truncate_from {
            self.truncate(from).await?;
        }
        let mut io = io;
        let mut bytes: usize = entries.iter().map(bytes_of).sum();
        while bytes < WRITE_BYTES_MAX
            && let Some(next) = self.take_appendable()
        {
            bytes += next.1.iter().map(bytes_of).sum::<usize>();
            io = next.0;
            entries.extend(next.1);
            commit = next.2;
        }
        while !entries.is_empty() {
            self.write_some(&mut entries, commit).await?;
        }
        Ok(Some(io))
    }

    /// The next job, if it is an append that cuts nothing off.
    fn take_appendable(&self) -> Option<(IoId, VecDeque<Entry>, LogIndex)> {
        let mut jobs = self.shared.jobs.borrow_mut();
        if !matches!(
            jobs.front(),
            Some(Job::Append {
                truncate_from: None,
                ..
            })
        ) {
            return None;
        }
        match jobs.pop_front() {
            Some(Job::Append {
                io,
                entries,
                commit,
                ..
            }) => Some((io, entries, commit)),
            _ => None,
        }
    }

    /// Writes as many entries as one write and the segment hold.
    async fn write_some(
        &mut self,
        entries: &mut VecDeque<Entry>,
        commit: LogIndex,
    ) -> Result<(), StorageError> {
        let first_bytes = entries.front().map_or(0, bytes_of) as u64;
        if self.offset + first_bytes > self.segment_bytes {
            self.next_segment().await?;
        }
        let room = (self.segment_bytes - self.offset) as usize;
        let mut count = 0;
        let mut bytes = 0;
        for entry in entries.iter() {
            let with = bytes + bytes_of(entry);
            if count > 0 && with > room.min(WRITE_BYTES_MAX) {
                break;
            }
            bytes = with;
            count += 1;
        }
        let mut buffer = self.segment.file.buffer(bytes);
        let mut at = 0;
        let mut end_term = Term(0);
        for entry in entries.drain(..count) {
            assert_eq!(entry.index, self.last.next(), "the log has no gaps");
            let place = self.next_place(commit);
            let end = at + bytes_of(&entry);
            self.previous_header_crc =
                encode_record(&place, &entry, &mut buffer.as_bytes_mut()[at..end]);
            self.log.push(Place::new(
                self.segment.number,
                self.offset + at as u64,
                entry.term,
                entry.payload.len() as u32,
            ));
            at = end;
            self.last = entry.index;
            end_term = entry.term;
        }
        let begun = Instant::now();
        let stages = &self.shared.stages;
        stages.count(Stage::Submit, begun - self.queued);
        self.segment.file.write(buffer, self.offset).await?;
        stages.count(Stage::LocalDurable, begun.elapsed());
        self.offset += bytes as u64;
        self.durable_epoch = self.epoch;
        self.shared.durable.set(self.last);
        self.forget_settled_debt(end_term).await
    }

    /// The log says by itself what the debt says, once it ends there or above.
    async fn forget_settled_debt(&mut self, term: Term) -> Result<(), StorageError> {
        let end = Debt {
            term,
            index: self.last,
        };
        match self.hard_state.debt {
            Some(debt) if debt <= end => {
                tracing::info!("the log is repaired up to {debt}");
                self.hard_state.debt = None;
                self.save_hard_state().await
            }
            _ => Ok(()),
        }
    }

    /// Begins the log with another record of its base, whose own was damaged, or was never here. What
    /// the entry did is in the files of the databases, so that only its index and term count.
    async fn replace_base(&mut self, base: LogBase) -> Result<(), StorageError> {
        let entry = Entry {
            term: base.term,
            index: base.index,
            kind: EntryKind::Noop,
            payload: Bytes::new(),
        };
        self.epoch_first = base.index;
        self.epoch_previous_term = Term(0);
        let place = RecordPlace {
            durable_upto: base.index.prev(),
            ..self.next_place(base.index)
        };
        let mut buffer = self.segment.file.buffer(bytes_of(&entry));
        self.previous_header_crc = encode_record(&place, &entry, buffer.as_bytes_mut());
        self.segment.file.write(buffer, self.offset).await?;
        self.offset += bytes_of(&entry) as u64;
        self.durable_epoch = self.epoch;
        Ok(())
    }

    /// What the header of the next record tells besides its entry.
    fn next_place(&self, commit: LogIndex) -> RecordPlace {
        RecordPlace {
            identity: self.identity,
            segment: self.segment.number,
            epoch: self.epoch,
            epoch_first: self.epoch_first,
            epoch_previous_term: self.epoch_previous_term,
            previous_header_crc: self.previous_header_crc,
            durable_upto: self.shared.durable.get(),
            commit,
        }
    }

    /// Voids everything from `from` on: by a fresh segment of a new epoch, so that no offset is
    /// ever written twice.
    async fn truncate(&mut self, from: LogIndex) -> Result<(), StorageError> {
        self.next_segment().await?;
        self.epoch += 1;
        self.epoch_first = from;
        self.epoch_previous_term = self.log.term_before(from);
        self.log.truncate(from);
        self.last = from.prev();
        let durable = &self.shared.durable;
        durable.set(durable.get().min(from.prev()));
        let marked = &self.shared.marked;
        if marked.get() > durable.get() {
            // The mark speaks of records that are void now. It names its epoch, so that it is
            // no evidence against the new one; the next save sets it right.
            marked.set(LogIndex(0));
        }
        Ok(())
    }

    /// The new log begins with a record that stands for its base, in a segment that nobody takes
    /// for a part of the old log: recovery demands that record, as it does the one at any other
    /// base, and it voids the old epochs.
    async fn replace(&mut self, replacement: Replacement) -> Result<(), StorageError> {
        let Replacement {
            base,
            mut file,
            mut manifest,
            done,
        } = replacement;
        self.segment = self.reserve.take().await?;
        let number = self.segment.number;
        segment::stage(self.log.directory(), number).await?;
        self.epoch += 1;
        self.offset = 0;
        self.previous_header_crc = 0;
        self.replace_base(base).await?;
        manifest.log = LogStart {
            base,
            segment: number,
        };
        file.save(&manifest).await?;
        segment::unstage(self.log.directory(), number).await?;
        self.log.replace(manifest.log);
        self.last = base.index;
        self.shared.durable.set(base.index);
        // The mark on disk is of an older epoch, so that it is no evidence against this one.
        self.shared.marked.set(LogIndex(0));
        self.forget_settled_debt(base.term).await?;
        // Whoever has waited may have gone away.
        let _ = done.send((file, manifest)).await;
        Ok(())
    }

    async fn next_segment(&mut self) -> Result<(), StorageError> {
        self.segment = self.reserve.take().await?;
        self.log.begin_segment(self.segment.number);
        self.offset = 0;
        self.previous_header_crc = 0;
        Ok(())
    }
}

fn bytes_of(entry: &Entry) -> usize {
    record_bytes(entry.payload.len())
}

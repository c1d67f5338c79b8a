//! The writer and recovery together: lives of a node's disk, one after the other.

mod cutting;
mod faulty;
mod replacing;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glommio::LocalExecutorBuilder;
use ringlite_raft::{Entry, EntryKind, HardState, IoId, LogIndex, NodeId, Term};

use super::{
    DataDirectory, Log, LogStart, LogWriter, Manifest, ManifestFile, Owner, Recovered, WriteDone,
};
use crate::signal::Signal;

const SEGMENT_BYTES: u64 = 64 << 10;

/// One life: from recovery to the end of the executor, which is as sudden as a kill.
struct Life {
    writer: LogWriter,
    log: Rc<Log>,
    manifest_file: ManifestFile,
    manifest: Manifest,
    done: Rc<(RefCell<IoId>, Signal)>,
    next_io: u64,
    /// What recovery has found.
    found: Vec<Entry>,
    hard_state: HardState,
}

/// A cluster of one.
const ALONE: Owner<'static> = Owner {
    node: Some(NodeId(1)),
    cluster: &[],
    alone_at: Some(""),
    shards: None,
};

impl Life {
    async fn begin(root: &Path) -> (Life, DataDirectory) {
        Life::begin_with(root, SEGMENT_BYTES).await
    }

    async fn begin_with(root: &Path, segment_bytes: u64) -> (Life, DataDirectory) {
        Life::begin_as(root, segment_bytes, true).await
    }

    /// `alone`: the sole voter, who must not start with a damaged log.
    async fn begin_as(root: &Path, segment_bytes: u64, alone: bool) -> (Life, DataDirectory) {
        let mut directory = DataDirectory::open(root, &ALONE, segment_bytes).unwrap();
        if directory.identity().cluster.is_none() {
            let mut formed = directory.identity().clone();
            formed.cluster = Some(7);
            directory.form(formed).unwrap();
        }
        let recovered = directory.recover(alone).unwrap();
        let (writer, log) = super::start(&directory, &recovered).await.unwrap();
        let (manifest_file, manifest) = ManifestFile::open(&directory).await.unwrap();
        assert_eq!(manifest.log, log.start());
        assert_eq!(manifest.log.base, recovered.manifest.log.base);
        let done = Rc::new((RefCell::new(IoId(0)), Signal::default()));
        let told = Rc::clone(&done);
        writer.on_done(move |outcome| match outcome {
            WriteDone::Persisted(io) => {
                *told.0.borrow_mut() = io;
                told.1.raise();
            }
            WriteDone::Failed(error) => panic!("{error}"),
        });
        let life = Life {
            writer,
            log,
            manifest_file,
            manifest,
            done,
            next_io: 0,
            found: entries_of(&recovered),
            hard_state: HardState {
                term: recovered.hard_state.term,
                vote: recovered.hard_state.vote,
            },
        };
        (life, directory)
    }

    fn issue(&mut self) -> IoId {
        self.next_io += 1;
        IoId(self.next_io)
    }

    fn append(&mut self, truncate_from: Option<u64>, entries: Vec<Entry>) {
        let io = self.issue();
        let from = truncate_from.map(LogIndex);
        self.writer.append(io, from, entries, LogIndex(0));
    }

    fn save(&mut self, term: u64) {
        let io = self.issue();
        let term = Term(term);
        let vote = Some(NodeId(1));
        self.writer.save(io, HardState { term, vote });
    }

    /// The manifest says durably that the log begins behind `up_to`.
    async fn save_start(&mut self, up_to: u64) -> LogStart {
        let start = self.log.start_behind(LogIndex(up_to)).unwrap();
        self.manifest.log = start;
        self.manifest_file.save(&self.manifest).await.unwrap();
        start
    }

    async fn cut(&mut self, up_to: u64) {
        let start = self.save_start(up_to).await;
        self.log.cut(start);
    }

    async fn settle(&self) {
        self.writer.flush();
        while self.done.0.borrow().0 < self.next_io {
            self.done.1.wait().await;
        }
    }
}

fn entries_of(recovered: &Recovered) -> Vec<Entry> {
    let mut entries = Vec::new();
    recovered
        .for_each_committed(|entry| entries.push(entry))
        .unwrap();
    entries.extend(recovered.restored_log().unwrap().tail);
    entries
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Data,
        payload: Bytes::from(vec![(index % 251) as u8 + 1; bytes]),
    }
}

fn live<T: 'static>(life: impl AsyncFnOnce() -> T + 'static) -> T {
    let executor = LocalExecutorBuilder::default()
        .io_memory(2 << 20)
        .make()
        .unwrap();
    executor.run(life())
}

fn new_directory() -> tempfile::TempDir {
    // Beside the test itself: memory file systems may have no direct IO.
    let test = std::env::current_exe().unwrap();
    tempfile::tempdir_in(test.parent().unwrap()).unwrap()
}

fn segments(root: &Path) -> usize {
    std::fs::read_dir(root.join("shard-0/log")).unwrap().count()
}

#[test]
fn a_vote_before_the_first_record_of_a_life_is_no_sign_of_a_loss() {
    let data = new_directory();
    for round in 0..4 {
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin(&root).await;
            assert_eq!(life.found.len(), round / 2, "life {round}");
            life.save(round as u64 + 1);
            life.settle().await;
            // Every other life ends before it has written anything to the log.
            if round % 2 == 1 {
                life.append(None, vec![entry(life.found.len() as u64 + 1, 1, 10)]);
                life.settle().await;
            }
        });
    }
}

#[test]
fn lives_without_a_write_leave_no_segments_behind() {
    let data = new_directory();
    let mut counts = Vec::new();
    for round in 0..5 {
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin(&root).await;
            if round == 0 {
                life.append(None, vec![entry(1, 1, 10)]);
                life.settle().await;
            }
            assert_eq!(life.found.len(), usize::from(round > 0));
        });
        counts.push(segments(data.path()));
    }
    // The written one, the current one, and at most two that are being made ahead.
    assert!(counts.iter().all(|count| *count <= 4), "{counts:?}");
}

/// A small generator (SplitMix64), so that a seed is all that a failure needs.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// What was asked of the disk in a life, after each of its jobs.
async fn random_life(root: &Path, random: &mut Random, log: &mut Vec<Entry>, term: &mut u64) {
    let (mut life, _directory) = Life::begin(root).await;
    let mut base = life.manifest.log.base.index.0;
    assert_eq!(life.found, log[base as usize..]);
    assert!(life.hard_state.term.0 <= *term);
    for _ in 0..random.below(12) {
        match random.below(10) {
            0 | 1 => {
                *term += 1;
                life.save(*term);
            }
            2 if log.len() as u64 > base => {
                *term += 1;
                life.save(*term);
                let from = base + random.below(log.len() as u64 - base) + 1;
                log.truncate(from as usize - 1);
                let new = entry(from, *term, random.below(9_000) as usize);
                log.push(new.clone());
                life.append(Some(from), vec![new]);
            }
            _ => {
                let first = log.len() as u64 + 1;
                *term = (*term).max(1);
                let new: Vec<_> = (first..=first + random.below(6))
                    .map(|index| entry(index, *term, random.below(9_000) as usize))
                    .collect();
                log.extend(new.iter().cloned());
                life.append(None, new);
            }
        }
        match random.below(3) {
            0 => life.settle().await,
            1 => life.writer.flush(),
            _ => {}
        }
        if random.below(4) == 0 && log.len() as u64 > base {
            life.settle().await;
            base += random.below(log.len() as u64 - base) + 1;
            if random.below(3) == 0 {
                life.save_start(base).await;
            } else {
                life.cut(base).await;
            }
        }
        if random.below(4) == 0 {
            for _ in 0..5 {
                life.writer.tick();
            }
        }
    }
    life.settle().await;
}

#[test]
fn every_life_finds_what_the_ones_before_it_have_written() {
    for seed in 0..4 {
        let data = new_directory();
        let root = data.path().to_owned();
        let state = Rc::new(RefCell::new((Random(seed), Vec::new(), 0)));
        for _ in 0..8 {
            let (root, state) = (root.clone(), Rc::clone(&state));
            live(async move || {
                let (mut random, mut log, mut term) = state.replace((Random(0), Vec::new(), 0));
                random_life(&root, &mut random, &mut log, &mut term).await;
                state.replace((random, log, term));
            });
        }
    }
}

/// What a node has promised with a lease binds it in its next life, whatever that is told.
#[test]
fn a_start_waits_until_another_promise_of_an_earlier_life_is_over() {
    let root = tempfile::tempdir().unwrap();
    let promised = |promise| {
        let mut directory = DataDirectory::open(root.path(), &ALONE, SEGMENT_BYTES).unwrap();
        let began = Instant::now();
        directory.promise(promise).unwrap();
        began.elapsed()
    };
    promised(300);
    assert!(promised(200) >= Duration::from_millis(300));
    assert!(promised(0) >= Duration::from_millis(200));
    promised(100);
    let directory = DataDirectory::open(root.path(), &ALONE, SEGMENT_BYTES).unwrap();
    assert_eq!(directory.identity().lease_promise_ms, 100);
}

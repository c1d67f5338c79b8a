//! A disk that completes writes in order, each after a while. A crash drops what is not complete;
//! of the first such write a beginning may have reached the medium.

use std::collections::VecDeque;

use ringlite::replica::{DatabaseFile, DatabaseId, SnapshotHead};
use ringlite_raft::{
    Configuration, Entry, EntryKind, HardState, IoId, LogBase, LogIndex, RestoredLog, Term, TermRun,
};

use super::random::Random;

enum Write {
    HardState(HardState),
    Append {
        truncate_from: Option<LogIndex>,
        entries: VecDeque<Entry>,
        commit: LogIndex,
    },
}

struct Waiting {
    io: IoId,
    done_at: u64,
    write: Write,
}

/// What a manifest says; where the log begins is a part of the log here.
#[derive(Default)]
pub(crate) struct Manifest {
    pub(crate) base: LogIndex,
    pub(crate) owed: LogIndex,
    pub(crate) configuration: Configuration,
    pub(crate) databases: Vec<DatabaseFile>,
}

#[derive(Default)]
pub(crate) struct Disk {
    hard_state: HardState,
    /// The log, from the index after its base.
    entries: Vec<Entry>,
    base: LogBase,
    manifest: Manifest,
    /// The files of a snapshot, by the names that they do not have yet.
    pub(crate) installs: Option<Vec<(String, Vec<u8>)>>,
    /// The highest commit index that any record ever named: records that are void by now stay on
    /// the medium, and recovery reads their headers too.
    commit: LogIndex,
    waiting: VecDeque<Waiting>,
    pub(crate) torn: u64,
}

impl Disk {
    pub(crate) fn save(&mut self, io: IoId, hard_state: HardState, now: u64, delay: u64) {
        self.queue(io, Write::HardState(hard_state), now, delay);
    }

    pub(crate) fn append(
        &mut self,
        io: IoId,
        (truncate_from, entries, commit): (Option<LogIndex>, Vec<Entry>, LogIndex),
        now: u64,
        delay: u64,
    ) {
        let write = Write::Append {
            truncate_from,
            entries: entries.into(),
            commit,
        };
        self.queue(io, write, now, delay);
    }

    fn queue(&mut self, io: IoId, write: Write, now: u64, delay: u64) {
        let free_at = self.waiting.back().map_or(now, |last| last.done_at);
        self.waiting.push_back(Waiting {
            io,
            done_at: free_at.max(now) + delay,
            write,
        });
    }

    /// Completes what is due; returns the newest of it.
    pub(crate) fn complete(&mut self, now: u64) -> Option<IoId> {
        let mut done = None;
        while self
            .waiting
            .front()
            .is_some_and(|first| first.done_at <= now)
        {
            if let Some(Waiting { io, write, .. }) = self.waiting.pop_front() {
                self.perform(write, usize::MAX);
                done = Some(io);
            }
        }
        done
    }

    /// Writes; of an append only the first `count` records.
    fn perform(&mut self, write: Write, count: usize) {
        match write {
            Write::HardState(hard_state) => self.hard_state = hard_state,
            Write::Append {
                truncate_from,
                entries,
                commit,
            } => {
                for (position, entry) in entries.into_iter().take(count).enumerate() {
                    // The records of a new epoch void the old ones, and without any they live on.
                    if position == 0
                        && let Some(from) = truncate_from
                    {
                        self.entries.truncate(self.place(from));
                    }
                    assert_eq!(self.place(entry.index), self.entries.len(), "a gap");
                    self.entries.push(entry);
                    self.commit = self.commit.max(commit);
                }
            }
        }
    }

    /// Where in `entries` the entry at `index` is or would be.
    fn place(&self, index: LogIndex) -> usize {
        usize::try_from(index.0 - self.base.index.0 - 1).expect("a place in memory")
    }

    pub(crate) fn databases(&self) -> &[DatabaseFile] {
        &self.manifest.databases
    }

    /// How far the file of a database may have been written, by the manifest.
    pub(crate) fn target_of(&self, id: DatabaseId) -> Option<LogIndex> {
        let mut files = self.manifest.databases.iter();
        files.find(|file| file.id == id).map(|file| file.target)
    }

    pub(crate) fn save_manifest(&mut self, manifest: Manifest) {
        self.manifest = manifest;
    }

    /// Whether everything that was to be written is.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// One save of the manifest puts a snapshot in the place of log and databases.
    pub(crate) fn replace(&mut self, head: SnapshotHead, files: Vec<Vec<u8>>) {
        let names = (0..).map_while(|place| {
            let (database, suffix) = head.file(place)?;
            Some(format!("{}{suffix}", database.name))
        });
        self.installs = Some(names.zip(files).collect());
        let targets = head.databases.iter().map(|file| file.target);
        self.base = head.base;
        self.entries.clear();
        self.commit = head.base.index;
        self.manifest = Manifest {
            base: head.base.index,
            owed: targets.max().unwrap_or(LogIndex::ZERO),
            configuration: head.configuration,
            databases: head.databases,
        };
    }

    /// Removes entries up to `up_to`, which the manifest does not need any more.
    pub(crate) fn cut(&mut self, up_to: LogIndex) {
        assert!(up_to <= self.manifest.base, "the log is cut too early");
        if up_to > self.base.index {
            let cut = self.place(up_to) + 1;
            let last = self.entries.drain(..cut).next_back().expect("an entry");
            self.base = LogBase {
                index: up_to,
                term: last.term,
            };
        }
    }

    /// The power fails.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        if let Some(Waiting { write, .. }) = self.waiting.pop_front()
            && random.per_mille(500)
        {
            self.torn += 1;
            let count = match &write {
                Write::HardState(_) => 0,
                Write::Append { entries, .. } => random.below(entries.len() as u64 + 1) as usize,
            };
            self.perform(write, count);
        }
        self.waiting.clear();
    }

    /// What a start finds: the hard state, the log, and the entries known to be committed.
    pub(crate) fn recover(&self) -> (HardState, RestoredLog, Vec<Entry>) {
        let last = LogIndex(self.base.index.0 + self.entries.len() as u64);
        // What a file may hold is committed.
        let targets = self.manifest.databases.iter().map(|file| file.target);
        let own = targets.filter(|target| *target > self.manifest.owed);
        let known = own.fold(self.commit.min(last), LogIndex::max);
        let commit = known.max(self.base.index);
        assert!(commit <= last, "an entry that a file may hold is gone");
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &self.entries {
            if runs.last().map_or(Term(0), |run| run.term) < entry.term {
                runs.push(TermRun {
                    first: entry.index,
                    term: entry.term,
                });
            }
        }
        let (committed, tail) = self.entries.split_at(self.place(commit.next()));
        let configurations = self.entries.iter();
        let configurations = configurations.filter(|entry| entry.kind == EntryKind::Configuration);
        let log = RestoredLog {
            base: self.base,
            runs,
            last,
            commit,
            tail: tail.to_vec(),
            debt: None,
            configuration: self.manifest.configuration.clone(),
            configurations: configurations.cloned().collect(),
        };
        (self.hard_state, log, committed.to_vec())
    }

    /// Entries for a peer that is far behind; a few at a time.
    pub(crate) fn read(&self, from: LogIndex, up_to: LogIndex) -> Vec<Entry> {
        if from <= self.base.index {
            return Vec::new();
        }
        let start = self.place(from);
        let end = (self.place(up_to) + 1)
            .min(start + 3)
            .min(self.entries.len());
        self.entries.get(start..end).unwrap_or_default().to_vec()
    }
}

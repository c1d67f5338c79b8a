//! One node's disk. Its files are real ones in memory, in the real formats, and a restart recovers
//! them with the real recovery; what is simulated is the drive: when a write completes, and what is
//! left of it if it does not.

mod damage;
mod files;
mod log;
mod lost;
mod medium;
mod recovery;
mod staged;
mod switch;

use std::path::Path;

use ringlite::image::{HardStateImage, ManifestImage, ShardImage};
use ringlite::replica::{DatabaseFile, DatabaseId};
use ringlite_raft::{
    Configuration, Entry, EntryKind, HardState, IoId, LogBase, LogIndex, RecordIdentity, Term,
};
use ringlite_vfs::CommitPoint;

pub(crate) use files::Files;
use log::LogWriter;
use medium::Write;
pub(crate) use staged::Staged;
pub(crate) use switch::Event as SwitchEvent;
use switch::Switch;

use super::random::Random;
use super::tally::{Kind, Tally};

/// What the checkers keep of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) term: Term,
    pub(crate) kind: EntryKind,
    pub(crate) crc: u32,
}

impl Held {
    pub(crate) fn of(entry: &Entry) -> Held {
        Held {
            term: entry.term,
            kind: entry.kind,
            crc: crc32fast::hash(&entry.payload),
        }
    }
}

/// Why a node cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trouble {
    /// EIO.
    Failed,
    /// ENOSPC.
    Full,
}

/// What a disk has done.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) persisted: Option<IoId>,
    pub(crate) manifest_saved: bool,
    pub(crate) switch: Option<SwitchEvent>,
    pub(crate) trouble: Option<Trouble>,
}

/// A write under way.
struct InFlight {
    write: Write,
    done_at: u64,
}

/// A manifest that is being saved: its first copy, then its second.
struct Saving {
    image: ManifestImage,
    copies_left: usize,
}

/// How fast and how reliable the disk is at the moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Health {
    /// How many of a thousand writes are slow.
    pub(crate) slow_per_mille: u64,
    /// Until then nothing completes.
    pub(crate) hangs_until: u64,
    /// The next write fails.
    pub(crate) fails: bool,
    /// Nothing can grow, until this time at the latest.
    pub(crate) is_full: bool,
    pub(crate) full_until: u64,
}

pub(crate) struct Disk {
    image: ShardImage,
    random: Random,
    pub(crate) health: Health,
    log: LogWriter,
    log_write: Option<InFlight>,
    manifest: ManifestImage,
    saving: Option<Saving>,
    manifest_write: Option<InFlight>,
    /// A snapshot takes the place of everything.
    switch: Option<Switch>,
    pub(crate) files: Files,
    pub(crate) staged: Staged,
}

impl Disk {
    /// The disk of a node that has never started.
    pub(crate) fn new(directory: &Path, node: u64, segment_bytes: u64, random: Random) -> Disk {
        let shard = directory.join("shard-0");
        let identity = RecordIdentity {
            cluster: 77,
            shard: 0,
            incarnation: node,
        };
        let image = ShardImage::new(&shard, identity);
        std::fs::create_dir_all(image.log_directory()).expect("a directory");
        let hard_state = HardStateImage {
            sequence: 1,
            ..HardStateImage::default()
        };
        let copy = image.hard_state_copy(&hard_state);
        medium::put(&image.hard_state_path(), 0, &copy.repeat(2));
        let manifest = ManifestImage {
            sequence: 1,
            ..ManifestImage::default()
        };
        for path in image.manifest_paths() {
            medium::put(&path, 0, &image.manifest_copy(&manifest));
        }
        Disk {
            files: Files::new(shard.join("databases")),
            staged: Staged::new(shard.join("snapshot"), image.staging_area()),
            image,
            random,
            health: Health::default(),
            log: LogWriter::new(segment_bytes),
            log_write: None,
            manifest,
            saving: None,
            manifest_write: None,
            switch: None,
        }
    }

    pub(crate) fn save(&mut self, io: IoId, hard_state: HardState) {
        self.log.save(io, hard_state);
    }

    pub(crate) fn append(
        &mut self,
        io: IoId,
        truncate_from: Option<LogIndex>,
        entries: Vec<Entry>,
        commit: LogIndex,
    ) {
        self.log.append(io, truncate_from, entries, commit);
    }

    pub(crate) fn save_manifest(
        &mut self,
        (base, owed): (LogIndex, LogIndex),
        configuration: Configuration,
        databases: Vec<DatabaseFile>,
    ) {
        assert!(self.saving.is_none(), "one save at a time");
        let behind = self.log.base_behind(base);
        let (base, segment) = behind.unwrap_or((self.manifest.base, self.manifest.segment));
        self.saving = Some(Saving {
            image: ManifestImage {
                sequence: self.manifest.sequence + 1,
                base,
                segment,
                owed,
                installs: false,
                configuration,
                databases,
            },
            copies_left: 2,
        });
    }

    /// Nothing is written into a file that the manifest does not say.
    pub(crate) fn check_announced(&self, database: DatabaseId, ends: &[(LogIndex, CommitPoint)]) {
        let mut files = self.manifest.databases.iter();
        let target = files
            .find(|file| file.id == database)
            .map(|file| file.target);
        let newest = ends.last().map(|(index, _)| *index);
        assert!(
            newest <= target,
            "{newest:?} is written into a file, but announced is {target:?}"
        );
    }

    /// Nobody is shown a database whose file may hold something that is not applied.
    pub(crate) fn check_whole(&self, database: DatabaseId, applied: LogIndex) {
        let mut files = self.manifest.databases.iter();
        if let Some(file) = files.find(|file| file.id == database) {
            assert!(
                file.target <= applied,
                "{} is shown as of {applied}, but its file may hold something up to {}",
                file.name,
                file.target
            );
        }
    }

    pub(crate) fn tick(&mut self, ticks: u64) {
        self.log.tick(ticks);
    }

    /// Completes what is due, and starts what comes next.
    pub(crate) fn advance(&mut self, now: u64, tally: &mut Tally) -> Done {
        let mut done = Done::default();
        if now < self.health.hangs_until {
            return done;
        }
        if let Err(trouble) = self
            .advance_log(now, &mut done, tally)
            .and_then(|()| self.advance_manifest(now, &mut done, tally))
        {
            done.trouble = Some(trouble);
        }
        done
    }

    fn advance_log(&mut self, now: u64, done: &mut Done, tally: &mut Tally) -> Result<(), Trouble> {
        loop {
            if let Some(write) = self.log_write.take() {
                if write.done_at > now {
                    self.log_write = Some(write);
                    return Ok(());
                }
                self.complete(&write.write, tally)?;
                self.log.written();
                self.base_written();
            }
            if let Some(write) = self.next_of_switch()? {
                let done_at = now + self.delay(tally);
                self.log_write = Some(InFlight { write, done_at });
                return Ok(());
            }
            if self.switch.as_ref().is_some_and(Switch::holds_the_log) {
                return Ok(());
            }
            let full = self.health.is_full;
            let next = self.log.next_write(&self.image, full, &mut done.persisted);
            if matches!(next, Err(Trouble::Full)) {
                tally.count(Kind::DiskFull);
            }
            let Some(write) = next? else {
                return Ok(());
            };
            let done_at = now + self.delay(tally);
            self.log_write = Some(InFlight { write, done_at });
        }
    }

    fn advance_manifest(
        &mut self,
        now: u64,
        done: &mut Done,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        loop {
            if let Some(write) = self.manifest_write.take() {
                if write.done_at > now {
                    self.manifest_write = Some(write);
                    return Ok(());
                }
                self.complete(&write.write, tally)?;
            }
            let Some(mut saving) = self.saving.take() else {
                return Ok(());
            };
            if saving.copies_left == 0 {
                self.manifest = saving.image;
                match self.switch_saved() {
                    None => done.manifest_saved = true,
                    event => done.switch = event,
                }
                return Ok(());
            }
            let write = Write {
                path: self.image.manifest_paths()[2 - saving.copies_left].clone(),
                offset: 0,
                bytes: self.image.manifest_copy(&saving.image),
            };
            saving.copies_left -= 1;
            self.saving = Some(saving);
            let done_at = now + self.delay(tally);
            self.manifest_write = Some(InFlight { write, done_at });
        }
    }

    fn complete(&mut self, write: &Write, tally: &mut Tally) -> Result<(), Trouble> {
        if std::mem::take(&mut self.health.fails) {
            tally.count(Kind::WriteError);
            write.tear(&mut self.random, tally);
            return Err(Trouble::Failed);
        }
        write.perform();
        Ok(())
    }

    /// How long a write takes that begins now.
    pub(crate) fn delay(&mut self, tally: &mut Tally) -> u64 {
        if self.random.per_mille(self.health.slow_per_mille) {
            tally.count(Kind::SlowWrite);
            return self.random.between(3, 60);
        }
        self.random.between(1, 2)
    }

    /// The segments that the saved manifest does not need may be used again.
    pub(crate) fn cut(&mut self, up_to: LogIndex) {
        let LogBase { index, .. } = self.manifest.base;
        assert!(up_to <= index, "the manifest names the cut first");
        self.log.cut(&self.image, index, self.manifest.segment);
    }

    /// Entries for a peer that is far behind.
    pub(crate) fn read(&self, from: LogIndex, up_to: LogIndex) -> Vec<Entry> {
        self.log.read(&self.image, from, up_to)
    }

    /// Whether the log on the medium has this entry, and nobody has asked to truncate it, or had it
    /// before it was cut off; or a snapshot has brought what it did.
    pub(crate) fn holds(&self, index: LogIndex, entry: Held) -> bool {
        index <= self.log.installed || self.log.durable.get(&index) == Some(&entry)
    }

    /// Up to where the disk has everything.
    pub(crate) fn durable_last(&self) -> LogIndex {
        let last = self.log.durable.last_key_value();
        last.map_or(self.log.installed, |(index, _)| *index)
    }

    /// The process ends. What the drive was given is there, or not, or in part, as it is written
    /// past the page cache; what is in the page cache stays.
    pub(crate) fn kill(&mut self, tally: &mut Tally) {
        let writes = [self.log_write.take(), self.manifest_write.take()];
        for InFlight { write, .. } in writes.into_iter().flatten() {
            write.tear(&mut self.random, tally);
        }
        self.saving = None;
        self.log.forget();
        self.health.fails = false;
    }

    /// The power fails: what was not synced may be lost as well.
    pub(crate) fn lose_power(&mut self, tally: &mut Tally) {
        self.kill(tally);
        self.files.power_loss(&mut self.random, tally);
        self.staged.power_loss(&mut self.random, tally);
    }
}

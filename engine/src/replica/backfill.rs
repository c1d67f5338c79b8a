//! Backfill: when committed pages move from the in-memory WALs into the database files, and what
//! the log and the memory may let go of then.
//!
//! One database at a time goes through these stages. *Announce*: the manifest says how far its file
//! may be written (`target`). *Write*: the pages go into the file, off this core. *Record*: the
//! manifest says how far its file is complete (`applied`), and the log is cut.
//!
//! A WAL that has grown to its limit is restarted: its writers (on a follower: all applying) wait
//! for the few milliseconds in which the last frames are committed and written.

use ringlite_raft::LogIndex;

use super::catalogue::{DatabaseId, DatabaseState};
use super::file::DatabaseFile;
use super::{Effect, Replica};

/// For how long writers wait for a restart of the WAL, in ticks, before it is given up.
const DRAIN_TICKS_MAX: u64 = 2;
/// How long a database whose readers stand in the way is left alone, in ticks.
const RETRY_TICKS: u64 = 10;

/// Where backfill stands.
#[derive(Debug, Default)]
pub(super) struct Backfills {
    stage: Stage,
    /// The log begins after this index, by the last manifest.
    base: LogIndex,
    /// Everything goes into the files, however little it is: the node stops.
    flushes: bool,
    /// The database that was looked after last: the others come first.
    last: Option<DatabaseId>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Writers wait until what is in flight has committed.
    Draining { database: DatabaseId, deadline: u64 },
    /// The manifest is being saved with the target.
    Announcing {
        database: DatabaseId,
        restarts: bool,
    },
    /// The pages are being written, up to the entry `newest` if readers let it, or the file is
    /// being synced.
    Writing { newest: Option<LogIndex> },
    /// The manifest is being saved with what the file holds now.
    Recording,
}

impl Backfills {
    pub(super) fn new(base: LogIndex) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    /// The files of a snapshot have taken the place of all others.
    pub(super) fn installed(&mut self, base: LogIndex) {
        assert!(matches!(self.stage, Stage::Idle), "files are being written");
        self.base = base;
        self.last = None;
    }

    /// The database whose WAL is about to be restarted, so that nothing may be added to it.
    pub(super) fn parked(&self) -> Option<DatabaseId> {
        match self.stage {
            Stage::Draining { database, .. }
            | Stage::Announcing {
                database,
                restarts: true,
            } => Some(database),
            _ => None,
        }
    }
}

impl Replica {
    /// Whether nothing may be added to the WAL of `database` for a moment.
    pub(super) fn is_parked(&self, database: DatabaseId) -> bool {
        self.backfills.parked() == Some(database)
    }

    /// Whether the WAL of some database is parked.
    pub(super) fn is_any_parked(&self) -> bool {
        self.backfills.parked().is_some()
    }

    /// Whether no file is being written, or about to be.
    pub(super) fn is_backfill_idle(&self) -> bool {
        matches!(self.backfills.stage, Stage::Idle)
    }

    /// Takes nothing new any more, so that the files can catch up.
    pub(super) fn flush(&mut self) {
        self.backfills.flushes = true;
        self.drive_backfill();
    }

    /// Whether the node is about to stop.
    pub(super) fn is_flushing(&self) -> bool {
        self.backfills.flushes
    }

    /// Whether the database files hold everything that has been applied here, after
    /// [`super::Input::Flush`].
    pub fn is_flushed(&self) -> bool {
        let mut states = self.catalogue.iter().map(|(_, state)| state);
        self.backfills.flushes
            && matches!(self.backfills.stage, Stage::Idle)
            && self.batch.is_empty()
            && states.all(|state| state.file.is_clean() && !state.has_in_flight())
    }

    /// Begins the next step, if it is time for one.
    pub(super) fn drive_backfill(&mut self) {
        match self.backfills.stage {
            // The files are about to be others.
            Stage::Idle if self.snapshots.is_installing() => {}
            Stage::Draining { .. } if self.snapshots.is_installing() => self.end_stage(),
            Stage::Idle => {
                let next = self.next_wish();
                self.backfills.last = next.as_ref().map(|(id, _)| *id).or(self.backfills.last);
                match next {
                    Some((database, Wish::Backfill)) => self.announce(database, false),
                    Some((database, Wish::Restart)) => {
                        self.backfills.stage = Stage::Draining {
                            database,
                            deadline: self.now + self.drain_ticks(database),
                        };
                        self.drive_backfill();
                    }
                    None => {}
                }
            }
            Stage::Draining { database, deadline } => {
                if self.is_drained(database) {
                    self.announce(database, true);
                } else if self.now > deadline {
                    self.postpone(database);
                    self.end_stage();
                }
            }
            Stage::Announcing { .. } | Stage::Writing { .. } | Stage::Recording => {}
        }
    }

    /// Entries up to here may go into the files: they are committed, applied here, and durable in
    /// this node's own log, and none of them is a part of an unfinished run.
    fn fileable(&self) -> LogIndex {
        let raft = self.raft.status();
        let whole = self.parts_first.map_or(self.applied, LogIndex::prev);
        if mutation!(FilesAheadOfTheLog) {
            return self.applied;
        }
        self.applied.min(raft.durable).min(whole)
    }

    /// What is to be done next. The databases take turns, or a busy one would hold the log for all.
    fn next_wish(&self) -> Option<(DatabaseId, Wish)> {
        let bound = self.fileable();
        let wish = |(id, state)| Some((id, self.wants(state, bound)?));
        let last = self.backfills.last;
        let mut wishes: Vec<_> = self.catalogue.iter().filter_map(wish).collect();
        wishes.sort_by_key(|(id, _)| (Some(*id) <= last, *id));
        wishes.into_iter().next()
    }

    /// For how long the writers of a database may be kept waiting. The further its WAL is above its
    /// limit, the longer: those that have the lock may need some time to come to their end.
    fn drain_ticks(&self, database: DatabaseId) -> u64 {
        let wal = self
            .catalogue
            .get(database)
            .map_or(0, DatabaseState::wal_bytes);
        match wal {
            wal if wal >= self.config.wal_bytes_hard => self.config.write_idle_ticks,
            wal if wal >= 2 * self.config.wal_bytes_max => 50 * DRAIN_TICKS_MAX,
            _ => DRAIN_TICKS_MAX,
        }
    }

    fn wants(&self, state: &DatabaseState, bound: LogIndex) -> Option<Wish> {
        let file = &state.file;
        if self.now < file.not_before {
            return None;
        }
        let page_bytes = u64::from(state.page_size.bytes());
        let waiting = u64::from(file.waiting_frames(bound)) * page_bytes;
        // Where backfill cannot keep up, only waiting writers let it.
        let is_behind = state.wal_bytes() >= 2 * self.config.wal_bytes_max;
        if waiting >= self.config.backfill_bytes && !is_behind {
            return Some(Wish::Backfill);
        }
        if state.wal_bytes() >= self.config.wal_bytes_max {
            return Some(Wish::Restart);
        }
        let is_old = file
            .dirty_since
            .is_some_and(|since| since + self.config.backfill_ticks_max <= self.now);
        let has_any = waiting > 0 || file.unsynced.is_some();
        (has_any && (is_old || self.backfills.flushes)).then_some(Wish::Backfill)
    }

    /// Whether everything that was written into the WAL can go into the file.
    fn is_drained(&self, database: DatabaseId) -> bool {
        let Some(state) = self.catalogue.get(database) else {
            return true;
        };
        let is_locked = self.queues.holder(database).is_some();
        let newest = state.file.newest_end();
        !is_locked
            && !self.batch.changes(database)
            && !state.has_in_flight()
            && newest.is_none_or(|index| index <= self.fileable())
    }

    fn postpone(&mut self, database: DatabaseId) {
        let not_before = self.now + RETRY_TICKS;
        if let Some(state) = self.catalogue.get_mut(database) {
            state.file.not_before = not_before;
        }
    }

    fn announce(&mut self, database: DatabaseId, restarts: bool) {
        let bound = self.fileable();
        let Some(state) = self.catalogue.get_mut(database) else {
            self.end_stage();
            return;
        };
        let target = state.file.ends_up_to(bound).last().map(|(index, _)| *index);
        self.backfills.stage = Stage::Announcing { database, restarts };
        match target {
            Some(target) if target > state.file.target && !mutation!(NoTarget) => {
                state.file.target = target;
                self.save_manifest();
            }
            // Announced before, by a backfill that readers stood in the way of.
            _ => self.write(database, restarts),
        }
    }

    /// The manifest is on stable storage.
    pub(super) fn manifest_saved(&mut self) {
        match self.backfills.stage {
            Stage::Announcing { database, restarts } => self.write(database, restarts),
            Stage::Recording => {
                let base = self.backfills.base;
                if base > self.raft.status().base {
                    self.raft.step(ringlite_raft::Input::Cut { up_to: base });
                    self.effects.push_back(Effect::CutLog { up_to: base });
                }
                self.end_stage();
                self.drive_backfill();
            }
            ref stage => unreachable!("no manifest was to be saved in {stage:?}"),
        }
    }

    fn write(&mut self, database: DatabaseId, restarts: bool) {
        let fileable = self.fileable();
        let Some(state) = self.catalogue.get(database) else {
            self.end_stage();
            return;
        };
        // More may have committed while the manifest was being saved.
        let bound = match (mutation!(NoTarget), mutation!(MoreThanAnnounced)) {
            (false, false) => fileable.min(state.file.target),
            _ => fileable,
        };
        // A new leader may have come meanwhile, or a writer that was let in before.
        let is_all = state.file.newest_end() <= Some(bound);
        let restarts = restarts && is_all && self.is_drained(database);
        let ends: Vec<_> = state.file.ends_up_to(bound).copied().collect();
        let is_parked = self.backfills.parked().is_some();
        let newest = ends.last().map(|(index, _)| *index);
        self.backfills.stage = Stage::Writing { newest };
        self.effects.push_back(if restarts {
            Effect::RestartWal { database, ends }
        } else {
            Effect::Backfill { database, ends }
        });
        if is_parked && !restarts {
            self.unpark();
        }
    }

    /// The file of `database` holds everything up to the entry `end`, durably; `None`: readers
    /// stood in the way.
    pub(super) fn backfilled(&mut self, database: DatabaseId, end: Option<LogIndex>) {
        let Stage::Writing { newest } = self.backfills.stage else {
            unreachable!("no backfill was asked for in {:?}", self.backfills.stage);
        };
        let now = self.now;
        if let Some(state) = self.catalogue.get_mut(database) {
            if let Some(end) = end {
                state.file.written(end);
            }
            state.file.synced(now);
            if newest.is_some() {
                state.file.is_blocked = end < newest;
            }
            if end < newest {
                state.file.not_before = now + RETRY_TICKS;
            }
        }
        self.record();
    }

    /// A restart of the WAL was tried: the file holds everything up to the entry `end`, but not yet
    /// durably, and `commit_point` is the state of the new WAL.
    pub(super) fn wal_restarted(
        &mut self,
        database: DatabaseId,
        end: Option<LogIndex>,
        commit_point: Option<ringlite_vfs::CommitPoint>,
    ) {
        if commit_point.is_none() {
            self.postpone(database);
        }
        if let Some(state) = self.catalogue.get_mut(database) {
            state.file.is_blocked = commit_point.is_none();
            if let Some(end) = end {
                state.file.written(end);
            }
            if let Some(commit_point) = commit_point {
                state.committed = Some(commit_point);
                state.file.wal_restarted();
            }
        }
        self.backfills.stage = Stage::Writing { newest: None };
        self.effects.push_back(Effect::Backfill {
            database,
            ends: Vec::new(),
        });
        self.unpark();
    }

    fn record(&mut self) {
        self.backfills.stage = Stage::Recording;
        self.save_manifest();
    }

    /// What waited for a restart of a WAL goes on.
    fn unpark(&mut self) {
        self.commit(self.raft.status().commit);
        self.resume_all_writers();
    }

    fn end_stage(&mut self) {
        let was_parked = self.backfills.parked().is_some();
        self.backfills.stage = Stage::Idle;
        if was_parked {
            self.unpark();
        }
    }

    fn save_manifest(&mut self) {
        let (base, databases) = self.files();
        // Members that lack more than the window holds are left to a snapshot.
        let members = self
            .raft
            .status()
            .matched_by_all
            .max(self.log_window.start());
        let held = self.snapshots.hold().unwrap_or(LogIndex::MAX);
        let base = base.min(members).min(held);
        self.backfills.base = self.backfills.base.max(base);
        let base = self.backfills.base;
        if mutation!(CutBeforeTheManifest) && base > self.raft.status().base {
            self.raft.step(ringlite_raft::Input::Cut { up_to: base });
            self.effects.push_back(Effect::CutLog { up_to: base });
        }
        let bound = self.fileable();
        let targets = databases.iter().map(|file| file.target);
        let owed = targets.filter(|target| *target > bound).max();
        let Some(configuration) = self.raft.configuration_at(base).cloned() else {
            unreachable!("the log does not reach from {base} on");
        };
        self.effects.push_back(Effect::SaveManifest {
            base,
            owed: owed.unwrap_or(LogIndex::ZERO),
            configuration,
            databases,
        });
    }

    /// What the files of all databases hold, and the entry behind which a restart from them needs
    /// the log.
    pub(super) fn files(&mut self) -> (LogIndex, Vec<DatabaseFile>) {
        let bound = self.fileable();
        let mut base = bound;
        // What has arrived of a restored file is in the log alone.
        if let Some(restore) = self.oldest_restore() {
            base = base.min(restore.prev());
        }
        let mut databases = Vec::new();
        debug_assert!(
            !self
                .effects
                .iter()
                .any(|effect| matches!(effect, Effect::Apply { .. })),
            "something is applied of which the files know nothing yet"
        );
        for (id, state) in self.catalogue.iter_mut() {
            if let Some(made_from) = state.made_from
                && id.0 > bound
            {
                // Its creation is not durable in this node's log yet. A restart makes it again, from
                // the log alone.
                base = base.min(made_from.prev());
                continue;
            }
            // Of one whose file is gone the log has to tell the end.
            if state.committed.is_some() {
                state.file.follow(bound);
            }
            base = base.min(state.file.applied);
            databases.push(DatabaseFile {
                id,
                name: state.name.clone(),
                page_size: state.page_size,
                applied: state.file.applied,
                target: state.file.target,
            });
        }
        (base, databases)
    }
}

enum Wish {
    Backfill,
    Restart,
}

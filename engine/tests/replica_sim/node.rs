//! One node: a real replica with real SQL, its disk, and what a runtime keeps between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read as _;
use std::time::Duration;

use ringlite::replica::request::{Reply, RequestId};
use ringlite::replica::{
    Config, DatabaseId, Effect, Input, Replica, SnapshotHead, SnapshotOutcome,
};
use ringlite::sql::{Paused, Resumed, Returned, RunLimits, Sql, Started};
use ringlite_raft::{IoId, LogIndex, Message, NodeId};
use ringlite_vfs::{Backfill, VfsError};
use tempfile::TempDir;

use super::disk::{Disk, Manifest};
use super::random::Random;

/// A request to read entries, under way.
struct Reading {
    due: u64,
    peer: NodeId,
    from: LogIndex,
    up_to: LogIndex,
}

/// Pages on their way into a database's file.
struct Filing {
    database: DatabaseId,
    end: Option<LogIndex>,
    backfill: Option<Backfill>,
    /// Then the file is synced.
    due: u64,
}

/// A run that left the core, and does its next part then.
struct Away {
    due: u64,
    stage: Stage,
}

enum Stage {
    Runs(Paused),
    WantsCore(Paused),
    /// It has ended, which the shard does not know yet.
    Returns(Returned),
}

/// A running process.
pub(crate) struct Process {
    /// Before `sql`, so that what is dropped in the middle has its database.
    away: Vec<Away>,
    pub(crate) replica: Replica,
    sql: Sql,
    /// Messages that wait for the disk.
    held: Vec<(IoId, NodeId, Message)>,
    persisted: IoId,
    pub(crate) inbox: VecDeque<Input>,
    readings: Vec<Reading>,
    /// A manifest that is being saved, and when it is on the medium.
    saving: Option<(u64, Manifest)>,
    filing: Option<Filing>,
    /// A snapshot that takes the place of everything, and when its next step is done.
    installing: Option<(u64, SnapshotHead)>,
    /// How far the file of each database was written in this life.
    pub(crate) written: BTreeMap<DatabaseId, LogIndex>,
    /// Requests that were asked and not answered.
    pub(crate) pending: BTreeSet<RequestId>,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    data: TempDir,
    /// None while the node is down.
    pub(crate) process: Option<Process>,
    pub(crate) disk: Disk,
    pub(crate) tick_phase: u64,
    /// How many of a thousand runs leave the core.
    pub(crate) leave_per_mille: u64,
    /// What its threads do.
    threads: Random,
    /// Until then the process gets no time.
    pub(crate) stands_still_until: u64,
    /// Then the power fails, just after a long turn.
    pub(crate) crashes_at: Option<u64>,
    /// How long the disk takes for a write that begins now.
    pub(crate) disk_delay: u64,
    pub(crate) sent: Vec<(NodeId, Message)>,
    pub(crate) replies: Vec<(RequestId, ringlite::Result<Reply>)>,
    /// Snapshots that are to be sent.
    pub(crate) snapshots: Vec<(NodeId, SnapshotHead)>,
    /// The files of the snapshot that has arrived, and what has become of it.
    arrived: Vec<Vec<u8>>,
    pub(crate) snapshot_outcome: Option<SnapshotOutcome>,
    pub(crate) storage_reads: u64,
    pub(crate) roll_backs: u64,
    pub(crate) backfills: u64,
    pub(crate) wal_restarts: u64,
    pub(crate) cuts: u64,
    pub(crate) long_runs: u64,
}

impl Node {
    pub(crate) fn new(id: u64, tick_phase: u64, seed: u64) -> Node {
        // Creating a database syncs files, which memory does faster.
        let shared_memory = std::path::Path::new("/dev/shm");
        let data = if shared_memory.is_dir() {
            tempfile::tempdir_in(shared_memory)
        } else {
            tempfile::tempdir()
        };
        Node {
            id: NodeId(id),
            data: data.expect("a directory"),
            process: None,
            disk: Disk::default(),
            tick_phase,
            leave_per_mille: 0,
            threads: Random::new(seed),
            stands_still_until: 0,
            crashes_at: None,
            disk_delay: 1,
            sent: Vec::new(),
            replies: Vec::new(),
            snapshots: Vec::new(),
            arrived: Vec::new(),
            snapshot_outcome: None,
            storage_reads: 0,
            roll_backs: 0,
            backfills: 0,
            wal_restarts: 0,
            cuts: 0,
            long_runs: 0,
        }
    }

    /// Starts from what the disk holds, as the runtime does.
    pub(crate) fn start(&mut self, config: Config, now: u64) {
        self.finish_installation();
        let (hard_state, log, committed) = self.disk.recover();
        let replica = Replica::new(config, hard_state, log, self.disk.databases())
            .expect("what was saved fits");
        let directory = self.data.path().to_owned();
        self.process = Some(Process {
            away: Vec::new(),
            replica,
            sql: Sql::new(directory.clone(), directory).expect("SQLite"),
            held: Vec::new(),
            persisted: IoId(0),
            inbox: VecDeque::new(),
            readings: Vec::new(),
            saving: None,
            filing: None,
            installing: None,
            written: BTreeMap::new(),
            pending: BTreeSet::new(),
        });
        self.perform_effects(now);
        for entry in committed {
            self.running().replica.replay(&entry);
            self.perform_effects(now);
        }
        self.end_turn(now);
    }

    /// Everything in memory is gone; the requests that were not answered are returned.
    pub(crate) fn forget(&mut self) -> BTreeSet<RequestId> {
        self.stands_still_until = 0;
        self.crashes_at = None;
        self.sent.clear();
        self.replies.clear();
        self.snapshots.clear();
        self.arrived.clear();
        self.snapshot_outcome = None;
        self.process
            .take()
            .map(|process| process.pending)
            .unwrap_or_default()
    }

    pub(crate) fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running node")
    }

    /// All files of a snapshot are here, durable.
    pub(crate) fn snapshot_arrived(&mut self, head: SnapshotHead, files: Vec<Vec<u8>>) {
        self.arrived = files;
        let arrived = Input::SnapshotArrived { head };
        self.running().inbox.push_back(arrived);
    }

    /// The content of a file of a database, if there is such a database.
    pub(crate) fn file_of(&mut self, database: DatabaseId, suffix: &str) -> Option<Vec<u8>> {
        let file = self.running().sql.open_file(database, suffix);
        let mut content = Vec::new();
        let mut file = file.expect("the file of a database")?;
        file.read_to_end(&mut content).expect("a readable file");
        Some(content)
    }

    /// The manifest is saved, and then the files change their names: a crash may come between.
    fn install(&mut self, now: u64) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some((_, head)) = process.installing.take_if(|(due, _)| *due <= now) else {
            return;
        };
        if self.disk.installs.is_some() {
            process.sql.remove_databases().expect("a removal");
            self.finish_installation();
            self.running().inbox.push_back(Input::SnapshotInstalled);
            return;
        }
        process.installing = Some((now + self.disk_delay, head.clone()));
        if self.disk.is_idle() {
            self.disk.replace(head, std::mem::take(&mut self.arrived));
        }
    }

    fn finish_installation(&mut self) {
        let Some(files) = self.disk.installs.take() else {
            return;
        };
        for file in std::fs::read_dir(self.data.path()).expect("a directory") {
            std::fs::remove_file(file.expect("a file").path()).expect("a removal");
        }
        for (name, content) in files {
            std::fs::write(self.data.path().join(name), content).expect("a file");
        }
    }

    /// What the disk has done since.
    pub(crate) fn gather(&mut self, now: u64) {
        self.run_away(now);
        self.install(now);
        let persisted = self.disk.complete(now);
        let Some(process) = &mut self.process else {
            return;
        };
        if let Some(io) = persisted {
            process.persisted = io;
            for (after, to, message) in std::mem::take(&mut process.held) {
                if after <= io {
                    self.sent.push((to, message));
                } else {
                    process.held.push((after, to, message));
                }
            }
            process.inbox.push_back(Input::Persisted { io });
        }
        if let Some((_, manifest)) = process.saving.take_if(|(due, _)| *due <= now) {
            self.disk.save_manifest(manifest);
            process.inbox.push_back(Input::ManifestSaved);
        }
        let disk = &self.disk;
        if let Some(filing) = &mut process.filing {
            if let Some(mut backfill) = filing.backfill.take() {
                match backfill.write_slice(1) {
                    Ok(true) => filing.backfill = Some(backfill),
                    Ok(false) => {
                        backfill.publish();
                        process
                            .written
                            .extend(filing.end.map(|end| (filing.database, end)));
                        self.backfills += 1;
                        filing.due = now + self.disk_delay;
                    }
                    Err(VfsError::Removed { .. }) => {
                        filing.end = None;
                        filing.due = now;
                    }
                    Err(error) => panic!("a file that cannot be written: {error}"),
                }
            } else if filing.due <= now {
                process.inbox.push_back(Input::Backfilled {
                    database: filing.database,
                    end: filing.end,
                });
                process.filing = None;
            }
        }
        for reading in std::mem::take(&mut process.readings) {
            if reading.due <= now {
                self.storage_reads += 1;
                process.inbox.push_back(Input::EntriesRead {
                    peer: reading.peer,
                    entries: disk.read(reading.from, reading.up_to),
                });
            } else {
                process.readings.push(reading);
            }
        }
    }

    /// What the threads of long runs have done since.
    fn run_away(&mut self, now: u64) {
        let Some(process) = &mut self.process else {
            return;
        };
        let (due, later) = std::mem::take(&mut process.away)
            .into_iter()
            .partition(|away| away.due <= now);
        process.away = later;
        for away in due as Vec<Away> {
            let stage = match away.stage {
                Stage::Returns(returned) => {
                    let ran = self.running().sql.take_back(returned);
                    if let Some(ran) = ran {
                        self.input(Input::Ran(ran), now);
                    }
                    continue;
                }
                Stage::Runs(paused) => self.run_a_while(paused),
                Stage::WantsCore(paused) => match self.running().sql.visit(paused) {
                    Some(Started::Ran(ran)) => {
                        self.input(Input::Ran(ran), now);
                        continue;
                    }
                    Some(Started::Left {
                        paused, captures, ..
                    }) => {
                        self.input(Input::Captured { captures }, now);
                        Stage::Runs(paused)
                    }
                    None => continue,
                },
            };
            let due = now + self.threads.below(12);
            self.running().away.push(Away { due, stage });
        }
    }

    /// A few looks at the clock, or to the end.
    fn run_a_while(&mut self, mut paused: Paused) -> Stage {
        let slice = match self.threads.per_mille(500) {
            true => Duration::MAX,
            false => Duration::ZERO,
        };
        for _ in 0..self.threads.between(1, 20) {
            match paused.resume(slice) {
                Resumed::Paused(again) => paused = again,
                Resumed::WantsCore(paused) => return Stage::WantsCore(paused),
                Resumed::Returned(returned) => return Stage::Returns(returned),
            }
        }
        Stage::Runs(paused)
    }

    pub(crate) fn input(&mut self, input: Input, now: u64) {
        self.running().replica.step(input);
        self.perform_effects(now);
    }

    pub(crate) fn end_turn(&mut self, now: u64) {
        if self.threads.per_mille(700) {
            let captures = self.running().sql.take_captures();
            self.input(Input::Captured { captures }, now);
        }
        while self.running().replica.end_turn() {
            self.perform_effects(now);
        }
        self.running().replica.check_invariants();
    }

    fn perform_effects(&mut self, now: u64) {
        while let Some(effect) = self.running().replica.next_effect() {
            self.perform(effect, now);
        }
    }

    fn perform(&mut self, effect: Effect, now: u64) {
        let process = self.process.as_mut().expect("a running node");
        match effect {
            Effect::Run {
                request,
                work,
                may_write,
            } => {
                let leaves = self.threads.per_mille(self.leave_per_mille);
                process.sql.set_limits(RunLimits {
                    core_time: if leaves {
                        Duration::ZERO
                    } else {
                        Duration::MAX
                    },
                    look_steps: 3,
                    statement_time: Duration::ZERO,
                });
                let input = match process.sql.start(request, work, may_write) {
                    Started::Ran(ran) => Input::Ran(ran),
                    Started::Left {
                        paused,
                        writes,
                        captures,
                    } => {
                        self.long_runs += 1;
                        let stage = Stage::Runs(paused);
                        let due = now + self.threads.below(12);
                        process.away.push(Away { due, stage });
                        process.replica.step(Input::Left { request, writes });
                        Input::Captured { captures }
                    }
                };
                process.replica.step(input);
            }
            Effect::StopRun { session, reason } => process.sql.stop(session, reason),
            Effect::Reply { request, reply } => {
                assert!(
                    process.pending.remove(&request),
                    "{request:?} has no such question: {reply:?}"
                );
                self.replies.push((request, reply));
            }
            Effect::Send { to, message, after } => match after {
                Some(io) if io > process.persisted => process.held.push((io, to, message)),
                _ => self.sent.push((to, message)),
            },
            Effect::SaveHardState { io, hard_state } => {
                self.disk.save(io, hard_state, now, self.disk_delay);
            }
            Effect::Append {
                io,
                truncate_from,
                entries,
                commit,
            } => {
                let write = (truncate_from, entries, commit);
                self.disk.append(io, write, now, self.disk_delay);
            }
            Effect::ReadEntries {
                peer, from, up_to, ..
            } => process.readings.push(Reading {
                due: now + 2,
                peer,
                from,
                up_to,
            }),
            Effect::SaveManifest {
                base,
                owed,
                configuration,
                databases,
            } => {
                assert!(process.saving.is_none(), "one save at a time");
                let manifest = Manifest {
                    base,
                    owed,
                    configuration,
                    databases,
                };
                process.saving = Some((now + self.disk_delay, manifest));
            }
            Effect::SendSnapshot { to, head } => self.snapshots.push((to, head)),
            Effect::InstallSnapshot { head } => {
                assert!(process.saving.is_none() && process.filing.is_none());
                process.installing = Some((now + self.disk_delay, head));
            }
            Effect::SnapshotEnded { outcome } => self.snapshot_outcome = Some(outcome),
            Effect::Backfill { database, ends } => {
                assert!(process.filing.is_none(), "one backfill at a time");
                let begun = process.sql.begin_backfill(database, &ends);
                let (end, backfill) = begun.expect("known commits").unzip();
                process.filing = Some(Filing {
                    database,
                    end,
                    backfill,
                    due: now + self.disk_delay,
                });
            }
            // Nobody reads on other threads here.
            Effect::EndReads { .. } => {}
            Effect::CutLog { up_to } => {
                self.cuts += 1;
                self.disk.cut(up_to);
            }
            Effect::Halt { reason } => panic!("{} stops: {reason}", self.id),
            effect => self.perform_on_databases(effect),
        }
    }

    fn perform_on_databases(&mut self, effect: Effect) {
        let process = self.process.as_mut().expect("a running node");
        let sql = &mut process.sql;
        let answer = match effect {
            Effect::CloseSession { session } => {
                sql.close_session(session);
                None
            }
            Effect::SetWritable(writable) => {
                sql.set_writable(writable);
                None
            }
            Effect::OpenDatabase {
                id,
                name,
                page_size,
            } => sql
                .open_database(id, &name, page_size)
                .expect("a file or none"),
            Effect::CreateDatabase {
                id,
                name,
                page_size,
            } => {
                let opened = sql.create_database(id, &name, page_size);
                Some(opened.expect("a database"))
            }
            Effect::RemoveDatabase { database } => {
                sql.remove_database(database).expect("a removal");
                None
            }
            Effect::BeginRestore { restore } => {
                sql.begin_restore(restore).expect("room for a file");
                None
            }
            Effect::WriteRestore { restore, bytes } => {
                sql.write_restore(restore, bytes);
                None
            }
            Effect::FinishRestore { restore, id, name } => {
                let opened = sql.finish_restore(restore, id, &name);
                Some(opened.expect("a whole file").expect("a restore"))
            }
            Effect::DiscardRestore { restore } => {
                sql.discard_restore(restore);
                None
            }
            Effect::Apply { index, change } => {
                // An earlier life may have removed the file already, for an entry still to come.
                let point = sql.apply(&change).expect("pages that can be applied");
                point.map(|commit_point| Input::Applied {
                    database: change.database,
                    index,
                    commit_point,
                })
            }
            Effect::ShowCommitted { database, to } => {
                sql.show_committed(database, &to).expect("a known commit");
                None
            }
            Effect::RestartWal { database, ends } => {
                let (end, commit_point) = sql.restart_wal(database, &ends).expect("a restart");
                self.wal_restarts += u64::from(commit_point.is_some());
                process.written.extend(end.map(|end| (database, end)));
                Some(Input::WalRestarted {
                    database,
                    end,
                    commit_point,
                })
            }
            Effect::RollBack { database, to } => {
                self.roll_backs += 1;
                let point = sql.roll_back(database, &to).expect("a known commit");
                point.map(|commit_point| Input::RolledBack {
                    database,
                    commit_point,
                })
            }
            Effect::Digest {
                request,
                database,
                at,
                applied,
            } => {
                let target = self.disk.target_of(database);
                assert!(
                    target <= Some(applied),
                    "a file that is ahead of its log is shown"
                );
                let pages = sql.begin_digest(database, &at, applied);
                let digest = pages.and_then(|pages| pages.digest()).map(Reply::Digest);
                assert!(process.pending.remove(&request));
                self.replies.push((request, digest));
                None
            }
            other => panic!("{other:?} is performed elsewhere"),
        };
        if let Some(answer) = answer {
            process.replica.step(answer);
        }
    }

    /// How often SQLite asked for recovery, which must never be.
    pub(crate) fn recovery_requests(&mut self) -> u64 {
        self.running().sql.recovery_requests()
    }
}

//! One node: a real replica with real SQL, its disk, and what a runtime keeps between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use ringlite::replica::member::Member;
use ringlite::replica::request::{Reply, RequestId};
use ringlite::replica::{
    Config, DatabaseId, Effect, Input, NodeAddress, Replica, SnapshotHead, SnapshotOutcome,
};
use ringlite::sql::{Paused, Resumed, Returned, RunLimits, Sql, Started};
use ringlite_raft::{
    Configuration, Entry, EntryKind, HardState, IoId, LogBase, LogIndex, MemberRole, Message,
    NodeId, Term,
};
use ringlite_vfs::{Backfill, VfsError};

use super::clock::Clock;
use super::disk::{Disk, Held, SwitchEvent, Trouble};
use super::operators::Stopping;
use super::random::Random;
use super::settings::Settings;
use super::sqlite;
use super::tally::{Kind, Tally};

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
    filing: Option<Filing>,
    /// The file of each database.
    names: BTreeMap<DatabaseId, String>,
    /// How far the file of each database may have been written in this life.
    pub(crate) written: BTreeMap<DatabaseId, LogIndex>,
    /// Then the files of a snapshot get their names.
    renames_at: Option<u64>,
    /// Requests that were asked and not answered.
    pub(crate) pending: BTreeSet<RequestId>,
}

/// Who a node is, as its data directory tells.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
    /// The nodes that it was told of when it was formed.
    pub(crate) known: Vec<NodeAddress>,
    /// Whether these are those that the cluster began with.
    pub(crate) is_founder: bool,
}

impl Identity {
    /// The nodes that a cluster begins with.
    pub(crate) fn founders(count: usize) -> Vec<Identity> {
        let ids = 1..=count as u64;
        let address = |id: u64| format!("node{id}:9000");
        let known = ids.clone().map(|id| NodeAddress {
            id: NodeId(id),
            address: address(id),
        });
        let known: Vec<_> = known.collect();
        let founder = |id| Identity {
            id: NodeId(id),
            incarnation: id,
            address: address(id),
            known: known.clone(),
            is_founder: true,
        };
        ids.map(founder).collect()
    }

    /// The members of a log that was never cut.
    pub(crate) fn bootstrap(&self) -> Configuration {
        if !self.is_founder {
            return Configuration::default();
        }
        let founders = self.known.iter().map(|founder| {
            let member = Member {
                id: founder.id,
                role: MemberRole::Voter,
                address: founder.address.clone(),
                incarnation: founder.id.0,
                failure_domain: 0,
                weight: 0,
                assigned: None,
            };
            ringlite_raft::Member {
                id: member.id,
                role: member.role,
                context: member.context(),
            }
        });
        Configuration::new(founders.collect()).expect("founders")
    }
}

/// An entry as a node was told to append it: its index, what it is, and the term before it.
pub(crate) type Appended = (LogIndex, Held, Term);

/// The log that the disk will hold once it has done all that it was told.
#[derive(Default)]
pub(crate) struct ToldLog {
    pub(crate) base: LogBase,
    pub(crate) entries: BTreeMap<LogIndex, Held>,
    /// The bytes of all records that the replica has seen in this life, and what they were up to each.
    total_bytes: u64,
    totals: BTreeMap<LogIndex, u64>,
    /// The members from each of these entries on.
    configurations: BTreeMap<LogIndex, Configuration>,
}

impl ToldLog {
    fn append(&mut self, truncate_from: Option<LogIndex>, entries: &[Entry]) -> Vec<Appended> {
        if let Some(from) = truncate_from {
            self.entries.split_off(&from);
            self.configurations.split_off(&from);
        }
        let mut appended = Vec::new();
        for entry in entries {
            let last = self.entries.last_key_value();
            let (last, before) = last.map_or((self.base.index, self.base.term), |(index, held)| {
                (*index, held.term)
            });
            assert_eq!(entry.index, last.next(), "an append leaves a gap");
            let held = Held::of(entry);
            self.entries.insert(entry.index, held);
            self.count(entry);
            self.note_members(entry);
            appended.push((entry.index, held, before));
        }
        appended
    }

    fn count(&mut self, entry: &Entry) {
        self.total_bytes += ringlite_raft::record_bytes(entry.payload.len()) as u64;
        self.totals.insert(entry.index, self.total_bytes);
    }

    /// The bytes of the records behind an entry, as far as this life has seen them.
    pub(crate) fn bytes_behind(&self, index: LogIndex) -> u64 {
        let seen = self.totals.get(&index).copied();
        seen.map_or(self.total_bytes, |total| self.total_bytes - total)
    }

    fn note_members(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::Configuration {
            let members = Configuration::decode(entry.payload.clone());
            let members = members.expect("a configuration");
            self.configurations.insert(entry.index, members);
        }
    }

    /// The members as of an entry, if the log reaches so far back.
    pub(crate) fn configuration_at(&self, index: LogIndex) -> Option<&Configuration> {
        let before = self.configurations.range(..=index).next_back();
        before.map(|(_, members)| members)
    }

    /// All later ones.
    pub(crate) fn configurations_behind(
        &self,
        index: LogIndex,
    ) -> impl Iterator<Item = &Configuration> {
        let later = self.configurations.range(index.next()..);
        later.map(|(_, members)| members)
    }

    /// The newest ones.
    pub(crate) fn configuration(&self) -> Option<&Configuration> {
        self.configurations.values().next_back()
    }

    /// Another log has taken its place: empty behind `base`, where the members are these.
    fn replaced(&mut self, base: LogBase, members: Configuration) {
        *self = ToldLog {
            base,
            configurations: BTreeMap::from([(base.index, members)]),
            ..ToldLog::default()
        };
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) identity: Identity,
    /// It has no process any more, and never will.
    pub(crate) is_retired: bool,
    /// Then it is retired, as it was removed.
    pub(crate) retires_at: Option<u64>,
    /// It has been told that it was removed.
    pub(crate) knows_its_removal: bool,
    /// Whom it has links to.
    pub(crate) links: BTreeSet<NodeId>,
    temporary: std::path::PathBuf,
    /// None while the node is down.
    pub(crate) process: Option<Process>,
    /// Why it does not start any more: damage that it has found.
    pub(crate) refuses: Option<String>,
    /// Why it has to stop.
    pub(crate) trouble: Option<Trouble>,
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    /// How many of a thousand runs leave the core.
    leave_per_mille: u64,
    /// What its threads do.
    threads: Random,
    /// Until then the process gets no time.
    pub(crate) stands_still_until: u64,
    /// The process is being stopped.
    pub(crate) stopping: Option<Stopping>,
    /// Then the power fails, just after a long turn.
    pub(crate) crashes_at: Option<u64>,
    /// The next write of a database's file fails, or the next read of the log.
    pub(crate) file_fails: bool,
    pub(crate) read_fails: bool,
    pub(crate) told: ToldLog,
    /// What the last start has found.
    pub(crate) found: HardState,
    /// The process is started again soon after its end.
    pub(crate) restarts_at: Option<u64>,
    /// What was appended since the checkers have looked.
    pub(crate) appended: Vec<Appended>,
    /// The checkers have looked at what is committed up to here.
    pub(crate) checked: LogIndex,
    pub(crate) sent: Vec<(NodeId, Message)>,
    pub(crate) replies: Vec<(RequestId, ringlite::Result<Reply>)>,
    /// Where the log is cut, for the checkers.
    pub(crate) cut: Option<LogIndex>,
    /// Snapshots that are to be sent, and to whom.
    pub(crate) snapshots: Vec<(NodeId, SnapshotHead)>,
    /// The snapshot that takes the place of everything.
    installs: Option<SnapshotHead>,
    /// Whether one has arrived, and its end is not known yet; and what became of it.
    pub(crate) has_arrived: bool,
    pub(crate) snapshot_outcome: Option<SnapshotOutcome>,
    pub(crate) tally: Tally,
}

impl Node {
    pub(crate) fn new(
        identity: Identity,
        directory: &Path,
        settings: &Settings,
        random: &mut Random,
    ) -> Node {
        let Identity {
            id, incarnation, ..
        } = identity;
        let directory = directory.join(format!("node-{incarnation}"));
        let temporary = directory.join("tmp");
        std::fs::create_dir_all(&temporary).expect("a directory");
        Node {
            id,
            links: identity.known.iter().map(|node| node.id).collect(),
            identity,
            is_retired: false,
            retires_at: None,
            knows_its_removal: false,
            temporary,
            process: None,
            refuses: None,
            trouble: None,
            disk: Disk::new(
                &directory,
                incarnation,
                settings.segment_bytes,
                random.fork(),
            ),
            clock: Clock::new(
                settings.clock_rate(random),
                settings.lease_ticks > 0,
                random,
            ),
            leave_per_mille: settings.leave_per_mille,
            threads: random.fork(),
            stands_still_until: 0,
            stopping: None,
            crashes_at: None,
            file_fails: false,
            read_fails: false,
            told: ToldLog::default(),
            found: HardState::default(),
            restarts_at: None,
            appended: Vec::new(),
            checked: LogIndex::ZERO,
            sent: Vec::new(),
            replies: Vec::new(),
            cut: None,
            snapshots: Vec::new(),
            installs: None,
            has_arrived: false,
            snapshot_outcome: None,
            tally: Tally::default(),
        }
    }

    /// Starts from what the disk holds, as the runtime does.
    ///
    /// # Errors
    /// What the disk holds is damaged.
    pub(crate) fn start(&mut self, config: Config, is_alone: bool, now: u64) -> Result<(), String> {
        self.restarts_at = None;
        let found = self.disk.recover(is_alone, &mut self.tally)?;
        self.tally.count(Kind::Start);
        self.tally.add(Kind::TornLog, u64::from(found.torn));
        let members = found.manifest.configuration.clone();
        let members = match members.members().is_empty() {
            true => self.identity.bootstrap(),
            false => members,
        };
        self.told.replaced(found.log.base, members);
        let entries = found.committed.iter().chain(&found.log.tail);
        self.told.entries = entries
            .map(|entry| (entry.index, Held::of(entry)))
            .collect();
        for entry in found.committed.iter().chain(&found.log.tail) {
            self.told.note_members(entry);
        }
        // Of the others the replica does not see how long they are.
        for entry in &found.committed {
            self.told.count(entry);
        }
        self.checked = found.log.base.index;
        let hard_state = found.hard_state.hard_state;
        self.found = hard_state;
        let databases = &found.manifest.databases;
        let replica = Replica::new(config, hard_state, found.log, databases);
        let directory = self.disk.files.directory.clone();
        self.process = Some(Process {
            away: Vec::new(),
            replica: replica.expect("what was saved fits"),
            sql: Sql::new(directory, self.temporary.clone()).expect("SQLite"),
            held: Vec::new(),
            persisted: IoId(0),
            inbox: VecDeque::new(),
            readings: Vec::new(),
            filing: None,
            names: BTreeMap::new(),
            written: BTreeMap::new(),
            renames_at: None,
            pending: BTreeSet::new(),
        });
        sqlite::install_clock();
        sqlite::set_time(self.clock.julian_day(now));
        self.perform_effects(now);
        for entry in found.committed {
            if self.trouble.is_some() {
                return Ok(());
            }
            self.running().replica.replay(&entry);
            self.perform_effects(now);
        }
        self.end_turn(now);
        Ok(())
    }

    /// Everything in memory is gone; the requests that were not answered are returned.
    pub(crate) fn forget(&mut self) -> BTreeSet<RequestId> {
        self.stands_still_until = 0;
        self.stopping = None;
        self.crashes_at = None;
        self.trouble = None;
        self.cut = None;
        self.snapshots.clear();
        self.installs = None;
        self.has_arrived = false;
        self.snapshot_outcome = None;
        self.appended.clear();
        self.sent.clear();
        self.replies.clear();
        self.process
            .take()
            .map(|process| process.pending)
            .unwrap_or_default()
    }

    pub(crate) fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running node")
    }

    /// What the disk has done since.
    pub(crate) fn gather(&mut self, now: u64) {
        self.run_away(now);
        self.advance_disk(now);
        self.advance_file(now);
        self.rename_files(now);
        let Some(process) = &mut self.process else {
            return;
        };
        for reading in std::mem::take(&mut process.readings) {
            if reading.due > now {
                process.readings.push(reading);
                continue;
            }
            let entries = if std::mem::take(&mut self.read_fails) {
                self.tally.count(Kind::ReadError);
                Vec::new()
            } else {
                self.tally.count(Kind::LogRead);
                self.disk.read(reading.from, reading.up_to)
            };
            process.inbox.push_back(Input::EntriesRead {
                peer: reading.peer,
                entries,
            });
        }
    }

    /// Completes writes that are due, and begins the next ones.
    fn advance_disk(&mut self, now: u64) {
        if self.trouble.is_some() {
            // After a failed write there is no other.
            return;
        }
        let done = self.disk.advance(now, &mut self.tally);
        self.trouble = self.trouble.or(done.trouble);
        let Some(process) = &mut self.process else {
            return;
        };
        if let Some(io) = done.persisted {
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
        if done.manifest_saved {
            process.inbox.push_back(Input::ManifestSaved);
        }
        match done.switch {
            None => {}
            Some(SwitchEvent::Switched) => {
                process.renames_at = Some(now + self.disk.delay(&mut self.tally));
            }
            Some(SwitchEvent::Installed) => {
                let head = self.installs.take().expect("a snapshot that is installed");
                self.told.replaced(head.base, head.configuration);
                self.checked = self.checked.max(head.base.index);
                process.inbox.push_back(Input::SnapshotInstalled);
            }
        }
    }

    /// The files of a snapshot take the place of all databases.
    fn rename_files(&mut self, now: u64) {
        let Some(process) = &mut self.process else {
            return;
        };
        if process.renames_at.take_if(|due| *due <= now).is_some() {
            process.sql.remove_databases().expect("a removal");
            process.names.clear();
            process.written.clear();
            self.disk.rename_files(&mut self.tally);
        }
    }

    /// A part of the file of a database; `None` if there is no such database any more.
    pub(crate) fn read_file(
        &mut self,
        database: DatabaseId,
        suffix: &str,
        offset: u64,
        length: usize,
    ) -> Option<Vec<u8>> {
        let opened = self.running().sql.open_file(database, suffix);
        let file = opened.expect("the file of a database")?;
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let read = file.read_at(&mut bytes[done..], offset + done as u64);
            match read.expect("a readable file") {
                0 => break,
                more => done += more,
            }
        }
        bytes.truncate(done);
        Some(bytes)
    }

    /// Goes on with what is being written into the file of a database.
    fn advance_file(&mut self, now: u64) {
        let process = self.process.as_mut().expect("a running node");
        let Some(filing) = &mut process.filing else {
            return;
        };
        if now < self.disk.health.hangs_until {
            return;
        }
        let name = process.names.get(&filing.database);
        if let Some(mut backfill) = filing.backfill.take() {
            if std::mem::take(&mut self.file_fails) {
                self.tally.count(Kind::FileError);
                self.trouble = Some(Trouble::Failed);
                return;
            }
            if let Some(name) = name {
                self.disk.files.writes(name);
            }
            match backfill.write_slice(1) {
                Ok(true) => filing.backfill = Some(backfill),
                Ok(false) => {
                    backfill.publish();
                    self.tally.count(Kind::Backfill);
                    filing.due = now + self.disk.delay(&mut self.tally);
                }
                Err(VfsError::Removed { .. }) => {
                    filing.end = None;
                    filing.due = now;
                }
                Err(error) => panic!("a file that cannot be written: {error}"),
            }
        } else if filing.due <= now {
            if let Some(name) = name {
                self.disk.files.is_safe(name);
            }
            process.inbox.push_back(Input::Backfilled {
                database: filing.database,
                end: filing.end,
            });
            process.filing = None;
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
        if self.trouble.is_some() {
            return;
        }
        self.running().replica.step(input);
        self.perform_effects(now);
    }

    pub(crate) fn end_turn(&mut self, now: u64) {
        if self.threads.per_mille(700) {
            let captures = self.running().sql.take_captures();
            self.input(Input::Captured { captures }, now);
        }
        while self.trouble.is_none() && self.running().replica.end_turn() {
            self.perform_effects(now);
        }
        if self.trouble.is_none() {
            self.running().replica.check_invariants();
        }
        self.advance_disk(now);
    }

    fn perform_effects(&mut self, now: u64) {
        while self.trouble.is_none()
            && let Some(effect) = self.running().replica.next_effect()
        {
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
                        self.tally.count(Kind::LongRun);
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
                self.disk.save(io, hard_state);
            }
            Effect::Append {
                io,
                truncate_from,
                entries,
                commit,
            } => {
                let appended = self.told.append(truncate_from, &entries);
                self.appended.extend(appended);
                self.disk.append(io, truncate_from, entries, commit);
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
                self.disk
                    .save_manifest((base, owed), configuration, databases);
            }
            Effect::Backfill { database, ends } => {
                assert!(process.filing.is_none(), "one backfill at a time");
                self.disk.check_announced(database, &ends);
                let begun = process.sql.begin_backfill(database, &ends);
                let (end, backfill) = begun.expect("known commits").unzip();
                let grows = backfill.as_ref().is_some_and(|backfill: &Backfill| {
                    let name = process.names.get(&database);
                    let file = name.map(|name| self.disk.files.directory.join(name));
                    let length = file.and_then(|file| Some(std::fs::metadata(file).ok()?.len()));
                    let page_size = process.sql.page_size(database);
                    let pages = u64::from(backfill.end().page_count());
                    page_size.is_some_and(|size| length < Some(pages * u64::from(size.bytes())))
                });
                if grows && self.disk.health.is_full {
                    self.tally.count(Kind::DiskFull);
                    self.trouble = Some(Trouble::Full);
                    return;
                }
                if let Some(end) = end {
                    process.written.insert(database, end);
                }
                process.filing = Some(Filing {
                    database,
                    end,
                    backfill,
                    due: now + self.disk.delay(&mut self.tally),
                });
            }
            Effect::SendSnapshot { to, head } => self.snapshots.push((to, head)),
            Effect::InstallSnapshot { head } => {
                assert!(process.filing.is_none(), "a file is being written");
                self.disk.switch_to(&head);
                self.installs = Some(head);
            }
            Effect::SnapshotEnded { outcome } => self.snapshot_outcome = Some(outcome),
            Effect::SetMembers { members } => {
                self.links = members.iter().map(|member| member.id).collect();
            }
            // Nobody reads on other threads here.
            Effect::EndReads { .. } => {}
            Effect::CutLog { up_to } => {
                self.tally.count(Kind::LogCut);
                self.cut = Some(up_to);
                self.disk.cut(up_to);
            }
            Effect::Halt { reason } => panic!("{} stops: {reason}", self.id),
            effect => self.perform_on_databases(effect),
        }
    }

    fn perform_on_databases(&mut self, effect: Effect) {
        let needs_room = matches!(
            effect,
            Effect::CreateDatabase { .. } | Effect::FinishRestore { .. }
        );
        if needs_room && self.disk.health.is_full {
            self.tally.count(Kind::DiskFull);
            self.trouble = Some(Trouble::Full);
            return;
        }
        let process = self.process.as_mut().expect("a running node");
        let sql = &mut process.sql;
        if let Effect::OpenDatabase { id, name, .. }
        | Effect::CreateDatabase { id, name, .. }
        | Effect::FinishRestore { id, name, .. } = &effect
        {
            process.names.insert(*id, name.clone());
        }
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
                self.disk.files.is_safe(&name);
                Some(opened.expect("a database"))
            }
            Effect::RemoveDatabase { database } => {
                sql.remove_database(database).expect("a removal");
                if let Some(name) = process.names.remove(&database) {
                    self.disk.files.is_safe(&name);
                }
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
                self.disk.files.is_safe(&name);
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
                self.disk.check_announced(database, &ends);
                if let Some(name) = process.names.get(&database) {
                    self.disk.files.writes(name);
                }
                let (end, commit_point) = sql.restart_wal(database, &ends).expect("a restart");
                if let Some(end) = end {
                    process.written.insert(database, end);
                }
                self.tally
                    .add(Kind::WalRestart, u64::from(commit_point.is_some()));
                Some(Input::WalRestarted {
                    database,
                    end,
                    commit_point,
                })
            }
            Effect::RollBack { database, to } => {
                self.tally.count(Kind::RollBack);
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

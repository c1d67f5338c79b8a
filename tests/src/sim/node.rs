//! One node: a real replica with real SQL, its disk, and what a runtime keeps between them.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use ringlite::replica::member::Member;
use ringlite::replica::request::{Reply, RequestId};
use ringlite::replica::{
    Config, Effect, Input, NodeAddress, Replica, SnapshotHead, SnapshotOutcome,
};
use ringlite::sql::{Paused, Resumed, Returned, RunLimits, Started};
use ringlite_raft::{Configuration, HardState, IoId, LogIndex, MemberRole, Message, NodeId};

use super::clock::Clock;
use super::databases::Databases;
use super::disk::{Disk, Held, SwitchEvent, Trouble};
use super::operators::Stopping;
use super::random::Random;
use super::settings::Settings;
use super::sqlite;
use super::tally::{Kind, Tally};
use super::told_log::{Appended, ToldLog};

/// A request to read entries, under way.
struct Reading {
    due: u64,
    peer: NodeId,
    from: LogIndex,
    up_to: LogIndex,
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
    pub(crate) databases: Databases,
    /// Messages that wait for the disk.
    held: Vec<(IoId, NodeId, Message)>,
    persisted: IoId,
    pub(crate) inbox: VecDeque<Input>,
    readings: Vec<Reading>,
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
            databases: Databases::new(directory, &self.temporary),
            held: Vec::new(),
            persisted: IoId(0),
            inbox: VecDeque::new(),
            readings: Vec::new(),
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
            process.databases.replaced();
            self.disk.rename_files(&mut self.tally);
        }
    }

    /// Goes on with what is being written into the file of a database.
    fn advance_file(&mut self, now: u64) {
        let process = self.process.as_mut().expect("a running node");
        let tools = (&mut self.disk, &mut self.tally);
        match process.databases.advance(now, &mut self.file_fails, tools) {
            Ok(done) => process.inbox.extend(done),
            Err(trouble) => self.trouble = Some(trouble),
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
                    let ran = self.running().databases.sql.take_back(returned);
                    if let Some(ran) = ran {
                        self.input(Input::Ran(ran), now);
                    }
                    continue;
                }
                Stage::Runs(paused) => self.run_a_while(paused),
                Stage::WantsCore(paused) => match self.running().databases.sql.visit(paused) {
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
        if self.running().replica.begin_turn() {
            self.perform_effects(now);
        }
        if self.trouble.is_none() {
            self.running().replica.step(input);
            self.perform_effects(now);
        }
    }

    pub(crate) fn end_turn(&mut self, now: u64) {
        if self.threads.per_mille(700) {
            let captures = self.running().databases.sql.take_captures();
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
                process.databases.sql.set_limits(RunLimits {
                    core_time: if leaves {
                        Duration::ZERO
                    } else {
                        Duration::MAX
                    },
                    look_steps: 3,
                    statement_time: Duration::ZERO,
                });
                let input = match process.databases.sql.start(request, work, may_write) {
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
            Effect::StopRun { session, reason } => process.databases.sql.stop(session, reason),
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
            Effect::SendSnapshot { to, head } => self.snapshots.push((to, head)),
            Effect::InstallSnapshot { head } => {
                assert!(!process.databases.is_filing(), "a file is being written");
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
            Effect::Digest {
                request,
                database,
                at,
                applied,
            } => {
                self.disk.check_whole(database, applied);
                let pages = process.databases.sql.begin_digest(database, &at, applied);
                let digest = pages.and_then(|pages| pages.digest()).map(Reply::Digest);
                assert!(process.pending.remove(&request));
                self.replies.push((request, digest));
            }
            effect => {
                let tools = (&mut self.disk, &mut self.tally);
                match process.databases.perform(effect, now, tools) {
                    Ok(Some(answer)) => process.replica.step(answer),
                    Ok(None) => {}
                    Err(trouble) => self.trouble = Some(trouble),
                }
            }
        }
    }
    /// How often SQLite asked for recovery, which must never be.
    pub(crate) fn recovery_requests(&mut self) -> u64 {
        self.running().databases.sql.recovery_requests()
    }
}

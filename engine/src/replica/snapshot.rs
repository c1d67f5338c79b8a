//! Snapshots: all databases of the shard, for a member that lacks what the log has no more.
//!
//! **Sending.** The databases' files are copied while they are written, so that a copy is of no
//! single index. That is sound for the reason that a restart is: what may have been written while
//! it was copied is in the log, which is held from the snapshot's base on, and what the file of a
//! database may hold is no newer than its *target* at the end of the copy. The hold outlives the
//! copy until the member has come near enough for the log to be kept for it anyway.
//!
//! **Installing.** The runtime has gathered the files, and puts them in the place of everything
//! that is here with one save of the manifest. Until that is over, nothing is appended or applied.
//! The databases are then at their `applied`, and nobody is shown one before its target is passed.

use std::collections::{BTreeMap, BTreeSet};

use ringlite_raft::{Configuration, InstallError, LogBase, LogIndex, NodeId, SnapshotResult, Term};

use ringlite_vfs::DATABASE_FILE_SUFFIXES;

use super::catalogue::{Catalogue, DatabaseId, DatabaseState};
use super::file::{DatabaseFile, FileState};
use super::write_queue::WriteQueues;
use super::{Effect, Replica};

/// Which snapshot: the term of the leader that sends it, and a number of that leader's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// The leader's term.
    pub term: Term,
    /// Grows with each snapshot that the leader sends.
    pub serial: u64,
}

/// What a snapshot consists of, besides the bytes of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Which one it is.
    pub id: SnapshotId,
    /// What comes behind this entry is in the log.
    pub base: LogBase,
    /// The members as of the base.
    pub configuration: Configuration,
    /// The databases, by their ids. As long as their files are being copied, the targets are those
    /// of the beginning.
    pub databases: Vec<DatabaseFile>,
}

impl SnapshotHead {
    /// The file at a place in the list of all files: its database, and what its name has behind that
    /// of the database. `None` behind the last one.
    pub fn file(&self, place: u32) -> Option<(&DatabaseFile, &'static str)> {
        let place = place as usize;
        let suffix = DATABASE_FILE_SUFFIXES[place % DATABASE_FILE_SUFFIXES.len()];
        let database = self.databases.get(place / DATABASE_FILE_SUFFIXES.len())?;
        Some((database, suffix))
    }
}

/// What became of a snapshot that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// It is what this node consists of now.
    Installed,
    /// The node has all of it already.
    NotNeeded,
    /// The node does not follow a leader now. It may be tried again.
    Refused,
}

/// For how long an arrived snapshot waits until it can be installed, in ticks.
const INSTALL_WAIT_TICKS: u64 = 1_000;
/// For how long a member may make no progress after a snapshot, in ticks, before the log is held for
/// it no longer.
const CATCH_UP_IDLE_TICKS: u64 = 3_000;

/// A snapshot that this leader sends.
#[derive(Debug)]
struct Sending {
    id: SnapshotId,
    databases: Vec<DatabaseId>,
    /// The log is kept behind this index.
    hold: LogIndex,
    /// Since when the member has installed it and catches up; `None` while it is on its way.
    catches_up_since: Option<u64>,
}

/// A snapshot that has arrived here.
#[derive(Debug)]
enum Arrived {
    /// It waits until nothing else is under way.
    Waiting { head: SnapshotHead, deadline: u64 },
    /// The runtime puts it in the place of what is here.
    Installing { head: SnapshotHead },
}

/// All snapshots under way.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Members that need one, before the next turn.
    wanted: BTreeSet<NodeId>,
    /// On the leader, by member.
    sending: BTreeMap<NodeId, Sending>,
    serial: u64,
    arrived: Option<Arrived>,
}

impl Snapshots {
    /// Leadership is lost: the next leader sends its own.
    pub(super) fn stop_sending(&mut self) {
        self.wanted.clear();
        self.sending.clear();
    }

    /// The log is needed behind this index.
    pub(super) fn hold(&self) -> Option<LogIndex> {
        if mutation!(NoHoldForSnapshots) {
            return None;
        }
        self.sending.values().map(|sending| sending.hold).min()
    }

    /// Whether everything here is being replaced.
    pub(super) fn is_switching(&self) -> bool {
        matches!(self.arrived, Some(Arrived::Installing { .. }))
    }

    /// Whether everything here is being replaced, or is about to be.
    pub(super) fn is_installing(&self) -> bool {
        self.arrived.is_some()
    }
}

impl Replica {
    /// The core cannot give a member what it lacks.
    pub(super) fn snapshot_wanted(&mut self, peer: NodeId) {
        self.snapshots.wanted.insert(peer);
    }

    /// Begins to send what is wanted. Everything that was applied has been told to the catalogue.
    pub(super) fn begin_snapshots(&mut self) {
        while let Some(to) = self.snapshots.wanted.pop_first() {
            let (base, databases) = self.files();
            let status = self.raft.status();
            let (Some(term), Some(configuration)) = (
                self.raft.entry_term(base),
                self.raft.configuration_at(base).cloned(),
            ) else {
                unreachable!("the log reaches from {base} on");
            };
            self.snapshots.serial += 1;
            let id = SnapshotId {
                term: status.term,
                serial: self.snapshots.serial,
            };
            let sending = Sending {
                id,
                databases: databases.iter().map(|file| file.id).collect(),
                hold: base,
                catches_up_since: None,
            };
            self.snapshots.sending.insert(to, sending);
            let base = LogBase { index: base, term };
            let head = SnapshotHead {
                id,
                base,
                configuration,
                databases,
            };
            self.effects.push_back(Effect::SendSnapshot { to, head });
        }
    }

    /// The targets of a snapshot's files as they are now, in the order of its head; what was read of
    /// a file before holds nothing newer. `None`: this node has lost the leadership with which it
    /// began to send it, and it is not wanted any more.
    pub fn snapshot_targets(&self, id: SnapshotId) -> Option<Vec<LogIndex>> {
        let mut sending = self.snapshots.sending.values();
        let sending = sending.find(|sending| sending.id == id)?;
        let target = |id: &DatabaseId| match self.catalogue.get(*id) {
            Some(state) if mutation!(CopyTakenForItsBeginning) => state.file.applied,
            Some(state) => state.file.target,
            // Nobody shall see its copy before the log has told its end.
            None => self.applied,
        };
        Some(sending.databases.iter().map(target).collect())
    }

    /// A member has installed a snapshot, or it was given up.
    pub(super) fn snapshot_sent(&mut self, to: NodeId, id: SnapshotId, is_installed: bool) {
        let now = self.now;
        let ours = |sending: &&mut Sending| sending.id == id;
        let Some(sending) = self.snapshots.sending.get_mut(&to).filter(ours) else {
            return;
        };
        let result = if is_installed {
            sending.catches_up_since = Some(now);
            SnapshotResult::Installed { base: sending.hold }
        } else {
            self.snapshots.sending.remove(&to);
            SnapshotResult::Failed
        };
        self.raft
            .step(ringlite_raft::Input::SnapshotSent { peer: to, result });
    }

    /// Lets go of the log that members needed until now.
    pub(super) fn release_holds(&mut self) {
        if self.snapshots.sending.is_empty() {
            return;
        }
        let peers: BTreeMap<NodeId, LogIndex> = self
            .raft
            .peers()
            .map(|peer| (peer.id, peer.matched))
            .collect();
        let (now, window) = (self.now, self.log_window.start());
        self.snapshots.sending.retain(|to, sending| {
            let Some(since) = &mut sending.catches_up_since else {
                return peers.contains_key(to);
            };
            let matched = peers.get(to).copied().unwrap_or(LogIndex::ZERO);
            if matched > sending.hold {
                sending.hold = matched;
                *since = now;
            }
            peers.contains_key(to) && sending.hold < window && *since + CATCH_UP_IDLE_TICKS > now
        });
    }

    /// Whether a snapshot that is offered would be installed.
    pub fn wants_snapshot(&self, head: &SnapshotHead) -> bool {
        let is_held = self.raft.entry_term(head.base.index) == Some(head.base.term);
        !is_held && head.base.index > self.raft.status().commit && self.snapshots.arrived.is_none()
    }

    /// A snapshot is here, and everything of it is durable.
    pub(super) fn snapshot_arrived(&mut self, head: SnapshotHead) {
        assert!(!self.snapshots.is_installing(), "one snapshot at a time");
        let deadline = self.now + INSTALL_WAIT_TICKS;
        self.snapshots.arrived = Some(Arrived::Waiting { head, deadline });
    }

    /// Begins the installation of what has arrived, once nothing else is under way.
    pub(super) fn drive_installation(&mut self) {
        let Some(Arrived::Waiting { head, deadline }) = &self.snapshots.arrived else {
            return;
        };
        let is_late = self.now >= *deadline;
        if !self.is_backfill_idle() {
            return;
        }
        let outcome = match self.raft.begin_install(head.base) {
            Ok(()) => {
                let head = head.clone();
                self.snapshots.arrived = Some(Arrived::Installing { head: head.clone() });
                self.discard_restores();
                self.effects.push_back(Effect::InstallSnapshot { head });
                return;
            }
            Err(InstallError::TermNotDurable { .. }) if !is_late => return,
            Err(InstallError::NotNeeded { .. }) => SnapshotOutcome::NotNeeded,
            Err(_) => SnapshotOutcome::Refused,
        };
        self.snapshots.arrived = None;
        self.effects.push_back(Effect::SnapshotEnded { outcome });
    }

    /// The manifest names what the snapshot brought, and nothing of before is left.
    pub(super) fn snapshot_installed(&mut self) {
        let Some(Arrived::Installing { head }) = self.snapshots.arrived.take() else {
            unreachable!("no snapshot was being installed");
        };
        let base = head.base.index;
        self.raft.step(ringlite_raft::Input::Installed {
            base: head.base,
            configuration: head.configuration,
        });
        self.applied = base;
        self.parts.clear();
        self.parts_first = None;
        self.catalogue = Catalogue::default();
        self.queues = WriteQueues::default();
        self.backfills.installed(base);
        self.log_window.replaced();
        self.open_databases(&head.databases);
        self.effects.push_back(Effect::SnapshotEnded {
            outcome: SnapshotOutcome::Installed,
        });
        self.drive_backfill();
    }

    /// Enters databases whose files are there, and has them opened.
    pub(super) fn open_databases(&mut self, databases: &[DatabaseFile]) {
        for database in databases {
            let file = FileState::new(database.applied, database.target);
            if self
                .catalogue
                .insert(database.id, &database.name, None, file)
            {
                self.effects.push_back(Effect::OpenDatabase {
                    id: database.id,
                    name: database.name.clone(),
                    page_size: database.page_size,
                });
            }
        }
    }

    /// Whether a database may be shown: its file may hold pages of entries up to its target, which a
    /// snapshot can have brought before the entries.
    pub(super) fn is_whole(&self, state: &DatabaseState) -> bool {
        state.file.target <= self.applied || mutation!(ShownBeforeItsTarget)
    }
}

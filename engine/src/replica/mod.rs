//! The replica: a node's decisions, without IO.
//!
//! It is a state machine. [`Replica::step`] takes one [`Input`] and changes state;
//! [`Replica::next_effect`] hands out what is to be done about it, in order; [`Replica::end_turn`]
//! closes a turn. SQL is an effect too ([`Effect::Run`], answered by [`Input::Ran`]), so that the
//! same replica runs under the runtime and in a simulator. The runtime performs every effect
//! before it gives the next input.
//!
//! Architecture invariants: nothing here does IO, reads a clock or knows of an executor, and the
//! only code that lets a client's reply go is `Replica::release`, which the gate calls.

mod backfill;
mod batch;
mod catalogue;
mod commit;
mod config;
mod databases;
mod file;
mod following;
mod gate;
mod handover;
mod interface;
mod invariants;
mod log_window;
mod long_runs;
pub mod member;
mod members;
pub mod payload;
mod positions;
pub mod request;
mod roles;
mod serving;
mod session;
mod snapshot;
#[cfg(test)]
mod tests;
mod write_queue;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ringlite_raft::{
    ConfigError, Entry, EntryKind, HardState, LogIndex, Message, Raft, ReadId, RestoredLog, Role,
};

use backfill::Backfills;
use batch::Batch;
use catalogue::Catalogue;
pub use catalogue::DatabaseId;
pub use config::{Config, NodeAddress};
pub(crate) use config::{LOG_WINDOW_BYTES_DEFAULT, WAL_BYTES_DEFAULT};
use databases::Restores;
pub use databases::{DatabaseStatus, RESTORE_CHUNK_BYTES_MAX};
pub use file::DatabaseFile;
use following::Following;
pub use following::Guidance;
pub(crate) use following::{GuidanceStamp, all_follow};
use gate::{Gate, Held};
use handover::Handover;
pub use interface::{Effect, Input, Status};
use log_window::LogWindow;
use long_runs::Ahead;
use member::Member;
pub use members::MemberStatus;
use members::MemberWork;
use payload::DatabaseChange;
pub use positions::Positions;
use request::{RequestId, SessionId, SessionOptions};
pub use roles::RoleTargets;
use session::Session;
use snapshot::Snapshots;
pub use snapshot::{SnapshotHead, SnapshotId, SnapshotOutcome};
use write_queue::WriteQueues;

use crate::error::Error;

/// Digests that may wait at once for an index to be applied.
const DIGESTS_WAITING_MAX: usize = 64;

#[derive(Debug)]
struct WaitingDigest {
    request: RequestId,
    database: String,
    index_min: LogIndex,
    deadline: u64,
}

/// A batch in the log: a run of entries, mostly of one.
#[derive(Debug)]
struct Uncommitted {
    first: LogIndex,
    last: LogIndex,
    bytes: usize,
}

/// A replica of a shard.
pub struct Replica {
    config: Config,
    raft: Raft,
    now: u64,
    applied: LogIndex,
    /// Whether what is committed is applied at the beginning of the next turn only.
    applies_later: bool,
    /// Whether this node leads and its no-op is committed and applied.
    serving: bool,
    /// Whether this node leads.
    leading: bool,
    catalogue: Catalogue,
    sessions: BTreeMap<SessionId, Session>,
    /// What sessions that ended with an earlier leadership have still to be told.
    last_words: BTreeMap<SessionId, Error>,
    /// Sessions that wait for the creation of a database, by its name.
    opening: BTreeMap<String, Vec<(RequestId, SessionOptions)>>,
    queues: WriteQueues,
    batch: Batch,
    /// Batches in the log until they are committed.
    uncommitted: VecDeque<Uncommitted>,
    /// The sum of the bytes in `uncommitted`.
    uncommitted_bytes: usize,
    gate: Gate,
    /// Replies that have seen a commit which was not captured yet.
    ahead: Vec<Ahead>,
    /// Replies of this turn that need a ReadIndex round, with the entry that they also need.
    unconfirmed: Vec<(LogIndex, Held)>,
    last_read: ReadId,
    digests: Vec<WaitingDigest>,
    /// The parts of a large transaction whose last part is not yet applied.
    parts: Vec<DatabaseChange>,
    /// The first entry of that transaction.
    parts_first: Option<LogIndex>,
    backfills: Backfills,
    restores: Restores,
    snapshots: Snapshots,
    log_window: LogWindow,
    member_work: MemberWork,
    handover: Option<Handover>,
    following: Following,
    effects: VecDeque<Effect>,
}

impl Replica {
    /// A replica that starts from what storage recovered. The manifest's `databases` are opened
    /// first, by the effects that this leaves; then the log's entries up to `log.commit` must be
    /// given to [`Replica::replay`] before the first [`Replica::step`].
    ///
    /// # Errors
    /// If the members or the bounds do not make sense.
    pub fn new(
        config: Config,
        hard_state: HardState,
        log: RestoredLog,
        databases: &[DatabaseFile],
    ) -> Result<Self, ConfigError> {
        let base = log.base.index;
        let raft = Raft::new(config.raft.clone(), hard_state, log)?;
        let mut replica = Self {
            log_window: LogWindow::new(config.log_window_bytes),
            config,
            raft,
            now: 0,
            applied: base,
            applies_later: false,
            serving: false,
            leading: false,
            catalogue: Catalogue::default(),
            sessions: BTreeMap::new(),
            last_words: BTreeMap::new(),
            opening: BTreeMap::new(),
            queues: WriteQueues::default(),
            batch: Batch::default(),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            gate: Gate::default(),
            ahead: Vec::new(),
            unconfirmed: Vec::new(),
            last_read: ReadId(0),
            digests: Vec::new(),
            parts: Vec::new(),
            parts_first: None,
            backfills: Backfills::new(base),
            restores: Restores::default(),
            member_work: MemberWork::default(),
            handover: None,
            following: Following::default(),
            snapshots: Snapshots::default(),
            effects: VecDeque::new(),
        };
        replica.open_databases(databases);
        if !replica.raft.configuration().members().is_empty() {
            replica.tell_members();
        }
        Ok(replica)
    }

    /// Applies a committed entry that storage recovered; in order, from the log's first.
    pub fn replay(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.next(), "replay is in order");
        self.log_window.appended(entry);
        self.apply_entry(entry.index, entry.kind, &entry.payload);
        self.applied = entry.index;
        self.raft.applied(entry.index);
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input) {
        use ringlite_raft::Input as Raft;
        match input {
            Input::Tick => self.tick(),
            // It would lead until it has stopped, and then nobody would.
            Input::Receive {
                message: Message::TimeoutNow { .. },
                ..
            } if self.is_flushing() => {}
            Input::Receive { from, message } => self.raft.step(Raft::Receive { from, message }),
            Input::PeerLost { peer } => self.raft.step(Raft::PeerLost { peer }),
            Input::Persisted { io } => self.raft.step(Raft::Persisted { io }),
            Input::EntriesRead { peer, entries } => {
                self.raft.step(Raft::EntriesRead { peer, entries });
            }
            Input::Asked {
                id,
                options,
                request,
            } => self.asked(id, options, request),
            Input::SessionClosed { session } => self.close_session(session),
            Input::Ran(ran) => self.ran(ran),
            Input::Interrupted { session } => self.interrupt(session),
            Input::Left { request, writes } => self.left(request, writes),
            Input::Captured { captures } => {
                for (database, capture) in captures {
                    self.captured(database, capture, None);
                }
            }
            Input::RolledBack {
                database,
                commit_point,
            } => {
                if let Some(state) = self.catalogue.get_mut(database) {
                    state.committed = Some(commit_point);
                }
            }
            Input::Opened {
                database,
                page_size,
                commit_point,
            } => {
                if let Some(state) = self.catalogue.get_mut(database) {
                    state.page_size = page_size;
                    state.committed = Some(commit_point);
                }
            }
            Input::Applied {
                database,
                index,
                commit_point,
            } => {
                let now = self.now;
                if let Some(state) = self.catalogue.get_mut(database) {
                    state.entry_committed(index, commit_point, now);
                }
            }
            Input::HandOver => self.hand_over(None, self.successor()),
            Input::Guided(guidance) => self.guided(guidance),
            Input::Flush => self.flush(),
            Input::ManifestSaved => self.manifest_saved(),
            Input::Backfilled { database, end } => self.backfilled(database, end),
            Input::WalRestarted {
                database,
                end,
                commit_point,
            } => self.wal_restarted(database, end, commit_point),
            Input::SnapshotSent {
                to,
                id,
                is_installed,
            } => self.snapshot_sent(to, id, is_installed),
            Input::SnapshotArrived { head } => self.snapshot_arrived(head),
            Input::SnapshotInstalled => self.snapshot_installed(),
            Input::DigestAsked {
                id,
                database,
                index_min,
            } if self.digests.len() < DIGESTS_WAITING_MAX => {
                self.digests.push(WaitingDigest {
                    request: id,
                    database,
                    index_min,
                    deadline: self.now + self.config.write_wait_ticks,
                });
                self.answer_digests();
            }
            Input::DigestAsked { id, .. } => {
                let what = "as many digests as may be wait for what they ask for to be applied";
                self.refuse(id, Error::Busy { what });
            }
        }
    }

    /// The next thing to do, in order; the runtime performs it before the next input.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Begins a turn: applies what the last one has left. Returns whether there is anything to perform.
    pub fn begin_turn(&mut self) -> bool {
        if std::mem::take(&mut self.applies_later) {
            self.commit(self.raft.status().commit);
        }
        !self.effects.is_empty()
    }

    /// Whether the next turn has something to do in any case: what is committed is applied while the
    /// disk has the entries of this turn under way, which a leader waits for.
    pub fn applies_later(&self) -> bool {
        self.applies_later
    }

    /// Ends a turn: the batch becomes an entry if the log is ready for one, the turn's reads get
    /// their round, and the core's effects join the queue. Call it until it returns false.
    pub fn end_turn(&mut self) -> bool {
        // Not before the effects that apply what was committed have been performed.
        self.answer_digests();
        self.begin_snapshots();
        self.propose_batch();
        if self.is_any_parked() {
            self.drive_backfill();
        }
        // Whoever waited for several databases, and waits no longer or cannot run now, may have been
        // all that stood in the way of others.
        self.resume_writers(&self.queues.databases_waited_for());
        self.drive_handover();
        self.ask_read_index();
        let effects = self.raft.take_effects();
        let mut commits = commits_to_record(&effects, self.raft.status().commit);
        let follows = !self.leading && self.raft.status().role == Role::Follower;
        self.applies_later |= follows && appends_entries(&effects);
        for effect in effects {
            self.raft_effect(effect, &mut commits);
        }
        // Behind everything that the core wanted written before.
        self.drive_installation();
        // What was committed may have answers that need a round of their own.
        !self.effects.is_empty() || !self.unconfirmed.is_empty()
    }

    /// Where the replica stands.
    pub fn status(&self) -> Status {
        let raft = self.raft.status();
        Status {
            id: raft.id,
            role: raft.role,
            term: raft.term.0,
            leader: self.leader(),
            commit: raft.commit,
            applied: self.applied,
            last: raft.last,
            durable: raft.durable,
            debt: raft.debt,
            lease: raft.lease,
            removed: self.is_removed(),
            members: self.member_statuses(),
            members_committed: raft.configuration_index <= raft.commit,
            databases: self.catalogue.names().map(str::to_owned).collect(),
            sessions: self.sessions.len(),
        }
    }

    /// What is applied, and whether this node leads and serves.
    pub(crate) fn serves_at(&self) -> (LogIndex, bool) {
        (self.applied, self.serving)
    }

    /// With leases: for how many ticks this node refuses to elect another leader after it has heard
    /// of one. Longer than any lease.
    pub(crate) fn lease_promise_ticks(&self) -> Option<u32> {
        let raft = &self.config.raft;
        (raft.lease_ticks > 0).then_some(raft.election_timeout_ticks_min)
    }

    /// Whether a session has a database open, or has still to be told why it has none any more.
    pub(crate) fn has_session(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session) || self.last_words.contains_key(&session)
    }

    /// What this node is in its term.
    pub(crate) fn role(&self) -> Role {
        self.raft.status().role
    }

    /// Who leads in this term, as far as this node knows.
    pub(crate) fn leader_id(&self) -> Option<ringlite_raft::NodeId> {
        self.raft.status().leader
    }

    /// Whether a database may be read at the applied index.
    ///
    /// # Errors
    /// Its file may hold something of entries that are not applied yet: it came with a snapshot, or the
    /// log was damaged below them; they come from the leader.
    pub(crate) fn check_whole(&self, name: &str) -> Result<(), Error> {
        let found = self.catalogue.find(name);
        match found.and_then(|id| self.catalogue.get(id)) {
            Some(state) if !self.is_whole(state) || self.snapshots.is_switching() => {
                Err(Error::Busy {
                    what: "this node has not got all that belongs to the file of the database yet",
                })
            }
            _ => Ok(()),
        }
    }

    /// The database of this name, as committed, if it may be shown.
    pub(crate) fn find_database(&self, name: &str) -> Option<DatabaseId> {
        let id = self.catalogue.find(name)?;
        let state = self.catalogue.get(id)?;
        self.is_whole(state).then_some(id)
    }

    /// The node that leads and serves, as far as this one knows; itself only once it serves.
    pub fn leader(&self) -> Option<NodeAddress> {
        let status = self.raft.status();
        let leader = status.leader?;
        if leader == status.id && !self.serving {
            return None;
        }
        self.address_of(leader)
    }

    /// Where a node is reached, as far as this one knows.
    fn address_of(&self, id: ringlite_raft::NodeId) -> Option<NodeAddress> {
        let members = self.members();
        let member = members.iter().find(|member| member.id == id);
        let known = || self.config.members.iter().find(|known| known.id == id);
        member
            .map(Member::node_address)
            .or_else(|| known().cloned())
    }

    fn not_leader(&self) -> Error {
        if self.is_removed() {
            return Error::Removed;
        }
        Error::NotLeader {
            leader: self.leader(),
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        self.raft.step(ringlite_raft::Input::Tick);
        self.expire();
        self.require_files();
        self.release_holds();
        self.drive_backfill();
        self.drive_handover();
        self.drive_members();
        match self.config.shard.is_first() {
            true => self.keep_roles(),
            false => self.follow_first_shard(),
        }
    }

    /// A leader has applied everything that its log tells of: a database whose file was gone at the
    /// start, and that no entry has ended since, is lost here.
    fn require_files(&mut self) {
        let mut databases = self.catalogue.iter();
        let lost = databases.find(|(_, state)| self.serving && state.committed.is_none());
        let reason = lost.map(|(_, state)| {
            format!(
                "the file of database {:?} is gone from this node's directory, and the log does not hold \
                 all of it any more: put the file back",
                state.name
            )
        });
        if let Some(reason) = reason {
            self.effects.push_back(Effect::Halt { reason });
        }
    }

    fn propose_batch(&mut self) {
        let raft = self.raft.status();
        let in_flight = self
            .uncommitted
            .iter()
            .rev()
            .take_while(|run| run.last > raft.durable)
            .count();
        if in_flight < self.config.batches_in_flight_max {
            self.seal_batch();
        }
    }

    /// Makes the batch an entry now, whatever is in flight.
    fn seal_batch(&mut self) {
        let raft = self.raft.status();
        // The core may have stepped down in this turn already; its effects will tell, and the
        // batch is then abandoned.
        let takes = raft.role == Role::Leader && raft.transferring_to.is_none();
        if self.batch.is_empty() || !self.serving || !takes {
            return;
        }
        let bytes = self.batch.page_bytes();
        let sealed = self.batch.seal(self.config.part_bytes);
        let Some(last) = self.propose_all(sealed.parts) else {
            unreachable!("a leader takes proposals");
        };
        for (database, end) in sealed.ends {
            if let Some(state) = self.catalogue.get_mut(database) {
                state.proposed(last, end);
            }
        }
        self.uncommitted.push_back(Uncommitted {
            first: raft.last.next(),
            last,
            bytes,
        });
        self.uncommitted_bytes += bytes;
        for held in sealed.held {
            if mutation!(AnsweredBeforeCommit) {
                self.release(held);
                continue;
            }
            self.gate.until_committed(last, held);
        }
    }

    fn propose_all(&mut self, parts: Vec<(EntryKind, Bytes)>) -> Option<LogIndex> {
        let mut last = None;
        for (kind, payload) in parts {
            last = Some(self.raft.propose(kind, payload).ok()?);
        }
        last
    }

    fn ask_read_index(&mut self) {
        if self.unconfirmed.is_empty() {
            return;
        }
        // A fresh id per round, so that no late answer to an earlier one can count.
        self.last_read = ReadId(self.last_read.0 + 1);
        for (index, held) in std::mem::take(&mut self.unconfirmed) {
            if mutation!(ReadWithoutRound) && index <= self.applied {
                self.release(held);
                continue;
            }
            let index = match mutation!(UncommittedRead) {
                true => LogIndex::ZERO,
                false => index,
            };
            self.gate.until_confirmed(self.last_read, index, held);
        }
        self.raft
            .step(ringlite_raft::Input::ReadIndex { id: self.last_read });
    }

    fn raft_effect(&mut self, effect: ringlite_raft::Effect, commits: &mut Vec<LogIndex>) {
        use ringlite_raft::Effect as Raft;
        match effect {
            Raft::SaveHardState { io, hard_state } => {
                self.effects
                    .push_back(Effect::SaveHardState { io, hard_state });
            }
            Raft::Append {
                io,
                truncate_from,
                entries,
            } => {
                for entry in &entries {
                    self.log_window.appended(entry);
                }
                self.effects.push_back(Effect::Append {
                    io,
                    truncate_from,
                    entries,
                    commit: commits.pop().unwrap_or(LogIndex::ZERO),
                });
            }
            Raft::Send { to, message, after } => {
                self.effects.push_back(Effect::Send { to, message, after });
            }
            Raft::Committed { up_to } if !self.applies_later => self.commit(up_to),
            Raft::Committed { .. } => {}
            Raft::ReadReady { id, .. } => {
                // Speculative execution: the snapshot holds everything committed by itself.
                for held in self.gate.confirmed(id, self.applied) {
                    self.release(held);
                }
            }
            Raft::ReadEntries {
                peer,
                from,
                up_to,
                bytes_max,
            } => self.effects.push_back(Effect::ReadEntries {
                peer,
                from,
                up_to,
                bytes_max,
            }),
            Raft::RoleChanged { role, .. } => self.role_changed(role),
            Raft::SendSnapshot { peer } => self.snapshot_wanted(peer),
            Raft::ConfigurationChanged { .. } => self.tell_members(),
            Raft::TransferEnded { outcome, .. } => self.transfer_ended(outcome),
        }
    }

    /// Lets a reply go. The gate's conditions hold, or it is an error that tells of no state.
    fn release(&mut self, held: Held) {
        if let Some(session) = self.sessions.get_mut(&held.request.session) {
            session.released(&held, self.now);
        }
        self.effects.push_back(Effect::Reply {
            request: held.request,
            reply: held.reply,
        });
    }

    fn refuse(&mut self, request: RequestId, error: Error) {
        self.effects.push_back(Effect::Reply {
            request,
            reply: Err(error),
        });
    }
}

fn appends_entries(effects: &[ringlite_raft::Effect]) -> bool {
    effects.iter().any(
        |effect| matches!(effect, ringlite_raft::Effect::Append { entries, .. } if !entries.is_empty()),
    )
}

/// What the records of each append of a turn may say of the commit index, the last append first.
///
/// The commit index is that of the turn's end. Records that a later append of the turn voids are
/// not what is committed at their indexes: a crash between the two writes would leave them, and a
/// restart would apply them.
fn commits_to_record(effects: &[ringlite_raft::Effect], commit: LogIndex) -> Vec<LogIndex> {
    let mut commit = commit;
    let mut commits = Vec::new();
    for effect in effects.iter().rev() {
        if let ringlite_raft::Effect::Append { truncate_from, .. } = effect {
            commits.push(commit);
            if mutation!(CommitOfTheTurnsEnd) {
                continue;
            }
            commit = truncate_from.map_or(commit, |from| commit.min(from.prev()));
        }
    }
    commits
}

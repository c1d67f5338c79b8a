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

mod batch;
mod catalogue;
mod gate;
pub mod payload;
pub mod request;
mod serving;
mod session;
#[cfg(test)]
mod tests;
mod write_queue;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use ringlite_raft::{
    ConfigError, Entry, EntryKind, HardState, IoId, LogIndex, Message, NodeId, Raft, ReadId,
    RestoredLog, Role,
};
use ringlite_vfs::{CommitPoint, PageSize};

use batch::Batch;
use catalogue::Catalogue;
pub use catalogue::DatabaseId;
use gate::{Gate, Held};
use payload::{DatabaseChange, Section};
use request::{Ran, Reply, Request, RequestId, SessionId, SessionOptions, Work};
use session::Session;
use write_queue::WriteQueue;

use crate::error::Error;

/// A node and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub id: NodeId,
    /// `HOST:PORT`, exactly as the members were configured.
    pub address: String,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "node {} at {}", self.id.0, self.address)
    }
}

/// Settings and bounds of a replica. Times are in ticks of its runtime.
#[derive(Clone, Debug)]
pub struct Config {
    /// The consensus core's settings.
    pub raft: ringlite_raft::Config,
    /// All members with their addresses.
    pub members: Vec<NodeAddress>,
    /// How long a request waits for the write lock.
    pub write_wait_ticks: u64,
    /// How long a transaction that holds the write lock may idle.
    pub write_idle_ticks: u64,
    /// How many requests may wait for one database's write lock.
    pub write_queue_max: usize,
    /// How many batches may be in the log and not durable on this node: while so many are, what
    /// commits locally gathers in the next batch.
    pub batches_in_flight_max: usize,
    /// Bytes of pages that committed locally and not yet in Raft; beyond it writes wait.
    pub uncommitted_bytes_max: usize,
    /// An entry that has become this long is followed by another one of the same run.
    pub part_bytes: usize,
}

impl Config {
    /// The defaults, for ticks of 10 ms.
    pub fn new(raft: ringlite_raft::Config, members: Vec<NodeAddress>) -> Self {
        Self {
            raft,
            members,
            write_wait_ticks: 500,
            write_idle_ticks: 1_000,
            write_queue_max: 4_096,
            batches_in_flight_max: 1,
            uncommitted_bytes_max: 64 << 20,
            part_bytes: payload::PART_BYTES,
        }
    }
}

/// What happens to a replica.
#[derive(Debug)]
pub enum Input {
    /// A tick of the runtime's one timer.
    Tick,
    /// A message of another node.
    Receive {
        /// Its sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The connection from this node broke.
    PeerLost {
        /// The node.
        peer: NodeId,
    },
    /// Everything with this id or a smaller one is on stable storage.
    Persisted {
        /// The newest of a contiguous prefix.
        io: IoId,
    },
    /// Entries that [`Effect::ReadEntries`] asked for.
    EntriesRead {
        /// For whom.
        peer: NodeId,
        /// A prefix of what was asked.
        entries: Vec<Entry>,
    },
    /// A client asks.
    Asked {
        /// Who asks, and which of its requests it is.
        id: RequestId,
        /// How the session's statements are to be understood.
        options: SessionOptions,
        /// What it asks.
        request: Request,
    },
    /// A session has ended; what it left open is rolled back.
    SessionClosed {
        /// Which.
        session: SessionId,
    },
    /// SQL ran.
    Ran(Ran),
    /// A database was created or changed by [`Effect::CreateDatabase`] or [`Effect::Apply`].
    Applied {
        /// Which.
        database: DatabaseId,
        /// Its state now.
        commit_point: CommitPoint,
    },
    /// A digest of a database is wanted.
    DigestAsked {
        /// Who asks.
        id: RequestId,
        /// The database's name.
        database: String,
        /// Not before this index is applied.
        index_min: LogIndex,
    },
}

/// What a replica wants done.
#[derive(Debug)]
pub enum Effect {
    /// Run SQL, and answer with [`Input::Ran`].
    Run {
        /// For which request.
        request: RequestId,
        /// What.
        work: Work,
        /// Whether it may take the database's write lock.
        may_write: bool,
    },
    /// Drop a session's connection.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Whether SQL may write at all on this node.
    SetWritable(bool),
    /// Create the file of a database and open it; answered by [`Input::Applied`].
    CreateDatabase {
        /// Its id.
        id: DatabaseId,
        /// Its name.
        name: String,
        /// The size of its pages.
        page_size: PageSize,
    },
    /// Append committed pages to a database's in-memory WAL; answered by [`Input::Applied`].
    Apply(DatabaseChange),
    /// Undo what did not commit. Nothing has to answer it; [`Input::Applied`] with the new commit
    /// point may.
    RollBack {
        /// In which database.
        database: DatabaseId,
        /// Its state at the commit index.
        to: CommitPoint,
    },
    /// Hash a database and answer the request.
    Digest {
        /// Who asked.
        request: RequestId,
        /// Which database.
        database: DatabaseId,
        /// Which state of it.
        at: CommitPoint,
        /// The applied index of that state.
        applied: LogIndex,
    },
    /// Answer a client.
    Reply {
        /// Which request.
        request: RequestId,
        /// The answer.
        reply: Result<Reply, Error>,
    },
    /// Send a message, held back until `after` is persisted.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// What must be on stable storage first.
        after: Option<IoId>,
    },
    /// Save term and vote durably; answered by [`Input::Persisted`].
    SaveHardState {
        /// Its id.
        io: IoId,
        /// What to save.
        hard_state: HardState,
    },
    /// Append to the log durably; answered by [`Input::Persisted`].
    Append {
        /// Its id.
        io: IoId,
        /// The log is void from here on, before the append.
        truncate_from: Option<LogIndex>,
        /// The entries.
        entries: Vec<Entry>,
        /// What its records may say of the commit index.
        commit: LogIndex,
    },
    /// Read entries from the log for a peer; answered by [`Input::EntriesRead`].
    ReadEntries {
        /// For whom.
        peer: NodeId,
        /// The first.
        from: LogIndex,
        /// The last.
        up_to: LogIndex,
        /// About how many bytes at once.
        bytes_max: usize,
    },
    /// The node must stop: it cannot go on without lying.
    Halt {
        /// Why, as a sentence.
        reason: String,
    },
}

/// Where a replica stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// The node itself.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Who leads and serves, as far as this node knows.
    pub leader: Option<NodeAddress>,
    /// The commit index.
    pub commit: LogIndex,
    /// The applied index.
    pub applied: LogIndex,
    /// The last index of its log.
    pub last: LogIndex,
    /// The last index of its log that is on stable storage.
    pub durable: LogIndex,
    /// The databases, by name.
    pub databases: Vec<String>,
    /// Sessions with an open database.
    pub sessions: usize,
}

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
    queues: BTreeMap<DatabaseId, WriteQueue>,
    batch: Batch,
    /// Batches in the log until they are committed.
    uncommitted: VecDeque<Uncommitted>,
    /// The sum of the bytes in `uncommitted`.
    uncommitted_bytes: usize,
    gate: Gate,
    /// Replies of this turn that need a ReadIndex round, with the entry that they also need.
    unconfirmed: Vec<(LogIndex, Held)>,
    last_read: ReadId,
    digests: Vec<WaitingDigest>,
    /// The parts of a large transaction whose last part is not yet applied.
    parts: Vec<DatabaseChange>,
    effects: VecDeque<Effect>,
}

impl Replica {
    /// A replica that starts from what storage recovered. The entries up to `log.commit` must be
    /// given to [`Replica::replay`] before the first [`Replica::step`].
    ///
    /// # Errors
    /// If the members or the bounds do not make sense.
    pub fn new(
        config: Config,
        hard_state: HardState,
        log: RestoredLog,
    ) -> Result<Self, ConfigError> {
        let raft = Raft::new(config.raft.clone(), hard_state, log)?;
        Ok(Self {
            config,
            raft,
            now: 0,
            applied: LogIndex(0),
            serving: false,
            leading: false,
            catalogue: Catalogue::default(),
            sessions: BTreeMap::new(),
            last_words: BTreeMap::new(),
            opening: BTreeMap::new(),
            queues: BTreeMap::new(),
            batch: Batch::default(),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            gate: Gate::default(),
            unconfirmed: Vec::new(),
            last_read: ReadId(0),
            digests: Vec::new(),
            parts: Vec::new(),
            effects: VecDeque::new(),
        })
    }

    /// Applies a committed entry that storage recovered; in order, from the first.
    pub fn replay(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.next(), "replay is in order");
        self.apply_entry(entry.index, entry.kind, &entry.payload);
        self.applied = entry.index;
        self.raft.applied(entry.index);
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input) {
        use ringlite_raft::Input as Raft;
        match input {
            Input::Tick => self.tick(),
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
            Input::Applied {
                database,
                commit_point,
            } => {
                if let Some(state) = self.catalogue.get_mut(database) {
                    state.committed = Some(commit_point);
                }
            }
            Input::DigestAsked {
                id,
                database,
                index_min,
            } => {
                self.digests.push(WaitingDigest {
                    request: id,
                    database,
                    index_min,
                    deadline: self.now + self.config.write_wait_ticks,
                });
                self.answer_digests();
            }
        }
    }

    /// The next thing to do, in order; the runtime performs it before the next input.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Ends a turn: the batch becomes an entry if the log is ready for one, the turn's reads get
    /// their round, and the core's effects join the queue. Call it until it returns false.
    pub fn end_turn(&mut self) -> bool {
        // Not before the effects that apply what was committed have been performed.
        self.answer_digests();
        self.propose_batch();
        self.ask_read_index();
        let effects = self.raft.take_effects();
        let mut commits = commits_to_record(&effects, self.raft.status().commit);
        for effect in effects {
            self.raft_effect(effect, &mut commits);
        }
        !self.effects.is_empty()
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
            databases: self.catalogue.names().map(str::to_owned).collect(),
            sessions: self.sessions.len(),
        }
    }

    /// The node that leads and serves, as far as this one knows; itself only once it serves.
    pub fn leader(&self) -> Option<NodeAddress> {
        let status = self.raft.status();
        let leader = status.leader?;
        if leader == status.id && !self.serving {
            return None;
        }
        self.config
            .members
            .iter()
            .find(|member| member.id == leader)
            .cloned()
    }

    /// All members.
    pub fn members(&self) -> &[NodeAddress] {
        &self.config.members
    }

    fn not_leader(&self) -> Error {
        Error::NotLeader {
            leader: self.leader(),
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        self.raft.step(ringlite_raft::Input::Tick);
        self.expire();
    }

    fn propose_batch(&mut self) {
        let raft = self.raft.status();
        // The core may have stepped down in this turn already; its effects will tell, and the
        // batch is then abandoned.
        if self.batch.is_empty() || !self.serving || raft.role != Role::Leader {
            return;
        }
        let in_flight = self
            .uncommitted
            .iter()
            .rev()
            .take_while(|run| run.last > raft.durable)
            .count();
        if in_flight >= self.config.batches_in_flight_max {
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
        for (index, held) in self.unconfirmed.drain(..) {
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
            } => self.effects.push_back(Effect::Append {
                io,
                truncate_from,
                entries,
                commit: commits.pop().unwrap_or(LogIndex::ZERO),
            }),
            Raft::Send { to, message, after } => {
                self.effects.push_back(Effect::Send { to, message, after });
            }
            Raft::Committed { up_to } => self.commit(up_to),
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
        }
    }

    /// The commit index has reached `up_to`.
    fn commit(&mut self, up_to: LogIndex) {
        if self.serving {
            self.commit_own(up_to);
        } else {
            while self.applied < up_to && self.apply_next() {}
            if self.leading && self.raft.status().serving {
                self.start_serving();
            }
        }
        self.raft.applied(self.applied);
    }

    /// Commits entries that this node has proposed: their pages are in its WAL already.
    fn commit_own(&mut self, up_to: LogIndex) {
        for (_, state) in self.catalogue.iter_mut() {
            state.commit(up_to);
        }
        while let Some(run) = self.uncommitted.front()
            && run.last <= up_to
        {
            self.uncommitted_bytes -= run.bytes;
            self.uncommitted.pop_front();
        }
        // A run counts as applied as a whole: should leadership be lost in the middle of it, it is
        // rolled back, and applied from its first part on if the next leader commits the rest.
        self.applied = match self.uncommitted.front() {
            Some(run) if run.first <= up_to => run.first.prev(),
            _ => up_to,
        };
        for (index, name, page_size) in self.catalogue.take_created(up_to) {
            self.create_database(DatabaseId(index), &name, page_size);
        }
        for held in self.gate.committed(up_to) {
            self.release(held);
        }
        self.resume_all_writers();
    }

    fn apply_next(&mut self) -> bool {
        let index = self.applied.next();
        let Some(entry) = self.raft.entry(index) else {
            self.effects.push_back(Effect::Halt {
                reason: format!("entry {index} is committed but not at hand: this is a bug"),
            });
            return false;
        };
        let (kind, payload) = (entry.kind, entry.payload.clone());
        self.apply_entry(index, kind, &payload);
        self.applied = index;
        true
    }

    /// Applies a committed entry of another leader, or of an earlier life of this node.
    fn apply_entry(&mut self, index: LogIndex, kind: EntryKind, payload: &[u8]) {
        if kind == EntryKind::Noop {
            // A new leader: a run that its predecessor left unfinished will never be finished.
            self.parts.clear();
            return;
        }
        let sections = match payload::decode(payload) {
            Ok(sections) => sections,
            Err(error) => {
                self.effects.push_back(Effect::Halt {
                    reason: format!("entry {index} cannot be applied: {error}"),
                });
                return;
            }
        };
        for section in sections {
            match section {
                Section::CreateDatabase { name, page_size } => {
                    self.create_database(DatabaseId(index), &name, page_size);
                }
                Section::Pages(change) => self.add_part(change),
            }
        }
        if kind == EntryKind::Data {
            for change in std::mem::take(&mut self.parts) {
                self.effects.push_back(Effect::Apply(change));
            }
        }
    }

    /// Joins a part of a large transaction to the parts before it.
    fn add_part(&mut self, change: DatabaseChange) {
        match self.parts.last_mut() {
            Some(last) if last.database == change.database => {
                last.page_count = change.page_count;
                last.pages.extend(change.pages);
            }
            _ => self.parts.push(change),
        }
    }

    fn create_database(&mut self, id: DatabaseId, name: &str, page_size: PageSize) {
        if self.catalogue.insert(id, name) {
            self.effects.push_back(Effect::CreateDatabase {
                id,
                name: name.to_owned(),
                page_size,
            });
        }
        for (request, options) in self.opening.remove(name).unwrap_or_default() {
            self.open(request, options, name.to_owned());
        }
    }

    fn answer_digests(&mut self) {
        let applied = self.applied;
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.digests)
            .into_iter()
            .partition(|digest| digest.index_min <= applied);
        self.digests = waiting;
        for digest in ready {
            let id = self.catalogue.find(&digest.database);
            let found = id.and_then(|id| Some((id, self.catalogue.get(id)?.committed?)));
            let effect = match found {
                Some((database, at)) => Effect::Digest {
                    request: digest.request,
                    database,
                    at,
                    applied,
                },
                _ => Effect::Reply {
                    request: digest.request,
                    reply: Err(Error::misuse(
                        rusqlite::ffi::SQLITE_NOTFOUND,
                        format!(
                            "there is no database named {:?} on this node",
                            digest.database
                        ),
                    )),
                },
            };
            self.effects.push_back(effect);
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
            commit = truncate_from.map_or(commit, |from| commit.min(from.prev()));
        }
    }
    commits
}

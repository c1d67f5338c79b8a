//! A shard: the replica with its core, its disk, its sockets and its SQL.
//!
//! Everything here runs on one executor. Tasks put inputs into the inbox; one task takes turns:
//! it steps the replica through everything that is ready, performs the effects, and flushes the
//! turn once, to the peers' sockets first and then to the log. Nothing on that path blocks: a
//! statement that runs long goes on on a worker thread.

mod clock;
mod fetch;
mod files;
mod reads;
mod repair;
mod snapshots;
mod times;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringlite_raft::{Entry, IoId, LogIndex, Message, NodeId};

use crate::awake::Awake;
use crate::client::ClientError;
use crate::error::{Error, Result};
use crate::net::handshake::Hello;
use crate::net::joining::{self, Introduction};
use crate::net::peers::{Incoming, Peers};
use crate::readers::Readers;
use crate::replica::member::Member;
use crate::replica::request::{
    Outcome, Reply, Request, RequestId, SessionId, SessionOptions, Work,
};
use crate::replica::{Effect, GuidanceStamp, Input, Replica, Status};
use crate::shards::{ShardPlace, Shards};
use crate::signal::Signal;
use crate::sql::workers::{Back, WorkerCores, Workers};
use crate::sql::{Paused, Sql, Started};
use crate::storage::{self, Log, LogStart, LogWriter, ManifestFile, WriteDone};
use crate::tasks::Tasks;
use crate::wire::DatabaseEntry;
use clock::Clock;
use repair::Repairs;
pub(crate) use snapshots::{SNAPSHOT_RATE_DEFAULT, Snapshots};
use times::CommitTimes;
use waiting::{Pending, ReplySlot, Waiter, Waiting};

/// The replica's unit of time.
const TICK: Duration = Duration::from_millis(10);
/// While nothing happens the timer fires only once in so many ticks, which are then given to the
/// replica together: a leader's heartbeats need no more, and an idle node takes no CPU time.
const QUIET_TICKS: u32 = 5;

/// How many ticks a time is, at least one.
pub(crate) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / TICK.as_millis()).map_or(u64::MAX, |ticks| ticks.max(1))
}

/// How long so many ticks are, in ms.
pub(crate) fn milliseconds(ticks: u64) -> u64 {
    ticks.saturating_mul(TICK.as_millis() as u64)
}

/// What the replica has not been told yet.
#[derive(Default)]
struct Inbox {
    inputs: RefCell<VecDeque<Input>>,
    filled: Signal,
}

impl Inbox {
    fn push(&self, input: Input) {
        self.inputs.borrow_mut().push_back(input);
        self.filled.raise();
    }
}

/// A shard on its executor.
pub(crate) struct Shard {
    replica: RefCell<Replica>,
    sql: RefCell<Sql>,
    /// Where long runs go on; none once the shard has stopped.
    workers: RefCell<Option<Workers>>,
    /// Long runs that have ended.
    came_back: RefCell<VecDeque<Back>>,
    /// How workers tell of them.
    back: flume::Receiver<Back>,
    inbox: Rc<Inbox>,
    /// Shared with the readers on other threads.
    readers: Arc<Readers>,
    /// What they were told last.
    published: Cell<Option<(LogIndex, bool, Option<NodeId>)>>,
    writer: LogWriter,
    log: Rc<Log>,
    /// `None` while it is being saved.
    manifest: RefCell<Option<ManifestFile>>,
    /// Where the log begins by the manifest that was saved last.
    log_start: Cell<LogStart>,
    peers: Peers,
    /// What keeps the links to them.
    links: Tasks,
    /// All shards of the node.
    shards: Shards,
    /// What the first one has told the others.
    guided: Cell<Option<GuidanceStamp>>,
    /// Messages that may not leave before the disk has what they tell of, oldest first.
    unsent: RefCell<VecDeque<(IoId, NodeId, Message)>>,
    persisted: Cell<IoId>,
    waiters: RefCell<HashMap<RequestId, Waiting>>,
    times: CommitTimes,
    awake: Awake,
    sessions_opened: Cell<u64>,
    requests_asked: Cell<u64>,
    /// Digests that were begun and are not answered.
    digests_running: Cell<usize>,
    clock: Clock,
    /// Whether reads are answered under leases: then the ticks that have passed come first in each
    /// turn. The requests of the turn have arrived before, so that an answer whose turn began with a
    /// valid lease is right, however long the process stands still before it leaves.
    has_leases: bool,
    /// Whether the timer is set to fire once in several ticks.
    is_quiet: Cell<bool>,
    /// Ends that.
    disturbed: Signal,
    snapshots: Snapshots,
    repairs: Repairs,
    /// Why the shard can go on no longer.
    halted: RefCell<Option<String>>,
    halt: Signal,
}

/// What a shard does with the cores of the machine.
pub(crate) struct Cores {
    pub(crate) workers: WorkerCores,
    pub(crate) awake: Awake,
}

/// What a shard has on its disk, besides the databases.
pub(crate) struct Disk {
    pub(crate) writer: LogWriter,
    pub(crate) log: Rc<Log>,
    pub(crate) manifest: ManifestFile,
}

impl Shard {
    pub(crate) fn new(
        replica: Replica,
        sql: Sql,
        disk: Disk,
        peers: Peers,
        shards: Shards,
        cores: Cores,
        snapshots: Snapshots,
    ) -> std::io::Result<Rc<Self>> {
        // Without leases the others' messages come first after a stall. With them a stall of this
        // length ends every lease.
        let promise_ticks = replica.lease_promise_ticks();
        let clock = Clock::new(promise_ticks.unwrap_or(0).max(QUIET_TICKS));
        // Not longer than there are sessions with a long run.
        let (ended, back) = flume::unbounded();
        Ok(Rc::new(Self {
            replica: RefCell::new(replica),
            sql: RefCell::new(sql),
            workers: RefCell::new(Some(Workers::start(&cores.workers, &ended)?)),
            came_back: RefCell::default(),
            back,
            readers: Arc::clone(shards.readers_of(peers.place())),
            published: Cell::new(None),
            inbox: Rc::default(),
            times: CommitTimes::new(disk.writer.stages()),
            writer: disk.writer,
            log_start: Cell::new(disk.log.start()),
            log: disk.log,
            manifest: RefCell::new(Some(disk.manifest)),
            peers,
            links: Tasks::default(),
            shards,
            guided: Cell::new(None),
            unsent: RefCell::default(),
            persisted: Cell::new(IoId(0)),
            waiters: RefCell::default(),
            awake: cores.awake,
            sessions_opened: Cell::new(0),
            requests_asked: Cell::new(0),
            digests_running: Cell::new(0),
            clock,
            has_leases: promise_ticks.is_some(),
            is_quiet: Cell::new(false),
            disturbed: Signal::default(),
            snapshots,
            repairs: Repairs::default(),
            halted: RefCell::default(),
            halt: Signal::default(),
        }))
    }

    /// Opens the databases that the manifest names and dials the members, before anything else happens.
    pub(crate) fn open_databases(self: &Rc<Self>) {
        for link in self.peers.links() {
            self.links.spawn(link.run(Rc::clone(self)));
        }
        self.perform_effects();
    }

    /// Applies what the log has as committed, before anything else but that happens.
    pub(crate) fn replay(self: &Rc<Self>, entry: &Entry) {
        self.replica.borrow_mut().replay(entry);
        self.perform_effects();
    }

    /// Starts the tasks that take turns, tick, and watch the log writer.
    pub(crate) fn start(self: &Rc<Self>) {
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            shard.turn();
            loop {
                shard.inbox.filled.wait().await;
                shard.turn();
                if shard.replica.borrow().applies_later() {
                    // The log writer first.
                    futures_lite::future::yield_now().await;
                }
            }
        })
        .detach();
        glommio::spawn_local(Rc::clone(self).tick_for_ever()).detach();
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            while let Ok(back) = shard.back.recv_async().await {
                shard.came_back.borrow_mut().push_back(back);
                shard.inbox.filled.raise();
            }
        })
        .detach();
        let shard = Rc::clone(self);
        self.writer.on_done(move |done| match done {
            WriteDone::Persisted(io) => shard.persisted(io),
            WriteDone::Failed(error) => shard.halt(format!(
                "the log cannot be written any more, and what was in flight may or may not be \
                 on disk: {error}"
            )),
        });
    }

    /// Which of the node's shards it is.
    pub(crate) fn place(&self) -> ShardPlace {
        self.peers.place()
    }

    /// The other nodes.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// This node as the configuration has it; `None` if it is no member.
    pub(crate) fn own_member(&self) -> Option<Member> {
        self.replica.borrow().own_member()
    }

    /// Tells the leader, whichever node that is, what has changed about this node.
    pub(crate) async fn introduce(
        &self,
        introduction: &Introduction,
    ) -> std::result::Result<(), ClientError> {
        let members = self.replica.borrow().members();
        let nodes: Vec<String> = members.into_iter().map(|member| member.address).collect();
        let identity = self.peers.identity();
        joining::introduce(identity, introduction, &nodes).await?;
        Ok(())
    }

    /// The members changed.
    fn set_members(self: &Rc<Self>, members: &[Member]) {
        let described = members
            .iter()
            .map(|member| format!("{} ({})", member.node_address(), member.role));
        tracing::info!(
            "{}the members are {}",
            self.place().prefix(),
            described.collect::<Vec<_>>().join(", ")
        );
        let members: Vec<_> = members.iter().map(storage::Member::from).collect();
        for link in self.peers.set(&members) {
            self.links.spawn(link.run(Rc::clone(self)));
        }
    }

    /// Hands leadership over, if this node has it and somebody can take it, and waits for the end of
    /// that.
    pub(crate) async fn hand_over_leadership(&self) {
        // No turn is under way while a task runs.
        self.replica.borrow_mut().step(Input::HandOver);
        self.inbox.filled.raise();
        while self.replica.borrow().is_handing_over() && self.halted.borrow().is_none() {
            glommio::timer::sleep(TICK / 10).await;
        }
    }

    /// A peer that is welcome has dialled.
    pub(crate) fn accept_peer(self: &Rc<Self>, asks: &Hello) -> Rc<Incoming> {
        let (incoming, new) = self.peers.accept(asks);
        if let Some(link) = new {
            self.links.spawn(link.run(Rc::clone(self)));
        }
        incoming
    }

    async fn tick_for_ever(self: Rc<Self>) {
        let mut before = None;
        let mut is_removed = false;
        loop {
            if !is_removed && self.replica.borrow().is_removed() {
                is_removed = true;
                let prefix = self.place().prefix();
                tracing::warn!(
                    "{prefix}this node was removed from the cluster: it serves nobody any more and can be \
                     stopped; to bring it back, start it with an empty data directory and --join"
                );
            }
            // What a follower lacks is told to it with the next tick, so that one tick without
            // any change has to pass first.
            let status = self.replica.borrow().status();
            let now = (status.term, status.last, status.commit, status.leader);
            let is_quiet =
                now.3.is_some() && before == Some(now.clone()) && self.waiters.borrow().is_empty();
            before = Some(now);
            let ticks = if is_quiet { QUIET_TICKS } else { 1 };
            self.is_quiet.set(is_quiet);
            if is_quiet {
                self.awake.release();
            }
            let sleep = glommio::timer::sleep(self.clock.until(ticks));
            futures_lite::future::or(sleep, self.disturbed.wait()).await;
            if self.clock.passed() < ticks {
                // What has disturbed the quiet may not show in the status yet.
                before = None;
            }
            self.repair_damaged();
            if self.has_leases {
                self.turn();
                continue;
            }
            for _ in 0..self.clock.take() {
                self.writer.tick();
                self.inbox.push(Input::Tick);
            }
        }
    }

    /// With leases a turn begins with the ticks that have passed.
    fn take_ticks(self: &Rc<Self>) {
        if !self.has_leases {
            return;
        }
        for _ in 0..self.clock.take() {
            self.writer.tick();
            self.replica.borrow_mut().step(Input::Tick);
            self.perform_effects();
        }
    }

    /// Takes nothing new any more, and moves everything that is committed into the database files,
    /// so that they are whole without the log. What is not done within `timeout` is for the next
    /// start to replay.
    pub(crate) async fn flush(self: &Rc<Self>, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.push(Input::Flush);
        while !self.replica.borrow().is_flushed() {
            if Instant::now() >= deadline {
                tracing::warn!("the database files lack what is still in the log");
                return;
            }
            glommio::timer::sleep(TICK / 10).await;
        }
    }

    /// Waits until the shard cannot go on, and tells why.
    pub(crate) async fn halted(&self) -> String {
        loop {
            if let Some(reason) = self.halted.borrow().clone() {
                return reason;
            }
            self.halt.wait().await;
        }
    }

    /// Gives the replica an input in the next turn.
    pub(crate) fn push(&self, input: Input) {
        // Messages between idle nodes, which are heartbeats, need no finer ticks.
        if !matches!(input, Input::Receive { .. }) {
            self.awake.hold();
            if self.is_quiet.replace(false) {
                self.disturbed.raise();
            }
        }
        self.inbox.push(input);
    }

    /// Takes note of what the first shard has told the others.
    pub(crate) fn follow(&self) {
        if !self.place().is_first()
            && let Some(guidance) = self.shards.guidance()
        {
            self.push(Input::Guided(guidance));
        }
    }

    /// A session of its own for a connection.
    pub(crate) fn new_session(&self) -> SessionId {
        self.sessions_opened.set(self.sessions_opened.get() + 1);
        SessionId(self.sessions_opened.get())
    }

    fn new_request(&self, session: SessionId) -> RequestId {
        self.requests_asked.set(self.requests_asked.get() + 1);
        RequestId {
            session,
            serial: self.requests_asked.get(),
        }
    }

    /// Asks the replica for a session.
    pub(crate) fn ask(
        &self,
        session: SessionId,
        options: SessionOptions,
        request: Request,
    ) -> Pending {
        let id = self.new_request(session);
        self.wait_for(
            id,
            Input::Asked {
                id,
                options,
                request,
            },
        )
    }

    /// Waits for a digest of a database at `index_min` or later.
    pub(crate) async fn digest(&self, database: String, index_min: LogIndex) -> Result<Reply> {
        let id = self.new_request(SessionId(0));
        self.wait_for(
            id,
            Input::DigestAsked {
                id,
                database,
                index_min,
            },
        )
        .reply()
        .await
    }

    fn wait_for(&self, id: RequestId, input: Input) -> Pending {
        let slot = Rc::new(ReplySlot::default());
        self.waiters
            .borrow_mut()
            .insert(id, Waiter::Local(Rc::clone(&slot)).into());
        self.push(input);
        Pending(slot)
    }

    /// Asks for a session of another thread, which gets the answer by channel.
    pub(crate) fn ask_remotely(
        &self,
        session: SessionId,
        options: SessionOptions,
        request: Request,
        reply: flume::Sender<Result<Reply>>,
    ) {
        let id = self.new_request(session);
        let waiting = Waiter::Remote(reply).into();
        self.waiters.borrow_mut().insert(id, waiting);
        self.push(Input::Asked {
            id,
            options,
            request,
        });
    }

    /// Ends the worker threads with what they run, and the links. Nothing can be asked any more.
    pub(crate) async fn stop(&self) {
        self.halted
            .borrow_mut()
            .get_or_insert_with(|| "it was asked to".into());
        self.sql.borrow().stop_all();
        self.readers.stop();
        self.awake.end();
        drop(self.workers.take());
        self.refuse_all();
        self.links.end().await;
    }

    /// Where the replica stands.
    pub(crate) fn status(&self) -> Status {
        self.replica.borrow().status()
    }

    /// The databases at the applied index, by name.
    pub(crate) fn databases(&self) -> Vec<DatabaseEntry> {
        let sql = self.sql.borrow();
        let databases = self.replica.borrow().databases();
        let entries = databases.into_iter().filter_map(|database| {
            Some(DatabaseEntry {
                page_size: u64::from(sql.page_size(database.id)?.bytes()),
                page_count: u64::from(database.commit_point.page_count()),
                id: database.id.0.0,
                name: database.name,
            })
        });
        entries.collect()
    }

    /// Runs `ask` on the replica, which must not be in a turn.
    pub(crate) fn with_replica<T>(&self, ask: impl FnOnce(&Replica) -> T) -> T {
        ask(&self.replica.borrow())
    }

    /// Runs `ask` on the databases, which must not be within a turn.
    pub(crate) fn with_sql<T>(&self, ask: impl FnOnce(&Sql) -> T) -> T {
        ask(&self.sql.borrow())
    }

    /// One pass: every input that is ready, then the effects, flushed once.
    fn turn(self: &Rc<Self>) {
        if self.halted.borrow().is_some() {
            return;
        }
        if self.replica.borrow_mut().begin_turn() {
            self.perform_effects();
        }
        self.take_ticks();
        self.take_back();
        loop {
            let input = self.inbox.inputs.borrow_mut().pop_front();
            let Some(input) = input else {
                break;
            };
            let speaker = match &input {
                Input::Receive {
                    from,
                    message: Message::Heartbeat { .. } | Message::Append { .. },
                } => Some(*from),
                _ => None,
            };
            self.replica.borrow_mut().step(input);
            self.perform_effects();
            if speaker.is_some() && self.replica.borrow().leader_id() == speaker {
                self.readers.heard_leader();
            }
        }
        let captures = self.sql.borrow().take_captures();
        if !captures.is_empty() {
            self.replica.borrow_mut().step(Input::Captured { captures });
            self.perform_effects();
        }
        loop {
            let goes_on = self.replica.borrow_mut().end_turn();
            match self.replica.borrow().serves_at() {
                (applied, true) => self.times.committed(applied),
                (_, false) => self.times.abandon(),
            }
            if !goes_on {
                break;
            }
            self.perform_effects();
        }
        self.peers.flush_all();
        self.writer.flush();
        if self.replica.borrow().applies_later() {
            self.inbox.filled.raise();
        }
        self.publish();
    }

    /// Tells the replica of the long runs that have ended.
    fn take_back(self: &Rc<Self>) {
        loop {
            let back = self.came_back.borrow_mut().pop_front();
            match back {
                None => return,
                Some(Back::Returned(returned)) => {
                    let ran = self.sql.borrow_mut().take_back(returned);
                    if let Some(ran) = ran {
                        self.replica.borrow_mut().step(Input::Ran(ran));
                        self.perform_effects();
                    }
                }
                Some(Back::WantsCore(paused)) => {
                    let visited = self.sql.borrow_mut().visit(paused);
                    let input = match visited {
                        Some(Started::Ran(ran)) => Input::Ran(ran),
                        Some(Started::Left {
                            paused, captures, ..
                        }) => {
                            self.go_on_away(paused);
                            Input::Captured { captures }
                        }
                        None => continue,
                    };
                    self.replica.borrow_mut().step(input);
                    self.perform_effects();
                }
                Some(Back::Panicked) => {
                    self.halt("a statement panicked on a worker thread: this is a bug".into());
                    return;
                }
            }
        }
    }

    /// Runs SQL, as far as it gets within its time on this core.
    fn run(self: &Rc<Self>, request: RequestId, work: Work, may_write: bool) {
        let begun = Instant::now();
        let started = self.sql.borrow_mut().start(request, work, may_write);
        let input = match started {
            Started::Ran(ran) => {
                if !ran.captures.is_empty() {
                    self.note_run(request, begun);
                }
                if matches!(ran.outcome, Outcome::NeedsWriteLock(_)) {
                    self.tell_slow(request);
                }
                Input::Ran(ran)
            }
            Started::Left {
                paused,
                writes,
                captures,
            } => {
                self.go_on_away(paused);
                let mut replica = self.replica.borrow_mut();
                replica.step(Input::Left { request, writes });
                Input::Captured { captures }
            }
        };
        self.replica.borrow_mut().step(input);
    }

    /// Has a run go on on another thread.
    fn hand_over(&self, paused: Paused) {
        self.tell_slow(paused.request());
        match &*self.workers.borrow() {
            Some(workers) => workers.take_over(paused),
            // It ends here.
            None => drop(paused),
        }
    }

    /// Whoever waits for the answer to `request` may look after its client meanwhile.
    fn tell_slow(&self, request: RequestId) {
        if let Some(waiting) = self.waiters.borrow().get(&request)
            && let Waiter::Local(slot) = &waiting.waiter
        {
            slot.is_slow.set(true);
            slot.changed.raise();
        }
    }

    fn perform_effects(self: &Rc<Self>) {
        loop {
            let effect = self.replica.borrow_mut().next_effect();
            match effect {
                Some(effect) => self.perform(effect),
                None => return,
            }
        }
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Run {
                request,
                work,
                may_write,
            } => self.run(request, work, may_write),
            Effect::StopRun { session, reason } => self.sql.borrow().stop(session, reason),
            Effect::Reply { request, reply } => self.deliver(request, reply),
            Effect::Send { to, message, after } => self.send(to, message, after),
            Effect::Append {
                io,
                truncate_from,
                entries,
                commit,
            } => {
                self.awake.hold();
                self.times.appends(&entries);
                self.writer.append(io, truncate_from, entries, commit);
            }
            Effect::SaveHardState { io, hard_state } => self.writer.save(io, hard_state),
            Effect::ReadEntries {
                peer,
                from,
                up_to,
                bytes_max,
            } => self.read_entries(peer, from, up_to, bytes_max),
            Effect::SaveManifest {
                base,
                owed,
                configuration,
                databases,
            } => self.save_manifest((base, owed), configuration, &databases),
            Effect::Backfill { database, ends } => self.backfill(database, &ends),
            Effect::EndReads { database } => self.readers.end_reads(database),
            Effect::CutLog { up_to } => self.cut_log(up_to),
            Effect::SetMembers { members } => self.set_members(&members),
            Effect::SendSnapshot { to, head } => self.send_snapshot(to, head),
            Effect::InstallSnapshot { head } => self.replace_by_snapshot(head),
            Effect::SnapshotEnded { outcome } => self.snapshots.end(outcome),
            Effect::Halt { reason } => self.halt(reason),
            effect => self.perform_on_databases(effect),
        }
    }

    fn deliver(&self, request: RequestId, reply: Result<Reply>) {
        let Some(waiting) = self.waiters.borrow_mut().remove(&request) else {
            return;
        };
        if waiting.commits && reply.is_ok() {
            self.times.answered(waiting.asked);
        }
        match waiting.waiter {
            Waiter::Local(slot) => {
                slot.reply.replace(Some(reply));
                slot.changed.raise();
            }
            // An asker that has gone away needs no answer.
            Waiter::Remote(sender) => drop(sender.send(reply)),
        }
    }

    fn send(&self, to: NodeId, message: Message, after: Option<IoId>) {
        match after {
            Some(io) if io > self.persisted.get() => {
                self.unsent.borrow_mut().push_back((io, to, message));
            }
            _ => self.peers.send(to, &message),
        }
    }

    /// The disk has everything up to `io`: what waited for it leaves at once, before anything is
    /// applied.
    fn persisted(&self, io: IoId) {
        self.persisted.set(io);
        let mut unsent = self.unsent.borrow_mut();
        while let Some((after, ..)) = unsent.front()
            && *after <= io
        {
            if let Some((_, to, message)) = unsent.pop_front() {
                self.peers.send(to, &message);
                self.peers.flush(to);
            }
        }
        drop(unsent);
        self.push(Input::Persisted { io });
    }

    fn read_entries(&self, peer: NodeId, from: LogIndex, up_to: LogIndex, bytes_max: usize) {
        let log = Rc::clone(&self.log);
        let inbox = Rc::clone(&self.inbox);
        glommio::spawn_local(async move {
            match log.read(from, up_to, bytes_max).await {
                Ok(entries) => inbox.push(Input::EntriesRead { peer, entries }),
                // None read: the core asks again after a tick, and the log itself may be fine.
                Err(error) => {
                    tracing::error!("entries from {from} for {peer} cannot be read: {error}");
                    inbox.push(Input::EntriesRead {
                        peer,
                        entries: Vec::new(),
                    });
                }
            }
        })
        .detach();
    }

    fn halt(&self, reason: String) {
        tracing::error!("{}{reason}", self.place().prefix());
        let mut halted = self.halted.borrow_mut();
        if halted.is_none() {
            *halted = Some(reason);
        }
        drop(halted);
        self.refuse_all();
        self.halt.raise();
    }

    /// Nobody gets an answer any more.
    fn refuse_all(&self) {
        for (_, waiting) in self.waiters.borrow_mut().drain() {
            match waiting.waiter {
                Waiter::Local(slot) => {
                    slot.reply.replace(Some(Err(Error::Stopped)));
                    slot.changed.raise();
                }
                Waiter::Remote(sender) => drop(sender.send(Err(Error::Stopped))),
            }
        }
    }
}

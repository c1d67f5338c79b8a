//! Serving clients: requests, runs, the write queue, and what becomes of them with leadership.

use std::collections::{BTreeMap, BTreeSet};

use ringlite_raft::{LogIndex, Role};
use ringlite_vfs::PageSize;

use super::backfill::Backfills;
use super::catalogue::{DatabaseId, SnapshotContent};
use super::databases::no_database;
use super::gate::Held;
use super::payload::DatabaseAct;
use super::positions::Positions;
use super::request::{
    Outcome, Ran, Reply, Request, RequestId, SessionId, SessionOptions, StopReason, Work,
};
use super::session::Session;
use super::write_queue::Parked;
use super::{Effect, Replica};
use crate::error::Error;

/// What a run has seen and done, for the gate.
struct Seen {
    /// The ends of what it committed.
    wrote: Positions,
    /// The databases in which its snapshot is ahead of what was captured.
    ahead: Vec<DatabaseId>,
    /// Whether leadership has to be confirmed.
    needs_confirmation: bool,
}

/// The serial of requests that the replica makes itself; nobody waits for their reply.
pub(super) const INTERNAL_SERIAL: u64 = u64::MAX;

impl Replica {
    pub(super) fn asked(&mut self, id: RequestId, options: SessionOptions, request: Request) {
        if let Some(error) = self.last_words.remove(&id.session) {
            match error {
                // What ends the database may not be committed yet.
                Error::DatabaseGone { .. } if self.serving => self.answer_from_log(id, error),
                error => self.refuse(id, error),
            }
            return;
        }
        let Some(request) = self.hold_back(id, options, request) else {
            return;
        };
        if !self.serving {
            self.refuse(id, self.not_leader());
            return;
        }
        if self.is_flushing() {
            self.refuse(id, Error::Stopped);
            return;
        }
        match request {
            Request::Open { database, create } => self.open(id, options, database, create),
            Request::Admin(admin) => self.administer(id, admin),
            Request::Members(wanted) => self.change_members(id, wanted),
            Request::Sql(work) => self.run(id, work),
        }
    }

    pub(super) fn open(
        &mut self,
        id: RequestId,
        options: SessionOptions,
        name: String,
        create: bool,
    ) {
        if self.sessions.contains_key(&id.session) {
            self.refuse(id, Error::AlreadyOpen);
        } else if let Some(database) = self.catalogue.find_lasting(&name) {
            self.sessions
                .insert(id.session, Session::new(database, self.now));
            self.effects.push_back(Effect::Run {
                request: id,
                work: Work::Connect { database, options },
                may_write: false,
            });
        } else if let Err(error) = self.check_name(&name) {
            self.refuse(id, error);
        } else if self.catalogue.is_creating(&name) {
            self.opening.entry(name).or_default().push((id, options));
        } else if create {
            // Without leadership whoever waits is told when its loss takes effect.
            self.propose_act(DatabaseAct::Create {
                name: name.clone(),
                page_size: PageSize::DEFAULT,
            });
            self.opening.entry(name).or_default().push((id, options));
        } else {
            self.answer_from_log(id, no_database(&name));
        }
    }

    /// Runs a session's SQL now, if its session is in order.
    pub(super) fn run(&mut self, id: RequestId, work: Work) {
        let now = self.now;
        let Some(work) = self.wait_for_session(id, work) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id.session) else {
            self.refuse(id, Error::NoDatabaseOpened);
            return;
        };
        session.last_active_tick = now;
        if let Some(error) = session.aborted.take() {
            self.refuse(id, error);
            return;
        }
        session.runs(&work);
        let may_write = self.may_write(id.session);
        self.effects.push_back(Effect::Run {
            request: id,
            work,
            may_write,
        });
    }

    /// Whether a session may take the write locks of its databases: of all or of none.
    fn may_write(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id) else {
            return false;
        };
        let mut databases = session.databases.iter();
        if databases.all(|database| self.queues.holder(*database) == Some(id)) {
            return true;
        }
        let mut databases = session.databases.iter();
        self.queues.admits(id, &session.databases)
            && self.has_room()
            && !databases.any(|database| self.is_parked(*database))
    }

    /// Whether more may commit locally before Raft has caught up, and leadership is to stay.
    pub(super) fn has_room(&self) -> bool {
        let bytes = self.uncommitted_bytes + self.batch.page_bytes();
        bytes < self.config.uncommitted_bytes_max && !self.is_handing_over()
    }

    pub(super) fn ran(&mut self, ran: Ran) {
        let Ran {
            request,
            outcome,
            standing,
            captures,
            ahead,
        } = ran;
        let (now, id) = (self.now, request.session);
        let Some(session) = self.sessions.get_mut(&id) else {
            // To go on without them would leave this node with what no other one has.
            assert!(captures.is_empty(), "{id:?} has written after its end");
            return;
        };
        let long_run = session.long_run.take();
        let was_long = long_run.is_some();
        let has_write_lock = standing.has_write_lock;
        let is_connecting = std::mem::take(&mut session.is_connecting);
        let needs_confirmation = session.ran(standing, now);
        let databases = session.databases.clone();
        let mut wrote = long_run.map(|long_run| long_run.wrote).unwrap_or_default();
        for (database, capture) in captures {
            let position = capture.commit_point.position;
            if self.captured(database, capture, Some(id)) {
                wrote.raise(database, position);
            }
        }
        if !has_write_lock {
            self.queues.release(id, &databases);
        }
        let has_lost_one = self.take_attached(id);
        if has_write_lock && let Some(session) = self.sessions.get(&id) {
            self.queues.hold(id, &session.databases);
        }
        if request.serial == INTERNAL_SERIAL {
            self.ran_internally(id, !wrote.is_empty());
        }
        let seen = Seen {
            wrote,
            ahead,
            needs_confirmation,
        };
        let has_no_connection = is_connecting && matches!(outcome, Outcome::Failed(_));
        match outcome {
            Outcome::NeedsWriteLock(work) => {
                if !seen.wrote.is_empty()
                    && let Some(session) = self.sessions.get_mut(&id)
                {
                    session.partly_done = Some(request);
                }
                self.park(request, work);
            }
            Outcome::Reply(reply) => self.answer(request, Ok(reply), seen),
            Outcome::Failed(error) => self.answer(request, Err(error), seen),
        }
        if has_no_connection {
            // Its client may try again.
            self.end_session(id);
            return;
        }
        if !has_write_lock {
            self.resume_writers(&databases);
        }
        if was_long {
            self.after_long_run(id, &databases);
        }
        self.next_of_session(id);
        if has_lost_one {
            self.wind_up_session(id);
        }
    }

    /// Takes note of what a session has attached or detached, between two transactions. Returns
    /// whether it has attached a database whose end is in the log.
    fn take_attached(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        if session.databases[1..] == session.standing.attached {
            return false;
        }
        session.databases.truncate(1);
        session
            .databases
            .extend_from_slice(&session.standing.attached);
        let mut attached = session.standing.attached.iter();
        let gone = attached.find(|database| !self.catalogue.is_lasting(**database));
        let gone = gone.map(|gone| self.catalogue.gone(*gone));
        let has_lost_one = gone.is_some();
        session.last_word = session.last_word.take().or(gone);
        // What it waits to write with was queued for other databases.
        for parked in self.queues.withdraw(id) {
            self.park(parked.request, parked.work);
        }
        has_lost_one
    }

    fn ran_internally(&mut self, id: SessionId, wrote: bool) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if wrote && session.aborted.is_some() {
            // Outside of a transaction SQLite commits a statement that is ended between two of its
            // rows: it was not rolled back, and must not be run again without a look at the data.
            session.aborted = Some(Error::OutcomeUnknown);
        }
        if wrote && session.last_word.is_some() {
            session.last_word = Some(Error::OutcomeUnknown);
        }
        if session.is_closing {
            self.end_session(id);
        }
    }

    /// Runs what no client has asked for.
    pub(super) fn run_internally(&mut self, session: SessionId, work: Work) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.runs(&work);
        }
        self.effects.push_back(Effect::Run {
            request: RequestId {
                session,
                serial: INTERNAL_SERIAL,
            },
            work,
            may_write: true,
        });
    }

    /// Sends an answer through the gate.
    fn answer(&mut self, request: RequestId, reply: Result<Reply, Error>, seen: Seen) {
        if request.serial == INTERNAL_SERIAL {
            return;
        }
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return;
        };
        session.held += 1;
        let held = Held {
            request,
            reply,
            wrote: !seen.wrote.is_empty(),
            confirms_transaction: session.snapshot_transaction(),
        };
        let mut positions = session.standing.snapshots.clone();
        positions.raise_all(&seen.wrote);
        if seen.ahead.is_empty() {
            let content = self.content_of(&positions);
            self.hold(held, content, seen.needs_confirmation);
        } else {
            self.hold_ahead(positions, seen.ahead, held, seen.needs_confirmation);
        }
    }

    /// Gives a reply to the gate. The entry of what the request wrote confirms leadership too.
    pub(super) fn hold(&mut self, held: Held, content: SnapshotContent, needs_confirmation: bool) {
        let needs_confirmation = needs_confirmation && !held.wrote;
        match content {
            SnapshotContent::Batch => {
                assert!(!self.batch.is_empty(), "a snapshot is of known commits");
                self.batch.hold(held);
            }
            SnapshotContent::UpTo(index) if needs_confirmation => {
                self.unconfirmed.push((index, held));
            }
            SnapshotContent::UpTo(index) => self.gate.until_committed(index, held),
            SnapshotContent::Committed if needs_confirmation => {
                self.unconfirmed.push((LogIndex(0), held));
            }
            SnapshotContent::Committed => self.release(held),
        }
    }

    fn park(&mut self, request: RequestId, work: Work) {
        let Some(session) = self.sessions.get(&request.session) else {
            return;
        };
        if self.queues.longest(&session.databases) >= self.config.write_queue_max {
            self.refuse(
                request,
                Error::Busy {
                    what: "too many writers wait for this database",
                },
            );
            return;
        }
        self.queues.park(Parked {
            request,
            work,
            deadline: self.now + self.config.write_wait_ticks,
            databases: session.databases.clone(),
        });
    }

    pub(super) fn resume_all_writers(&mut self) {
        let databases = self.queues.databases();
        self.resume_writers(&databases);
    }

    /// Lets the next waiting writer of each of these databases go on, if its locks are free. Its
    /// run's end calls this again.
    pub(super) fn resume_writers(&mut self, databases: &[DatabaseId]) {
        for database in databases {
            if !self.has_room() {
                return;
            }
            let can_run = |parked: &Parked| can_run(&self.sessions, &self.backfills, parked);
            let Some(parked) = self.queues.next(*database, can_run) else {
                continue;
            };
            if let Some(session) = self.sessions.get_mut(&parked.request.session) {
                session.runs(&parked.work);
            }
            self.effects.push_back(Effect::Run {
                request: parked.request,
                work: parked.work,
                may_write: true,
            });
        }
    }

    pub(super) fn close_session(&mut self, id: SessionId) {
        // Whoever asked is most likely gone, but each request has one answer.
        let mut unanswered = self.forget_held_back(id);
        for waiting in self.opening.values_mut() {
            let of_session = waiting.extract_if(.., |(request, _)| request.session == id);
            unanswered.extend(of_session.map(|(request, _)| request));
        }
        for request in unanswered {
            self.refuse(request, Error::NoDatabaseOpened);
        }
        self.last_words.remove(&id);
        self.abort_upload(id);
        if let Some(session) = self.sessions.get_mut(&id) {
            // Nobody is left to be told it.
            session.last_word = None;
            self.wind_up_session(id);
        }
    }

    /// Ends a session as soon as what it has committed is, or will be, in the batch.
    pub(super) fn wind_up_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.long_run.is_some() {
            session.is_closing = true;
            self.effects.push_back(Effect::StopRun {
                session: id,
                reason: StopReason::Interrupted,
            });
            return;
        }
        if session.standing.has_write_lock && !session.standing.in_transaction {
            // It is between two rows of a statement that writes, which SQLite commits when the
            // connection ends. That commit has to get into the batch like every other one.
            session.is_closing = true;
            self.run_internally(id, Work::Interrupt);
        } else {
            self.end_session(id);
        }
    }

    pub(super) fn end_session(&mut self, id: SessionId) {
        let Some(closed) = self.sessions.remove(&id) else {
            return;
        };
        let unbegun = self.withdraw_runs(|session| session == id);
        self.effects.push_back(Effect::CloseSession { session: id });
        let parked = self.queues.withdraw(id).into_iter();
        let parked = parked.map(|parked| parked.request);
        let waiting = closed.waiting.into_iter().map(|(request, _)| request);
        for request in waiting.chain(parked).chain(unbegun) {
            match &closed.last_word {
                Some(error) => self.answer_ended(request, error.clone()),
                None => self.refuse(request, Error::NoDatabaseOpened),
            }
        }
        if let Some(error) = closed.last_word {
            self.last_words.insert(id, error);
        }
        self.queues.release(id, &closed.databases);
        self.resume_writers(&closed.databases);
    }

    /// Takes back the runs of sessions that are over: this step has let them go on, and they have not
    /// begun. They must not: what they committed would find no session and no batch, and stay in this
    /// node's databases alone. Returns the requests, of which none is the replica's own.
    fn withdraw_runs(&mut self, is_over: impl Fn(SessionId) -> bool) -> Vec<RequestId> {
        let mut withdrawn = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Run { request, .. } if is_over(request.session) => {
                withdrawn.push(*request);
                false
            }
            _ => true,
        });
        withdrawn.retain(|request| request.serial != INTERNAL_SERIAL);
        withdrawn
    }

    /// Answers a request of a session that the end of a database has ended.
    pub(super) fn answer_ended(&mut self, request: RequestId, error: Error) {
        if request.serial == INTERNAL_SERIAL {
            // Nobody waits for it.
        } else if self.serving {
            // What ends the database may not be committed yet.
            self.answer_from_log(request, error);
        } else {
            self.refuse(request, error);
        }
    }

    /// Ends what has waited or idled for too long.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let mut idle = BTreeSet::new();
        for (_, id) in self.queues.holders() {
            if let Some(session) = self.sessions.get(&id)
                && session.held == 0
                && session.long_run.is_none()
                && session.last_active_tick + self.config.write_idle_ticks <= now
            {
                idle.insert(id);
            }
        }
        for parked in self.queues.expired(now) {
            self.refuse(
                parked.request,
                Error::Busy {
                    what: "another transaction has held the database's write lock all the time",
                },
            );
        }
        for id in idle {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.aborted = Some(Error::misuse(
                    rusqlite::ffi::SQLITE_ABORT_ROLLBACK,
                    "the transaction idled too long while it held the write lock, and was rolled \
                     back so that other writers could go on; run it again",
                ));
            }
            self.run_internally(id, Work::Abort);
        }
        self.expire_uploads();
        self.expire_snapshots();
        let (late, waiting) = std::mem::take(&mut self.digests)
            .into_iter()
            .partition(|digest| digest.deadline <= now);
        self.digests = waiting;
        for digest in late as Vec<super::WaitingDigest> {
            self.refuse(
                digest.request,
                Error::Busy {
                    what: "this node has not applied the index that was asked for",
                },
            );
        }
    }

    pub(super) fn role_changed(&mut self, role: Role) {
        let leads = role == Role::Leader;
        if self.leading && !leads {
            self.step_down();
            self.handover_leaves_leadership();
        }
        if leads && !self.leading {
            self.settle_as_leader();
        }
        self.leading = leads;
    }

    pub(super) fn start_serving(&mut self) {
        self.serving = true;
        self.effects.push_back(Effect::SetWritable(true));
    }

    /// Leadership is lost: nothing of this node's speculative state may be told, and it is undone.
    fn step_down(&mut self) {
        self.serving = false;
        let mut changed = self.forget_clients();
        self.effects.push_back(Effect::SetWritable(false));
        // The ends of databases that are not committed may never be.
        let is_of_end = |error: &Error| matches!(error, Error::DatabaseGone { .. });
        self.last_words.retain(|_, error| !is_of_end(error));
        for (id, session) in std::mem::take(&mut self.sessions) {
            self.effects.push_back(Effect::CloseSession { session: id });
            let words = [session.aborted, session.last_word];
            if words.contains(&Some(Error::OutcomeUnknown)) {
                // Its next request must not be told that nothing was committed.
                self.last_words.insert(id, Error::OutcomeUnknown);
            }
        }
        self.uncommitted.clear();
        self.uncommitted_bytes = 0;
        self.restores.forget_uploads();
        self.snapshots.stop_sending();
        // Their connections have ended with the proposal; whatever those left goes too.
        changed.extend(self.catalogue.abandon_pending());
        for (id, state) in self.catalogue.iter_mut() {
            if state.abandon_in_flight() {
                changed.insert(id);
            }
        }
        for database in changed {
            let state = self.catalogue.get(database);
            if let Some(to) = state.and_then(|state| state.committed)
                && !mutation!(NoRollBack)
            {
                self.effects.push_back(Effect::RollBack { database, to });
            }
        }
    }

    /// Answers every request; returns the databases that are changed by more than the entries in
    /// flight.
    fn forget_clients(&mut self) -> BTreeSet<DatabaseId> {
        // No entry of the batch exists, so that nothing of it can ever commit.
        let (mut changed, abandoned) = self.batch.abandon();
        let mut refused: Vec<RequestId> = abandoned.iter().map(|held| held.request).collect();
        refused.extend(self.forget_long_runs());
        refused.extend(self.unconfirmed.drain(..).map(|(_, held)| held.request));
        for held in self.gate.drain() {
            if held.wrote && !mutation!(UnknownToldAsRefused) {
                self.refuse(held.request, Error::OutcomeUnknown);
            } else {
                refused.push(held.request);
            }
        }
        // A statement between two of its rows is committed by SQLite when its connection is closed:
        // too late for the batch, so that only a roll-back takes it away.
        changed.extend(self.queues.holders().map(|(database, _)| database));
        refused.extend(self.queues.drain().map(|parked| parked.request));
        refused.extend(self.forget_member_work());
        let opening = std::mem::take(&mut self.opening);
        refused.extend(opening.into_values().flatten().map(|(request, _)| request));
        refused.extend(self.withdraw_runs(|_| true));
        let not_leader = self.not_leader();
        for request in refused {
            let session = self.sessions.get(&request.session);
            if session.is_some_and(|session| session.partly_done == Some(request)) {
                self.refuse(request, Error::OutcomeUnknown);
            } else if request.serial != INTERNAL_SERIAL {
                self.refuse(request, not_leader.clone());
            }
        }
        changed
    }
}

/// Whether a request that waits for its turn could go on when that has come: its session has no long
/// run, and none of its databases is parked.
pub(super) fn can_run(
    sessions: &BTreeMap<SessionId, Session>,
    backfills: &Backfills,
    parked: &Parked,
) -> bool {
    let session = sessions.get(&parked.request.session);
    let is_free = session.is_none_or(|session| session.long_run.is_none());
    let is_parked = backfills
        .parked()
        .is_some_and(|database| parked.databases.contains(&database));
    is_free && !is_parked
}

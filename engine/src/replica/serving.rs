//! Serving clients: requests, runs, the write queue, and what becomes of them with leadership.

use ringlite_raft::{LogIndex, Role};
use ringlite_vfs::PageSize;

use super::catalogue::{DatabaseId, SnapshotContent};
use super::gate::Held;
use super::payload::encode_create;
use super::request::{Outcome, Ran, Reply, Request, RequestId, SessionId, SessionOptions, Work};
use super::session::Session;
use super::write_queue::Parked;
use super::{Effect, Replica};
use crate::error::Error;

/// The serial of requests that the replica makes itself; nobody waits for their reply.
const INTERNAL_SERIAL: u64 = u64::MAX;

impl Replica {
    pub(super) fn asked(&mut self, id: RequestId, options: SessionOptions, request: Request) {
        if !self.serving {
            self.refuse(id, self.not_leader());
            return;
        }
        match request {
            Request::Open { database } => self.open(id, options, database),
            Request::Sql(work) => self.run(id, work),
        }
    }

    pub(super) fn open(&mut self, id: RequestId, options: SessionOptions, name: String) {
        if self.sessions.contains_key(&id.session) {
            self.refuse(id, Error::AlreadyOpen);
        } else if let Some(database) = self.catalogue.find(&name) {
            self.sessions
                .insert(id.session, Session::new(database, self.now));
            self.effects.push_back(Effect::Run {
                request: id,
                work: Work::Connect { database, options },
                may_write: false,
            });
        } else if let Err(error) = ringlite_vfs::validate_database_name(&name) {
            self.refuse(
                id,
                Error::misuse(rusqlite::ffi::SQLITE_MISUSE, error.to_string()),
            );
        } else {
            if !self.catalogue.is_creating(&name) {
                self.propose_creation(&name, PageSize::DEFAULT);
            }
            self.opening.entry(name).or_default().push((id, options));
        }
    }

    fn propose_creation(&mut self, name: &str, page_size: PageSize) {
        let payload = encode_create(name, page_size);
        if let Ok(index) = self.raft.propose(ringlite_raft::EntryKind::Data, payload) {
            self.catalogue.creation_proposed(name, index, page_size);
        }
    }

    /// Runs a session's SQL now, if its session is in order.
    fn run(&mut self, id: RequestId, work: Work) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id.session) else {
            self.refuse(id, Error::NoDatabaseOpened);
            return;
        };
        session.last_active_tick = now;
        if std::mem::take(&mut session.aborted) {
            let error = Error::misuse(
                rusqlite::ffi::SQLITE_ABORT_ROLLBACK,
                "the transaction idled too long while it held the write lock, and was rolled \
                 back so that other writers could go on; run it again",
            );
            self.refuse(id, error);
            return;
        }
        let database = session.database;
        let may_write = self.may_write(database, id.session);
        self.effects.push_back(Effect::Run {
            request: id,
            work,
            may_write,
        });
    }

    fn may_write(&mut self, database: DatabaseId, session: SessionId) -> bool {
        let queue = self.queues.entry(database).or_default();
        queue.holder == Some(session) || (queue.admits(session) && self.has_room())
    }

    /// Whether more may commit locally before Raft has caught up.
    fn has_room(&self) -> bool {
        self.uncommitted_bytes + self.batch.page_bytes() < self.config.uncommitted_bytes_max
    }

    pub(super) fn ran(&mut self, ran: Ran) {
        let Ran {
            request,
            outcome,
            standing,
            capture,
        } = ran;
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return;
        };
        let needs_confirmation = session.ran(standing);
        let database = session.database;
        let queue = self.queues.entry(database).or_default();
        let was_holder = queue.holder == Some(request.session);
        if standing.has_write_lock {
            queue.holder = Some(request.session);
        } else if was_holder {
            queue.holder = None;
        }
        let wrote = capture.is_some();
        if let Some(capture) = capture {
            self.batch.add(database, capture);
        }
        match outcome {
            Outcome::NeedsWriteLock(work) => self.park(request, work, database),
            Outcome::Reply(reply) => self.answer(request, Ok(reply), wrote, needs_confirmation),
            Outcome::Failed(error) => self.answer(request, Err(error), wrote, needs_confirmation),
        }
        if !standing.has_write_lock {
            self.resume_writer(database);
        }
    }

    /// Sends an answer through the gate.
    fn answer(
        &mut self,
        request: RequestId,
        reply: Result<Reply, Error>,
        wrote: bool,
        needs_confirmation: bool,
    ) {
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
            wrote,
            confirms_transaction: session.snapshot_transaction(),
        };
        let content = match (wrote, session.standing.snapshot) {
            (true, _) => SnapshotContent::Batch,
            (false, None) => SnapshotContent::Committed,
            (false, Some(position)) => self
                .catalogue
                .get(session.database)
                .map_or(SnapshotContent::Committed, |state| {
                    state.content_of(position)
                }),
        };
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

    fn park(&mut self, request: RequestId, work: Work, database: DatabaseId) {
        let deadline = self.now + self.config.write_wait_ticks;
        let queue_max = self.config.write_queue_max;
        let queue = self.queues.entry(database).or_default();
        if queue.len() >= queue_max {
            self.refuse(
                request,
                Error::Busy {
                    what: "too many writers wait for this database",
                },
            );
            return;
        }
        queue.park(Parked {
            request,
            work,
            deadline,
        });
    }

    pub(super) fn resume_all_writers(&mut self) {
        let databases: Vec<_> = self.queues.keys().copied().collect();
        for database in databases {
            self.resume_writer(database);
        }
    }

    /// Lets the next waiting writer go on, if the lock is free. Its run's end calls this again.
    fn resume_writer(&mut self, database: DatabaseId) {
        if !self.has_room() {
            return;
        }
        let next = self
            .queues
            .get_mut(&database)
            .and_then(super::write_queue::WriteQueue::next);
        if let Some(parked) = next {
            self.effects.push_back(Effect::Run {
                request: parked.request,
                work: parked.work,
                may_write: true,
            });
        }
    }

    pub(super) fn close_session(&mut self, session: SessionId) {
        for waiting in self.opening.values_mut() {
            waiting.retain(|(request, _)| request.session != session);
        }
        let Some(closed) = self.sessions.remove(&session) else {
            return;
        };
        self.effects.push_back(Effect::CloseSession { session });
        if let Some(queue) = self.queues.get_mut(&closed.database) {
            queue.forget(session);
        }
        self.resume_writer(closed.database);
    }

    /// Ends what has waited or idled for too long.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let mut expired = Vec::new();
        let mut idle = Vec::new();
        for queue in self.queues.values_mut() {
            expired.extend(queue.expired(now));
            let holder = queue
                .holder
                .and_then(|id| Some((id, self.sessions.get(&id)?)));
            if let Some((id, session)) = holder
                && session.held == 0
                && session.last_active_tick + self.config.write_idle_ticks <= now
            {
                idle.push(id);
            }
        }
        for parked in expired {
            self.refuse(
                parked.request,
                Error::Busy {
                    what: "another transaction has held the database's write lock all the time",
                },
            );
        }
        for id in idle {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.aborted = true;
            }
            self.effects.push_back(Effect::Run {
                request: RequestId {
                    session: id,
                    serial: INTERNAL_SERIAL,
                },
                work: Work::Abort,
                may_write: true,
            });
        }
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
        }
        self.leading = leads;
    }

    pub(super) fn start_serving(&mut self) {
        self.serving = true;
        self.effects.push_back(Effect::SetWritable(true));
    }

    /// Leadership is lost: nothing of this node's speculative state may be told, and it is undone.
    fn step_down(&mut self) {
        let not_leader = self.not_leader();
        self.serving = false;
        self.effects.push_back(Effect::SetWritable(false));
        let (mut changed, abandoned) = self.batch.abandon();
        // No entry of the batch exists, so that nothing of it can ever commit.
        let mut refused: Vec<RequestId> = abandoned.iter().map(|held| held.request).collect();
        refused.extend(self.unconfirmed.drain(..).map(|(_, held)| held.request));
        for held in self.gate.drain() {
            if held.wrote {
                self.refuse(held.request, Error::OutcomeUnknown);
            } else {
                refused.push(held.request);
            }
        }
        for queue in self.queues.values_mut() {
            refused.extend(queue.drain().map(|parked| parked.request));
        }
        let opening = std::mem::take(&mut self.opening);
        refused.extend(opening.into_values().flatten().map(|(request, _)| request));
        for request in refused {
            self.refuse(request, not_leader.clone());
        }
        for session in std::mem::take(&mut self.sessions).into_keys() {
            self.effects.push_back(Effect::CloseSession { session });
        }
        self.uncommitted.clear();
        self.uncommitted_bytes = 0;
        self.catalogue.abandon_creations();
        for (id, state) in self.catalogue.iter_mut() {
            if state.abandon_in_flight() && !changed.contains(&id) {
                changed.push(id);
            }
        }
        for database in changed {
            let state = self.catalogue.get(database);
            if let Some(to) = state.and_then(|state| state.committed.clone()) {
                self.effects.push_back(Effect::RollBack { database, to });
            }
        }
    }
}

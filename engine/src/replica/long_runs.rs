//! Long runs: statements that go on on another thread, while their session's other requests wait.
//!
//! Such a run may commit at any moment, and what it commits is seen by others before the run's end
//! is known. Three rules keep the gate right:
//!
//! 1. A run that has begun to write counts as the holder of its databases' write locks until it has
//!    come back, and no run begins to write while it is away. So whatever is captured meanwhile is
//!    its own, whoever's run the capture came with.
//! 2. Every capture goes into the batch before the reply that came with it goes to the gate.
//! 3. A commit is visible a moment before it can be captured. A reply whose snapshot is ahead of
//!    all captures waits for the next one.
//!
//! A session that has attached databases comes back to the core for the moment of each commit, which
//! is captured there as a whole: no entry can hold a part of it.

use ringlite_vfs::{Capture, WalPosition};

use super::catalogue::{DatabaseId, DatabaseState, SnapshotContent};
use super::gate::Held;
use super::positions::Positions;
use super::request::{RequestId, SessionId, StopReason, Work};
use super::{Effect, Replica};
use crate::error::Error;

/// How long a reader may keep even a full WAL from being restarted, in ticks.
const FULL_GRACE_TICKS: u64 = 100;

/// A run that left the core.
#[derive(Debug)]
pub(super) struct LongRun {
    pub(super) request: RequestId,
    pub(super) since_tick: u64,
    /// Whether it has begun to write.
    pub(super) writes: bool,
    /// The ends of the last of its commits that were captured.
    pub(super) wrote: Positions,
}

/// A reply that has seen more than was captured.
#[derive(Debug)]
pub(super) struct Ahead {
    /// What it depends on.
    positions: Positions,
    /// The databases whose position there is ahead of the captures; never empty.
    missing: Vec<DatabaseId>,
    held: Held,
    needs_confirmation: bool,
}

impl Ahead {
    /// Whose reply it is.
    pub(super) fn request(&self) -> RequestId {
        self.held.request
    }

    /// Whether the request has committed something.
    pub(super) fn wrote(&self) -> bool {
        self.held.wrote
    }
}

impl Replica {
    /// A run has left the core.
    pub(super) fn left(&mut self, request: RequestId, writes: bool) {
        let since_tick = self.now;
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return;
        };
        session.long_run = Some(LongRun {
            request,
            since_tick,
            writes,
            wrote: Positions::default(),
        });
        let databases = session.databases.clone();
        if writes {
            self.queues.hold(request.session, &databases);
        } else {
            // It may have been let go to write, and does not.
            self.queues.release(request.session, &databases);
            self.resume_writers(&databases);
        }
    }

    /// Takes what committed in a database, found by a run of `finder` or by nobody's. Returns
    /// whether that run itself has committed it.
    pub(super) fn captured(
        &mut self,
        database: DatabaseId,
        capture: Capture,
        finder: Option<SessionId>,
    ) -> bool {
        let position = capture.commit_point.position;
        self.batch.add(database, capture);
        self.look_ahead_again(database, Some(position));
        let holder = self.queues.holder(database);
        let long_run = holder
            .filter(|holder| finder != Some(*holder))
            .and_then(|holder| self.sessions.get_mut(&holder)?.long_run.as_mut());
        match long_run {
            Some(long_run) => {
                long_run.wrote.raise(database, position);
                false
            }
            None => true,
        }
    }

    /// Holds a reply whose snapshots are ahead of the captures in the databases `missing`.
    pub(super) fn hold_ahead(
        &mut self,
        positions: Positions,
        missing: Vec<DatabaseId>,
        held: Held,
        needs_confirmation: bool,
    ) {
        self.ahead.push(Ahead {
            positions,
            missing,
            held,
            needs_confirmation,
        });
    }

    /// Lets replies go on to the gate whose snapshots are captured up to `position`; all of them
    /// if there is none, because the run that committed has ended.
    pub(super) fn look_ahead_again(&mut self, database: DatabaseId, position: Option<WalPosition>) {
        for ahead in &mut self.ahead {
            let seen = ahead.positions.get(database);
            if position.is_none() || seen <= position {
                ahead.missing.retain(|missing| *missing != database);
            }
        }
        let ready = self.ahead.extract_if(.., |ahead| ahead.missing.is_empty());
        for ahead in ready.collect::<Vec<_>>() {
            let content = self.content_of(&ahead.positions);
            self.hold(ahead.held, content, ahead.needs_confirmation);
        }
    }

    /// Takes out the replies that wait for a commit in this database to be captured.
    pub(super) fn take_ahead_in(&mut self, database: DatabaseId) -> Vec<Ahead> {
        let waiting = self
            .ahead
            .extract_if(.., |ahead| ahead.missing.contains(&database));
        waiting.collect()
    }

    /// The newest entry that snapshots contain.
    pub(super) fn content_of(&self, positions: &Positions) -> SnapshotContent {
        let contents = positions.iter().map(|(database, position)| {
            let is_in_batch = self.batch.changes(database);
            let state = self.catalogue.get(database);
            state.map_or(SnapshotContent::Committed, |state| {
                state.content_of(position, is_in_batch)
            })
        });
        contents.max().unwrap_or(SnapshotContent::Committed)
    }

    /// Whether a run that is away may commit something, or a reply waits for what one has committed to
    /// be captured.
    pub(super) fn may_commit_away(&self) -> bool {
        let mut sessions = self.sessions.values();
        let writes = |run: &LongRun| run.writes;
        let is_any = sessions.any(|session| session.long_run.as_ref().is_some_and(writes));
        is_any || !self.ahead.is_empty()
    }

    /// Keeps a request until its session's long run has come back; gives it back if there is none.
    pub(super) fn wait_for_session(&mut self, id: RequestId, work: Work) -> Option<Work> {
        let waiting_max = self.config.write_queue_max;
        let Some(session) = self.sessions.get_mut(&id.session) else {
            return Some(work);
        };
        if session.long_run.is_none() {
            return Some(work);
        }
        if session.waiting.len() >= waiting_max {
            let what = "too many requests wait for the session's long statement";
            self.refuse(id, Error::Busy { what });
        } else {
            session.waiting.push_back((id, work));
        }
        None
    }

    /// Stops what a session runs, and what it waits for the write lock with.
    pub(super) fn interrupt(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.long_run.is_some() {
            self.effects.push_back(Effect::StopRun {
                session: id,
                reason: StopReason::Interrupted,
            });
        }
        for parked in self.queues.withdraw(id) {
            self.refuse(parked.request, Error::interrupted());
        }
    }

    /// A long run has come back, of a session that had these databases.
    pub(super) fn after_long_run(&mut self, id: SessionId, databases: &[DatabaseId]) {
        let session = self.sessions.get(&id);
        if session.is_some_and(|session| session.is_closing) {
            self.wind_up_session(id);
        }
        for database in databases {
            let holder = self.queues.holder(*database);
            let writer = holder.and_then(|holder| self.sessions.get(&holder)?.long_run.as_ref());
            if writer.is_none() {
                self.look_ahead_again(*database, None);
            }
        }
    }

    /// A run has ended: the next request that waited for the session goes on.
    pub(super) fn next_of_session(&mut self, id: SessionId) {
        let is_its = |effect: &Effect| matches!(effect, Effect::Run { request, .. } if request.session == id);
        if self.effects.iter().any(is_its) {
            // It has just been let go on with another one, whose end comes here again.
            return;
        }
        let next = self.sessions.get_mut(&id);
        if let Some((request, work)) = next.and_then(|session| session.waiting.pop_front()) {
            self.run(request, work);
        }
    }

    /// Ends readers that have held their snapshot for too long: any readers, of a database whose WAL
    /// they have kept from being restarted until it is as long as it may get.
    pub(super) fn expire_snapshots(&mut self) {
        let expired = self.now.saturating_sub(self.config.snapshot_ticks);
        let hard = self.config.wal_bytes_hard;
        let is_full = |state: &DatabaseState| state.file.is_blocked && state.wal_bytes() >= hard;
        for (database, state) in self.catalogue.iter() {
            if is_full(state) {
                self.effects.push_back(Effect::EndReads { database });
            }
        }
        let mut idle = Vec::new();
        for (id, session) in &self.sessions {
            let mut databases = session.databases.iter();
            let in_the_way = databases.any(|id| self.catalogue.get(*id).is_some_and(is_full));
            let oldest = match in_the_way {
                true => self.now.saturating_sub(FULL_GRACE_TICKS),
                false => expired,
            };
            if let Some(long_run) = &session.long_run {
                let since = session.snapshot_since_tick.unwrap_or(long_run.since_tick);
                if !long_run.writes && since < oldest {
                    self.effects.push_back(Effect::StopRun {
                        session: *id,
                        reason: StopReason::SnapshotTooOld,
                    });
                }
            } else if session
                .snapshot_since_tick
                .is_some_and(|since| since < oldest)
                && !session.standing.has_write_lock
                && session.held == 0
            {
                idle.push(*id);
            }
        }
        for id in idle {
            // A write that waits is a part of the transaction, and its answer tells of the end.
            let waiting = self.queues.withdraw(id);
            if waiting.is_empty()
                && let Some(session) = self.sessions.get_mut(&id)
            {
                session.aborted = Some(Error::snapshot_too_old());
            }
            for parked in waiting {
                self.refuse(parked.request, Error::snapshot_too_old());
            }
            self.run_internally(id, Work::Abort);
        }
    }

    /// Leadership is lost: the requests of long runs, whose results will not be told, and of what
    /// waits for them.
    pub(super) fn forget_long_runs(&mut self) -> Vec<RequestId> {
        let mut refused = Vec::new();
        let mut unknown = Vec::new();
        for session in self.sessions.values_mut() {
            refused.extend(session.waiting.drain(..).map(|(request, _)| request));
            if let Some(long_run) = session.long_run.take() {
                match long_run.wrote.is_empty() {
                    false => unknown.push(long_run.request),
                    true => refused.push(long_run.request),
                }
            }
        }
        for ahead in std::mem::take(&mut self.ahead) {
            match ahead.held.wrote {
                true => unknown.push(ahead.held.request),
                false => refused.push(ahead.held.request),
            }
        }
        for request in unknown {
            self.refuse(request, Error::OutcomeUnknown);
        }
        refused
    }
}

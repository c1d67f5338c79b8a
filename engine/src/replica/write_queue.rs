//! The write queue of one database: who holds its write lock and who waits for it, in order.

use std::collections::VecDeque;

use super::request::{RequestId, SessionId, Work};

/// A request that waits for the write lock.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) request: RequestId,
    pub(super) work: Work,
    /// The tick at which it has waited long enough.
    pub(super) deadline: u64,
}

/// Who writes, and who is next.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    pub(super) holder: Option<SessionId>,
    waiting: VecDeque<Parked>,
}

impl WriteQueue {
    /// Whether `session` may take the write lock without overtaking anyone.
    pub(super) fn admits(&self, session: SessionId) -> bool {
        self.holder == Some(session) || (self.holder.is_none() && self.waiting.is_empty())
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Queues a request behind the others.
    pub(super) fn park(&mut self, parked: Parked) {
        self.waiting.push_back(parked);
    }

    /// The next request of a session that `can_run`, if the lock is free; its session counts as
    /// the holder until its run has shown whether it is.
    pub(super) fn next(&mut self, can_run: impl Fn(SessionId) -> bool) -> Option<Parked> {
        if self.holder.is_some() {
            return None;
        }
        let mut waiting = self.waiting.iter();
        let next = waiting.position(|parked| can_run(parked.request.session))?;
        let parked = self.waiting.remove(next)?;
        self.holder = Some(parked.request.session);
        Some(parked)
    }

    /// Whether a request of a session that `can_run` waits.
    pub(super) fn any_waits(&self, can_run: impl Fn(SessionId) -> bool) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|parked| can_run(parked.request.session))
    }

    /// Takes out the requests whose deadline has passed.
    pub(super) fn expired(&mut self, now: u64) -> Vec<Parked> {
        // Each request waits equally long, so that the oldest expires first.
        let mut expired = Vec::new();
        while let Some(parked) = self.waiting.front()
            && parked.deadline <= now
        {
            expired.extend(self.waiting.pop_front());
        }
        expired
    }

    /// `session` has ended: it holds nothing, and these are the requests that it waited with.
    pub(super) fn forget(&mut self, session: SessionId) -> Vec<RequestId> {
        if self.holder == Some(session) {
            self.holder = None;
        }
        self.withdraw(session)
    }

    /// The requests that `session` waits with, which wait no longer.
    pub(super) fn withdraw(&mut self, session: SessionId) -> Vec<RequestId> {
        let (gone, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|parked| parked.request.session == session);
        self.waiting = waiting;
        let gone: VecDeque<Parked> = gone;
        gone.into_iter().map(|parked| parked.request).collect()
    }

    /// Leadership is lost: nobody holds the lock, and these have waited in vain.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Parked> + use<> {
        self.holder = None;
        std::mem::take(&mut self.waiting).into_iter()
    }
}

//! The write queues: who holds each database's write lock, and who waits for it, in order.
//!
//! A session writes in all of its databases or in none: it takes its place in each of their queues
//! at once, and only when it is the next in all of them. Every request that waits has a ticket, and
//! each queue is in the order of tickets, so that the holder of the lowest ticket never waits for
//! another one that waits: sessions that attached databases in opposite orders make way for each
//! other.

use std::collections::{BTreeMap, VecDeque};

use super::catalogue::DatabaseId;
use super::request::{RequestId, SessionId, Work};

/// The order in which requests have begun to wait.
type Ticket = u64;

/// A request that waits for write locks.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) request: RequestId,
    pub(super) work: Work,
    /// The tick at which it has waited long enough.
    pub(super) deadline: u64,
    /// The databases of its session.
    pub(super) databases: Vec<DatabaseId>,
}

/// Who writes in one database, and who waits.
#[derive(Debug, Default)]
struct WriteQueue {
    holder: Option<SessionId>,
    waiting: VecDeque<Ticket>,
}

/// The queues of all databases.
#[derive(Debug, Default)]
pub(super) struct WriteQueues {
    queues: BTreeMap<DatabaseId, WriteQueue>,
    parked: BTreeMap<Ticket, Parked>,
    tickets: Ticket,
}

impl WriteQueues {
    /// Whether `session` may write in these databases without overtaking anyone.
    pub(super) fn admits(&self, session: SessionId, databases: &[DatabaseId]) -> bool {
        databases.iter().all(|database| {
            self.queues.get(database).is_none_or(|queue| {
                queue.holder == Some(session)
                    || (queue.holder.is_none() && queue.waiting.is_empty())
            })
        })
    }

    /// Who holds the write lock of a database, or its place for the length of a run.
    pub(super) fn holder(&self, database: DatabaseId) -> Option<SessionId> {
        self.queues.get(&database)?.holder
    }

    /// All databases that are held, and by whom.
    pub(super) fn holders(&self) -> impl Iterator<Item = (DatabaseId, SessionId)> {
        let queues = self.queues.iter();
        queues.filter_map(|(database, queue)| Some((*database, queue.holder?)))
    }

    /// The databases that anybody has written in.
    pub(super) fn databases(&self) -> Vec<DatabaseId> {
        self.queues.keys().copied().collect()
    }

    /// The databases that nobody holds and somebody waits for.
    pub(super) fn databases_waited_for(&self) -> Vec<DatabaseId> {
        let queues = self.queues.iter();
        let free = queues.filter(|(_, queue)| queue.holder.is_none() && !queue.waiting.is_empty());
        free.map(|(database, _)| *database).collect()
    }

    /// `session` holds its places in the queues of these databases.
    pub(super) fn hold(&mut self, session: SessionId, databases: &[DatabaseId]) {
        for database in databases {
            self.queues.entry(*database).or_default().holder = Some(session);
        }
    }

    /// `session` gives its places back, where it has any.
    pub(super) fn release(&mut self, session: SessionId, databases: &[DatabaseId]) {
        for database in databases {
            if let Some(queue) = self.queues.get_mut(database)
                && queue.holder == Some(session)
            {
                queue.holder = None;
            }
        }
    }

    /// How many requests wait in the longest of these queues.
    pub(super) fn longest(&self, databases: &[DatabaseId]) -> usize {
        let queues = databases.iter().filter_map(|id| self.queues.get(id));
        queues.map(|queue| queue.waiting.len()).max().unwrap_or(0)
    }

    /// Queues a request behind the others.
    pub(super) fn park(&mut self, parked: Parked) {
        self.tickets += 1;
        for database in &parked.databases {
            let queue = self.queues.entry(*database).or_default();
            queue.waiting.push_back(self.tickets);
        }
        self.parked.insert(self.tickets, parked);
    }

    /// The next request in the queue of a database, of those whose session `can_run`, if it is the
    /// next one in all of its queues and nobody holds any of them. Its session counts as the holder
    /// until its run has shown whether it is.
    pub(super) fn next(
        &mut self,
        database: DatabaseId,
        can_run: impl Fn(&Parked) -> bool,
    ) -> Option<Parked> {
        let ticket = self.first(database, &can_run)?;
        let parked = self.parked.get(&ticket)?;
        let is_free = |id: &DatabaseId| {
            self.holder(*id).is_none() && self.first(*id, &can_run) == Some(ticket)
        };
        if !parked.databases.iter().all(is_free) {
            return None;
        }
        let parked = self.take(ticket)?;
        self.hold(parked.request.session, &parked.databases);
        Some(parked)
    }

    fn first(&self, database: DatabaseId, can_run: impl Fn(&Parked) -> bool) -> Option<Ticket> {
        let mut waiting = self.queues.get(&database)?.waiting.iter();
        waiting
            .find(|ticket| self.parked.get(ticket).is_some_and(&can_run))
            .copied()
    }

    /// The request of those whose session `can_run` that has waited longest.
    pub(super) fn oldest(&self, can_run: impl Fn(&Parked) -> bool) -> Option<&Parked> {
        self.parked.values().find(|parked| can_run(parked))
    }

    fn take(&mut self, ticket: Ticket) -> Option<Parked> {
        let parked = self.parked.remove(&ticket)?;
        for database in &parked.databases {
            if let Some(queue) = self.queues.get_mut(database)
                && let Some(place) = queue.waiting.iter().position(|other| *other == ticket)
            {
                queue.waiting.remove(place);
            }
        }
        Some(parked)
    }

    fn take_all(&mut self, tickets: Vec<Ticket>) -> Vec<Parked> {
        let tickets = tickets.into_iter();
        tickets.filter_map(|ticket| self.take(ticket)).collect()
    }

    /// Takes out the requests whose deadline has passed.
    pub(super) fn expired(&mut self, now: u64) -> Vec<Parked> {
        // Each request waits equally long, so that the oldest expires first.
        let waiting = self.parked.iter();
        let expired = waiting.take_while(|(_, parked)| parked.deadline <= now);
        let expired = expired.map(|(ticket, _)| *ticket).collect();
        self.take_all(expired)
    }

    /// The requests that `session` waits with, which wait no longer.
    pub(super) fn withdraw(&mut self, session: SessionId) -> Vec<Parked> {
        let waiting = self.parked.iter();
        let own = waiting.filter(|(_, parked)| parked.request.session == session);
        let own = own.map(|(ticket, _)| *ticket).collect();
        self.take_all(own)
    }

    /// A database ends: these requests have waited for it in vain.
    pub(super) fn remove(&mut self, database: DatabaseId) -> Vec<Parked> {
        let queue = self.queues.remove(&database).unwrap_or_default();
        self.take_all(queue.waiting.into())
    }

    /// Leadership is lost: nobody holds a lock, and these have waited in vain.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Parked> + use<> {
        self.queues.clear();
        std::mem::take(&mut self.parked).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlite_raft::LogIndex;

    const A: DatabaseId = DatabaseId(LogIndex(1));
    const B: DatabaseId = DatabaseId(LogIndex(2));
    const C: DatabaseId = DatabaseId(LogIndex(3));

    fn park(queues: &mut WriteQueues, session: u64, databases: &[DatabaseId]) {
        queues.park(Parked {
            request: RequestId {
                session: SessionId(session),
                serial: 1,
            },
            work: Work::Continue,
            deadline: session,
            databases: databases.to_vec(),
        });
    }

    fn next(queues: &mut WriteQueues, database: DatabaseId) -> Option<u64> {
        let next = queues.next(database, |_| true)?;
        Some(next.request.session.0)
    }

    #[test]
    fn places_are_taken_in_all_queues_or_in_none() {
        let mut queues = WriteQueues::default();
        let one = SessionId(1);
        queues.hold(one, &[B]);
        park(&mut queues, 2, &[A, B]);
        assert!(next(&mut queues, A).is_none() && next(&mut queues, B).is_none());
        assert_eq!(queues.holder(A), None);
        // It is not overtaken in the queue that is free.
        assert!(!queues.admits(SessionId(3), &[A]));
        assert!(queues.admits(SessionId(3), &[C]));
        queues.release(one, &[A, B]);
        assert_eq!(next(&mut queues, B), Some(2));
        assert_eq!(queues.holder(A), Some(SessionId(2)));
        assert!(queues.admits(SessionId(2), &[A, B, C]));
    }

    #[test]
    fn opposite_orders_make_way_for_each_other() {
        let mut queues = WriteQueues::default();
        queues.hold(SessionId(1), &[A, B, C]);
        park(&mut queues, 2, &[A, B]);
        park(&mut queues, 3, &[B, A]);
        park(&mut queues, 4, &[C, B]);
        park(&mut queues, 5, &[A]);
        queues.release(SessionId(1), &[A, B, C]);
        let mut order = Vec::new();
        while let Some(session) = [C, B, A].into_iter().find_map(|id| next(&mut queues, id)) {
            order.push(session);
            let held: Vec<_> = queues.holders().map(|(database, _)| database).collect();
            queues.release(SessionId(session), &held);
        }
        assert_eq!(order, [2, 3, 4, 5]);
        assert!(queues.oldest(|_| true).is_none());
    }

    #[test]
    fn who_leaves_gives_its_place_in_each_queue_back() {
        let mut queues = WriteQueues::default();
        for session in 1..=4 {
            park(&mut queues, session, &[A, B]);
        }
        assert_eq!(queues.longest(&[C, B]), 4);
        assert_eq!(queues.expired(1).len(), 1);
        assert_eq!(queues.withdraw(SessionId(2)).len(), 1);
        assert_eq!(next(&mut queues, B), Some(3));
        assert_eq!(queues.remove(A).len(), 1);
        assert_eq!((queues.longest(&[A, B]), queues.holder(A)), (0, None));
        assert_eq!(queues.holder(B), Some(SessionId(3)));
    }
}

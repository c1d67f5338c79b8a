//! What holds between two turns, for tests to check.

use super::Replica;
use super::serving::can_run;
use super::write_queue::Parked;

impl Replica {
    /// Checks what must hold whenever every effect has been performed and the turn has ended.
    ///
    /// # Panics
    /// If it does not: a bug.
    pub fn check_invariants(&self) {
        let waits = |parked: &Parked| can_run(&self.sessions, &self.backfills, parked);
        if let Some(oldest) = self.queues.oldest(waits) {
            let mut databases = oldest.databases.iter();
            assert!(
                !self.has_room() || databases.any(|id| self.queues.holder(*id).is_some()),
                "{oldest:?} waits for nobody"
            );
        }
        for (database, holder) in self.queues.holders() {
            let session = self.sessions.get(&holder);
            assert!(
                session.is_some_and(|session| match &session.long_run {
                    Some(long_run) => long_run.writes,
                    None => session.standing.has_write_lock,
                }),
                "{database}: session {holder} does not hold the write lock"
            );
        }
        for (id, session) in &self.sessions {
            let own = &session.databases;
            let held = own
                .iter()
                .filter(|at| self.queues.holder(**at) == Some(*id));
            let held = held.count();
            assert!(
                held == 0 || held == own.len() || session.is_closing,
                "session {id} may write in some of its databases only"
            );
        }
        let bytes: usize = self.uncommitted.iter().map(|run| run.bytes).sum();
        assert_eq!(bytes, self.uncommitted_bytes);
        if !self.serving {
            let nothing = self.sessions.is_empty()
                && self.batch.is_empty()
                && self.uncommitted.is_empty()
                && self.unconfirmed.is_empty()
                && self.gate.is_empty()
                && self.ahead.is_empty()
                && self.opening.is_empty()
                && self.restores.no_uploads();
            assert!(nothing, "something is left of an earlier leadership");
        }
        assert!(self.applied <= self.raft.status().commit);
    }
}

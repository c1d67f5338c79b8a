//! What holds between two turns, for tests to check.

use super::Replica;

impl Replica {
    /// Checks what must hold whenever every effect has been performed and the turn has ended.
    ///
    /// # Panics
    /// If it does not: a bug.
    pub fn check_invariants(&self) {
        for (database, queue) in &self.queues {
            let can_run = |id| {
                self.sessions
                    .get(&id)
                    .is_none_or(|at| at.long_run.is_none())
            };
            assert!(
                !queue.any_waits(can_run)
                    || queue.holder.is_some()
                    || !self.has_room()
                    || self.is_parked(*database),
                "{database}: writers wait for nobody"
            );
            if let Some(holder) = queue.holder {
                let session = self.sessions.get(&holder);
                assert!(
                    session.is_some_and(|session| match &session.long_run {
                        Some(long_run) => long_run.writes,
                        None => session.standing.has_write_lock,
                    }),
                    "{database}: session {holder} does not hold the write lock"
                );
            }
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

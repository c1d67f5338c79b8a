//! Snapshots as the protocol sees them: who needs one, and what it does to the log that gets it.

use super::Raft;
use crate::effect::{Effect, SnapshotResult};
use crate::entry::LogBase;
use crate::membership::Configuration;
use crate::progress::{Mode, Progress};
use crate::refusal::InstallError;
use crate::status::Role;
use crate::types::{LogIndex, NodeId};

impl Raft {
    /// Asks whether a snapshot that ends at `base` may take the place of everything here. If so,
    /// this node takes no entries and does not stand for election until
    /// [`Input::Installed`](crate::Input::Installed): begin with this when the files are complete
    /// and only the switch is left to do. A switch that fails cannot be taken back; stop the node.
    ///
    /// Losing the log that is there is safe: a log that does not hold the entry at `base`, which is
    /// committed, holds nothing behind that place that can ever be committed.
    ///
    /// # Errors
    /// The snapshot is not needed, or this is not the moment. Nothing has changed.
    pub fn begin_install(&mut self, base: LogBase) -> Result<(), InstallError> {
        if let Some(LogBase { index: base, .. }) = self.installing {
            return Err(InstallError::Installing { base });
        }
        if self.role == Role::Leader || self.role == Role::Candidate {
            return Err(InstallError::NotAFollower);
        }
        let held = self.log.term(base.index) == Some(base.term);
        if held || base.index <= self.log.commit() {
            return Err(InstallError::NotNeeded { base: base.index });
        }
        if base.term > self.hard_state.term || self.io.after_hard_state().is_some() {
            return Err(InstallError::TermNotDurable {
                snapshot: base.term,
            });
        }
        if self.role == Role::PreCandidate {
            self.become_follower(self.hard_state.term, None);
        }
        self.installing = Some(base);
        Ok(())
    }

    pub(super) fn installed(&mut self, base: LogBase, configuration: Configuration) {
        assert_eq!(
            self.installing.take(),
            Some(base),
            "another snapshot was installed than the one that was begun"
        );
        assert!(
            !configuration.members().is_empty(),
            "a snapshot without members"
        );
        self.log.replace(base, configuration);
        self.io.replaced(base.index);
        self.matched_by_all = LogIndex::ZERO;
        self.forget_settled_debt();
        // An acknowledgement that waits for the disk speaks of the log that is gone.
        self.configuration_may_have_changed();
    }

    /// Whether what is next for the peer lies below the log; then a snapshot is asked for.
    pub(super) fn needs_snapshot(&mut self, peer: NodeId, progress: &mut Progress) -> bool {
        if progress.mode != Mode::Snapshot && progress.next <= self.log.base() {
            progress.await_snapshot(self.log.base());
        }
        if progress.mode == Mode::Snapshot && !progress.snapshot_asked && self.is_in_touch(progress)
        {
            progress.snapshot_asked = true;
            self.events.push(Effect::SendSnapshot { peer });
        }
        progress.mode == Mode::Snapshot
    }

    fn is_in_touch(&self, progress: &Progress) -> bool {
        progress.silent_ticks < self.config.heartbeat_ticks.saturating_mul(2)
    }

    pub(super) fn snapshot_sent(&mut self, peer: NodeId, result: SnapshotResult) {
        let waits = |progress: &&mut Progress| progress.mode == Mode::Snapshot;
        let Some(progress) = self.peers.get_mut(&peer).filter(waits) else {
            return;
        };
        match result {
            // What the peer holds is for its own acknowledgement to say.
            SnapshotResult::Installed { base } => {
                let next = base.min(self.log.last()).next();
                progress.probe_from(next);
            }
            // What the peer needs is found out anew, by a probe that goes with the next heartbeat.
            SnapshotResult::Failed => {
                progress.probe_from(self.log.last().next());
                progress.probe_sent = true;
            }
        }
    }
}

//! What a leader sends: appends, heartbeats, and how it finds out what was lost.
//!
//! Appends are formed once per turn and peer, so that all proposals of the turn travel in one
//! message. The commit index travels with the next append. When there is none, the next tick tells
//! it by a heartbeat to those peers that have not been told; there is no extra message per commit
//! on the hot path, and a follower's view of an idle log lags by at most one tick.

use super::Raft;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::log::entry_bytes;
use crate::message::Message;
use crate::progress::{Mode, Progress};
use crate::types::{LogIndex, NodeId};

impl Raft {
    /// A round of heartbeats, with a number of its own, if a tick or a read asks for one.
    pub(super) fn start_round_if_due(&mut self) {
        if self.is_serving() && self.lease.is_valid() {
            let index = self.log.commit();
            let ready = self.reads.take_arrivals().into_iter();
            self.events
                .extend(ready.map(|id| Effect::ReadReady { id, index }));
        }
        // Before its no-op is committed a leader does not know what earlier leaders committed, so
        // the reads wait (thesis, 6.4).
        let reads_wait = self.is_serving() && self.reads.has_arrivals();
        if !self.heartbeat_due && !reads_wait {
            return;
        }
        self.heartbeat_due = false;
        self.round += 1;
        if reads_wait {
            self.reads.start_round(self.round, self.log.commit());
        }
        self.lease.sent(self.round);
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_heartbeat(peer);
        }
        // A sole voter needs nobody's echo.
        self.answer_confirmed_reads();
    }

    pub(super) fn send_heartbeat(&mut self, to: NodeId) {
        let term = self.hard_state.term;
        let round = self.round;
        let Some(progress) = self.peers.get_mut(&to) else {
            return;
        };
        let commit = self.log.commit().min(progress.match_index);
        progress.told_commit = progress.told_commit.max(commit);
        let matched_by_all = self.matched_by_all;
        self.send(
            to,
            Message::Heartbeat {
                term,
                commit,
                matched_by_all,
                round,
            },
        );
    }

    /// Tells the commit index to peers that no append has told it since the last tick.
    pub(super) fn tell_commit(&mut self) {
        if self.heartbeat_due {
            return;
        }
        let commit = self.log.commit();
        let untold = |progress: &Progress| commit.min(progress.match_index) > progress.told_commit;
        let peers: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| untold(peer))
            .map(|(&id, _)| id)
            .collect();
        for peer in peers {
            self.send_heartbeat(peer);
        }
    }

    /// At each heartbeat: a peer that should have answered and did not may have missed a message.
    ///
    /// A probe is repeated, without entries. In replicate mode an empty append behind everything
    /// that was sent is either accepted (the peer is just slow) or rejected (something is missing).
    pub(super) fn look_for_losses(&mut self) {
        let last = self.log.last();
        for progress in self.peers.values_mut() {
            let stalled = match progress.mode {
                Mode::Probe => true,
                Mode::Snapshot => false,
                Mode::Replicate => progress.match_index < last && !progress.acked_since_heartbeat,
            };
            progress.acked_since_heartbeat = false;
            if stalled {
                progress.probe_sent = false;
                progress.nudge = true;
            }
        }
    }

    /// Sends to each peer what it lacks, as far as its mode and window allow.
    pub(super) fn replicate(&mut self) {
        // Taken out, so that messages can be formed beside it.
        let mut peers = std::mem::take(&mut self.peers);
        for (&peer, progress) in &mut peers {
            if !progress.role.replicates() || self.needs_snapshot(peer, progress) {
                continue;
            }
            match progress.mode {
                Mode::Probe => self.probe(peer, progress),
                Mode::Replicate => self.fill_window(peer, progress),
                Mode::Snapshot => {}
            }
        }
        self.peers = peers;
    }

    fn probe(&mut self, peer: NodeId, progress: &mut Progress) {
        if progress.probe_sent {
            return;
        }
        // The first probe brings entries along, because most of the time it finds agreement.
        let entries = if progress.nudge {
            Vec::new()
        } else {
            self.log.slice(progress.next, self.config.append_bytes_max)
        };
        progress.probe_sent = true;
        progress.nudge = false;
        self.send_append(peer, progress, entries);
    }

    fn fill_window(&mut self, peer: NodeId, progress: &mut Progress) {
        let nudge = std::mem::take(&mut progress.nudge);
        let mut sent = false;
        while progress.next <= self.log.last() && progress.has_room(self.config.window_bytes_max) {
            let entries = self.entries_for(progress);
            let Some(last) = entries.last().map(|entry| entry.index) else {
                self.ask_storage(peer, progress);
                break;
            };
            let bytes = entries.iter().map(entry_bytes).sum();
            self.send_append(peer, progress, entries);
            progress.sent(last, bytes);
            sent = true;
        }
        if nudge && !sent {
            self.send_append(peer, progress, Vec::new());
        }
    }

    /// The next message's entries: what storage has read for the peer, else from the cache.
    fn entries_for(&self, progress: &mut Progress) -> Vec<Entry> {
        let bytes_max = self.config.append_bytes_max;
        let staged = progress.take_staged(bytes_max);
        if staged.is_empty() {
            self.log.slice(progress.next, bytes_max)
        } else {
            staged
        }
    }

    /// The peer needs entries that the cache has dropped.
    fn ask_storage(&mut self, peer: NodeId, progress: &mut Progress) {
        assert!(
            progress.next < self.log.cache_first(),
            "the cache has what it claims to lack"
        );
        if progress.reading {
            return;
        }
        progress.reading = true;
        self.events.push(Effect::ReadEntries {
            peer,
            from: progress.next,
            up_to: self.log.cache_first().prev(),
            bytes_max: self.config.append_bytes_max,
        });
    }

    fn send_append(&mut self, to: NodeId, progress: &mut Progress, entries: Vec<Entry>) {
        let prev_index = progress.next.prev();
        let Some(prev_term) = self.log.term(prev_index) else {
            unreachable!(
                "{} is next for {to}, but the log ends before it",
                progress.next
            );
        };
        let commit = self.log.commit();
        let verified: LogIndex = entries.last().map_or(prev_index, |entry| entry.index);
        if progress.mode == Mode::Replicate {
            progress.told_commit = progress.told_commit.max(commit.min(verified));
        }
        let term = self.hard_state.term;
        // Not held back for the leader's own disk: it writes at the same time (thesis, 10.2.1).
        self.send(
            to,
            Message::Append {
                term,
                prev_index,
                prev_term,
                commit,
                matched_by_all: self.matched_by_all,
                entries,
            },
        );
    }
}

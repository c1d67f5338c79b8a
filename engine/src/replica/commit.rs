//! What commits: entries of this leader, whose pages are in its WAL already, and entries of others
//! or of an earlier life, which are applied.

use ringlite_raft::{EntryKind, LogIndex};
use ringlite_vfs::PageSize;

use super::catalogue::{DatabaseId, DatabaseState};
use super::file::FileState;
use super::payload::{self, DatabaseChange, Section};
use super::{Effect, Replica};
use crate::error::Error;

impl Replica {
    /// The commit index has reached `up_to`.
    pub(super) fn commit(&mut self, up_to: LogIndex) {
        if self.serving {
            self.commit_own(up_to);
        } else {
            let waits = self.is_any_parked() || self.is_flushing() || self.snapshots.is_switching();
            while self.applied < up_to && !waits && self.apply_next() {}
            if self.leading && self.raft.status().serving && self.applied >= up_to {
                self.start_serving();
            }
        }
        self.raft.applied(self.applied);
        self.drive_members();
    }

    /// Commits entries that this node has proposed: their pages are in its WAL already.
    fn commit_own(&mut self, up_to: LogIndex) {
        let now = self.now;
        for (id, state) in self.catalogue.iter_mut() {
            if let Some(to) = state.commit(up_to, now) {
                let database = id;
                let shown = Effect::ShowCommitted { database, to };
                self.effects.push_back(shown);
            }
        }
        while let Some(run) = self.uncommitted.front()
            && run.last <= up_to
        {
            self.uncommitted_bytes -= run.bytes;
            self.uncommitted.pop_front();
        }
        // A run counts as applied as a whole: should leadership be lost in the middle of it, it is
        // rolled back, and applied from its first part on if the next leader commits the rest.
        self.applied = match self.uncommitted.front() {
            Some(run) if run.first <= up_to && !mutation!(HalfARunIsApplied) => run.first.prev(),
            _ => up_to,
        };
        while let Some((index, act)) = self.catalogue.next_committed(up_to) {
            self.perform_act(index, act);
        }
        for held in self.gate.committed(up_to) {
            self.release(held);
        }
        self.resume_all_writers();
    }

    fn apply_next(&mut self) -> bool {
        let index = self.applied.next();
        let Some(entry) = self.raft.entry(index) else {
            self.effects.push_back(Effect::Halt {
                reason: format!("entry {index} is committed but not at hand: this is a bug"),
            });
            return false;
        };
        let (kind, payload) = (entry.kind, entry.payload.clone());
        self.apply_entry(index, kind, &payload);
        self.applied = index;
        true
    }

    /// Applies a committed entry of another leader, or of an earlier life of this node.
    pub(super) fn apply_entry(&mut self, index: LogIndex, kind: EntryKind, payload: &[u8]) {
        if kind == EntryKind::Noop {
            // A new leader: a run that its predecessor left unfinished will never be finished.
            if !mutation!(UnfinishedRunSurvives) {
                self.parts.clear();
            }
            self.parts_first = None;
            self.discard_restores();
            return;
        }
        if kind == EntryKind::Configuration {
            // It counts since it was appended, and the core has read it.
            return;
        }
        let sections = match payload::decode(payload) {
            Ok(sections) => sections,
            Err(error) => {
                self.effects.push_back(Effect::Halt {
                    reason: format!("entry {index} cannot be applied: {error}"),
                });
                return;
            }
        };
        for section in sections {
            match section {
                Section::Act(act) => self.perform_act(index, act),
                Section::Pages(change) => self.add_part(change),
            }
        }
        if kind == EntryKind::Data || mutation!(PartsAppliedSingly) {
            self.parts_first = None;
            for change in std::mem::take(&mut self.parts) {
                // The file may have it from an earlier life.
                let state = self.catalogue.get(change.database);
                let is_in_file = |state: &DatabaseState| match mutation!(TargetTakenForApplied) {
                    true => state.file.target >= index,
                    false => state.file.applied >= index,
                };
                if state.is_some_and(|state| !is_in_file(state)) {
                    self.effects.push_back(Effect::Apply { index, change });
                }
            }
        } else {
            self.parts_first.get_or_insert(index);
        }
    }

    /// Joins a part of a large transaction to the parts before it.
    fn add_part(&mut self, change: DatabaseChange) {
        match self.parts.last_mut() {
            Some(last) if last.database == change.database => {
                last.page_count = change.page_count;
                last.pages.extend(change.pages);
            }
            _ => self.parts.push(change),
        }
    }

    pub(super) fn create_database(&mut self, id: DatabaseId, name: &str, page_size: PageSize) {
        if self
            .catalogue
            .insert(id, name, Some(id.0), FileState::new(id.0, id.0))
        {
            self.effects.push_back(Effect::CreateDatabase {
                id,
                name: name.to_owned(),
                page_size,
            });
        }
        self.resume_opening(name);
    }

    /// A database of this name is there now: who has waited for it goes on.
    pub(super) fn resume_opening(&mut self, name: &str) {
        for (request, options) in self.opening.remove(name).unwrap_or_default() {
            self.open(request, options, name.to_owned(), true);
        }
    }

    pub(super) fn answer_digests(&mut self) {
        let applied = self.applied;
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.digests)
            .into_iter()
            .partition(|digest| {
                digest.index_min <= applied && self.check_whole(&digest.database).is_ok()
            });
        self.digests = waiting;
        for digest in ready {
            let id = self.catalogue.find(&digest.database);
            let found = id.and_then(|id| Some((id, self.catalogue.get(id)?.committed?)));
            let effect = match found {
                Some((database, at)) => Effect::Digest {
                    request: digest.request,
                    database,
                    at,
                    applied,
                },
                _ => Effect::Reply {
                    request: digest.request,
                    reply: Err(Error::misuse(
                        rusqlite::ffi::SQLITE_NOTFOUND,
                        format!(
                            "there is no database named {:?} on this node",
                            digest.database
                        ),
                    )),
                },
            };
            self.effects.push_back(effect);
        }
    }
}

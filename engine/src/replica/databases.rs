//! The life of databases as a whole: created, dropped, restored from a file.
//!
//! Each of these is an act in the log ([`DatabaseAct`]) and takes effect when it is committed. The
//! leader ends the sessions of a database already when it proposes its end: what they would still
//! do would come after it in the log.
//!
//! A file that is restored arrives in pieces over many entries, beside all other work. Every node
//! gathers them where nothing sees them. The last entry makes the file a database; an abort, or
//! the no-op of a new leader, discards it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringlite_raft::{EntryKind, LogIndex, Role};
use ringlite_vfs::{CommitPoint, PageSize};
use rusqlite::ffi;

use super::catalogue::DatabaseId;
use super::file::FileState;
use super::gate::Held;
use super::payload::{DatabaseAct, RestoreId, encode_act};
use super::request::{Admin, Reply, RequestId, SessionId};
use super::{Effect, Replica};
use crate::database_file;
use crate::error::Error;

/// How many files may be restored at once.
const UPLOADS_MAX: usize = 4;
/// The longest piece of a restored file that is taken. Each waits for its commit before the next
/// one is sent, so that this is also what a restore has in flight.
pub const RESTORE_CHUNK_BYTES_MAX: usize = 1 << 20;

/// How a database ended, in words.
pub(super) const DROPPED: &str = "dropped";
const REPLACED: &str = "replaced by a restored file";

/// A file that arrives in committed entries, on every node.
#[derive(Debug)]
struct Arrival {
    file_bytes: u64,
    arrived_bytes: u64,
}

/// A file that a client of this leader sends.
#[derive(Debug)]
struct Upload {
    restore: RestoreId,
    name: String,
    /// Whether it may replace a database.
    replace: bool,
    file_bytes: u64,
    sent_bytes: u64,
    last_active_tick: u64,
}

/// All restores under way.
#[derive(Debug, Default)]
pub(super) struct Restores {
    arrivals: BTreeMap<RestoreId, Arrival>,
    /// On the leader, by the session that sends the file.
    uploads: BTreeMap<SessionId, Upload>,
}

impl Restores {
    /// Whether no client sends a file.
    pub(super) fn no_uploads(&self) -> bool {
        self.uploads.is_empty()
    }

    /// Leadership is lost: nobody sends here any more.
    pub(super) fn forget_uploads(&mut self) {
        self.uploads.clear();
    }

    fn oldest(&self) -> Option<LogIndex> {
        self.arrivals.keys().next().map(|restore| restore.0)
    }
}

/// A database at the commit index of this node.
#[derive(Clone, Debug)]
pub struct DatabaseStatus {
    /// Its id.
    pub id: DatabaseId,
    /// The name clients open it by.
    pub name: String,
    /// Its state.
    pub commit_point: CommitPoint,
}

impl Replica {
    /// The databases of this node at its applied index, by name. Not to be asked within a turn.
    pub fn databases(&self) -> Vec<DatabaseStatus> {
        let names = self.catalogue.names();
        names.filter_map(|name| self.database(name)).collect()
    }

    /// The database of this name at the applied index of this node, if there is one. Not to be
    /// asked within a turn.
    pub fn database(&self, name: &str) -> Option<DatabaseStatus> {
        self.database_of(self.catalogue.find(name)?)
    }

    /// The same for the database of this id.
    pub(crate) fn database_of(&self, id: DatabaseId) -> Option<DatabaseStatus> {
        let state = self.catalogue.get(id)?;
        self.is_whole(state).then_some(DatabaseStatus {
            id,
            name: state.name.clone(),
            commit_point: state.committed?,
        })
    }

    /// Whether there is a database of this id, whether it may be read yet or not.
    pub(crate) fn has_database(&self, id: DatabaseId) -> bool {
        self.catalogue.get(id).is_some()
    }

    /// The first entry of the oldest restore under way: what has arrived of its file is in the log
    /// only, which must not be cut from there on.
    pub fn oldest_restore(&self) -> Option<LogIndex> {
        self.restores.oldest()
    }

    pub(super) fn administer(&mut self, id: RequestId, request: Admin) {
        if self.raft.status().role != Role::Leader {
            // The core has stepped down in this turn; its effects will tell.
            self.refuse(id, self.not_leader());
            return;
        }
        let done = match request {
            Admin::Confirm => {
                let held = self.held(id, Ok(Reply::Done), false);
                self.unconfirmed.push((LogIndex::ZERO, held));
                return;
            }
            Admin::Create { name, page_size } => self.ask_creation(id, &name, page_size),
            Admin::Drop { name } => self.ask_drop(id, &name),
            Admin::BeginRestore {
                name,
                file_bytes,
                replace,
            } => self.begin_upload(id, name, file_bytes, replace),
            Admin::RestoreChunk(bytes) => self.take_chunk(id, bytes),
            Admin::FinishRestore => self.finish_upload(id),
        };
        if let Err(error) = done {
            self.answer_from_log(id, error);
        }
    }

    fn held(&mut self, request: RequestId, reply: Result<Reply, Error>, wrote: bool) -> Held {
        if let Some(session) = self.sessions.get_mut(&request.session) {
            session.held += 1;
        }
        Held {
            request,
            reply,
            wrote,
            confirms_transaction: None,
        }
    }

    /// Sends an error that follows from what the log holds now, committed or not.
    pub(super) fn answer_from_log(&mut self, id: RequestId, error: Error) {
        self.answer_confirmed(id, Err(error));
    }

    /// Sends an answer that follows from what the log holds now, committed or not.
    pub(super) fn answer_confirmed(&mut self, id: RequestId, reply: Result<Reply, Error>) {
        let held = self.held(id, reply, false);
        self.unconfirmed.push((self.raft.status().last, held));
    }

    /// Proposes an act; `None` if the core has stepped down in this turn.
    pub(super) fn propose_act(&mut self, act: DatabaseAct) -> Option<LogIndex> {
        let index = self.raft.propose(EntryKind::Data, encode_act(&act)).ok()?;
        self.catalogue.act_proposed(index, act);
        Some(index)
    }

    /// Proposes an act and answers when it is committed. With `wrote` the client is told that the
    /// outcome is unknown should leadership be lost before that.
    fn propose_and_answer(&mut self, id: RequestId, act: DatabaseAct, wrote: bool) {
        match self.propose_act(act) {
            Some(index) => {
                let held = self.held(id, Ok(Reply::Done), wrote);
                self.gate.until_committed(index, held);
            }
            None => self.refuse(id, self.not_leader()),
        }
    }

    fn ask_creation(
        &mut self,
        id: RequestId,
        name: &str,
        page_size: PageSize,
    ) -> Result<(), Error> {
        self.check_name(name)?;
        self.check_is_free(name)?;
        let name = name.to_owned();
        self.propose_and_answer(id, DatabaseAct::Create { name, page_size }, true);
        Ok(())
    }

    /// Whether there may be a database of this name here.
    pub(super) fn check_name(&self, name: &str) -> Result<(), Error> {
        ringlite_vfs::validate_database_name(name)
            .map_err(|error| Error::misuse(ffi::SQLITE_MISUSE, error.to_string()))?;
        let place = self.config.shard;
        if !place.owns(name) {
            return Err(Error::misuse(
                ffi::SQLITE_MISUSE,
                format!(
                    "the database {name:?} is not in {place}, which was asked for it: this is a bug"
                ),
            ));
        }
        Ok(())
    }

    fn check_is_free(&self, name: &str) -> Result<(), Error> {
        if self.catalogue.find_lasting(name).is_some() || self.catalogue.is_creating(name) {
            return Err(Error::misuse(
                ffi::SQLITE_CANTOPEN,
                format!("there is a database named {name:?} already"),
            ));
        }
        Ok(())
    }

    fn ask_drop(&mut self, id: RequestId, name: &str) -> Result<(), Error> {
        let database = self
            .catalogue
            .find_lasting(name)
            .ok_or_else(|| no_database(name))?;
        // What its sessions have committed comes before its end in the log.
        self.seal_batch();
        self.propose_and_answer(id, DatabaseAct::Drop { database }, true);
        self.end_sessions_of(database, name, DROPPED);
        Ok(())
    }

    fn begin_upload(
        &mut self,
        id: RequestId,
        name: String,
        file_bytes: u64,
        replace: bool,
    ) -> Result<(), Error> {
        self.check_name(&name)?;
        if !replace {
            self.check_is_free(&name)?;
        }
        if self.restores.uploads.contains_key(&id.session) {
            return Err(Error::misuse(
                ffi::SQLITE_MISUSE,
                "a restore is under way on this connection already",
            ));
        }
        if self.restores.uploads.len() >= UPLOADS_MAX {
            return Err(Error::Busy {
                what: "as many files as may be at once are being restored",
            });
        }
        let Some(index) = self.propose_act(DatabaseAct::BeginRestore { file_bytes }) else {
            self.refuse(id, self.not_leader());
            return Ok(());
        };
        self.restores.uploads.insert(
            id.session,
            Upload {
                restore: RestoreId(index),
                name,
                replace,
                file_bytes,
                sent_bytes: 0,
                last_active_tick: self.now,
            },
        );
        let held = self.held(id, Ok(Reply::Done), false);
        self.gate.until_committed(index, held);
        Ok(())
    }

    fn take_chunk(&mut self, id: RequestId, bytes: Bytes) -> Result<(), Error> {
        let upload = self
            .restores
            .uploads
            .get_mut(&id.session)
            .ok_or_else(no_restore)?;
        let (restore, offset) = (upload.restore, upload.sent_bytes);
        match checked_chunk(bytes, offset, upload.file_bytes) {
            Ok(bytes) => {
                upload.sent_bytes += bytes.len() as u64;
                upload.last_active_tick = self.now;
                let act = DatabaseAct::RestoreChunk {
                    restore,
                    offset,
                    bytes,
                };
                self.propose_and_answer(id, act, false);
                Ok(())
            }
            Err(reason) => {
                self.abort_upload(id.session);
                Err(refused_file(reason))
            }
        }
    }

    fn finish_upload(&mut self, id: RequestId) -> Result<(), Error> {
        let uploads = &mut self.restores.uploads;
        let upload = uploads.get(&id.session).ok_or_else(no_restore)?;
        let name = upload.name.clone();
        let replaces = self.catalogue.find_lasting(&name);
        let refused = if upload.sent_bytes != upload.file_bytes || upload.sent_bytes == 0 {
            Some(refused_file("its end is missing"))
        } else if self.catalogue.is_creating(&name) || (replaces.is_some() && !upload.replace) {
            // It has come into being since the restore began.
            self.check_is_free(&name).err()
        } else {
            None
        };
        if let Some(error) = refused {
            self.abort_upload(id.session);
            return Err(error);
        }
        let Some(Upload { restore, .. }) = self.restores.uploads.remove(&id.session) else {
            return Ok(());
        };
        self.seal_batch();
        let act = DatabaseAct::FinishRestore {
            restore,
            replaces,
            name: name.clone(),
        };
        self.propose_and_answer(id, act, true);
        if let Some(database) = replaces {
            self.end_sessions_of(database, &name, REPLACED);
        }
        Ok(())
    }

    /// Ends the restore of a session, if there is one.
    pub(super) fn abort_upload(&mut self, session: SessionId) {
        if let Some(Upload { restore, .. }) = self.restores.uploads.remove(&session) {
            // Without leadership the next leader's no-op does it.
            self.propose_act(DatabaseAct::AbortRestore { restore });
        }
    }

    /// Ends restores whose clients have said nothing for too long.
    pub(super) fn expire_uploads(&mut self) {
        let latest = self.now.saturating_sub(self.config.restore_idle_ticks);
        let uploads = self.restores.uploads.iter();
        let idle: Vec<_> = uploads
            .filter(|(_, upload)| upload.last_active_tick < latest)
            .map(|(session, _)| *session)
            .collect();
        for session in idle {
            self.abort_upload(session);
            let error = Error::misuse(
                ffi::SQLITE_ABORT,
                "the restore idled too long and was discarded; begin it again",
            );
            self.last_words.insert(session, error);
        }
    }

    /// An act is committed: it takes effect.
    pub(super) fn perform_act(&mut self, index: LogIndex, act: DatabaseAct) {
        match act {
            DatabaseAct::Create { name, page_size } => {
                self.create_database(DatabaseId(index), &name, page_size);
            }
            DatabaseAct::Drop { database } => self.remove_database(database, DROPPED),
            DatabaseAct::BeginRestore { file_bytes } => {
                let arrival = Arrival {
                    file_bytes,
                    arrived_bytes: 0,
                };
                let restore = RestoreId(index);
                self.restores.arrivals.insert(restore, arrival);
                self.effects.push_back(Effect::BeginRestore { restore });
            }
            DatabaseAct::RestoreChunk {
                restore,
                offset,
                bytes,
            } => self.chunk_arrived(restore, offset, bytes),
            DatabaseAct::FinishRestore {
                restore,
                replaces,
                name,
            } => self.file_arrived(DatabaseId(index), restore, replaces, &name),
            DatabaseAct::AbortRestore { restore } => {
                if self.restores.arrivals.remove(&restore).is_some() {
                    self.effects.push_back(Effect::DiscardRestore { restore });
                }
            }
        }
    }

    fn chunk_arrived(&mut self, restore: RestoreId, offset: u64, bytes: Bytes) {
        let Some(arrival) = self.restores.arrivals.get_mut(&restore) else {
            return;
        };
        if offset != arrival.arrived_bytes {
            let reason = format!(
                "of the file of restore {} the bytes from {} are due, and those from {offset} came: \
                 this is a bug",
                restore.0, arrival.arrived_bytes
            );
            self.effects.push_back(Effect::Halt { reason });
            return;
        }
        arrival.arrived_bytes += bytes.len() as u64;
        self.effects
            .push_back(Effect::WriteRestore { restore, bytes });
    }

    fn file_arrived(
        &mut self,
        id: DatabaseId,
        restore: RestoreId,
        replaces: Option<DatabaseId>,
        name: &str,
    ) {
        let Some(arrival) = self.restores.arrivals.remove(&restore) else {
            return;
        };
        if self.catalogue.find(name).is_some_and(|found| found >= id) {
            // An earlier life has done it, and the file has gone on since, or the name.
            self.effects.push_back(Effect::DiscardRestore { restore });
            return;
        }
        if let Some(database) = replaces {
            self.remove_database(database, REPLACED);
        }
        if arrival.arrived_bytes != arrival.file_bytes
            || !self
                .catalogue
                .insert(id, name, Some(restore.0), FileState::new(id.0, id.0))
        {
            // The leader has looked before it proposed this.
            let reason = format!(
                "the file of restore {} has no place: this is a bug",
                restore.0
            );
            self.effects.push_back(Effect::Halt { reason });
            return;
        }
        self.effects.push_back(Effect::FinishRestore {
            restore,
            id,
            name: name.to_owned(),
        });
        self.resume_opening(name);
    }

    /// A new leader has begun: nobody will finish what its predecessor has begun.
    pub(super) fn discard_restores(&mut self) {
        for (restore, _) in std::mem::take(&mut self.restores.arrivals) {
            self.effects.push_back(Effect::DiscardRestore { restore });
        }
    }

    fn remove_database(&mut self, database: DatabaseId, how: &'static str) {
        // Two leaders may have been asked to end it.
        if let Some(name) = self.catalogue.remove(database) {
            self.end_sessions_of(database, &name, how);
            self.effects.push_back(Effect::RemoveDatabase { database });
        }
    }

    /// Ends every session on a database whose end is in the log. That is the next thing that each
    /// is told, though not before it is committed.
    fn end_sessions_of(&mut self, database: DatabaseId, name: &str, how: &'static str) {
        let error = Error::DatabaseGone {
            name: name.to_owned(),
            how,
        };
        let parked = self.queues.remove(database).into_iter();
        let mut unanswered: Vec<_> = parked.map(|parked| (parked.request, None)).collect();
        // A commit that was not captured by now will be in no entry.
        for ahead in self.take_ahead_in(database) {
            unanswered.push((
                ahead.request(),
                ahead.wrote().then_some(Error::OutcomeUnknown),
            ));
        }
        let mut ended = Vec::new();
        let mut ending = Vec::new();
        let sessions = self.sessions.iter_mut();
        for (id, session) in sessions.filter(|(_, at)| at.databases.contains(&database)) {
            unanswered.extend(
                session
                    .waiting
                    .drain(..)
                    .map(|(request, _)| (request, None)),
            );
            let earlier = [session.aborted.take(), session.last_word.take()];
            let in_doubt = earlier.contains(&Some(Error::OutcomeUnknown));
            session.last_word = Some(match in_doubt {
                true => Error::OutcomeUnknown,
                false => error.clone(),
            });
            if session.databases.len() > 1 {
                // It may hold the write locks of its other databases until its run has ended.
                ending.push(*id);
                continue;
            }
            if let Some(long_run) = session.long_run.take() {
                let in_doubt = (!long_run.wrote.is_empty()).then_some(Error::OutcomeUnknown);
                unanswered.push((long_run.request, in_doubt));
            }
            ended.push(*id);
        }
        for (request, in_doubt) in unanswered {
            let error = in_doubt.unwrap_or_else(|| error.clone());
            self.answer_ended(request, error);
        }
        for id in ended {
            self.end_session(id);
        }
        for id in ending {
            self.wind_up_session(id);
        }
    }
}

/// A piece of a file as it goes into the log, or why the file cannot be taken.
fn checked_chunk(bytes: Bytes, offset: u64, file_bytes: u64) -> Result<Bytes, &'static str> {
    if bytes.is_empty() || bytes.len() > RESTORE_CHUNK_BYTES_MAX {
        return Err("it does not come in pieces of 1 byte to 1 MiB");
    }
    if bytes.len() as u64 > file_bytes - offset {
        return Err("it is longer than was said when the restore began");
    }
    if offset > 0 {
        return Ok(bytes);
    }
    database_file::check_header(&bytes, file_bytes)?;
    let mut bytes = Vec::from(bytes);
    database_file::set_wal_mode(&mut bytes);
    Ok(bytes.into())
}

pub(super) fn no_database(name: &str) -> Error {
    Error::misuse(
        ffi::SQLITE_NOTFOUND,
        format!("there is no database named {name:?}"),
    )
}

fn no_restore() -> Error {
    Error::misuse(
        ffi::SQLITE_MISUSE,
        "no restore is under way on this connection; begin it again",
    )
}

fn refused_file(reason: &str) -> Error {
    Error::misuse(
        ffi::SQLITE_NOTADB,
        format!("the file cannot be restored: {reason}"),
    )
}

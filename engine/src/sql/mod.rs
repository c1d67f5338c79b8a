//! SQL on this node: the open databases, and the sessions' connections to them.
//!
//! SQLite is reached only through here and the VFS. Everything runs on the shard's core, one
//! statement at a time.

mod authorizer;
mod functions;
mod limits;
mod pragmas;
mod session;
mod statement;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringlite_raft::LogIndex;
use ringlite_vfs::{CommitPoint, Database, PageSize, Vfs, VfsError, VfsOptions};
use xxhash_rust::xxh3::Xxh3;

use crate::error::Error;
use crate::replica::DatabaseId;
use crate::replica::payload::DatabaseChange;
use crate::replica::request::{Digest, Outcome, Ran, Reply, RequestId, SessionId, Standing, Work};
use session::Session;

/// The databases of a shard and the sessions on them.
pub struct Sql {
    vfs: Vfs,
    directory: PathBuf,
    databases: HashMap<DatabaseId, Database>,
    sessions: HashMap<SessionId, Session>,
    writable: bool,
    vacuum_directory: Option<Arc<Path>>,
}

impl Sql {
    /// Keeps database files in `directory` and spilled temporary files in `temporary_directory`.
    pub fn new(directory: PathBuf, temporary_directory: PathBuf) -> Result<Self, VfsError> {
        limits::bound_heap();
        let vfs = Vfs::register(VfsOptions::new(directory.clone(), temporary_directory))?;
        Ok(Self {
            vfs,
            directory,
            databases: HashMap::new(),
            sessions: HashMap::new(),
            writable: false,
            vacuum_directory: None,
        })
    }

    /// Lets `VACUUM INTO` write files into `directory`, an absolute path.
    pub fn allow_vacuum_into(&mut self, directory: PathBuf) {
        self.vacuum_directory = Some(directory.into());
    }

    /// Runs SQL for a session.
    pub fn run(&mut self, request: RequestId, work: Work, may_write: bool) -> Ran {
        if let Work::Connect { database, options } = work {
            let connected = match self.databases.get(&database) {
                Some(database) => {
                    Session::connect(database, options, self.vacuum_directory.clone())
                }
                None => Err(Error::misuse(
                    rusqlite::ffi::SQLITE_NOTFOUND,
                    "the database does not exist any more",
                )),
            };
            let outcome = match connected {
                Ok(session) => {
                    self.sessions.insert(request.session, session);
                    Outcome::Reply(Reply::Opened)
                }
                Err(error) => Outcome::Failed(error),
            };
            return Ran {
                request,
                outcome,
                standing: Standing::default(),
                capture: None,
            };
        }
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return Ran {
                request,
                outcome: Outcome::Failed(Error::NoDatabaseOpened),
                standing: Standing::default(),
                capture: None,
            };
        };
        let outcome = session.run(work, may_write);
        Ran {
            request,
            outcome,
            standing: session.standing(),
            capture: session.database.take_capture(),
        }
    }

    /// Drops a session's connection, which rolls its transaction back.
    pub fn close_session(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Whether SQL may write in any database.
    pub fn set_writable(&mut self, writable: bool) {
        self.writable = writable;
        for database in self.databases.values() {
            database.set_writable(writable);
        }
    }

    /// Creates a database's file, unless it is there from an earlier life, and opens it.
    pub fn create_database(
        &mut self,
        id: DatabaseId,
        name: &str,
        page_size: PageSize,
    ) -> Result<CommitPoint, VfsError> {
        let page_one = ringlite_vfs::first_page(page_size);
        ringlite_vfs::create_database_file(&self.directory, name, &page_one)?;
        let database = self.vfs.open(name)?;
        database.set_writable(self.writable);
        let commit_point = database.commit_point();
        self.databases.insert(id, database);
        Ok(commit_point)
    }

    /// Applies committed pages; `None` if the database does not exist (any more).
    pub fn apply(&self, change: &DatabaseChange) -> Result<Option<CommitPoint>, VfsError> {
        self.databases
            .get(&change.database)
            .map(|database| database.apply(&change.pages, change.page_count))
            .transpose()
    }

    /// Undoes what came after `to`.
    pub fn roll_back(&self, id: DatabaseId, to: &CommitPoint) -> Result<(), VfsError> {
        match self.databases.get(&id) {
            Some(database) => database.roll_back(to),
            None => Ok(()),
        }
    }

    /// How often SQLite asked for recovery of an in-memory WAL; more than 0 is a defect.
    pub fn recovery_requests(&self) -> u64 {
        let databases = self.databases.values();
        databases.map(Database::recovery_requests).sum()
    }

    /// Hashes the pages of a database as of `at`.
    pub fn digest(
        &self,
        id: DatabaseId,
        at: &CommitPoint,
        applied: LogIndex,
    ) -> Result<Digest, Error> {
        let database = self.databases.get(&id).ok_or_else(|| {
            Error::misuse(
                rusqlite::ffi::SQLITE_NOTFOUND,
                "the database does not exist any more",
            )
        })?;
        let mut hash = Xxh3::new();
        let mut page_count = 0;
        database
            .read_pages_at(at, &mut |_, page| {
                page_count += 1;
                hash.update(page);
            })
            .map_err(|error| Error::misuse(rusqlite::ffi::SQLITE_IOERR, error.to_string()))?;
        Ok(Digest {
            applied,
            page_count,
            page_size: database.page_size().bytes(),
            digest: format!("{:032x}", hash.digest128()),
        })
    }
}

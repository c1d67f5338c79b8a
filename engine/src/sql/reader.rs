//! A connection that only reads, for any thread.

use std::sync::Arc;

use ringlite_vfs::{Database, WalPosition};

use super::RunLimits;
use super::session::Session;
use super::watch::Stopper;
use crate::error::Error;
use crate::replica::DatabaseId;
use crate::replica::request::{Outcome, Reply, RowLimit, Source, StopReason, Work};
use crate::rows::{RowBatch, Value};

/// A read-only connection.
pub(crate) struct Reader {
    session: Box<Session>,
    /// The life of the in-memory WAL that it was opened in: it reads no other one.
    generation: u64,
}

// SAFETY: all shares of the session's `Rc`s are inside the session, and SQLite does not tie a
// connection without mutexes to a thread (see `Paused`).
unsafe impl Send for Reader {}

/// What a read has given.
pub(crate) struct Read {
    /// Its rows, or what SQLite says is wrong with it.
    pub(crate) answer: Result<RowBatch, Error>,
    /// The snapshot that it saw; none if it has read nothing of the database.
    pub(crate) snapshot: Option<WalPosition>,
}

/// Why a read has given nothing.
pub(crate) enum ReadFailure {
    /// It is not a read.
    Writes,
    /// The connection is of no more use, for instance because of a roll-back.
    Connection(Error),
}

/// Ends what a reader is at, from another thread.
pub(crate) struct ReadStopper(Arc<Stopper>);

impl ReadStopper {
    /// The snapshot is needed no longer: the read gets "snapshot too old".
    pub(crate) fn end_snapshot(&self) {
        self.0.stop(StopReason::SnapshotTooOld);
    }
}

impl Reader {
    pub(crate) fn stopper(&self) -> ReadStopper {
        ReadStopper(Arc::clone(self.session.stopper()))
    }

    pub(crate) fn connect(id: DatabaseId, database: &Database) -> Result<Self, Error> {
        // Before the connection, which may be of the next one.
        let generation = database.commit_point().position.generation;
        let session = Session::connect_reader(id, database)?;
        Ok(Self {
            session: Box::new(session),
            generation,
        })
    }

    /// Whether it can still read.
    pub(crate) fn is_current(&self) -> bool {
        let database = &self.session.database;
        database.commit_point().position.generation == self.generation
    }

    /// Runs one statement that gives rows, at most `bytes_max` of them.
    pub(crate) fn query(
        &mut self,
        sql: &str,
        parameters: &[Value],
        bytes_max: usize,
        limits: &RunLimits,
    ) -> Result<Read, ReadFailure> {
        self.session.stopper().watch.begin(limits, false, false);
        let outcome = self.session.run(Work::Query {
            source: Source::text(sql, parameters.to_vec()),
            limit: RowLimit::Whole { bytes_max },
        });
        let standing = self.session.standing();
        // It has one database.
        let snapshot = standing.snapshots.iter().next().map(|(_, at)| at);
        match outcome {
            Outcome::NeedsWriteLock(_) => Err(ReadFailure::Writes),
            Outcome::Failed(error) if error.code() & 0xff == rusqlite::ffi::SQLITE_IOERR => {
                Err(ReadFailure::Connection(error))
            }
            Outcome::Failed(error) => Ok(Read {
                answer: Err(error),
                snapshot,
            }),
            // Such a statement changes the connection, if anything.
            Outcome::Reply(Reply::Rows(rows))
                if rows.columns.is_empty() || standing.in_transaction =>
            {
                Err(ReadFailure::Connection(Error::misuse(
                    rusqlite::ffi::SQLITE_MISUSE,
                    "a read at this level is one statement that gives rows",
                )))
            }
            Outcome::Reply(Reply::Rows(rows)) => Ok(Read {
                answer: Ok(rows),
                snapshot,
            }),
            Outcome::Reply(other) => unreachable!("a query gives rows, and not {other:?}"),
        }
    }
}

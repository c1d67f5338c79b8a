//! A connection that only reads, for any thread.

use std::sync::Arc;

use ringlite_vfs::Database;

use super::RunLimits;
use super::session::Session;
use super::watch::Stopper;
use crate::error::Error;
use crate::replica::DatabaseId;
use crate::replica::request::{Outcome, Reply, RowLimit, Source, StopReason, Work};
use crate::rows::{RowBatch, Value};

/// A read-only connection, which sees what is committed.
pub(crate) struct Reader {
    session: Box<Session>,
}

// SAFETY: all shares of the session's `Rc`s are inside the session, and SQLite does not tie a
// connection without mutexes to a thread (see `Paused`).
unsafe impl Send for Reader {}

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
        let session = Box::new(Session::connect_reader(id, database)?);
        Ok(Self { session })
    }

    /// Whether a roll-back, or the end of the database, has made it useless.
    pub(crate) fn is_ended(&self) -> bool {
        self.session.is_ended()
    }

    /// Runs one statement that gives rows, at most `bytes_max` of them. The answer are they, or what
    /// SQLite says is wrong with it.
    pub(crate) fn query(
        &mut self,
        sql: &str,
        parameters: &[Value],
        bytes_max: usize,
        limits: &RunLimits,
    ) -> Result<Result<RowBatch, Error>, ReadFailure> {
        self.session.stopper().watch.begin(limits, false, false);
        let outcome = self.session.run(Work::Query {
            source: Source::text(sql, parameters.to_vec()),
            limit: RowLimit::Whole { bytes_max },
        });
        match outcome {
            Outcome::NeedsWriteLock(_) => Err(ReadFailure::Writes),
            Outcome::Failed(error) if error.code() & 0xff == rusqlite::ffi::SQLITE_IOERR => {
                Err(ReadFailure::Connection(error))
            }
            Outcome::Failed(error) => Ok(Err(error)),
            // Such a statement changes the connection, if anything.
            Outcome::Reply(Reply::Rows(rows))
                if rows.columns.is_empty() || self.session.standing().in_transaction =>
            {
                Err(ReadFailure::Connection(Error::misuse(
                    rusqlite::ffi::SQLITE_MISUSE,
                    "a read at this level is one statement that gives rows",
                )))
            }
            Outcome::Reply(Reply::Rows(rows)) => Ok(Ok(rows)),
            Outcome::Reply(other) => unreachable!("a query gives rows, and not {other:?}"),
        }
    }
}

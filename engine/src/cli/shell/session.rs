//! Statements on a connection that follows the leader.

use std::{
    io::{self, Write},
    ops::ControlFlow,
};

use super::transaction::{StatementKind, Transaction};
use crate::{
    cli::output::{Format, ResultPrinter},
    client::{Client, ClientError},
};

/// How often a statement that surely did not run is sent to the next leader.
const ATTEMPTS_MAX: usize = 4;

/// Why a statement has not done what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The statement failed. It has changed nothing.
    #[error(transparent)]
    Failed(ClientError),
    /// The transaction that it was in is gone.
    #[error("the transaction was rolled back, start it again ({0})")]
    RolledBack(#[source] ClientError),
    /// The statement may have been committed, or not.
    #[error(
        "the connection was lost while the statement ran: its outcome is unknown, \
         look before running it again ({0})"
    )]
    OutcomeUnknown(#[source] ClientError),
    /// Rows had been printed when the connection was lost.
    #[error("the connection was lost within the result: it is incomplete ({0})")]
    Incomplete(#[source] ClientError),
    /// The result cannot be printed.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
}

/// What a statement has printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Printed {
    /// Whether it has columns.
    pub(super) has_columns: bool,
    /// How many rows there were.
    pub(super) row_count: u64,
}

/// A client, its transaction, and how it prints.
pub(super) struct Session {
    client: Client,
    transaction: Transaction,
    /// How results are printed.
    pub(super) format: Format,
}

impl Session {
    pub(super) fn new(client: Client, format: Format) -> Self {
        Self {
            client,
            transaction: Transaction::default(),
            format,
        }
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.transaction.is_open()
    }

    pub(super) fn address(&self) -> &str {
        self.client.address()
    }

    /// Runs a statement and prints its rows. If the leader has changed it goes to the next one,
    /// unless the statement may have run already or is part of a transaction.
    pub(super) fn run(
        &mut self,
        sql: &str,
        out: &mut impl Write,
    ) -> Result<Printed, StatementError> {
        self.connect()?;
        let mut attempts_left = ATTEMPTS_MAX;
        loop {
            attempts_left -= 1;
            let mut printer = ResultPrinter::new(&mut *out, self.format);
            let error = match self.query(sql, &mut printer) {
                Ok(()) => {
                    self.transaction.after_success(sql);
                    let has_columns = printer.has_started();
                    return Ok(Printed {
                        has_columns,
                        row_count: printer.row_count(),
                    });
                }
                Err(StatementError::Failed(error)) => error,
                Err(other) => return Err(other),
            };
            let has_printed = printer.has_started();
            self.judge(sql, error, has_printed, attempts_left > 0)?;
        }
    }

    /// Asks something that changes nothing, again if the connection was lost.
    pub(super) fn ask<T>(
        &mut self,
        question: impl Fn(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, StatementError> {
        self.connect()?;
        match question(&mut self.client) {
            Err(error) if error.is_connection_lost() => {
                let was_open = self.transaction.is_open();
                self.transaction.close();
                if was_open {
                    return Err(StatementError::RolledBack(error));
                }
                self.client.reconnect().map_err(StatementError::Failed)?;
                question(&mut self.client).map_err(StatementError::Failed)
            }
            other => other.map_err(StatementError::Failed),
        }
    }

    /// Notices that the server has closed the connection before a statement is put in doubt by it.
    fn connect(&mut self) -> Result<(), StatementError> {
        if self.client.is_connected() {
            return Ok(());
        }
        let was_open = self.transaction.is_open();
        self.transaction.close();
        let address = self.client.address().to_owned();
        self.client.reconnect().map_err(StatementError::Failed)?;
        if was_open {
            return Err(StatementError::RolledBack(ClientError::NotConnected {
                address,
            }));
        }
        Ok(())
    }

    fn query<W: Write>(
        &mut self,
        sql: &str,
        printer: &mut ResultPrinter<W>,
    ) -> Result<(), StatementError> {
        let mut printed = Ok(());
        let queried = self.client.query_each(sql, &[], |batch| {
            printed = printer.print(&batch);
            if printed.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        printed.map_err(StatementError::Output)?;
        queried.map_err(StatementError::Failed)
    }

    /// Decides what an error means: Ok if the statement is to be run again, on a new connection.
    ///
    /// | error | in a transaction | alone |
    /// |---|---|---|
    /// | of SQLite | it failed | it failed |
    /// | not leader | rolled back | run again |
    /// | connection lost, outcome unknown | rolled back; unknown for a COMMIT | read: run again; else unknown |
    ///
    /// Nothing is run again once rows were printed.
    fn judge(
        &mut self,
        sql: &str,
        error: ClientError,
        has_printed: bool,
        may_repeat: bool,
    ) -> Result<(), StatementError> {
        let not_leader = error.is_not_leader();
        if !(not_leader || error.is_outcome_unknown() || error.is_connection_lost()) {
            if let ClientError::Failure { message, .. } = &error {
                self.transaction.after_failure(message);
            }
            return Err(StatementError::Failed(error));
        }
        let was_open = self.transaction.is_open();
        self.transaction.close();
        let reconnected = self.client.reconnect();
        let kind = StatementKind::of(sql);
        let did_nothing = not_leader || kind == StatementKind::Read;
        match (was_open, did_nothing) {
            (true, false) if kind == StatementKind::Commit => {
                Err(StatementError::OutcomeUnknown(error))
            }
            (true, _) => Err(StatementError::RolledBack(error)),
            (false, false) => Err(StatementError::OutcomeUnknown(error)),
            (false, true) if has_printed => Err(StatementError::Incomplete(error)),
            (false, true) if may_repeat => reconnected.map_err(StatementError::Failed),
            (false, true) => Err(StatementError::Failed(error)),
        }
    }
}

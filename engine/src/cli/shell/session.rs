//! Statements on a connection that follows the leader.

use std::{
    io::{self, Write},
    ops::ControlFlow,
};

use super::transaction::{StatementKind, Transaction};
use crate::{
    cli::output::{Format, ResultPrinter},
    client::{Client, ClientError},
    readers::ReadLevel,
};

/// How often a statement that surely did not run is sent to the next leader.
const ATTEMPTS_MAX: usize = 4;

/// Why a statement has not done what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatementError {
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
    /// How many files of `.read` are being read, each from within the one before.
    pub(super) files_open: usize,
    /// At a level below `linearizable`: the level and the database.
    reads: Option<(ReadLevel, String)>,
}

impl Session {
    pub(super) fn new(client: Client, format: Format) -> Self {
        Self {
            client,
            transaction: Transaction::default(),
            format,
            files_open: 0,
            reads: None,
        }
    }

    /// A session that only reads, at a level below `linearizable`.
    pub(super) fn reading(
        client: Client,
        format: Format,
        level: ReadLevel,
        database: &str,
    ) -> Self {
        Self {
            reads: Some((level, database.to_owned())),
            ..Self::new(client, format)
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
            if matches!(self.reads, Some((ReadLevel::Local { .. }, _))) {
                // It is about this node, and no other one is asked.
                return Err(StatementError::Failed(error));
            }
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

    /// Asks something that is part of a transaction: if the connection is lost, so is that.
    pub(super) fn ask_once<T>(
        &mut self,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, StatementError> {
        question(&mut self.client).map_err(|error| {
            if error.is_connection_lost() {
                self.transaction.close();
                StatementError::RolledBack(error)
            } else {
                StatementError::Failed(error)
            }
        })
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
        if let Some((level, database)) = &self.reads {
            let read = self.client.query_at(*level, database, sql);
            let batch = read.map_err(StatementError::Failed)?;
            return printer.print(&batch).map_err(StatementError::Output);
        }
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
    /// | lost, or outcome unknown | rolled back; a COMMIT: unknown | unknown; a read: run again |
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

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
        sync::{Arc, Mutex},
        thread,
    };

    use super::*;
    use crate::{
        client::ClientOptions,
        rows::{Column, ColumnKind, RowBatch, Value},
        wire::{FrameHeader, Request, Response},
    };

    /// What the server does with the next statement.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        Rows,
        FirstBatch,
        NotLeader,
        LeadershipLost,
        Fails,
        Closes,
    }

    /// What the server has seen and is going to do.
    #[derive(Default)]
    struct Server {
        steps: Mutex<Vec<Step>>,
        statements: Mutex<Vec<String>>,
    }

    impl Server {
        fn respond(&self, request: &Request, address: &str) -> Vec<Response> {
            let failure = |code, message: &str| {
                vec![Response::Failure {
                    code,
                    message: message.into(),
                }]
            };
            match request {
                Request::Leader => vec![Response::Server {
                    id: 1,
                    address: address.into(),
                }],
                Request::Client { .. } => vec![Response::Welcome {
                    heartbeat_timeout_ms: 1,
                }],
                Request::Open { .. } => vec![Response::Database { id: 0 }],
                Request::QuerySql { sql, .. } => {
                    self.statements.lock().unwrap().push(sql.clone());
                    match self.steps.lock().unwrap().remove(0) {
                        Step::Rows => vec![rows(true)],
                        Step::FirstBatch => vec![rows(false)],
                        Step::NotLeader => failure(10_250, "not leader"),
                        Step::LeadershipLost => failure(10_506, "leadership lost"),
                        Step::Fails => failure(1, "no such table: t"),
                        Step::Closes => vec![],
                    }
                }
                _ => vec![],
            }
        }

        fn serve(&self, mut stream: TcpStream, address: &str) {
            let mut word = [0; 8];
            let mut closes = stream.read_exact(&mut word).is_err();
            while !closes && stream.read_exact(&mut word).is_ok() {
                let header = FrameHeader::parse(word);
                let mut body = vec![0; header.body_bytes(1 << 20).unwrap()];
                stream.read_exact(&mut body).unwrap();
                let request = Request::decode(header.kind, header.schema, &body).unwrap();
                let responses = self.respond(&request, address);
                // A first batch is followed by nothing but the end.
                closes = matches!(
                    responses.as_slice(),
                    [] | [Response::Rows(RowBatch {
                        complete: false,
                        ..
                    })]
                );
                let mut out = Vec::new();
                for response in responses {
                    response.encode(&mut out).unwrap();
                }
                stream.write_all(&out).unwrap();
            }
        }
    }

    fn rows(complete: bool) -> Response {
        let columns = [Column {
            name: "a".into(),
            kind: ColumnKind::Plain,
        }]
        .into_iter()
        .collect();
        Response::Rows(RowBatch {
            columns,
            rows: vec![vec![Value::Integer(1)]],
            complete,
        })
    }

    /// Runs `statements` one after the other; the last one's result, and all that the server saw.
    fn run(steps: &[Step], statements: &[&str]) -> (Result<Printed, StatementError>, Vec<String>) {
        let server = Arc::new(Server::default());
        server.steps.lock().unwrap().extend(steps);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (acceptor, own_address) = (Arc::clone(&server), address.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, address) = (Arc::clone(&acceptor), own_address.clone());
                thread::spawn(move || server.serve(stream.unwrap(), &address));
            }
        });
        let mut client = Client::connect(&[address], ClientOptions::default()).unwrap();
        client.open("main.db").unwrap();
        let mut session = Session::new(client, Format::Csv);
        let mut result = None;
        for statement in statements {
            result = Some(session.run(statement, &mut Vec::new()));
        }
        assert!(
            server.steps.lock().unwrap().is_empty(),
            "all steps were used"
        );
        let seen = server.statements.lock().unwrap().clone();
        (result.unwrap(), seen)
    }

    const INSERT: &str = "INSERT INTO t VALUES (1)";
    const SELECT: &str = "SELECT a FROM t";

    #[test]
    fn what_surely_did_not_run_goes_to_the_next_leader() {
        let (result, seen) = run(&[Step::NotLeader, Step::NotLeader, Step::Rows], &[INSERT]);
        assert_eq!(
            result.unwrap(),
            Printed {
                has_columns: true,
                row_count: 1
            }
        );
        assert_eq!(seen, [INSERT; 3]);
        let (result, seen) = run(&[Step::NotLeader; ATTEMPTS_MAX], &[INSERT]);
        assert!(matches!(result, Err(StatementError::Failed(_))));
        assert_eq!(seen.len(), ATTEMPTS_MAX);
    }

    #[test]
    fn a_read_is_run_again_and_a_write_is_in_doubt() {
        for step in [Step::Closes, Step::LeadershipLost] {
            let (result, seen) = run(&[step, Step::Rows], &[SELECT]);
            assert!(result.is_ok());
            assert_eq!(seen, [SELECT; 2]);
            let (result, seen) = run(&[step], &[INSERT]);
            assert!(
                matches!(result, Err(StatementError::OutcomeUnknown(_))),
                "{result:?}"
            );
            assert_eq!(seen, [INSERT]);
        }
    }

    #[test]
    fn rows_are_not_printed_twice() {
        let (result, _) = run(&[Step::FirstBatch], &[SELECT]);
        assert!(
            matches!(result, Err(StatementError::Incomplete(_))),
            "{result:?}"
        );
    }

    #[test]
    fn a_transaction_is_rolled_back_and_only_its_commit_is_in_doubt() {
        for step in [Step::NotLeader, Step::Closes] {
            for statement in [INSERT, SELECT] {
                let (result, _) = run(&[Step::Rows, step], &["BEGIN", statement]);
                assert!(
                    matches!(result, Err(StatementError::RolledBack(_))),
                    "{result:?}"
                );
            }
        }
        let (result, _) = run(&[Step::Rows, Step::NotLeader], &["BEGIN", "COMMIT"]);
        assert!(
            matches!(result, Err(StatementError::RolledBack(_))),
            "{result:?}"
        );
        for step in [Step::LeadershipLost, Step::Closes] {
            let (result, _) = run(&[Step::Rows, step], &["BEGIN", "COMMIT"]);
            assert!(
                matches!(result, Err(StatementError::OutcomeUnknown(_))),
                "{result:?}"
            );
        }
        let steps = [Step::Rows, Step::Closes, Step::Rows];
        let (result, seen) = run(&steps, &["BEGIN", INSERT, INSERT]);
        assert!(
            result.is_ok(),
            "the next statement is on its own: {result:?}"
        );
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn an_error_of_sqlite_is_final_and_leaves_the_transaction_open() {
        let (result, seen) = run(&[Step::Fails], &[SELECT]);
        assert!(matches!(result, Err(StatementError::Failed(_))));
        assert_eq!(seen, [SELECT]);
        let steps = [Step::Rows, Step::Fails, Step::Closes];
        let (result, _) = run(&steps, &["BEGIN", INSERT, INSERT]);
        assert!(
            matches!(result, Err(StatementError::RolledBack(_))),
            "{result:?}"
        );
    }
}

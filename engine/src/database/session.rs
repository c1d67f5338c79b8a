//! The session behind a handle: on the node of this process, or on the leader while that is another one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::InterruptHandle;
use crate::commands::{Command, Commands};
use crate::error::{Error, Result};
use crate::forward::{Forwarded, Forwarder, IfLost, Interrupter};
use crate::readers::Readers;
use crate::replica::request::{Reply, Request, SessionId, SessionOptions, Source, Work};

/// A session on the node of this process, or on the leader while that is another one.
pub(super) struct Session {
    pub(super) commands: Commands,
    id: SessionId,
    pub(super) database: String,
    readers: Arc<Readers>,
    /// Whether it is on the leader.
    pub(super) is_forwarded: AtomicBool,
    /// The way there, once it was needed.
    forwarder: OnceLock<Forwarder>,
    interrupter: Arc<Interrupter>,
    /// Whether a transaction may be open in it. What belongs to one must not be run elsewhere, where it
    /// would be committed by itself.
    pub(super) may_have_transaction: AtomicBool,
}

/// Where the answer to a request comes from.
enum Receiver {
    Here(flume::Receiver<Result<Reply>>),
    Leader(flume::Receiver<Forwarded>),
}

/// An answer, and who has given it.
pub(super) enum Answer {
    Here(Result<Reply>),
    Leader(Forwarded),
}

impl Session {
    pub(super) fn new(
        commands: Commands,
        id: SessionId,
        database: &str,
        readers: Arc<Readers>,
    ) -> Self {
        Self {
            commands,
            id,
            database: database.to_owned(),
            readers,
            is_forwarded: AtomicBool::new(false),
            forwarder: OnceLock::new(),
            interrupter: Arc::default(),
            may_have_transaction: AtomicBool::new(false),
        }
    }

    fn ask(&self, request: Request, if_lost: impl FnOnce() -> IfLost) -> Result<Receiver> {
        if self.is_forwarded.load(Ordering::Relaxed) {
            let is_pinned = self.may_have_transaction.load(Ordering::Relaxed);
            let forwarder = self.forwarder()?;
            let answer = forwarder.ask(request, if_lost(), is_pinned);
            return Ok(Receiver::Leader(answer));
        }
        let (reply, receiver) = flume::bounded(1);
        self.commands
            .send(Command::Ask {
                session: self.id,
                options: SessionOptions::default(),
                request,
                reply,
            })
            .map_err(|_| Error::Stopped)?;
        Ok(Receiver::Here(receiver))
    }

    fn forwarder(&self) -> Result<&Forwarder> {
        if let Some(forwarder) = self.forwarder.get() {
            return Ok(forwarder);
        }
        let interrupter = Arc::clone(&self.interrupter);
        let readers = Arc::clone(&self.readers);
        let started = Forwarder::start(readers, &self.database, interrupter)?;
        // Another thread may have been faster; its one is the session.
        Ok(self.forwarder.get_or_init(|| started))
    }

    pub(super) fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle {
            commands: self.commands.clone(),
            session: self.id,
            interrupter: Arc::clone(&self.interrupter),
        }
    }

    /// What to do about an answer: give it to the caller, or ask again. `begins`: the request may have
    /// begun a transaction.
    pub(super) fn judge(&self, answer: Answer, begins: bool) -> Result<Next> {
        let is_from_here = matches!(answer, Answer::Here(_));
        let reply = match answer {
            Answer::Here(reply) | Answer::Leader(Forwarded::Answered(reply)) => reply,
            Answer::Leader(Forwarded::Home) => {
                self.is_forwarded.store(false, Ordering::Relaxed);
                return Ok(Next::Ask);
            }
        };
        // With any of these the session has ended, and with it the transaction.
        let is_lost = matches!(
            reply,
            Err(Error::NotLeader { .. } | Error::NoDatabaseOpened | Error::OutcomeUnknown)
        );
        if is_lost && self.may_have_transaction.swap(false, Ordering::Relaxed) {
            return Err(match reply {
                Err(error @ (Error::NotLeader { .. } | Error::OutcomeUnknown)) => error,
                _ => Error::NotLeader {
                    leader: self.readers.leader(),
                },
            });
        }
        match reply {
            Err(Error::NotLeader { .. }) if is_from_here => {
                self.is_forwarded.store(true, Ordering::Relaxed);
                Ok(Next::Ask)
            }
            Err(Error::NoDatabaseOpened) => Ok(Next::Open),
            reply => {
                if begins {
                    self.may_have_transaction.store(true, Ordering::Relaxed);
                }
                reply.map(Next::Done)
            }
        }
    }

    /// Opens the database, here or at the leader.
    pub(super) fn open(&self, create: bool) -> Result<()> {
        loop {
            let opened = self.call_once(self.open_request(create), || IfLost::NothingDone)?;
            if let Some(opened) = self.judge_opened(opened) {
                return opened;
            }
        }
    }

    pub(super) async fn open_async(&self, create: bool) -> Result<()> {
        loop {
            let open = self.open_request(create);
            let opened = self.call_once_async(open, || IfLost::NothingDone).await?;
            if let Some(opened) = self.judge_opened(opened) {
                return opened;
            }
        }
    }

    fn judge_opened(&self, opened: Answer) -> Option<Result<()>> {
        match self.judge(opened, false) {
            Ok(Next::Ask) => None,
            // Another thread has opened it in the meantime.
            Ok(Next::Done(_) | Next::Open) | Err(Error::AlreadyOpen) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    pub(super) fn open_request(&self, create: bool) -> Request {
        Request::Open {
            database: self.database.clone(),
            create,
        }
    }

    pub(super) fn call_once(
        &self,
        request: Request,
        if_lost: impl FnOnce() -> IfLost,
    ) -> Result<Answer> {
        match self.ask(request, if_lost)? {
            Receiver::Here(reply) => reply.recv().map(Answer::Here),
            Receiver::Leader(reply) => reply.recv().map(Answer::Leader),
        }
        .map_err(|_| Error::Stopped)
    }

    pub(super) async fn call_once_async(
        &self,
        request: Request,
        if_lost: impl FnOnce() -> IfLost,
    ) -> Result<Answer> {
        match self.ask(request, if_lost)? {
            Receiver::Here(reply) => reply.recv_async().await.map(Answer::Here),
            Receiver::Leader(reply) => reply.recv_async().await.map(Answer::Leader),
        }
        .map_err(|_| Error::Stopped)
    }
}

/// What follows from an answer.
pub(super) enum Next {
    /// It is the caller's.
    Done(Reply),
    /// Another node is to be asked.
    Ask,
    /// The database has to be opened again, for this node has lost and regained its leadership.
    Open,
}

/// What is said of a request outside of a transaction if its connection is lost: a single statement that
/// can only read has changed nothing.
pub(super) fn if_lost(request: &Request) -> IfLost {
    let is_query = matches!(request, Request::Sql(Work::Query { .. }));
    let mut words = text_of(request)
        .trim_start()
        .split(|letter: char| !letter.is_ascii_alphabetic());
    let first = words.next().unwrap_or_default();
    let reads = ["SELECT", "VALUES", "EXPLAIN"]
        .iter()
        .any(|known| first.eq_ignore_ascii_case(known));
    match is_query && reads {
        true => IfLost::NothingDone,
        false => IfLost::Unknown,
    }
}

/// The statements of a request.
fn text_of(request: &Request) -> &str {
    match request {
        Request::Sql(
            Work::Execute(Source::Text { sql, .. })
            | Work::Query {
                source: Source::Text { sql, .. },
                ..
            },
        ) => sql,
        _ => "",
    }
}

/// Whether one of the words is anywhere in the statements: where it is not, they are no such statement.
pub(super) fn mentions(request: &Request, words: &[&str]) -> bool {
    let sql = text_of(request).as_bytes();
    words.iter().any(|word| {
        let mut places = sql.windows(word.len());
        places.any(|place| place.eq_ignore_ascii_case(word.as_bytes()))
    })
}

/// Whether a request may begin a transaction. Mostly its first letters tell that it does not.
pub(super) fn may_begin(request: &Request) -> bool {
    let sql = text_of(request);
    let is_plain = match sql.as_bytes() {
        [b'B' | b'b', ..] | [b'S' | b's', b'A' | b'a', ..] | [] => false,
        [first, ..] => first.is_ascii_alphabetic(),
    };
    (!is_plain || sql.contains(';')) && mentions(request, &["BEGIN", "SAVEPOINT"])
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.commands.send(Command::CloseSession(self.id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::request::RowLimit;

    fn execute(sql: &str) -> Request {
        Request::Sql(Work::Execute(Source::text(sql, Vec::new())))
    }

    fn query(sql: &str) -> Request {
        let source = Source::text(sql, Vec::new());
        let limit = RowLimit::Whole { bytes_max: 1 };
        Request::Sql(Work::Query { source, limit })
    }

    #[test]
    fn whatever_begins_a_transaction_is_seen() {
        for sql in [
            "BEGIN",
            " begin immediate",
            "Savepoint a",
            "SELECT 1; BEGIN",
            "-- now\nBEGIN",
            "/* */ SAVEPOINT a",
            "(BEGIN",
        ] {
            assert!(may_begin(&execute(sql)) && may_begin(&query(sql)), "{sql}");
        }
        for sql in ["SELECT 'BEGIN'", "INSERT INTO t VALUES (1)", "COMMIT", ""] {
            assert!(!may_begin(&execute(sql)), "{sql}");
        }
    }

    #[test]
    fn only_a_lone_statement_that_reads_has_surely_changed_nothing() {
        for sql in ["SELECT 1", "\n values (1)", "explain DELETE FROM t"] {
            assert_eq!(if_lost(&query(sql)), IfLost::NothingDone, "{sql}");
            assert_eq!(if_lost(&execute(sql)), IfLost::Unknown, "{sql}");
        }
        for sql in [
            "INSERT INTO t VALUES (1) RETURNING a",
            "WITH n AS (SELECT 1) INSERT INTO t SELECT * FROM n RETURNING a",
            "/* */ SELECT 1",
            "PRAGMA user_version = 1",
            "SELECTED",
            "",
        ] {
            assert_eq!(if_lost(&query(sql)), IfLost::Unknown, "{sql}");
        }
    }
}

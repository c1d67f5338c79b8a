//! What a session of this process has done by the leader, while the node of this process does not lead.
//!
//! A thread of the session's own has a connection to the leader, which is one session there, and runs one
//! request after the other on it. Who leads it knows from the node. A request is sent again only if
//! nothing of it was done: the leader said that it does not lead, or the request was never sent, or it
//! can have changed nothing. What was lost with its connection, and may have been committed, has an
//! unknown outcome.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::{Client, ClientError, ClientOptions, QueryEnd};
use crate::error::{Error, Result};
use crate::readers::Readers;
use crate::replica::NodeAddress;
use crate::replica::request::{Admin, Reply, Request, RowLimit, Source, Work};
use crate::rows::Value;
use crate::wire;

/// How long a request is held for a leader that is to be elected, or to be found.
pub(crate) const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks for one.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);
/// How long a leader may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long its answer is waited for when the node here knows it for the leader no longer: it may have
/// said so itself.
const DEPOSED_GRACE: Duration = Duration::from_secs(2);
/// How often that is looked at while it is silent.
const LOOK_AT_LEADER_EVERY: Duration = Duration::from_millis(250);
/// How long it may be silent beyond what it lets a statement run.
const ANSWER_GRACE: Duration = Duration::from_secs(10);
/// The same if statements may run for ever.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What has become of a request.
pub(crate) enum Forwarded {
    /// The leader's answer, or why there is none.
    Answered(Result<Reply>),
    /// This node leads by now, and is to be asked itself. Nothing was done.
    Home,
}

/// What is to be said of a request whose connection is lost before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfLost {
    /// It can have left nothing behind.
    NothingDone,
    /// It may have been committed.
    Unknown,
}

struct Job {
    request: Request,
    if_lost: IfLost,
    /// Whether it belongs to a transaction of the connection's session: it makes no sense on another.
    is_pinned: bool,
    answer: flume::Sender<Forwarded>,
}

/// Hands the requests of one session to its thread, which ends when this is dropped.
pub(crate) struct Forwarder {
    jobs: flume::Sender<Job>,
}

impl Forwarder {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be none.
    pub(crate) fn start(
        readers: Arc<Readers>,
        database: &str,
        interrupter: Arc<Interrupter>,
    ) -> Result<Self> {
        let (jobs, waiting) = flume::unbounded::<Job>();
        let mut worker = Worker {
            leader: LeaderSearch { readers },
            database: database.to_owned(),
            client: None,
            interrupter,
        };
        let spawned = std::thread::Builder::new()
            .name("ringlite-forward".into())
            .spawn(move || {
                while let Ok(job) = waiting.recv() {
                    let forwarded = worker.forward(&job);
                    // Whoever asked may have gone away.
                    drop(job.answer.send(forwarded));
                }
            });
        match spawned {
            Ok(_) => Ok(Self { jobs }),
            Err(error) => Err(Error::misuse(
                rusqlite::ffi::SQLITE_NOMEM,
                format!("no thread can be started to ask the leader: {error}"),
            )),
        }
    }

    pub(crate) fn ask(
        &self,
        request: Request,
        if_lost: IfLost,
        is_pinned: bool,
    ) -> flume::Receiver<Forwarded> {
        let (answer, receiver) = flume::bounded(1);
        // The thread goes only with this.
        drop(self.jobs.send(Job {
            request,
            if_lost,
            is_pinned,
            answer,
        }));
        receiver
    }
}

/// Stops what the leader runs for a session, from any thread.
#[derive(Default)]
pub(crate) struct Interrupter(Mutex<Running>);

#[derive(Default)]
struct Running {
    /// The connection, beside which the thread waits for an answer.
    stream: Option<TcpStream>,
    is_running: bool,
    is_asked: bool,
}

impl Interrupter {
    /// Does nothing if nothing runs.
    pub(crate) fn interrupt(&self) {
        let mut running = self.lock();
        if !running.is_running || running.is_asked {
            return;
        }
        let mut frame = Vec::new();
        let encoded = wire::Request::Interrupt { database: 0 }.encode(&mut frame);
        if let (Some(stream), Ok(())) = (&mut running.stream, encoded) {
            // A connection that fails says so to the one who waits for its answer.
            running.is_asked = stream.write_all(&frame).is_ok();
        }
    }

    fn connected(&self, stream: Option<TcpStream>) {
        *self.lock() = Running {
            stream,
            ..Running::default()
        };
    }

    fn begin(&self) {
        self.lock().is_running = true;
    }

    /// Whether an INTERRUPT was sent, which has an answer of its own.
    fn end(&self) -> bool {
        let mut running = self.lock();
        running.is_running = false;
        std::mem::take(&mut running.is_asked)
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a request was not answered as it was asked.
enum Failed {
    /// Nothing of it was done: another node may do it.
    Elsewhere,
    /// The connection was lost.
    Lost,
    /// That is the answer.
    Answered(Error),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        if error.is_not_leader() || matches!(error, ClientError::NotConnected { .. }) {
            return Self::Elsewhere;
        }
        if error.is_connection_lost() {
            return Self::Lost;
        }
        if error.is_outcome_unknown() {
            return Self::Answered(Error::OutcomeUnknown);
        }
        match error {
            // The session has ended with its leader's leadership, which came back.
            ClientError::Failure { message, .. }
                if message == Error::NoDatabaseOpened.to_string() =>
            {
                Self::Elsewhere
            }
            ClientError::Failure { message, .. } if message == Error::Stopped.to_string() => {
                Self::Lost
            }
            ClientError::Failure { code, message } => Self::Answered(Error::Sqlite {
                code: i32::try_from(code).unwrap_or(rusqlite::ffi::SQLITE_ERROR),
                message,
            }),
            other => Self::Answered(Error::misuse(
                rusqlite::ffi::SQLITE_ERROR,
                other.to_string(),
            )),
        }
    }
}

/// Finds the leader through this process's node.
struct LeaderSearch {
    readers: Arc<Readers>,
}

impl LeaderSearch {
    fn not_leader(&self) -> Error {
        Error::NotLeader {
            leader: self.readers.leader(),
        }
    }

    /// Connects to the node that leads as far as this one knows; `None` if it cannot be had now.
    fn connect(&self, deadline: Instant) -> Option<Client> {
        let NodeAddress { address, .. } = self.readers.leader()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let statement_time = self.readers.statement_time();
        let options = ClientOptions {
            connect_timeout: left.min(CONNECT_TIMEOUT),
            request_timeout: match statement_time {
                Duration::ZERO => ANSWER_TIMEOUT_MAX,
                time => time + ANSWER_GRACE,
            },
            ..ClientOptions::default()
        };
        let connected = Client::connect_to_with(&address, options).and_then(|mut client| {
            let is_lost = self.watch(address);
            client.set_patience(LOOK_AT_LEADER_EVERY, is_lost)?;
            Ok(client)
        });
        match connected {
            Ok(client) => Some(client),
            Err(error) => {
                tracing::debug!("the leader cannot be asked: {error}");
                None
            }
        }
    }

    /// Tells whether the node at `address` has not been the leader for some time.
    fn watch(&self, address: String) -> impl FnMut() -> bool + Send + 'static {
        let readers = Arc::clone(&self.readers);
        let mut deposed_at = None;
        move || {
            let leads = readers
                .leader()
                .is_some_and(|leader| leader.address == address);
            if leads {
                deposed_at = None;
                return false;
            }
            let deposed_at = deposed_at.get_or_insert_with(Instant::now);
            deposed_at.elapsed() >= DEPOSED_GRACE
        }
    }

    /// Waits a little, unless there is no time left or the node has stopped.
    fn look_again(&self, deadline: Instant) -> Result<()> {
        if self.readers.is_stopped() {
            return Err(Error::Stopped);
        }
        if Instant::now() >= deadline {
            return Err(self.not_leader());
        }
        // Nobody leads: there is no commit that this could hold up.
        std::thread::sleep(LOOK_AGAIN_AFTER);
        Ok(())
    }
}

/// Has the leader do something that needs no session.
pub(crate) fn at_leader<T>(
    readers: &Arc<Readers>,
    if_lost: IfLost,
    mut ask: impl FnMut(&mut Client) -> std::result::Result<T, ClientError>,
) -> Result<T> {
    let search = LeaderSearch {
        readers: Arc::clone(readers),
    };
    let deadline = Instant::now() + LEADER_TIMEOUT;
    loop {
        if let Some(mut client) = search.connect(deadline) {
            match ask(&mut client).map_err(Failed::from) {
                Ok(done) => return Ok(done),
                Err(Failed::Answered(error)) => return Err(error),
                Err(Failed::Lost) if if_lost == IfLost::Unknown => {
                    return Err(Error::OutcomeUnknown);
                }
                Err(Failed::Lost | Failed::Elsewhere) => {}
            }
        }
        search.look_again(deadline)?;
    }
}

struct Worker {
    leader: LeaderSearch,
    database: String,
    /// A connection on which the database is open.
    client: Option<Client>,
    interrupter: Arc<Interrupter>,
}

impl Worker {
    fn forward(&mut self, job: &Job) -> Forwarded {
        if let Some(refusal) = refusal(&job.request) {
            return Forwarded::Answered(Err(refusal));
        }
        let deadline = Instant::now() + LEADER_TIMEOUT;
        loop {
            match self.try_once(job, deadline) {
                Ok(answered) => return answered,
                Err(Failed::Answered(error)) => return Forwarded::Answered(Err(error)),
                Err(Failed::Lost) if job.if_lost == IfLost::Unknown => {
                    return Forwarded::Answered(Err(Error::OutcomeUnknown));
                }
                Err(Failed::Lost | Failed::Elsewhere) => {
                    self.client = None;
                    self.interrupter.connected(None);
                }
            }
            if job.is_pinned {
                return Forwarded::Answered(Err(self.leader.not_leader()));
            }
            if let Err(error) = self.leader.look_again(deadline) {
                return Forwarded::Answered(Err(error));
            }
        }
    }

    fn try_once(&mut self, job: &Job, deadline: Instant) -> std::result::Result<Forwarded, Failed> {
        if self.leader.readers.is_stopped() {
            return Err(Failed::Answered(Error::Stopped));
        }
        // A request that meets the end of its connection was not sent.
        self.client.take_if(|client| !client.is_connected());
        if self.client.is_none() {
            if job.is_pinned {
                return Err(Failed::Elsewhere);
            }
            if self.leader.readers.is_serving() {
                return Ok(Forwarded::Home);
            }
            let mut client = self.leader.connect(deadline).ok_or(Failed::Elsewhere)?;
            let create = matches!(job.request, Request::Open { create: true, .. });
            let opened = client.open_plainly(&self.database, create);
            opened.map_err(|error| match Failed::from(error) {
                // Opening again does no harm.
                Failed::Lost => Failed::Elsewhere,
                // As this node says it of a database that it does not have.
                Failed::Answered(Error::Sqlite { code, message })
                    if code == rusqlite::ffi::SQLITE_NOTFOUND =>
                {
                    Failed::Answered(Error::misuse(code, message))
                }
                failed => failed,
            })?;
            let interrupter = Arc::clone(&self.interrupter);
            client.on_sent(move || interrupter.begin());
            self.interrupter.connected(client.second_handle());
            self.client = Some(client);
        }
        let Some(client) = &mut self.client else {
            return Err(Failed::Elsewhere);
        };
        let Request::Sql(work) = &job.request else {
            return Ok(Forwarded::Answered(Ok(Reply::Opened)));
        };
        let ran = run(client, work);
        let is_interrupted = self.interrupter.end();
        let (reply, is_interrupt_answered) = match ran {
            Ok(QueryEnd::Interrupted) => (Err(Failed::Answered(Error::interrupted())), true),
            Ok(QueryEnd::TooLarge) => (Err(Failed::Answered(Error::result_too_large())), false),
            Ok(QueryEnd::Whole(reply)) => (Ok(reply), false),
            Err(failed) => (Err(failed), false),
        };
        if is_interrupted && !is_interrupt_answered && client.finish_interrupt().is_err() {
            // What was asked has its answer.
            self.client = None;
        }
        reply.map(|reply| Forwarded::Answered(Ok(reply)))
    }
}

fn run(client: &mut Client, work: &Work) -> std::result::Result<QueryEnd<Reply>, Failed> {
    match work {
        Work::Execute(Source::Text {
            sql, parameters, ..
        }) => {
            let executed = client.execute(sql, parameters)?;
            Ok(QueryEnd::Whole(Reply::Executed(executed)))
        }
        Work::Query {
            source: Source::Text {
                sql, parameters, ..
            },
            limit,
        } => {
            let bytes_max = match limit {
                RowLimit::Whole { bytes_max } => *bytes_max,
                // All of them come at once, as the caller collects them in the end.
                RowLimit::Batches { .. } => usize::MAX,
            };
            Ok(match client.query_within(sql, parameters, bytes_max)? {
                QueryEnd::Whole(batch) => QueryEnd::Whole(Reply::Rows(batch)),
                QueryEnd::TooLarge => QueryEnd::TooLarge,
                QueryEnd::Interrupted => QueryEnd::Interrupted,
            })
        }
        other => unreachable!("a caller of the Rust API asks for no {other:?}"),
    }
}

/// Why a request cannot be sent: a text on the wire ends at its first NUL.
fn refusal(request: &Request) -> Option<Error> {
    let Request::Sql(
        Work::Execute(Source::Text {
            sql, parameters, ..
        })
        | Work::Query {
            source: Source::Text {
                sql, parameters, ..
            },
            ..
        },
    ) = request
    else {
        return None;
    };
    let is_cut = |value: &Value| matches!(value, Value::Text(text) if text.contains('\0'));
    (sql.contains('\0') || parameters.iter().any(is_cut)).then(|| {
        Error::misuse(
            rusqlite::ffi::SQLITE_MISUSE,
            "a text with a NUL cannot be sent to the leader: pass it as a blob, with CAST(? AS TEXT)",
        )
    })
}

/// Has the leader create or drop a database.
pub(crate) fn administer(readers: &Arc<Readers>, admin: &Admin) -> Result<()> {
    at_leader(readers, IfLost::Unknown, |client| match admin {
        Admin::Create { name, page_size } => client.create_database(name, page_size.bytes()),
        Admin::Drop { name } => client.drop_database(name),
        other => unreachable!("a caller of the Rust API asks for no {other:?}"),
    })
}

#[cfg(test)]
mod tests;

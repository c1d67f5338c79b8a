//! A client's connection: requests of the dqlite protocol in, responses out, one at a time.

mod databases;
mod members;
mod moving;
mod passing;

use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use glommio::net::TcpStream;
use ringlite_raft::LogIndex;

use super::Gateway;
use super::admission::{Place, in_time};
use crate::error::Error;
use crate::readers::ReadLevel;
use crate::replica::request::{
    Reply, Request as Ask, RowLimit, SessionId, SessionOptions, Source, StatementId, Work,
};
use crate::shard::Shard;
use crate::wire::{
    BODY_BYTES_MAX, FRAME_HEADER_BYTES, FailureCode, FrameHeader, OPEN_EXISTING, OPEN_PLAIN_BEGIN,
    PROTOCOL_LEGACY, PROTOCOL_VERSION, Request, Response, WireError,
};
use moving::{Ended, Home};
pub(super) use moving::{Moved, go_on};

/// What the buffers of a connection keep after a large message.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// Rows of about so many bytes travel in one message.
const ROW_BATCH_BYTES: usize = 32 << 10;
const READ_BYTES: usize = 16 << 10;
/// What a client sends while its statement runs is read up to here.
const EARLY_BYTES_MAX: usize = 64 << 10;
/// What WELCOME promises; nothing enforces it.
const HEARTBEAT_TIMEOUT_MS: u64 = 15_000;
/// How long a client that is refused may take to read that.
const REFUSED_TIME_MAX: Duration = Duration::from_secs(1);
const NOT_STARTED: &str = "not leader: the cluster is at its first start and waits for its members";

/// One client.
struct Connection {
    stream: TcpStream,
    chunk: Box<[u8]>,
    incoming: Vec<u8>,
    /// How much of `incoming` has been handled.
    handled: usize,
    outgoing: Vec<u8>,
    legacy: bool,
    shard: Rc<Shard>,
    session: SessionId,
    /// Whether a database was opened in the session.
    is_open: bool,
    /// Where the database is open, if that is another shard.
    home: Option<Home>,
    gateway: Rc<Gateway>,
    /// How its statements are to be understood.
    options: SessionOptions,
}

/// Serves a client whose first word was `version`, until it leaves.
pub(super) async fn serve(
    mut stream: TcpStream,
    version: u64,
    gateway: Rc<Gateway>,
    place: Place,
) -> std::io::Result<()> {
    if version != PROTOCOL_VERSION && version != PROTOCOL_LEGACY {
        let refusal =
            format!("this port speaks version 1 of the dqlite protocol, not {version:#x}");
        return refuse(&mut stream, FailureCode::Protocol, refusal).await;
    }
    let shard = gateway.shard.borrow().clone();
    let Some(shard) = shard else {
        return refuse(&mut stream, FailureCode::NotLeader, NOT_STARTED).await;
    };
    let session = shard.new_session();
    let connection = Connection {
        stream,
        chunk: vec![0; READ_BYTES].into(),
        incoming: Vec::new(),
        handled: 0,
        outgoing: Vec::new(),
        legacy: version == PROTOCOL_LEGACY,
        shard,
        session,
        is_open: false,
        home: None,
        gateway,
        // A transaction of the driver that begins with a plain BEGIN takes its turn at once.
        options: SessionOptions {
            begin_immediate: true,
        },
    };
    connection.live(None, place).await
}

/// Tells a client why it is not served.
pub(super) async fn refuse(
    stream: &mut TcpStream,
    code: FailureCode,
    message: impl Into<String>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    if Response::failure(code, message).encode(&mut bytes).is_ok() {
        stream.write_all(&bytes).await?;
    }
    // What the client sends meanwhile is read, since it would else lose the answer to a reset.
    stream.shutdown(Shutdown::Write).await?;
    let rest = async {
        while stream.read(&mut [0; 256]).await? > 0 {}
        Ok(())
    };
    in_time(REFUSED_TIME_MAX, rest).await
}

impl Connection {
    /// Serves requests, `first` before those that arrive, until the client has left, or asks for
    /// something that is another shard's.
    async fn run(&mut self, first: Option<Request>) -> std::io::Result<Ended> {
        if let Some(first) = first
            && let Some(ended) = self.serve_request(first).await?
        {
            return Ok(ended);
        }
        loop {
            let request = match self.next_request().await? {
                None => return Ok(Ended::Left),
                Some(Ok(request)) => request,
                Some(Err(error)) => {
                    self.write(&Response::Failure {
                        code: error.failure_code(),
                        message: error.failure_message(),
                    })
                    .await?;
                    if error.closes_connection() {
                        return Ok(Ended::Left);
                    }
                    continue;
                }
            };
            if let Some(ended) = self.serve_request(request).await? {
                return Ok(ended);
            }
        }
    }

    /// Serves a request; tells if nothing else is to be served here.
    async fn serve_request(&mut self, request: Request) -> std::io::Result<Option<Ended>> {
        if matches!(request, Request::Open { .. }) {
            self.note_ended();
        }
        if let Some(shard) = self.elsewhere(&request) {
            return Ok(Some(Ended::Elsewhere { shard, request }));
        }
        if let Some(leader) = self.passes_to(&request) {
            match self.pass_open(&leader, &request).await {
                Ok(there) => {
                    self.pass_bytes(there).await?;
                    return Ok(Some(Ended::Left));
                }
                // The client hears who does not lead.
                Err(error) => tracing::debug!("{leader} cannot be reached for a client: {error}"),
            }
        }
        self.handle(request).await?;
        Ok(None)
    }

    /// Waits for a whole request; `None` when the client has left.
    async fn next_request(&mut self) -> std::io::Result<Option<Result<Request, WireError>>> {
        loop {
            if let Some(request) = self.take_request() {
                return Ok(Some(request));
            }
            if self.read_some().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads what is there, at least one byte. May be dropped while it waits.
    async fn read_some(&mut self) -> std::io::Result<usize> {
        let bytes = self.stream.read(&mut self.chunk).await?;
        self.incoming.drain(..self.handled);
        self.handled = 0;
        self.incoming.extend_from_slice(&self.chunk[..bytes]);
        Ok(bytes)
    }

    /// Takes a request that has arrived as a whole.
    fn take_request(&mut self) -> Option<Result<Request, WireError>> {
        let (request, frame_bytes) = self.first_request()?;
        self.handled += frame_bytes;
        if self.handled == self.incoming.len() {
            self.handled = 0;
            self.incoming.clear();
            self.incoming.shrink_to(BUFFER_BYTES_KEPT);
        }
        Some(request)
    }

    /// The first request that has arrived as a whole, and its length. Of one that is too long, after
    /// which nothing can be read, the length is 0.
    fn first_request(&self) -> Option<(Result<Request, WireError>, usize)> {
        let bytes = &self.incoming[self.handled..];
        let header = FrameHeader::parse(*bytes.first_chunk::<FRAME_HEADER_BYTES>()?);
        let body_bytes = match header.body_bytes(BODY_BYTES_MAX) {
            Ok(body_bytes) => body_bytes,
            Err(error) => return Some((Err(error), 0)),
        };
        let frame_bytes = FRAME_HEADER_BYTES + body_bytes;
        let body = bytes.get(FRAME_HEADER_BYTES..frame_bytes)?;
        Some((
            Request::decode(header.kind, header.schema, body),
            frame_bytes,
        ))
    }

    async fn write(&mut self, response: &Response) -> std::io::Result<()> {
        self.outgoing.clear();
        if let Err(error) = response.encode(&mut self.outgoing) {
            self.outgoing.clear();
            let failure = Response::Failure {
                code: error.failure_code(),
                message: error.failure_message(),
            };
            if failure.encode(&mut self.outgoing).is_err() {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
        }
        self.stream.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        self.outgoing.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    async fn handle(&mut self, request: Request) -> std::io::Result<()> {
        let work = match request {
            Request::Open { name, flags, .. } => {
                self.options.begin_immediate = flags & OPEN_PLAIN_BEGIN == 0;
                return self
                    .answer(Ask::Open {
                        database: name,
                        create: flags & OPEN_EXISTING == 0,
                    })
                    .await;
            }
            Request::Prepare { sql, with_tail, .. } => {
                return self.prepare(sql, with_tail).await;
            }
            Request::Execute {
                statement,
                parameters,
                ..
            } => Work::Execute(prepared(statement, parameters)),
            Request::ExecuteSql {
                sql, parameters, ..
            } => Work::Execute(Source::text(sql, parameters)),
            Request::Query {
                statement,
                parameters,
                ..
            } => return self.query(prepared(statement, parameters)).await,
            Request::QuerySql {
                sql, parameters, ..
            } => return self.query(Source::text(sql, parameters)).await,
            Request::Finalize { statement, .. } => Work::Finalize(StatementId(statement)),
            // What was running, if anything, has its answer.
            Request::Interrupt { .. } => return self.write(&Response::Empty).await,
            Request::Digest {
                database,
                index_min,
            } => {
                let digest = self.shard.digest(database, LogIndex(index_min)).await;
                return self.write(&response_to(digest)).await;
            }
            Request::Read {
                level,
                index_min,
                staleness_max_ms,
                database,
                sql,
            } => {
                let level = ReadLevel::of_wire([level, index_min, staleness_max_ms]);
                let read = match level {
                    Some(level) => self.shard.read(level, &database, sql).await,
                    None => Err(Error::misuse(
                        rusqlite::ffi::SQLITE_MISUSE,
                        "READ is for the levels leader (1) and local (2)",
                    )),
                };
                return self.write(&response_to(read)).await;
            }
            other => {
                let Some(other) = self.handle_databases(other).await? else {
                    return Ok(());
                };
                let Some(other) = self.handle_members(other).await? else {
                    return Ok(());
                };
                let response = self.about_node(&other).await;
                return self.write(&response).await;
            }
        };
        self.answer(Ask::Sql(work)).await
    }

    /// Answers what concerns the node and not a database.
    async fn about_node(&self, request: &Request) -> Response {
        match request {
            Request::Client { .. } => Response::Welcome {
                heartbeat_timeout_ms: HEARTBEAT_TIMEOUT_MS,
            },
            Request::Status => Response::Status {
                json: self.status_json().await,
            },
            _ => Response::failure(
                FailureCode::Parse,
                "this version does not serve this request",
            ),
        }
    }

    /// Asks the replica. If the answer takes its time, the client may interrupt it, or leave.
    async fn ask(&mut self, request: Ask) -> std::io::Result<Answer> {
        let answer = self.ask_replica(request).await?;
        self.note_opened(&answer.reply);
        Ok(answer)
    }

    async fn ask_replica(&mut self, request: Ask) -> std::io::Result<Answer> {
        let pending = self.shard.ask(self.session, self.options, request);
        if let Some(reply) = pending.reply_unless_slow().await {
            let is_interrupted = false;
            return Ok(Answer {
                reply,
                is_interrupted,
            });
        }
        let mut is_interrupted = false;
        loop {
            if !is_interrupted && self.take_interrupt() {
                is_interrupted = true;
                self.shard.push(crate::replica::Input::Interrupted {
                    session: self.session,
                });
            }
            let reply = async { std::io::Result::Ok(Some(pending.reply().await)) };
            let client = async {
                if self.incoming.len() - self.handled >= EARLY_BYTES_MAX {
                    return std::future::pending().await;
                }
                match self.read_some().await? {
                    0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
                    _ => Ok(None),
                }
            };
            if let Some(reply) = future::or(reply, client).await? {
                return Ok(Answer {
                    reply,
                    is_interrupted,
                });
            }
        }
    }

    /// Answers a request, and an INTERRUPT that has come meanwhile.
    async fn answer(&mut self, request: Ask) -> std::io::Result<()> {
        let answer = self.ask(request).await?;
        self.write(&response_to(answer.reply)).await?;
        if answer.is_interrupted {
            self.write(&Response::Empty).await?;
        }
        Ok(())
    }

    async fn prepare(&mut self, sql: String, with_tail: bool) -> std::io::Result<()> {
        let answer = self
            .ask(Ask::Sql(Work::Prepare {
                sql: Arc::from(sql),
                allow_tail: with_tail,
            }))
            .await?;
        let response = match answer.reply {
            Ok(Reply::Prepared {
                statement,
                parameters,
                tail,
            }) => Response::Statement {
                database: 0,
                id: statement.0,
                parameters: u64::from(parameters),
                tail: with_tail.then_some(tail as u64),
            },
            other => response_to(other),
        };
        self.write(&response).await?;
        if answer.is_interrupted {
            self.write(&Response::Empty).await?;
        }
        Ok(())
    }

    /// Sends all batches of a query, unless the client interrupts between two of them.
    async fn query(&mut self, source: Source) -> std::io::Result<()> {
        let mut work = Work::Query {
            source,
            limit: RowLimit::Batches {
                bytes: ROW_BATCH_BYTES,
            },
        };
        loop {
            let Answer {
                reply,
                mut is_interrupted,
            } = self.ask(Ask::Sql(work)).await?;
            let more = matches!(&reply, Ok(Reply::Rows(batch)) if !batch.complete);
            let is_stopped = is_interrupted && matches!(&reply, Err(error) if error.is_interrupt());
            if !more && !is_stopped {
                // It came too late: what became of the statement is told all the same.
                self.write(&response_to(reply)).await?;
                if is_interrupted {
                    self.write(&Response::Empty).await?;
                }
                return Ok(());
            }
            if more && !is_interrupted {
                self.write(&response_to(reply)).await?;
                is_interrupted = self.is_interrupted().await?;
            }
            if is_interrupted {
                // In place of the rows that are left; an error tells nothing but the interrupt.
                let ended = self.ask(Ask::Sql(Work::Interrupt)).await?;
                let has_failed = ended.reply.is_err();
                self.write(&response_to(ended.reply)).await?;
                if has_failed {
                    self.write(&Response::Empty).await?;
                }
                return Ok(());
            }
            work = Work::Continue;
        }
    }

    /// Whether an INTERRUPT has arrived; any other request is left for later.
    async fn is_interrupted(&mut self) -> std::io::Result<bool> {
        if self.handled == self.incoming.len()
            && let Some(read) = future::poll_once(self.read_some()).await
            && read? == 0
        {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.take_interrupt())
    }

    /// Takes an INTERRUPT out if it is the next request that has arrived.
    fn take_interrupt(&mut self) -> bool {
        let first = self.first_request();
        let is_interrupt = matches!(first, Some((Ok(Request::Interrupt { .. }), _)));
        if is_interrupt {
            self.take_request();
        }
        is_interrupt
    }
}

/// What the replica has answered.
struct Answer {
    reply: Result<Reply, Error>,
    /// Whether the client has asked meanwhile for an end.
    is_interrupted: bool,
}

fn prepared(statement: u32, parameters: Vec<crate::rows::Value>) -> Source {
    Source::Prepared {
        statement: StatementId(statement),
        parameters,
    }
}

fn response_to(reply: Result<Reply, Error>) -> Response {
    match reply {
        Ok(Reply::Opened) => Response::Database { id: 0 },
        Ok(Reply::Executed(executed)) => Response::Result {
            last_insert_rowid: executed.last_insert_rowid,
            changes: executed.changes,
        },
        Ok(Reply::Rows(batch)) => Response::Rows(batch),
        Ok(Reply::Digest(digest)) => Response::Digest {
            applied: digest.applied.0,
            page_count: u64::from(digest.page_count),
            page_size: u64::from(digest.page_size),
            digest: digest.digest,
        },
        Ok(Reply::Prepared { .. } | Reply::Joined { .. } | Reply::Done) => Response::Empty,
        Err(error) => Response::Failure {
            code: u64::try_from(error.code()).unwrap_or(1),
            message: error.to_string(),
        },
    }
}

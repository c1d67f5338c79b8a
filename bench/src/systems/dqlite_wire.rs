//! One client connection of the load generator: dqlite's wire protocol, which Ringlite
//! speaks too, one request at a time.

use std::collections::HashMap;
use std::net::SocketAddr;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use ringlite::Value;
use ringlite::wire::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, PROTOCOL_VERSION, Request, Response,
    VFS_NAME, WireError, encode_execute, encode_execute_sql, encode_query,
};
use smol::net::TcpStream;

use crate::error::LoadError;
use crate::load::Client;
use crate::operation::{self, Operation, Parameter, Statement};

/// SQLite's code for a parameter that a statement does not have.
const SQLITE_RANGE: u64 = 25;
/// The answers that are measured have little more than 1 KiB.
const RECEIVE_BYTES: usize = 4096;

/// A connection to a node.
pub(crate) struct Connection {
    stream: TcpStream,
    outgoing: Vec<u8>,
    received: Box<[u8]>,
    /// How much of `received` is there and not handled yet.
    received_bytes: usize,
    /// The prepared statements by their text.
    statements: HashMap<&'static str, u32>,
    /// Whether the node takes a transaction as one text. An old dqlite gives all parameters to its
    /// first statement, and so refuses it.
    takes_scripts: bool,
}

impl Client for Connection {
    /// Follows what one node says about the leader; the leader has to say so itself.
    async fn to_leader_by(address: SocketAddr) -> Result<Option<Self>, LoadError> {
        let mut node = Self::dial(address).await?;
        let Some(leader) = node.leader().await? else {
            return Ok(None);
        };
        if leader != address {
            node = Self::dial(leader).await?;
            if node.leader().await? != Some(leader) {
                return Ok(None);
            }
        }
        node.open().await?;
        Ok(Some(node))
    }

    /// A single statement is prepared once; those of a transaction go as one text.
    async fn perform(&mut self, operation: Operation) -> Result<(), LoadError> {
        let reads = operation.reads();
        let mut statements = operation.into_statements();
        if statements.len() > 1 {
            return self.transact(statements).await;
        }
        let Some(statement) = statements.pop() else {
            return Ok(());
        };
        if !reads {
            return self.execute(statement).await;
        }
        let id = self.prepared(statement.sql).await?;
        let parameters = values(statement.parameters);
        let first = self
            .exchange(|out| encode_query(out, 0, id, &parameters))
            .await?;
        self.take_rows(first).await
    }
}

impl Connection {
    async fn dial(address: SocketAddr) -> Result<Self, LoadError> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&PROTOCOL_VERSION.to_le_bytes()).await?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            received: vec![0; RECEIVE_BYTES].into(),
            received_bytes: 0,
            statements: HashMap::new(),
            takes_scripts: true,
        })
    }

    async fn leader(&mut self) -> Result<Option<SocketAddr>, LoadError> {
        match self.call(&Request::Leader).await? {
            Response::Server { address, .. } => Ok(address.parse().ok()),
            other => Err(LoadError::unexpected(other)),
        }
    }

    async fn open(&mut self) -> Result<(), LoadError> {
        let open = Request::Open {
            name: operation::DATABASE.to_owned(),
            flags: 0,
            vfs: VFS_NAME.to_owned(),
        };
        match self.call(&open).await? {
            Response::Database { .. } => Ok(()),
            other => Err(LoadError::unexpected(other)),
        }
    }

    async fn prepared(&mut self, sql: &'static str) -> Result<u32, LoadError> {
        if let Some(id) = self.statements.get(sql) {
            return Ok(*id);
        }
        let prepare = Request::Prepare {
            database: 0,
            sql: sql.to_owned(),
            with_tail: false,
        };
        match self.call(&prepare).await? {
            Response::Statement { id, .. } => {
                self.statements.insert(sql, id);
                Ok(id)
            }
            other => Err(LoadError::unexpected(other)),
        }
    }

    /// Runs statements as one transaction, which is rolled back if one of them fails.
    async fn transact(&mut self, statements: Vec<Statement>) -> Result<(), LoadError> {
        let answer = if self.takes_scripts {
            let (script, parameters) = operation::as_script(statements.clone());
            let answer = self.execute_text(&script, &values(parameters)).await;
            if matches!(
                &answer,
                Err(LoadError::Failure {
                    code: SQLITE_RANGE,
                    ..
                })
            ) {
                // BEGIN, which has no parameters, was refused: nothing was done.
                self.takes_scripts = false;
                return Box::pin(self.transact(statements)).await;
            }
            answer
        } else {
            self.execute_each(statements).await
        };
        if matches!(&answer, Err(error) if error.leaves_connection()) {
            // Where BEGIN has failed there is nothing to roll back, which it says.
            let _ = self.execute_text("ROLLBACK", &[]).await;
        }
        answer
    }

    async fn execute_each(&mut self, statements: Vec<Statement>) -> Result<(), LoadError> {
        self.execute_text("BEGIN IMMEDIATE", &[]).await?;
        for statement in statements {
            self.execute(statement).await?;
        }
        self.execute_text("COMMIT", &[]).await
    }

    async fn execute(&mut self, statement: Statement) -> Result<(), LoadError> {
        let id = self.prepared(statement.sql).await?;
        let parameters = values(statement.parameters);
        let answer = self
            .exchange(|out| encode_execute(out, 0, id, &parameters))
            .await?;
        expect_result(answer)
    }

    async fn execute_text(&mut self, sql: &str, parameters: &[Value]) -> Result<(), LoadError> {
        let answer = self
            .exchange(|out| encode_execute_sql(out, 0, sql, parameters))
            .await?;
        expect_result(answer)
    }

    /// Takes the rest of a result that may come in several frames.
    async fn take_rows(&mut self, first: Response) -> Result<(), LoadError> {
        let mut answer = first;
        let mut rows = 0;
        loop {
            match answer {
                Response::Rows(batch) => {
                    rows += batch.rows.len();
                    if batch.complete {
                        break;
                    }
                }
                other => return Err(LoadError::unexpected(other)),
            }
            answer = self.receive().await?;
        }
        if rows == 0 {
            return Err(LoadError::Answer("no row has the key".to_owned()));
        }
        Ok(())
    }

    async fn call(&mut self, request: &Request) -> Result<Response, LoadError> {
        self.exchange(|out| request.encode(out)).await
    }

    /// Sends a request and waits for its answer.
    async fn exchange(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
    ) -> Result<Response, LoadError> {
        self.outgoing.clear();
        encode(&mut self.outgoing)?;
        self.stream.write_all(&self.outgoing).await?;
        self.receive().await
    }

    async fn receive(&mut self) -> Result<Response, LoadError> {
        loop {
            if let Some(response) = self.take_response()? {
                return Ok(response);
            }
            let free = &mut self.received[self.received_bytes..];
            match self.stream.read(free).await? {
                0 => return Err(LoadError::Closed),
                bytes => self.received_bytes += bytes,
            }
        }
    }

    /// The next answer, if all of it has arrived.
    fn take_response(&mut self) -> Result<Option<Response>, LoadError> {
        let received = &self.received[..self.received_bytes];
        let Some(header) = received.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = FrameHeader::parse(*header);
        let frame_bytes = FRAME_HEADER_BYTES + header.body_bytes(FRAME_BYTES_MAX)?;
        if frame_bytes > self.received.len() {
            self.received = [received, &vec![0; frame_bytes - received.len()]]
                .concat()
                .into();
            return Ok(None);
        }
        let Some(body) = received.get(FRAME_HEADER_BYTES..frame_bytes) else {
            return Ok(None);
        };
        let response = Response::decode(header.kind, header.schema, body)?;
        self.received
            .copy_within(frame_bytes..self.received_bytes, 0);
        self.received_bytes -= frame_bytes;
        Ok(Some(response))
    }
}

fn expect_result(answer: Response) -> Result<(), LoadError> {
    match answer {
        Response::Result { .. } => Ok(()),
        other => Err(LoadError::unexpected(other)),
    }
}

fn values(parameters: Vec<Parameter>) -> Vec<Value> {
    parameters.into_iter().map(Value::from).collect()
}

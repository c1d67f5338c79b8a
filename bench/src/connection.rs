//! One client connection on the load generator's executor: the wire protocol, one request at a
//! time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::TcpStream;
use ringlite::Value;
use ringlite::wire::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, PROTOCOL_VERSION, Request, Response,
    VFS_NAME, WireError, encode_execute,
};

use crate::error::LoadError;
use crate::workload;

/// The answers that are measured have 24 bytes.
const RECEIVE_BYTES: usize = 4096;
const LEADER_PAUSE: Duration = Duration::from_millis(10);

/// A connection to a node; to the leader once it is [`Connection::to_leader`].
pub(crate) struct Connection {
    stream: TcpStream,
    outgoing: Vec<u8>,
    received: Box<[u8]>,
    /// How much of `received` is there and not handled yet.
    received_bytes: usize,
    /// The statement that is measured.
    insert: u32,
}

impl Connection {
    /// Connects to the leader, with the statement prepared. Asks the nodes in turn until one names
    /// itself, or `patience` is at its end.
    pub(crate) async fn to_leader(
        addresses: &[SocketAddr],
        patience: Duration,
    ) -> Result<Self, LoadError> {
        let deadline = Instant::now() + patience;
        let mut failure = None;
        while Instant::now() < deadline {
            for address in addresses {
                match Self::to_leader_by(*address).await {
                    Ok(Some(connection)) => return Ok(connection),
                    Ok(None) => {}
                    Err(error) => failure = Some(error),
                }
            }
            glommio::timer::sleep(LEADER_PAUSE).await;
        }
        Err(failure.unwrap_or(LoadError::NoLeader { waited: patience }))
    }

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
        node.prepare().await?;
        Ok(Some(node))
    }

    async fn dial(address: SocketAddr) -> Result<Self, LoadError> {
        let mut stream = TcpStream::connect(address)
            .await
            .map_err(std::io::Error::from)?;
        stream.set_nodelay(true).map_err(std::io::Error::from)?;
        stream.write_all(&PROTOCOL_VERSION.to_le_bytes()).await?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            received: vec![0; RECEIVE_BYTES].into(),
            received_bytes: 0,
            insert: 0,
        })
    }

    async fn leader(&mut self) -> Result<Option<SocketAddr>, LoadError> {
        match self.call(&Request::Leader).await? {
            Response::Server { address, .. } => Ok(address.parse().ok()),
            other => Err(LoadError::unexpected(other)),
        }
    }

    /// Opens the database and prepares the statement.
    async fn prepare(&mut self) -> Result<(), LoadError> {
        let open = Request::Open {
            name: workload::DATABASE.to_owned(),
            flags: 0,
            vfs: VFS_NAME.to_owned(),
        };
        match self.call(&open).await? {
            Response::Database { .. } => {}
            other => return Err(LoadError::unexpected(other)),
        }
        let prepare = Request::Prepare {
            database: 0,
            sql: workload::INSERT.to_owned(),
            with_tail: false,
        };
        match self.call(&prepare).await? {
            Response::Statement { id, .. } => self.insert = id,
            other => return Err(LoadError::unexpected(other)),
        }
        Ok(())
    }

    /// Inserts one row: the request that is measured.
    pub(crate) async fn insert(&mut self, body: Value) -> Result<(), LoadError> {
        let statement = self.insert;
        let answer = self
            .exchange(|out| encode_execute(out, 0, statement, &[body]))
            .await?;
        match answer {
            Response::Result { .. } => Ok(()),
            other => Err(LoadError::unexpected(other)),
        }
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

    /// The answer, if all of it has arrived. There is at most one, as there was one request.
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

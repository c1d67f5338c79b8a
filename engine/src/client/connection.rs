//! One TCP connection: whole messages out and in.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use super::error::ClientError;
use crate::wire::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, PROTOCOL_VERSION, Response, WireError,
};

/// The buffer for responses: what most of them fit, and the step in which it starts to grow.
const RECEIVE_BYTES_MIN: usize = 16 << 10;

/// A buffer that one large message has blown up beyond this is given back after it.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A connection, and bytes that have arrived but are not read yet: `received[start..end]`.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    address: String,
    outgoing: Vec<u8>,
    received: Vec<u8>,
    start: usize,
    end: usize,
    patience: Option<Patience>,
}

/// How often a silent server is asked about, and whether it is worth while to wait on.
struct Patience {
    server_timeout: Duration,
    is_lost: Box<dyn FnMut() -> bool + Send>,
    /// Is called when a request was sent as a whole: another handle may send an INTERRUPT then.
    sent: Option<Box<dyn FnMut() + Send>>,
}

impl std::fmt::Debug for Patience {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Patience").finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, trying each address that the name stands for. `timeout` is for all of it, and
    /// stays the timeout of reads and writes.
    pub(super) fn dial(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let error = |action, source| ClientError::Io {
            address: address.to_owned(),
            action,
            source,
        };
        let deadline = Instant::now() + timeout;
        let resolved = address
            .to_socket_addrs()
            .map_err(|source| error("resolve", source))?;
        let nowhere = "the name has no address, or no time was left";
        let mut refused = io::Error::new(io::ErrorKind::TimedOut, nowhere);
        for socket_address in resolved {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&socket_address, left) {
                Ok(stream) => {
                    let connection = Self {
                        stream,
                        address: address.to_owned(),
                        outgoing: Vec::new(),
                        received: vec![0; RECEIVE_BYTES_MIN],
                        start: 0,
                        end: 0,
                        patience: None,
                    };
                    let set = connection.stream.set_nodelay(true);
                    set.map_err(|source| error("set up the connection to", source))?;
                    connection.set_timeout(timeout)?;
                    return Ok(connection);
                }
                Err(source) => refused = source,
            }
        }
        Err(error("connect to", refused))
    }

    /// Sets how long the server may be silent, or refuse to take bytes.
    pub(super) fn set_timeout(&self, timeout: Duration) -> Result<(), ClientError> {
        // Zero would mean no timeout at all to the system.
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        self.stream
            .set_read_timeout(timeout)
            .and_then(|()| self.stream.set_write_timeout(timeout))
            .map_err(|source| self.error("set the timeout of", source))
    }

    /// The same connection, for writing beside this one.
    pub(super) fn second_handle(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// From now on, while the server is silent, `is_lost` is asked every `slice` whether to give it up
    /// before `server_timeout` has passed.
    pub(super) fn set_patience(
        &mut self,
        server_timeout: Duration,
        slice: Duration,
        is_lost: Box<dyn FnMut() -> bool + Send>,
    ) -> Result<(), ClientError> {
        self.patience = Some(Patience {
            server_timeout,
            is_lost,
            sent: None,
        });
        // A large request may take longer than a look at the leader.
        self.set_timeout(server_timeout)?;
        self.stream
            .set_read_timeout(Some(slice))
            .map_err(|source| self.error("set the timeout of", source))
    }

    /// From now on `sent` is called whenever a request was sent as a whole, if there is patience.
    pub(super) fn on_sent(&mut self, sent: Box<dyn FnMut() + Send>) {
        if let Some(patience) = &mut self.patience {
            patience.sent = Some(sent);
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the server has not closed the connection, nor sent what nobody has asked for.
    pub(super) fn is_open(&self) -> bool {
        if self.start != self.end || self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let peeked = self.stream.peek(&mut [0]);
        let waits = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).is_ok() && waits
    }

    /// Sends the protocol version, which the server does not answer.
    pub(super) fn greet(&mut self) -> Result<(), ClientError> {
        self.stream
            .write_all(&PROTOCOL_VERSION.to_le_bytes())
            .map_err(|source| self.error("write to", source))
    }

    /// Sends what `encode` appends, with one system call unless the socket is full.
    pub(super) fn send(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
    ) -> Result<(), ClientError> {
        self.outgoing.clear();
        encode(&mut self.outgoing).map_err(ClientError::Request)?;
        let written = self.stream.write_all(&self.outgoing);
        if self.outgoing.capacity() > BUFFER_BYTES_KEPT {
            self.outgoing = Vec::new();
        }
        written.map_err(|source| self.error("write to", source))?;
        if let Some(sent) = self
            .patience
            .as_mut()
            .and_then(|patience| patience.sent.as_mut())
        {
            sent();
        }
        Ok(())
    }

    /// Waits for the next message.
    pub(super) fn receive(&mut self) -> Result<Response, ClientError> {
        self.fill(FRAME_HEADER_BYTES)?;
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes.copy_from_slice(&self.received[self.start..self.start + FRAME_HEADER_BYTES]);
        let header = FrameHeader::parse(bytes);
        let body_bytes = header
            .body_bytes(FRAME_BYTES_MAX)
            .map_err(|source| self.protocol_error(source))?;
        self.fill(FRAME_HEADER_BYTES + body_bytes)?;
        let body_start = self.start + FRAME_HEADER_BYTES;
        let body = &self.received[body_start..body_start + body_bytes];
        let response = Response::decode(header.kind, header.schema, body);
        self.start = body_start + body_bytes;
        if self.start == self.end && self.received.len() > BUFFER_BYTES_KEPT {
            self.received = vec![0; RECEIVE_BYTES_MIN];
            (self.start, self.end) = (0, 0);
        }
        response.map_err(|source| self.protocol_error(source))
    }

    /// Reads until `needed` bytes are there.
    ///
    /// The buffer grows with what has arrived, not with what a header announces.
    fn fill(&mut self, needed: usize) -> Result<(), ClientError> {
        if self.end - self.start >= needed {
            return Ok(());
        }
        self.received.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let mut silent_since = Instant::now();
        while self.end < needed {
            if self.end == self.received.len() {
                let grown = (2 * self.received.len()).min(needed.max(RECEIVE_BYTES_MIN));
                self.received.resize(grown, 0);
            }
            match self.stream.read(&mut self.received[self.end..]) {
                Ok(0) => {
                    let message = "the server closed the connection";
                    let source = io::Error::new(io::ErrorKind::UnexpectedEof, message);
                    return Err(self.error("read from", source));
                }
                Ok(count) => {
                    self.end += count;
                    silent_since = Instant::now();
                }
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source)
                    if source.kind() == io::ErrorKind::WouldBlock
                        && self.patience.as_mut().is_some_and(|patience| {
                            silent_since.elapsed() < patience.server_timeout
                                && !(patience.is_lost)()
                        }) => {}
                Err(source) => return Err(self.error("read from", named(source))),
            }
        }
        Ok(())
    }

    fn error(&self, action: &'static str, source: io::Error) -> ClientError {
        ClientError::Io {
            address: self.address.clone(),
            action,
            source,
        }
    }

    fn protocol_error(&self, source: WireError) -> ClientError {
        ClientError::Protocol {
            address: self.address.clone(),
            source,
        }
    }
}

/// Says "timeout" where the system says "resource temporarily unavailable".
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "no answer within the timeout")
        }
        _ => error,
    }
}

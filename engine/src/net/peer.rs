//! One link between two nodes. Each node dials every other one and sends on that connection; what
//! it receives comes on the connections that the others have dialled.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::TcpStream;
use ringlite_raft::{FRAME_HEADER_BYTES, Message, NodeId};

use super::handshake::{HELLO_BYTES, Hello, Purpose, Verdict};
use super::peers::Incoming;
use crate::replica::{Input, NodeAddress};
use crate::shard::Shard;
use crate::signal::Signal;

/// Between two attempts to reach a peer.
const REDIAL_AFTER: Duration = Duration::from_millis(50);
/// For connecting and for the answer to a hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A peer that lets this much pile up is cut off; consensus sends again what it has missed.
const OUTGOING_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;

/// The sending end of the link to one peer.
pub(crate) struct PeerLink {
    peer: NodeAddress,
    /// The shard that its messages are of.
    shard: u32,
    outgoing: RefCell<Vec<u8>>,
    written: Signal,
    connected: Cell<bool>,
    closed: Signal,
}

impl PeerLink {
    pub(crate) fn new(peer: NodeAddress, shard: u32) -> Rc<Self> {
        Rc::new(Self {
            peer,
            shard,
            outgoing: RefCell::default(),
            written: Signal::default(),
            connected: Cell::new(false),
            closed: Signal::default(),
        })
    }

    /// Whom it is to.
    pub(crate) fn peer(&self) -> &NodeAddress {
        &self.peer
    }

    /// Ends it for good.
    pub(crate) fn close(&self) {
        self.connected.set(false);
        self.closed.raise();
    }

    /// Queues a message for the next flush. While there is no connection it is lost, as messages
    /// may be.
    pub(crate) fn send(&self, message: &Message) {
        let mut outgoing = self.outgoing.borrow_mut();
        if self.connected.get() && outgoing.len() < OUTGOING_BYTES_MAX {
            ringlite_raft::encode(self.shard, message, &mut outgoing);
        }
    }

    /// Hands what was queued to the socket.
    pub(crate) fn flush(&self) {
        if !self.outgoing.borrow().is_empty() {
            self.written.raise();
        }
    }

    /// Keeps the link up until it is closed.
    pub(crate) async fn run(self: Rc<Self>, shard: Rc<Shard>) {
        futures_lite::future::or(self.dial_for_ever(&shard), self.closed.wait()).await;
    }

    async fn dial_for_ever(&self, shard: &Shard) {
        let mut last_refusal = None;
        loop {
            let asks = shard
                .peers()
                .hello(self.peer.id, Purpose::Link, Verdict::None);
            match dial(&self.peer, &asks).await {
                Ok((stream, answer)) if answer.verdict == Verdict::Welcome => {
                    last_refusal = None;
                    self.connected.set(true);
                    let ended = match watcher(&stream) {
                        Ok(watched) => {
                            futures_lite::future::or(self.write_all(stream), end_of(watched)).await
                        }
                        Err(error) => Err(error),
                    };
                    self.connected.set(false);
                    self.outgoing.borrow_mut().clear();
                    tracing::debug!("the link to {} ended: {ended:?}", self.peer);
                }
                Ok((_, answer)) => {
                    if last_refusal != Some(answer.verdict) {
                        last_refusal = Some(answer.verdict);
                        tracing::warn!("{} refuses this node: {}", self.peer, answer.verdict);
                    }
                }
                Err(error) => tracing::debug!("{} cannot be reached: {error}", self.peer),
            }
            glommio::timer::sleep(REDIAL_AFTER).await;
        }
    }

    async fn write_all(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut writing = Vec::new();
        loop {
            self.written.wait().await;
            std::mem::swap(&mut writing, &mut self.outgoing.borrow_mut());
            stream.write_all(&writing).await?;
            writing.clear();
        }
    }
}

/// The same connection once more, to notice its end while nothing is written to it.
fn watcher(stream: &TcpStream) -> std::io::Result<TcpStream> {
    // SAFETY: the descriptor is of an open socket for as long as `stream` lives.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let watched = rustix::io::fcntl_dupfd_cloexec(socket, 0)?;
    // SAFETY: the descriptor is that of a connected TCP socket, and nobody else owns it.
    Ok(unsafe { TcpStream::from_raw_fd(watched.into_raw_fd()) })
}

/// Waits until the peer, which says nothing on this connection, has ended it. Without this, a node
/// that has nothing to say to a peer would find out that it was restarted only with the first
/// messages that get lost, such as those of an election.
async fn end_of(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read(&mut [0]).await.map(drop)
}

/// Connects to `peer`, says hello and hears the answer.
pub(crate) async fn dial(peer: &NodeAddress, asks: &Hello) -> std::io::Result<(TcpStream, Hello)> {
    let address = super::resolve(&peer.address)?;
    let mut stream = TcpStream::connect_timeout(address, HANDSHAKE_TIMEOUT).await?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    stream.write_all(&asks.encode()).await?;
    let mut answer = [0; HELLO_BYTES];
    stream.read_exact(&mut answer).await?;
    stream.set_read_timeout(None)?;
    let answer = Hello::decode(&answer)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
    Ok((stream, answer))
}

/// Reads messages of `from` until the connection ends, which the replica is told if the peer has not
/// dialled another one meanwhile.
pub(crate) async fn receive(
    shard: Rc<Shard>,
    mut stream: TcpStream,
    from: NodeId,
    incoming: Rc<Incoming>,
) {
    futures_lite::future::or(receive_all(&shard, &mut stream, from), incoming.is_cut()).await;
    if shard.peers().ended(from, &incoming) {
        shard.push(Input::PeerLost { peer: from });
    }
}

async fn receive_all(shard: &Shard, stream: &mut TcpStream, from: NodeId) {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut chunk = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(bytes) => buffer.extend_from_slice(&chunk[..bytes]),
        }
        if let Err(error) = take_messages(&mut buffer, |message| {
            shard.push(Input::Receive { from, message });
        }) {
            tracing::warn!("node {from} sent what is no message, so the link is cut: {error}");
            break;
        }
    }
}

/// Takes every whole message out of `buffer`.
fn take_messages(
    buffer: &mut BytesMut,
    mut each: impl FnMut(Message),
) -> Result<(), ringlite_raft::DecodeError> {
    while let Some(header) = buffer.first_chunk::<FRAME_HEADER_BYTES>() {
        let header = *header;
        let body_bytes = ringlite_raft::frame_body_len(&header)?;
        if buffer.len() < FRAME_HEADER_BYTES + body_bytes {
            // Grows once to the frame's size, which `frame_body_len` has bounded.
            buffer.reserve(FRAME_HEADER_BYTES + body_bytes - buffer.len());
            break;
        }
        let mut frame = buffer.split_to(FRAME_HEADER_BYTES + body_bytes);
        let body = frame.split_off(FRAME_HEADER_BYTES).freeze();
        let (_, message) = ringlite_raft::decode(&header, body)?;
        each(message);
    }
    Ok(())
}

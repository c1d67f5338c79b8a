//! The network: one listening port for clients and for the other nodes.

mod admission;
mod client;
pub(crate) mod formation;
pub(crate) mod handshake;
pub(crate) mod joining;
pub(crate) mod peer;
pub(crate) mod peers;
pub(crate) mod snapshot;

use std::cell::RefCell;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};

use crate::commands::Command;
use crate::shard::Shard;
use crate::shards::Shards;
use crate::tasks::Tasks;
use crate::wire::FailureCode;
use admission::{Admission, GREETING_TIME_MAX, Place};
use formation::SharedIdentity;
use handshake::{HELLO_BYTES, Hello, PEER_MAGIC, Purpose, Verdict};

/// The address that `HOST:PORT` names.
pub(crate) fn resolve(address: &str) -> std::io::Result<SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| {
        std::io::Error::new(
            std::io::ErrorKind::NotFound,
            format!("{address} names no address"),
        )
    })
}

/// What the connections of an executor are served with: at a first start there is no shard until the
/// cluster has formed.
pub(crate) struct Gateway {
    pub(crate) identity: SharedIdentity,
    /// The shard of this executor.
    pub(crate) shard: RefCell<Option<Rc<Shard>>>,
    /// All shards of the node.
    pub(crate) shards: Shards,
    /// The connections that this executor serves, and their acceptance.
    pub(crate) connections: Tasks,
}

/// A connection on its way to the executor of the shard that serves it.
pub(crate) enum Arrival {
    /// Another node's, which has said hello.
    Peer {
        /// The socket.
        socket: OwnedFd,
        /// What it says.
        asks: Box<Hello>,
        /// Its place.
        place: Place,
    },
    /// A client's, with a request for this shard.
    Client(client::Moved),
}

/// Takes a connection that has come from another executor.
pub(crate) fn take_over(arrival: Arrival, gateway: &Rc<Gateway>) {
    let served = arrive(arrival, Rc::clone(gateway));
    gateway.connections.spawn(served);
}

async fn arrive(arrival: Arrival, gateway: Rc<Gateway>) {
    let ended = match arrival {
        Arrival::Peer {
            socket,
            asks,
            place,
        } => greet_peer(attach(socket), gateway, asks, place).await,
        Arrival::Client(moved) => client::go_on(moved, gateway).await,
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Takes a socket away from this executor. What has arrived on it and was not read stays there: glommio
/// waits for a socket before it reads, and reads only into the buffer of whoever asks.
fn detach(stream: &TcpStream) -> std::io::Result<OwnedFd> {
    // SAFETY: the descriptor is of an open socket for as long as `stream` lives.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    Ok(rustix::io::fcntl_dupfd_cloexec(socket, 0)?)
}

/// Makes a socket one of this executor.
fn attach(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is that of a connected TCP socket, and nobody else owns it.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// Accepts connections for ever.
pub(crate) async fn serve(listener: std::net::TcpListener, gateway: Rc<Gateway>) {
    let admission = Arc::new(Admission::of_process());
    // glommio's own `bind` sets SO_REUSEPORT, with which a second node on the same port would
    // start without a word and take half of the connections.
    // SAFETY: the descriptor is that of a bound and listening TCP socket, and nobody else owns it.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    loop {
        admission.room().await;
        match listener.accept().await {
            Ok(stream) => {
                let place = admission.accepted();
                let greeted = greet(stream, Rc::clone(&gateway), place);
                gateway.connections.spawn(async move {
                    if let Err(error) = greeted.await {
                        tracing::debug!("a connection ended: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: some connection has to end first.
                tracing::warn!("a connection cannot be accepted: {error}");
                glommio::timer::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Learns from the first word who calls.
async fn greet(mut stream: TcpStream, gateway: Rc<Gateway>, place: Place) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    admission::notice_death(&stream)?;
    let greeting = admission::in_time(GREETING_TIME_MAX, read_greeting(&mut stream));
    match greeting.await? {
        Greeting::Peer(asks) => greet_peer(stream, gateway, asks, place).await,
        Greeting::Client { version } => match place.becomes_client() {
            Err(refusal) => client::refuse(&mut stream, FailureCode::Busy, refusal).await,
            Ok(()) => client::serve(stream, version, gateway, place).await,
        },
    }
}

/// What a connection begins with.
enum Greeting {
    Client { version: u64 },
    Peer(Box<Hello>),
}

async fn read_greeting(stream: &mut TcpStream) -> std::io::Result<Greeting> {
    let mut bytes = [0; HELLO_BYTES];
    let mut word = [0; PEER_MAGIC.len()];
    stream.read_exact(&mut word).await?;
    if word != PEER_MAGIC {
        let version = u64::from_le_bytes(word);
        return Ok(Greeting::Client { version });
    }
    bytes[..word.len()].copy_from_slice(&word);
    stream.read_exact(&mut bytes[word.len()..]).await?;
    let asks = Hello::decode(&bytes)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
    Ok(Greeting::Peer(Box::new(asks)))
}

async fn greet_peer(
    mut stream: TcpStream,
    gateway: Rc<Gateway>,
    asks: Box<Hello>,
    place: Place,
) -> std::io::Result<()> {
    let shard = gateway.shard.borrow().clone();
    let Some(shard) = shard else {
        let answer = formation::answer_while_forming(&gateway.identity.borrow(), &asks);
        return stream.write_all(&answer.encode()).await;
    };
    if u32::from(asks.shard) != shard.place().number
        && let Some(all) = gateway.shards.all()
        && let Some(wanted) = all.get(usize::from(asks.shard))
    {
        let arrival = Arrival::Peer {
            socket: detach(&stream)?,
            asks,
            place,
        };
        // A shard that has stopped closes the connection.
        let _ = wanted.commands.send(Command::Arrive(Box::new(arrival)));
        return Ok(());
    }
    // A number that no shard has is judged as the rest is.
    let answer = shard.peers().answer(&asks);
    // Before the answer, which lets the peer send: what it then says can be answered.
    let accepted = (answer.verdict == Verdict::Welcome && asks.purpose == Purpose::Link)
        .then(|| shard.accept_peer(&asks));
    stream.write_all(&answer.encode()).await?;
    if let Some(incoming) = accepted {
        peer::receive(shard, stream, asks.sender, incoming).await;
    } else if answer.verdict == Verdict::Welcome && asks.purpose == Purpose::Snapshot {
        snapshot::receive(shard, stream).await;
    } else if answer.verdict == Verdict::Welcome && asks.purpose == Purpose::Pages {
        snapshot::give_pages(shard, stream).await?;
    }
    Ok(())
}

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
use std::os::fd::{FromRawFd as _, IntoRawFd as _};
use std::rc::Rc;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};

use crate::shard::Shard;
use crate::wire::FailureCode;
pub(crate) use admission::Admission;
use admission::{GREETING_TIME_MAX, Place};
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

/// What connections are served with: at a first start there is no shard until the cluster has
/// formed.
pub(crate) struct Gateway {
    pub(crate) admission: Rc<Admission>,
    pub(crate) identity: SharedIdentity,
    pub(crate) shard: RefCell<Option<Rc<Shard>>>,
}

/// Accepts connections for ever.
pub(crate) async fn serve(listener: std::net::TcpListener, gateway: Rc<Gateway>) {
    // glommio's own `bind` sets SO_REUSEPORT, with which a second node on the same port would
    // start without a word and take half of the connections.
    // SAFETY: the descriptor is that of a bound and listening TCP socket, and nobody else owns it.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    loop {
        gateway.admission.room().await;
        match listener.accept().await {
            Ok(stream) => {
                let place = gateway.admission.accepted();
                let gateway = Rc::clone(&gateway);
                glommio::spawn_local(async move {
                    if let Err(error) = greet(stream, gateway, place).await {
                        tracing::debug!("a connection ended: {error}");
                    }
                })
                .detach();
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
        Greeting::Peer(asks) => greet_peer(stream, gateway, *asks).await,
        Greeting::Client { version } => match place.becomes_client() {
            Err(refusal) => client::refuse(&mut stream, FailureCode::Busy, refusal).await,
            Ok(()) => client::serve(stream, version, gateway).await,
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
    asks: Hello,
) -> std::io::Result<()> {
    let shard = gateway.shard.borrow().clone();
    let Some(shard) = shard else {
        let answer = formation::answer_while_forming(&gateway.identity.borrow(), &asks);
        return stream.write_all(&answer.encode()).await;
    };
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

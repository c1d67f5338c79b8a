//! Who may connect: no more clients than the process has descriptors for, less some for the node's own
//! files and its links to other nodes. (Each open database takes two: a node with hundreds of them wants
//! a higher limit.)

use std::io::{ErrorKind, Result};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use glommio::net::TcpStream;
use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit};

/// Clients leave at least so many descriptors to the node, or a quarter of all.
const OWN_DESCRIPTORS_MIN: usize = 96;
/// A connection that has not said by then who it is, is closed.
pub(super) const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
/// One of which nothing was heard for so long is asked for a sign of life, so often, and then closed.
const SILENCE_TIME_MAX: Duration = Duration::from_secs(60);
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(10);
const SIGNS_OF_LIFE_MAX: u32 = 3;

/// Has the kernel close the connection if the other end's machine has gone without a word.
pub(super) fn notice_death(stream: &TcpStream) -> Result<()> {
    // SAFETY: the stream, which owns the descriptor, is borrowed for as long.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    sockopt::set_tcp_keepidle(socket, SILENCE_TIME_MAX)?;
    sockopt::set_tcp_keepintvl(socket, SIGN_OF_LIFE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, SIGNS_OF_LIFE_MAX)?;
    sockopt::set_socket_keepalive(socket, true)?;
    Ok(())
}

/// What `does` comes to, if it does within `time`.
pub(super) async fn in_time<T>(time: Duration, does: impl Future<Output = Result<T>>) -> Result<T> {
    let late = async {
        glommio::timer::sleep(time).await;
        Err(ErrorKind::TimedOut.into())
    };
    futures_lite::future::or(does, late).await
}

/// How many connections there are, on all shards of the node, and how many there may be.
pub(crate) struct Admission {
    descriptors: usize,
    clients_max: usize,
    connections_max: usize,
    clients: AtomicUsize,
    connections: AtomicUsize,
    /// Filled when a connection ends.
    ended: flume::Sender<()>,
    has_ended: flume::Receiver<()>,
}

impl Admission {
    /// As many as the process's limit of descriptors allows.
    pub(crate) fn of_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::of(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn of(descriptors: usize) -> Self {
        let own = OWN_DESCRIPTORS_MIN.max(descriptors / 4);
        // Who waits looks again after it; so one word is enough for any number of ends.
        let (ended, has_ended) = flume::bounded(1);
        Self {
            descriptors,
            clients_max: descriptors.saturating_sub(own).max(1),
            // The rest is for the other nodes, and for those who have not said what they are.
            connections_max: descriptors.saturating_sub(own / 2).max(2),
            clients: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            ended,
            has_ended,
        }
    }

    /// Waits until one more connection may be accepted. Only one task may wait.
    pub(super) async fn room(&self) {
        while self.connections.load(Ordering::SeqCst) >= self.connections_max {
            // This end of the channel and the other one live as long as each other.
            let _ = self.has_ended.recv_async().await;
        }
    }

    /// A connection was accepted.
    pub(super) fn accepted(self: &Arc<Self>) -> Place {
        self.connections.fetch_add(1, Ordering::SeqCst);
        Place {
            admission: Arc::clone(self),
            is_client: AtomicBool::new(false),
        }
    }
}

/// The place of one connection, until it is dropped. It goes with the connection to another shard.
pub(crate) struct Place {
    admission: Arc<Admission>,
    is_client: AtomicBool,
}

impl Place {
    /// The connection is a client's. Says what to tell one that is too many.
    pub(super) fn becomes_client(&self) -> std::result::Result<(), String> {
        let admission = &self.admission;
        // Only the executor that accepts connections comes here.
        if admission.clients.load(Ordering::SeqCst) >= admission.clients_max {
            return Err(format!(
                "this node has {} clients, as many as its {} file descriptors allow: close some, or \
                 start it with a higher limit (ulimit -n)",
                admission.clients_max, admission.descriptors
            ));
        }
        admission.clients.fetch_add(1, Ordering::SeqCst);
        self.is_client.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let admission = &self.admission;
        admission.connections.fetch_sub(1, Ordering::SeqCst);
        if self.is_client.load(Ordering::SeqCst) {
            admission.clients.fetch_sub(1, Ordering::SeqCst);
        }
        // Full is as good.
        let _ = admission.ended.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn clients_leave_descriptors_to_the_node_and_places_come_back() {
        let admission = Arc::new(Admission::of(200));
        let clients: Vec<_> = (0..104).map(|_| admission.accepted()).collect();
        assert!(clients.iter().all(|place| place.becomes_client().is_ok()));
        let mut others: Vec<_> = (0..48).map(|_| admission.accepted()).collect();
        let refusal = others[0].becomes_client().unwrap_err();
        assert!(refusal.contains("104 clients") && refusal.contains("200 file"));
        block_on(async {
            assert!(poll_once(admission.room()).await.is_none());
            others.pop();
            assert!(poll_once(admission.room()).await.is_some());
        });
        drop(clients);
        assert!(others[0].becomes_client().is_ok());
    }

    #[test]
    fn a_process_with_few_descriptors_serves_somebody() {
        let admission = Arc::new(Admission::of(20));
        assert!(admission.accepted().becomes_client().is_ok());
    }
}

//! The way from other threads to the executor of one of the node's shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backup::BackupHead;
use crate::error::Result;
use crate::net::Arrival;
use crate::readers::ReadDatabase;
use crate::replica::Status;
use crate::replica::request::{Reply, Request, SessionId, SessionOptions};
use crate::stages::StageTimes;
use crate::wire::DatabaseEntry;

/// What other threads ask of a shard's executor.
pub(crate) enum Command {
    Ask {
        session: SessionId,
        options: SessionOptions,
        request: Request,
        reply: flume::Sender<Result<Reply>>,
    },
    CloseSession(SessionId),
    Interrupt(SessionId),
    /// The database of this name, for readers on other threads.
    Read {
        name: String,
        reply: flume::Sender<Result<Arc<ReadDatabase>>>,
    },
    Status(flume::Sender<Status>),
    Stages(flume::Sender<Vec<StageTimes>>),
    Databases(flume::Sender<Vec<DatabaseEntry>>),
    Backup {
        database: String,
        pieces: flume::Sender<Result<BackupPiece>>,
    },
    /// A connection that is this shard's to serve.
    Arrive(Box<Arrival>),
    /// The first shard has told the others something.
    Follow,
    Stop,
}

/// What a copy that another thread has asked for consists of: a head, then pages.
pub(crate) enum BackupPiece {
    Head(BackupHead),
    Pages(Vec<u8>),
}

/// The shard has stopped: nobody takes commands any more.
#[derive(Debug)]
pub(crate) struct Closed;

/// Hands commands over; clones are of the same shard.
#[derive(Clone)]
pub(crate) struct Commands {
    sender: flume::Sender<Command>,
    closed: Arc<AtomicBool>,
}

/// Takes commands. When it is dropped, those that wait are dropped with their ends of replies.
pub(crate) struct Incoming {
    receiver: flume::Receiver<Command>,
    closed: Arc<AtomicBool>,
}

/// A new way.
pub(crate) fn channel() -> (Commands, Incoming) {
    let (sender, receiver) = flume::unbounded();
    let closed = Arc::new(AtomicBool::new(false));
    let incoming = Incoming {
        receiver,
        closed: Arc::clone(&closed),
    };
    (Commands { sender, closed }, incoming)
}

impl Commands {
    /// Hands a command over. On success its reply comes, or the other end of it is dropped: it may
    /// be waited for without a limit.
    ///
    /// A command that is sent while the receiver goes away can stay in the channel, whose senders
    /// keep it alive: nobody would ever drop it. So the receiver first says that it has gone and
    /// then empties the channel, and the sender looks for that after it has sent: one of the two
    /// finds the other.
    pub(crate) fn send(&self, command: Command) -> std::result::Result<(), Closed> {
        self.sender.send(command).map_err(|_| Closed)?;
        if self.is_closed() {
            return Err(Closed);
        }
        Ok(())
    }

    /// Whether the shard has stopped.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Incoming {
    /// The next command; None if nobody can send any more.
    pub(crate) async fn recv(&self) -> Option<Command> {
        self.receiver.recv_async().await.ok()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        drop(self.receiver.drain());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_nobody_takes_any_more_lets_its_asker_go() {
        let (commands, incoming) = channel();
        let (reply, status) = flume::bounded(1);
        commands.send(Command::Status(reply)).unwrap();
        drop(incoming);
        assert!(status.recv().is_err());
        let (reply, _status) = flume::bounded(1);
        assert!(commands.send(Command::Status(reply)).is_err());
    }
}

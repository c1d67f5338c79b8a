//! A node: one process, or one embedded instance, with one data directory and one id.

mod builder;
mod life;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glommio::ExecutorJoinHandle;
use ringlite_vfs::PageSize;

pub use self::builder::NodeBuilder;
use crate::commands::{Command, Commands};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::forward;
use crate::replica::request::{Admin, Request, SessionId, SessionOptions};
use crate::replica::{NodeAddress, Status};
use crate::shards::{ShardHandle, Shards};
use crate::stages::StageTimes;
use crate::storage::StorageError;
use crate::wire::DatabaseEntry;

/// Sessions of callers in this process; those of connections count from 1.
const EMBEDDED_SESSION_BIT: u64 = 1 << 63;

/// Why a node does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The settings do not make sense together.
    #[error("{what}")]
    Settings {
        /// What does not, and what to do.
        what: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(Box<StorageError>),
    /// The cluster does not take the node.
    #[error("this node cannot join the cluster: {reason}")]
    Join {
        /// What the leader says.
        reason: String,
    },
    /// No executor with io_uring can be had.
    #[error(
        "cannot start an io_uring executor on core {core}: {reason}; it needs Linux 5.8 or newer, \
         io_uring allowed, and 4 MiB of lockable memory"
    )]
    Executor {
        /// The core.
        core: usize,
        /// glommio's words.
        reason: String,
    },
    /// The node had to stop.
    #[error("the node stopped: {reason}")]
    Halted {
        /// Why.
        reason: String,
    },
    /// No leader was found in time.
    #[error("no leader after {waited:?}: is a majority of the members running?")]
    NoLeader {
        /// How long it was waited for.
        waited: Duration,
    },
}

impl From<StorageError> for NodeError {
    fn from(error: StorageError) -> Self {
        Self::Storage(Box::new(error))
    }
}

fn settings(what: impl Into<String>) -> NodeError {
    NodeError::Settings { what: what.into() }
}

fn stopped() -> NodeError {
    NodeError::Halted {
        reason: "it was asked to".into(),
    }
}

/// A running node. Dropping it stops it.
pub struct Node {
    /// Those of its first shard, which forms the cluster and lives as long as the node.
    commands: Commands,
    shards: Shards,
    sessions: Arc<AtomicU64>,
    thread: Option<ExecutorJoinHandle<std::result::Result<(), NodeError>>>,
    others: life::OtherShards,
}

impl Node {
    /// Settings for a node with its data in `data`, which is created if it is missing.
    pub fn builder(data: impl AsRef<Path>) -> NodeBuilder {
        NodeBuilder::new(data.as_ref())
    }

    /// The database of this name, created if there is none.
    ///
    /// On a node that does not lead, its calls go to the leader by themselves, except for reads at the
    /// level [`ReadLevel::Local`](crate::ReadLevel::Local). One that this node has a copy of can also be
    /// had while there is no leader.
    ///
    /// # Errors
    /// [`Error::NotLeader`] if this node has no such database, and no leader is found within 10 s.
    pub fn database(&self, name: &str) -> Result<Database> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let shard = self.shard_of(name)?;
        let database = Database::new(
            shard.commands.clone(),
            Arc::clone(&self.sessions),
            session,
            name,
            Arc::clone(&shard.readers),
        );
        database.open()?;
        Ok(database)
    }

    /// Creates a database with pages of a certain size, which stays what it is for ever.
    /// [`Node::database`] creates them with pages of 4096 bytes.
    ///
    /// # Errors
    /// If there is one of this name, or `page_size_bytes` is no power of two from 512 to 65536;
    /// [`Error::NotLeader`] if no leader is found within 10 s; after [`Error::OutcomeUnknown`] it may be
    /// there or not.
    pub fn create_database(&self, name: &str, page_size_bytes: u32) -> Result<()> {
        let page_size = PageSize::new(page_size_bytes)
            .map_err(|error| Error::misuse(rusqlite::ffi::SQLITE_MISUSE, error.to_string()))?;
        let name = name.to_owned();
        self.administer(self.shard_of(&name)?, &Admin::Create { name, page_size })
    }

    /// Drops a database: what is open on it is ended, its file is removed on every node, and its
    /// name is free.
    ///
    /// # Errors
    /// If there is none of this name; [`Error::NotLeader`] if no leader is found within 10 s; after
    /// [`Error::OutcomeUnknown`] it may be there or not.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.administer(self.shard_of(&name)?, &Admin::Drop { name })
    }

    /// The shard that a database of this name is in. A node whose cluster has not formed waits for that as
    /// for a leader.
    fn shard_of(&self, name: &str) -> Result<&ShardHandle> {
        let deadline = Instant::now() + forward::LEADER_TIMEOUT;
        loop {
            if let Some(shard) = self.shards.of(name) {
                return Ok(shard);
            }
            if self.commands.is_closed() {
                return Err(Error::Stopped);
            }
            if Instant::now() >= deadline {
                return Err(Error::NotLeader { leader: None });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn administer(&self, shard: &ShardHandle, admin: &Admin) -> Result<()> {
        let (reply, answer) = flume::bounded(1);
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let asked = shard.commands.send(Command::Ask {
            session,
            options: SessionOptions::default(),
            request: Request::Admin(admin.clone()),
            reply,
        });
        asked.map_err(|_| Error::Stopped)?;
        match answer.recv().map_err(|_| Error::Stopped)? {
            Err(Error::NotLeader { .. }) => forward::administer(&shard.readers, admin),
            reply => reply.map(|_| ()),
        }
    }

    /// The databases as this node has applied them, by name.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn databases(&self) -> Result<Vec<DatabaseEntry>> {
        let mut databases = self.ask_all(Command::Databases)?.concat();
        databases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(databases)
    }

    /// Where the node stands, as its first shard has it; `None` before it has started and after it has
    /// stopped.
    pub fn status(&self) -> Option<Status> {
        let (reply, status) = flume::bounded(1);
        self.commands.send(Command::Status(reply)).ok()?;
        status.recv().ok()
    }

    /// Where each of its shards stands, in order.
    ///
    /// # Errors
    /// [`Error::Stopped`], also before it has started.
    pub fn shard_statuses(&self) -> Result<Vec<Status>> {
        self.ask_all(Command::Status)
    }

    /// How long each stage of the commits that this node led has taken, since it was started: those of its
    /// shards one behind the other. On a node that does not lead only those of its own log have been gone
    /// through.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn stages(&self) -> Result<Vec<StageTimes>> {
        Ok(self.ask_all(Command::Stages)?.concat())
    }

    /// Asks each shard, in order.
    fn ask_all<T>(&self, ask: impl Fn(flume::Sender<T>) -> Command) -> Result<Vec<T>> {
        let all = self.shards.all().ok_or(Error::Stopped)?;
        let ask_one = |shard: &ShardHandle| {
            let (reply, answer) = flume::bounded(1);
            let asked = shard.commands.send(ask(reply));
            asked.map_err(|_| Error::Stopped)?;
            answer.recv().map_err(|_| Error::Stopped)
        };
        all.iter().map(ask_one).collect()
    }

    /// Waits until a leader serves.
    ///
    /// # Errors
    /// If none does within `timeout`, or the node stops.
    pub fn wait_for_leader(
        &self,
        timeout: Duration,
    ) -> std::result::Result<NodeAddress, NodeError> {
        let start = Instant::now();
        let deadline = start + timeout;
        loop {
            if let Some(leader) = self.status().and_then(|status| status.leader) {
                return Ok(leader);
            }
            if Instant::now() >= deadline || self.commands.is_closed() {
                return Err(NodeError::NoLeader {
                    waited: start.elapsed(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until each shard has a leader that serves.
    fn wait_for_all_leaders(&self, timeout: Duration) -> std::result::Result<(), NodeError> {
        let start = Instant::now();
        loop {
            let statuses = self.shard_statuses();
            let is_led = |status: &Status| status.leader.is_some();
            if statuses.is_ok_and(|statuses| statuses.iter().all(is_led)) {
                return Ok(());
            }
            if start.elapsed() >= timeout || self.commands.is_closed() {
                return Err(NodeError::NoLeader {
                    waited: start.elapsed(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A handle that stops the node from elsewhere.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + use<> {
        let commands = self.commands.clone();
        move || drop(commands.send(Command::Stop))
    }

    /// Waits until the node has stopped.
    ///
    /// # Errors
    /// If it stopped because it could not go on.
    pub fn wait(mut self) -> std::result::Result<(), NodeError> {
        self.join()
    }

    /// Stops the node and waits for it.
    ///
    /// # Errors
    /// If it could not go on before.
    pub fn stop(mut self) -> std::result::Result<(), NodeError> {
        drop(self.commands.send(Command::Stop));
        self.join()
    }

    fn join(&mut self) -> std::result::Result<(), NodeError> {
        let first = self.thread.take().map_or(Ok(()), life::end_of);
        self.others.wait().and(first)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.commands.send(Command::Stop));
        if let Err(error) = self.join() {
            tracing::error!("{error}");
        }
    }
}

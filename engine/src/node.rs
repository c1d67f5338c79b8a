//! A node: one process, or one embedded instance, with one data directory and one id.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};
use ringlite_raft::NodeId;
use ringlite_vfs::{Extension, PageSize, VfsOptions};

use crate::backup::Backup;
use crate::commands::{self, BackupPiece, Command, Commands, Incoming};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::extensions::Extensions;
use crate::net::peer::PeerLink;
use crate::net::{Gateway, formation};
use crate::readers::Readers;
use crate::replica::request::{Admin, Request, SessionId, SessionOptions};
use crate::replica::{self, Config, Input, NodeAddress, Replica, Status};
use crate::shard::{self, Shard};
use crate::sql::workers::WorkerCores;
use crate::sql::{self, RunLimits, Sql};
use crate::storage::{self, DataDirectory, ManifestFile, StorageError};
use crate::wire::DatabaseEntry;

/// Below glommio's default, which is above the usual limit of locked memory.
const IO_MEMORY_BYTES: usize = 4 << 20;
/// Threads for what blocks: a backfill, a digest, and the executor's own calls.
const BLOCKING_THREADS: usize = 3;
/// A segment holds at least one record of the largest size.
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
/// How long a stop may take to move what is committed into the database files.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a port that is in use is waited for.
const PORT_TIMEOUT: Duration = Duration::from_secs(1);
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

/// Settings of a node, for [`Node::builder`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    data: PathBuf,
    listen: Option<String>,
    id: u64,
    members: Vec<NodeAddress>,
    core: Option<usize>,
    segment_bytes: u64,
    transaction_bytes: u64,
    wal_bytes: u64,
    log_window_bytes: u64,
    snapshot_bytes_per_second: u64,
    vacuum_directory: Option<PathBuf>,
    extensions: Vec<Extension>,
    limits: RunLimits,
    snapshot_time: Duration,
}

impl NodeBuilder {
    /// Where to listen for clients and the other nodes, `HOST:PORT`. Without it a node is reached
    /// only from its own process.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// The node's id in its cluster; 1 unless told.
    #[must_use]
    pub fn id(mut self, id: u64) -> Self {
        self.id = id;
        self
    }

    /// All members of a fixed cluster, this node included, by id and `HOST:PORT`. Without it the
    /// node is a cluster of one.
    #[must_use]
    pub fn cluster(mut self, members: impl IntoIterator<Item = (u64, String)>) -> Self {
        self.members = members
            .into_iter()
            .map(|(id, address)| NodeAddress {
                id: NodeId(id),
                address,
            })
            .collect();
        self
    }

    /// The core that the node is pinned to; by default spread by id over the allowed ones.
    #[must_use]
    pub fn core(mut self, core: usize) -> Self {
        self.core = Some(core);
        self
    }

    /// The size of a log segment in bytes: a multiple of 4 MiB, 64 MiB unless told.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// How many bytes of pages one transaction may write, VACUUM and CREATE INDEX included; 64 MiB
    /// unless told. It is kept in memory on every node until it is committed. A larger one fails and
    /// is rolled back.
    #[must_use]
    pub fn transaction_bytes(mut self, bytes: u64) -> Self {
        self.transaction_bytes = bytes;
        self
    }

    /// How many bytes of pages the WAL in memory of a database may hold before it is begun anew, 32
    /// MiB unless told. A quarter of it is moved into the file at once; readers that stand in the
    /// way are ended at four times as much. Less takes less memory, more writes less to the disk.
    #[must_use]
    pub fn wal_bytes(mut self, bytes: u64) -> Self {
        self.wal_bytes = bytes;
        self
    }

    /// How many bytes at the end of the log are kept for members that lack them, 256 MiB unless told.
    /// A member that was down, or slow, for longer gets a snapshot of all databases instead.
    #[must_use]
    pub fn log_window_bytes(mut self, bytes: u64) -> Self {
        self.log_window_bytes = bytes;
        self
    }

    /// How many bytes a second leave at the most for a member that gets a snapshot, 64 MiB unless
    /// told. More has it there sooner, less leaves more of the disks and the network to commits.
    #[must_use]
    pub fn snapshot_rate(mut self, bytes_per_second: u64) -> Self {
        self.snapshot_bytes_per_second = bytes_per_second;
        self
    }

    /// Lets SQL write copies of a database into `directory` with `VACUUM INTO 'FILE'`; without it
    /// that statement is refused.
    #[must_use]
    pub fn vacuum_into(mut self, directory: impl AsRef<Path>) -> Self {
        self.vacuum_directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Loads an extension of SQLite into every session, behind those that were named before. All
    /// nodes of a cluster need the same list: equal file names, entry points and contents, in the
    /// same order. Nodes whose lists differ do not talk to each other. SQL cannot load any.
    ///
    /// Without `entry_point` SQLite derives the name of the function that sets it up.
    #[must_use]
    pub fn extension(mut self, path: impl AsRef<Path>, entry_point: Option<&str>) -> Self {
        self.extensions.push(Extension {
            path: path.as_ref().to_owned(),
            entry_point: entry_point.map(str::to_owned),
        });
        self
    }

    /// How long a statement may run, 30 s unless told; zero for no limit.
    #[must_use]
    pub fn statement_time(mut self, limit: Duration) -> Self {
        self.limits.statement_time = limit;
        self
    }

    /// How long a session that does not write may hold a snapshot, 30 s unless told. It is then
    /// ended with a clear error, so that the pages that only it needs can be let go.
    #[must_use]
    pub fn snapshot_time(mut self, limit: Duration) -> Self {
        self.snapshot_time = limit;
        self
    }

    /// Starts the node on a thread of its own. A cluster of one serves when this returns; a
    /// member of a larger one may still be waiting for the others.
    ///
    /// # Errors
    /// If the settings, the address or the data directory cannot be used.
    pub fn start(mut self) -> std::result::Result<Node, NodeError> {
        let id = NodeId(self.id);
        if id.0 == 0 {
            return Err(NodeError::Settings {
                what: "a node's id is a number from 1".into(),
            });
        }
        if self.segment_bytes < SEGMENT_BYTES_MIN
            || !self.segment_bytes.is_multiple_of(SEGMENT_BYTES_MIN)
        {
            return Err(NodeError::Settings {
                what: format!(
                    "a segment of {} bytes is not a multiple of {SEGMENT_BYTES_MIN} bytes",
                    self.segment_bytes
                ),
            });
        }
        self.check_members()?;
        let vacuum_directory = self.vacuum_directory()?;
        let extensions = Extensions::read(std::mem::take(&mut self.extensions))
            .map_err(|what| NodeError::Settings { what })?;
        let own_address = self.own_address(id)?;
        let listener = self.listen.as_deref().map(bind).transpose()?;
        if self.members.is_empty() {
            self.members = vec![NodeAddress {
                id,
                address: own_address,
            }];
        }
        let mut directory = DataDirectory::open(&self.data, id, &self.members, self.segment_bytes)?;
        directory.set_extensions(extensions.digest);
        let core = match self.core {
            Some(core) => core,
            None => default_core(id),
        };
        let (commands, incoming) = commands::channel();
        let (started, has_started) = flume::bounded(1);
        let alone = self.members.len() == 1;
        let worker_cores = WorkerCores::beside(core);
        let cores = worker_cores.clone();
        let readers = Arc::new(Readers::new(self.limits, self.snapshot_time, cores));
        let setup = ShardSetup {
            members: self.members,
            transaction_bytes: self.transaction_bytes,
            wal_bytes: self.wal_bytes,
            log_window_bytes: self.log_window_bytes,
            snapshot_bytes_per_second: self.snapshot_bytes_per_second,
            limits: self.limits,
            vacuum_directory,
            extensions: extensions.list,
            snapshot_time: self.snapshot_time,
            worker_cores,
            readers: Arc::clone(&readers),
        };
        let thread = LocalExecutorBuilder::new(Placement::Fixed(core))
            .name("ringlite")
            .io_memory(IO_MEMORY_BYTES)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .spawn(move || run(directory, setup, listener, incoming, started))
            .map_err(|error| NodeError::Executor {
                core,
                reason: error.to_string(),
            })?;
        let node = Node {
            commands,
            readers,
            sessions: Arc::new(AtomicU64::new(EMBEDDED_SESSION_BIT)),
            thread: Some(thread),
        };
        if alone {
            // A failed start drops its end; the reason is then in the thread's result.
            if has_started.recv().is_err() {
                return Err(node.wait().err().unwrap_or_else(stopped));
            }
            if let Err(error) = node.wait_for_leader(Duration::from_secs(10)) {
                // It has stopped, and tells why.
                if node.commands.is_closed() {
                    return Err(node.wait().err().unwrap_or_else(stopped));
                }
                return Err(error);
            }
        }
        Ok(node)
    }

    /// The absolute path of the directory for `VACUUM INTO`.
    fn vacuum_directory(&self) -> std::result::Result<Option<PathBuf>, NodeError> {
        let Some(directory) = &self.vacuum_directory else {
            return Ok(None);
        };
        match directory.canonicalize() {
            Ok(path) if path.is_dir() => Ok(Some(path)),
            Ok(_) => Err("it is no directory".to_owned()),
            Err(error) => Err(error.to_string()),
        }
        .map_err(|reason| NodeError::Settings {
            what: format!(
                "VACUUM INTO cannot write into {}: {reason}; name a directory that is there",
                directory.display()
            ),
        })
    }

    /// No two members have one id or one address.
    fn check_members(&self) -> std::result::Result<(), NodeError> {
        for (position, member) in self.members.iter().enumerate() {
            let mut before = self.members[..position].iter();
            if before.any(|other| other.id == member.id || other.address == member.address) {
                return Err(NodeError::Settings {
                    what: format!("{member} is in the list of members twice"),
                });
            }
        }
        Ok(())
    }

    /// The address by which clients and other nodes know this one.
    fn own_address(&self, id: NodeId) -> std::result::Result<String, NodeError> {
        if self.members.is_empty() {
            return Ok(self.listen.clone().unwrap_or_default());
        }
        match self.members.iter().find(|member| member.id == id) {
            Some(_) if self.listen.is_none() => Err(NodeError::Settings {
                what: "a member of a cluster needs an address to listen on".into(),
            }),
            Some(member) => Ok(member.address.clone()),
            None => Err(NodeError::Settings {
                what: format!("node {} is not in the list of members", id.0),
            }),
        }
    }
}

/// Listens on `address`.
///
/// The kernel takes an io_uring apart behind a process's end, and only then closes the sockets
/// that it waited for: a node that is started right after it was killed finds its own port taken
/// for some milliseconds.
fn bind(address: &str) -> std::result::Result<TcpListener, NodeError> {
    let deadline = Instant::now() + PORT_TIMEOUT;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(source) => {
                return Err(NodeError::Listen {
                    address: address.to_owned(),
                    source,
                });
            }
        }
    }
}

fn stopped() -> NodeError {
    NodeError::Halted {
        reason: "it was asked to".into(),
    }
}

/// The core for a node that was not told: several nodes on one machine get different ones.
fn default_core(id: NodeId) -> usize {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return 0;
    };
    let cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    let turn = (id.0.saturating_sub(1) as usize) % cores.len().max(1);
    cores.get(turn).copied().unwrap_or(0)
}

/// A running node. Dropping it stops it.
pub struct Node {
    commands: Commands,
    readers: Arc<Readers>,
    sessions: Arc<AtomicU64>,
    thread: Option<ExecutorJoinHandle<std::result::Result<(), NodeError>>>,
}

impl Node {
    /// Settings for a node with its data in `data`, which is created if it is missing.
    pub fn builder(data: impl AsRef<Path>) -> NodeBuilder {
        NodeBuilder {
            data: data.as_ref().to_owned(),
            listen: None,
            id: 1,
            members: Vec::new(),
            core: None,
            segment_bytes: storage::SEGMENT_BYTES_DEFAULT,
            vacuum_directory: None,
            extensions: Vec::new(),
            transaction_bytes: sql::TRANSACTION_BYTES_DEFAULT,
            wal_bytes: replica::WAL_BYTES_DEFAULT,
            log_window_bytes: replica::LOG_WINDOW_BYTES_DEFAULT,
            snapshot_bytes_per_second: shard::SNAPSHOT_RATE_DEFAULT,
            limits: RunLimits::default(),
            snapshot_time: Duration::from_secs(30),
        }
    }

    /// The database of this name, created if there is none.
    ///
    /// On a node that does not lead, a database that exists can be had too, for reads at the level
    /// [`ReadLevel::Local`](crate::ReadLevel::Local); everything else fails with
    /// [`Error::NotLeader`] there.
    ///
    /// # Errors
    /// [`Error::NotLeader`] on a node that does not lead and has no such database.
    pub fn database(&self, name: &str) -> Result<Database> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let database = Database::new(
            self.commands.clone(),
            Arc::clone(&self.sessions),
            session,
            name,
            Arc::clone(&self.readers),
        );
        match database.open() {
            Err(Error::NotLeader { leader }) if database.read_database().is_err() => {
                Err(Error::NotLeader { leader })
            }
            Ok(()) | Err(Error::NotLeader { .. }) => Ok(database),
            Err(error) => Err(error),
        }
    }

    /// Creates a database with pages of a certain size, which stays what it is for ever.
    /// [`Node::database`] creates them with pages of 4096 bytes.
    ///
    /// # Errors
    /// If there is one of this name, or `page_size_bytes` is no power of two from 512 to 65536;
    /// [`Error::NotLeader`] on a node that does not lead.
    pub fn create_database(&self, name: &str, page_size_bytes: u32) -> Result<()> {
        let page_size = PageSize::new(page_size_bytes)
            .map_err(|error| Error::misuse(rusqlite::ffi::SQLITE_MISUSE, error.to_string()))?;
        let name = name.to_owned();
        self.administer(Admin::Create { name, page_size })
    }

    /// Drops a database: what is open on it is ended, its file is removed on every node, and its
    /// name is free.
    ///
    /// # Errors
    /// If there is none of this name; [`Error::NotLeader`] on a node that does not lead; after
    /// [`Error::OutcomeUnknown`] it may be there or not.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.administer(Admin::Drop { name })
    }

    fn administer(&self, admin: Admin) -> Result<()> {
        let (reply, answer) = flume::bounded(1);
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let asked = self.commands.send(Command::Ask {
            session,
            options: SessionOptions::default(),
            request: Request::Admin(admin),
            reply,
        });
        asked.map_err(|_| Error::Stopped)?;
        answer.recv().map_err(|_| Error::Stopped)?.map(|_| ())
    }

    /// The databases as this node has applied them, by name.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn databases(&self) -> Result<Vec<DatabaseEntry>> {
        let (reply, databases) = flume::bounded(1);
        let asked = self.commands.send(Command::Databases(reply));
        asked.map_err(|_| Error::Stopped)?;
        databases.recv().map_err(|_| Error::Stopped)
    }

    /// Where the node stands; `None` before it has started and after it has stopped.
    pub fn status(&self) -> Option<Status> {
        let (reply, status) = flume::bounded(1);
        self.commands.send(Command::Status(reply)).ok()?;
        status.recv().ok()
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
        match self.thread.take().map(ExecutorJoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(NodeError::Halted {
                reason: format!("its thread ended: {error}"),
            }),
        }
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

/// What a shard is made with.
struct ShardSetup {
    members: Vec<NodeAddress>,
    transaction_bytes: u64,
    wal_bytes: u64,
    log_window_bytes: u64,
    snapshot_bytes_per_second: u64,
    limits: RunLimits,
    /// Where `VACUUM INTO` may write.
    vacuum_directory: Option<PathBuf>,
    extensions: Vec<Extension>,
    snapshot_time: Duration,
    worker_cores: WorkerCores,
    readers: Arc<Readers>,
}

/// The life of a node on its executor.
async fn run(
    directory: DataDirectory,
    setup: ShardSetup,
    listener: Option<TcpListener>,
    commands: Incoming,
    started: flume::Sender<()>,
) -> std::result::Result<(), NodeError> {
    let gateway = Rc::new(Gateway {
        identity: Rc::new(RefCell::new(directory.identity().clone())),
        shard: RefCell::new(None),
    });
    if let Some(listener) = listener {
        glommio::spawn_local(crate::net::serve(listener, Rc::clone(&gateway))).detach();
    }
    let starting = start_shard(directory, &setup, &gateway);
    let stopped_early = async {
        loop {
            match commands.recv().await {
                Some(Command::Stop) | None => return Err(stopped()),
                Some(Command::Ask { reply, .. }) => {
                    drop(reply.send(Err(Error::NotLeader { leader: None })));
                }
                Some(Command::Backup { pieces, .. }) => {
                    drop(pieces.send(Err(Error::NotLeader { leader: None })));
                }
                Some(Command::Read { reply, .. }) => {
                    drop(reply.send(Err(Error::NotLeader { leader: None })));
                }
                Some(
                    Command::CloseSession(_)
                    | Command::Interrupt(_)
                    | Command::Status(_)
                    | Command::Databases(_),
                ) => {}
            }
        }
    };
    // The directory stays locked as long as the shard writes to it.
    let (shard, _directory) = match futures_lite::future::or(starting, stopped_early).await {
        Ok(started) => started,
        Err(NodeError::Halted { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    // Whoever started the node may have gone away.
    let _ = started.send(());
    let served = async {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Ask {
                    session,
                    options,
                    request,
                    reply,
                } => shard.ask_remotely(session, options, request, reply),
                Command::CloseSession(session) => shard.push(Input::SessionClosed { session }),
                Command::Interrupt(session) => shard.push(Input::Interrupted { session }),
                Command::Read { name, reply } => drop(reply.send(shard.read_database(&name))),
                Command::Status(reply) => drop(reply.send(shard.status())),
                Command::Databases(reply) => drop(reply.send(shard.databases())),
                Command::Backup { database, pieces } => {
                    let backup = back_up(Rc::clone(&shard), database, pieces);
                    glommio::spawn_local(backup).detach();
                }
                Command::Stop => break,
            }
        }
        shard.flush(FLUSH_TIMEOUT).await;
        Ok(())
    };
    let halted = async {
        Err(NodeError::Halted {
            reason: shard.halted().await,
        })
    };
    let ended = futures_lite::future::or(halted, served).await;
    shard.stop();
    ended
}

/// Copies a database for another thread, which takes the pieces as fast as it can.
async fn back_up(shard: Rc<Shard>, database: String, pieces: flume::Sender<Result<BackupPiece>>) {
    let copied = async {
        let mut backup = Backup::begin(shard, &database, false).await?;
        let mut piece = BackupPiece::Head(backup.head());
        // Whoever has asked may have gone away.
        while pieces.send_async(Ok(piece)).await.is_ok() && !backup.is_complete() {
            let mut pages = Vec::new();
            backup.next_slice(&mut pages).await?;
            piece = BackupPiece::Pages(pages);
        }
        Ok(())
    };
    if let Err(error) = copied.await {
        let _ = pieces.send_async(Err(error)).await;
    }
}

async fn start_shard(
    mut directory: DataDirectory,
    setup: &ShardSetup,
    gateway: &Gateway,
) -> std::result::Result<(Rc<Shard>, DataDirectory), NodeError> {
    let members = &setup.members;
    if directory.identity().cluster.is_none() {
        let formed = formation::form(&gateway.identity, members)
            .await
            .map_err(|error| NodeError::Settings {
                what: error.to_string(),
            })?;
        directory.form(formed.clone())?;
        gateway.identity.replace(formed);
    }
    let identity = Rc::new(directory.identity().clone());
    let node = NodeId(identity.node);
    let recovered = directory.recover(members.len() == 1)?;
    let voters = members.iter().map(|member| member.id).collect();
    let raft =
        ringlite_raft::Config::new(node, voters, seed(&identity, recovered.hard_state.sequence));
    let mut config = Config::new(raft, members.clone());
    config.snapshot_ticks = shard::ticks(setup.snapshot_time);
    config.set_wal_bytes(setup.wal_bytes);
    config.log_window_bytes = setup.log_window_bytes;
    let replica = Replica::new(
        config,
        ringlite_raft::HardState {
            term: recovered.hard_state.term,
            vote: recovered.hard_state.vote,
        },
        recovered.restored_log()?,
        &recovered.databases()?,
    )
    .map_err(|error| NodeError::Settings {
        what: format!("the data directory does not fit: {error}"),
    })?;
    let mut options = VfsOptions::new(directory.databases(), directory.temporary());
    options.transaction_bytes_max = setup.transaction_bytes;
    options.extensions.clone_from(&setup.extensions);
    let mut sql = Sql::with_options(options).map_err(|error| NodeError::Settings {
        what: format!("SQLite cannot be set up: {error}"),
    })?;
    if let Some(directory) = &setup.vacuum_directory {
        sql.allow_vacuum_into(directory.clone());
    }
    sql.set_limits(setup.limits);
    let (writer, log) = storage::start(&directory, &recovered).await?;
    let peers: HashMap<_, _> = members
        .iter()
        .filter(|member| member.id != node)
        .map(|member| (member.id, PeerLink::new(member.clone())))
        .collect();
    let (manifest, _) = ManifestFile::open(&directory).await?;
    let shard = Shard::new(
        replica,
        sql,
        shard::Disk {
            writer,
            log,
            manifest,
        },
        peers.clone(),
        Arc::clone(&setup.readers),
        &setup.worker_cores,
        shard::Snapshots::new(
            Rc::clone(&identity),
            storage::StagingArea::of(&directory),
            setup.snapshot_bytes_per_second,
        ),
    )
    .map_err(|error| NodeError::Settings {
        what: format!("the threads for long statements cannot be started: {error}"),
    })?;
    shard.open_databases();
    recovered.for_each_committed(|entry| shard.replay(&entry))?;
    shard.start();
    gateway.shard.replace(Some(Rc::clone(&shard)));
    for peer in peers.into_values() {
        glommio::spawn_local(peer.run(Rc::clone(&identity))).detach();
    }
    Ok((shard, directory))
}

/// The seed of the election timeouts: another one for each node and each start.
fn seed(identity: &storage::Identity, sequence: u64) -> u64 {
    identity.incarnation ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

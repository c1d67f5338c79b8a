//! The life of a node on the executors of its shards, from its data directory to its end.

use std::cell::RefCell;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};
use ringlite_raft::{MemberRole, NodeId};
use ringlite_vfs::{Extension, VfsOptions};
use rustix::thread::CpuSet;

use super::builder::Timeouts;
use super::{NodeError, settings, stopped};
use crate::awake::{self, Awake};
use crate::backup::Backup;
use crate::commands::{self, BackupPiece, Command, Commands, Incoming};
use crate::error::{Error, Result};
use crate::net::joining::{self, Introduction};
use crate::net::peers::Peers;
use crate::net::{self, Gateway, formation};
use crate::readers::Readers;
use crate::replica::member::Member;
use crate::replica::{Config, Input, NodeAddress, Replica};
use crate::shard::{self, Shard};
use crate::shards::{SHARDS_MAX, ShardHandle, ShardPlace, Shards};
use crate::sql::workers::WorkerCores;
use crate::sql::{RunLimits, Sql};
use crate::storage::{self, DataDirectory, Identity, ManifestFile};
use crate::tasks::Tasks;

/// Below glommio's default, which is above the usual limit of locked memory.
const IO_MEMORY_BYTES: usize = 4 << 20;
/// Threads for what blocks: a backfill, a digest, and the executor's own calls.
const BLOCKING_THREADS: usize = 3;
/// How long a stop may take to move what is committed into the database files.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts to tell the leader what has changed about this node.
const INTRODUCE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What the shards of a node are made with.
#[derive(Clone)]
pub(super) struct ShardSetup {
    pub(super) introduction: Introduction,
    /// Where to ask for a place in the cluster.
    pub(super) seeds: Vec<String>,
    pub(super) voters: Option<usize>,
    pub(super) standbys: Option<usize>,
    pub(super) voter_gone_after: Duration,
    pub(super) timeouts: Timeouts,
    pub(super) lease: bool,
    pub(super) spread: bool,
    pub(super) transaction_bytes: u64,
    pub(super) wal_bytes: u64,
    pub(super) log_window_bytes: u64,
    pub(super) snapshot_bytes_per_second: u64,
    pub(super) limits: RunLimits,
    /// Where `VACUUM INTO` may write.
    pub(super) vacuum_directory: Option<PathBuf>,
    pub(super) extensions: Vec<Extension>,
    pub(super) snapshot_time: Duration,
    /// The cores of the executors, taken in turn.
    pub(super) cores: Vec<usize>,
    /// Those that this process may use, as the thread was told that starts the node: an executor's own
    /// thread has one.
    pub(super) allowed_cores: Option<CpuSet>,
    pub(super) spin: Duration,
    /// Whether cores are asked to stay awake while there is work.
    pub(super) keep_awake: bool,
    /// All shards, once they are known.
    pub(super) shards: Shards,
}

impl ShardSetup {
    /// What a shard shares with the threads that read beside it.
    fn readers(&self) -> Readers {
        Readers::new(self.limits, self.snapshot_time, self.worker_cores())
    }

    fn worker_cores(&self) -> WorkerCores {
        WorkerCores::beside(self.allowed_cores, &self.cores)
    }
}

/// The life of a node: that of its first shard, which forms the cluster and starts the others. It does not
/// wait for their ends: as soon as this one serves nobody any more, its executor is to listen to nobody.
pub(super) async fn run(
    directory: DataDirectory,
    setup: ShardSetup,
    listener: Option<TcpListener>,
    (own, commands): (Commands, Incoming),
    others: OtherShards,
    started: flume::Sender<()>,
) -> std::result::Result<(), NodeError> {
    stop_all_at_end(&setup.shards);
    let gateway = gateway_of(&directory, &setup);
    if let Some(listener) = listener {
        let accepting = net::serve(listener, Rc::clone(&gateway));
        gateway.connections.spawn(accepting);
    }
    let ended = form_and_run(
        directory,
        setup,
        &gateway,
        (own, &commands),
        others,
        started,
    )
    .await;
    gateway.connections.end().await;
    ended
}

async fn form_and_run(
    mut directory: DataDirectory,
    mut setup: ShardSetup,
    gateway: &Rc<Gateway>,
    (own, commands): (Commands, &Incoming),
    others: OtherShards,
    started: flume::Sender<()>,
) -> std::result::Result<(), NodeError> {
    let forming = form(&mut directory, &setup, gateway);
    match futures_lite::future::or(forming, refuse_until_stopped(commands, gateway)).await {
        Err(NodeError::Halted { .. }) => return Ok(()),
        formed => formed?,
    }
    // Those that no shard is on are for what runs beside them.
    setup.cores.truncate(directory.place().count as usize);
    others.start(&directory, &setup, own, &started)?;
    run_shard(directory, &setup, gateway, commands, started).await
}

/// Tells all shards to stop when this thread, which is that of one, ends. Also if a task of it has panicked:
/// the executor then drops no other task, so that no guard in one of them would do.
fn stop_all_at_end(shards: &Shards) {
    struct StopsAll(Shards);
    impl Drop for StopsAll {
        fn drop(&mut self) {
            self.0.stop();
        }
    }
    thread_local! {
        static AT_END: RefCell<Option<StopsAll>> = const { RefCell::new(None) };
    }
    AT_END.set(Some(StopsAll(shards.clone())));
}

type ShardThread = ExecutorJoinHandle<std::result::Result<(), NodeError>>;

/// The threads of the shards of a node behind the first. Clones are of the same node.
#[derive(Clone, Default)]
pub(super) struct OtherShards(Arc<Mutex<Vec<ShardThread>>>);

impl OtherShards {
    fn start(
        &self,
        directory: &DataDirectory,
        setup: &ShardSetup,
        first: Commands,
        started: &flume::Sender<()>,
    ) -> std::result::Result<(), NodeError> {
        let mut all = vec![first];
        let mut incoming = Vec::new();
        for _ in 1..directory.place().count {
            let (commands, commanded) = commands::channel();
            incoming.push(commanded);
            all.push(commands);
        }
        let handles = all.into_iter().map(|commands| ShardHandle {
            commands,
            readers: Arc::new(setup.readers()),
        });
        setup.shards.are(handles.collect());
        for (directory, commands) in directory.shards().skip(1).zip(incoming) {
            let number = directory.place().number;
            let (own_setup, started) = (setup.clone(), started.clone());
            let thread = executor(setup, number).spawn(move || async move {
                let setup = own_setup;
                stop_all_at_end(&setup.shards);
                let gateway = gateway_of(&directory, &setup);
                let ended = run_shard(directory, &setup, &gateway, &commands, started).await;
                gateway.connections.end().await;
                ended
            });
            let thread = thread.map_err(|error| no_executor(setup, number, &error))?;
            self.lock().push(thread);
        }
        Ok(())
    }

    /// Waits until all have stopped, once the first one has, which starts them.
    pub(super) fn wait(&self) -> std::result::Result<(), NodeError> {
        let threads = std::mem::take(&mut *self.lock());
        let ends = threads.into_iter().map(end_of);
        ends.fold(Ok(()), std::result::Result::and)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ShardThread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the thread of a shard has ended, waited for.
pub(super) fn end_of(thread: ShardThread) -> std::result::Result<(), NodeError> {
    thread.join().unwrap_or_else(|error| {
        Err(NodeError::Halted {
            reason: format!("a shard's thread ended: {error}"),
        })
    })
}

/// The executor of a shard.
pub(super) fn executor(setup: &ShardSetup, shard: u32) -> LocalExecutorBuilder {
    let name = match shard {
        0 => "ringlite".to_owned(),
        shard => format!("ringlite-s{shard}"),
    };
    LocalExecutorBuilder::new(Placement::Fixed(core_of(setup, shard)))
        .name(&name)
        .io_memory(IO_MEMORY_BYTES)
        .spin_before_park(setup.spin)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
}

pub(super) fn no_executor(
    setup: &ShardSetup,
    shard: u32,
    error: &glommio::GlommioError<()>,
) -> NodeError {
    NodeError::Executor {
        core: core_of(setup, shard),
        reason: error.to_string(),
    }
}

fn core_of(setup: &ShardSetup, shard: u32) -> usize {
    setup.cores[shard as usize % setup.cores.len()]
}

fn gateway_of(directory: &DataDirectory, setup: &ShardSetup) -> Rc<Gateway> {
    Rc::new(Gateway {
        identity: Rc::new(RefCell::new(directory.identity().clone())),
        shard: RefCell::new(None),
        shards: setup.shards.clone(),
        connections: Tasks::default(),
    })
}

/// Makes the node a member of a cluster, if it is none yet.
async fn form(
    directory: &mut DataDirectory,
    setup: &ShardSetup,
    gateway: &Gateway,
) -> std::result::Result<(), NodeError> {
    if directory.identity().cluster.is_some() {
        return Ok(());
    }
    let formed = if directory.identity().joins {
        let identity = directory.identity().clone();
        let joined = joining::join(&identity, &setup.introduction, &setup.seeds);
        let joined = joined.await.map_err(|error| NodeError::Join {
            reason: error.to_string(),
        })?;
        tracing::info!("joined the cluster as node {}", joined.node);
        joined
    } else {
        formation::form(&gateway.identity)
            .await
            .map_err(|error| settings(error.to_string()))?
    };
    directory.form(formed.clone())?;
    gateway.identity.replace(formed);
    Ok(())
}

/// Refuses commands while there is no shard, until it is told to stop.
async fn refuse_until_stopped(
    commands: &Incoming,
    gateway: &Rc<Gateway>,
) -> std::result::Result<(), NodeError> {
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
            // It is told that there is no shard yet.
            Some(Command::Arrive(arrival)) => net::take_over(*arrival, gateway),
            Some(
                Command::CloseSession(_)
                | Command::Interrupt(_)
                | Command::Status(_)
                | Command::Stages(_)
                | Command::Databases(_)
                // What it is about is looked at when the shard starts.
                | Command::Follow,
            ) => {}
        }
    }
}

/// The life of a shard on its executor.
async fn run_shard(
    directory: DataDirectory,
    setup: &ShardSetup,
    gateway: &Rc<Gateway>,
    commands: &Incoming,
    started: flume::Sender<()>,
) -> std::result::Result<(), NodeError> {
    let starting = async { start_shard(&directory, setup, gateway).await.map(Some) };
    let stopped_early = async {
        let stopped = refuse_until_stopped(commands, gateway).await;
        stopped.map(|()| None)
    };
    let shard = match futures_lite::future::or(starting, stopped_early).await {
        Ok(Some(shard)) => shard,
        Ok(None) | Err(NodeError::Halted { .. }) => return Ok(()),
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
                Command::Stages(reply) => drop(reply.send(shard.stages())),
                Command::Databases(reply) => drop(reply.send(shard.databases())),
                Command::Backup { database, pieces } => {
                    let backup = back_up(Rc::clone(&shard), database, pieces);
                    glommio::spawn_local(backup).detach();
                }
                Command::Arrive(arrival) => net::take_over(*arrival, gateway),
                Command::Follow => shard.follow(),
                Command::Stop => break,
            }
        }
        // The first one before the others, which follow it: they would else come back.
        shard.hand_over_leadership().await;
        setup.shards.stop();
        shard.flush(FLUSH_TIMEOUT).await;
        Ok(())
    };
    let halted = async {
        Err(NodeError::Halted {
            reason: shard.halted().await,
        })
    };
    let ended = futures_lite::future::or(halted, served).await;
    shard.stop().await;
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
    directory: &DataDirectory,
    setup: &ShardSetup,
    gateway: &Gateway,
) -> std::result::Result<Rc<Shard>, NodeError> {
    let place = directory.place();
    let identity = directory.identity().clone();
    let recovered = directory.recover(identity.joins || identity.members.len() == 1)?;
    let config = replica_config(&identity, setup, place, recovered.hard_state.sequence)?;
    let replica = Replica::new(
        config,
        ringlite_raft::HardState {
            term: recovered.hard_state.term,
            vote: recovered.hard_state.vote,
        },
        recovered.restored_log()?,
        &recovered.databases()?,
    )
    .map_err(|error| settings(format!("the data directory does not fit: {error}")))?;
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
    sql.set_place(place);
    let (writer, log) = storage::start(directory, &recovered).await?;
    let peers = Peers::new(identity, setup.introduction.address.clone(), place.number);
    let (manifest, _) = ManifestFile::open(directory).await?;
    let cores = shard::Cores {
        workers: setup.worker_cores(),
        awake: Awake::new(setup.keep_awake.then(awake::device).flatten()),
    };
    let shard = Shard::new(
        replica,
        sql,
        shard::Disk {
            writer,
            log,
            manifest,
        },
        peers,
        setup.shards.clone(),
        cores,
        shard::Snapshots::new(
            storage::StagingArea::of(directory),
            setup.snapshot_bytes_per_second,
        ),
    )
    .map_err(|error| NodeError::Settings {
        what: format!("the threads for long statements cannot be started: {error}"),
    })?;
    shard.open_databases();
    recovered.for_each_committed(|entry| shard.replay(&entry))?;
    shard.follow();
    shard.start();
    gateway.shard.replace(Some(Rc::clone(&shard)));
    if place.is_first() {
        let introducing = introduce_changes(Rc::clone(&shard), setup.introduction.clone());
        glommio::spawn_local(introducing).detach();
    }
    Ok(shard)
}

/// What the replica is told.
fn replica_config(
    identity: &Identity,
    setup: &ShardSetup,
    place: ShardPlace,
    sequence: u64,
) -> std::result::Result<Config, NodeError> {
    let mut raft = ringlite_raft::Config::new(
        NodeId(identity.node),
        Vec::new(),
        seed(identity, place, sequence),
    );
    if !identity.joins {
        let founders = identity.members.iter().map(founder).collect();
        raft.bootstrap = ringlite_raft::Configuration::new(founders)
            .map_err(|error| settings(format!("the members do not make a cluster: {error}")))?;
    }
    setup.timeouts.apply(setup.lease, &mut raft);
    let known = identity.members.iter().map(|member| NodeAddress {
        id: NodeId(member.id),
        address: member.address.clone(),
    });
    let mut config = Config::new(raft, known.collect());
    config.shard = place;
    config.spread = setup.spread;
    config.snapshot_ticks = shard::ticks(setup.snapshot_time);
    config.set_wal_bytes(setup.wal_bytes);
    config.log_window_bytes = setup.log_window_bytes;
    config.roles.voters = setup.voters.unwrap_or(config.roles.voters);
    config.roles.standbys = setup.standbys.unwrap_or(config.roles.standbys);
    config.voter_gone_ticks = shard::ticks(setup.voter_gone_after);
    Ok(config)
}

/// A member that was there when its cluster began.
fn founder(member: &storage::Member) -> ringlite_raft::Member {
    let founder = Member {
        id: NodeId(member.id),
        role: MemberRole::Voter,
        address: member.address.clone(),
        incarnation: member.incarnation,
        failure_domain: 0,
        weight: 0,
        assigned: None,
    };
    ringlite_raft::Member {
        id: founder.id,
        role: founder.role,
        context: founder.context(),
    }
}

/// Tells the leader, until it knows, if this node was started with another address, failure domain
/// or weight than the configuration has.
async fn introduce_changes(shard: Rc<Shard>, introduction: Introduction) {
    loop {
        let known = shard.own_member();
        if known.is_some_and(|known| introduction.agrees_with(&known)) {
            return;
        }
        if shard.own_member().is_some()
            && let Err(error) = shard.introduce(&introduction).await
        {
            tracing::debug!("the leader was not told of this node's settings: {error}");
        }
        glommio::timer::sleep(INTRODUCE_AGAIN_AFTER).await;
    }
}

/// The seed of the election timeouts: another one for each node, shard and start.
fn seed(identity: &storage::Identity, place: ShardPlace, sequence: u64) -> u64 {
    let start = sequence.wrapping_mul(u64::from(SHARDS_MAX)) + u64::from(place.number);
    identity.incarnation ^ start.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_a_shard_that_panics_stops_the_others() {
        let (commands, commanded) = commands::channel();
        let shards = Shards::default();
        let cores = WorkerCores::beside(None, &[0]);
        let readers = Readers::new(RunLimits::default(), Duration::ZERO, cores);
        shards.are(vec![ShardHandle {
            commands,
            readers: Arc::new(readers),
        }]);
        // One that waits as a shard does, and one in which a task fails.
        let executor = |name| {
            LocalExecutorBuilder::new(Placement::Unbound)
                .name(name)
                .io_memory(IO_MEMORY_BYTES)
        };
        let waits = executor("waits").spawn(move || async move {
            let command = commanded.recv().await;
            assert!(matches!(command, Some(Command::Stop)));
            Ok(())
        });
        let panics = executor("panics").spawn(move || async move {
            stop_all_at_end(&shards);
            glommio::spawn_local(async { panic!("on purpose") }).detach();
            std::future::pending::<std::result::Result<(), NodeError>>().await
        });
        let ended = end_of(panics.unwrap()).unwrap_err();
        assert!(ended.to_string().contains("thread ended"), "{ended}");
        end_of(waits.unwrap()).unwrap();
    }
}

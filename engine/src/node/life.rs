//! The life of a node on its executor, from its data directory to its end.

use std::cell::RefCell;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringlite_raft::{MemberRole, NodeId};
use ringlite_vfs::{Extension, VfsOptions};

use super::builder::Timeouts;
use super::{NodeError, settings, stopped};
use crate::awake::{self, Awake};
use crate::backup::Backup;
use crate::commands::{BackupPiece, Command, Incoming};
use crate::error::{Error, Result};
use crate::net::joining::{self, Introduction};
use crate::net::peers::Peers;
use crate::net::{Admission, Gateway, formation};
use crate::readers::Readers;
use crate::replica::member::Member;
use crate::replica::{Config, Input, NodeAddress, Replica};
use crate::shard::{self, Shard};
use crate::sql::workers::WorkerCores;
use crate::sql::{RunLimits, Sql};
use crate::storage::{self, DataDirectory, Identity, ManifestFile};

/// How long a stop may take to move what is committed into the database files.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts to tell the leader what has changed about this node.
const INTRODUCE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What a shard is made with.
pub(super) struct ShardSetup {
    pub(super) introduction: Introduction,
    /// Where to ask for a place in the cluster.
    pub(super) seeds: Vec<String>,
    pub(super) voters: Option<usize>,
    pub(super) standbys: Option<usize>,
    pub(super) voter_gone_after: Duration,
    pub(super) timeouts: Timeouts,
    pub(super) lease: bool,
    pub(super) transaction_bytes: u64,
    pub(super) wal_bytes: u64,
    pub(super) log_window_bytes: u64,
    pub(super) snapshot_bytes_per_second: u64,
    pub(super) limits: RunLimits,
    /// Where `VACUUM INTO` may write.
    pub(super) vacuum_directory: Option<PathBuf>,
    pub(super) extensions: Vec<Extension>,
    pub(super) snapshot_time: Duration,
    pub(super) worker_cores: WorkerCores,
    /// Whether cores are asked to stay awake while there is work.
    pub(super) keep_awake: bool,
    pub(super) readers: Arc<Readers>,
}

/// The life of a node on its executor.
pub(super) async fn run(
    directory: DataDirectory,
    setup: ShardSetup,
    listener: Option<TcpListener>,
    commands: Incoming,
    started: flume::Sender<()>,
) -> std::result::Result<(), NodeError> {
    let gateway = Rc::new(Gateway {
        admission: Rc::new(Admission::of_process()),
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
                    | Command::Stages(_)
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
                Command::Stages(reply) => drop(reply.send(shard.stages())),
                Command::Databases(reply) => drop(reply.send(shard.databases())),
                Command::Backup { database, pieces } => {
                    let backup = back_up(Rc::clone(&shard), database, pieces);
                    glommio::spawn_local(backup).detach();
                }
                Command::Stop => break,
            }
        }
        shard.hand_over_leadership().await;
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
    if directory.identity().cluster.is_none() {
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
    }
    let identity = directory.identity().clone();
    let recovered = directory.recover(identity.joins || identity.members.len() == 1)?;
    let config = replica_config(&identity, setup, recovered.hard_state.sequence)?;
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
    let (writer, log) = storage::start(&directory, &recovered).await?;
    let peers = Peers::new(identity, setup.introduction.address.clone());
    let (manifest, _) = ManifestFile::open(&directory).await?;
    let cores = shard::Cores {
        workers: setup.worker_cores.clone(),
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
        Arc::clone(&setup.readers),
        cores,
        shard::Snapshots::new(
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
    let introducing = introduce_changes(Rc::clone(&shard), setup.introduction.clone());
    glommio::spawn_local(introducing).detach();
    Ok((shard, directory))
}

/// What the replica is told.
fn replica_config(
    identity: &Identity,
    setup: &ShardSetup,
    sequence: u64,
) -> std::result::Result<Config, NodeError> {
    let mut raft =
        ringlite_raft::Config::new(NodeId(identity.node), Vec::new(), seed(identity, sequence));
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

/// The seed of the election timeouts: another one for each node and each start.
fn seed(identity: &storage::Identity, sequence: u64) -> u64 {
    identity.incarnation ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

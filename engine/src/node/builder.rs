//! Settings of a node, and what it takes to start one.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ringlite_raft::NodeId;
use ringlite_vfs::Extension;

use super::life::{self, OtherShards, ShardSetup};
use super::{EMBEDDED_SESSION_BIT, Node, NodeError, settings, stopped};
use crate::extensions::Extensions;
use crate::net::joining::Introduction;
use crate::replica::member::ADDRESS_BYTES_MAX;
use crate::replica::{self, NodeAddress, Status};
use crate::shard;
use crate::shards::{SHARDS_MAX, Shards};
use crate::sql::{self, RunLimits};
use crate::storage::{self, DataDirectory, Identity, Owner};
use crate::{awake, commands};

/// How long a shard's thread looks around before it sleeps where cores are not kept awake.
const SPIN_ASLEEP: Duration = Duration::from_micros(50);
/// A segment holds at least one record of the largest size.
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
/// How long a port that is in use is waited for.
const PORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of a node, for [`Node::builder`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    data: PathBuf,
    listen: Option<String>,
    address: Option<String>,
    id: Option<u64>,
    members: Vec<NodeAddress>,
    seeds: Vec<String>,
    failure_domain: Option<u64>,
    weight: Option<u64>,
    voters: Option<usize>,
    standbys: Option<usize>,
    voter_gone_after: Duration,
    timeouts: Timeouts,
    lease: bool,
    cores: Vec<usize>,
    shards: Option<u32>,
    spread: bool,
    save_power: bool,
    spin: Option<Duration>,
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

/// The timeouts of consensus, in whole ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    heartbeat: Duration,
    election: Duration,
}

impl NodeBuilder {
    pub(super) fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            listen: None,
            address: None,
            id: None,
            members: Vec::new(),
            seeds: Vec::new(),
            failure_domain: None,
            weight: None,
            voters: None,
            standbys: None,
            voter_gone_after: Duration::from_secs(60),
            timeouts: Timeouts {
                heartbeat: Duration::from_millis(50),
                election: Duration::from_millis(250),
            },
            lease: false,
            cores: Vec::new(),
            shards: None,
            spread: false,
            save_power: false,
            spin: None,
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

    /// Where to listen for clients and the other nodes, `HOST:PORT`. Without it a node is reached
    /// only from its own process.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Where clients and the other nodes reach it, `HOST:PORT`, if that is not where it listens.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The node's id in its cluster, which no other node may ever have had. Unless told it is 1, or
    /// what the leader chooses for a node that joins.
    #[must_use]
    pub fn id(mut self, id: u64) -> Self {
        self.id = Some(id);
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

    /// Makes the node a member of the running cluster that these nodes, any of its members, belong
    /// to. Once it has joined, its data directory knows the cluster, and this is not needed any more.
    #[must_use]
    pub fn join(mut self, addresses: impl IntoIterator<Item = String>) -> Self {
        self.seeds = addresses.into_iter().collect();
        self
    }

    /// A number that it shares with the nodes that can fail together with it; 0 unless told. Voters
    /// are spread over failure domains.
    #[must_use]
    pub fn failure_domain(mut self, failure_domain: u64) -> Self {
        self.failure_domain = Some(failure_domain);
        self
    }

    /// Among equals the node with the lower weight becomes a voter; 0 unless told.
    #[must_use]
    pub fn weight(mut self, weight: u64) -> Self {
        self.weight = Some(weight);
        self
    }

    /// How many voters this node keeps while it leads; 3 unless told, or as many as the cluster began
    /// with. The same on all nodes.
    #[must_use]
    pub fn voters(mut self, voters: usize) -> Self {
        self.voters = Some(voters);
        self
    }

    /// How many standbys it keeps, which have all data and take the place of voters; 3 unless told.
    #[must_use]
    pub fn standbys(mut self, standbys: usize) -> Self {
        self.standbys = Some(standbys);
        self
    }

    /// How long a voter may be silent before a standby takes its place; 60 s unless told.
    #[must_use]
    pub fn voter_gone_after(mut self, limit: Duration) -> Self {
        self.voter_gone_after = limit;
        self
    }

    /// How often a leader gives a sign of life, and after how long a silence another one is elected,
    /// at the earliest; at the latest after twice as long. 50 and 250 ms unless told; whole ticks of
    /// 10 ms. Each is the same on all nodes.
    #[must_use]
    pub fn timeouts(mut self, heartbeat: Duration, election: Duration) -> Self {
        self.timeouts = Timeouts {
            heartbeat,
            election,
        };
        self
    }

    /// Lets the leader answer linearizable reads without asking the others, while it has a *lease*: for
    /// 4/5 of the election timeout less one tick after a majority has heard of it, 190 ms of 250. Off
    /// unless told; all nodes need the same, with the same election timeout, and those that differ do
    /// not talk to each other.
    ///
    /// It costs two things. A leader that was killed is replaced only after the election timeout,
    /// since the others have promised to wait. And reads are then right only as long as clocks run at
    /// their rate, within 5 %, and go on while a node stands still (`docs/MEDIA.md`): so not in a
    /// virtual machine that is paused, saved or moved while it runs.
    #[must_use]
    pub fn lease(mut self, lease: bool) -> Self {
        self.lease = lease;
        self
    }

    /// Lets idle cores of the machine sleep while the node has work, too. By default it asks the kernel
    /// to keep them awake (`/dev/cpu_dma_latency`, if it may open that for writing): from a request or an
    /// entry on until nothing has happened for 10 to 60 ms. A commit then takes about half as long in a
    /// virtual machine; the price is power, and the host's time, as long as there is work.
    #[must_use]
    pub fn save_power(mut self, save: bool) -> Self {
        self.save_power = save;
        self
    }

    /// For how long the node's thread looks for what happens next before it sleeps. Unless told 0 where
    /// cores are kept awake, as the kernel then does the same without standing in anybody's way, and else
    /// 50 µs: a wake-up costs more than that, so that a node with much to do serves more; one with nothing
    /// to do takes so much of its core each time that it wakes. 0 is for a core that others need.
    #[must_use]
    pub fn spin(mut self, time: Duration) -> Self {
        self.spin = Some(time);
        self
    }

    /// The core that the node is pinned to, if it has one shard: [`NodeBuilder::cores`] of one.
    #[must_use]
    pub fn core(self, core: usize) -> Self {
        self.cores([core])
    }

    /// The cores that its shards are pinned to, taken in turn; by default the allowed ones, from one on
    /// that the node's id chooses. Long statements and reads on other threads keep to the others, where
    /// there are any.
    #[must_use]
    pub fn cores(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = cores.into_iter().collect();
        self
    }

    /// How many shards the node has, at most 64: each on a core of its own as far as these go, with a Raft
    /// group, a log and databases of its own. The same on all nodes of a cluster, and for ever. Unless told
    /// it is 1 for a new cluster, and what the cluster or the directory has for any other.
    ///
    /// Which shard a database is in follows from its name up to the first dot: `shop.orders` and
    /// `shop.users` are in one, and only databases of one shard can be attached to each other.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Spreads the leaders of the shards over the voters: that of shard `k` is the `k`-th voter behind the
    /// one that leads the first shard, in the order of ids. Otherwise one node leads all of them, as clients
    /// of dqlite want it, who know one leader. The same on all nodes.
    #[must_use]
    pub fn spread(mut self, spread: bool) -> Self {
        self.spread = spread;
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
        if self.id == Some(0) {
            return Err(settings("a node's id is a number from 1"));
        }
        if !self.seeds.is_empty() && !self.members.is_empty() {
            return Err(settings(
                "a node either joins a cluster or starts one: leave out --join or --cluster",
            ));
        }
        if self.voters == Some(0) {
            return Err(settings("a cluster has at least one voter"));
        }
        self.timeouts.check(self.lease)?;
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
        if self
            .shards
            .is_some_and(|shards| !(1..=SHARDS_MAX).contains(&shards))
        {
            return Err(settings(format!("a node has 1 to {SHARDS_MAX} shards")));
        }
        self.check_members()?;
        let vacuum_directory = self.vacuum_directory()?;
        let extensions =
            Extensions::read(std::mem::take(&mut self.extensions)).map_err(settings)?;
        let own_address = self.own_address()?;
        let listener = self.listen.as_deref().map(bind).transpose()?;
        let joins = !self.seeds.is_empty();
        let owner = Owner {
            node: self.node_id(),
            cluster: &self.members,
            alone_at: (!joins).then_some(own_address.as_str()),
            shards: self.shards,
        };
        let mut directory = DataDirectory::open(&self.data, &owner, self.segment_bytes)?;
        directory.set_extensions(extensions.digest);
        directory.promise(match self.lease {
            true => u32::try_from(self.timeouts.election.as_millis()).unwrap_or(u32::MAX),
            false => 0,
        })?;
        let identity = directory.identity();
        if identity.joins && identity.cluster.is_none() && !joins {
            return Err(settings(
                "the data directory is of a node that has still to join a cluster: name one of its \
                 nodes with --join HOST:PORT",
            ));
        }
        // A cluster of one serves at once, unless others have joined since it began.
        let alone = !identity.joins && identity.members.len() == 1;
        let cores = match self.cores.is_empty() {
            false => self.cores,
            true => default_cores(identity),
        };
        // So many executors there will be.
        let shards = identity.shards as usize;
        let keep_awake = !self.save_power && awake::device().is_some();
        let spin = self.spin.unwrap_or(match keep_awake {
            true => Duration::ZERO,
            false => SPIN_ASLEEP,
        });
        let (commands, incoming) = commands::channel();
        let (started, has_started) = flume::unbounded();
        let setup = ShardSetup {
            introduction: Introduction {
                address: own_address,
                failure_domain: self.failure_domain,
                weight: self.weight,
            },
            seeds: self.seeds,
            voters: self.voters,
            standbys: self.standbys,
            voter_gone_after: self.voter_gone_after,
            timeouts: self.timeouts,
            lease: self.lease,
            spread: self.spread,
            transaction_bytes: self.transaction_bytes,
            wal_bytes: self.wal_bytes,
            log_window_bytes: self.log_window_bytes,
            snapshot_bytes_per_second: self.snapshot_bytes_per_second,
            limits: self.limits,
            vacuum_directory,
            extensions: extensions.list,
            snapshot_time: self.snapshot_time,
            cores,
            allowed_cores: rustix::thread::sched_getaffinity(None).ok(),
            spin,
            keep_awake,
            shards: Shards::default(),
        };
        let all = setup.shards.clone();
        let (own_setup, own) = (setup.clone(), commands.clone());
        let others = OtherShards::default();
        let life = {
            let others = others.clone();
            move || {
                life::run(
                    directory,
                    own_setup,
                    listener,
                    (own, incoming),
                    others,
                    started,
                )
            }
        };
        let thread = life::executor(&setup, 0)
            .spawn(life)
            .map_err(|error| life::no_executor(&setup, 0, &error))?;
        let node = Node {
            commands,
            shards: all,
            sessions: Arc::new(AtomicU64::new(EMBEDDED_SESSION_BIT)),
            thread: Some(thread),
            others,
        };
        if alone {
            // A failed start drops its end; the reason is then in the thread's result.
            if (0..shards).any(|_| has_started.recv().is_err()) {
                return Err(node.wait().err().unwrap_or_else(stopped));
            }
            let is_alone = |status: &Status| status.members.len() == 1;
            if node.status().as_ref().is_some_and(is_alone)
                && let Err(error) = node.wait_for_all_leaders(Duration::from_secs(10))
            {
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

    /// The id that the node was told to have.
    fn node_id(&self) -> Option<NodeId> {
        // In a list of members one is 1, unless told otherwise.
        let default = (!self.members.is_empty()).then_some(1);
        self.id.or(default).map(NodeId)
    }

    /// The address by which clients and other nodes know this one; empty if it is to stay what it is.
    fn own_address(&self) -> std::result::Result<String, NodeError> {
        let is_alone = self.members.is_empty() && self.seeds.is_empty();
        if self.listen.is_none() && !is_alone {
            return Err(settings(
                "a member of a cluster needs an address to listen on",
            ));
        }
        let id = self.node_id();
        let listed = self.members.iter().find(|member| Some(member.id) == id);
        if listed.is_none()
            && !self.members.is_empty()
            && let Some(id) = id
        {
            return Err(settings(format!(
                "node {} is not in the list of members",
                id.0
            )));
        }
        let listed = listed.map(|member| &member.address);
        let address = self.address.as_ref().or(listed).or(self.listen.as_ref());
        let address = address.cloned().unwrap_or_default();
        if address.len() > ADDRESS_BYTES_MAX {
            return Err(settings(format!(
                "the address of a node has at most {ADDRESS_BYTES_MAX} bytes"
            )));
        }
        Ok(address)
    }
}

impl Timeouts {
    fn check(self, lease: bool) -> std::result::Result<(), NodeError> {
        let are_ticks = [self.heartbeat, self.election]
            .iter()
            .all(|time| time.as_millis() >= 10 && time.as_millis() % 10 == 0);
        if are_ticks && self.heartbeat < self.election {
            if !lease || self.lease_ticks() > shard::ticks(self.heartbeat) {
                return Ok(());
            }
            return Err(settings(format!(
                "a lease of {} ms is over before the next heartbeat, after {} ms, can renew it: choose a \
                 longer election timeout than {} ms, or a shorter heartbeat",
                shard::milliseconds(self.lease_ticks()),
                self.heartbeat.as_millis(),
                self.election.as_millis()
            )));
        }
        Err(settings(format!(
            "a heartbeat every {} ms and an election after {} ms do not go together: both are multiples \
             of 10 ms, and the election timeout is longer",
            self.heartbeat.as_millis(),
            self.election.as_millis()
        )))
    }

    /// How long a lease is: over well before its voters elect another leader, however much their
    /// clocks and the leader's differ within what is assumed of them.
    fn lease_ticks(self) -> u64 {
        (shard::ticks(self.election) - 1) * 4 / 5
    }

    pub(super) fn apply(self, lease: bool, config: &mut ringlite_raft::Config) {
        let ticks = |time| u32::try_from(shard::ticks(time)).unwrap_or(u32::MAX / 4);
        config.heartbeat_ticks = ticks(self.heartbeat);
        config.election_timeout_ticks_min = ticks(self.election);
        config.election_timeout_ticks_max = 2 * ticks(self.election);
        if lease {
            config.lease_ticks = u32::try_from(self.lease_ticks()).unwrap_or(u32::MAX / 4);
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

/// The cores for a node that was not told: several nodes on one machine begin with different ones.
fn default_cores(identity: &Identity) -> Vec<usize> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return vec![0];
    };
    let mut cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    // A node that has still to join has no id.
    let number = match identity.node {
        0 => identity.incarnation,
        node => node - 1,
    };
    let turn = (number % cores.len().max(1) as u64) as usize;
    cores.rotate_left(turn);
    cores
}

//! `ringlite serve`: a node in the foreground.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::extensions;
use crate::node::{Node, NodeError};
use crate::shards::SHARDS_MAX;

/// Settings of a node.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where the node keeps its data; made if it is missing
    #[arg(
        value_name = "DIR",
        required_unless_present = "data",
        conflicts_with = "data"
    )]
    directory: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where clients and the other nodes reach it; in a cluster, its address in --cluster is the
    /// default
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where they reach it if that is not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Its number in the cluster, from 1, which no other node may ever have had [default: 1, or what
    /// the leader chooses when it joins]
    #[arg(long, value_name = "N")]
    id: Option<u64>,
    /// All members, this one included: 1=HOST:PORT,2=HOST:PORT,... All of them must be there at the
    /// first start. Without it and without --join a new node is a cluster of its own, which others
    /// can join
    #[arg(long, value_name = "MEMBERS", value_delimiter = ',')]
    cluster: Vec<Member>,
    /// Become a member of the running cluster that these nodes belong to. If a member of this
    /// node's address is gone, the new one takes its place
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        conflicts_with = "cluster"
    )]
    join: Vec<String>,
    /// How many voters this node keeps while it leads; give all nodes the same [default: 3, or as
    /// many as the cluster began with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    voters: Option<u16>,
    /// How many standbys it keeps: they have all data, and take the place of voters
    #[arg(long, value_name = "N", default_value_t = 3)]
    standbys: u16,
    /// How long a voter may be silent before a standby takes its place, in ms
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    voter_gone_after: u64,
    /// A number that it shares with the nodes that can fail together with it; voters are spread over
    /// these [default: what the cluster knows, or 0]
    #[arg(long, value_name = "N")]
    failure_domain: Option<u64>,
    /// Among equals the node with the lower weight becomes a voter [default: what the cluster knows,
    /// or 0]
    #[arg(long, value_name = "N")]
    weight: Option<u64>,
    /// How often a leader gives a sign of life, in ms: a multiple of 10; give all nodes the same
    #[arg(long, value_name = "MS", default_value_t = 50)]
    heartbeat: u64,
    /// After how long a silence of the leader another one is elected, in ms, at the earliest; at the
    /// latest after twice as long. A multiple of 10; give all nodes the same
    #[arg(long, value_name = "MS", default_value_t = 250)]
    election: u64,
    /// Answer linearizable reads at the leader without asking the others, while it has a lease: for
    /// 4/5 of (--election - 10 ms) after a majority has heard of it, 190 ms of 250. Needs clocks that
    /// run at their rate within 5 % and go on while a node stands still, so no virtual machines that
    /// are paused, saved or moved; and a leader that is killed is replaced only after --election. Give
    /// all nodes the same: those that differ do not talk to each other
    #[arg(long)]
    lease: bool,
    /// How many shards it has, each with a core, a Raft group, a log and databases of its own: the same on
    /// all nodes, fixed when the cluster forms. A database's shard follows from its name up to the first
    /// dot [default: what the directory or the cluster has, or 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(SHARDS_MAX)))]
    shards: Option<u32>,
    /// Spread the shards' leaders over the voters; without it one node leads all shards. The shell and the
    /// Rust client go to the leader of a database's shard; others are served through the node that leads
    /// the first. Give all nodes the same
    #[arg(long)]
    spread: bool,
    /// The cores that its shards are pinned to, taken in turn [default: spread by id over the allowed
    /// cores]
    #[arg(
        long,
        value_name = "CORES",
        value_delimiter = ',',
        visible_alias = "core"
    )]
    cores: Vec<usize>,
    /// Let idle cores of the machine sleep while there is work, too. They are otherwise kept awake, by
    /// /dev/cpu_dma_latency where that may be written, from a request on until 10 to 60 ms after the last
    /// one: commits then take about half as long in a virtual machine, for power and the host's time
    #[arg(long)]
    save_power: bool,
    /// For how long its threads look for what happens next before they sleep, in us [default: 0 where cores
    /// are kept awake, 50 elsewhere]
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(..=10_000))]
    spin: Option<u64>,
    /// The size of a log segment in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    segment_mib: u64,
    /// How many bytes of pages one transaction may write, VACUUM and CREATE INDEX included; it is
    /// kept in memory until it is committed
    #[arg(long, value_name = "BYTES", default_value_t = crate::sql::TRANSACTION_BYTES_DEFAULT)]
    transaction_bytes: u64,
    /// How much of a database is kept in memory before it is moved into its file, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 32 << 10,
          value_parser = clap::value_parser!(u64).range(16..=64 << 20))]
    wal_kib: u64,
    /// How much of the log is kept for members that lack it, in MiB; one that lacks more gets a
    /// snapshot of all databases
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(..=1 << 30))]
    log_window_mib: u64,
    /// How fast a snapshot is sent at the most, in MiB per second
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    snapshot_mib_per_second: u64,
    /// How long a statement may run, in ms; 0 for no limit
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    statement_time: u64,
    /// How long a session that does not write may hold a snapshot, in ms
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    snapshot_time: u64,
    /// A directory that SQL may write copies of a database into, with VACUUM INTO 'FILE' on the
    /// leader [default: VACUUM INTO is refused]
    #[arg(long, value_name = "DIR")]
    vacuum_into: Option<PathBuf>,
    /// An extension of SQLite that is loaded into every session; all nodes need the same ones, in the
    /// same order. Can be given several times
    #[arg(long, value_name = "PATH[:ENTRYPOINT]")]
    extension: Vec<String>,
    /// Stop when the process that started this one is gone
    #[arg(long, hide = true)]
    stop_with_parent: bool,
}

/// `ID=HOST:PORT`.
#[derive(Clone, Debug)]
struct Member {
    id: u64,
    address: String,
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, address) = text
            .split_once('=')
            .ok_or("a member is ID=HOST:PORT, such as 1=127.0.0.1:9001")?;
        let id = id
            .trim()
            .parse()
            .map_err(|_| format!("{id:?} is no id: it is a number from 1"))?;
        if !address.contains(':') {
            return Err(format!("{address:?} is no address: it is HOST:PORT"));
        }
        Ok(Self {
            id,
            address: address.trim().to_owned(),
        })
    }
}

/// Runs a node until it is told to stop or cannot go on.
pub(crate) fn run(args: ServeArgs) -> Result<(), NodeError> {
    let id = args.id.unwrap_or(1);
    let in_cluster = args
        .cluster
        .iter()
        .find(|member| member.id == id)
        .map(|member| member.address.clone());
    let Some(listen) = args.listen.or(in_cluster) else {
        return Err(NodeError::Settings {
            what: "say where to listen: --listen HOST:PORT".into(),
        });
    };
    let Some(data) = args.directory.or(args.data) else {
        return Err(NodeError::Settings {
            what: "say where the data is: ringlite serve DIR".into(),
        });
    };
    if args.stop_with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .map_err(|error| NodeError::Settings {
                what: format!("this process cannot be tied to its parent: {error}"),
            })?;
    }
    allow_descriptors();
    // Before the node starts its thread, so that no signal finds the default action.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| NodeError::Settings {
        what: format!("signals cannot be handled: {error}"),
    })?;
    let mut builder = Node::builder(&data)
        .listen(&listen)
        .cluster(
            args.cluster
                .into_iter()
                .map(|member| (member.id, member.address)),
        )
        .join(args.join)
        .standbys(args.standbys.into())
        .voter_gone_after(Duration::from_millis(args.voter_gone_after))
        .timeouts(
            Duration::from_millis(args.heartbeat),
            Duration::from_millis(args.election),
        )
        .lease(args.lease)
        .spread(args.spread)
        .cores(args.cores)
        .save_power(args.save_power)
        .segment_bytes(args.segment_mib << 20)
        .transaction_bytes(args.transaction_bytes)
        .wal_bytes(args.wal_kib << 10)
        .log_window_bytes(args.log_window_mib << 20)
        .snapshot_rate(args.snapshot_mib_per_second << 20)
        .statement_time(Duration::from_millis(args.statement_time))
        .snapshot_time(Duration::from_millis(args.snapshot_time));
    if let Some(spin) = args.spin {
        builder = builder.spin(Duration::from_micros(spin));
    }
    if let Some(id) = args.id {
        builder = builder.id(id);
    }
    if let Some(address) = args.address {
        builder = builder.address(address);
    }
    if let Some(voters) = args.voters {
        builder = builder.voters(voters.into());
    }
    if let Some(failure_domain) = args.failure_domain {
        builder = builder.failure_domain(failure_domain);
    }
    if let Some(weight) = args.weight {
        builder = builder.weight(weight);
    }
    if let Some(shards) = args.shards {
        builder = builder.shards(shards);
    }
    if let Some(directory) = args.vacuum_into {
        builder = builder.vacuum_into(directory);
    }
    for text in &args.extension {
        let extension = extensions::parse(text);
        builder = builder.extension(extension.path, extension.entry_point.as_deref());
    }
    let node = builder.start()?;
    tracing::info!("listening on {listen}");
    let stop = node.stopper();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            tracing::info!("stopping");
            stop();
        }
    });
    node.wait()
}

/// Has as many descriptors as the system allows: each client takes one.
fn allow_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    let allowed = Rlimit {
        current: limits.maximum,
        ..limits
    };
    if let Err(error) = setrlimit(Resource::Nofile, allowed) {
        tracing::warn!("the limit of file descriptors stays as it is: {error}");
    }
}

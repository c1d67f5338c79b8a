//! `ringlite serve`: a node in the foreground.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::extensions;
use crate::node::{Node, NodeError};

/// Settings of a node.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where the node keeps its data; made if it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where clients and the other nodes reach it; in a cluster, its address in --cluster is the
    /// default
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Its number in the cluster, from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    id: u64,
    /// All members, this one included: 1=HOST:PORT,2=HOST:PORT,... Without it the node is a
    /// cluster of its own. All members must be there at the first start
    #[arg(long, value_name = "MEMBERS", value_delimiter = ',')]
    cluster: Vec<Member>,
    /// The core it is pinned to [default: spread by id over the allowed cores]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
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
    let in_cluster = args
        .cluster
        .iter()
        .find(|member| member.id == args.id)
        .map(|member| member.address.clone());
    let Some(listen) = args.listen.or(in_cluster) else {
        return Err(NodeError::Settings {
            what: "say where to listen: --listen HOST:PORT".into(),
        });
    };
    if args.stop_with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .map_err(|error| NodeError::Settings {
                what: format!("this process cannot be tied to its parent: {error}"),
            })?;
    }
    // Before the node starts its thread, so that no signal finds the default action.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| NodeError::Settings {
        what: format!("signals cannot be handled: {error}"),
    })?;
    let mut builder = Node::builder(&args.data)
        .id(args.id)
        .listen(&listen)
        .cluster(
            args.cluster
                .into_iter()
                .map(|member| (member.id, member.address)),
        )
        .segment_bytes(args.segment_mib << 20)
        .transaction_bytes(args.transaction_bytes)
        .wal_bytes(args.wal_kib << 10)
        .log_window_bytes(args.log_window_mib << 20)
        .snapshot_rate(args.snapshot_mib_per_second << 20)
        .statement_time(Duration::from_millis(args.statement_time))
        .snapshot_time(Duration::from_millis(args.snapshot_time));
    if let Some(core) = args.core {
        builder = builder.core(core);
    }
    if let Some(directory) = args.vacuum_into {
        builder = builder.vacuum_into(directory);
    }
    for text in &args.extension {
        let extension = extensions::parse(text);
        builder = builder.extension(extension.path, extension.entry_point.as_deref());
    }
    let node = builder.start()?;
    tracing::info!("node {} listens on {listen}", args.id);
    let stop = node.stopper();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            tracing::info!("stopping");
            stop();
        }
    });
    node.wait()
}

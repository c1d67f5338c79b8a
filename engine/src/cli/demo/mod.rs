//! `ringlite demo`: a cluster of three on this machine, shown at work and put to the test.

mod writers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::{Client, ClientError, ClientOptions, DatabaseDigest};
use crate::local_cluster::{Launch, LocalCluster};
use crate::rows::Value;
use writers::{RowKey, Written};

const NODES: usize = 3;
const DATABASE: &str = "demo";
const RAW_WRITE_BYTES: usize = 8 << 10;
const RAW_WRITE_TIME: Duration = Duration::from_secs(1);
const WRITE_TIME: Duration = Duration::from_secs(4);
/// How long the writers go on before, and after, the leader is killed.
const BEFORE_KILL: Duration = Duration::from_millis(1_500);
const KILL_TIME: Duration = Duration::from_secs(4);
const START_TIMEOUT: Duration = Duration::from_secs(20);
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the nodes keep their data while it runs [default: a new directory here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the data and the nodes' logs behind
    #[arg(long)]
    keep: bool,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("the directory for the data cannot be made: {source}")]
    Directory { source: std::io::Error },
    #[error("a node cannot be started: {source}")]
    Start { source: std::io::Error },
    #[error("node {id} died; its last words: {words}")]
    Died { id: usize, words: String },
    #[error("the disk cannot be measured: {source}")]
    RawWrite { source: std::io::Error },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no write was acknowledged after the leader was killed")]
    NoFailover,
    #[error("node {id} has not caught up within {CATCH_UP_TIMEOUT:?}: {source}")]
    Behind { id: usize, source: ClientError },
    #[error("{count} acknowledged rows are missing, the first is client {} number {}", first.0, first.1)]
    Lost { count: usize, first: RowKey },
    #[error("there are {count} rows that no client sent, the first is client {} number {}", first.0, first.1)]
    Phantom { count: usize, first: RowKey },
    #[error("the nodes' databases differ: {digests:?}")]
    Differ { digests: Vec<DatabaseDigest> },
}

/// Runs the demo; succeeds only if every check holds.
pub(crate) fn run(args: DemoArgs) -> Result<(), DemoError> {
    let failed = |source| DemoError::Directory { source };
    let parent = args.dir.unwrap_or_else(|| PathBuf::from("."));
    std::fs::create_dir_all(&parent).map_err(failed)?;
    let mut directory = tempfile::Builder::new()
        .prefix("ringlite-demo-")
        .tempdir_in(&parent)
        .map_err(failed)?;
    directory.disable_cleanup(args.keep);
    let start = || {
        let launch = Launch::program(std::env::current_exe()?);
        LocalCluster::start(directory.path(), NODES, launch)
    };
    let mut cluster = start().map_err(|source| DemoError::Start { source })?;
    let result = show(&mut cluster, directory.path());
    if let (Err(DemoError::Client(_) | DemoError::Behind { .. }), Some(id)) =
        (&result, cluster.dead_node())
    {
        return Err(DemoError::Died {
            id,
            words: cluster.last_words_of(id),
        });
    }
    result
}

/// A step that takes a while, with a sign of life; its outcome stays on the terminal.
fn step<T, E>(
    what: &str,
    work: impl FnOnce() -> Result<T, E>,
    outcome: impl FnOnce(&T) -> String,
) -> Result<T, E> {
    let progress = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    let result = work();
    progress.finish_and_clear();
    match &result {
        Ok(value) => eprintln!("  \u{2713} {}", outcome(value)),
        Err(_) => eprintln!("  \u{2717} {what}"),
    }
    result
}

fn show(cluster: &mut LocalCluster, directory: &std::path::Path) -> Result<(), DemoError> {
    let addresses = cluster.addresses();
    eprintln!(
        "Three nodes on this machine, with their data in {}",
        directory.display()
    );
    let started = Instant::now();
    let mut client = step(
        "electing a leader",
        || {
            let options = ClientOptions {
                find_leader_timeout: START_TIMEOUT,
                ..ClientOptions::default()
            };
            Client::connect(&addresses, options)
        },
        |client| {
            format!(
                "{} leads, {} ms after the first start",
                client.address(),
                started.elapsed().as_millis()
            )
        },
    )?;
    client.open(DATABASE)?;
    client.execute(
        "CREATE TABLE demo (id INTEGER PRIMARY KEY, client INTEGER, number INTEGER, note TEXT)",
        &[],
    )?;
    let raw = step(
        "measuring the disk: one durable write at a time",
        || crate::probe::raw_write(directory, RAW_WRITE_BYTES, RAW_WRITE_TIME),
        |raw| {
            format!(
                "a raw durable write of 8 KiB takes {}",
                micros(raw.value_at_quantile(0.5))
            )
        },
    )
    .map_err(|source| DemoError::RawWrite { source })?;
    let one = write_step(&addresses, 0, 1)?;
    let sixteen = write_step(&addresses, 1, 16)?;
    let failover = kill_leader(cluster, &mut client)?;
    let mut sent = one.acknowledged.clone();
    sent.extend(&sixteen.acknowledged);
    sent.extend(&failover.written.acknowledged);
    let mut unknown = one.unknown.clone();
    unknown.extend(&sixteen.unknown);
    unknown.extend(&failover.written.unknown);
    let digest = check(cluster, failover.leader, &sent, &unknown)?;
    report(&raw, &one, &sixteen);
    println!(
        "The leader was killed under load, and the next commit came after {:.1} ms.",
        failover.gap.as_secs_f64() * 1e3
    );
    println!(
        "All {} acknowledged rows are on all three nodes, and the databases are identical: \
         {} pages of {} bytes at index {}, digest {}.",
        sent.len(),
        digest.page_count,
        digest.page_size,
        digest.applied,
        digest.digest
    );
    Ok(())
}

fn write_step(
    addresses: &[String],
    first_client: i64,
    clients: i64,
) -> Result<Written, ClientError> {
    let who = if clients == 1 {
        "1 client writes".to_owned()
    } else {
        format!("{clients} clients write")
    };
    step(
        &who,
        || writers::write(addresses, first_client, clients, WRITE_TIME, || ()),
        |written| format!("{who}: {:.0} commits/s", written.rate()),
    )
}

/// What killing the leader has shown.
struct Failover {
    leader: usize,
    written: Written,
    /// From the kill to the first commit of a request that was sent after it.
    gap: Duration,
}

/// Kills the leader under load, and starts it again.
fn kill_leader(cluster: &mut LocalCluster, client: &mut Client) -> Result<Failover, DemoError> {
    let addresses = cluster.addresses();
    client.reconnect()?;
    let leader = cluster.id_at(client.address()).unwrap_or(1);
    let mut killed_at = None;
    let mut restarted = Ok(());
    let failover = step(
        &format!("killing node {leader}, the leader, while 16 clients write"),
        || {
            let written = writers::write(&addresses, 17, 16, KILL_TIME, || {
                std::thread::sleep(BEFORE_KILL);
                let moment = Instant::now();
                cluster.kill(leader);
                killed_at = Some(moment);
                std::thread::sleep(BEFORE_KILL);
                restarted = cluster.start_node(leader);
            })?;
            let gap = killed_at
                .and_then(|moment| Some(written.first_commit_after(moment)? - moment))
                .ok_or(DemoError::NoFailover)?;
            Ok::<_, DemoError>(Failover {
                leader,
                written,
                gap,
            })
        },
        |failover| {
            format!(
                "node {leader} killed (SIGKILL) under load: the next commit came after {} ms",
                failover.gap.as_millis()
            )
        },
    )?;
    restarted.map_err(|source| DemoError::Start { source })?;
    Ok(failover)
}

/// Every acknowledged row is there, none that was not sent, and the same pages on all nodes.
fn check(
    cluster: &LocalCluster,
    restarted: usize,
    acknowledged: &BTreeSet<RowKey>,
    unknown: &BTreeSet<RowKey>,
) -> Result<DatabaseDigest, DemoError> {
    let addresses = cluster.addresses();
    step(
        "comparing the three nodes",
        || {
            let mut client = Client::connect(&addresses, ClientOptions::default())?;
            client.open(DATABASE)?;
            let found = rows_of(&mut client)?;
            let lost: Vec<_> = acknowledged.difference(&found).collect();
            if let Some(first) = lost.first() {
                return Err(DemoError::Lost {
                    count: lost.len(),
                    first: **first,
                });
            }
            let phantom = || {
                found
                    .difference(acknowledged)
                    .filter(|row| !unknown.contains(row))
            };
            if let Some(first) = phantom().next() {
                return Err(DemoError::Phantom {
                    count: phantom().count(),
                    first: *first,
                });
            }
            compare_pages(&mut client, &addresses)
        },
        |_| format!("node {restarted} is back; no acknowledged row is lost, no row is too much"),
    )
}

fn rows_of(client: &mut Client) -> Result<BTreeSet<RowKey>, ClientError> {
    let mut found = BTreeSet::new();
    client.query_each("SELECT client, number FROM demo", &[], |batch| {
        found.extend(batch.rows.iter().filter_map(|row| match row[..] {
            [Value::Integer(client), Value::Integer(number)] => Some((client, number)),
            _ => None,
        }));
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Nothing writes any more, so that all nodes come to rest at the leader's index.
fn compare_pages(leader: &mut Client, addresses: &[String]) -> Result<DatabaseDigest, DemoError> {
    let index = leader.digest(DATABASE, 0)?.applied;
    let mut digests = Vec::new();
    for (id, address) in (1..).zip(addresses) {
        let behind = |source| DemoError::Behind { id, source };
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        let digest = loop {
            let asked =
                Client::connect_to(address).and_then(|mut node| node.digest(DATABASE, index));
            match asked {
                Ok(digest) => break digest,
                Err(error) if Instant::now() >= deadline => return Err(behind(error)),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        digests.push(digest);
    }
    match digests.first() {
        Some(first) if digests.iter().all(|digest| digest == first) => Ok(first.clone()),
        _ => Err(DemoError::Differ { digests }),
    }
}

fn report(raw: &Histogram<u64>, one: &Written, sixteen: &Written) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "per second", "p50", "p99", "max"]);
    let mut row = |name: &str, rate: f64, latency: &Histogram<u64>| {
        table.add_row([
            name.to_owned(),
            format!("{rate:.0}"),
            micros(latency.value_at_quantile(0.5)),
            micros(latency.value_at_quantile(0.99)),
            micros(latency.max()),
        ]);
    };
    let raw_rate = raw.len() as f64 / RAW_WRITE_TIME.as_secs_f64();
    row("raw durable write, 8 KiB", raw_rate, raw);
    row("commits, 1 client", one.rate(), &one.latency);
    row("commits, 16 clients", sixteen.rate(), &sixteen.latency);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

fn micros(nanoseconds: u64) -> String {
    format!("{:.0} \u{b5}s", nanoseconds as f64 / 1e3)
}

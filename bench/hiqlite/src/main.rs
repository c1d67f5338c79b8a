//! A node of hiqlite, and the load on its cluster from within this process, as hiqlite is used.
//!
//! `ringlite-bench-hiqlite ID DATA RAFT,API RAFT,API RAFT,API` is started by `ringlite-bench`, which
//! says on standard input what to do.

#[path = "../../src/drive.rs"]
mod drive;
#[path = "../../src/operation.rs"]
#[allow(dead_code)]
mod operation;
#[path = "../../src/outcome.rs"]
#[allow(dead_code)]
mod outcome;
#[path = "../../src/pace.rs"]
#[allow(dead_code)]
mod pace;
#[path = "../../src/workload.rs"]
#[allow(dead_code)]
mod workload;

use std::borrow::Cow;
use std::io::{BufRead as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hiqlite::{Client, LogSync, Node, NodeConfig, Param, Params};

use drive::{Ask, Told, WireOutcome};
use operation::{Operation, Parameter, Statement};
use outcome::{FAILURE_PAUSE, Failure, Outcome};
use pace::{Pace, Schedule, Window};
use workload::{Operations, Workload};

/// The allocator that hiqlite's own server may be built with is another one; all systems in
/// processes of this bench get the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The version that Cargo.toml pins.
const HIQLITE_VERSION: &str = "0.15.3";

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--version") {
        println!("hiqlite {HIQLITE_VERSION}");
        return Ok(());
    }
    let client = start(&words).await?;
    let (asks, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if asks.send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = asked.recv().await {
        let told = match serde_json::from_str(&line) {
            Ok(ask) => answer(&client, ask).await,
            Err(error) => Err(error.into()),
        };
        let told = told.unwrap_or_else(|error| Told::Failed(error.to_string()));
        let mut output = std::io::stdout().lock();
        serde_json::to_writer(&mut output, &told)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

async fn start(words: &[String]) -> Result<Client, Failed> {
    let [id, data, members @ ..] = words else {
        return Err("usage: ringlite-bench-hiqlite ID DATA RAFT,API...".into());
    };
    let node_id = id.parse()?;
    let mut nodes = Vec::new();
    for (id, addresses) in (1..).zip(members) {
        let (addr_raft, addr_api) = addresses.split_once(',').ok_or("RAFT,API")?;
        nodes.push(Node {
            id,
            addr_raft: addr_raft.to_owned(),
            addr_api: addr_api.to_owned(),
        });
    }
    let config = NodeConfig {
        node_id,
        nodes,
        listen_addr_api: Cow::Borrowed("127.0.0.1"),
        listen_addr_raft: Cow::Borrowed("127.0.0.1"),
        data_dir: data.clone().into(),
        wal_sync: LogSync::Immediate,
        secret_raft: "only-on-loopback-raft".to_owned(),
        secret_api: "only-on-loopback-api-".to_owned(),
        ..NodeConfig::default()
    };
    let client = hiqlite::start_node(config).await?;
    client.wait_until_healthy_db().await;
    Ok(client)
}

async fn answer(client: &Client, ask: Ask) -> Result<Told, Failed> {
    Ok(match ask {
        Ask::Leads => {
            let metrics = client.metrics_db().await?;
            let voters = metrics.membership_config.voter_ids().count();
            let nodes = metrics.membership_config.nodes().count();
            Told::Leads(client.is_leader_db().await && voters == nodes && nodes > 1)
        }
        Ask::Prepare => {
            for operation in Operation::preparation() {
                let done = perform(client, operation).await;
                done.map_err(|failure| failure.words)?;
            }
            Told::Done
        }
        Ask::Load {
            workload,
            connections,
            pace,
            length,
        } => {
            let workload = Workload::named(&workload).ok_or("an unknown workload")?;
            Told::Loaded(load(client, workload, connections, pace.into(), length).await)
        }
    })
}

async fn load(
    client: &Client,
    workload: Workload,
    connections: usize,
    pace: Pace,
    length: Duration,
) -> WireOutcome {
    let total = Arc::new(Mutex::new(Outcome::new()));
    let window = Window::after_warm_up(pace, length);
    let mut tasks = Vec::new();
    for index in 0..connections {
        let client = client.clone();
        let total = Arc::clone(&total);
        let operations = Operations::of_connection(workload, index);
        let schedule = Schedule::of_connection(window, index, connections);
        tasks.push(tokio::spawn(async move {
            let outcome = drive_one(&client, operations, schedule, window).await;
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            total.merge(outcome);
        }));
    }
    for task in tasks {
        // A task that panicked has said so, and its requests are missing from the count.
        let _ = task.await;
    }
    let total = total.lock().unwrap_or_else(PoisonError::into_inner);
    WireOutcome::from(&*total)
}

async fn drive_one(
    client: &Client,
    mut operations: Operations,
    mut schedule: Schedule,
    window: Window,
) -> Outcome {
    let mut outcome = Outcome::new();
    let mut free = Instant::now();
    while let Some(due) = schedule.next_due(free) {
        let operation = operations.next_operation();
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let sent = Instant::now();
        let answer = perform(client, operation).await;
        let end = Instant::now();
        free = end;
        let failed = answer.is_err();
        outcome.count(&window, (schedule.latency_from(due, sent), end), answer);
        if failed {
            tokio::time::sleep(FAILURE_PAUSE).await;
            free = Instant::now();
        }
    }
    outcome.count_unsent(&window, &schedule, Instant::now());
    outcome
}

async fn perform(client: &Client, operation: Operation) -> Result<(), Failure> {
    let reads = operation.reads();
    let mut statements = operation.into_statements();
    if reads || statements.len() == 1 {
        let Some((sql, parameters)) = statements.pop().map(said) else {
            return Ok(());
        };
        if reads {
            let rows = client.query_consistent(sql, parameters).await;
            let found = rows.map_err(failure)?.into_iter().next().is_some();
            return if found {
                Ok(())
            } else {
                Err(Failure {
                    kind: "answer".to_owned(),
                    words: "no row has the key".to_owned(),
                })
            };
        }
        client.execute(sql, parameters).await.map_err(failure)?;
        return Ok(());
    }
    let answers = client.txn(statements.into_iter().map(said)).await;
    for answer in answers.map_err(failure)? {
        answer.map_err(failure)?;
    }
    Ok(())
}

fn said(statement: Statement) -> (&'static str, Params) {
    let Statement { sql, parameters } = statement;
    let parameters = parameters.into_iter().map(|parameter| match parameter {
        Parameter::Integer(integer) => Param::from(integer),
        Parameter::Blob(bytes) => Param::from(bytes),
    });
    (sql, parameters.collect())
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn failure(error: hiqlite::Error) -> Failure {
    let words = error.to_string();
    Failure {
        kind: words.chars().take(60).collect(),
        words,
    }
}

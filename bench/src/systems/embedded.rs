//! Ringlite with a node in this process: no network between the callers and it.

use std::borrow::Cow;
use std::path::Path;
use std::rc::Rc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use ringlite::{Client, Database, Node, Rows, StageTimes, Value};
use rustix::thread::CpuSet;

use crate::error::MeasureError;
use crate::load::{Load, Shared, gather, sleep_until};
use crate::operation::{self, DATABASE, Operation, Statement};
use crate::outcome::{FAILURE_PAUSE, Failure, Outcome};
use crate::pace::{Schedule, Window};
use crate::process::Process;
use crate::systems::System;
use crate::systems::remote::free_addresses;
use crate::systems::served;
use crate::threads::{self, Call};
use crate::workload::Operations;

/// Threads that the asynchronous callers are spread over.
const THREADS: usize = 2;
const START_PATIENCE: Duration = Duration::from_secs(60);
const START_PAUSE: Duration = Duration::from_millis(50);

/// A node in this process, and the others of its cluster as processes.
pub(super) struct Embedded {
    node: Node,
    others: Vec<Process>,
}

impl Embedded {
    /// Starts `nodes` nodes with their data below `directory`. The one in this process leads.
    pub(super) fn start(directory: &Path, nodes: usize) -> Result<Self, MeasureError> {
        let builder = Node::builder(directory.join("node-1"));
        let mut others = Vec::new();
        let node = if nodes == 1 {
            builder.start()?
        } else {
            let addresses = free_addresses(nodes, 1)?.concat();
            let cores = allowed_cores();
            let core = |id: usize| cores.get(id - 1).or(cores.last()).copied().unwrap_or(0);
            let program = std::env::current_exe().map_err(MeasureError::Processes)?;
            for id in 2..=nodes {
                let mut words = served::arguments(directory, &addresses, id);
                words.extend(["--core".to_owned(), core(id).to_string()]);
                let log = directory.join(format!("node-{id}.log"));
                let other = Process::start(&program, &words, &log, false);
                others.push(other.map_err(MeasureError::Processes)?);
            }
            let node = builder
                .id(1)
                .core(core(1))
                .listen(addresses[0].clone())
                .cluster((1..).zip(addresses.clone()))
                .start()?;
            lead(&node, &addresses)?;
            node
        };
        Ok(Self { node, others })
    }

    /// One caller, whose thread blocks in each call; or many, each with a session of its own, as
    /// tasks of a few threads.
    fn spread(&self, load: Load, length: Duration) -> Result<Outcome, MeasureError> {
        let sessions = (0..load.connections)
            .map(|index| Ok((index, self.node.database(DATABASE)?)))
            .collect::<Result<Vec<_>, MeasureError>>()?;
        let window = Window::after_warm_up(load.pace, length);
        std::thread::scope(|scope| {
            let threads: Vec<ScopedJoinHandle<'_, _>> = sessions
                .chunks(load.connections.div_ceil(THREADS))
                .map(|chunk| {
                    let chunk = chunk.to_vec();
                    scope.spawn(move || {
                        let callers = chunk.into_iter().map(|(index, database)| {
                            let caller = Caller {
                                database,
                                operations: Operations::of_connection(load.workload, index),
                                schedule: Schedule::of_connection(window, index, load.connections),
                            };
                            move |shared| caller.run(window, shared)
                        });
                        smol::block_on(gather(window, callers))
                    })
                })
                .collect();
            let mut total = Outcome::new();
            for thread in threads {
                let outcome = thread.join();
                total.merge(outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            Ok(total)
        })
    }
}

impl System for Embedded {
    fn prepare(&mut self) -> Result<(), MeasureError> {
        let mut database = self.node.database(DATABASE)?;
        for operation in Operation::preparation() {
            database.call(operation).map_err(MeasureError::Prepare)?;
        }
        Ok(())
    }

    fn load(&mut self, load: Load, length: Duration) -> Result<Outcome, MeasureError> {
        if load.connections > 1 {
            return self.spread(load, length);
        }
        let database = self.node.database(DATABASE)?;
        Ok(threads::run(vec![Box::new(database)], load, length))
    }

    fn processes(&self) -> Vec<u32> {
        let others = self.others.iter().map(Process::id);
        std::iter::once(std::process::id()).chain(others).collect()
    }

    fn stages(&self) -> Result<Vec<StageTimes>, MeasureError> {
        Ok(self.node.stages()?)
    }
}

/// Waits until node 1 leads, which it is asked to where another one was elected.
fn lead(node: &Node, addresses: &[String]) -> Result<(), MeasureError> {
    let start = Instant::now();
    loop {
        let leader = node.wait_for_leader(START_PATIENCE)?;
        if leader.address == addresses[0] {
            return Ok(());
        }
        let asked = Client::connect_to(&leader.address)
            .and_then(|mut client| client.transfer_leadership(1));
        let waited = start.elapsed();
        if waited > START_PATIENCE {
            return Err(MeasureError::NotReady {
                system: "ringlite",
                waited,
                words: asked.map_or_else(|error| error.to_string(), |()| "it moved on".to_owned()),
            });
        }
        std::thread::sleep(START_PAUSE);
    }
}

/// The cores that this process may run on.
pub(crate) fn allowed_cores() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let cores = 0..CpuSet::MAX_CPU;
    cores.filter(|core| allowed.is_set(*core)).collect()
}

/// Blocks in each call.
impl Call for Database {
    fn call(&mut self, operation: Operation) -> Result<(), Failure> {
        let reads = operation.reads();
        let (sql, parameters) = said(operation);
        if reads {
            return expect_row(&self.query(&sql, parameters)?);
        }
        if let Err(error) = self.execute(&sql, parameters) {
            // Of a transaction that failed; where none is open it says so.
            let _ = self.execute("ROLLBACK", ());
            return Err(error.into());
        }
        Ok(())
    }
}

/// One asynchronous caller.
struct Caller {
    database: Database,
    operations: Operations,
    schedule: Schedule,
}

impl Caller {
    async fn run(mut self, window: Window, shared: Rc<Shared>) {
        let mut free = Instant::now();
        while let Some(due) = self.schedule.next_due(free) {
            let operation = self.operations.next_operation();
            sleep_until(due).await;
            let sent = Instant::now();
            let answer = perform(&self.database, operation).await;
            let end = Instant::now();
            free = end;
            let failed = answer.is_err();
            let from = self.schedule.latency_from(due, sent);
            shared.count(&window, (from, end), answer);
            if failed {
                smol::Timer::after(FAILURE_PAUSE).await;
                free = Instant::now();
            }
        }
        shared.count_unsent(&window, &self.schedule);
    }
}

async fn perform(database: &Database, operation: Operation) -> Result<(), Failure> {
    let reads = operation.reads();
    let (sql, parameters) = said(operation);
    if reads {
        return expect_row(&database.query_async(&sql, parameters).await?);
    }
    if let Err(error) = database.execute_async(&sql, parameters).await {
        let _ = database.execute_async("ROLLBACK", ()).await;
        return Err(error.into());
    }
    Ok(())
}

/// An operation as one text: a transaction of several statements is one call, as over the network.
fn said(operation: Operation) -> (Cow<'static, str>, Vec<Value>) {
    let mut statements = operation.into_statements();
    let (sql, parameters) = match statements.as_mut_slice() {
        [Statement { sql, parameters }] => (Cow::Borrowed(*sql), std::mem::take(parameters)),
        _ => {
            let (script, parameters) = operation::as_script(statements);
            (Cow::Owned(script), parameters)
        }
    };
    (sql, parameters.into_iter().map(Value::from).collect())
}

fn expect_row(rows: &Rows) -> Result<(), Failure> {
    if rows.is_empty() {
        return Err(Failure {
            kind: "answer".to_owned(),
            words: "no row has the key".to_owned(),
        });
    }
    Ok(())
}

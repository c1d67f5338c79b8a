//! The load generator: one thread drives all connections, which wait for their answers by epoll as the
//! clients of most languages do. (On a ring each answer would interrupt the thread, at the cost of the node
//! that sends it.)

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::{LocalExecutor, Task, Timer};

use crate::error::{LoadError, MeasureError};
use crate::operation::Operation;
use crate::outcome::{FAILURE_PAUSE, Failure, Outcome};
use crate::pace::{Pace, Schedule, Window};
use crate::workload::{Operations, Workload};

/// How long a connection may look for the leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);
const LEADER_PAUSE: Duration = Duration::from_millis(10);
/// How long nodes may take to start and to elect their first leader.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may be late before it counts as none.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How often one of the operations that make a system ready is tried.
const PREPARATION_ATTEMPTS: usize = 20;
const PREPARATION_PAUSE: Duration = Duration::from_millis(100);

/// How a system is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) workload: Workload,
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
}

/// A connection to the leader of a system.
pub(crate) trait Client: Sized + 'static {
    /// Connects to the leader that the node at `address` names; `None` if it names none.
    async fn to_leader_by(address: SocketAddr) -> Result<Option<Self>, LoadError>;

    /// Does one operation, and waits until it is durable.
    async fn perform(&mut self, operation: Operation) -> Result<(), LoadError>;
}

/// Connects to the leader. Asks the nodes in turn until one names it, or `patience` is at its end.
async fn connect<C: Client>(addresses: &[SocketAddr], patience: Duration) -> Result<C, LoadError> {
    let deadline = Instant::now() + patience;
    let mut failure = None;
    while Instant::now() < deadline {
        for address in addresses {
            match C::to_leader_by(*address).await {
                Ok(Some(client)) => return Ok(client),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        Timer::after(LEADER_PAUSE).await;
    }
    Err(failure.unwrap_or(LoadError::NoLeader { waited: patience }))
}

/// Waits until clients find a leader.
pub(crate) fn wait_for_leader<C: Client>(addresses: &[SocketAddr]) -> Result<(), MeasureError> {
    let found = smol::block_on(connect::<C>(addresses, START_PATIENCE));
    Ok(found.map(drop)?)
}

/// Makes the tables and rows that the workloads need. What fails is tried again, as a cluster that
/// has just started may change its leader.
pub(crate) fn prepare<C: Client>(addresses: &[SocketAddr]) -> Result<(), MeasureError> {
    smol::block_on(async {
        let mut client = connect::<C>(addresses, LEADER_PATIENCE).await?;
        for operation in Operation::preparation() {
            let mut attempt = 1;
            while let Err(error) = client.perform(operation.clone()).await {
                // Etcd needs no tables.
                if matches!(error, LoadError::Unsupported) {
                    break;
                }
                if attempt == PREPARATION_ATTEMPTS {
                    return Err(error.into());
                }
                attempt += 1;
                Timer::after(PREPARATION_PAUSE).await;
                if !error.leaves_connection() {
                    client = connect(addresses, LEADER_PATIENCE).await?;
                }
            }
        }
        Ok(())
    })
}

/// Loads the system at `addresses` for `length`, after a warm-up.
pub(crate) fn run<C: Client>(
    addresses: &[SocketAddr],
    load: Load,
    length: Duration,
) -> Result<Outcome, MeasureError> {
    smol::block_on(async {
        let mut clients = Vec::with_capacity(load.connections);
        for _ in 0..load.connections {
            clients.push(connect::<C>(addresses, LEADER_PATIENCE).await?);
        }
        let window = Window::after_warm_up(load.pace, length);
        let connections = (0..).zip(clients).map(|(index, client)| Connection {
            client,
            addresses: addresses.into(),
            operations: Operations::of_connection(load.workload, index),
            schedule: Schedule::of_connection(window, index, load.connections),
        });
        Ok(gather(
            window,
            connections.map(|connection| |shared| connection.run(window, shared)),
        )
        .await)
    })
}

/// What the tasks of one executor share: the outcome, and how many of them have not ended.
pub(crate) struct Shared {
    outcome: RefCell<Outcome>,
    running: Cell<u64>,
}

impl Shared {
    /// Counts a request.
    pub(crate) fn count(
        &self,
        window: &Window,
        times: (Instant, Instant),
        answer: Result<(), Failure>,
    ) {
        self.outcome.borrow_mut().count(window, times, answer);
    }

    /// Counts what a connection did not get to.
    pub(crate) fn count_unsent(&self, window: &Window, schedule: &Schedule) {
        self.outcome
            .borrow_mut()
            .count_unsent(window, schedule, Instant::now());
    }
}

/// Waits until `due`, unless that is past.
pub(crate) async fn sleep_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        Timer::after(left).await;
    }
}

/// Runs connections side by side until the window closes and their last requests are answered. One
/// that gets no answer for long is counted as failed and left alone.
pub(crate) async fn gather<Work, Running>(
    window: Window,
    connections: impl Iterator<Item = Work>,
) -> Outcome
where
    Work: FnOnce(Rc<Shared>) -> Running,
    Running: Future<Output = ()> + 'static,
{
    let shared = Rc::new(Shared {
        outcome: RefCell::new(Outcome::new()),
        running: Cell::new(0),
    });
    let executor = LocalExecutor::new();
    let tasks: Vec<Task<()>> = connections
        .map(|work| {
            let shared = Rc::clone(&shared);
            shared.running.set(shared.running.get() + 1);
            let running = work(Rc::clone(&shared));
            executor.spawn(async move {
                running.await;
                shared.running.set(shared.running.get() - 1);
            })
        })
        .collect();
    let all = async {
        for task in tasks {
            task.await;
        }
    };
    let too_late = window.gives_up() + ANSWER_PATIENCE - Instant::now();
    let late = async {
        Timer::after(too_late).await;
    };
    executor.run(futures_lite::future::or(all, late)).await;
    let mut outcome = shared.outcome.replace(Outcome::new());
    if shared.running.get() > 0 {
        let failure = Failure {
            kind: "no answer".to_owned(),
            words: format!("none within {ANSWER_PATIENCE:?}"),
        };
        outcome.fail(failure, shared.running.get());
    }
    outcome
}

/// One connection, what it asks for and when.
struct Connection<C: Client> {
    client: C,
    addresses: Rc<[SocketAddr]>,
    operations: Operations,
    schedule: Schedule,
}

impl<C: Client> Connection<C> {
    async fn run(mut self, window: Window, shared: Rc<Shared>) {
        let mut free = Instant::now();
        while let Some(due) = self.schedule.next_due(free) {
            let operation = self.operations.next_operation();
            sleep_until(due).await;
            let sent = Instant::now();
            let answer = self.client.perform(operation).await;
            let end = Instant::now();
            free = end;
            let from = self.schedule.latency_from(due, sent);
            let lost = answer
                .as_ref()
                .err()
                .map(|error| !error.leaves_connection());
            shared.count(&window, (from, end), answer.map_err(Failure::from));
            if let Some(lost) = lost {
                if lost {
                    self.reconnect(&window, &shared).await;
                }
                Timer::after(FAILURE_PAUSE).await;
                free = Instant::now();
            }
        }
        shared.count_unsent(&window, &self.schedule);
    }

    /// Finds the leader again. A failure to do so counts, and is tried again as the next request.
    async fn reconnect(&mut self, window: &Window, shared: &Shared) {
        let start = Instant::now();
        match connect(&self.addresses, LEADER_PATIENCE).await {
            Ok(client) => self.client = client,
            Err(error) => {
                shared.count(window, (start, Instant::now()), Err(error.into()));
            }
        }
    }
}

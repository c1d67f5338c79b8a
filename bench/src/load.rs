//! The load generator: one thread and one executor drive all connections in a closed loop.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement, Task};

use crate::connection::Connection;
use crate::error::{Failure, MeasureError};
use crate::measure::{Outcome, Window};
use crate::workload::Bodies;

/// How long a connection may look for the leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may be late before it counts as none.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Below glommio's default, which is above the usual limit of locked memory.
const IO_MEMORY_BYTES: usize = 2 << 20;

/// Runs a future on an executor of this thread.
pub(crate) fn run_on_executor<T>(future: impl Future<Output = T>) -> Result<T, MeasureError> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| MeasureError::Executor(error.to_string()))?;
    Ok(executor.run(future))
}

/// Loads the cluster at `addresses` with `connections` connections, each of which sends its next
/// request when the last one is answered.
pub(crate) fn over_tcp(
    addresses: &[SocketAddr],
    connections: usize,
    length: Duration,
) -> Result<Outcome, MeasureError> {
    run_on_executor(async {
        let mut writers = Vec::with_capacity(connections);
        for writer in 0..connections {
            let connection = Connection::to_leader(addresses, LEADER_PATIENCE).await?;
            writers.push(Writer {
                connection,
                addresses: addresses.into(),
                bodies: Bodies::of_writer(writer),
            });
        }
        let window = Window::after_warm_up(length);
        Ok(gather(
            window,
            writers.into_iter().map(|writer| writer.run_task(window)),
        )
        .await)
    })?
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
}

/// Runs writers side by side until the window closes and their last requests are answered. One
/// that gets no answer for long is counted as failed and left alone.
pub(crate) async fn gather<Work, Running>(
    window: Window,
    writers: impl Iterator<Item = Work>,
) -> Outcome
where
    Work: FnOnce(Rc<Shared>) -> Running,
    Running: Future<Output = ()> + 'static,
{
    let shared = Rc::new(Shared {
        outcome: RefCell::new(Outcome::new()),
        running: Cell::new(0),
    });
    let tasks: Vec<Task<()>> = writers
        .map(|work| {
            let shared = Rc::clone(&shared);
            shared.running.set(shared.running.get() + 1);
            let running = work(Rc::clone(&shared));
            glommio::spawn_local(async move {
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
    let too_late = window.closes() + ANSWER_PATIENCE - Instant::now();
    futures_lite::future::or(all, glommio::timer::sleep(too_late)).await;
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

/// One connection and what it writes.
struct Writer {
    connection: Connection,
    addresses: Rc<[SocketAddr]>,
    bodies: Bodies,
}

impl Writer {
    fn run_task(self, window: Window) -> impl FnOnce(Rc<Shared>) -> RunningWriter {
        move |shared| Box::pin(self.run(window, shared))
    }

    async fn run(mut self, window: Window, shared: Rc<Shared>) {
        let mut start = Instant::now();
        while !window.is_closed_at(start) {
            let answer = self.connection.insert(self.bodies.next_body()).await;
            let end = Instant::now();
            let lost = matches!(&answer, Err(error) if !error.leaves_connection());
            shared.count(&window, (start, end), answer.map_err(Failure::from));
            if lost {
                self.reconnect(&window, &shared).await;
            }
            start = end;
        }
    }

    /// Finds the leader again. A failure to do so counts, and is tried again as the next request.
    async fn reconnect(&mut self, window: &Window, shared: &Shared) {
        let start = Instant::now();
        match Connection::to_leader(&self.addresses, LEADER_PATIENCE).await {
            Ok(connection) => self.connection = connection,
            Err(error) => {
                shared.count(window, (start, Instant::now()), Err(error.into()));
            }
        }
    }
}

type RunningWriter = std::pin::Pin<Box<dyn Future<Output = ()>>>;

//! Measures with the node in this process: no network between the writers and it.

use std::path::Path;
use std::rc::Rc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use ringlite::{Database, Node, Value};

use crate::error::{Failure, MeasureError};
use crate::load::{Shared, gather, run_on_executor};
use crate::measure::{Outcome, Window};
use crate::workload::{self, Bodies};

/// Threads that the asynchronous writers are spread over.
const THREADS: usize = 2;

/// Starts a node with its data in `directory`, and the table that is written to.
fn start(directory: &Path) -> Result<Node, MeasureError> {
    let node = Node::builder(directory).start()?;
    node.database(workload::DATABASE)?
        .execute(workload::CREATE, ())?;
    Ok(node)
}

/// One writer, whose thread blocks in each call.
pub(crate) fn blocking(directory: &Path, length: Duration) -> Result<Outcome, MeasureError> {
    let node = start(directory)?;
    let database = node.database(workload::DATABASE)?;
    let mut bodies = Bodies::of_writer(0);
    let mut outcome = Outcome::new();
    let window = Window::after_warm_up(length);
    let mut start = Instant::now();
    while !window.is_closed_at(start) {
        let answer = database.execute(workload::INSERT, [bodies.next_body()]);
        let end = Instant::now();
        let answer = answer.map(drop).map_err(Failure::from);
        outcome.count(&window, (start, end), answer);
        start = end;
    }
    Ok(outcome)
}

/// Many writers, each with a session of its own, as tasks of a few threads.
pub(crate) fn asynchronous(
    directory: &Path,
    writers: usize,
    length: Duration,
) -> Result<Outcome, MeasureError> {
    let node = start(directory)?;
    let sessions = (0..writers)
        .map(|writer| {
            Ok((
                node.database(workload::DATABASE)?,
                Bodies::of_writer(writer),
            ))
        })
        .collect::<Result<Vec<_>, MeasureError>>()?;
    let window = Window::after_warm_up(length);
    std::thread::scope(|scope| {
        let threads: Vec<ScopedJoinHandle<'_, _>> = sessions
            .chunks(writers.div_ceil(THREADS))
            .map(|chunk| {
                let chunk = chunk.to_vec();
                scope.spawn(move || {
                    let writers = chunk.into_iter().map(|(database, bodies)| {
                        move |shared| write(database, bodies, window, shared)
                    });
                    run_on_executor(gather(window, writers))
                })
            })
            .collect();
        let mut total = Outcome::new();
        for thread in threads {
            let outcome = thread.join();
            total.merge(outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(total)
    })
}

async fn write(database: Database, mut bodies: Bodies, window: Window, shared: Rc<Shared>) {
    let mut start = Instant::now();
    while !window.is_closed_at(start) {
        let parameters: [Value; 1] = [bodies.next_body()];
        let answer = database
            .execute_async(workload::INSERT, parameters)
            .await
            .map(drop);
        let end = Instant::now();
        shared.count(&window, (start, end), answer.map_err(Failure::from));
        start = end;
    }
}

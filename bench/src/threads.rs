//! The load on systems whose calls block: a thread for each connection.

use std::time::{Duration, Instant};

use crate::load::Load;
use crate::operation::Operation;
use crate::outcome::{FAILURE_PAUSE, Failure, Outcome};
use crate::pace::{Schedule, Window};
use crate::workload::Operations;

/// Does one operation, and waits until it is done.
pub(crate) trait Call: Send {
    /// Does it.
    fn call(&mut self, operation: Operation) -> Result<(), Failure>;
}

/// Loads a system for `length`, after a warm-up, through `callers`, one for each connection.
pub(crate) fn run(callers: Vec<Box<dyn Call>>, load: Load, length: Duration) -> Outcome {
    let window = Window::after_warm_up(load.pace, length);
    let connections = callers.len();
    let drive = |index: usize, mut caller: Box<dyn Call>| {
        let operations = Operations::of_connection(load.workload, index);
        let schedule = Schedule::of_connection(window, index, connections);
        drive(&mut *caller, operations, schedule, &window)
    };
    std::thread::scope(|scope| {
        let mut callers = (0..).zip(callers);
        // This thread drives the first one, as a program with one writer does.
        let own = callers.next();
        let threads: Vec<_> = callers
            .map(|(index, caller)| scope.spawn(move || drive(index, caller)))
            .collect();
        let mut total = own.map_or_else(Outcome::new, |(index, caller)| drive(index, caller));
        for thread in threads {
            let outcome = thread.join();
            total.merge(outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        total
    })
}

fn drive(
    caller: &mut dyn Call,
    mut operations: Operations,
    mut schedule: Schedule,
    window: &Window,
) -> Outcome {
    let mut outcome = Outcome::new();
    let mut free = Instant::now();
    while let Some(due) = schedule.next_due(free) {
        let operation = operations.next_operation();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        let answer = caller.call(operation);
        let end = Instant::now();
        free = end;
        let failed = answer.is_err();
        outcome.count(window, (schedule.latency_from(due, sent), end), answer);
        if failed {
            std::thread::sleep(FAILURE_PAUSE);
            free = Instant::now();
        }
    }
    outcome.count_unsent(window, &schedule, Instant::now());
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;
    use crate::workload::Workload;

    /// Answers at once, but not for a while in the middle.
    struct Stalling {
        stall: Option<Instant>,
    }

    impl Call for Stalling {
        fn call(&mut self, _: Operation) -> Result<(), Failure> {
            if self
                .stall
                .take_if(|stall| Instant::now() >= *stall)
                .is_some()
            {
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        }
    }

    #[test]
    fn the_stall_of_a_system_is_seen_at_a_fixed_rate() {
        let length = Duration::from_millis(400);
        let mut quantiles = Vec::new();
        for pace in [Pace::open_at(1000), Pace::BackToBack] {
            let load = Load {
                workload: Workload::Insert,
                connections: 1,
                pace,
            };
            let stall = Some(Instant::now() + Duration::from_millis(250));
            let outcome = run(vec![Box::new(Stalling { stall })], load, length);
            let p75 = outcome.latencies.value_at_quantile(0.75);
            quantiles.push(Duration::from_nanos(p75));
        }
        // Half of the requests were due while it stalled, and waited for 100 ms in the mean.
        assert!(quantiles[0] > Duration::from_millis(50), "{quantiles:?}");
        assert!(quantiles[1] < Duration::from_millis(1), "{quantiles:?}");
    }
}

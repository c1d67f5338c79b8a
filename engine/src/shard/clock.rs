//! The time of a shard, in ticks.
//!
//! It is taken from `CLOCK_BOOTTIME`, which goes on while the machine is suspended: leases and the
//! promises behind them are counted in these ticks, and must not outlive what they mean.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::TICK;

/// Counts the ticks of one shard.
pub(super) struct Clock {
    /// Until when ticks were given.
    given: Cell<Duration>,
    at_once_max: u32,
}

impl Clock {
    /// A clock that gives at most so many ticks at once: what a longer stall has lost is not made up
    /// for.
    pub(super) fn new(at_once_max: u32) -> Self {
        Self {
            given: Cell::new(now()),
            at_once_max,
        }
    }

    /// The ticks that have passed since they were taken last.
    pub(super) fn take(&self) -> u32 {
        self.take_at(now())
    }

    fn take_at(&self, now: Duration) -> u32 {
        let passed = self.passed_at(now);
        if passed > self.at_once_max {
            self.given.set(now);
            return self.at_once_max;
        }
        self.given.set(self.given.get() + TICK * passed);
        passed
    }

    /// How many ticks wait to be taken.
    pub(super) fn passed(&self) -> u32 {
        self.passed_at(now())
    }

    fn passed_at(&self, now: Duration) -> u32 {
        let since = now.saturating_sub(self.given.get());
        u32::try_from(since.as_nanos() / TICK.as_nanos()).unwrap_or(u32::MAX)
    }

    /// How long until so many wait.
    pub(super) fn until(&self, ticks: u32) -> Duration {
        (self.given.get() + TICK * ticks).saturating_sub(now())
    }
}

/// Since the machine was started, with the time that it was suspended.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // The kernel's is never negative, and its nanoseconds are below a second.
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE_MAX: u32 = 25;

    #[test]
    fn every_tick_is_given_once() {
        let clock = Clock::new(AT_ONCE_MAX);
        let start = clock.given.get();
        let mut given = 0;
        for passed in [3, 9, 10, 14, 15, 29, 40, 140] {
            given += clock.take_at(start + Duration::from_millis(passed));
            assert_eq!(u64::from(given), passed / 10);
        }
    }

    #[test]
    fn of_a_long_stall_so_many_are_given_and_no_more_later() {
        let clock = Clock::new(AT_ONCE_MAX);
        let end = clock.given.get() + Duration::from_secs(3_600);
        assert_eq!(clock.take_at(end), AT_ONCE_MAX);
        assert_eq!(clock.take_at(end + TICK / 2), 0);
        assert_eq!(clock.take_at(end + TICK), 1);
    }
}

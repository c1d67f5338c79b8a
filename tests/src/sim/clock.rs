//! The clocks: one of the simulation, and one of each node, which is fast or slow and jumps.

use super::random::Random;

/// Units of simulated time per tick of a right clock.
pub(crate) const TICK: u64 = 4;
/// How long a unit of simulated time is.
pub(crate) const UNIT_MICROSECONDS: u64 = 10_000 / TICK;
/// After a stall a node's runtime gives its replica at most so many ticks at once.
const TICKS_AT_ONCE_MAX: u64 = 5;
/// The Julian day at which every simulation begins.
const FIRST_DAY: f64 = 2_461_000.5;

/// One node's clock.
pub(crate) struct Clock {
    /// A right clock has 1000.
    rate_per_mille: u64,
    /// When the next tick is due, in thousandths of a unit.
    due: u64,
    wall_offset_seconds: i64,
    /// Ticks that a jump adds.
    jumped: u64,
    /// Also the ticks of a long stall are given, as leases need it.
    gives_all: bool,
}

impl Clock {
    /// Whether it is neither fast nor slow.
    pub(crate) fn is_right(&self) -> bool {
        self.rate_per_mille == 1000
    }

    pub(crate) fn new(rate_per_mille: u64, gives_all: bool, random: &mut Random) -> Clock {
        Clock {
            rate_per_mille,
            due: random.below(TICK * 1000),
            wall_offset_seconds: 0,
            jumped: 0,
            gives_all,
        }
    }

    /// The ticks that have passed since the last look.
    pub(crate) fn ticks(&mut self, now: u64) -> u64 {
        let period = TICK * 1_000_000 / self.rate_per_mille;
        let mut passed = std::mem::take(&mut self.jumped);
        while self.due <= now * 1000 {
            self.due += period;
            passed += 1;
            if passed > TICKS_AT_ONCE_MAX && !self.gives_all {
                // What a stall has lost is not made up for.
                self.due = now * 1000 + period;
            }
        }
        match self.gives_all {
            true => passed,
            false => passed.min(TICKS_AT_ONCE_MAX),
        }
    }

    /// The wall clock is set, and the monotonic one makes a leap.
    pub(crate) fn jump(&mut self, seconds: i64, ticks: u64) {
        self.wall_offset_seconds += seconds;
        self.jumped += ticks;
    }

    /// What SQLite is told of the time, as a Julian day.
    pub(crate) fn julian_day(&self, now: u64) -> f64 {
        let microseconds = now * UNIT_MICROSECONDS * self.rate_per_mille / 1000;
        let seconds = microseconds as f64 / 1e6 + self.wall_offset_seconds as f64;
        FIRST_DAY + seconds / 86_400.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_of(rate_per_mille: u64, units: u64) -> u64 {
        let mut clock = Clock::new(rate_per_mille, false, &mut Random::new(1));
        (0..units).map(|now| clock.ticks(now)).sum()
    }

    #[test]
    fn a_fast_clock_ticks_more_often() {
        let units = 1000 * TICK;
        assert!(ticks_of(1000, units).abs_diff(1000) <= 1);
        assert!(ticks_of(1100, units).abs_diff(1100) <= 2);
        assert!(ticks_of(900, units).abs_diff(900) <= 2);
    }

    #[test]
    fn a_stall_is_not_made_up_for() {
        let mut clock = Clock::new(1000, false, &mut Random::new(1));
        clock.ticks(10);
        assert_eq!(clock.ticks(1000), TICKS_AT_ONCE_MAX);
        assert_eq!(clock.ticks(1000), 0);
    }
}

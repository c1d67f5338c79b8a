//! When requests are sent, and since when their latency counts.

use std::time::{Duration, Instant};

/// The warm-up before each measure, as a part of its length.
const WARM_UP_PART: u32 = 4;
/// How long after the end an open loop may still work off what was due before it.
const BACKLOG_TIME_MAX: Duration = Duration::from_secs(2);

/// The pace of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Each connection sends its next request when the last one is answered.
    BackToBack,
    /// Each connection sends one in each such time, but not before the last one is answered. The
    /// latency counts from when it is sent.
    Closed(Duration),
    /// All connections together send one in each such time, whatever becomes of the ones before.
    /// The latency counts from when it was due: while a system stalls, requests become due and
    /// wait, and their waiting is not left out (no coordinated omission).
    Open(Duration),
}

impl Pace {
    /// The open loop with so many requests a second.
    pub(crate) fn open_at(rate: u64) -> Self {
        Self::Open(Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX))
    }
}

/// The time in which things count. What ends before it is warm-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pace: Pace,
    begins: Instant,
    opens: Instant,
    closes: Instant,
}

impl Window {
    /// Opens after a warm-up from now on, and stays open for `length`.
    pub(crate) fn after_warm_up(pace: Pace, length: Duration) -> Self {
        Self::from(Instant::now(), pace, length)
    }

    fn from(begins: Instant, pace: Pace, length: Duration) -> Self {
        let opens = begins + length / WARM_UP_PART;
        Self {
            pace,
            begins,
            opens,
            closes: opens + length,
        }
    }

    /// Whether a request counts that was due at `due` and ended at `end`: in an open loop one that
    /// was due in the window, whenever it ended, otherwise one that ended in it.
    pub(crate) fn counts(&self, due: Instant, end: Instant) -> bool {
        match self.pace {
            Pace::Open(_) => self.contains(due),
            Pace::BackToBack | Pace::Closed(_) => self.contains(end),
        }
    }

    /// Whether `moment` is in it.
    pub(crate) fn contains(&self, moment: Instant) -> bool {
        (self.opens..self.closes).contains(&moment)
    }

    /// When nothing more is sent.
    pub(crate) fn gives_up(&self) -> Instant {
        match self.pace {
            Pace::Open(_) => self.closes + (self.closes - self.opens).min(BACKLOG_TIME_MAX),
            Pace::BackToBack | Pace::Closed(_) => self.closes,
        }
    }
}

/// When one connection sends its requests.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    window: Window,
    next: Instant,
    step: Duration,
}

impl Schedule {
    /// That of connection `connection` of `connections`, whose requests fall between each other's.
    pub(crate) fn of_connection(window: Window, connection: usize, connections: usize) -> Self {
        let count = u32::try_from(connections).unwrap_or(u32::MAX);
        let step = match window.pace {
            Pace::BackToBack => Duration::ZERO,
            Pace::Closed(every) => every,
            Pace::Open(every) => every * count,
        };
        let offset = step.mul_f64(connection as f64 / connections as f64);
        Self {
            window,
            next: window.begins + offset,
            step,
        }
    }

    /// When the next request is due, to be sent then or at once if that is past; `None` after the
    /// last one. `now` is when the connection has become free.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Instant> {
        let due = match self.window.pace {
            Pace::BackToBack => now,
            Pace::Open(_) if now >= self.window.gives_up() => return None,
            Pace::Open(_) => self.next,
            Pace::Closed(_) => {
                // The turns that passed while the last request ran are left out.
                while self.next < now {
                    self.next += self.step;
                }
                self.next
            }
        };
        if due >= self.window.closes {
            return None;
        }
        self.next = due + self.step;
        Some(due)
    }

    /// Since when the latency counts of a request that was due at `due` and sent at `sent`.
    pub(crate) fn latency_from(&self, due: Instant, sent: Instant) -> Instant {
        match self.window.pace {
            Pace::Open(_) => due,
            Pace::BackToBack | Pace::Closed(_) => sent,
        }
    }

    /// When requests were due that have not been sent, after [`Schedule::next_due`] gave none.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = Instant> {
        let Self { window, next, step } = *self;
        let open = matches!(window.pace, Pace::Open(_));
        std::iter::successors(open.then_some(next), move |due| Some(*due + step))
            .take_while(move |due| *due < window.closes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn window(pace: Pace) -> Window {
        Window::from(Instant::now(), pace, 4 * SECOND)
    }

    #[test]
    fn back_to_back_is_always_due_until_the_end() {
        let window = window(Pace::BackToBack);
        let mut schedule = Schedule::of_connection(window, 0, 1);
        let late = window.begins + 4 * SECOND;
        assert_eq!(schedule.next_due(late), Some(late));
        assert_eq!(schedule.next_due(window.closes), None);
        assert_eq!(schedule.unsent().count(), 0);
    }

    #[test]
    fn a_closed_pace_leaves_out_the_turns_it_has_missed() {
        let window = window(Pace::Closed(SECOND));
        let begins = window.begins;
        let mut schedule = Schedule::of_connection(window, 0, 2);
        assert_eq!(schedule.next_due(begins), Some(begins));
        let free = begins + 2 * SECOND + SECOND / 2;
        assert_eq!(schedule.next_due(free), Some(begins + 3 * SECOND));
        let sent = begins + 3 * SECOND + SECOND / 10;
        assert_eq!(schedule.latency_from(begins, sent), sent);
        let mut other = Schedule::of_connection(window, 1, 2);
        assert_eq!(other.next_due(begins), Some(begins + SECOND / 2));
    }

    #[test]
    fn an_open_pace_leaves_out_none() {
        let window = window(Pace::Open(SECOND));
        let begins = window.begins;
        let mut schedule = Schedule::of_connection(window, 1, 2);
        let free = begins + 4 * SECOND;
        assert_eq!(schedule.next_due(begins), Some(begins + SECOND));
        assert_eq!(schedule.next_due(free), Some(begins + 3 * SECOND));
        assert_eq!(schedule.latency_from(begins, free), begins);
        // The window closes after five seconds, and what was due in it is sent after that, up to
        // a limit.
        assert_eq!(schedule.next_due(free), None);
        let mut stalled = Schedule::of_connection(window, 0, 2);
        assert_eq!(stalled.next_due(begins), Some(begins));
        let late = window.gives_up();
        assert_eq!(stalled.next_due(late), None);
        let unsent: Vec<Instant> = stalled.unsent().collect();
        assert_eq!(unsent, [begins + 2 * SECOND, begins + 4 * SECOND]);
    }

    #[test]
    fn a_request_of_an_open_loop_counts_by_when_it_was_due() {
        let open = window(Pace::Open(SECOND));
        let (inside, late) = (open.opens + SECOND, open.closes + SECOND);
        assert!(open.counts(inside, late));
        assert!(!open.counts(open.begins, inside));
        let closed = window(Pace::BackToBack);
        let (inside, late) = (closed.opens + SECOND, closed.closes + SECOND);
        assert!(!closed.counts(inside, late));
        assert!(closed.counts(closed.begins, inside));
    }
}

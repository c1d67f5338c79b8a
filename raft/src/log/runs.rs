//! The term of every entry, in a few runs instead of one number per entry.

use crate::config::ConfigError;
use crate::entry::{LogBase, TermRun};
use crate::types::{LogIndex, Term};

/// Runs with growing first indexes and growing terms. The first one starts with the base of the
/// log, whose term is known although its entry is gone; so there always is one.
#[derive(Clone, Debug)]
pub(crate) struct TermRuns {
    runs: Vec<TermRun>,
}

impl TermRuns {
    /// The runs of a log behind `base` that ends at `last`.
    pub(crate) fn restore(
        base: LogBase,
        found: Vec<TermRun>,
        last: LogIndex,
    ) -> Result<TermRuns, ConfigError> {
        let wrong = |run: TermRun| {
            let TermRun { first, term } = run;
            Err(ConfigError::TermRuns { first, term })
        };
        let mut before = TermRun {
            first: base.index,
            term: base.term,
        };
        let mut runs = vec![before];
        if found.is_empty() && last > base.index {
            return wrong(before);
        }
        for (position, run) in found.into_iter().enumerate() {
            let follows = if position == 0 {
                run.first == base.index.next() && run.term >= base.term && run.term > Term(0)
            } else {
                run.first > before.first && run.term > before.term
            };
            if !follows || run.first > last {
                return wrong(run);
            }
            if run.term > before.term {
                runs.push(run);
            }
            before = run;
        }
        Ok(TermRuns { runs })
    }

    /// The index of the base.
    pub(crate) fn base(&self) -> LogIndex {
        self.first_run().first
    }

    /// The term at an index from the base to `last`.
    pub(crate) fn term(&self, index: LogIndex, last: LogIndex) -> Option<Term> {
        (self.base() <= index && index <= last).then(|| self.run_of(index).term)
    }

    pub(crate) fn last_term(&self) -> Term {
        self.runs.last().map_or(Term(0), |run| run.term)
    }

    /// The first index of the run that `index` is in; the base, if the run began before it.
    pub(crate) fn first_of(&self, index: LogIndex) -> LogIndex {
        self.run_of(index).first
    }

    /// The highest index up to `from` whose term is at most `term`, and its term; the base if all
    /// terms are higher.
    pub(crate) fn last_at_most(&self, from: LogIndex, term: Term) -> (LogIndex, Term) {
        let run = self.run_of(from);
        if run.term <= term {
            return (from, run.term);
        }
        // Terms grow with the index, so the first run above `term` starts just behind the answer.
        let above = self.runs.partition_point(|run| run.term <= term);
        let index = match self.runs.get(above) {
            Some(run) if above > 0 => run.first.prev(),
            _ => self.base(),
        };
        (index, self.run_of(index).term)
    }

    pub(crate) fn push(&mut self, index: LogIndex, term: Term) {
        assert!(term >= self.last_term(), "terms shrink at {index}");
        if term > self.last_term() {
            self.runs.push(TermRun { first: index, term });
        }
    }

    /// An empty log behind `base`.
    pub(crate) fn behind(base: LogBase) -> TermRuns {
        let LogBase { index: first, term } = base;
        TermRuns {
            runs: vec![TermRun { first, term }],
        }
    }

    /// Everything from `from` on is void.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.base(), "{from} was cut and cannot be truncated");
        self.runs.retain(|run| run.first < from);
    }

    /// Forgets everything before `base`, which keeps its term.
    pub(crate) fn cut(&mut self, base: LogIndex) {
        if base <= self.base() {
            return;
        }
        let at_base = self.run_of(base);
        self.runs.retain(|run| run.first > at_base.first);
        self.runs.insert(
            0,
            TermRun {
                first: base,
                term: at_base.term,
            },
        );
    }

    fn run_of(&self, index: LogIndex) -> TermRun {
        let after = self.runs.partition_point(|run| run.first <= index);
        after
            .checked_sub(1)
            .and_then(|position| self.runs.get(position))
            .map_or_else(|| self.first_run(), |run| *run)
    }

    fn first_run(&self) -> TermRun {
        match self.runs.first() {
            Some(run) => *run,
            None => unreachable!("the base's run is never removed"),
        }
    }

    pub(crate) fn check_invariants(&self, last: LogIndex) {
        let base = self.first_run();
        assert_eq!(
            base.first == LogIndex::ZERO,
            base.term == Term(0),
            "a base without a term"
        );
        assert!(base.first <= last);
        for (before, run) in self.runs.iter().zip(&self.runs[1..]) {
            assert!(run.first > before.first && run.term > before.term && run.first <= last);
        }
        assert!(
            self.last_term() > Term(0) || last == LogIndex::ZERO,
            "an entry without a term"
        );
    }
}

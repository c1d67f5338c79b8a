//! The term of every entry, in a few runs instead of one number per entry.

use crate::config::ConfigError;
use crate::entry::TermRun;
use crate::types::{LogIndex, Term};

/// Runs from index 1 on, with growing first indexes and growing terms.
#[derive(Debug)]
pub(crate) struct TermRuns {
    runs: Vec<TermRun>,
}

impl TermRuns {
    pub(crate) fn restore(runs: Vec<TermRun>, last: LogIndex) -> Result<TermRuns, ConfigError> {
        let mut before = TermRun {
            first: LogIndex::ZERO,
            term: Term(0),
        };
        for (position, run) in runs.iter().enumerate() {
            let starts_right = if position == 0 {
                run.first.0 == 1
            } else {
                true
            };
            let follows = run.first > before.first && run.term > before.term;
            if !starts_right || !follows || run.first > last {
                return Err(ConfigError::TermRuns {
                    first: run.first,
                    term: run.term,
                });
            }
            before = *run;
        }
        if runs.is_empty() && last > LogIndex::ZERO {
            return Err(ConfigError::TermRuns {
                first: LogIndex::ZERO,
                term: Term(0),
            });
        }
        Ok(TermRuns { runs })
    }

    pub(crate) fn term(&self, index: LogIndex, last: LogIndex) -> Option<Term> {
        (index <= last).then(|| self.run_of(index).term)
    }

    pub(crate) fn last_term(&self) -> Term {
        self.runs.last().map_or(Term(0), |run| run.term)
    }

    /// The first index of the run that `index` is in.
    pub(crate) fn first_of(&self, index: LogIndex) -> LogIndex {
        self.run_of(index).first
    }

    /// The highest index up to `from` whose term is at most `term`, and its term.
    pub(crate) fn last_at_most(&self, from: LogIndex, term: Term) -> (LogIndex, Term) {
        let run = self.run_of(from);
        if run.term <= term {
            return (from, run.term);
        }
        // Terms grow with the index, so the first run above `term` starts just behind the answer.
        let above = self.runs.partition_point(|run| run.term <= term);
        let index = self.runs.get(above).map_or(from, |run| run.first.prev());
        (index, self.run_of(index).term)
    }

    pub(crate) fn push(&mut self, index: LogIndex, term: Term) {
        assert!(term >= self.last_term(), "terms shrink at {index}");
        if term > self.last_term() {
            self.runs.push(TermRun { first: index, term });
        }
    }

    pub(crate) fn truncate(&mut self, from: LogIndex) {
        self.runs.retain(|run| run.first < from);
    }

    fn run_of(&self, index: LogIndex) -> TermRun {
        let after = self.runs.partition_point(|run| run.first <= index);
        let before_all = TermRun {
            first: LogIndex::ZERO,
            term: Term(0),
        };
        after
            .checked_sub(1)
            .and_then(|position| self.runs.get(position))
            .map_or(before_all, |r| *r)
    }

    pub(crate) fn check_invariants(&self, last: LogIndex) {
        let mut before = TermRun {
            first: LogIndex::ZERO,
            term: Term(0),
        };
        for run in &self.runs {
            assert!(run.first > before.first && run.term > before.term && run.first <= last);
            before = *run;
        }
        assert_eq!(
            self.runs.is_empty(),
            last == LogIndex::ZERO,
            "an entry without a term"
        );
    }
}

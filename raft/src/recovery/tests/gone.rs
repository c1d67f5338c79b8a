//! Whole segments that are gone, or of which no header is left: what lies behind them tells what it
//! followed on.

use super::*;

fn debt(term: u64, index: u64) -> Debt {
    Debt {
        term: Term(term),
        index: LogIndex(index),
    }
}

const HARD_STATE_TERM: Term = Term(9);

impl Writer {
    /// The log without the file of one segment.
    fn recover_without(
        &self,
        gone: u64,
        base: LogBase,
        mark: impl Into<DurableMark>,
    ) -> Result<RecoveredLog, Failure> {
        let numbered = (1..).zip(&self.segments);
        let scans = numbered
            .filter(|(number, _)| *number != gone)
            .map(|(number, bytes)| scan_segment(bytes, number, &IDENTITY).expect("a segment"));
        judged(recover(scans.collect(), mark, base))
    }

    /// No header of the segment is left.
    fn without_headers(mut self, segment: usize) -> Writer {
        for block in 0..BLOCKS {
            self.segments[segment - 1][block * RECORD_ALIGN] ^= 1;
        }
        self
    }
}

/// 1 to 6 of term 1; 3 to 6 of them void, as 3 to 5 of term 2 took their place; then a restart, and 6 and 7
/// of term 3. The segment with term 2 is gone. The node once took 3 to 5 of term 1 for its log, in silence.
#[test]
fn row_1_an_epoch_that_is_gone_in_the_middle_is_missed() {
    let log = || Writer::new().write(6).epoch(3).write(3).epoch(6).write(2);
    let said = Evidence::EntryBefore {
        segment: 3,
        epoch: 3,
        index: LogIndex(5),
        term: Term(2),
        found: Term(1),
    };
    let unreadable = log().without_headers(2).recover(NO_MARK);
    for outcome in [log().recover_without(2, NO_BASE, NO_MARK), unreadable] {
        let (found, fault) = faulty(outcome);
        assert_eq!((fault.evidence, fault.index), (said, LogIndex(5)));
        // Where the record lies that was taken for it.
        assert_eq!((fault.segment, fault.offset), (1, 4 * RECORD_ALIGN as u64));
        // Nothing tells from where on what is left is void, nor that any of it was committed.
        assert_eq!((found.last, found.commit), (LogIndex(0), LogIndex(0)));
        assert_eq!((found.epoch, found.highest_segment), (3, 3));
        assert_eq!(fault.debt(HARD_STATE_TERM), debt(3, 7));
    }
}

#[test]
fn what_was_committed_before_an_epoch_that_is_gone_is_kept() {
    // The second write says that half of the first one was committed.
    let log = Writer::new().write(4).write(2).epoch(4).write(3).epoch(7);
    let log = log.write(2);
    let (found, _) = faulty(log.recover_without(2, NO_BASE, NO_MARK));
    assert_eq!((found.last, found.commit), (LogIndex(2), LogIndex(2)));
    // A void epoch between the one that is gone and the next says that 5 was committed, of which what is
    // left is another one.
    let mut log = Writer::new().write(4).write(4).epoch(4).write(3).epoch(7);
    log.durable = 10;
    let log = log.write(2).epoch(7).write(2);
    let (found, fault) = faulty(log.recover_without(2, NO_BASE, NO_MARK));
    assert_eq!((fault.index, found.last.0), (LogIndex(6), 2), "{fault}");
}

/// What is left before the gap may be void as well: the next epoch began behind all of it.
#[test]
fn row_7_what_an_epoch_that_is_gone_may_have_voided_is_not_kept() {
    let log = Writer::new().write(2).write(4).epoch(3).write(6).epoch(9);
    let log = log.write(2);
    for outcome in [
        log.recover_without(2, NO_BASE, NO_MARK),
        log.recover_without(2, NO_BASE, LogIndex(10)),
    ] {
        let (found, fault) = faulty(outcome);
        assert_eq!((fault.index, found.last.0), (LogIndex(7), 1), "{fault}");
        assert_eq!(fault.debt(HARD_STATE_TERM), debt(3, 10));
    }
}

#[test]
fn an_epoch_that_is_gone_and_void_is_not_missed() {
    let log = Writer::new().write(4).epoch(4).write(2).epoch(4).write(3);
    let found = log.recover_without(2, NO_BASE, NO_MARK).expect("a log");
    assert_eq!((found.last, found.records.len()), (LogIndex(6), 6));
    // Nor one in which the same entries were written once more, as a repair does.
    let log = Writer::new().write(4).epoch(3);
    let log = Writer { term: 1, ..log }.write(2).epoch(5).write(1);
    let found = log.recover_without(2, NO_BASE, NO_MARK).expect("a log");
    assert_eq!((found.last, found.records.len()), (LogIndex(5), 5));
}

#[test]
fn the_epoch_behind_the_base_follows_on_the_base() {
    let base = LogBase {
        index: LogIndex(4),
        term: Term(1),
    };
    let log = Writer::new().write(4).epoch(5).write(2).epoch(7).write(1);
    let found = log.recover_from(1, base, NO_MARK).expect("a log");
    assert_eq!((found.last, found.records.len()), (LogIndex(7), 3));
    let log = Writer::new().write(6).epoch(5).write(2).epoch(7).write(1);
    let (found, fault) = faulty(log.recover_without(2, base, NO_MARK));
    assert_eq!((fault.index, found.last), (LogIndex(6), LogIndex(4)));
    assert!(!found.lacks_base());
    // What was committed is replaced by no epoch, gone or not.
    let error = Writer {
        terms: vec![3; 4],
        term: 3,
        ..Writer::new().write(4)
    };
    let error = error.epoch(5).write(1).recover_from(1, base, NO_MARK);
    let error = error.expect_err("not a log").refusal().to_string();
    assert!(
        error.contains("what was committed is never replaced"),
        "{error}"
    );
}

proptest! {
    /// The promise for whole segments: whatever is gone that was not in the newest epoch, what is left is
    /// as it was, or it is missed aloud; then everything that was acknowledged is owed, and the log can go
    /// on.
    #[test]
    fn a_segment_that_is_gone_is_void_or_missed(
        acts in any_acts(), segment: prop::sample::Index, is_file_there: bool,
    ) {
        let log = perform(&acts);
        let whole = log.recover(NO_MARK).expect("a log");
        let gone = segment.index(log.segments.len());
        let epoch_of = |number: usize| {
            let scan = scan_segment(&log.segments[number], number as u64 + 1, &IDENTITY);
            scan.expect("a segment").epoch()
        };
        if epoch_of(gone).is_none_or(|epoch| epoch == whole.epoch) {
            return Ok(());
        }
        let log = if is_file_there { log.without_headers(gone + 1) } else { log };
        let outcome = if is_file_there {
            log.recover(NO_MARK)
        } else {
            log.recover_without(gone as u64 + 1, NO_BASE, NO_MARK)
        };
        let terms = |found: &RecoveredLog| -> Vec<(u64, u64)> {
            found.records.iter().map(|record| (record.index.0, record.term.0)).collect()
        };
        let found = match outcome {
            Ok(found) => {
                prop_assert_eq!(terms(&found), terms(&whole));
                return Ok(());
            }
            Err(Failure::Faulty(found, fault)) => {
                let (last, term) = terms(&whole).last().copied().expect("records");
                prop_assert_eq!(fault.debt(HARD_STATE_TERM), debt(term, last));
                prop_assert!(found.last < fault.index);
                found
            }
            Err(Failure::Refused(error)) => panic!("{error}"),
        };
        prop_assert_eq!(&terms(&found)[..], &terms(&whole)[..found.records.len()]);
        let mut log = log;
        if !is_file_there {
            log.segments[gone].fill(0);
        }
        log.terms = found.records.iter().map(|record| record.term.0).collect();
        let again = log.epoch(found.last.0 + 1).write(2).recover(NO_MARK);
        let again = again.expect("a log that goes on");
        prop_assert_eq!(again.last.0, found.last.0 + 2);
    }
}

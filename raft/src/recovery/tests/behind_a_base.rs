//! The same table for a log that was cut: what is behind the base is judged as before, and the base
//! itself must be there.

use super::*;

fn base(index: u64, term: u64) -> LogBase {
    LogBase {
        index: LogIndex(index),
        term: Term(term),
    }
}

fn check_behind(outcome: Result<RecoveredLog, Failure>, base: u64, last: u64) {
    let found = outcome.expect("a log");
    assert_eq!((found.base.index.0, found.last.0), (base, last));
    assert!(found.base.index <= found.commit && found.commit <= found.last);
    let indexes: Vec<u64> = found.records.iter().map(|record| record.index.0).collect();
    assert_eq!(indexes, (base + 1..=last).collect::<Vec<_>>());
    let first_run = found.runs.first().map(|run| run.first.0);
    assert_eq!(first_run, (base < last).then_some(base + 1));
}

#[test]
fn a_log_is_found_from_any_base_on() {
    let log = Writer::new().write(2).write(2).segment().write(3);
    for (index, first) in [(1, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2)] {
        let found = log.recover_from(first, base(index, 1), LogIndex(7));
        check_behind(found, index, 7);
    }
}

#[test]
fn the_epoch_and_the_terms_go_on_behind_a_base() {
    let log = Writer::new().write(4).epoch(5).write(2).segment().write(2);
    let found = log.recover_from(1, base(2, 1), NO_MARK).expect("a log");
    let run = |first, term| TermRun {
        first: LogIndex(first),
        term: Term(term),
    };
    assert_eq!(found.runs, [run(3, 1), run(5, 2)]);
    let found = log.recover_from(1, base(4, 1), NO_MARK).expect("a log");
    assert_eq!(
        (found.runs.as_slice(), found.epoch),
        ([run(5, 2)].as_slice(), 2)
    );
    check_behind(log.recover_from(3, base(7, 2), NO_MARK), 7, 8);
}

#[test]
fn what_is_known_to_be_committed_is_at_least_the_base() {
    // The headers say half of what was durable.
    let log = Writer::new().write(3).write(1);
    let commit = |index| {
        let found = log.recover_from(1, base(index, 1), NO_MARK);
        found.expect("a log").commit.0
    };
    assert_eq!((commit(1), commit(3), commit(4)), (1, 3, 4));
}

#[test]
fn row_1_a_torn_tail_behind_the_base_that_a_later_epoch_replaced_is_history() {
    let log = Writer::new()
        .write(2)
        .write(2)
        .damage(1, 2)
        .epoch(3)
        .write(2);
    check_behind(log.recover_from(1, base(1, 1), NO_MARK), 1, 4);
    check_behind(log.recover_from(1, base(2, 1), NO_MARK), 2, 4);
    // The base is in the new epoch; the segment with the void records is no part of the log.
    check_behind(log.recover_from(2, base(3, 2), NO_MARK), 3, 4);
}

#[test]
fn an_epoch_that_voids_what_was_cut_is_no_history_of_this_log() {
    // As if the segment with void records had been kept and the base were of the newer epoch.
    let log = Writer::new().write(6).epoch(3).write(3);
    let error = log
        .recover_from(1, base(4, 2), NO_MARK)
        .expect_err("not a log")
        .refusal();
    assert!(error.to_string().contains("no epoch voids"), "{error}");
    let error = log
        .recover_from(1, base(4, 1), NO_MARK)
        .expect_err("not a log")
        .refusal();
    assert!(error.to_string().contains("no epoch voids"), "{error}");
}

#[test]
fn row_3_a_durable_record_behind_the_base_is_missed_aloud() {
    let log = Writer::new()
        .write(1)
        .write(1)
        .write(1)
        .write(1)
        .damage(1, 2);
    evidence(log.recover_from(1, base(1, 1), NO_MARK), 3);
    evidence(log.recover_from(1, base(2, 1), NO_MARK), 3);
}

#[test]
fn row_4_the_base_itself_must_be_there() {
    let said = |index| Evidence::Base {
        index: LogIndex(index),
    };
    // Its record is damaged, and nothing else speaks of it.
    let log = Writer::new().write(1).write(1).write(1).damage(1, 2);
    assert_eq!(
        evidence(log.recover_from(1, base(3, 1), NO_MARK), 3),
        said(3)
    );
    // A record before it, in the same segment, is damaged: the rest cannot be told from void.
    let log = Writer::new().write(3).damage(1, 1);
    let outcome = log.recover_from(1, base(3, 1), NO_MARK);
    assert_eq!(place_of(outcome.clone()), (1, RECORD_ALIGN as u64));
    assert_eq!(evidence(outcome, 2), said(3));
    // Its segment is empty, is one that ends before it, or is gone, or all are.
    assert_eq!(
        evidence(Writer::new().recover_from(1, base(3, 1), NO_MARK), 3),
        said(3)
    );
    let log = Writer::new().write(2);
    assert_eq!(
        evidence(log.recover_from(1, base(3, 1), NO_MARK), 3),
        said(3)
    );
    let outcome = judged(recover(Vec::new(), NO_MARK, base(3, 1)));
    assert_eq!(evidence(outcome, 3), said(3));
    let log = Writer::new().write(3).segment().write(2);
    let gone = evidence(log.recover_from(2, base(3, 1), NO_MARK), 3);
    assert!(
        matches!(gone, Evidence::LaterSegment { segment: 2, .. }),
        "{gone:?}"
    );
    let log = Writer::new().write(3).epoch(4).write(2);
    let gone = evidence(log.recover_from(2, base(3, 1), NO_MARK), 3);
    assert!(
        matches!(gone, Evidence::LaterEpoch { segment: 2, .. }),
        "{gone:?}"
    );
    // All headers of its segment are gone; the next one goes on in the same epoch.
    let log = Writer::new().write(3).segment().write(2);
    let log = log.zero(1, 0).zero(1, 1).zero(1, 2);
    evidence(log.recover_from(1, base(3, 1), NO_MARK), 3);
}

#[test]
fn row_4_the_mark_speaks_of_what_is_behind_the_base_too() {
    let mark = |epoch, index| DurableMark {
        epoch,
        index: LogIndex(index),
    };
    let log = Writer::new().write(3).write(1);
    check_behind(log.recover_from(1, base(4, 1), mark(1, 2)), 4, 4);
    check_behind(log.recover_from(1, base(4, 1), mark(1, 4)), 4, 4);
    evidence(log.recover_from(1, base(4, 1), mark(1, 5)), 5);
    evidence(log.recover_from(1, base(4, 1), mark(2, 5)), 5);
    let log = log.damage(1, 3);
    check_behind(log.recover_from(1, base(3, 1), mark(1, 3)), 3, 3);
    evidence(log.recover_from(1, base(3, 1), mark(1, 4)), 4);
}

#[test]
fn the_record_at_the_base_has_its_term() {
    let log = Writer::new().write(2).epoch(3).write(2);
    let error = |index, term| {
        let outcome = log.recover_from(1, base(index, term), NO_MARK);
        outcome.expect_err("another base").refusal().to_string()
    };
    assert!(error(2, 2).contains("the term of the base"));
    let log = Writer::new().epoch(1).write(3);
    let outcome = log.recover_from(1, base(2, 1), NO_MARK);
    let error = outcome.expect_err("another base").refusal().to_string();
    assert!(error.contains("the term of the base"), "{error}");
}

#[test]
fn row_8_torn_the_write_just_behind_the_base_is_cut() {
    let log = Writer::new().write(2).write(3).damage(1, 2);
    let found = log.recover_from(1, base(2, 1), NO_MARK).expect("a log");
    assert_eq!((found.last.0, found.commit.0), (2, 2));
    assert_eq!(found.cut.map(|cut| cut.index.0), Some(3));
    // The next epoch starts there; all agrees with itself.
    let log = log.epoch(3).write(2);
    check_behind(log.recover_from(1, base(2, 1), NO_MARK), 2, 4);
    check_behind(log.recover_from(2, base(3, 2), NO_MARK), 3, 4);
}

#[test]
fn row_9_an_empty_log_behind_a_base() {
    let log = Writer::new().write(3).epoch(4);
    let found = log.recover_from(1, base(3, 1), LogIndex(3)).expect("a log");
    assert_eq!((found.last, found.commit), (LogIndex(3), LogIndex(3)));
    assert_eq!((found.records.len(), found.runs.len()), (0, 0));
}

proptest! {
    /// Cut anywhere: the rest is what it was.
    #[test]
    fn any_base_leaves_the_rest_as_it_was(acts in any_acts(), pick: prop::sample::Index) {
        let log = perform(&acts);
        let whole = log.recover(NO_MARK).expect("a log");
        if whole.records.is_empty() {
            return Ok(());
        }
        let record = whole.records[pick.index(whole.records.len())];
        let behind = base(record.index.0, record.term.0);
        let found = log.recover_from(record.segment, behind, whole.last).expect("a log");
        let rest = whole.records.iter().filter(|r| r.index > record.index).copied();
        prop_assert_eq!(&found.records, &rest.collect::<Vec<_>>());
        prop_assert_eq!((found.last, found.epoch), (whole.last, whole.epoch));
        prop_assert_eq!(found.commit, whole.commit.max(record.index));
        prop_assert_eq!(found.highest_segment, whole.highest_segment);
    }

    /// As for a log that was never cut: what later records prove, and the base, is never lost
    /// without a word.
    #[test]
    fn damage_behind_a_base_is_never_silent(
        acts in any_acts(), pick: prop::sample::Index, segment: u8, block in 0..BLOCKS, kind in 0..3,
    ) {
        let log = perform(&acts);
        let whole = log.recover(NO_MARK).expect("a log");
        if whole.records.is_empty() {
            return Ok(());
        }
        let record = whole.records[pick.index(whole.records.len())];
        let behind = base(record.index.0, record.term.0);
        let segment = segment as usize % log.segments.len() + 1;
        let log = match kind {
            0 => log.damage(segment, block),
            1 => log.zero(segment, block),
            _ => log.break_header(segment, block),
        };
        let Ok(found) = log.recover_from(record.segment, behind, NO_MARK) else {
            return Ok(());
        };
        prop_assert!(found.last >= record.index);
        let last_write = acts.iter().rev().find_map(|act| match act {
            Act::Write(count) => Some(*count),
            _ => None,
        });
        let lost = whole.last.0.saturating_sub(found.last.0);
        prop_assert!(lost <= last_write.unwrap_or(0), "{lost} records vanished");
        prop_assert!(lost == 0 || kind == 1 || found.cut.is_some(), "cut without a word");
        // If the only write of the newest epoch is lost, what it had voided is there again.
        if found.epoch == whole.epoch {
            let rest = whole.records.iter().filter(|r| r.index > record.index);
            prop_assert!(found.records.iter().zip(rest).all(|(one, other)| one == other));
        }
        if lost > 0 {
            let mark = DurableMark { epoch: whole.epoch, index: whole.last };
            prop_assert!(log.recover_from(record.segment, behind, mark).is_err());
        }
    }
}

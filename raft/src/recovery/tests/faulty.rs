//! A corrupt log: how far it is recovered, what its node owes, and how it goes on. And records that lie
//! where they do not belong.

use super::*;

fn debt(term: u64, index: u64) -> Debt {
    Debt {
        term: Term(term),
        index: LogIndex(index),
    }
}

const HARD_STATE_TERM: Term = Term(9);

/// The record of `from`, a segment and a block, lies at `to` instead of what was there.
fn misdirect(mut log: Writer, from: (usize, usize), to: (usize, usize)) -> Writer {
    let block = |at: usize| at * RECORD_ALIGN..(at + 1) * RECORD_ALIGN;
    let bytes = log.segments[from.0 - 1][block(from.1)].to_vec();
    log.segments[to.0 - 1][block(to.1)].copy_from_slice(&bytes);
    log
}

/// The record there was written for another segment, shard, cluster or life.
fn readdress(mut log: Writer, segment: usize, block: usize, change: fn(&mut [u8])) -> Writer {
    let start = block * RECORD_ALIGN;
    let header = &mut log.segments[segment - 1][start..start + 144];
    change(header);
    let crc = crc32fast::hash(&header[..140]);
    header[140..].copy_from_slice(&crc.to_le_bytes());
    log
}

/// 1 to 6 of term 1 are there, 3 to 6 of them void: the record that took the place of 3, in term 2, was
/// acknowledged, and is damaged beyond recognition. Its node once kept the void ones, and owed no more than
/// their end, so that it helped to elect who lacked the acknowledged one.
#[test]
fn of_an_epoch_that_is_gone_the_bound_is_owed_and_what_it_may_have_voided_is_not_kept() {
    let log = Writer::new().write(3).write(3).epoch(3).write(1);
    let log = log.break_header(2, 0);
    let mark = DurableMark {
        epoch: 2,
        index: LogIndex(3),
    };
    let (found, fault) = faulty(log.recover(mark));
    assert_eq!(fault.debt(HARD_STATE_TERM), debt(9, 3));
    // The second write said that 1 was committed.
    assert_eq!((found.last, found.commit), (LogIndex(1), LogIndex(1)));
}

/// A node that is forced to go on below the damage has more than its own log tells it to leave alone.
#[test]
fn what_headers_behind_damage_name_as_committed_is_told() {
    let log = Writer::new().write(1).write(1).write(1).write(3).write(1);
    let (found, _) = faulty(log.damage(1, 1).recover(NO_MARK));
    assert_eq!((found.last, found.commit), (LogIndex(1), LogIndex(1)));
    assert_eq!(found.named_commit, LogIndex(3));
}

#[test]
fn row_5_corrupt_a_record_of_a_later_segment_lies_here() {
    // The last write went to a place that was free, and nothing else tells of it.
    let log = Writer::new().write(2).segment().write(1);
    let log = misdirect(log, (2, 0), (1, 2)).zero(2, 0);
    let said = evidence(log.recover(NO_MARK), 3);
    let wanted = Evidence::Misplaced {
        segment: 2,
        index: LogIndex(3),
    };
    assert_eq!(said, wanted);
    assert_eq!(
        faulty(log.recover(NO_MARK)).1.debt(HARD_STATE_TERM),
        debt(1, 3)
    );
    // It destroyed a record: the headers behind that one say more.
    let log = Writer::new().write(1).write(1).write(1).segment().write(1);
    let log = misdirect(log, (2, 0), (1, 1));
    let said = evidence(log.recover(NO_MARK), 2);
    assert!(matches!(said, Evidence::LaterRecord { .. }), "{said:?}");
    // Two segments have changed places.
    let mut log = Writer::new().write(1).segment().write(1).segment().write(1);
    log.segments.swap(1, 2);
    evidence(log.recover(NO_MARK), 2);
}

#[test]
fn row_8_torn_what_an_earlier_life_of_the_segment_left_is_no_evidence() {
    let log = Writer::new().write(3).epoch(3).write(1);
    let log = misdirect(log, (1, 2), (2, 1));
    let found = log.recover(NO_MARK).expect("a log");
    assert_eq!(found.last, LogIndex(3));
    let cut = found.cut.expect("a cut");
    assert_eq!(cut.reason, Damage::Misplaced { named: 1 });
}

#[test]
fn a_foreign_record_is_damage_where_a_log_of_ours_is_and_else_a_refusal() {
    type Change = fn(&mut [u8]);
    let changes: [Change; 3] = [|h| h[12] ^= 1, |h| h[72] ^= 1, |h| h[88] ^= 1];
    for change in changes {
        // Behind our last record: nothing of ours is known to have been there.
        let log = Writer::new().write(3);
        let torn = readdress(log, 1, 2, change)
            .recover(NO_MARK)
            .expect("a log");
        assert_eq!(torn.cut.map(|cut| cut.reason), Some(Damage::Foreign));
        // In the place of one that was durable.
        let log = readdress(Writer::new().write(1).write(1).write(1), 1, 1, change);
        evidence(log.recover(NO_MARK), 2);
        // In front of ours.
        let log = readdress(Writer::new().write(1).write(1), 1, 0, change);
        evidence(log.recover(NO_MARK), 1);
        // Nothing of ours is in the file.
        let log = readdress(Writer::new().write(1), 1, 0, change);
        let error = log.recover(NO_MARK).expect_err("not ours").refusal();
        assert!(
            matches!(error, RecoveryError::WrongIdentity { .. }),
            "{error}"
        );
    }
}

#[test]
fn the_log_goes_up_to_the_fault_and_the_debt_to_its_old_end() {
    let log = Writer::new()
        .write(2)
        .write(2)
        .segment()
        .write(1)
        .epoch(6)
        .write(2);
    let (found, fault) = faulty(log.damage(1, 1).recover(NO_MARK));
    assert_eq!((found.last.0, fault.index.0), (1, 2));
    assert_eq!((fault.segment, fault.offset), (1, RECORD_ALIGN as u64));
    assert_eq!(fault.debt(HARD_STATE_TERM), debt(2, 7));
    // What is written next is above everything that is there.
    assert_eq!((found.epoch, found.highest_segment), (2, 3));
    assert!(!found.lacks_base());
}

#[test]
fn what_a_later_epoch_voided_is_not_owed() {
    let log = Writer::new().write(2).write(5).epoch(4).write(1);
    let (_, fault) = faulty(log.damage(1, 1).recover(NO_MARK));
    assert_eq!(fault.debt(HARD_STATE_TERM), debt(2, 4));
}

#[test]
fn damage_below_at_and_above_the_durable_mark() {
    let log = || Writer::new().write(1).write(1).write(1).write(1);
    let mark = DurableMark {
        epoch: 1,
        index: LogIndex(3),
    };
    // Below and at the mark: the header of the record at the end is whole and tells its term.
    for block in [1, 2] {
        let (found, fault) = faulty(log().damage(1, block).recover(mark));
        assert_eq!(found.last.0, block as u64);
        assert_eq!(fault.debt(HARD_STATE_TERM), debt(1, 4));
    }
    // At the mark, and no header is left at or behind it: the term is not known, but a bound is.
    let lost = log().break_header(1, 2).zero(1, 3);
    let (_, fault) = faulty(lost.recover(mark));
    assert_eq!(fault.debt(HARD_STATE_TERM), debt(9, 3));
    // Above the mark, in the last write: it may never have been acknowledged.
    check_log(log().damage(1, 3).recover(mark), 3, Some(4));
    // The mark speaks of an epoch that is gone.
    let mark = DurableMark { epoch: 2, ..mark };
    let (_, fault) = faulty(log().write(1).recover(mark));
    assert_eq!(
        (fault.index.0, fault.debt(HARD_STATE_TERM)),
        (6, debt(9, 3))
    );
}

#[test]
fn a_log_without_the_record_of_its_base_is_empty_behind_the_base() {
    let base = LogBase {
        index: LogIndex(3),
        term: Term(1),
    };
    for block in [0, 1, 2] {
        let log = Writer::new().write(5).damage(1, block);
        let (found, fault) = faulty(log.recover_from(1, base, NO_MARK));
        assert!(found.lacks_base());
        assert_eq!((found.last.0, found.records.len()), (3, 0));
        assert_eq!(fault.debt(HARD_STATE_TERM), debt(1, 5));
        // It goes on with another record of the base, in a segment that the manifest names next.
        let log = log.epoch(3);
        let log = Writer { term: 1, ..log }.write(1);
        let log = Writer { term: 2, ..log }.write(2);
        let found = log.recover_from(2, base, NO_MARK).expect("a log");
        assert_eq!((found.last.0, found.records.len()), (5, 2));
    }
    // The manifest does not name it yet, and all that was damaged is the record of the base.
    let log = Writer::new()
        .write(1)
        .write(1)
        .write(1)
        .write(2)
        .damage(1, 2);
    let log = log.epoch(3);
    let log = Writer { term: 1, ..log }.write(1);
    let found = log.recover_from(1, base, NO_MARK).expect("a log");
    assert_eq!((found.last.0, found.records.len()), (3, 0));
}

proptest! {
    /// One damaged block, whatever the log: what is left is as it was, the debt covers what is lost, and
    /// once the log goes on from there nothing is corrupt any more.
    #[test]
    fn a_faulty_log_owes_what_it_lost_and_can_go_on(
        acts in any_acts(), segment: u8, block in 0..BLOCKS, kind in 0..3,
    ) {
        let log = perform(&acts);
        let whole = log.recover(NO_MARK).expect("a log");
        let mark = DurableMark { epoch: whole.epoch, index: whole.last };
        let segment = segment as usize % log.segments.len() + 1;
        let log = match kind {
            0 => log.damage(segment, block),
            1 => log.zero(segment, block),
            _ => log.break_header(segment, block),
        };
        let Err(Failure::Faulty(found, fault)) = log.recover(mark) else {
            return Ok(());
        };
        let old = &whole.records;
        if fault.index <= whole.last {
            prop_assert_eq!(&found.records[..], &old[..found.records.len()]);
            let last = old[old.len() - 1];
            let owed = fault.debt(HARD_STATE_TERM);
            prop_assert!(owed >= debt(last.term.0, last.index.0), "{} is owed", owed);
            prop_assert!(kind > 0 || owed == debt(last.term.0, last.index.0));
        }
        // The next epoch is above every one that is known, also from the mark alone.
        let log = Writer { epoch: found.epoch.max(mark.epoch), ..log };
        let terms = found.records.iter().map(|record| record.term.0).collect();
        let term = old.last().map_or(1, |record| record.term.0);
        let log = Writer { terms, ..log }.epoch(found.last.next().0);
        let log = Writer { term: term + 1, ..log }.write(2);
        let again = log.recover(mark).expect("a log that goes on");
        prop_assert_eq!(again.last.0, found.last.0 + 2);
    }
}

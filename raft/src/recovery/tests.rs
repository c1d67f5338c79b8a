//! One test per row of the decision table, then what no row may get wrong on random logs.

mod behind_a_base;
mod faulty;
mod gone;

use super::*;
use crate::entry::Entry;
use crate::record::{RECORD_ALIGN, RecordIdentity, RecordPlace, encode_record, record_bytes};
use bytes::Bytes;
use proptest::prelude::*;

const IDENTITY: RecordIdentity = RecordIdentity {
    cluster: 7,
    shard: 2,
    incarnation: 5,
};
const BLOCKS: usize = 8;

/// A log under construction: writes of several records, segments, epochs.
struct Writer {
    segments: Vec<Vec<u8>>,
    epoch: u64,
    epoch_first: u64,
    epoch_previous_term: u64,
    offset: usize,
    crc: u32,
    next: u64,
    durable: u64,
    /// What any record names as committed.
    commit: u64,
    term: u64,
    /// The terms of the entries, from index 1 on.
    terms: Vec<u64>,
}

impl Writer {
    fn new() -> Writer {
        Writer {
            segments: vec![vec![0; BLOCKS * RECORD_ALIGN]],
            epoch: 1,
            epoch_first: 1,
            epoch_previous_term: 0,
            offset: 0,
            crc: 0,
            next: 1,
            durable: 0,
            commit: 0,
            term: 1,
            terms: Vec::new(),
        }
    }

    /// One write of `count` records of a block each; it completes.
    fn write(mut self, count: u64) -> Writer {
        self.commit = self.commit.max(self.durable / 2);
        for _ in 0..count {
            let place = RecordPlace {
                identity: IDENTITY,
                segment: self.segments.len() as u64,
                epoch: self.epoch,
                epoch_first: LogIndex(self.epoch_first),
                epoch_previous_term: Term(self.epoch_previous_term),
                previous_header_crc: self.crc,
                durable_upto: LogIndex(self.durable),
                commit: LogIndex(self.durable / 2),
            };
            let payload = Bytes::from(format!("{} of {}", self.next, self.epoch));
            let (term, index) = (Term(self.term), LogIndex(self.next));
            let entry = Entry {
                term,
                index,
                kind: EntryKind::Data,
                payload,
            };
            let end = self.offset + record_bytes(entry.payload.len());
            let segment = self.segments.last_mut().expect("a segment");
            self.crc = encode_record(&place, &entry, &mut segment[self.offset..end]);
            self.offset = end;
            self.next += 1;
            self.terms.push(self.term);
        }
        self.durable = self.next - 1;
        self
    }

    /// The same epoch goes on in a fresh segment.
    fn segment(mut self) -> Writer {
        self.segments.push(vec![0; BLOCKS * RECORD_ALIGN]);
        (self.offset, self.crc) = (0, 0);
        self
    }

    /// A restart or truncation: the next epoch starts at `first` in a fresh segment.
    fn epoch(mut self, first: u64) -> Writer {
        self.epoch += 1;
        self.term += 1;
        (self.epoch_first, self.next, self.durable) = (first, first, first - 1);
        self.terms.truncate(first as usize - 1);
        self.epoch_previous_term = self.terms.last().copied().unwrap_or(0);
        self.segment()
    }

    fn damage(mut self, segment: usize, block: usize) -> Writer {
        self.segments[segment - 1][block * RECORD_ALIGN + 150] ^= 1;
        self
    }

    fn zero(mut self, segment: usize, block: usize) -> Writer {
        let start = block * RECORD_ALIGN;
        self.segments[segment - 1][start..start + RECORD_ALIGN].fill(0);
        self
    }

    fn break_header(mut self, segment: usize, block: usize) -> Writer {
        self.segments[segment - 1][block * RECORD_ALIGN + 40] ^= 1;
        self
    }

    fn recover(&self, mark: impl Into<DurableMark>) -> Result<RecoveredLog, Failure> {
        self.recover_from(1, NO_BASE, mark)
    }

    /// The log behind `base`, from the segments from `first` on.
    fn recover_from(
        &self,
        first: u64,
        base: LogBase,
        mark: impl Into<DurableMark>,
    ) -> Result<RecoveredLog, Failure> {
        let numbered = (1..).zip(&self.segments);
        let scans = numbered
            .filter(|(number, _)| *number >= first)
            .map(|(number, bytes)| scan_segment(bytes, number, &IDENTITY));
        judged(recover(
            scans.collect::<Result<_, _>>().map_err(Failure::Refused)?,
            mark,
            base,
        ))
    }
}

/// Why a log is not whole.
#[derive(Clone, Debug)]
enum Failure {
    /// It is corrupt, and was recovered up to the damage.
    Faulty(Box<RecoveredLog>, Fault),
    /// It is no log.
    Refused(RecoveryError),
}

impl Failure {
    fn refusal(&self) -> RecoveryError {
        match self {
            Failure::Refused(error) => *error,
            Failure::Faulty(_, fault) => panic!("called corrupt and not refused: {fault}"),
        }
    }
}

fn judged(outcome: Result<RecoveredLog, RecoveryError>) -> Result<RecoveredLog, Failure> {
    let found = outcome.map_err(Failure::Refused)?;
    match found.fault {
        Some(fault) => Err(Failure::Faulty(Box::new(found), fault)),
        None => Ok(found),
    }
}

fn faulty(outcome: Result<RecoveredLog, Failure>) -> (Box<RecoveredLog>, Fault) {
    match outcome {
        Err(Failure::Faulty(found, fault)) => (found, fault),
        other => panic!("not called corrupt: {other:?}"),
    }
}

fn evidence(outcome: Result<RecoveredLog, Failure>, wanted: u64) -> Evidence {
    let (found, fault) = faulty(outcome);
    assert_eq!(fault.index.0, wanted, "{fault}");
    // It ends before the fault, but never before its base.
    let kept = match fault.voided_from_is_unknown {
        true => found.commit,
        false => fault.index.prev(),
    };
    assert_eq!(found.last, kept.max(found.base.index));
    fault.evidence
}

fn check_log(outcome: Result<RecoveredLog, Failure>, last: u64, cut: Option<u64>) {
    let found = outcome.expect("a log");
    assert_eq!(found.last.0, last);
    assert_eq!(found.cut.map(|cut| cut.index.0), cut);
    let indexes: Vec<u64> = found.records.iter().map(|record| record.index.0).collect();
    assert_eq!(indexes, (1..=last).collect::<Vec<_>>());
}

/// The place of the damage that the operator is told.
fn place_of(outcome: Result<RecoveredLog, Failure>) -> (u64, u64) {
    let (_, fault) = faulty(outcome);
    (fault.segment, fault.offset)
}

const NO_MARK: LogIndex = LogIndex(0);
const NO_BASE: LogBase = LogBase {
    index: LogIndex(0),
    term: Term(0),
};

#[test]
fn row_1_superseded_a_torn_tail_that_a_later_epoch_replaced_is_history() {
    let log = Writer::new()
        .write(2)
        .write(2)
        .damage(1, 2)
        .epoch(3)
        .write(2);
    check_log(log.recover(NO_MARK), 4, None);
    // Also when the old tail is whole: a truncation.
    let log = Writer::new().write(4).epoch(3).write(1);
    let found = log.recover(NO_MARK).expect("a log");
    assert_eq!(
        found.runs,
        [
            TermRun {
                first: LogIndex(1),
                term: Term(1)
            },
            TermRun {
                first: LogIndex(3),
                term: Term(2)
            }
        ]
    );
    assert_eq!(
        (found.epoch, found.highest_segment, found.last),
        (2, 2, LogIndex(3))
    );
}

#[test]
fn row_2_continued_a_segment_that_was_full_goes_on_in_the_next() {
    let log = Writer::new().write(3).segment().write(3);
    check_log(log.recover(NO_MARK), 6, None);
    // Damage in the unused rest of the first segment hurts nobody.
    check_log(log.damage(1, 5).recover(NO_MARK), 6, None);
}

#[test]
fn row_3_corrupt_a_later_record_says_that_it_was_durable() {
    let log = Writer::new().write(1).write(1).write(1);
    let found = evidence(log.damage(1, 1).recover(NO_MARK), 2);
    let said = Evidence::LaterRecord {
        segment: 1,
        index: LogIndex(3),
        durable_upto: LogIndex(2),
    };
    assert_eq!(found, said);
    // From a later segment, with the damaged header unreadable.
    let log = Writer::new()
        .write(2)
        .segment()
        .write(1)
        .write(1)
        .break_header(2, 0);
    evidence(log.recover(NO_MARK), 3);
    // Zeros instead of the record are no better.
    let log = Writer::new().write(1).write(1).write(1).zero(1, 1);
    evidence(log.recover(NO_MARK), 2);
}

#[test]
fn row_3_the_damaged_first_record_of_an_epoch_is_known_by_the_headers_after_it() {
    // 1..6, truncated from 3; the first record of the new epoch is damaged after it was durable.
    let log = Writer::new()
        .write(6)
        .epoch(3)
        .write(1)
        .write(1)
        .break_header(2, 0);
    evidence(log.recover(NO_MARK), 3);
}

#[test]
fn row_4_corrupt_the_durable_mark_says_so() {
    let log = Writer::new().write(2).write(1).damage(1, 2);
    check_log(log.recover(LogIndex(2)), 2, Some(3));
    let said = Evidence::DurableMark {
        index: LogIndex(3),
        epoch: 0,
    };
    assert_eq!(evidence(log.recover(LogIndex(3)), 3), said);
    // Zeros, or no segments at all, where the mark promises records.
    evidence(
        Writer::new()
            .write(2)
            .write(1)
            .zero(1, 2)
            .recover(LogIndex(3)),
        3,
    );
    evidence(judged(recover(Vec::new(), LogIndex(1), NO_BASE)), 1);
    evidence(Writer::new().recover(LogIndex(1)), 1);
}

#[test]
fn row_4_a_mark_of_an_older_epoch_says_nothing_about_a_newer_one() {
    let log = Writer::new()
        .write(6)
        .epoch(3)
        .write(1)
        .write(2)
        .damage(2, 1);
    let mark = |epoch, index| DurableMark {
        epoch,
        index: LogIndex(index),
    };
    check_log(log.recover(mark(1, 6)), 3, Some(4));
    evidence(log.recover(mark(2, 4)), 4);
}

#[test]
fn row_4_an_epoch_that_the_mark_knows_and_nobody_else_was_lost() {
    // 1..6, truncated from 3; the only record of the new epoch is damaged beyond recognition.
    let log = Writer::new().write(6).epoch(3).write(1).break_header(2, 0);
    let mark = DurableMark {
        epoch: 2,
        index: LogIndex(3),
    };
    let (found, fault) = faulty(log.recover(mark));
    // What the lost epoch has voided is not known, and nothing is known to be committed.
    assert_eq!((fault.index, found.last), (LogIndex(7), LogIndex(0)));
    // Without the mark it is the torn first write of the epoch, and nothing was lost.
    check_log(
        log.recover(DurableMark {
            epoch: 1,
            index: LogIndex(6),
        }),
        6,
        Some(7),
    );
}

#[test]
fn row_6_corrupt_a_later_segment_of_the_epoch_starts_beyond() {
    let log = Writer::new().write(2).segment().write(1).segment().write(1);
    let lost = log.zero(2, 0);
    let said = evidence(lost.recover(NO_MARK), 3);
    assert!(
        matches!(said, Evidence::LaterRecord { .. }),
        "row 3 sees it first: {said:?}"
    );
    // Row 6 alone: records that say nothing about durability.
    let mut log = Writer::new().write(2).segment();
    (log.next, log.durable) = (4, 0);
    let log = log.write(1);
    // The damage is where the record is missing, not where the log goes on.
    assert_eq!(place_of(log.recover(NO_MARK)), (1, 2 * RECORD_ALIGN as u64));
    let said = evidence(log.recover(NO_MARK), 3);
    assert_eq!(
        said,
        Evidence::LaterSegment {
            segment: 2,
            index: LogIndex(4)
        }
    );
}

#[test]
fn row_7_corrupt_a_later_epoch_starts_beyond() {
    let mut log = Writer::new().write(2).write(1).damage(1, 2).epoch(4);
    log.durable = 0;
    let log = log.write(1);
    assert_eq!(place_of(log.recover(NO_MARK)), (1, 2 * RECORD_ALIGN as u64));
    let said = evidence(log.recover(NO_MARK), 3);
    assert_eq!(
        said,
        Evidence::LaterEpoch {
            segment: 2,
            epoch: 2,
            first: LogIndex(4)
        }
    );
    // The start of the log is missing altogether.
    let mut log = Writer::new();
    (log.epoch_first, log.next) = (5, 5);
    evidence(log.write(1).recover(NO_MARK), 1);
}

#[test]
fn row_8_torn_an_unfinished_write_is_cut_with_all_its_records() {
    let log = Writer::new().write(2).write(3);
    check_log(log.damage(1, 2).recover(NO_MARK), 2, Some(3));
    // A hole: the first record of the write never reached the disk, the others did (etcd #6378).
    let log = Writer::new().write(2).write(3).zero(1, 2);
    let found = log.recover(NO_MARK).expect("a log");
    let cut = found.cut.expect("a cut");
    assert_eq!(
        (cut.index, cut.headers_after, cut.reason),
        (LogIndex(3), 2, Damage::Hole)
    );
    assert_eq!(
        cut.to_string(),
        "the unfinished write at offset 8192 of segment 1, from i3 on, was cut off with 2 whole \
         record headers (there are only zeros, but headers after them)"
    );
    // The first write of a segment.
    let log = Writer::new().write(2).segment().write(2);
    check_log(log.break_header(2, 0).recover(NO_MARK), 2, Some(3));
}

#[test]
fn row_8_a_torn_truncation_has_still_cut_the_old_tail() {
    // 1..6, then a write from 3 on in a new epoch: its first record is torn, its second is whole.
    let log = Writer::new().write(6).epoch(3).write(2).break_header(2, 0);
    let found = log.recover(NO_MARK).expect("a log");
    assert_eq!((found.last, found.epoch), (LogIndex(2), 2));
    // The next epoch starts where this one would have; all agrees with itself.
    check_log(log.epoch(3).write(2).recover(NO_MARK), 4, None);
}

#[test]
fn row_9_the_end_is_the_end() {
    check_log(Writer::new().recover(NO_MARK), 0, None);
    check_log(judged(recover(Vec::new(), NO_MARK, NO_BASE)), 0, None);
    let log = Writer::new().write(8);
    check_log(log.recover(LogIndex(8)), 8, None);
    let found = Writer::new()
        .write(3)
        .write(1)
        .recover(LogIndex(4))
        .expect("a log");
    assert_eq!((found.commit, found.highest_segment), (LogIndex(1), 1));
    check_log(
        Writer::new().write(2).segment().recover(LogIndex(2)),
        2,
        None,
    );
}

#[test]
fn the_commit_index_is_never_above_what_is_left() {
    let mut log = Writer::new().write(2);
    log.durable = 40;
    let log = log.write(1);
    let found = log.recover(NO_MARK).expect("a log");
    assert_eq!((found.last, found.commit), (LogIndex(3), LogIndex(3)));
}

#[test]
fn another_log_is_told_from_ours() {
    let log = Writer::new().write(1);
    let bytes = &log.segments[0];
    let text = |number, identity: RecordIdentity| {
        scan_segment(bytes, number, &identity)
            .expect_err("not ours")
            .to_string()
    };
    assert!(
        text(
            1,
            RecordIdentity {
                cluster: 8,
                ..IDENTITY
            }
        )
        .contains("belongs to cluster")
    );
    assert!(
        text(
            1,
            RecordIdentity {
                shard: 8,
                ..IDENTITY
            }
        )
        .contains("shard 2")
    );
    assert!(
        text(
            1,
            RecordIdentity {
                incarnation: 8,
                ..IDENTITY
            }
        )
        .contains("incarnation")
    );
}

#[test]
fn an_unknown_version_is_not_taken_for_damage() {
    let mut log = Writer::new().write(1);
    let header = &mut log.segments[0][..144];
    header[8] = 1;
    let crc = crc32fast::hash(&header[..140]);
    header[140..].copy_from_slice(&crc.to_le_bytes());
    let error = log.recover(NO_MARK).expect_err("an unknown version");
    assert_eq!(
        error.refusal(),
        RecoveryError::UnknownVersion {
            segment: 1,
            offset: 0,
            found: 1
        }
    );
}

#[test]
fn whole_records_that_contradict_each_other_are_a_bug_not_damage() {
    let check = |change: fn(&mut Writer), text: &str| {
        let mut log = Writer::new().write(3);
        change(&mut log);
        let error = log.write(1).recover(NO_MARK).expect_err(text).refusal();
        assert!(error.to_string().contains(text), "{error}");
    };
    check(|log| log.epoch = 2, "one epoch");
    check(|log| log.next = 3, "follow each other");
    check(|log| log.term = 0, "terms never fall");
    check(
        |log| {
            *log = Writer::new().write(3).segment();
            log.next = 3;
        },
        "holds each index once",
    );
    check(
        |log| {
            *log = Writer::new().write(3).epoch(3).write(1).segment();
            log.epoch = 1;
        },
        "epochs never fall",
    );
    let scan = |number| scan_segment(&[], number, &IDENTITY).expect("an empty segment");
    let error = recover(vec![scan(2), scan(2)], NO_MARK, NO_BASE).expect_err("an order");
    assert_eq!(
        error,
        RecoveryError::SegmentOrder {
            before: 2,
            after: 2
        }
    );
}

#[test]
fn a_record_that_does_not_follow_the_one_before_it_is_damage() {
    let mut log = Writer::new().write(2);
    log.crc ^= 1;
    let found = log.write(1).recover(NO_MARK).expect("a log");
    assert_eq!(found.cut.map(|cut| cut.reason), Some(Damage::Chain));
}

/// What a random log did: a write of some records, a fresh segment, or the next epoch.
#[derive(Clone, Debug)]
enum Act {
    Write(u64),
    Segment,
    Epoch(u64),
}

fn any_acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1u64..4).prop_map(Act::Write),
        1 => Just(Act::Segment),
        1 => (0u64..4).prop_map(Act::Epoch),
    ];
    prop::collection::vec(act, 0..14)
}

fn perform(acts: &[Act]) -> Writer {
    acts.iter().fold(Writer::new(), |log, act| match *act {
        Act::Write(count) if log.offset / RECORD_ALIGN + count as usize > BLOCKS => {
            log.segment().write(count)
        }
        Act::Write(count) => log.write(count),
        Act::Segment => log.segment(),
        Act::Epoch(back) => {
            let first = log.next.saturating_sub(back).max(log.epoch_first);
            let first = first.max(log.commit + 1);
            log.epoch(first)
        }
    })
}

proptest! {
    #[test]
    fn a_whole_log_is_found_whole(acts in any_acts()) {
        let log = perform(&acts);
        let found = log.recover(NO_MARK).expect("a log");
        // An epoch of which nothing was written has voided nothing.
        let voids = acts.iter().rposition(|act| matches!(act, Act::Epoch(_)));
        let silent = voids.is_some_and(|at| {
            !acts[at..].iter().any(|act| matches!(act, Act::Write(_)))
        });
        prop_assert!(silent || found.last.0 == log.next - 1);
        prop_assert_eq!(found.cut, None);
    }

    /// The promise: whatever was durable before the last write is found, or missed aloud.
    #[test]
    fn damage_is_never_silent_about_what_later_records_prove(
        acts in any_acts(), segment: u8, block in 0..BLOCKS, kind in 0..3,
    ) {
        let log = perform(&acts);
        let whole = log.recover(NO_MARK).expect("a log");
        let segment = segment as usize % log.segments.len() + 1;
        let log = match kind {
            0 => log.damage(segment, block),
            1 => log.zero(segment, block),
            _ => log.break_header(segment, block),
        };
        let Ok(found) = log.recover(NO_MARK) else {
            return Ok(());
        };
        // Everything before the last write survives; at most that write was taken for torn.
        let last_write = acts.iter().rev().find_map(|act| match act {
            Act::Write(count) => Some(*count),
            _ => None,
        });
        let lost = whole.last.0.saturating_sub(found.last.0);
        prop_assert!(lost <= last_write.unwrap_or(0), "{lost} records vanished");
        prop_assert!(lost == 0 || kind == 1 || found.cut.is_some(), "cut without a word");
        // With a mark from the hard state not even that is lost.
        let epoch = whole.epoch;
        if lost > 0 {
            let mark = DurableMark { epoch, index: whole.last };
            prop_assert!(log.recover(mark).is_err());
        }
    }

    #[test]
    fn random_blocks_are_judged_without_a_panic(
        blocks in prop::collection::vec((any::<u8>(), 0usize..4096), 0..6), mark in 0u64..3,
    ) {
        let mut bytes = Vec::new();
        for (fill, from) in blocks {
            let mut block = vec![0; RECORD_ALIGN];
            block[from..].fill(fill);
            bytes.extend(block);
        }
        let scan = scan_segment(&bytes, 1, &IDENTITY).expect("nothing of anybody");
        let outcome = recover(vec![scan], LogIndex(mark), NO_BASE);
        prop_assert_eq!(judged(outcome).is_err(), mark > 0);
    }
}

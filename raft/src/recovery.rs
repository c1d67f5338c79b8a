//! What a restart concludes from the bytes of its log: which records hold, and where the log ends.
//!
//! The question is always the same. At some place a segment does not go on: was that record never
//! completely written (*torn*: a crash came first, nobody was told that it is durable, it is cut),
//! or was it durable once and is damaged now (*corrupt*: it may have been acknowledged, and cutting
//! it would break a promise in silence)? What other records, written later, say about it decides; see
//! [`verdict`]. Nothing is guessed from the looks of the damage. A corrupt log is recovered up to the
//! damage, and what it was is in its [`Fault`].
//!
//! What the writer must keep to, so that the conclusions hold:
//! 1. One log write is in flight at a time. It may hold several records, but lies in one segment.
//! 2. No offset is written twice in one life of a segment, and segments are zeroed before use.
//! 3. A restart or a truncation waits for the write in flight, and goes on in a fresh segment with
//!    the next epoch. All records of a segment have the same epoch.
//! 4. `durable_upto` counts only what has completed when the record is encoded.
//!
//! 5. The log is cut only behind what is applied and durable. The segment that holds the record at the
//!    new base, and all after it, are kept and read again; whatever is older is no part of the log.
//!    So nothing void outlives what made it void, and a base whose record is missing is damage.
//! 6. Every header names the term of the entry before its epoch. An entry is known by its index and term, and
//!    with it everything before it (Raft paper, 5.3). So an epoch that is gone with all its records is missed
//!    by the one behind it, unless nothing that was live is gone with it.
//!
//! With more writes in flight a third verdict would be needed, because a record could be durable
//! after a torn one without either having been acknowledged.

mod error;
mod scan;
mod verdict;

pub use error::{Evidence, Fault, RecoveryError};
pub use scan::{Damage, SegmentScan, scan_segment};

use crate::debt::Debt;
use crate::entry::{EntryKind, LogBase, TermRun};
use crate::record::{RecordHeader, RecordPlace};
use crate::types::{LogIndex, Term};
use verdict::{End, Verdict};

/// What the hard state says about the log: everything up to `index` was durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurableMark {
    /// The log epoch that the mark speaks of, as in the headers of its records: an epoch of which
    /// a record was durable. 0 if unknown: then the mark is taken to speak of the newest epoch
    /// found, and cannot tell that a whole epoch is missing.
    pub epoch: u64,
    /// The highest durable index; 0 says nothing.
    pub index: LogIndex,
}

impl DurableMark {
    /// The highest index that it says something about in a log whose newest epoch is `epoch`.
    fn speaks_of(&self, epoch: u64) -> LogIndex {
        if self.epoch == 0 || self.epoch >= epoch {
            self.index
        } else {
            LogIndex::ZERO
        }
    }
}

impl From<LogIndex> for DurableMark {
    fn from(index: LogIndex) -> DurableMark {
        DurableMark { epoch: 0, index }
    }
}

/// Where a live record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPosition {
    /// The index of its entry.
    pub index: LogIndex,
    /// The term of its entry.
    pub term: Term,
    /// The kind of its entry.
    pub kind: EntryKind,
    /// The number of its segment.
    pub segment: u64,
    /// Where the record starts in the segment, in bytes. The payload is
    /// [`RECORD_HEADER_BYTES`](crate::RECORD_HEADER_BYTES) further on.
    pub offset: u64,
    /// The length of the payload, in bytes.
    pub payload_bytes: u32,
}

/// What was cut off, for the operator's eyes. Nothing of it was ever acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment with the unfinished write.
    pub segment: u64,
    /// Where the first torn record starts, in bytes.
    pub offset: u64,
    /// The index that it had or would have had.
    pub index: LogIndex,
    /// How many whole headers of the same unfinished write were cut with it.
    pub headers_after: usize,
    /// Why the first torn record is no record.
    pub reason: Damage,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cut {
            segment,
            offset,
            index,
            headers_after,
            reason,
        } = self;
        write!(
            formatter,
            "the unfinished write at offset {offset} of segment {segment}, from {index} on, was \
             cut off with {headers_after} whole record headers ({reason})"
        )
    }
}

/// The log as a restart found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Behind which entry the log begins.
    pub base: LogBase,
    /// Every live record, in order of index, from just behind the base to `last`.
    pub records: Vec<RecordPosition>,
    /// The terms of them.
    pub runs: Vec<TermRun>,
    /// The last index; that of the base for an empty log.
    pub last: LogIndex,
    /// The highest commit index that any header names, but not above `last` nor below the base.
    pub commit: LogIndex,
    /// The highest commit index that any header names, void ones and those behind damage too. The next
    /// recovery may take what it finds up to there for committed.
    pub named_commit: LogIndex,
    /// The highest epoch of any whole header, live or not. The next write uses a higher one.
    pub epoch: u64,
    /// The highest number of a segment that is not all zeros. The next write uses a higher one.
    pub highest_segment: u64,
    /// What was cut, if anything.
    pub cut: Option<Cut>,
    /// Where the log is damaged; it ends before that here, at its base if the fault is below the base.
    pub fault: Option<Fault>,
}

impl RecoveredLog {
    /// Whether the record at the base, or one before it, is damaged, so that the next recovery would
    /// not find the base either.
    pub fn lacks_base(&self) -> bool {
        self.fault
            .is_some_and(|fault| fault.index <= self.base.index)
    }
}

/// Puts the scans of all segments together, from the one with the record at `base` on; of a log that
/// was never cut, of all. `durable_mark` is a [`DurableMark`] or, if the epoch is unknown, a
/// [`LogIndex`].
///
/// A record that was durable and is damaged or missing is no error here, but the end of the log and its
/// [`fault`](RecoveredLog::fault). Nothing may be written to such a log before the caller has decided what
/// to do about it.
///
/// # Errors
/// The segments do not belong together.
pub fn recover(
    scans: Vec<SegmentScan>,
    durable_mark: impl Into<DurableMark>,
    base: LogBase,
) -> Result<RecoveredLog, RecoveryError> {
    let mark = durable_mark.into();
    let mut log = Assembly::behind(base);
    let epochs = scans
        .iter()
        .filter_map(SegmentScan::any_header)
        .map(|header| header.place.epoch);
    log.found.epoch = epochs.max().unwrap_or(0);
    let commits = scans.iter().flat_map(SegmentScan::headers);
    let commits = commits.map(|header| header.place.commit);
    log.found.named_commit = commits.max().unwrap_or_default();
    let written = scans.iter().filter(|scan| !scan.is_zero());
    log.found.highest_segment = written.map(|scan| scan.segment).max().unwrap_or(0);
    match log.assemble(&scans, (mark, base)) {
        Ok(()) => {}
        Err(Stop::Refused(error)) => return Err(error),
        Err(Stop::Corrupt(end, evidence)) => {
            let at_base = Debt {
                term: base.term,
                index: base.index,
            };
            log.found.fault = Some(Fault {
                segment: end.segment,
                offset: end.offset,
                index: end.index,
                evidence,
                end: end_of(&scans).max(at_base),
                proven: mark.speaks_of(log.found.epoch),
                newest_is_gone: mark.epoch > log.found.epoch,
                voided_from_is_unknown: mark.epoch.max(log.found.epoch) > end.epoch,
            });
        }
    }
    drop(scans);
    Ok(log.finish())
}

/// The end of the log as its headers tell it, whatever became of the records. Headers that a later epoch
/// has voided do not count.
fn end_of(scans: &[SegmentScan]) -> Debt {
    let mut end = Debt {
        term: Term(0),
        index: LogIndex::ZERO,
    };
    // Where the epochs begin that are later than the one being looked at, and where that one begins.
    let (mut void_from, mut epoch, mut epoch_first) = (LogIndex::MAX, u64::MAX, LogIndex::MAX);
    for scan in scans.iter().rev() {
        if let Some(header) = scan.any_header()
            && header.place.epoch < epoch
        {
            void_from = void_from.min(epoch_first);
            (epoch, epoch_first) = (header.place.epoch, header.place.epoch_first);
        }
        for header in scan.headers().chain(&scan.strays) {
            if header.index < void_from {
                let (term, index) = (header.term, header.index);
                end = end.max(Debt { term, index });
            }
        }
    }
    end
}

/// Why the log is not put together any further.
enum Stop {
    /// What lies here was durable, and is damaged or missing.
    Corrupt(End, Evidence),
    /// It cannot be a log.
    Refused(RecoveryError),
}

impl From<RecoveryError> for Stop {
    fn from(error: RecoveryError) -> Stop {
        Stop::Refused(error)
    }
}

/// The log while it is put together, segment by segment.
#[derive(Default)]
struct Assembly {
    found: RecoveredLog,
    /// The epoch of the newest segment so far, and its first index.
    epoch: u64,
    epoch_first: LogIndex,
    epoch_previous_term: Term,
    /// The highest commit index of any header so far; and the same of those of which it is known that their
    /// log went on as this one does.
    named_commit: LogIndex,
    commit: LogIndex,
    /// The first record has come.
    begun: bool,
}

impl Assembly {
    /// Nothing is found yet. The record at the base is the first that the log lacks.
    fn behind(base: LogBase) -> Assembly {
        let mut log = Assembly::default();
        log.found.base = base;
        log.found.last = base.index.prev();
        log
    }

    fn assemble(
        &mut self,
        scans: &[SegmentScan],
        (mark, base): (DurableMark, LogBase),
    ) -> Result<(), Stop> {
        if scans.is_empty() && mark.index.max(base.index) > LogIndex::ZERO {
            let end = End {
                segment: 0,
                offset: 0,
                index: self.found.last.next(),
                epoch: 0,
                damaged: false,
            };
            let evidence = if base.index > LogIndex::ZERO {
                Evidence::Base { index: base.index }
            } else {
                Evidence::DurableMark {
                    index: mark.index,
                    epoch: mark.epoch,
                }
            };
            return Err(Stop::Corrupt(end, evidence));
        }
        let mut rest = scans;
        while let Some((scan, later)) = rest.split_first() {
            if let Some(next) = later.first()
                && next.segment <= scan.segment
            {
                return Err(Stop::Refused(RecoveryError::SegmentOrder {
                    before: scan.segment,
                    after: next.segment,
                }));
            }
            self.take(scan, later)?;
            let end = End {
                segment: scan.segment,
                offset: scan.end_offset,
                index: self.found.last.next(),
                epoch: self.epoch,
                damaged: scan.damage.is_some(),
            };
            match verdict::judge(&end, scan, later, (mark, base), self.found.epoch) {
                Verdict::Superseded | Verdict::Continued | Verdict::End => {}
                Verdict::Corrupt(evidence) => return Err(Stop::Corrupt(end, evidence)),
                Verdict::Torn => self.cut(scan, &end),
            }
            rest = later;
        }
        Ok(())
    }

    fn take(&mut self, scan: &SegmentScan, later: &[SegmentScan]) -> Result<(), Stop> {
        let Some(place) = scan.any_header().map(|any| any.place) else {
            return Ok(());
        };
        let commits = scan.headers().map(|header| header.place.commit);
        self.named_commit = commits.fold(self.named_commit, LogIndex::max);
        // What a later epoch voids need not follow on anything: a log that was cut at a fault leaves
        // records and epochs behind that have no beginning any more.
        let later = later.iter().filter_map(SegmentScan::any_header);
        let newer = later.filter(|header| header.place.epoch > place.epoch);
        let void_from = newer.map(|header| header.place.epoch_first).min();
        let is_void = |index| void_from.is_some_and(|from| index >= from);
        if is_void(place.epoch_first) {
            return Ok(());
        }
        // Also a header that is cut below voids older epochs: when it was written, the write before
        // had been given up, and what the new epoch replaces contradicted a newer leader.
        self.enter_epoch(scan.segment, &place)?;
        self.commit = self.named_commit;
        if !self.begun
            && let Some((_, first)) = scan.records.first()
        {
            self.begun = true;
            // The base's segment may begin with records from before it.
            self.found.last = self.found.last.min(first.index.prev());
        }
        for (offset, header) in &scan.records {
            if !is_void(header.index) {
                self.push(scan.segment, *offset, header)?;
            }
        }
        Ok(())
    }

    fn enter_epoch(&mut self, segment: u64, place: &RecordPlace) -> Result<(), Stop> {
        let (epoch, first) = (place.epoch, place.epoch_first);
        let next = self.found.last.next();
        let inconsistent = |rule| {
            Stop::Refused(RecoveryError::Inconsistent {
                segment,
                offset: 0,
                rule,
            })
        };
        if epoch < self.epoch {
            return Err(inconsistent("log epochs never fall"));
        }
        if epoch == self.epoch {
            let same =
                (first, place.epoch_previous_term) == (self.epoch_first, self.epoch_previous_term);
            return if same {
                Ok(())
            } else {
                Err(inconsistent("an epoch begins in one place"))
            };
        }
        if first > next {
            let end = End {
                segment,
                offset: 0,
                index: next,
                epoch: self.epoch,
                damaged: false,
            };
            let evidence = Evidence::LaterEpoch {
                segment,
                epoch,
                first,
            };
            return Err(Stop::Corrupt(end, evidence));
        }
        self.follow_on(segment, place)?;
        if self.epoch > 0 || self.found.base.index == LogIndex::ZERO {
            if first < self.found.base.index {
                return Err(inconsistent("no epoch voids what the log was cut behind"));
            }
            self.found.records.retain(|record| record.index < first);
            self.found.last = first.prev();
        }
        (self.epoch, self.epoch_first) = (epoch, first);
        self.epoch_previous_term = place.epoch_previous_term;
        Ok(())
    }

    /// Whether the log so far is the one that the new epoch went on from: else the epoch is gone that held
    /// the entry before it. What is before the base is not looked at.
    fn follow_on(&self, segment: u64, place: &RecordPlace) -> Result<(), Stop> {
        let index = place.epoch_first.prev();
        let base = self.found.base;
        let Some(behind) = index.0.checked_sub(base.index.0) else {
            return Ok(());
        };
        let at = (behind as usize).checked_sub(1);
        let left = at.and_then(|at| self.found.records.get(at));
        let found = left.map_or(base.term, |record| record.term);
        if found == place.epoch_previous_term {
            return Ok(());
        }
        match left {
            Some(left) if index > self.commit => {
                let end = End {
                    segment: left.segment,
                    offset: left.offset,
                    index,
                    epoch: self.epoch,
                    damaged: false,
                };
                let evidence = Evidence::EntryBefore {
                    segment,
                    epoch: place.epoch,
                    index,
                    term: place.epoch_previous_term,
                    found,
                };
                Err(Stop::Corrupt(end, evidence))
            }
            _ => Err(Stop::Refused(RecoveryError::Inconsistent {
                segment,
                offset: 0,
                rule: "what was committed is never replaced",
            })),
        }
    }

    fn push(&mut self, segment: u64, offset: u64, header: &RecordHeader) -> Result<(), Stop> {
        let next = self.found.last.next();
        let inconsistent = |rule| {
            Stop::Refused(RecoveryError::Inconsistent {
                segment,
                offset,
                rule,
            })
        };
        if header.index > next {
            let end = End {
                segment,
                offset,
                index: next,
                epoch: self.epoch,
                damaged: false,
            };
            let evidence = Evidence::LaterSegment {
                segment,
                index: header.index,
            };
            return Err(Stop::Corrupt(end, evidence));
        }
        if header.index < next {
            return Err(inconsistent("an epoch holds each index once"));
        }
        let base = self.found.base;
        self.found.last = header.index;
        if header.index <= base.index {
            // The terms before it do not exceed it, as the terms of a segment never fall.
            return if header.index < base.index || header.term == base.term {
                Ok(())
            } else {
                Err(inconsistent(
                    "the record at the base has the term of the base",
                ))
            };
        }
        let last_term = self
            .found
            .records
            .last()
            .map_or(base.term, |record| record.term);
        if header.term < last_term || header.term == Term(0) {
            return Err(inconsistent("terms never fall"));
        }
        self.found.records.push(RecordPosition {
            index: header.index,
            term: header.term,
            kind: header.kind,
            segment,
            offset,
            payload_bytes: header.payload_bytes,
        });
        Ok(())
    }

    fn cut(&mut self, scan: &SegmentScan, end: &End) {
        if let (None, Some(reason)) = (self.found.cut, scan.damage) {
            let headers_after = scan.after.len();
            let End {
                segment,
                offset,
                index,
                ..
            } = *end;
            self.found.cut = Some(Cut {
                segment,
                offset,
                index,
                headers_after,
                reason,
            });
        }
    }

    fn finish(self) -> RecoveredLog {
        let mut found = self.found;
        if found
            .fault
            .is_some_and(|fault| fault.voided_from_is_unknown)
        {
            // What is left may be void. Only what was committed is sure to be not.
            let kept = self.commit.max(found.base.index).min(found.last);
            found.records.retain(|record| record.index <= kept);
            found.last = kept;
        }
        if found.lacks_base() {
            // What the base stands for is in the files of the databases, and in the manifest.
            found.records.clear();
            found.last = found.base.index;
        }
        found.commit = self.commit.min(found.last).max(found.base.index);
        for record in &found.records {
            if found.runs.last().is_none_or(|run| run.term < record.term) {
                found.runs.push(TermRun {
                    first: record.index,
                    term: record.term,
                });
            }
        }
        assert_eq!(
            found.records.len() as u64 + found.base.index.0,
            found.last.0,
            "every index has one live record"
        );
        found
    }
}

#[cfg(test)]
mod tests;

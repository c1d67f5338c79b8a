//! The decision table: what the end of a segment means.
//!
//! At the end of each segment's records the log lacks some index i. The rows are tried in order;
//! the first whose condition holds decides.
//!
//! | row | condition | verdict |
//! |---|---|---|
//! | 1 | a later epoch starts at or below i | superseded: cut or truncated before, void |
//! | 2 | a later segment of the same epoch starts with i | continued: the segment was full |
//! | 3 | a later record was written when i was durable | corrupt |
//! | 4 | the durable mark covers i, or an epoch of which nothing is left; or the log's base covers i | corrupt |
//! | 5 | a record of i or beyond lies here, but was written for a later segment | corrupt |
//! | 6 | a later segment of the same epoch starts beyond i | corrupt |
//! | 7 | a later epoch starts beyond i | corrupt |
//! | 8 | something is there that is no record of this place, or headers follow | torn: cut from i on |
//! | 9 | nothing of all that | the end of the log |
//!
//! What a verdict of *corrupt* leads to is for the caller, who knows whether there is anybody to repair
//! the log from; see [`Fault`](super::Fault).

use super::error::Evidence;
use super::{DurableMark, SegmentScan};
use crate::entry::LogBase;
use crate::record::RecordHeader;
use crate::types::LogIndex;

/// A place where the records of a segment end.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// The index that the log lacks.
    pub(super) index: LogIndex,
    /// The newest epoch up to here.
    pub(super) epoch: u64,
    /// Something is there that is no record, or headers follow.
    pub(super) damaged: bool,
}

/// What the end of a segment means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What is missing here was replaced by a later epoch.
    Superseded,
    /// The log goes on in the next segment.
    Continued,
    /// A durable record is damaged or missing.
    Corrupt(Evidence),
    /// The end of an unfinished write: cut.
    Torn,
    /// The log ends here.
    End,
}

/// Everything that the conditions look at.
struct Case<'a> {
    end: &'a End,
    scan: &'a SegmentScan,
    later: &'a [SegmentScan],
    mark: DurableMark,
    base: LogBase,
    /// The highest epoch of any header.
    epoch_max: u64,
}

type Row = fn(&Case<'_>) -> Option<Verdict>;

/// The table of the module's documentation, in its order.
const TABLE: [Row; 9] = [
    |case| case.superseded(),
    |case| case.continued(),
    |case| case.later_record_durable(),
    |case| case.marked_durable(),
    |case| case.misplaced(),
    |case| case.later_segment_beyond(),
    |case| case.later_epoch_beyond(),
    |case| case.torn(),
    |case| case.end(),
];

/// Decides by the first row that holds.
pub(super) fn judge(
    end: &End,
    scan: &SegmentScan,
    later: &[SegmentScan],
    (mark, base): (DurableMark, LogBase),
    epoch_max: u64,
) -> Verdict {
    let case = Case {
        end,
        scan,
        later,
        mark,
        base,
        epoch_max,
    };
    TABLE
        .iter()
        .find_map(|row| row(&case))
        .unwrap_or(Verdict::End)
}

impl Case<'_> {
    fn superseded(&self) -> Option<Verdict> {
        let mut places = self.later.iter().filter_map(SegmentScan::any_header);
        let superseded = places.any(|header| {
            header.place.epoch > self.end.epoch && header.place.epoch_first <= self.end.index
        });
        superseded.then_some(Verdict::Superseded)
    }

    fn continued(&self) -> Option<Verdict> {
        let mut firsts = self.later_firsts();
        firsts
            .any(|(_, first)| first.index == self.end.index)
            .then_some(Verdict::Continued)
    }

    /// Row 1 has excluded that a later epoch replaced i. So what a later record says is about
    /// this i, and it stays true even if that record itself is void by now.
    fn later_record_durable(&self) -> Option<Verdict> {
        let here = self
            .scan
            .after
            .iter()
            .map(|header| (self.end.segment, header));
        let later = self
            .later
            .iter()
            .flat_map(|scan| scan.headers().map(|header| (scan.segment, header)));
        let (segment, header) = here
            .chain(later)
            .find(|(_, header)| header.place.durable_upto >= self.end.index)?;
        let (index, durable_upto) = (header.index, header.place.durable_upto);
        Some(Verdict::Corrupt(Evidence::LaterRecord {
            segment,
            index,
            durable_upto,
        }))
    }

    fn marked_durable(&self) -> Option<Verdict> {
        let DurableMark { epoch, index } = self.mark;
        let covers = index >= self.end.index && (epoch == 0 || epoch == self.end.epoch);
        let epoch_is_gone = epoch > self.epoch_max;
        if covers || epoch_is_gone {
            return Some(Verdict::Corrupt(Evidence::DurableMark { index, epoch }));
        }
        let index = self.base.index;
        (index >= self.end.index).then_some(Verdict::Corrupt(Evidence::Base { index }))
    }

    /// A write that went to the wrong place was acknowledged like any other.
    fn misplaced(&self) -> Option<Verdict> {
        let mut strays = self.scan.strays.iter();
        let stray = strays.find(|stray| stray.index >= self.end.index)?;
        Some(Verdict::Corrupt(Evidence::Misplaced {
            segment: stray.place.segment,
            index: stray.index,
        }))
    }

    fn later_segment_beyond(&self) -> Option<Verdict> {
        let (segment, first) = self
            .later_firsts()
            .find(|(_, first)| first.index > self.end.index)?;
        Some(Verdict::Corrupt(Evidence::LaterSegment {
            segment,
            index: first.index,
        }))
    }

    fn later_epoch_beyond(&self) -> Option<Verdict> {
        let headers = self
            .later
            .iter()
            .filter_map(|scan| Some((scan.segment, scan.any_header()?)));
        let (segment, header) = headers.into_iter().find(|(_, header)| {
            header.place.epoch > self.end.epoch && header.place.epoch_first > self.end.index
        })?;
        let (epoch, first) = (header.place.epoch, header.place.epoch_first);
        Some(Verdict::Corrupt(Evidence::LaterEpoch {
            segment,
            epoch,
            first,
        }))
    }

    fn torn(&self) -> Option<Verdict> {
        self.end.damaged.then_some(Verdict::Torn)
    }

    fn end(&self) -> Option<Verdict> {
        Some(Verdict::End)
    }

    /// The records at the very start of later segments of the same epoch. A segment whose start is
    /// itself damaged says nothing here: what is missing may be in it, and its own end is judged.
    fn later_firsts(&self) -> impl Iterator<Item = (u64, &RecordHeader)> {
        let firsts = self.later.iter().filter_map(|scan| {
            scan.records
                .first()
                .map(|(_, header)| (scan.segment, header))
        });
        firsts.filter(|(_, header)| header.place.epoch == self.end.epoch)
    }
}

//! One segment's bytes: the records from its start on, and every whole header after the place where
//! they end.

use super::error::RecoveryError;
use crate::record::{
    RECORD_ALIGN, RecordError, RecordHeader, RecordIdentity, RecordPlace, decode_header,
    decode_record, record_bytes,
};
use crate::types::{LogIndex, Term};
use std::fmt;

/// Why a segment does not go on, where something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// There is no whole record.
    Record(RecordError),
    /// There is a whole record, but not the one that was written after the one before it.
    Chain,
    /// There are zeros, but whole headers after them.
    Hole,
    /// There is a whole record that was written for another segment: a write went to the wrong place,
    /// or, if its number is lower, the segment was not zeroed before it was used again.
    Misplaced {
        /// The number of the segment that the record names.
        named: u64,
    },
    /// There is a whole record of another log.
    Foreign,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Record(error) => error.fmt(formatter),
            Damage::Chain => formatter.write_str("the record does not follow the one before it"),
            Damage::Hole => formatter.write_str("there are only zeros, but headers after them"),
            Damage::Misplaced { named } => {
                write!(formatter, "the record was written for segment {named}")
            }
            Damage::Foreign => formatter.write_str("the record belongs to another log"),
        }
    }
}

/// What one segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentScan {
    /// The number of the segment.
    pub segment: u64,
    /// Whole records from the start on, each with its offset in bytes.
    pub(super) records: Vec<(u64, RecordHeader)>,
    /// Where they end, in bytes.
    pub(super) end_offset: u64,
    /// What is wrong there; `None` for the end of the segment, or zeros to its end.
    pub(super) damage: Option<Damage>,
    /// Whole headers at or after `end_offset`. Their payloads may be damaged.
    pub(super) after: Vec<RecordHeader>,
    /// Whole headers there that name a later segment of this log.
    pub(super) strays: Vec<RecordHeader>,
}

impl SegmentScan {
    /// The whole records from the start on, each with its offset in bytes.
    pub fn records(&self) -> &[(u64, RecordHeader)] {
        &self.records
    }

    /// Where they end, in bytes, and what is wrong there; `None` for zeros to the end of the segment.
    pub fn end(&self) -> (u64, Option<Damage>) {
        (self.end_offset, self.damage)
    }

    /// The epoch of its records; `None` if no header is left.
    pub fn epoch(&self) -> Option<u64> {
        Some(self.any_header()?.place.epoch)
    }

    /// The entry before the first one of that epoch. Its term is 0 if it is not known, or there is none.
    pub fn follows_on(&self) -> Option<(LogIndex, Term)> {
        let place = self.any_header()?.place;
        Some((place.epoch_first.prev(), place.epoch_previous_term))
    }

    /// How many whole headers are behind the place where the records end.
    pub fn headers_behind(&self) -> usize {
        self.after.len()
    }

    /// All whole headers, in order of offset.
    pub(super) fn headers(&self) -> impl Iterator<Item = &RecordHeader> {
        self.records
            .iter()
            .map(|(_, header)| header)
            .chain(&self.after)
    }

    /// A header of the segment: they all agree on the epoch.
    pub(super) fn any_header(&self) -> Option<&RecordHeader> {
        self.headers().next()
    }

    /// Whether nothing was ever written to it.
    pub(super) fn is_zero(&self) -> bool {
        self.records.is_empty() && self.damage.is_none()
    }
}

/// Reads one segment. Damage is not an error here: [`recover`](crate::recover) judges it.
///
/// # Errors
/// Nothing of this log is there, but something of another one: the file got here by mistake. Or
/// whole records contradict each other, or are of another version.
pub fn scan_segment(
    bytes: &[u8],
    segment: u64,
    identity: &RecordIdentity,
) -> Result<SegmentScan, RecoveryError> {
    let mut scan = SegmentScan {
        segment,
        records: Vec::new(),
        end_offset: 0,
        damage: None,
        after: Vec::new(),
        strays: Vec::new(),
    };
    scan.damage = scan.walk(bytes, identity)?;
    scan.gather_evidence(bytes, identity)?;
    if scan.damage == Some(Damage::Foreign) && scan.any_header().is_none() {
        return Err(scan.wrong_identity(bytes, identity));
    }
    if scan.damage.is_none() && !scan.after.is_empty() {
        scan.damage = Some(Damage::Hole);
    }
    Ok(scan)
}

impl SegmentScan {
    /// Records from the start on; returns what ends them, if it is damage.
    fn walk(
        &mut self,
        bytes: &[u8],
        identity: &RecordIdentity,
    ) -> Result<Option<Damage>, RecoveryError> {
        loop {
            let rest = bytes.get(self.end_offset as usize..).unwrap_or(&[]);
            let Some(block) = rest.get(..RECORD_ALIGN) else {
                return Ok(None);
            };
            let header = match decode_record(rest) {
                Ok((header, _)) => header,
                Err(RecordError::UnknownVersion { found }) => {
                    let (segment, offset) = (self.segment, self.end_offset);
                    return Err(RecoveryError::UnknownVersion {
                        segment,
                        offset,
                        found,
                    });
                }
                Err(_) if block.iter().all(|&byte| byte == 0) => return Ok(None),
                Err(error) => return Ok(Some(Damage::Record(error))),
            };
            if header.place.identity != *identity {
                return Ok(Some(Damage::Foreign));
            }
            if header.place.segment != self.segment {
                let named = header.place.segment;
                return Ok(Some(Damage::Misplaced { named }));
            }
            let before = self.records.last().map(|(_, header)| *header);
            if header.place.previous_header_crc != before.map_or(0, |before| before.header_crc) {
                return Ok(Some(Damage::Chain));
            }
            if let Some(before) = before {
                self.check_follows(&before, &header)?;
            }
            self.records.push((self.end_offset, header));
            self.end_offset += record_bytes(header.payload_bytes as usize) as u64;
        }
    }

    /// Whose log the record is from that the segment begins with.
    fn wrong_identity(&self, bytes: &[u8], expected: &RecordIdentity) -> RecoveryError {
        let found = decode_header(bytes).map_or(*expected, |header| header.place.identity);
        RecoveryError::WrongIdentity {
            segment: self.segment,
            offset: self.end_offset,
            found,
            expected: *expected,
        }
    }

    fn check_follows(
        &self,
        before: &RecordHeader,
        header: &RecordHeader,
    ) -> Result<(), RecoveryError> {
        let same_epoch = epoch_of(&before.place) == epoch_of(&header.place);
        let rule = if !same_epoch {
            "a segment holds one epoch"
        } else if header.index != before.index.next() {
            "indexes in a segment follow each other"
        } else if header.term < before.term {
            "terms never fall"
        } else {
            return Ok(());
        };
        Err(RecoveryError::Inconsistent {
            segment: self.segment,
            offset: self.end_offset,
            rule,
        })
    }

    /// Every later block that starts with a whole header of this log and segment.
    fn gather_evidence(
        &mut self,
        bytes: &[u8],
        identity: &RecordIdentity,
    ) -> Result<(), RecoveryError> {
        let mut offset = self.end_offset as usize;
        while let Some(block) = bytes.get(offset..offset + RECORD_ALIGN) {
            if let Ok(header) = decode_header(block)
                && header.place.identity == *identity
                && header.place.segment >= self.segment
            {
                offset += RECORD_ALIGN;
                if header.place.segment > self.segment {
                    self.strays.push(header);
                    continue;
                }
                let other = self.any_header().map(|other| epoch_of(&other.place));
                if other.is_some_and(|other| other != epoch_of(&header.place)) {
                    let rule = "a segment holds one epoch";
                    let (segment, offset) = (self.segment, (offset - RECORD_ALIGN) as u64);
                    return Err(RecoveryError::Inconsistent {
                        segment,
                        offset,
                        rule,
                    });
                }
                self.after.push(header);
            } else {
                offset += RECORD_ALIGN;
            }
        }
        Ok(())
    }
}

/// Which epoch it is, and what it follows on.
fn epoch_of(place: &RecordPlace) -> (u64, LogIndex, Term) {
    (place.epoch, place.epoch_first, place.epoch_previous_term)
}

//! Where the records of the log are, and reading entries that are in memory no longer.

use std::cell::RefCell;
use std::path::PathBuf;

use bytes::Bytes;
use glommio::io::DmaFile;
use ringlite_raft::{Entry, LogIndex, RecordError, decode_record, record_bytes};

use super::StorageError;
use super::segment;

/// The place of one record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    segment: u64,
    offset: u32,
    payload_bytes: u32,
}

impl Place {
    pub(super) fn new(segment: u64, offset: u64, payload_bytes: u32) -> Self {
        Self {
            segment,
            // A segment is far below 4 GiB.
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            payload_bytes,
        }
    }
}

/// The index of the log: the place of each record.
pub(crate) struct Log {
    directory: PathBuf,
    /// From index 1.
    places: RefCell<Vec<Place>>,
}

impl Log {
    pub(super) fn new(directory: PathBuf, places: Vec<Place>) -> Self {
        Self {
            directory,
            places: RefCell::new(places),
        }
    }

    /// Entries from here on are void.
    pub(super) fn truncate(&self, from: LogIndex) {
        self.places
            .borrow_mut()
            .truncate(from.0.saturating_sub(1) as usize);
    }

    /// The record of the next index is there.
    pub(super) fn push(&self, place: Place) {
        self.places.borrow_mut().push(place);
    }

    /// Reads the entries from `from` to `up_to`, or the first of them if they exceed `bytes_max`.
    pub(crate) async fn read(
        &self,
        from: LogIndex,
        up_to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let first = from.0.saturating_sub(1) as usize;
        let wanted: Vec<Place> = {
            let places = self.places.borrow();
            let end = (up_to.0 as usize).min(places.len());
            places.get(first..end).unwrap_or_default().to_vec()
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut open: Option<(u64, DmaFile)> = None;
        for place in wanted {
            if !entries.is_empty() && bytes + place.payload_bytes as usize > bytes_max {
                break;
            }
            bytes += place.payload_bytes as usize;
            let path = segment::path_in(&self.directory, place.segment);
            let failed = |source| StorageError::glommio("read", &path, source);
            let file = match open.take() {
                Some((number, file)) if number == place.segment => file,
                _ => DmaFile::open(&path).await.map_err(failed)?,
            };
            let record = file
                .read_at(
                    u64::from(place.offset),
                    record_bytes(place.payload_bytes as usize),
                )
                .await
                .map_err(failed)?;
            entries.push(decode(&record).map_err(|error| {
                StorageError::io(
                    "read a record in",
                    &path,
                    std::io::Error::new(std::io::ErrorKind::InvalidData, error),
                )
            })?);
            open = Some((place.segment, file));
        }
        Ok(entries)
    }
}

fn decode(record: &[u8]) -> Result<Entry, RecordError> {
    let (header, payload) = decode_record(record)?;
    Ok(Entry {
        term: header.term,
        index: header.index,
        kind: header.kind,
        payload: Bytes::copy_from_slice(&record[payload]),
    })
}

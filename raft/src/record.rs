//! An entry as it lies in a segment: header, payload, zero padding up to the next 4 KiB block.
//!
//! The header says everything that recovery needs to judge the record and its neighbours; see
//! [`recover`](crate::recover). `docs/FORMAT.md` has the byte table. The places of the magic, the
//! version and the header checksum are the same in all versions, so that an unknown version can be
//! told from a damaged header.

use crate::entry::{Entry, EntryKind, PAYLOAD_BYTES_MAX};
use crate::types::{LogIndex, Term};
use std::ops::Range;

/// Records start at multiples of this, in bytes: the unit of direct IO.
pub const RECORD_ALIGN: usize = 4096;
/// The version of the record format.
pub const RECORD_VERSION: u16 = 2;
/// The length of a record header, in bytes. The payload follows at once.
pub const RECORD_HEADER_BYTES: usize = HEADER_CRC_AT + size_of::<u32>();

const MAGIC: [u8; 8] = *b"RLRECORD";
const RESERVED_BYTES: usize = 24;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + MAGIC.len();
const KIND_AT: usize = VERSION_AT + size_of::<u16>();
const ZERO_AT: usize = KIND_AT + size_of::<u8>();
const SHARD_AT: usize = ZERO_AT + size_of::<u8>();
const SEGMENT_AT: usize = SHARD_AT + size_of::<u32>();
const EPOCH_AT: usize = SEGMENT_AT + size_of::<u64>();
const EPOCH_FIRST_AT: usize = EPOCH_AT + size_of::<u64>();
const INDEX_AT: usize = EPOCH_FIRST_AT + size_of::<u64>();
const TERM_AT: usize = INDEX_AT + size_of::<u64>();
const DURABLE_UPTO_AT: usize = TERM_AT + size_of::<u64>();
const COMMIT_AT: usize = DURABLE_UPTO_AT + size_of::<u64>();
const CLUSTER_AT: usize = COMMIT_AT + size_of::<u64>();
const INCARNATION_AT: usize = CLUSTER_AT + size_of::<u128>();
const PAYLOAD_BYTES_AT: usize = INCARNATION_AT + size_of::<u64>();
const PAYLOAD_CRC_AT: usize = PAYLOAD_BYTES_AT + size_of::<u32>();
const PREVIOUS_CRC_AT: usize = PAYLOAD_CRC_AT + size_of::<u32>();
const EPOCH_PREVIOUS_TERM_AT: usize = PREVIOUS_CRC_AT + size_of::<u32>();
const RESERVED_AT: usize = EPOCH_PREVIOUS_TERM_AT + size_of::<u64>();
const HEADER_CRC_AT: usize = RESERVED_AT + RESERVED_BYTES;

const _: () = assert!(
    RECORD_HEADER_BYTES == 144,
    "the record header is 144 bytes long"
);
const _: () = assert!(
    RECORD_HEADER_BYTES < RECORD_ALIGN,
    "a header lies in one block"
);
const _: () = assert!(
    RECORD_HEADER_BYTES.is_multiple_of(8),
    "the payload is aligned to 8 bytes"
);
const _: () = assert!(CLUSTER_AT.is_multiple_of(8) && PAYLOAD_BYTES_AT.is_multiple_of(8));
const _: () = assert!(
    PAYLOAD_BYTES_MAX <= u32::MAX as usize,
    "a payload length fits its field"
);

/// Whose log a record belongs to. A record of anybody else is never read as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordIdentity {
    /// The cluster.
    pub cluster: u128,
    /// The shard within the cluster.
    pub shard: u32,
    /// The life of the data directory: a directory that is made anew gets a new number.
    pub incarnation: u64,
}

/// Where a record is written, and what its writer knew then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// Whose log.
    pub identity: RecordIdentity,
    /// The number of the segment that holds the record.
    pub segment: u64,
    /// The log epoch: each restart and each truncation starts the next one, in a fresh segment.
    /// The first is 1.
    pub epoch: u64,
    /// The first index of the epoch: records of older epochs at or above it are void. It is in
    /// every header, so that it is known even if the first record of the epoch is damaged.
    pub epoch_first: LogIndex,
    /// The term of the entry before `epoch_first`, on which the epoch follows. It tells the log that the
    /// epoch went on from what is left of it if another epoch is gone in between. 0 if the epoch begins
    /// with the first entry of all, or with the record that stands for a base.
    pub epoch_previous_term: Term,
    /// The header checksum of the record before this one in the segment; 0 for the first.
    pub previous_header_crc: u32,
    /// Everything up to here was durable in this node's log when the record was encoded.
    pub durable_upto: LogIndex,
    /// Everything up to here was known to be committed.
    pub commit: LogIndex,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Where it was written, and what its writer knew.
    pub place: RecordPlace,
    /// The index of the entry.
    pub index: LogIndex,
    /// The term of the entry.
    pub term: Term,
    /// The kind of the entry.
    pub kind: EntryKind,
    /// The length of the payload.
    pub payload_bytes: u32,
    /// The CRC-32 (IEEE) of the payload.
    pub payload_crc: u32,
    /// The CRC-32 of the header up to this field; the next record of the segment repeats it.
    pub header_crc: u32,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// There are fewer bytes than a header, or than the header announces.
    #[error("a record of {needed} bytes does not fit into the {found} bytes at hand")]
    TooShort {
        /// How many bytes the record needs.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// No record starts here.
    #[error("there is no record mark")]
    NoMagic,
    /// The header is damaged.
    #[error("the header's checksum is {found:#010x}, but its bytes give {expected:#010x}")]
    HeaderChecksum {
        /// What the bytes give.
        expected: u32,
        /// What the header says.
        found: u32,
    },
    /// The header is whole, but of another format.
    #[error("the record has format version {found}, but this program reads {RECORD_VERSION}")]
    UnknownVersion {
        /// The version of the record.
        found: u16,
    },
    /// The header is whole, but a field has a value that this version never writes.
    #[error("the field \"{field}\" has the impossible value {found}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// The payload is damaged.
    #[error("the payload's checksum is {found:#010x}, but its bytes give {expected:#010x}")]
    PayloadChecksum {
        /// What the bytes give.
        expected: u32,
        /// What the header says.
        found: u32,
    },
    /// The padding is not zero.
    #[error("the padding after the payload is not zero")]
    Padding,
}

/// How many bytes a record takes in its segment: header, payload and padding.
///
/// # Panics
/// If the payload is longer than [`PAYLOAD_BYTES_MAX`].
pub const fn record_bytes(payload_bytes: usize) -> usize {
    assert!(
        payload_bytes <= PAYLOAD_BYTES_MAX,
        "the payload is too long for a record"
    );
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGN)
}

/// Writes a whole record and returns its header checksum, for the record that follows.
///
/// # Panics
/// If `out` is not exactly [`record_bytes`] long, or the payload too long for a record.
pub fn encode_record(place: &RecordPlace, entry: &Entry, out: &mut [u8]) -> u32 {
    let end = RECORD_HEADER_BYTES + entry.payload.len();
    assert_eq!(
        out.len(),
        record_bytes(entry.payload.len()),
        "the buffer has the wrong length"
    );
    let payload_bytes = entry.payload.len() as u32;
    put(out, MAGIC_AT, &MAGIC);
    put(out, VERSION_AT, &RECORD_VERSION.to_le_bytes());
    put(out, KIND_AT, &[entry.kind.to_byte(), 0]);
    put(out, SHARD_AT, &place.identity.shard.to_le_bytes());
    put(out, SEGMENT_AT, &place.segment.to_le_bytes());
    put(out, EPOCH_AT, &place.epoch.to_le_bytes());
    put(out, EPOCH_FIRST_AT, &place.epoch_first.0.to_le_bytes());
    put(out, INDEX_AT, &entry.index.0.to_le_bytes());
    put(out, TERM_AT, &entry.term.0.to_le_bytes());
    put(out, DURABLE_UPTO_AT, &place.durable_upto.0.to_le_bytes());
    put(out, COMMIT_AT, &place.commit.0.to_le_bytes());
    put(out, CLUSTER_AT, &place.identity.cluster.to_le_bytes());
    put(
        out,
        INCARNATION_AT,
        &place.identity.incarnation.to_le_bytes(),
    );
    put(out, PAYLOAD_BYTES_AT, &payload_bytes.to_le_bytes());
    put(
        out,
        PAYLOAD_CRC_AT,
        &crc32fast::hash(&entry.payload).to_le_bytes(),
    );
    put(
        out,
        PREVIOUS_CRC_AT,
        &place.previous_header_crc.to_le_bytes(),
    );
    put(
        out,
        EPOCH_PREVIOUS_TERM_AT,
        &place.epoch_previous_term.0.to_le_bytes(),
    );
    put(out, RESERVED_AT, &[0; RESERVED_BYTES]);
    let header_crc = crc32fast::hash(&out[..HEADER_CRC_AT]);
    put(out, HEADER_CRC_AT, &header_crc.to_le_bytes());
    put(out, RECORD_HEADER_BYTES, &entry.payload);
    out[end..].fill(0);
    header_crc
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Reads the header at the start of `bytes`. What follows it may still be damaged.
///
/// # Errors
/// The bytes do not start with a whole header of this format version.
pub fn decode_header(bytes: &[u8]) -> Result<RecordHeader, RecordError> {
    let Some(header) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Err(RecordError::TooShort {
            needed: RECORD_HEADER_BYTES,
            found: bytes.len(),
        });
    };
    if header[..VERSION_AT] != MAGIC {
        return Err(RecordError::NoMagic);
    }
    let (expected, found) = (
        crc32fast::hash(&header[..HEADER_CRC_AT]),
        u32_at(header, HEADER_CRC_AT),
    );
    if expected != found {
        return Err(RecordError::HeaderChecksum { expected, found });
    }
    let version = u16::from_le_bytes(array_at(header, VERSION_AT));
    if version != RECORD_VERSION {
        return Err(RecordError::UnknownVersion { found: version });
    }
    check_zeros("zero byte", &header[ZERO_AT..SHARD_AT])?;
    check_zeros("reserved bytes", &header[RESERVED_AT..HEADER_CRC_AT])?;
    let kind = EntryKind::from_byte(header[KIND_AT]).ok_or(RecordError::Field {
        field: "kind",
        found: u64::from(header[KIND_AT]),
    })?;
    let payload_bytes = u32_at(header, PAYLOAD_BYTES_AT);
    if payload_bytes as usize > PAYLOAD_BYTES_MAX {
        return Err(RecordError::Field {
            field: "payload length",
            found: payload_bytes.into(),
        });
    }
    let place = place_of(header);
    let index = LogIndex(u64_at(header, INDEX_AT));
    if index < place.epoch_first || index == LogIndex::ZERO || index > LogIndex::MAX {
        return Err(RecordError::Field {
            field: "index",
            found: index.0,
        });
    }
    if place.epoch_first == LogIndex::ZERO || place.epoch == 0 {
        return Err(RecordError::Field {
            field: "epoch",
            found: place.epoch,
        });
    }
    let term = Term(u64_at(header, TERM_AT));
    if term > Term::MAX {
        return Err(RecordError::Field {
            field: "term",
            found: term.0,
        });
    }
    let previous_term = place.epoch_previous_term;
    if previous_term > term || (place.epoch_first == LogIndex(1) && previous_term != Term(0)) {
        return Err(RecordError::Field {
            field: "term before the epoch",
            found: previous_term.0,
        });
    }
    let payload_crc = u32_at(header, PAYLOAD_CRC_AT);
    Ok(RecordHeader {
        place,
        index,
        term,
        kind,
        payload_bytes,
        payload_crc,
        header_crc: found,
    })
}

fn place_of(header: &[u8; RECORD_HEADER_BYTES]) -> RecordPlace {
    RecordPlace {
        identity: RecordIdentity {
            cluster: u128::from_le_bytes(array_at(header, CLUSTER_AT)),
            shard: u32_at(header, SHARD_AT),
            incarnation: u64_at(header, INCARNATION_AT),
        },
        segment: u64_at(header, SEGMENT_AT),
        epoch: u64_at(header, EPOCH_AT),
        epoch_first: LogIndex(u64_at(header, EPOCH_FIRST_AT)),
        epoch_previous_term: Term(u64_at(header, EPOCH_PREVIOUS_TERM_AT)),
        previous_header_crc: u32_at(header, PREVIOUS_CRC_AT),
        durable_upto: LogIndex(u64_at(header, DURABLE_UPTO_AT)),
        commit: LogIndex(u64_at(header, COMMIT_AT)),
    }
}

/// Reads the record at the start of `bytes`: its header, and where in `bytes` its payload is.
///
/// # Errors
/// The bytes do not start with a whole, undamaged record of this format version.
pub fn decode_record(bytes: &[u8]) -> Result<(RecordHeader, Range<usize>), RecordError> {
    let header = decode_header(bytes)?;
    let payload = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.payload_bytes as usize;
    let needed = record_bytes(header.payload_bytes as usize);
    let Some(record) = bytes.get(..needed) else {
        return Err(RecordError::TooShort {
            needed,
            found: bytes.len(),
        });
    };
    let expected = crc32fast::hash(&record[payload.clone()]);
    if expected != header.payload_crc {
        return Err(RecordError::PayloadChecksum {
            expected,
            found: header.payload_crc,
        });
    }
    if record[payload.end..].iter().any(|&byte| byte != 0) {
        return Err(RecordError::Padding);
    }
    Ok((header, payload))
}

fn check_zeros(field: &'static str, bytes: &[u8]) -> Result<(), RecordError> {
    match bytes.iter().find(|&&byte| byte != 0) {
        Some(&byte) => Err(RecordError::Field {
            field,
            found: byte.into(),
        }),
        None => Ok(()),
    }
}

fn array_at<const N: usize>(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&header[at..at + N]);
    array
}

fn u32_at(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(array_at(header, at))
}

fn u64_at(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(array_at(header, at))
}

#[cfg(test)]
mod tests;

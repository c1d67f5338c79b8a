//! Messages as frames: a fixed header, then a body, all little-endian. `docs/FORMAT.md` has the
//! byte tables.
//!
//! A frame from a peer is believed in this order: the length has a bound before anything is
//! allocated, the checksum covers everything behind it, and only then are fields read. No count in
//! a body leads to an allocation that the bytes at hand do not justify. Payloads are slices of the
//! body and are not copied.

use super::{AppendResult, Conflict, Message};
use crate::entry::{Entry, EntryKind, PAYLOAD_BYTES_MAX};
use crate::types::{LogIndex, Term};
use bytes::{Buf, Bytes};

/// The version of the frame format. A frame of any other version is refused.
pub const FRAME_VERSION: u16 = 2;
/// The length of a frame header, in bytes.
pub const FRAME_HEADER_BYTES: usize = SHARD_AT + size_of::<u32>();
/// The longest body of a frame, in bytes.
pub const FRAME_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

const BODY_BYTES_AT: usize = 0;
const CRC_AT: usize = BODY_BYTES_AT + size_of::<u32>();
const VERSION_AT: usize = CRC_AT + size_of::<u32>();
const TYPE_AT: usize = VERSION_AT + size_of::<u16>();
const ZERO_AT: usize = TYPE_AT + size_of::<u8>();
const SHARD_AT: usize = ZERO_AT + size_of::<u8>();

const ENTRY_HEADER_BYTES: usize = 16;

const _: () = assert!(
    FRAME_HEADER_BYTES == 16,
    "the frame header is 16 bytes long"
);
const _: () = assert!(
    PAYLOAD_BYTES_MAX + PAYLOAD_BYTES_MAX / 2 < FRAME_BODY_BYTES_MAX,
    "a frame has room for the largest entry, and for a full append with its entry headers"
);

const PRE_VOTE: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const VOTE: u8 = 3;
const VOTE_REPLY: u8 = 4;
const APPEND: u8 = 5;
const APPEND_REPLY: u8 = 6;
const HEARTBEAT: u8 = 7;
const HEARTBEAT_REPLY: u8 = 8;
const TIMEOUT_NOW: u8 = 9;
const REMOVED: u8 = 10;

const ACCEPTED: u8 = 1;
const REJECTED: u8 = 2;
const DAMAGED: u8 = 3;

/// Why bytes are no frame. The connection that they came from must be closed, because nothing
/// after them can be trusted either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The header announces more than any correct peer sends.
    #[error("the frame announces a body of {body_bytes} bytes, more than {FRAME_BODY_BYTES_MAX}")]
    BodyTooLong {
        /// The announced length, in bytes.
        body_bytes: u32,
    },
    /// The body has another length than the header announced.
    #[error("the frame announces a body of {expected} bytes, but {found} bytes came")]
    BodyLength {
        /// The announced length, in bytes.
        expected: usize,
        /// The length of the body, in bytes.
        found: usize,
    },
    /// The checksum does not match.
    #[error("the frame's checksum is {found:#010x}, but its bytes give {expected:#010x}")]
    Checksum {
        /// What the bytes give.
        expected: u32,
        /// What the header says.
        found: u32,
    },
    /// The format version is not ours.
    #[error("the frame has version {found}, but this node speaks version {FRAME_VERSION}")]
    Version {
        /// The version of the frame.
        found: u16,
    },
    /// There is no such message.
    #[error("the frame has the unknown message type {found}")]
    Type {
        /// The type byte.
        found: u8,
    },
    /// The body ends in the middle of a field.
    #[error("the body of message type {message_type} ends too early")]
    TooShort {
        /// The type byte.
        message_type: u8,
    },
    /// The body goes on after the message.
    #[error("the body of message type {message_type} has {extra_bytes} bytes too many")]
    TooLong {
        /// The type byte.
        message_type: u8,
        /// How many bytes follow the message.
        extra_bytes: usize,
    },
    /// A field has a value that no correct peer sends.
    #[error(
        "the field \"{field}\" of message type {message_type} has the impossible value {found}"
    )]
    Field {
        /// The type byte.
        message_type: u8,
        /// The name of the field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// Appends a frame with this message to `out`.
///
/// # Panics
/// If the message is longer than [`FRAME_BODY_BYTES_MAX`], which no configuration that passed
/// [`Config::validate`](crate::Config::validate) leads to.
pub fn encode(shard: u32, message: &Message, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    put_u64(out, message.term().0);
    let message_type = put_body(message, out);
    let body_bytes = out.len() - start - FRAME_HEADER_BYTES;
    assert!(
        body_bytes <= FRAME_BODY_BYTES_MAX,
        "a message of {body_bytes} bytes"
    );
    let header = &mut out[start..start + FRAME_HEADER_BYTES];
    header[BODY_BYTES_AT..CRC_AT].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    header[VERSION_AT..TYPE_AT].copy_from_slice(&FRAME_VERSION.to_le_bytes());
    header[TYPE_AT] = message_type;
    header[SHARD_AT..].copy_from_slice(&shard.to_le_bytes());
    let crc = crc32fast::hash(&out[start + VERSION_AT..]);
    out[start + CRC_AT..start + VERSION_AT].copy_from_slice(&crc.to_le_bytes());
}

/// Everything behind the term; returns the type byte.
fn put_body(message: &Message, out: &mut Vec<u8>) -> u8 {
    match message {
        Message::PreVote {
            last_index,
            last_term,
            ..
        } => {
            put_u64(out, last_index.0);
            put_u64(out, last_term.0);
            PRE_VOTE
        }
        Message::PreVoteReply { granted, .. } => {
            put_u64(out, u64::from(*granted));
            PRE_VOTE_REPLY
        }
        Message::Vote {
            last_index,
            last_term,
            by_transfer,
            ..
        } => {
            put_u64(out, last_index.0);
            put_u64(out, last_term.0);
            put_u64(out, u64::from(*by_transfer));
            VOTE
        }
        Message::VoteReply { granted, .. } => {
            put_u64(out, u64::from(*granted));
            VOTE_REPLY
        }
        Message::Append {
            prev_index,
            prev_term,
            commit,
            matched_by_all,
            entries,
            ..
        } => {
            put_u64(out, prev_index.0);
            put_u64(out, prev_term.0);
            put_u64(out, commit.0);
            put_u64(out, matched_by_all.0);
            put_u64(out, entries.len() as u64);
            for entry in entries {
                put_entry(entry, out);
            }
            APPEND
        }
        Message::AppendReply { result, .. } => {
            put_append_result(result, out);
            APPEND_REPLY
        }
        Message::Heartbeat {
            commit,
            matched_by_all,
            round,
            ..
        } => {
            put_u64(out, commit.0);
            put_u64(out, matched_by_all.0);
            put_u64(out, *round);
            HEARTBEAT
        }
        Message::HeartbeatReply { round, .. } => {
            put_u64(out, *round);
            HEARTBEAT_REPLY
        }
        Message::TimeoutNow { .. } => TIMEOUT_NOW,
        Message::Removed {
            commit,
            commit_term,
            ..
        } => {
            put_u64(out, commit.0);
            put_u64(out, commit_term.0);
            REMOVED
        }
    }
}

fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    assert!(
        entry.payload.len() <= PAYLOAD_BYTES_MAX,
        "an entry above its bound"
    );
    put_u64(out, entry.term.0);
    out.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&[entry.kind.to_byte(), 0, 0, 0]);
    out.extend_from_slice(&entry.payload);
}

fn put_append_result(result: &AppendResult, out: &mut Vec<u8>) {
    match result {
        AppendResult::Accepted { match_index } => {
            put_u64(out, u64::from(ACCEPTED));
            put_u64(out, match_index.0);
        }
        AppendResult::Rejected {
            prev_index,
            conflict,
        } => put_conflict(REJECTED, *prev_index, conflict, out),
        AppendResult::Damaged {
            prev_index,
            conflict,
        } => put_conflict(DAMAGED, *prev_index, conflict, out),
    }
}

fn put_conflict(verdict: u8, prev_index: LogIndex, conflict: &Conflict, out: &mut Vec<u8>) {
    put_u64(out, u64::from(verdict));
    put_u64(out, prev_index.0);
    put_u64(out, conflict.index.0);
    put_u64(out, conflict.term.0);
    put_u64(out, conflict.first.0);
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// How long the body is that follows this header, in bytes.
///
/// # Errors
/// The length is above [`FRAME_BODY_BYTES_MAX`]: do not read on.
pub fn frame_body_len(header: &[u8; FRAME_HEADER_BYTES]) -> Result<usize, DecodeError> {
    let body_bytes = header_u32(header, BODY_BYTES_AT);
    if body_bytes as usize > FRAME_BODY_BYTES_MAX {
        return Err(DecodeError::BodyTooLong { body_bytes });
    }
    Ok(body_bytes as usize)
}

/// Reads a frame: the shard that it is for, and the message. Payloads share the memory of `body`.
///
/// # Errors
/// The bytes are not exactly one correct frame.
pub fn decode(
    header: &[u8; FRAME_HEADER_BYTES],
    body: Bytes,
) -> Result<(u32, Message), DecodeError> {
    let expected = frame_body_len(header)?;
    if body.len() != expected {
        return Err(DecodeError::BodyLength {
            expected,
            found: body.len(),
        });
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[VERSION_AT..]);
    hasher.update(&body);
    let (expected, found) = (hasher.finalize(), header_u32(header, CRC_AT));
    if expected != found {
        return Err(DecodeError::Checksum { expected, found });
    }
    let version = u16::from_le_bytes([header[VERSION_AT], header[VERSION_AT + 1]]);
    if version != FRAME_VERSION {
        return Err(DecodeError::Version { found: version });
    }
    let mut reader = Reader {
        message_type: header[TYPE_AT],
        body,
    };
    reader.require("zero byte of the header", u64::from(header[ZERO_AT]), 0)?;
    let message = reader.message()?;
    reader.end()?;
    Ok((header_u32(header, SHARD_AT), message))
}

fn header_u32(header: &[u8; FRAME_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Reads fields from the front of a body.
struct Reader {
    message_type: u8,
    body: Bytes,
}

impl Reader {
    fn message(&mut self) -> Result<Message, DecodeError> {
        // Every body begins with the term, so that an unknown type is found out first.
        if !(PRE_VOTE..=REMOVED).contains(&self.message_type) {
            return Err(DecodeError::Type {
                found: self.message_type,
            });
        }
        let term = self.term()?;
        Ok(match self.message_type {
            PRE_VOTE => {
                let (last_index, last_term) = (self.index()?, self.term()?);
                Message::PreVote {
                    term,
                    last_index,
                    last_term,
                }
            }
            PRE_VOTE_REPLY => Message::PreVoteReply {
                term,
                granted: self.flag("granted")?,
            },
            VOTE => {
                let (last_index, last_term) = (self.index()?, self.term()?);
                Message::Vote {
                    term,
                    last_index,
                    last_term,
                    by_transfer: self.flag("by transfer")?,
                }
            }
            VOTE_REPLY => Message::VoteReply {
                term,
                granted: self.flag("granted")?,
            },
            APPEND => self.append(term)?,
            APPEND_REPLY => Message::AppendReply {
                term,
                result: self.append_result()?,
            },
            HEARTBEAT => Message::Heartbeat {
                term,
                commit: self.index()?,
                matched_by_all: self.index()?,
                round: self.number()?,
            },
            HEARTBEAT_REPLY => Message::HeartbeatReply {
                term,
                round: self.number()?,
            },
            TIMEOUT_NOW => Message::TimeoutNow { term },
            _ => Message::Removed {
                term,
                commit: self.index()?,
                commit_term: self.term()?,
            },
        })
    }

    fn append(&mut self, term: Term) -> Result<Message, DecodeError> {
        let prev_index = self.index()?;
        let prev_term = self.term()?;
        let commit = self.index()?;
        let matched_by_all = self.index()?;
        let count = self.number()?;
        // Each entry takes at least its header, so the bytes at hand bound the count.
        if count > (self.body.len() / ENTRY_HEADER_BYTES) as u64 {
            return Err(self.field("entry count", count));
        }
        if prev_term > term {
            return Err(self.field("previous term", prev_term.0));
        }
        let mut entries = Vec::with_capacity(count as usize);
        let (mut index, mut last_term) = (prev_index, prev_term);
        for _ in 0..count {
            index = index.next();
            let entry = self.entry(index)?;
            if entry.term < last_term || entry.term > term || entry.term == Term(0) {
                return Err(self.field("entry term", entry.term.0));
            }
            last_term = entry.term;
            entries.push(entry);
        }
        Ok(Message::Append {
            term,
            prev_index,
            prev_term,
            commit,
            matched_by_all,
            entries,
        })
    }

    fn entry(&mut self, index: LogIndex) -> Result<Entry, DecodeError> {
        self.need(ENTRY_HEADER_BYTES)?;
        let term = Term(self.body.get_u64_le());
        let payload_bytes = self.body.get_u32_le();
        let kind = self.body.get_u8();
        let zeros = self.body.get_uint_le(3);
        self.require("entry padding", zeros, 0)?;
        let kind = EntryKind::from_byte(kind).ok_or(self.field("entry kind", u64::from(kind)))?;
        if payload_bytes as usize > PAYLOAD_BYTES_MAX {
            return Err(self.field("payload length", u64::from(payload_bytes)));
        }
        self.need(payload_bytes as usize)?;
        let payload = self.body.split_to(payload_bytes as usize);
        Ok(Entry {
            term,
            index,
            kind,
            payload,
        })
    }

    fn append_result(&mut self) -> Result<AppendResult, DecodeError> {
        let verdict = self.number()?;
        if verdict == u64::from(ACCEPTED) {
            return Ok(AppendResult::Accepted {
                match_index: self.index()?,
            });
        }
        let is_damaged = verdict == u64::from(DAMAGED);
        if !is_damaged {
            self.require("verdict", verdict, u64::from(REJECTED))?;
        }
        let prev_index = self.index()?;
        let (index, term, first) = (self.index()?, self.term()?, self.index()?);
        let conflict = Conflict { index, term, first };
        Ok(if is_damaged {
            AppendResult::Damaged {
                prev_index,
                conflict,
            }
        } else {
            AppendResult::Rejected {
                prev_index,
                conflict,
            }
        })
    }

    /// An index that can be counted up from.
    fn index(&mut self) -> Result<LogIndex, DecodeError> {
        let number = self.number()?;
        let index = LogIndex(number);
        if index > LogIndex::MAX {
            Err(self.field("index", number))
        } else {
            Ok(index)
        }
    }

    /// A term that can be counted up from.
    fn term(&mut self) -> Result<Term, DecodeError> {
        let number = self.number()?;
        let term = Term(number);
        if term > Term::MAX {
            Err(self.field("term", number))
        } else {
            Ok(term)
        }
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.field(field, other)),
        }
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        self.need(size_of::<u64>())?;
        Ok(self.body.get_u64_le())
    }

    fn need(&self, bytes: usize) -> Result<(), DecodeError> {
        if self.body.len() < bytes {
            return Err(DecodeError::TooShort {
                message_type: self.message_type,
            });
        }
        Ok(())
    }

    fn require(&self, field: &'static str, found: u64, wanted: u64) -> Result<(), DecodeError> {
        if found == wanted {
            Ok(())
        } else {
            Err(self.field(field, found))
        }
    }

    fn field(&self, field: &'static str, found: u64) -> DecodeError {
        DecodeError::Field {
            message_type: self.message_type,
            field,
            found,
        }
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.body.is_empty() {
            return Ok(());
        }
        let (message_type, extra_bytes) = (self.message_type, self.body.len());
        Err(DecodeError::TooLong {
            message_type,
            extra_bytes,
        })
    }
}

#[cfg(test)]
mod tests;

//! What is said on the connection of a snapshot: frames with a length, a type and a checksum.
//!
//! ```text
//! leader                                  member
//!   Offer: what it consists of     ->
//!                                  <-     Resume: from where on     (or Done, or Refused)
//!   Chunk, Chunk, FileEnd, ...     ->
//!                                  <-     Received, Received, ...
//!   End: the targets               ->
//!                                  <-     Done                      (or Refused)
//!
//! a node with damaged pages                any other
//!   AskPages                       ->
//!                                  <-     Pages                     (or Refused)
//! ```

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_lite::{AsyncRead, AsyncReadExt as _};
use ringlite_raft::{Configuration, LogBase, LogIndex, Term};
use ringlite_vfs::{PageNumber, PageSize, validate_database_name};

use crate::replica::{DatabaseFile, DatabaseId, SnapshotHead, SnapshotId};
use crate::storage::Position;

const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
/// A head of some hundred thousand databases; everything else is far shorter.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Of one chunk. Each is read, checked and written in one piece, the core being busy with one for
/// some ten microseconds.
pub(super) const CHUNK_BYTES_MAX: usize = 128 << 10;
/// What a frame adds to the bytes of a chunk.
const CHUNK_HEADER_BYTES: usize = HEADER_BYTES + 4 + 8;
/// Of the words of a refusal.
const REASON_BYTES_MAX: usize = 1 << 10;

/// One frame. Files are named by their place in the list of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// What the snapshot consists of.
    Offer(SnapshotHead),
    /// The next bytes of a file.
    Chunk {
        /// Which file.
        file: u32,
        /// Where in it they belong, in bytes.
        offset: u64,
        /// They themselves.
        bytes: Bytes,
    },
    /// A file is `bytes` long.
    FileEnd {
        /// Which file.
        file: u32,
        /// Its length.
        bytes: u64,
    },
    /// Its database was dropped meanwhile, so that there will be no file.
    FileGone {
        /// Which file.
        file: u32,
    },
    /// That was all.
    End {
        /// The targets of the databases, now that their files have been read, in order.
        targets: Vec<LogIndex>,
    },
    /// From where on the member wants the files.
    Resume(Position),
    /// So many bytes of chunks have arrived on this connection.
    Received {
        /// How many.
        bytes: u64,
    },
    /// The member has installed it, or needs it no longer.
    Done,
    /// The member cannot take it, or has no pages to give.
    Refused {
        /// Why, as a sentence.
        reason: String,
    },
    /// How are these pages of a database, at an index or later?
    AskPages {
        /// Which database.
        database: DatabaseId,
        /// The index, at least.
        index_min: LogIndex,
        /// Which pages.
        numbers: Vec<PageNumber>,
    },
    /// They are like this at the index `applied`.
    Pages {
        /// The newest entry that they contain.
        applied: LogIndex,
        /// How long each is.
        page_size: PageSize,
        /// Each with its number.
        pages: Vec<(PageNumber, Bytes)>,
    },
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is too long, or too short for what it says.
    #[error("a frame is not as long as it says, or longer than any may be")]
    Length,
    /// A bit has changed on its way.
    #[error("the checksum of a frame is wrong")]
    Checksum,
    /// Another version has sent it.
    #[error("the version or the type of a frame is unknown")]
    Unknown,
    /// It makes no sense.
    #[error("a frame says what none may say")]
    Content,
}

impl From<FrameError> for std::io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

impl Frame {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(self.type_byte());
        match self {
            Frame::Offer(head) => put_head(&mut out, head),
            Frame::Chunk {
                file,
                offset,
                bytes,
            } => {
                out.put_u32_le(*file);
                out.put_u64_le(*offset);
                out.put_slice(bytes);
            }
            Frame::FileEnd { file, bytes } => {
                out.put_u32_le(*file);
                out.put_u64_le(*bytes);
            }
            Frame::FileGone { file } => out.put_u32_le(*file),
            Frame::End { targets } => {
                for target in targets {
                    out.put_u64_le(target.0);
                }
            }
            Frame::Resume(position) => {
                out.put_u32_le(position.file);
                out.put_u64_le(position.offset);
            }
            Frame::Received { bytes } => out.put_u64_le(*bytes),
            Frame::Done => {}
            Frame::Refused { reason } => {
                let end = reason.floor_char_boundary(REASON_BYTES_MAX);
                out.put_slice(&reason.as_bytes()[..end]);
            }
            Frame::AskPages {
                database,
                index_min,
                numbers,
            } => {
                out.put_u64_le(database.0.0);
                out.put_u64_le(index_min.0);
                for number in numbers {
                    out.put_u32_le(number.0);
                }
            }
            Frame::Pages {
                applied,
                page_size,
                pages,
            } => {
                out.put_u64_le(applied.0);
                out.put_u32_le(page_size.bytes());
                for (number, page) in pages {
                    out.put_u32_le(number.0);
                    out.put_slice(page);
                }
            }
        }
        finish(&mut out);
        out
    }

    fn type_byte(&self) -> u8 {
        match self {
            Frame::Offer(_) => 1,
            Frame::Chunk { .. } => CHUNK,
            Frame::FileEnd { .. } => 3,
            Frame::FileGone { .. } => 4,
            Frame::End { .. } => 5,
            Frame::Resume(_) => 6,
            Frame::Received { .. } => 7,
            Frame::Done => 8,
            Frame::Refused { .. } => 9,
            Frame::AskPages { .. } => 10,
            Frame::Pages { .. } => 11,
        }
    }

    fn decode(header: &[u8; HEADER_BYTES], body: Bytes) -> Result<Frame, FrameError> {
        let mut fixed = &header[4..];
        let crc = fixed.get_u32_le();
        if crc != checksum(&header[8..], &body) {
            return Err(FrameError::Checksum);
        }
        if fixed.get_u16_le() != VERSION {
            return Err(FrameError::Unknown);
        }
        let type_byte = fixed.get_u8();
        if fixed.get_u8() != 0 || fixed.get_u32_le() != super::SHARD {
            return Err(FrameError::Content);
        }
        decode_body(type_byte, body).unwrap_or(Err(FrameError::Content))
    }

    /// Reads a frame that `bytes` consist of.
    ///
    /// # Errors
    /// They are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Frame, FrameError> {
        let (header, body) = bytes.split_first_chunk().ok_or(FrameError::Length)?;
        if (&header[..4]).get_u32_le() as usize != body.len() {
            return Err(FrameError::Length);
        }
        Frame::decode(header, Bytes::copy_from_slice(body))
    }

    /// Reads the next frame.
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Frame> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let body_bytes = (&header[..4]).get_u32_le() as usize;
        if body_bytes > BODY_BYTES_MAX {
            return Err(FrameError::Length.into());
        }
        let mut body = vec![0; body_bytes];
        stream.read_exact(&mut body).await?;
        Ok(Frame::decode(&header, body.into())?)
    }
}

const CHUNK: u8 = 2;

/// A chunk that `fill` writes at most [`CHUNK_BYTES_MAX`] bytes of into its frame, and how many
/// these were; for the one kind of frame that is worth an own way.
pub(super) fn encode_chunk<E>(
    file: u32,
    offset: u64,
    fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<(Vec<u8>, usize), E> {
    let mut out = begin(CHUNK);
    out.put_u32_le(file);
    out.put_u64_le(offset);
    out.resize(CHUNK_HEADER_BYTES + CHUNK_BYTES_MAX, 0);
    let bytes = fill(&mut out[CHUNK_HEADER_BYTES..])?;
    out.truncate(CHUNK_HEADER_BYTES + bytes);
    finish(&mut out);
    Ok((out, bytes))
}

fn begin(type_byte: u8) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64_le(0); // length and checksum, once they are known
    out.put_u16_le(VERSION);
    out.put_u8(type_byte);
    out.put_u8(0);
    out.put_u32_le(super::SHARD);
    out
}

fn finish(out: &mut [u8]) {
    let body_bytes = (out.len() - HEADER_BYTES) as u32;
    out[..4].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = checksum(&out[8..HEADER_BYTES], &out[HEADER_BYTES..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

/// `None`: it is too short.
fn decode_body(type_byte: u8, mut body: Bytes) -> Option<Result<Frame, FrameError>> {
    let frame = match type_byte {
        1 => Frame::Offer(take_head(&mut body)?),
        CHUNK => Frame::Chunk {
            file: body.try_get_u32_le().ok()?,
            offset: body.try_get_u64_le().ok()?,
            bytes: body.split_off(0),
        },
        3 => Frame::FileEnd {
            file: body.try_get_u32_le().ok()?,
            bytes: body.try_get_u64_le().ok()?,
        },
        4 => Frame::FileGone {
            file: body.try_get_u32_le().ok()?,
        },
        5 => {
            let mut targets = Vec::with_capacity(body.len() / 8);
            while !body.is_empty() {
                targets.push(LogIndex(body.try_get_u64_le().ok()?));
            }
            Frame::End { targets }
        }
        6 => Frame::Resume(Position {
            file: body.try_get_u32_le().ok()?,
            offset: body.try_get_u64_le().ok()?,
        }),
        7 => Frame::Received {
            bytes: body.try_get_u64_le().ok()?,
        },
        8 => Frame::Done,
        9 => {
            let reason = body.split_off(0);
            Frame::Refused {
                reason: String::from_utf8_lossy(&reason).into_owned(),
            }
        }
        10 => {
            let database = DatabaseId(LogIndex(body.try_get_u64_le().ok()?));
            let index_min = LogIndex(body.try_get_u64_le().ok()?);
            let mut numbers = Vec::with_capacity(body.len() / 4);
            while !body.is_empty() {
                numbers.push(PageNumber(body.try_get_u32_le().ok()?));
            }
            Frame::AskPages {
                database,
                index_min,
                numbers,
            }
        }
        11 => {
            let applied = LogIndex(body.try_get_u64_le().ok()?);
            let page_size = PageSize::new(body.try_get_u32_le().ok()?).ok()?;
            let mut pages = Vec::new();
            while !body.is_empty() {
                let number = PageNumber(body.try_get_u32_le().ok()?);
                pages.push((number, take(&mut body, page_size.as_usize())?));
            }
            Frame::Pages {
                applied,
                page_size,
                pages,
            }
        }
        _ => return Some(Err(FrameError::Unknown)),
    };
    body.is_empty().then_some(Ok(frame))
}

/// Writes a head, which is also what a member keeps beside the files.
pub(super) fn put_head(out: &mut Vec<u8>, head: &SnapshotHead) {
    let configuration = head.configuration.encode();
    out.put_u64_le(head.id.term.0);
    out.put_u64_le(head.id.serial);
    out.put_u64_le(head.base.index.0);
    out.put_u64_le(head.base.term.0);
    out.put_u32_le(configuration.len() as u32);
    out.put_u32_le(head.databases.len() as u32);
    out.put_slice(&configuration);
    for database in &head.databases {
        out.put_u64_le(database.id.0.0);
        out.put_u64_le(database.applied.0);
        out.put_u64_le(database.target.0);
        out.put_u32_le(database.page_size.bytes());
        out.put_u16_le(database.name.len() as u16);
        out.put_u16_le(0);
        out.put_slice(database.name.as_bytes());
    }
}

/// Reads a head; `None` if it is none. What it names can be installed: the names are those of files
/// that a database may have, and none is there twice.
pub(super) fn take_head(body: &mut Bytes) -> Option<SnapshotHead> {
    let id = SnapshotId {
        term: Term(body.try_get_u64_le().ok()?),
        serial: body.try_get_u64_le().ok()?,
    };
    let base = LogBase {
        index: LogIndex(body.try_get_u64_le().ok()?),
        term: Term(body.try_get_u64_le().ok()?),
    };
    let configuration_bytes = body.try_get_u32_le().ok()? as usize;
    let count = body.try_get_u32_le().ok()?;
    let configuration = take(body, configuration_bytes)?;
    let configuration = Configuration::decode(configuration).ok()?;
    let mut databases = Vec::new();
    for _ in 0..count {
        databases.push(take_database(body)?);
    }
    let mut names: Vec<&str> = databases.iter().map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    let is_sound = id.term >= base.term
        && base.index > LogIndex::ZERO
        && base.term > Term(0)
        && [id.term, base.term].iter().all(|term| *term <= Term::MAX)
        && base.index <= LogIndex::MAX
        && !configuration.members().is_empty()
        && names.windows(2).all(|pair| pair[0] != pair[1])
        && databases.windows(2).all(|pair| pair[0].id < pair[1].id);
    is_sound.then_some(SnapshotHead {
        id,
        base,
        configuration,
        databases,
    })
}

fn take_database(body: &mut Bytes) -> Option<DatabaseFile> {
    let id = DatabaseId(LogIndex(body.try_get_u64_le().ok()?));
    let applied = LogIndex(body.try_get_u64_le().ok()?);
    let target = LogIndex(body.try_get_u64_le().ok()?);
    let page_size = PageSize::new(body.try_get_u32_le().ok()?).ok()?;
    let name_bytes = body.try_get_u16_le().ok()?;
    let zero = body.try_get_u16_le().ok()?;
    let name = take(body, usize::from(name_bytes))?;
    let name = String::from_utf8(name.into()).ok()?;
    validate_database_name(&name).ok()?;
    let is_sound = zero == 0 && applied <= target && target <= LogIndex::MAX;
    is_sound.then_some(DatabaseFile {
        id,
        name,
        page_size,
        applied,
        target,
    })
}

fn take(body: &mut Bytes, bytes: usize) -> Option<Bytes> {
    (bytes <= body.len()).then(|| body.split_to(bytes))
}

#[cfg(test)]
mod tests;

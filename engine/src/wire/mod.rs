//! The dqlite wire protocol, version 1, as a codec: bytes to requests and responses, and back.
//!
//! Nothing here reads a socket, keeps a session or knows a database. A connection starts with one
//! little-endian word, the [`PROTOCOL_VERSION`], to which the server answers nothing; then come
//! messages, each a [`FrameHeader`] and a body of whole 8-byte words. Both sides of the codec are
//! here, because the same tests then prove that they agree.
//!
//! What a peer sends is never trusted: a count is compared with the bytes that are really there
//! before anything is allocated for it, and every defect is a [`WireError`] that says whether the
//! connection can go on.
//!
//! Request and response codes of our own (from 0x80) carry what dqlite has no message for.

mod body;
mod cluster;
mod error;
mod frame;
mod request;
mod response;
mod tuple;
mod value;

pub use cluster::{ClusterFormat, MemberEntry, Role, ServerEntry};
pub use error::{FailureCode, WireError};
pub use frame::{BODY_BYTES_MAX, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader};
pub(crate) use request::{OPEN_EXISTING, OPEN_HERE, OPEN_PLAIN_BEGIN};
pub use request::{
    Request, VFS_NAME, encode_execute, encode_execute_sql, encode_query, encode_query_sql,
};
pub use response::{DatabaseEntry, DumpFile, Response, decode_servers, dump_around, encode_rows};
pub use tuple::PARAMETERS_MAX;
pub use value::TypeCode;

/// The word a client sends first.
pub const PROTOCOL_VERSION: u64 = 1;

/// The first word of clients from before dqlite 1.0. The one difference: the answer to LEADER is
/// [`Response::LegacyServer`].
pub const PROTOCOL_LEGACY: u64 = 0x8610_4dd7_6043_3fe5;

/// The unit of the protocol, in bytes: every body is a multiple of it.
pub const WORD_BYTES: usize = 8;

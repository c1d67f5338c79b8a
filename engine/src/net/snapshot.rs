//! Snapshots between nodes, on connections of their own: a leader dials the member that needs one.
//! A node whose disk has changed single pages asks for those ([`pages`]).
//!
//! Files are read, and written, in slices on threads of the blocking pool, so that neither node
//! holds more than a few slices in memory, and its core is busy with one at a time. A connection
//! that breaks is dialled again, and the member then says how far it has got.

mod arrival;
mod frame;
mod pages;
mod receive;
mod send;

pub(crate) use pages::{ASKED_BYTES_MAX, AskedPages, GivenPages, ask_for_pages, give_pages};
pub(crate) use receive::{Arrivals, receive};
pub(crate) use send::send;

/// What is said and done, apart from connections and executors.
pub mod stream {
    pub use super::arrival::{Arrival, Progress};
    pub use super::frame::{Frame, FrameError};
    pub use crate::storage::Position;
}

/// Where frames have a word for a shard. The hello of their connection names it for all of them.
const SHARD: u32 = 0;

//! Ringlite: replicated SQLite at the speed of the disk.
//!
//! Unmodified SQLite runs over a VFS that keeps the WAL in memory; what a transaction changed
//! travels as page images through Raft, whose log is written with direct io_uring writes on a
//! pinned core. An acknowledged commit is on the stable storage of a majority.
//!
//! ```no_run
//! use ringlite::{Node, params};
//!
//! let node = Node::builder("data").start()?;
//! let database = node.database("app")?;
//! database.execute("CREATE TABLE IF NOT EXISTS greeting (text TEXT)", ())?;
//! database.execute("INSERT INTO greeting VALUES (?)", params!["hello"])?;
//! for row in database.query("SELECT text FROM greeting", ())?.iter() {
//!     println!("{}", row.get::<String>(0)?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// Whether a bug is switched on: never, except in builds that test the tests.
#[cfg(not(feature = "mutations"))]
macro_rules! mutation {
    ($name:ident) => {
        false
    };
}
#[cfg(feature = "mutations")]
macro_rules! mutation {
    ($name:ident) => {
        ringlite_raft::mutation::is_on(stringify!($name))
    };
}

mod awake;
mod backup;
pub mod cli;
pub mod client;
mod commands;
mod database;
mod database_file;
mod error;
mod extensions;
mod forward;
#[cfg(fuzzing)]
#[doc(hidden)] // For the targets in `fuzz`.
pub mod fuzzing;
pub mod local_cluster;
mod net;
mod node;
mod parameters;
pub mod probe;
mod readers;
pub mod replica;
mod rows;
mod shard;
mod shards;
mod signal;
#[doc(hidden)] // For the simulated cluster of the tests.
pub mod sql;
mod stages;
mod storage;
mod tasks;
mod whole_file;
pub mod wire;

pub use backup::BackupHead;
pub use client::{Client, ClientError, ClientOptions};
pub use database::{Database, InterruptHandle, Transaction};
pub use error::{CODE_LEADERSHIP_LOST, CODE_NOT_LEADER, Error, Result};
#[doc(hidden)] // For the simulated network of the tests.
pub use net::snapshot::stream as snapshot_stream;
pub use node::{Node, NodeBuilder, NodeError};
pub use parameters::{Parameters, ToValue};
pub use readers::ReadLevel;
pub use rows::{Column, ColumnIndex, ColumnKind, Row, RowBatch, Rows, Value};
pub use shards::{ShardPlace, shard_of};
pub use stages::{Stage, StageTimes};
pub use storage::StorageError;
#[doc(hidden)] // For the simulated disks of the tests.
pub use storage::image;

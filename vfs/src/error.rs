//! The one error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

use crate::header::WalPosition;
use crate::page::PageNumber;

/// What can go wrong at the Rust face of this crate. Towards SQLite the callbacks speak in result
/// codes instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfsError {
    /// A database name that may not be a file name in the data directory.
    #[error("the database name {name:?} is not allowed: {reason}")]
    InvalidName {
        /// The name as it was given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A page size outside of what SQLite allows.
    #[error("{bytes} is no page size: a power of two from 512 to 65536 is needed")]
    InvalidPageSize {
        /// The size as it was given, in bytes.
        bytes: u32,
    },
    /// The file system refused an operation.
    #[error("could not {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A page of a database file is not what was last written there: the disk, or somebody, has
    /// changed it since. It is never given out. The database is told by
    /// [`Database::damage`](crate::Database::damage) until it is repaired.
    #[error(
        "page {page} of {}, at offset {offset}, is damaged: it is not what was written there. A node \
         of a cluster gets it from another one; on a node that is alone, restore the database from a \
         backup",
        path.display()
    )]
    DamagedPage {
        /// The database file.
        path: PathBuf,
        /// The page.
        page: PageNumber,
        /// Where it begins in the file, in bytes.
        offset: u64,
    },
    /// A file, or a first page, that cannot be the base of an in-memory WAL.
    #[error("{} is not a database that can be opened: {reason}", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another file stands where a database was to be created.
    #[error("{} exists and differs from the first page to be written", path.display())]
    FileDiffers {
        /// The file.
        path: PathBuf,
    },
    /// A name that is open already, or whose last connection has not been closed yet.
    #[error("the database {name} is already open")]
    AlreadyOpen {
        /// The database.
        name: String,
    },
    /// SQLite did not take the VFS.
    #[error("SQLite refused to register the VFS (result code {code})")]
    Register {
        /// SQLite's result code.
        code: i32,
    },
    /// An extension of SQLite cannot be loaded.
    #[error("the extension {} cannot be loaded: {reason}", path.display())]
    Extension {
        /// The library.
        path: PathBuf,
        /// What the loader or SQLite said.
        reason: String,
    },
    /// SQLite refused to open or to set up a connection.
    #[error("could not {operation} on the database {name}: {source}")]
    Connect {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The database.
        name: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A connection came up in another journal mode than WAL.
    #[error("a connection on the database {name} is in journal mode {mode}, not wal")]
    NotWal {
        /// The database.
        name: String,
        /// The mode that SQLite reported.
        mode: String,
    },
    /// A write transaction of SQL is open, so pages cannot be applied.
    #[error("a SQL transaction holds the write lock of the database {name}")]
    WriteLockHeld {
        /// The database.
        name: String,
    },
    /// A set of pages that no commit can consist of.
    #[error("pages for the database {name} cannot be applied: page {page} {reason}")]
    InvalidPages {
        /// The database.
        name: String,
        /// The page at fault (0 if the whole set is).
        page: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A commit point that is not, or is no longer, part of the history of the WAL.
    #[error("{position} is not in the history of the WAL of the database {name}")]
    UnknownCommitPoint {
        /// The database.
        name: String,
        /// The position asked for.
        position: WalPosition,
    },
    /// A commit that the database file has gone beyond: pages of it are overwritten by newer ones.
    #[error(
        "{position} of the database {name} is too old: its file holds the commits up to frame \
         {backfilled} (pin a commit that is to be read for long)"
    )]
    SnapshotTooOld {
        /// The database.
        name: String,
        /// The position asked for.
        position: WalPosition,
        /// The newest frame of this generation that may be in the file.
        backfilled: u32,
    },
    /// A database that was removed while a handle of it was still there.
    #[error("the database {name} was removed")]
    Removed {
        /// The database.
        name: String,
    },
    /// The WAL was rolled back under an operation that was reading it.
    #[error("the WAL of the database {name} was rolled back while it was read")]
    RolledBack {
        /// The database.
        name: String,
    },
}

impl VfsError {
    /// Wraps what the system said with what was tried and on what.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> VfsError {
        VfsError::Io {
            operation,
            path: path.to_path_buf(),
            source,
        }
    }
}

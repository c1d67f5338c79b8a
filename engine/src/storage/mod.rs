//! A node's disk: its identity, the hard state, the log, and the files of its databases.
//!
//! ```text
//! DATA/identity                whose directory this is
//! DATA/lock                    held while a node uses the directory
//! DATA/tmp/                    temporary files of SQLite that outgrow memory, already unlinked, and files
//!                              of restores that are not whole; DATA/shard-K/tmp/ for K > 0
//! DATA/shard-K/hard-state      term and vote, in two copies
//! DATA/shard-K/manifest.a, .b  where the log begins and what the databases' files hold
//! DATA/shard-K/log/*.seg       the segments of the log
//! DATA/shard-K/databases/NAME  the databases
//! DATA/shard-K/snapshot/        the databases of another node, on their way in
//! ```
//!
//! Each shard K has its own; a node without `--shards` has only shard 0.

mod directory;
mod durable;
mod force;
mod hard_state;
mod identity;
#[doc(hidden)] // For the simulated disks of the tests.
pub mod image;
mod inspect;
mod log;
mod manifest;
mod recovered;
mod segment;
mod staging;
#[cfg(test)]
mod tests;
mod twin;
mod writer;

use std::path::{Path, PathBuf};

use ringlite_raft::{Debt, Fault, LogIndex, RecoveryError};

pub(crate) use directory::{DataDirectory, Owner};
pub(crate) use force::Forced;
pub(crate) use identity::{Identity, Member};
pub(crate) use inspect::{Found, Inspection, inspect};
pub(crate) use log::Log;
#[cfg(fuzzing)]
pub(crate) use manifest::fuzz as fuzz_manifest;
pub(crate) use manifest::{LogStart, Manifest, ManifestDatabase, ManifestFile};
pub(crate) use recovered::Recovered;
pub(crate) use segment::SEGMENT_BYTES_DEFAULT;
pub use staging::Position;
pub(crate) use staging::{StagedFile, Staging, StagingArea};
pub(crate) use writer::{LogWriter, WriteDone, start};

/// Why a data directory cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// An operation failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another node", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The file system cannot write past the page cache.
    #[error(
        "{} does not support direct IO (O_DIRECT): {source}; put the data on ext4 or XFS",
        path.display()
    )]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The identity file is damaged or of another format.
    #[error("{} does not say whose directory this is: {what}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The directory is another node's.
    #[error("{} belongs to {found}, but {wanted} is to be started", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        wanted: String,
    },
    /// The directory has another number of shards.
    #[error(
        "{} was made for {found} shard(s), but --shards {wanted} is asked for: the number is fixed when \
         a cluster forms; leave --shards out, or start a new cluster and copy the databases there with \
         backup and restore",
        path.display()
    )]
    OtherShards {
        /// The directory.
        path: PathBuf,
        /// How many it has.
        found: u32,
        /// How many are asked for.
        wanted: u32,
    },
    /// Both copies of the hard state are bad.
    #[error(
        "both copies in {} are damaged: the node cannot know whom it has voted for, and must not \
         start",
        path.display()
    )]
    HardStateLost {
        /// The file.
        path: PathBuf,
    },
    /// Both copies of the manifest are bad.
    #[error(
        "both copies of {} are damaged or of another version: the node cannot know what the files \
         of its databases hold, and must not start",
        path.display()
    )]
    ManifestLost {
        /// The files, without the ends of their names.
        path: PathBuf,
    },
    /// The log ends before an entry that the manifest knows as durable.
    #[error(
        "the log in {} ends at {last}, but the file of database {database:?} may hold what was \
         committed up to {target}: the end of the log is lost, and nobody else has it; restore a backup, \
         or go on without it by `ringlite recover {}`",
        path.display(), data.display()
    )]
    LogShort {
        /// The directory.
        path: PathBuf,
        /// The last entry that was found.
        last: LogIndex,
        /// The database.
        database: String,
        /// An entry that was there.
        target: LogIndex,
        /// The data directory.
        data: PathBuf,
    },
    /// Something that was durable in the log is damaged, and the node is alone.
    #[error(
        "the log is damaged in {} at offset {}: {fault}; nobody else has it: restore a backup, or go on \
         with what is left for sure, which is everything up to {last}, by `ringlite recover {}`",
        path.display(), fault.offset, data.display()
    )]
    LogCorrupt {
        /// The file of the segment.
        path: PathBuf,
        /// The last entry before the damage; of a log of which another epoch may be gone, the last of which
        /// it is known that it was committed.
        last: LogIndex,
        /// What is wrong, and how that is known.
        fault: Box<Fault>,
        /// The data directory.
        data: PathBuf,
    },
    /// The log was damaged earlier and not repaired, and the node is alone.
    #[error(
        "the log in {} was damaged and ends at {last}, but this node may have acknowledged entries up to \
         {debt}, and nobody else has them: restore a backup, or go on without them by \
         `ringlite recover {}`",
        path.display(), data.display()
    )]
    DebtAlone {
        /// The directory of the log.
        path: PathBuf,
        /// The last entry that was found.
        last: LogIndex,
        /// What may have been acknowledged.
        debt: Debt,
        /// The data directory.
        data: PathBuf,
    },
    /// The log is damaged.
    #[error("the log in {} cannot be used: {source}", path.display())]
    Log {
        /// Its directory.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<RecoveryError>,
    },
    /// A write was cut short.
    #[error(
        "{} took {written} of {expected} bytes; is there no space left on its file system?",
        path.display()
    )]
    ShortWrite {
        /// The file.
        path: PathBuf,
        /// How many bytes it took.
        written: usize,
        /// How many it was given.
        expected: usize,
    },
}

impl StorageError {
    fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    fn glommio(operation: &'static str, path: &Path, source: glommio::GlommioError<()>) -> Self {
        Self::io(operation, path, source.into())
    }
}

//! Ringlite's SQLite VFS: the WAL lives in memory and is ours.
//!
//! SQLite runs unmodified over [`Vfs`]. It reads and appends to an in-memory WAL; what a
//! transaction changed is taken out as page images ([`Database::take_capture`]), put in on another
//! replica ([`Database::apply`]), and cut off again when it turns out never to have been committed
//! ([`Database::roll_back`]). What is committed for good moves into the database file
//! ([`Database::begin_backfill`]), and when all of it has, the WAL is emptied
//! ([`Database::restart`]). Connections that only read ([`Database::connect_committed`]) see what is
//! known to be committed ([`Database::show_committed`]), and nothing of what the others run ahead.
//!
//! ```
//! use ringlite_vfs::{PageSize, Vfs, VfsOptions, create_database_file, first_page};
//! # let directory = tempfile::tempdir()?;
//! # let root = directory.path();
//! let vfs = Vfs::register(VfsOptions::new(root, root))?;
//! create_database_file(root, "bank.db", &first_page(PageSize::DEFAULT))?;
//! let database = vfs.open("bank.db")?;
//! database.set_writable(true);
//! let connection = database.connect()?;
//! connection.execute_batch("CREATE TABLE account (id INTEGER PRIMARY KEY, cents INTEGER)")?;
//! let capture = database.take_capture().expect("a table was created");
//! assert_eq!(capture.page_count, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - SQLite never writes, truncates or syncs a main file, never checkpoints, restarts or recovers a
//!   WAL: each of these requests is refused (`SQLITE_READONLY`, `SQLITE_BUSY`, `SQLITE_IOERR`). A
//!   [`Backfill`] alone writes the file.
//! - Durability is not here: the WAL is memory and `xSync` does nothing. The replicated log is what
//!   makes a commit survive, until [`Backfill::sync`] has returned for a later one.
//! - No page of a file is given out that is not what was last written there: see
//!   [`VfsError::DamagedPage`].
//! - After a backfill the file is the database as of the end of one entry, page for page.
//! - A captured page image is never changed afterwards.
//! - A read-only connection never sees a commit that was not said to be committed for good.
//! - No panic leaves a callback that SQLite calls.
//!
//! # Words
//!
//! A *frame* is one page image in the WAL, numbered from 1. An *epoch* is one life of the file
//! handles, which a roll-back ends. A *generation* is one life of the WAL, which a roll-back or a
//! restart ends; they are numbered, so that the [`WalPosition`] of every commit is greater than
//! those of all commits before it.
//!
//! The formats are those of the SQLite documents "WAL-mode File Format" (`walformat.html`) and
//! "Database File Format" (`fileformat2.html`).

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
        crate::mutation::is_on(stringify!($name))
    };
}

mod backfill;
mod capture;
mod connection;
mod creation;
mod database;
mod disk_wait;
mod epoch;
mod error;
mod extensions;
mod ffi_file;
mod ffi_temporary;
mod ffi_vfs;
mod frames;
mod header;
mod history;
mod joint_commit;
mod locks;
mod main_file;
mod main_handle;
#[cfg(feature = "mutations")]
#[doc(hidden)]
pub mod mutation;
mod page;
mod page_sums;
mod registration;
mod removal;
mod replay;
mod restart;
mod snapshot;
mod sync;
mod temporary;
mod view;
mod wal_index;

pub use backfill::Backfill;
pub use capture::Capture;
pub use connection::{
    held_snapshot, holds_write_lock, is_ended, read_position, schema_database,
    transaction_is_too_large,
};
pub use creation::{
    create_database_file, create_marked_database_file, first_page, validate_database_name,
};
pub use database::{Database, PastState};
pub use disk_wait::{DiskWait, Missing, with_disk_wait};
pub use error::VfsError;
pub use extensions::Extension;
pub use header::{CommitPoint, WalPosition};
pub use joint_commit::JointCommit;
pub use page::{Page, PageNumber, PageSize};
pub use page_sums::{DATABASE_FILE_SUFFIXES, PageSumsBuilder};
pub use registration::{Vfs, VfsOptions};
pub use restart::Parking;
pub use snapshot::Pin;

use std::sync::PoisonError;

use sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

// The wal-index is native-endian (walformat.html, section 2.1), and this crate lays out its two
// sub-word header fields for a little-endian machine.
const _: () = assert!(cfg!(target_endian = "little"));

/// Locks a mutex whether or not a panic happened under it: no state here is left half changed by a
/// panic, and a callback that SQLite calls must not panic again because of it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for reading under a read-write lock.
fn read_lock<T>(rw_lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    rw_lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// The same for writing under a read-write lock.
fn write_lock<T>(rw_lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    rw_lock.write().unwrap_or_else(PoisonError::into_inner)
}

//! The registration of a VFS with SQLite, and the databases that are open in it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rusqlite::ffi;

use crate::creation::validate_database_name;
use crate::database::{Database, DatabaseInner};
use crate::error::VfsError;
use crate::extensions::{self, Extension};
use crate::ffi_vfs::new_sqlite3_vfs;
use crate::lock;
use crate::page::PageSize;
use crate::sync::Mutex;

/// Counts the registrations of this process, for their names.
static REGISTRATIONS: AtomicU64 = AtomicU64::new(0);

/// Where a [`Vfs`] has its files.
#[derive(Clone, Debug)]
pub struct VfsOptions {
    /// The directory of the database files.
    pub directory: PathBuf,
    /// The directory for temporary files that do not fit in memory. They have no name there.
    pub temporary_directory: PathBuf,
    /// How large one temporary file may grow in memory before it moves to the directory, in bytes.
    pub temporary_memory_bytes: usize,
    /// How many bytes of page images one write transaction may put into the WAL of one database; a
    /// page counts each time that a full page cache makes SQLite write it anew. Beyond it the
    /// statement fails with `SQLITE_FULL`, and [`crate::transaction_is_too_large`] says why.
    pub transaction_bytes_max: u64,
    /// Libraries that are loaded into every connection, in this order.
    pub extensions: Vec<Extension>,
}

impl VfsOptions {
    /// 1 MiB.
    pub const TEMPORARY_MEMORY_BYTES_DEFAULT: usize = 1 << 20;
    /// 64 MiB.
    pub const TRANSACTION_BYTES_MAX_DEFAULT: u64 = 64 << 20;

    /// Options with defaults for everything but the directories.
    pub fn new(
        directory: impl Into<PathBuf>,
        temporary_directory: impl Into<PathBuf>,
    ) -> VfsOptions {
        VfsOptions {
            directory: directory.into(),
            temporary_directory: temporary_directory.into(),
            temporary_memory_bytes: Self::TEMPORARY_MEMORY_BYTES_DEFAULT,
            transaction_bytes_max: Self::TRANSACTION_BYTES_MAX_DEFAULT,
            extensions: Vec::new(),
        }
    }
}

/// A VFS that is registered with SQLite under a name of its own. Several may be, as for several
/// nodes in one process. A clonable handle; the registration ends when the last handle, the last
/// [`Database`] and the last connection are gone.
#[derive(Clone)]
pub struct Vfs {
    pub(crate) inner: Arc<VfsInner>,
}

/// What the handles of a VFS, its databases and SQLite share.
pub(crate) struct VfsInner {
    pub(crate) options: VfsOptions,
    /// The name that SQLite knows this VFS by.
    pub(crate) registered_name: CString,
    pub(crate) databases: Mutex<HashMap<String, Weak<DatabaseInner>>>,
    /// The labels of databases that were found damaged and are not told yet.
    pub(crate) damaged: Mutex<Vec<u64>>,
    raw: RawVfs,
}

/// The C structure, a leaked box that the drop gives back.
struct RawVfs(*mut ffi::sqlite3_vfs);

// SAFETY: after its registration only SQLite uses the structure, under its own mutex, until it is
// unregistered in the drop of the owner.
unsafe impl Send for RawVfs {}
// SAFETY: as above; nothing here reads through a shared reference.
unsafe impl Sync for RawVfs {}

impl Vfs {
    /// Registers a new VFS. The directories have to exist by the time they are used. Fails with
    /// [`VfsError::Extension`] if an extension cannot be loaded.
    pub fn register(options: VfsOptions) -> Result<Vfs, VfsError> {
        let number = REGISTRATIONS.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlite-{number}");
        let registered_name = CString::new(name).map_err(|_| VfsError::Register {
            code: ffi::SQLITE_MISUSE,
        })?;
        let inner = Arc::new_cyclic(|weak| {
            let raw = new_sqlite3_vfs(&registered_name, weak.as_ptr());
            VfsInner {
                options,
                registered_name,
                databases: Mutex::new(HashMap::new()),
                damaged: Mutex::new(Vec::new()),
                raw: RawVfs(Box::into_raw(Box::new(raw))),
            }
        });
        // SAFETY: the structure is complete, and it and what it points to stay in place until it is
        // unregistered.
        match unsafe { ffi::sqlite3_vfs_register(inner.raw.0, 0) } {
            ffi::SQLITE_OK => {}
            code => return Err(VfsError::Register { code }),
        }
        extensions::check(&inner.options.extensions, &inner.registered_name)?;
        Ok(Vfs { inner })
    }

    /// Opens an existing database file as the base of an empty in-memory WAL. What a power loss has
    /// left of a backfill is not noticed here: the caller replays the log up to the `target` of the
    /// file before anybody reads. Fails if it is no database in WAL mode, and with
    /// [`VfsError::AlreadyOpen`] if the name is in use: each database of a VFS is there once, so that
    /// all see the same WAL.
    pub fn open(&self, name: &str) -> Result<Database, VfsError> {
        self.open_as(name, None)
    }

    /// Opens a database whose file a backfill may have been writing when everything ended: what the
    /// file holds is not looked at, and its size may be any. The caller knows the page size, and
    /// applies every commit that the backfill may have begun to write before anybody reads.
    pub fn reopen(&self, name: &str, page_size: PageSize) -> Result<Database, VfsError> {
        self.open_as(name, Some(page_size))
    }

    /// The databases of which a damaged page was met since the last call, by their labels
    /// ([`Database::label`]); each once until its damage is forgotten.
    pub fn take_damaged(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.inner.damaged))
    }

    fn open_as(&self, name: &str, page_size: Option<PageSize>) -> Result<Database, VfsError> {
        validate_database_name(name)?;
        let mut databases = lock(&self.inner.databases);
        databases.retain(|_, database| database.strong_count() > 0);
        if databases.contains_key(name) {
            return Err(VfsError::AlreadyOpen {
                name: name.to_owned(),
            });
        }
        let directory = &self.inner.options.directory;
        let inner = Arc::new(DatabaseInner::open(
            self.inner.clone(),
            directory,
            name,
            page_size,
        )?);
        databases.insert(name.to_owned(), Arc::downgrade(&inner));
        Ok(Database { inner })
    }
}

impl VfsInner {
    /// The open database of that name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<DatabaseInner>> {
        lock(&self.databases).get(name)?.upgrade()
    }
}

impl Drop for VfsInner {
    fn drop(&mut self) {
        // SAFETY: the structure is the one that was registered (or refused, which this ignores). No
        // connection uses it any more, because each holds its database and that holds this.
        unsafe {
            ffi::sqlite3_vfs_unregister(self.raw.0);
            drop(Box::from_raw(self.raw.0));
        }
    }
}

impl fmt::Debug for Vfs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Vfs")
            .field("name", &self.inner.registered_name)
            .field("directory", &self.inner.options.directory)
            .finish_non_exhaustive()
    }
}

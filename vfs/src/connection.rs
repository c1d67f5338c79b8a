//! Connections: how they are set up, and what the VFS knows of them.

use std::ffi::CString;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::database::Database;
use crate::error::VfsError;
use crate::extensions;
use crate::ffi_file::{MAIN_METHODS, handle_of};
use crate::header::WalPosition;
use crate::main_handle::MainHandle;

impl Database {
    /// Opens a new SQLite connection on this database.
    ///
    /// It is in WAL mode (which is verified), with `synchronous=OFF` because the log is the
    /// durability, without automatic checkpoints or one on close, with foreign keys enforced,
    /// temporary tables in temporary files, the extensions of the [`crate::VfsOptions`] loaded and
    /// loading of others off, and no busy handler, so that a
    /// held lock is reported at once. SQLite does not serialise its use (`SQLITE_OPEN_NOMUTEX`):
    /// it may move between threads but not be shared, as Rust sees to. Other open databases of the
    /// same [`crate::Vfs`] can be attached by name. Fails if the database is rolled back meanwhile;
    /// a second attempt is then right.
    ///
    /// Authorisation and limits are the caller's. In particular a URI in `ATTACH` can name another
    /// VFS, which nothing here can refuse.
    pub fn connect(&self) -> Result<Connection, VfsError> {
        self.connect_as(OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    /// Opens a new SQLite connection that only reads, and sees nothing but what is committed for
    /// good: commits up to the last one that [`Database::show_committed`] or [`Database::apply`] has
    /// shown. What it was told it may tell without waiting for anything. For the rest it is as a
    /// connection by [`Database::connect`]; a roll-back ends it as well.
    pub fn connect_committed(&self) -> Result<Connection, VfsError> {
        self.connect_as(OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    fn connect_as(&self, access: OpenFlags) -> Result<Connection, VfsError> {
        self.inner.require_present()?;
        let vfs_name = &*self.inner.vfs.registered_name;
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags_and_vfs(self.name(), flags, vfs_name)
            .map_err(|source| self.connect_error("open a connection", source))?;
        let mode = self
            .set_up(&connection)
            .map_err(|source| self.connect_error("set up a connection", source))?;
        extensions::load(&connection, &self.inner.vfs.options.extensions)?;
        match mode.as_str() {
            // The name may be another database's by now.
            "wal" if !self.owns(&connection) => Err(VfsError::Removed {
                name: self.name().to_owned(),
            }),
            "wal" => Ok(connection),
            _ => Err(VfsError::NotWal {
                name: self.name().to_owned(),
                mode,
            }),
        }
    }

    /// Sets everything that [`Database::connect`] promises; returns the journal mode.
    fn set_up(&self, connection: &Connection) -> rusqlite::Result<String> {
        connection.busy_timeout(std::time::Duration::ZERO)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
        // SAFETY: the handle is that of an open connection. The two calls change only settings.
        unsafe {
            ffi::sqlite3_enable_load_extension(connection.handle(), 0);
            ffi::sqlite3_wal_autocheckpoint(connection.handle(), 0);
        }
        let mode =
            connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0))?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "temp_store", "DEFAULT")?;
        Ok(mode)
    }

    /// Whether the connection is one on this database.
    fn owns(&self, connection: &Connection) -> bool {
        let is_this = |handle: &MainHandle| Arc::ptr_eq(&handle.database, &self.inner);
        with_handle(connection, "main", is_this).unwrap_or(false)
    }

    fn connect_error(&self, operation: &'static str, source: rusqlite::Error) -> VfsError {
        VfsError::Connect {
            operation,
            name: self.name().to_owned(),
            source,
        }
    }
}

/// The snapshot that a connection was granted last on one of its schemas (`main`, or the name of an
/// attached database); None if it has not read yet, or if there is no such schema of a
/// [`Database`].
///
/// It is exactly what a running read transaction sees, because it is the last commit that was live
/// when the read lock was granted. A commit of the connection itself does not change it. While
/// another thread commits it may for a moment be ahead of [`Database::commit_point`], because
/// SQLite publishes a commit before it gives back the write lock.
pub fn read_position(connection: &Connection, schema: &str) -> Option<WalPosition> {
    with_handle(connection, schema, MainHandle::snapshot).flatten()
}

/// The snapshot of the read transaction that a connection has open on one of its schemas; None if
/// it has none. While it has, no backfill goes beyond it and the WAL is not restarted.
pub fn held_snapshot(connection: &Connection, schema: &str) -> Option<WalPosition> {
    with_handle(connection, schema, MainHandle::held_snapshot).flatten()
}

/// Whether a roll-back or the removal of the database has ended what a connection can read of one of
/// its schemas. It can only be closed then.
pub fn is_ended(connection: &Connection, schema: &str) -> bool {
    with_handle(connection, schema, |handle| handle.epoch.is_dead()).unwrap_or(false)
}

/// Whether the last write transaction of a connection on one of its schemas got `SQLITE_FULL`
/// because it had put [`crate::VfsOptions::transaction_bytes_max`] bytes into the WAL.
pub fn transaction_is_too_large(connection: &Connection, schema: &str) -> bool {
    with_handle(connection, schema, MainHandle::transaction_is_too_large).unwrap_or(false)
}

/// Whether a connection holds the write lock on one of its schemas; false if there is no such
/// schema of a [`Database`].
pub fn holds_write_lock(connection: &Connection, schema: &str) -> bool {
    with_handle(connection, schema, MainHandle::holds_write_lock).unwrap_or(false)
}

/// The database that a connection has as one of its schemas; None if there is no such schema of a
/// [`Database`].
pub fn schema_database(connection: &Connection, schema: &str) -> Option<Database> {
    with_handle(connection, schema, |handle| Database {
        inner: Arc::clone(&handle.database),
    })
}

/// Asks the handle of a schema, if it is one of ours.
fn with_handle<T>(
    connection: &Connection,
    schema: &str,
    ask: impl FnOnce(&MainHandle) -> T,
) -> Option<T> {
    let schema = CString::new(schema).ok()?;
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the connection is open and not in use by another thread, since it is not `Sync`. The
    // operation stores a pointer to the file of the schema.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            schema.as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        )
    };
    if code != ffi::SQLITE_OK || file.is_null() {
        return None;
    }
    // SAFETY: SQLite gave a file object, whose first field are its methods (null if closed).
    let methods = unsafe { (*file).pMethods };
    if !std::ptr::eq(methods, &raw const MAIN_METHODS) {
        return None;
    }
    // SAFETY: these are the methods of main files, so the file is an open one of ours, and the
    // connection, which keeps it open, is borrowed.
    Some(ask(unsafe { handle_of::<MainHandle>(file) }))
}

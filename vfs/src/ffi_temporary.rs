//! The C face of temporary files.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::Arc;

use rusqlite::ffi;

use crate::ffi_file::{
    buffer, check_reserved_lock, close, content, device_characteristics, guarded, handle_of,
    no_file_control, sector_size, sync, unlock,
};
use crate::registration::VfsInner;
use crate::temporary::TemporaryContent;

/// The handle of a temporary file, the only one that it has.
pub(crate) struct TemporaryHandle {
    /// Keeps the VFS registered, and knows where to spill.
    pub(crate) vfs: Arc<VfsInner>,
    pub(crate) content: RefCell<TemporaryContent>,
}

/// The methods of temporary files.
pub(crate) static TEMPORARY_METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close::<TemporaryHandle>),
    xRead: Some(temporary_read),
    xWrite: Some(temporary_write),
    xTruncate: Some(temporary_truncate),
    xSync: Some(sync),
    xFileSize: Some(temporary_file_size),
    xLock: Some(unlock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(no_file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// A full disk has a result code of its own, which tells clients what to do.
fn code_of(error: &io::Error, otherwise: c_int) -> c_int {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ffi::SQLITE_FULL,
        _ => otherwise,
    }
}

unsafe extern "C" fn temporary_read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: SQLite passes an open temporary file and a buffer of `count` bytes.
        let (handle, into) = unsafe { (handle_of::<TemporaryHandle>(file), buffer(into, count)) };
        match handle.content.borrow().read(offset.cast_unsigned(), into) {
            Ok(found) if found == into.len() => ffi::SQLITE_OK,
            Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
            Err(_) => ffi::SQLITE_IOERR_READ,
        }
    })
}

unsafe extern "C" fn temporary_write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_WRITE, || {
        // SAFETY: SQLite passes an open temporary file and `count` bytes.
        let (handle, from) = unsafe { (handle_of::<TemporaryHandle>(file), content(from, count)) };
        let options = &handle.vfs.options;
        let written = handle.content.borrow_mut().write(
            offset.cast_unsigned(),
            from,
            options.temporary_memory_bytes,
            &options.temporary_directory,
        );
        match written {
            Ok(()) => ffi::SQLITE_OK,
            Err(error) => code_of(&error, ffi::SQLITE_IOERR_WRITE),
        }
    })
}

unsafe extern "C" fn temporary_truncate(
    file: *mut ffi::sqlite3_file,
    size: ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_TRUNCATE, || {
        // SAFETY: SQLite passes an open temporary file.
        let handle = unsafe { handle_of::<TemporaryHandle>(file) };
        match handle.content.borrow_mut().truncate(size.cast_unsigned()) {
            Ok(()) => ffi::SQLITE_OK,
            Err(error) => code_of(&error, ffi::SQLITE_IOERR_TRUNCATE),
        }
    })
}

unsafe extern "C" fn temporary_file_size(
    file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_FSTAT, || {
        // SAFETY: SQLite passes an open temporary file.
        let handle = unsafe { handle_of::<TemporaryHandle>(file) };
        match handle.content.borrow().length() {
            Ok(length) => {
                // SAFETY: SQLite passes a place for the size.
                unsafe { *size = length.cast_signed() };
                ffi::SQLITE_OK
            }
            Err(_) => ffi::SQLITE_IOERR_FSTAT,
        }
    })
}

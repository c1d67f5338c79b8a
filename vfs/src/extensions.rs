//! Loadable extensions: the operator's, and no others.
//!
//! SQLite loads a library through the VFS of the connection. Ours hands over to that of the system
//! for the libraries of [`VfsOptions::extensions`](crate::VfsOptions::extensions), and refuses any
//! other path.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, ffi};

use crate::error::VfsError;

/// A library with an extension of SQLite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The absolute path of the library.
    pub path: PathBuf,
    /// The function that sets it up; by default as SQLite finds it
    /// (`sqlite3_load_extension`, loadext.html).
    pub entry_point: Option<String>,
}

/// Room for what SQLite and the loader say.
const MESSAGE_BYTES: usize = 512;

/// The VFS that SQLite has for this system.
fn system_vfs() -> *mut ffi::sqlite3_vfs {
    // SAFETY: SQLite initialises itself; the VFS lives as long as the process.
    unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) }
}

/// Opens a library. Null if that fails.
pub(crate) fn open_library(path: &CStr) -> *mut std::ffi::c_void {
    let system = system_vfs();
    // SAFETY: the VFS is the system's, whose methods are all there, and the path is a C string.
    unsafe {
        match (*system).xDlOpen {
            Some(open) => open(system, path.as_ptr()),
            None => std::ptr::null_mut(),
        }
    }
}

/// Writes what was wrong with the last library into `out`.
///
/// # Safety
///
/// `out` has room for `out_bytes` bytes.
pub(crate) unsafe fn library_error(out_bytes: c_int, out: *mut c_char) {
    let system = system_vfs();
    // SAFETY: as above, and by contract.
    unsafe {
        if let Some(error) = (*system).xDlError {
            error(system, out_bytes, out);
        }
    }
}

pub(crate) type Symbol =
    Option<unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *mut std::ffi::c_void, *const c_char)>;

/// Finds a function of a library.
///
/// # Safety
///
/// `library` was opened by [`open_library`] and not closed; `symbol` is a C string.
pub(crate) unsafe fn find_symbol(library: *mut std::ffi::c_void, symbol: *const c_char) -> Symbol {
    let system = system_vfs();
    // SAFETY: as above, and by contract.
    unsafe {
        (*system)
            .xDlSym
            .and_then(|find| find(system, library, symbol))
    }
}

/// Closes a library.
///
/// # Safety
///
/// `library` was opened by [`open_library`] and not closed.
pub(crate) unsafe fn close_library(library: *mut std::ffi::c_void) {
    let system = system_vfs();
    // SAFETY: as above, and by contract.
    unsafe {
        if let Some(close) = (*system).xDlClose {
            close(system, library);
        }
    }
}

/// Whether `path` is that of an extension on the list.
pub(crate) fn is_listed(extensions: &[Extension], path: &CStr) -> bool {
    let path = path.to_bytes();
    extensions
        .iter()
        .any(|extension| extension.path.as_os_str().as_bytes() == path)
}

/// Loads the extensions once, so that what is wrong with them shows before there is a session. They
/// stay in the process from then on: a library may have left threads, or addresses of its own.
pub(crate) fn check(extensions: &[Extension], vfs_name: &CStr) -> Result<(), VfsError> {
    for extension in extensions {
        let path = path_text(&extension.path)?;
        if open_library(&path).is_null() {
            let mut text: [c_char; MESSAGE_BYTES] = [0; MESSAGE_BYTES];
            // SAFETY: there is that much room, and the last byte stays the end of the text.
            let reason = unsafe {
                library_error(MESSAGE_BYTES as c_int - 1, text.as_mut_ptr());
                CStr::from_ptr(text.as_ptr())
            };
            return Err(VfsError::Extension {
                path: extension.path.clone(),
                reason: reason.to_string_lossy().into_owned(),
            });
        }
    }
    if extensions.is_empty() {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_in_memory_with_flags_and_vfs(flags, vfs_name);
    let connection = connection.map_err(|error| VfsError::Extension {
        path: extensions[0].path.clone(),
        reason: error.to_string(),
    })?;
    load(&connection, extensions)
}

/// Loads the extensions into a connection. SQL on it can load none afterwards.
pub(crate) fn load(connection: &Connection, extensions: &[Extension]) -> Result<(), VfsError> {
    extensions
        .iter()
        .try_for_each(|extension| load_one(connection, extension))
}

fn load_one(connection: &Connection, extension: &Extension) -> Result<(), VfsError> {
    let failed = |reason: String| VfsError::Extension {
        path: extension.path.clone(),
        reason,
    };
    let path = path_text(&extension.path)?;
    let entry_point = extension.entry_point.as_deref().map(CString::new);
    let entry_point = entry_point
        .transpose()
        .map_err(|_| failed("the name of its entry point has a zero byte".into()))?;
    let entry_point = entry_point
        .as_ref()
        .map_or(std::ptr::null(), |name| name.as_ptr());
    let mut message: *mut c_char = std::ptr::null_mut();
    // SAFETY: the connection is open and used by this thread alone; the texts live through the call.
    // The library is the operator's choice, which vouches for what it does.
    let code = unsafe {
        ffi::sqlite3_enable_load_extension(connection.handle(), 1);
        let code = ffi::sqlite3_load_extension(
            connection.handle(),
            path.as_ptr(),
            entry_point,
            &raw mut message,
        );
        ffi::sqlite3_enable_load_extension(connection.handle(), 0);
        code
    };
    if code == ffi::SQLITE_OK {
        return Ok(());
    }
    let mut reason = format!("SQLite's result code is {code}");
    if !message.is_null() {
        // SAFETY: SQLite has made the text for the caller, which frees it.
        unsafe {
            reason = CStr::from_ptr(message).to_string_lossy().into_owned();
            ffi::sqlite3_free(message.cast());
        }
    }
    Err(failed(reason))
}

fn path_text(path: &Path) -> Result<CString, VfsError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| VfsError::Extension {
        path: path.to_owned(),
        reason: "its path has a zero byte".into(),
    })
}

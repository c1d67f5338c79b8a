//! The C face of the VFS itself: `sqlite3_vfs`.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::ffi;

use crate::extensions;
use crate::ffi_file::{
    FileSlot, MAIN_METHODS, WAL_METHODS, WalHandle, fill_slot, guarded, handle_of,
};
use crate::ffi_temporary::{TEMPORARY_METHODS, TemporaryHandle};
use crate::main_handle::MainHandle;
use crate::registration::VfsInner;
use crate::temporary::TemporaryContent;
use crate::view::ViewKind;

/// The longest path that SQLite may hand to us, in bytes.
const PATH_BYTES_MAX: c_int = 1024;
/// The Unix epoch as a Julian day number, which SQLite counts time in.
const UNIX_EPOCH_JULIAN_DAYS: f64 = 2_440_587.5;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// The kinds of file that are private to one connection and have no name.
const TEMPORARY_KINDS: c_int = ffi::SQLITE_OPEN_TEMP_DB
    | ffi::SQLITE_OPEN_TEMP_JOURNAL
    | ffi::SQLITE_OPEN_TRANSIENT_DB
    | ffi::SQLITE_OPEN_SUBJOURNAL;

/// The C structure for a VFS. `name` and `inner` have to outlive its registration.
pub(crate) fn new_sqlite3_vfs(name: &CStr, inner: *const VfsInner) -> ffi::sqlite3_vfs {
    ffi::sqlite3_vfs {
        iVersion: 1,
        szOsFile: size_of::<FileSlot>() as c_int,
        mxPathname: PATH_BYTES_MAX,
        pNext: std::ptr::null_mut(),
        zName: name.as_ptr(),
        pAppData: inner.cast_mut().cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: Some(dl_open),
        xDlError: Some(dl_error),
        xDlSym: Some(dl_sym),
        xDlClose: Some(dl_close),
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(get_last_error),
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }
}

/// The shared state of a VFS.
///
/// # Safety
///
/// `vfs` is a VFS that [`new_sqlite3_vfs`] made, still registered.
unsafe fn inner_of(vfs: *mut ffi::sqlite3_vfs) -> Arc<VfsInner> {
    // SAFETY: pAppData comes from an `Arc` that lives as long as the registration; the count is
    // raised for the handle made here.
    unsafe {
        let inner = (*vfs).pAppData.cast::<VfsInner>().cast_const();
        Arc::increment_strong_count(inner);
        Arc::from_raw(inner)
    }
}

/// A name that SQLite passes, if it is one that a database or a companion of it can have.
///
/// # Safety
///
/// `name` is null or a C string that lives through the call.
unsafe fn name_of<'call>(name: *const c_char) -> Option<&'call str> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    guarded(ffi::SQLITE_CANTOPEN, || {
        // SAFETY: SQLite passes memory for a file. Without methods it will not be closed.
        unsafe { (*file).pMethods = std::ptr::null() };
        // SAFETY: SQLite passes our VFS, and a name or null.
        let (inner, text) = unsafe { (inner_of(vfs), name_of(name)) };
        if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            // Only databases that are open on the Rust side exist; the rest of the file system does
            // not.
            let Some(database) = text.and_then(|name| inner.find(name)) else {
                return ffi::SQLITE_CANTOPEN;
            };
            let kind = match flags & ffi::SQLITE_OPEN_READONLY {
                0 => ViewKind::Live,
                _ => ViewKind::Committed,
            };
            // SAFETY: the methods are those of the handle.
            unsafe { fill_slot(file, &MAIN_METHODS, MainHandle::new(database, kind)) };
        } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
            // SAFETY: SQLite's documents promise the open main file for the name of a WAL file.
            // It was opened by `open` above, because SQLite opens both with one VFS.
            let main = unsafe { handle_of::<MainHandle>(ffi::sqlite3_database_file_object(name)) };
            // SAFETY: the methods are those of the handle.
            unsafe { fill_slot(file, &WAL_METHODS, WalHandle::new(main)) };
        } else if flags & TEMPORARY_KINDS != 0 {
            let content = RefCell::new(TemporaryContent::new());
            let handle = TemporaryHandle {
                vfs: inner,
                content,
            };
            // SAFETY: the methods are those of the handle.
            unsafe { fill_slot(file, &TEMPORARY_METHODS, handle) };
        } else {
            // Rollback journals and super-journals: this is WAL mode.
            return ffi::SQLITE_CANTOPEN;
        }
        if !flags_out.is_null() {
            // SAFETY: it is null or a place for the flags.
            unsafe { *flags_out = flags };
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn delete(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _sync_directory: c_int,
) -> c_int {
    // SAFETY: SQLite passes a name.
    match unsafe { name_of(name) } {
        // The WAL stays, whatever SQLite thinks of it.
        Some(name) if name.ends_with("-wal") => ffi::SQLITE_OK,
        _ => ffi::SQLITE_IOERR_DELETE_NOENT,
    }
}

/// An open database exists, and so does its WAL (which is how SQLite knows that it is in use).
unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    found: *mut c_int,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_ACCESS, || {
        // SAFETY: SQLite passes our VFS and a name.
        let (inner, name) = unsafe { (inner_of(vfs), name_of(name)) };
        let database = name.map(|name| name.strip_suffix("-wal").unwrap_or(name));
        let exists = database.is_some_and(|name| inner.find(name).is_some());
        // SAFETY: SQLite passes a place for the answer.
        unsafe { *found = c_int::from(exists) };
        ffi::SQLITE_OK
    })
}

/// The full name of a database is its bare name: it tells clients nothing about the machine. A path
/// into the directory of the databases is shortened to it, and any other stays as it is, to be
/// refused when it is opened.
unsafe extern "C" fn full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    out_bytes: c_int,
    out: *mut c_char,
) -> c_int {
    guarded(ffi::SQLITE_CANTOPEN, || {
        // SAFETY: SQLite passes our VFS and a name.
        let (inner, name) = unsafe { (inner_of(vfs), name_of(name)) };
        let Some(name) = name else {
            return ffi::SQLITE_CANTOPEN;
        };
        let within = Path::new(name).strip_prefix(&inner.options.directory).ok();
        let bare = within.and_then(Path::to_str).unwrap_or(name);
        if bare.len() >= usize::try_from(out_bytes).unwrap_or(0) {
            return ffi::SQLITE_CANTOPEN;
        }
        // SAFETY: SQLite passes room for `out_bytes` bytes, which the name and its end fit in.
        unsafe {
            std::ptr::copy_nonoverlapping(bare.as_ptr().cast(), out, bare.len());
            *out.add(bare.len()) = 0;
        }
        ffi::SQLITE_OK
    })
}

/// Opens the libraries of the operator's list. SQLite calls this without asking whether it is there.
unsafe extern "C" fn dl_open(vfs: *mut ffi::sqlite3_vfs, name: *const c_char) -> *mut c_void {
    if name.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: SQLite passes our VFS and a path.
    let (inner, path) = unsafe { (inner_of(vfs), CStr::from_ptr(name)) };
    match extensions::is_listed(&inner.options.extensions, path) {
        true => extensions::open_library(path),
        false => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn dl_error(_vfs: *mut ffi::sqlite3_vfs, out_bytes: c_int, out: *mut c_char) {
    // SAFETY: SQLite passes room for `out_bytes` bytes.
    unsafe { extensions::library_error(out_bytes, out) };
}

unsafe extern "C" fn dl_sym(
    _vfs: *mut ffi::sqlite3_vfs,
    library: *mut c_void,
    symbol: *const c_char,
) -> extensions::Symbol {
    // SAFETY: SQLite passes a library that `dl_open` has given.
    unsafe { extensions::find_symbol(library, symbol) }
}

unsafe extern "C" fn dl_close(_vfs: *mut ffi::sqlite3_vfs, library: *mut c_void) {
    // SAFETY: SQLite closes once what `dl_open` has given.
    unsafe { extensions::close_library(library) };
}

/// Returns the number of random bytes written.
unsafe extern "C" fn randomness(
    _vfs: *mut ffi::sqlite3_vfs,
    count: c_int,
    out: *mut c_char,
) -> c_int {
    guarded(0, || {
        // SAFETY: SQLite passes room for `count` bytes.
        let mut bytes = unsafe { crate::ffi_file::buffer(out.cast(), count) };
        let mut done = 0;
        while !bytes.is_empty() {
            match rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()) {
                Ok(written) => {
                    done += written as c_int;
                    bytes = &mut bytes[written..];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        done
    })
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    let requested = u64::try_from(microseconds).unwrap_or(0);
    crate::sync::sleep(Duration::from_micros(requested));
    microseconds
}

/// The time as a Julian day number.
unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // SAFETY: SQLite passes a place for the time.
    unsafe { *out = UNIX_EPOCH_JULIAN_DAYS + since_epoch.as_secs_f64() / SECONDS_PER_DAY };
    ffi::SQLITE_OK
}

unsafe extern "C" fn get_last_error(
    _vfs: *mut ffi::sqlite3_vfs,
    _out_bytes: c_int,
    _out: *mut c_char,
) -> c_int {
    0
}

//! The C face of main files and WAL files: `sqlite3_io_methods`.
//!
//! Each callback turns SQLite's pointers into Rust values and does nothing else.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::ffi;

use crate::epoch::Epoch;
use crate::frames::FrameFault;
use crate::main_handle::MainHandle;
use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// What SQLite calls the smallest unit that a power loss can spoil. No file of ours has one, but
/// the usual value keeps SQLite's arithmetic on trodden paths.
const SECTOR_BYTES: c_int = 4096;

/// What we put into the memory that SQLite gives for a file.
#[repr(C)]
pub(crate) struct FileSlot {
    pub(crate) base: ffi::sqlite3_file,
    /// A leaked box, whose type belongs to the methods in `base`.
    pub(crate) handle: *mut c_void,
}

/// The handle of a WAL file: no more than the epoch of its main file, and the bound on one
/// transaction.
pub(crate) struct WalHandle {
    epoch: Arc<Epoch>,
    transaction_frames_max: usize,
    transaction_is_too_large: Arc<AtomicBool>,
}

impl WalHandle {
    /// The handle for the connection of `main`. The two files are opened at different times and
    /// have to be of one epoch nevertheless.
    pub(crate) fn new(main: &MainHandle) -> WalHandle {
        let database = &main.database;
        let bytes_max = database.vfs.options.transaction_bytes_max;
        let frames_max = bytes_max / u64::from(database.page_size.bytes());
        WalHandle {
            epoch: main.epoch.clone(),
            transaction_frames_max: usize::try_from(frames_max).unwrap_or(usize::MAX).max(1),
            transaction_is_too_large: main.transaction_is_too_large.clone(),
        }
    }

    /// `xWrite`.
    fn write(&self, offset: u64, from: &[u8]) -> c_int {
        let committed = self.epoch.live.index.live_max_frame() as usize;
        let frames_max = committed.saturating_add(self.transaction_frames_max);
        match self.epoch.frames.write(offset, from, frames_max) {
            Ok(()) => ffi::SQLITE_OK,
            Err(FrameFault::Full) => {
                self.transaction_is_too_large.store(true, Ordering::Relaxed);
                ffi::SQLITE_FULL
            }
            Err(_) => ffi::SQLITE_IOERR_WRITE,
        }
    }
}

/// Runs the body of a callback. A panic must not unwind into C: it is a defect of ours, which the
/// panic hook has reported, and SQLite gets `fallback`.
pub(crate) fn guarded(fallback: c_int, body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}

/// The handle in a slot.
///
/// # Safety
///
/// `file` is a file that `xOpen` has opened with the methods for handles of type `T` and that has
/// not been closed. The reference is not used after the callback that SQLite is in.
pub(crate) unsafe fn handle_of<'call, T>(file: *mut ffi::sqlite3_file) -> &'call T {
    // SAFETY: by contract `file` is one of our slots, and its handle is a leaked box of `T` that
    // only the close gives back. Handles are changed through cells only.
    unsafe { &*(*file.cast::<FileSlot>()).handle.cast::<T>() }
}

/// Fills a slot that SQLite has given to `xOpen`.
///
/// # Safety
///
/// `file` points to `szOsFile` bytes of our VFS, and `methods` are those for handles of type `T`.
pub(crate) unsafe fn fill_slot<T>(
    file: *mut ffi::sqlite3_file,
    methods: &'static ffi::sqlite3_io_methods,
    handle: T,
) {
    let slot = FileSlot {
        base: ffi::sqlite3_file { pMethods: methods },
        handle: Box::into_raw(Box::new(handle)).cast(),
    };
    // SAFETY: szOsFile is the size of a slot, and SQLite aligns the memory to eight bytes.
    unsafe { file.cast::<FileSlot>().write(slot) };
}

/// `xClose` for handles of type `T`.
///
/// # Safety
///
/// As for [`handle_of`]; the file is not used again.
pub(crate) unsafe extern "C" fn close<T>(file: *mut ffi::sqlite3_file) -> c_int {
    guarded(ffi::SQLITE_IOERR_CLOSE, || {
        // SAFETY: SQLite closes a file once, and the box was leaked when it was opened.
        drop(unsafe { Box::from_raw((*file.cast::<FileSlot>()).handle.cast::<T>()) });
        ffi::SQLITE_OK
    })
}

/// The buffer of a read.
///
/// # Safety
///
/// `into` points to `count` bytes that only this call uses.
pub(crate) unsafe fn buffer<'call>(into: *mut c_void, count: c_int) -> &'call mut [u8] {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: by contract.
    unsafe { std::slice::from_raw_parts_mut(into.cast(), count) }
}

/// The bytes of a write.
///
/// # Safety
///
/// `from` points to `count` bytes that nothing changes during this call.
pub(crate) unsafe fn content<'call>(from: *const c_void, count: c_int) -> &'call [u8] {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: by contract.
    unsafe { std::slice::from_raw_parts(from.cast(), count) }
}

/// The methods of main files. Version 2: shared memory, but no memory-mapped pages.
pub(crate) static MAIN_METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close::<MainHandle>),
    xRead: Some(main_read),
    xWrite: Some(main_write),
    xTruncate: Some(main_truncate),
    xSync: Some(sync),
    xFileSize: Some(main_file_size),
    xLock: Some(main_lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(main_file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The methods of WAL files.
pub(crate) static WAL_METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close::<WalHandle>),
    xRead: Some(wal_read),
    xWrite: Some(wal_write),
    xTruncate: Some(wal_truncate),
    xSync: Some(sync),
    xFileSize: Some(wal_file_size),
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

unsafe extern "C" fn main_read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: SQLite passes an open main file and a buffer of `count` bytes.
        let (handle, into) = unsafe { (handle_of::<MainHandle>(file), buffer(into, count)) };
        handle.read(offset.cast_unsigned(), into)
    })
}

/// SQLite writes a main file only in a checkpoint, which is refused earlier. This is the second
/// fence.
unsafe extern "C" fn main_write(
    _file: *mut ffi::sqlite3_file,
    _from: *const c_void,
    _count: c_int,
    _offset: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn main_truncate(
    _file: *mut ffi::sqlite3_file,
    _size: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_READONLY
}

/// Durability is the log's. There is nothing here that a sync could save.
pub(crate) unsafe extern "C" fn sync(_file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    ffi::SQLITE_OK
}

/// At least one page, which was checked at open and is kept: at 0 SQLite would delete the WAL.
unsafe extern "C" fn main_file_size(
    file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_FSTAT, || {
        // SAFETY: SQLite passes an open main file.
        let handle = unsafe { handle_of::<MainHandle>(file) };
        // SAFETY: SQLite passes a place for the size.
        unsafe { *size = handle.database.file.bytes().cast_signed() };
        ffi::SQLITE_OK
    })
}

/// The locks of rollback mode. Nobody gets more than SHARED, so nobody leaves WAL mode and nobody
/// takes a close for the last one.
unsafe extern "C" fn main_lock(_file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    match level > ffi::SQLITE_LOCK_SHARED {
        true => ffi::SQLITE_BUSY,
        false => ffi::SQLITE_OK,
    }
}

/// Locks of files that no other connection sees, and unlocks of all files.
pub(crate) unsafe extern "C" fn unlock(_file: *mut ffi::sqlite3_file, _level: c_int) -> c_int {
    ffi::SQLITE_OK
}

/// Nobody has a reserved lock.
pub(crate) unsafe extern "C" fn check_reserved_lock(
    _file: *mut ffi::sqlite3_file,
    found: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *found = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn main_file_control(
    _file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    let answer = match operation {
        // The database file is where it was.
        ffi::SQLITE_FCNTL_HAS_MOVED => 0,
        // Keep the WAL when a connection closes.
        ffi::SQLITE_FCNTL_PERSIST_WAL => 1,
        _ => return ffi::SQLITE_NOTFOUND,
    };
    // SAFETY: both operations take a pointer to an int (documents of `sqlite3_file_control`).
    unsafe { *argument.cast::<c_int>() = answer };
    ffi::SQLITE_OK
}

/// No operation is known.
pub(crate) unsafe extern "C" fn no_file_control(
    _file: *mut ffi::sqlite3_file,
    _operation: c_int,
    _argument: *mut c_void,
) -> c_int {
    ffi::SQLITE_NOTFOUND
}

/// See [`SECTOR_BYTES`].
pub(crate) unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    SECTOR_BYTES
}

/// Without this flag one changed page would make every page of its sector a changed one.
pub(crate) unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    address: *mut *mut c_void,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_SHMMAP, || {
        // SAFETY: SQLite passes an open main file.
        let mapped = unsafe { handle_of::<MainHandle>(file) }.map(region, bytes, extend != 0);
        // SAFETY: SQLite passes a place for the address.
        unsafe { *address = mapped.unwrap_or(std::ptr::null_mut()) };
        mapped.err().unwrap_or(ffi::SQLITE_OK)
    })
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_SHMLOCK, || {
        // SAFETY: SQLite passes an open main file.
        unsafe { handle_of::<MainHandle>(file) }.lock(offset, count, flags)
    })
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    guarded(ffi::SQLITE_OK, || {
        // SAFETY: SQLite passes an open main file. The regions stay until it is closed.
        unsafe { handle_of::<MainHandle>(file) }.release_all();
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn wal_read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: SQLite passes an open WAL file and a buffer of `count` bytes.
        let (handle, into) = unsafe { (handle_of::<WalHandle>(file), buffer(into, count)) };
        match handle.epoch.frames.read(offset.cast_unsigned(), into) {
            Ok(()) => ffi::SQLITE_OK,
            Err(FrameFault::Missing) => {
                into.fill(0);
                ffi::SQLITE_IOERR_SHORT_READ
            }
            Err(_) => ffi::SQLITE_IOERR_READ,
        }
    })
}

unsafe extern "C" fn wal_write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_WRITE, || {
        // SAFETY: SQLite passes an open WAL file and `count` bytes.
        let (handle, from) = unsafe { (handle_of::<WalHandle>(file), content(from, count)) };
        handle.write(offset.cast_unsigned(), from)
    })
}

/// `PRAGMA journal_size_limit` asks for it after a restart. Where the WAL ends is ours to say.
unsafe extern "C" fn wal_truncate(
    _file: *mut ffi::sqlite3_file,
    _size: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_OK
}

/// Only recovery asks, which never gets here, and `journal_size_limit`, which then does nothing.
unsafe extern "C" fn wal_file_size(
    _file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes a place for the size.
    unsafe { *size = 0 };
    ffi::SQLITE_OK
}

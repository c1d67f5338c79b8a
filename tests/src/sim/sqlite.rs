//! SQLite's own randomness and clock, which are the same for all of a process, made a function of
//! the seed. This is why a process runs one simulation at a time.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use rusqlite::ffi;

thread_local! {
    static JULIAN_DAY: Cell<f64> = const { Cell::new(0.0) };
}

/// What SQLite draws at random from here on follows from the seed: salts of WALs, `random()`.
pub(crate) fn seed_randomness(seed: u64) {
    // Zero would mean the system's randomness.
    let seed = (seed as c_int).max(1);
    // SAFETY: the verb takes an int and a connection, which may be null.
    let code = unsafe {
        ffi::sqlite3_test_control(
            ffi::SQLITE_TESTCTRL_PRNG_SEED,
            seed,
            std::ptr::null_mut::<ffi::sqlite3>(),
        )
    };
    assert_eq!(code, ffi::SQLITE_OK, "SQLite takes no seed");
}

/// The time is this from now on, on this thread.
pub(crate) fn set_time(julian_day: f64) {
    JULIAN_DAY.set(julian_day);
}

/// Gives the VFS of every node of this process the simulated clock.
pub(crate) fn install_clock() {
    // SAFETY: the list of VFSs is only walked while no other thread changes it: a simulation has
    // one thread. The structures are the writable memory of those that registered them.
    unsafe {
        let mut vfs = ffi::sqlite3_vfs_find(std::ptr::null());
        while let Some(one) = vfs.as_mut() {
            if CStr::from_ptr(one.zName)
                .to_bytes()
                .starts_with(b"ringlite")
            {
                one.xCurrentTime = Some(current_time);
            }
            vfs = one.pNext;
        }
    }
}

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite passes a place for the time.
    unsafe { *out = JULIAN_DAY.get() };
    ffi::SQLITE_OK
}

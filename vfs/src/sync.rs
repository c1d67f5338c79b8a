//! What threads meet at: the primitives of std or, with the feature `shuttle`, those of the crate of
//! that name, which tries their interleavings one by one (`tests/interleavings.rs`).

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread::{sleep, yield_now},
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    hint::spin_loop,
    sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread::yield_now,
};

/// Time stands still: whoever sleeps lets all others go first.
#[cfg(feature = "shuttle")]
pub(crate) fn sleep(_duration: std::time::Duration) {
    yield_now();
}

/// The atomics of shuttle, and a fence at which other threads may go on. SQLite has one between any
/// two steps that others must see in order.
#[cfg(feature = "shuttle")]
pub(crate) mod atomic {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

    pub(crate) fn fence(order: Ordering) {
        // Any access to an atomic of shuttle's is a place to switch threads at.
        AtomicBool::new(false).load(Ordering::SeqCst);
        std::sync::atomic::fence(order);
    }
}

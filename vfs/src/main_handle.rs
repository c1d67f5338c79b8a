//! One connection's handle of a main database file: its reads, its shared memory, its locks.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use rusqlite::ffi;

use crate::database::DatabaseInner;
use crate::epoch::Epoch;
use crate::error::VfsError;
use crate::header::WalPosition;
use crate::locks::{CHECKPOINT, READ_FIRST, RECOVER, SLOTS, WRITE, WritePurpose};
use crate::page::{Page, PageNumber};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::view::{View, ViewKind};
use crate::wal_index::REGION_BYTES;

/// Regions that an index may have: as many as 2^32 frames need.
const REGIONS_MAX: usize = 1 << 20;

/// A handle belongs to one connection, which one thread uses at a time. It stays in the epoch that
/// it was opened in.
pub(crate) struct MainHandle {
    pub(crate) database: Arc<DatabaseInner>,
    pub(crate) epoch: Arc<Epoch>,
    kind: ViewKind,
    /// The slots that this handle has a share of, and those that it holds alone; one bit each.
    shared: Cell<u8>,
    exclusive: Cell<u8>,
    snapshot: Cell<Option<WalPosition>>,
    /// Set by the WAL handle of the same connection.
    pub(crate) transaction_is_too_large: Arc<AtomicBool>,
}

impl MainHandle {
    /// A handle in the epoch that lives now.
    pub(crate) fn new(database: Arc<DatabaseInner>, kind: ViewKind) -> MainHandle {
        let epoch = database.epoch();
        MainHandle {
            database,
            epoch,
            kind,
            shared: Cell::new(0),
            exclusive: Cell::new(0),
            snapshot: Cell::new(None),
            transaction_is_too_large: Arc::new(AtomicBool::new(false)),
        }
    }

    fn view(&self) -> &View {
        self.epoch.view(self.kind)
    }

    /// The snapshot that was granted last, if any was.
    pub(crate) fn snapshot(&self) -> Option<WalPosition> {
        self.snapshot.get()
    }

    /// The snapshot of the read transaction that is open now.
    pub(crate) fn held_snapshot(&self) -> Option<WalPosition> {
        match self.shared.get() >> READ_FIRST {
            0 => None,
            _ => self.snapshot.get(),
        }
    }

    /// Whether the last write transaction was refused a frame because it had too many.
    pub(crate) fn transaction_is_too_large(&self) -> bool {
        self.transaction_is_too_large.load(Ordering::Relaxed)
    }

    /// Whether this handle holds WRITE.
    pub(crate) fn holds_write_lock(&self) -> bool {
        self.exclusive.get() & 1 << WRITE != 0
    }

    /// `xRead`.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> c_int {
        let found = self.read_file(offset, into);
        // After the read: whatever ends an epoch may from then on change the file too.
        if self.epoch.is_dead() {
            return ffi::SQLITE_IOERR_READ;
        }
        match found {
            Ok(count) if count == into.len() => ffi::SQLITE_OK,
            Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
            Err(VfsError::DamagedPage { .. }) => ffi::SQLITE_IOERR_DATA,
            Err(_) => ffi::SQLITE_IOERR_READ,
        }
    }

    /// Reads from the file and checks it, by whole pages. Returns how many bytes the file had.
    fn read_file(&self, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        let database = &*self.database;
        let page_bytes = database.page_size.as_usize();
        let within = offset % page_bytes as u64;
        let number = u32::try_from(offset / page_bytes as u64 + 1).unwrap_or(u32::MAX);
        if within == 0 && into.len() == page_bytes {
            return database.read_file_page(PageNumber(number), into);
        }
        // SQLite reads a part of a page only when it opens the file: the header.
        let mut page = vec![0; page_bytes];
        let found = match database.file.read_page(PageNumber(number), &mut page) {
            // That asks the file even if the WAL has a newer page 1, as after a power loss that has
            // torn it in the file.
            Err(error @ VfsError::DamagedPage { .. }) => {
                let newest = (number == 1).then(|| self.newest_page_one()).flatten();
                let Some(newest) = newest else {
                    database.note_damage(PageNumber(number), &error);
                    return Err(error);
                };
                page.copy_from_slice(&newest);
                page_bytes
            }
            Err(error) => {
                database.note_damage(PageNumber(number), &error);
                return Err(error);
            }
            Ok(found) => found,
        };
        let within = within as usize;
        let count = into.len().min(page_bytes - within);
        into[..count].copy_from_slice(&page[within..within + count]);
        into[count..].fill(0);
        Ok(found.saturating_sub(within).min(count))
    }

    /// Page 1 as of the last commit, if it is in the WAL.
    fn newest_page_one(&self) -> Option<Page> {
        let frames = &self.epoch.frames;
        let newest = frames.newest(1, self.view().index.live_max_frame()).ok()?;
        let first = newest.first().filter(|entry| entry.number.0 == 1)?;
        let pages = frames.pages(std::slice::from_ref(first)).ok()?;
        pages.into_iter().next().map(|(_, page)| page)
    }

    /// `xShmMap`. An existing region is returned whether or not SQLite asks to extend.
    pub(crate) fn map(
        &self,
        region: c_int,
        bytes: c_int,
        extend: bool,
    ) -> Result<*mut c_void, c_int> {
        let region = usize::try_from(region).unwrap_or(REGIONS_MAX);
        if self.epoch.is_dead() || region >= REGIONS_MAX || bytes != REGION_BYTES as c_int {
            return Err(ffi::SQLITE_IOERR_SHMMAP);
        }
        Ok(self.view().index.region_address(region, extend))
    }

    /// `xShmLock`. Giving back always works, also in a dead epoch.
    pub(crate) fn lock(&self, offset: c_int, count: c_int, flags: c_int) -> c_int {
        let (Ok(first), Ok(count)) = (usize::try_from(offset), usize::try_from(count)) else {
            return ffi::SQLITE_IOERR_SHMLOCK;
        };
        if count == 0 || first >= SLOTS || count > SLOTS - first {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        let shared = flags & ffi::SQLITE_SHM_SHARED != 0;
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            let mask = (((1u32 << count) - 1) << first) as u8;
            match shared {
                true => self.release_shared(mask),
                false => self.release_exclusive(mask),
            }
            return ffi::SQLITE_OK;
        }
        if self.epoch.is_dead() {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        match shared {
            true => self.lock_shared(first),
            false => self.lock_exclusive(first, count),
        }
    }

    fn lock_shared(&self, slot: usize) -> c_int {
        let bit = 1 << slot;
        if self.shared.get() & bit == 0 {
            if slot >= READ_FIRST && !self.holds_write_lock() {
                // A read transaction begins. (A writer comes here too, when its first frame makes
                // it leave READ(0); nobody may wait for anything while it holds WRITE.)
                self.database.wait_while_parked();
                let is_live = self.kind == ViewKind::Live;
                if is_live && self.database.jointly_committed.load(Ordering::SeqCst) {
                    // SQLite reads the header and tries again after a moment.
                    return ffi::SQLITE_BUSY;
                }
            }
            if !self.view().locks.take_shared(slot) {
                return ffi::SQLITE_BUSY;
            }
            self.shared.set(self.shared.get() | bit);
        }
        if slot >= READ_FIRST {
            // SQLite compares the live header with the one it has read before. If they are the
            // same, it was the live one all the time and so is what is read here; if not, it asks
            // again. No restart of the WAL comes between the two numbers, because it takes this
            // slot.
            self.snapshot.set(Some(WalPosition {
                generation: self.epoch.generation(),
                frame: self.view().index.live_max_frame(),
            }));
        }
        ffi::SQLITE_OK
    }

    fn lock_exclusive(&self, first: usize, count: usize) -> c_int {
        if (first..first + count).contains(&RECOVER) {
            // There is nothing to recover from. It can only mean that a header was spoilt.
            self.database
                .recovery_requests
                .fetch_add(1, Ordering::Relaxed);
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        // SQLite's own checkpoint would count frames as written to the file that it never wrote.
        // Several slots at once are what it takes to restart the WAL, which is ours to do.
        if count > 1 || first == CHECKPOINT {
            return ffi::SQLITE_BUSY;
        }
        let taken = match first {
            WRITE => {
                // SQLite begins every write transaction from within a read transaction.
                let purpose = match self.shared.get() >> READ_FIRST {
                    0 => WritePurpose::Header,
                    _ => WritePurpose::Transaction,
                };
                let may_write = || {
                    self.kind == ViewKind::Live && self.database.writable.load(Ordering::Acquire)
                };
                self.view().locks.take_write_for_sql(may_write, purpose)
            }
            _ => self.view().locks.take_exclusive(first),
        };
        if !taken {
            return ffi::SQLITE_BUSY;
        }
        self.exclusive.set(self.exclusive.get() | 1 << first);
        if first == WRITE {
            self.transaction_is_too_large
                .store(false, Ordering::Relaxed);
        }
        ffi::SQLITE_OK
    }

    fn release_shared(&self, mask: u8) {
        let held = self.shared.get() & mask;
        self.shared.set(self.shared.get() & !held);
        for slot in (0..SLOTS).filter(|slot| held & 1 << slot != 0) {
            self.view().locks.release_shared(slot);
        }
    }

    fn release_exclusive(&self, mask: u8) {
        let held = self.exclusive.get() & mask;
        self.exclusive.set(self.exclusive.get() & !held);
        if held & 1 << WRITE != 0 {
            self.database.note_write_released(&self.epoch);
        }
        for slot in (0..SLOTS).filter(|slot| held & 1 << slot != 0) {
            self.view().locks.release_exclusive(slot);
        }
    }

    /// `xShmUnmap`, and a close without it: no slot outlives its handle.
    pub(crate) fn release_all(&self) {
        self.release_exclusive(u8::MAX);
        self.release_shared(u8::MAX);
    }
}

impl Drop for MainHandle {
    fn drop(&mut self) {
        self.release_all();
    }
}

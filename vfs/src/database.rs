//! A database: its file, its current epoch, and what of it has committed and been captured.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::epoch::Epoch;
use crate::error::VfsError;
use crate::frames::{FrameFault, NewestFrame};
use crate::header::{CommitPoint, IndexHeader};
use crate::history::History;
use crate::main_file::{self, MainFile};
use crate::page::{PageNumber, PageSize};
use crate::registration::VfsInner;
use crate::snapshot::Pin;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::{lock, read_lock};

/// Pages whose images are looked up at once when a whole database is read, so that writers wait
/// for the frame lock only briefly.
const READ_PAGES_BATCH: usize = 256;

/// A database file with an in-memory WAL above it. A clonable handle, usable from any thread.
///
/// The name stays taken until the last handle and the last connection are gone.
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<DatabaseInner>,
}

/// What the handles of a database and its connections share.
pub(crate) struct DatabaseInner {
    /// Keeps the VFS registered.
    pub(crate) vfs: Arc<VfsInner>,
    pub(crate) name: String,
    pub(crate) page_size: PageSize,
    pub(crate) file: MainFile,
    /// Whether SQL may take WRITE.
    pub(crate) writable: AtomicBool,
    /// Whether something has committed since the last capture; a hint that is read without a lock.
    pub(crate) changed: AtomicBool,
    /// Whether the name was given away. Every handle is dead then. Set under `acts` and `history`.
    pub(crate) removed: AtomicBool,
    /// Until when new read transactions wait. Read under no other lock.
    pub(crate) parked_until: Mutex<Option<Instant>>,
    /// Whether there is something to read in `parked_until`; a hint that is read without a lock.
    pub(crate) parked: AtomicBool,
    /// Whether a connection is committing here and in other databases: no read transaction begins.
    pub(crate) jointly_committed: AtomicBool,
    /// What its user calls it: see [`Database::label`].
    pub(crate) label: AtomicU64,
    /// Held through an apply, a roll-back, a restart, and the begin and the end of a backfill. Lock
    /// tables are per epoch, so their slots alone would not keep two of them apart. It is taken
    /// before WRITE, that before `history`, that before `current`, that before any lock inside an
    /// epoch.
    pub(crate) acts: Mutex<()>,
    pub(crate) history: Mutex<History>,
    pub(crate) current: RwLock<Arc<Epoch>>,
    /// How often SQLite asked for recovery, which it never should.
    pub(crate) recovery_requests: AtomicU64,
    /// The first damaged page that was read from the file since it was last known to be right.
    damage: Mutex<Option<PageNumber>>,
}

/// Where each page of a database was as of one commit: see [`Database::past_state`].
pub struct PastState {
    /// Keeps backfills below, so that pages without a frame are in the file as they were.
    pin: Pin,
    epoch: Arc<Epoch>,
    /// The pages that are in the WAL, by number.
    newest: Vec<NewestFrame>,
}

impl DatabaseInner {
    /// Opens the file and puts an empty WAL above it. The file is looked at unless its page size is
    /// given.
    pub(crate) fn open(
        vfs: Arc<VfsInner>,
        directory: &Path,
        name: &str,
        known_page_size: Option<PageSize>,
    ) -> Result<DatabaseInner, VfsError> {
        let file = MainFile::open(directory, name, known_page_size)?;
        let page_size = file.page_size();
        // A power loss in the middle of a backfill may leave a part of the last page, which the
        // replay of the log completes, as it does any other page of that backfill.
        let page_count = u32::try_from(file.bytes().div_ceil(u64::from(page_size.bytes())))
            .map_err(|_| VfsError::NotADatabase {
                path: directory.join(name),
                reason: "it has more pages than SQLite can number",
            })?
            .max(1);
        let header = IndexHeader::empty(page_size, page_count);
        Ok(DatabaseInner {
            vfs,
            name: name.to_owned(),
            page_size,
            file,
            writable: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            parked_until: Mutex::new(None),
            parked: AtomicBool::new(false),
            jointly_committed: AtomicBool::new(false),
            label: AtomicU64::new(0),
            acts: Mutex::new(()),
            history: Mutex::new(History::new(header)),
            current: RwLock::new(Arc::new(Epoch::first(page_size, &header))),
            recovery_requests: AtomicU64::new(0),
            damage: Mutex::new(None),
        })
    }

    /// The epoch that lives now.
    pub(crate) fn epoch(&self) -> Arc<Epoch> {
        read_lock(&self.current).clone()
    }

    /// Reads one page of the file, as [`MainFile::read_page`] does, and takes note of damage.
    pub(crate) fn read_file_page(
        &self,
        number: PageNumber,
        into: &mut [u8],
    ) -> Result<usize, VfsError> {
        self.file
            .read_page(number, into)
            .inspect_err(|error| self.note_damage(number, error))
    }

    /// Takes note of a page that could not be read because it is damaged, and says so loudly if it is
    /// the first one.
    pub(crate) fn note_damage(&self, number: PageNumber, error: &VfsError) {
        if !main_file::is_damage(error) {
            return;
        }
        let mut damage = lock(&self.damage);
        if damage.is_none() {
            *damage = Some(number);
            drop(damage);
            tracing::error!("the database {} is faulty: {error}", self.name);
            lock(&self.vfs.damaged).push(self.label.load(Ordering::Relaxed));
        }
    }

    /// Damage is told anew from now on.
    pub(crate) fn forget_damage(&self) {
        *lock(&self.damage) = None;
    }

    /// Fails if the name was given away. To be asked under `acts` or `history`.
    pub(crate) fn require_present(&self) -> Result<(), VfsError> {
        match self.removed.load(Ordering::Acquire) {
            true => Err(VfsError::Removed {
                name: self.name.clone(),
            }),
            false => Ok(()),
        }
    }

    /// What `point` is called today; fails unless it is part of the history.
    pub(crate) fn require(
        &self,
        history: &History,
        point: &CommitPoint,
    ) -> Result<CommitPoint, VfsError> {
        self.require_present()?;
        history
            .resolve(point)
            .ok_or_else(|| VfsError::UnknownCommitPoint {
                name: self.name.clone(),
                position: point.position,
            })
    }

    /// Fails if the file may already hold pages that are newer than the commit `point`.
    pub(crate) fn require_above_backfill(
        &self,
        epoch: &Epoch,
        point: &CommitPoint,
    ) -> Result<(), VfsError> {
        let backfilled = epoch.live.index.backfill_attempted();
        match point.position.frame < backfilled {
            true => Err(VfsError::SnapshotTooOld {
                name: self.name.clone(),
                position: point.position,
                backfilled,
            }),
            false => Ok(()),
        }
    }

    /// The fault of a frame store that was asked for frames of its own history.
    pub(crate) fn ended(&self, _fault: FrameFault) -> VfsError {
        match self.require_present() {
            Err(removed) => removed,
            Ok(()) => VfsError::RolledBack {
                name: self.name.clone(),
            },
        }
    }
}

impl Database {
    /// The name that it was opened by.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The size of its pages.
    pub fn page_size(&self) -> PageSize {
        self.inner.page_size
    }

    /// Says whether SQL may take the write lock, as on a leader. It may not at first. When it may
    /// not, SQLite's writers get `SQLITE_BUSY` (never `SQLITE_READONLY`, which a reader that meets
    /// a header in the middle of a change would get too). A transaction that has the lock keeps it.
    pub fn set_writable(&self, writable: bool) {
        self.inner.writable.store(writable, Ordering::Release);
    }

    /// Another open database of the same [`crate::Vfs`], by its name.
    pub fn sibling(&self, name: &str) -> Option<Database> {
        let inner = self.inner.vfs.find(name)?;
        Some(Database { inner })
    }

    /// A number of the user's own, by which it knows the database that it finds behind a connection
    /// ([`crate::schema_database`]); 0 at first.
    pub fn label(&self) -> u64 {
        self.inner.label.load(Ordering::Relaxed)
    }

    /// Sets the number that [`Database::label`] gives, for all handles.
    pub fn set_label(&self, label: u64) {
        self.inner.label.store(label, Ordering::Relaxed);
    }

    /// The last commit, of SQL or applied, whether captured or not.
    pub fn commit_point(&self) -> CommitPoint {
        lock(&self.inner.history).commit_point()
    }

    /// The number of committed frames in the WAL.
    pub fn wal_frames(&self) -> u32 {
        lock(&self.inner.history).committed.max_frame()
    }

    /// The memory that the page images of the WAL take, in bytes, uncommitted ones included. Images
    /// that were captured are shared and so counted once.
    pub fn wal_bytes(&self) -> u64 {
        self.inner.epoch().frames.resident_bytes()
    }

    /// How often SQLite asked to run recovery. It was refused; more than 0 is a defect of this
    /// crate, to be reported.
    pub fn recovery_requests(&self) -> u64 {
        self.inner.recovery_requests.load(Ordering::Relaxed)
    }

    /// The first damaged page that was read from the file since it was opened, or last repaired
    /// ([`Database::forget_damage`]); None as long as every page was what had been written. What reads
    /// a damaged page fails with [`VfsError::DamagedPage`], in SQL with `SQLITE_IOERR_DATA`; everything
    /// else goes on.
    pub fn damage(&self) -> Option<PageNumber> {
        *lock(&self.inner.damage)
    }

    /// Hands every page `1..=at.page_count()` as of the commit `at` to `each`, in order. A page
    /// that was never written is zeros. Commits may go on meanwhile, and backfills up to `at`.
    ///
    /// Fails with [`VfsError::RolledBack`] if a roll-back comes in between, with
    /// [`VfsError::UnknownCommitPoint`] if `at` was rolled back or lies before the last restart of
    /// the WAL, and with [`VfsError::SnapshotTooOld`] if the file holds newer pages already, which
    /// a [`Pin`](crate::Pin) prevents.
    pub fn read_pages_at(
        &self,
        at: &CommitPoint,
        each: &mut dyn FnMut(PageNumber, &[u8]),
    ) -> Result<(), VfsError> {
        let past = self.past_state(at)?;
        self.read_page_range_at(&past, 1..at.page_count() + 1, each)
    }

    /// Finds where each page was as of the commit `at`, for [`Database::read_page_range_at`]. While
    /// it lives, backfills stay at or below `at` and the WAL is not restarted.
    pub fn past_state(&self, at: &CommitPoint) -> Result<PastState, VfsError> {
        let inner = &*self.inner;
        // Pages without a frame up to `at` are then not written while they are read.
        let pin = self.pin(at)?;
        let at = pin.at();
        let epoch = inner.epoch();
        let newest = epoch.frames.newest(1, at.position.frame);
        let mut newest = newest.map_err(|fault| inner.ended(fault))?;
        newest.retain(|entry| entry.number.0 <= at.page_count());
        Ok(PastState { pin, epoch, newest })
    }

    /// Hands the pages `numbers` of a past state of this database to `each`, in order; numbers above
    /// its size are left out. For the rest it is as [`Database::read_pages_at`].
    pub fn read_page_range_at(
        &self,
        past: &PastState,
        numbers: std::ops::Range<u32>,
        each: &mut dyn FnMut(PageNumber, &[u8]),
    ) -> Result<(), VfsError> {
        let inner = &*self.inner;
        let mut next_number = numbers.start.max(1);
        let end = numbers.end.min(past.pin.at().page_count() + 1);
        let place = |number| past.newest.partition_point(|entry| entry.number.0 < number);
        let in_wal = &past.newest[place(next_number)..place(end.max(next_number))];
        let mut from_file = vec![0; inner.page_size.as_usize()];
        for batch in in_wal.chunks(READ_PAGES_BATCH) {
            let pages = past.epoch.frames.pages(batch);
            for (number, page) in pages.map_err(|fault| inner.ended(fault))? {
                self.read_file_pages(next_number..number.0, &mut from_file, each)?;
                each(number, &page);
                next_number = number.0 + 1;
            }
        }
        self.read_file_pages(next_number..end, &mut from_file, each)?;
        match past.epoch.is_dead() {
            true => Err(inner.ended(FrameFault::Poisoned)),
            false => Ok(()),
        }
    }

    fn read_file_pages(
        &self,
        numbers: Range<u32>,
        buffer: &mut [u8],
        each: &mut dyn FnMut(PageNumber, &[u8]),
    ) -> Result<(), VfsError> {
        for number in numbers {
            self.inner.read_file_page(PageNumber(number), buffer)?;
            each(PageNumber(number), buffer);
        }
        Ok(())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = self.commit_point();
        formatter
            .debug_struct("Database")
            .field("name", &self.inner.name)
            .field("page_size", &self.inner.page_size.bytes())
            .field("position", &point.position)
            .field("page_count", &point.page_count())
            .finish()
    }
}

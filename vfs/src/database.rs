//! A database: its file, its current epoch, and what of it has committed and been captured.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::creation::page_size_of;
use crate::epoch::Epoch;
use crate::error::VfsError;
use crate::frames::{FrameFault, NewestFrame};
use crate::header::{CommitPoint, IndexHeader, WalPosition};
use crate::page::{PageNumber, PageSize};
use crate::registration::VfsInner;
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
    /// Held through an apply or a roll-back. Lock tables are per epoch, so WRITE alone would not
    /// keep two of them apart. It is taken before `history`, that before `current`, that before
    /// any lock inside an epoch.
    pub(crate) acts: Mutex<()>,
    pub(crate) history: Mutex<History>,
    pub(crate) current: RwLock<Arc<Epoch>>,
    /// How often SQLite asked for recovery, which it never should.
    pub(crate) recovery_requests: AtomicU64,
}

/// What has committed, and what of it was captured.
pub(crate) struct History {
    /// The header of the last commit, and the last one that was captured, applied or rolled back
    /// to.
    pub(crate) committed: IndexHeader,
    pub(crate) captured: IndexHeader,
    /// For each generation that still has commits the frame it began at, ascending; never empty.
    /// It grows by 16 bytes with each roll-back that does not go behind an earlier one.
    generations: Vec<WalPosition>,
}

impl History {
    fn new(header: IndexHeader) -> History {
        History {
            committed: header,
            captured: header,
            generations: vec![WalPosition {
                generation: 1,
                frame: header.max_frame(),
            }],
        }
    }

    /// The number of the epoch that lives now.
    pub(crate) fn generation(&self) -> u64 {
        self.generations.last().map_or(0, |last| last.generation)
    }

    /// The last commit.
    pub(crate) fn commit_point(&self) -> CommitPoint {
        let position = WalPosition {
            generation: self.generation(),
            frame: self.committed.max_frame(),
        };
        CommitPoint {
            position,
            header: self.committed,
        }
    }

    /// Whether the frames up to `position` are those that a reader saw there when it was the end.
    pub(crate) fn contains(&self, position: WalPosition) -> bool {
        let begins = self
            .generations
            .iter()
            .position(|at| at.generation == position.generation);
        begins.is_some_and(|index| {
            let end = self.generations.get(index + 1).map(|next| next.frame);
            let end = end.unwrap_or_else(|| self.committed.max_frame());
            (self.generations[index].frame..=end).contains(&position.frame)
        })
    }

    /// Makes `to`, which the history contains, the last commit and begins a new generation there.
    pub(crate) fn roll_back(&mut self, to: &CommitPoint, generation: u64) {
        self.generations
            .retain(|at| at.generation <= to.position.generation);
        self.generations.push(WalPosition {
            generation,
            frame: to.position.frame,
        });
        self.committed = to.header;
        self.captured = to.header;
    }
}

/// Where each page of a database was as of one commit: see [`Database::past_state`].
pub struct PastState {
    epoch: Arc<Epoch>,
    /// The pages that are in the WAL, by number.
    newest: Vec<NewestFrame>,
    page_count: u32,
}

/// The database file. Nothing writes it.
pub(crate) struct MainFile {
    file: File,
    path: PathBuf,
    /// Its size when it was opened; whole pages, at least one.
    pub(crate) bytes: u64,
}

impl MainFile {
    /// Reads as much as the file has at `offset`, and fills the rest with zeros. Returns the number
    /// of bytes that came from the file.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        into[done..].fill(0);
        Ok(done)
    }
}

impl DatabaseInner {
    /// Opens the file and puts an empty WAL above it.
    pub(crate) fn open(
        vfs: Arc<VfsInner>,
        directory: &Path,
        name: &str,
    ) -> Result<DatabaseInner, VfsError> {
        let path = directory.join(name);
        let io = |operation| {
            let path = path.clone();
            move |source| VfsError::io(operation, &path, source)
        };
        let file = File::open(&path).map_err(io("open"))?;
        let bytes = file.metadata().map_err(io("examine"))?.len();
        let not_a_database = |reason| VfsError::NotADatabase {
            path: path.clone(),
            reason,
        };
        let file = MainFile {
            file,
            path: path.clone(),
            bytes,
        };
        let mut start = [0; 100];
        let found = file.read(0, &mut start).map_err(io("read"))?;
        let page_size = page_size_of(&start[..found]).map_err(not_a_database)?;
        if bytes % u64::from(page_size.bytes()) != 0 {
            return Err(not_a_database("its size is no multiple of its page size"));
        }
        let page_count = u32::try_from(bytes / u64::from(page_size.bytes()))
            .map_err(|_| not_a_database("it has more pages than SQLite can number"))?;
        let header = IndexHeader::empty(page_size, page_count);
        Ok(DatabaseInner {
            vfs,
            name: name.to_owned(),
            page_size,
            file,
            writable: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            acts: Mutex::new(()),
            history: Mutex::new(History::new(header)),
            current: RwLock::new(Arc::new(Epoch::first(page_size, &header))),
            recovery_requests: AtomicU64::new(0),
        })
    }

    /// The epoch that lives now.
    pub(crate) fn epoch(&self) -> Arc<Epoch> {
        read_lock(&self.current).clone()
    }

    /// The fault of a frame store that was asked for frames of its own history.
    pub(crate) fn rolled_back(&self, _fault: FrameFault) -> VfsError {
        VfsError::RolledBack {
            name: self.name.clone(),
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

    /// Hands every page `1..=at.page_count()` as of the commit `at` to `each`, in order. A page
    /// that was never written is zeros. Commits may go on meanwhile; a roll-back ends it with
    /// [`VfsError::RolledBack`], and an `at` that was rolled back is
    /// [`VfsError::UnknownCommitPoint`].
    pub fn read_pages_at(
        &self,
        at: &CommitPoint,
        each: &mut dyn FnMut(PageNumber, &[u8]),
    ) -> Result<(), VfsError> {
        let past = self.past_state(at)?;
        self.read_page_range_at(&past, 1..at.page_count() + 1, each)
    }

    /// Finds where each page was as of the commit `at`, for [`Database::read_page_range_at`]. It
    /// keeps no handle of the database.
    pub fn past_state(&self, at: &CommitPoint) -> Result<PastState, VfsError> {
        let inner = &*self.inner;
        let epoch = {
            let history = lock(&inner.history);
            self.require(&history, at)?;
            inner.epoch()
        };
        let newest = epoch.frames.newest(1, at.position.frame);
        let mut newest = newest.map_err(|fault| inner.rolled_back(fault))?;
        newest.retain(|entry| entry.number.0 <= at.page_count());
        Ok(PastState {
            epoch,
            newest,
            page_count: at.page_count(),
        })
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
        let end = numbers.end.min(past.page_count + 1);
        let place = |number| past.newest.partition_point(|entry| entry.number.0 < number);
        let in_wal = &past.newest[place(next_number)..place(end.max(next_number))];
        let mut from_file = vec![0; inner.page_size.as_usize()];
        for batch in in_wal.chunks(READ_PAGES_BATCH) {
            let pages = past.epoch.frames.pages(batch);
            for (number, page) in pages.map_err(|fault| inner.rolled_back(fault))? {
                self.read_file_pages(next_number..number.0, &mut from_file, each)?;
                each(number, &page);
                next_number = number.0 + 1;
            }
        }
        self.read_file_pages(next_number..end, &mut from_file, each)?;
        match past.epoch.is_dead() {
            true => Err(VfsError::RolledBack {
                name: inner.name.clone(),
            }),
            false => Ok(()),
        }
    }

    /// Fails unless `point` is part of the history.
    pub(crate) fn require(&self, history: &History, point: &CommitPoint) -> Result<(), VfsError> {
        match history.contains(point.position) {
            true => Ok(()),
            false => Err(VfsError::UnknownCommitPoint {
                name: self.inner.name.clone(),
                position: point.position,
            }),
        }
    }

    fn read_file_pages(
        &self,
        numbers: std::ops::Range<u32>,
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

impl DatabaseInner {
    /// Reads one page of the database file; zeros if the file ends before it.
    pub(crate) fn read_file_page(
        &self,
        number: PageNumber,
        into: &mut [u8],
    ) -> Result<(), VfsError> {
        let offset = u64::from(number.0 - 1) * u64::from(self.page_size.bytes());
        self.file
            .read(offset, into)
            .map_err(|source| VfsError::io("read", &self.file.path, source))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn point(generation: u64, frame: u32) -> CommitPoint {
        let header = IndexHeader::empty(PageSize::DEFAULT, 1).next_commit(frame, 1);
        CommitPoint {
            position: WalPosition { generation, frame },
            header,
        }
    }

    #[test]
    fn a_history_knows_what_was_rolled_back() {
        let mut history = History::new(IndexHeader::empty(PageSize::DEFAULT, 1));
        history.committed = point(1, 20).header;
        assert!(history.contains(point(1, 20).position));
        assert!(!history.contains(point(1, 21).position));
        assert!(!history.contains(point(2, 5).position));

        history.roll_back(&point(1, 10), 2);
        assert!(
            history.contains(point(1, 10).position) && !history.contains(point(1, 11).position)
        );
        history.committed = point(2, 15).header;
        assert!(history.contains(point(2, 15).position) && !history.contains(point(2, 9).position));

        history.roll_back(&point(1, 4), 3);
        assert!(!history.contains(point(2, 10).position));
        assert_eq!(history.commit_point().position, point(3, 4).position);
        assert!(history.contains(point(1, 4).position) && !history.contains(point(1, 5).position));
    }
}

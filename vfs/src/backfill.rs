//! Backfill: committed frames moved from the WAL into the database file. SQLite calls its own way of
//! doing so a checkpoint.
//!
//! Why readers may go on meanwhile: a backfill up to frame M begins when no read transaction of
//! either view has a snapshot below M (but for those whose mark bounds M) and none reads the file
//! alone, because READ(0) is taken. By then both views end at M or later. Whoever begins to read later sees M or more, finds every page that is being
//! written in the WAL, and so reads from the file only pages that are not touched. When all of them
//! are written, `nBackfill` tells later readers to take them from the file.

use std::fmt;
use std::sync::Arc;

use crate::database::{Database, DatabaseInner};
use crate::epoch::Epoch;
use crate::error::VfsError;
use crate::frames::{FrameFault, FrameStore, NewestFrame};
use crate::header::CommitPoint;
use crate::lock;
use crate::locks::{CHECKPOINT, READ_FIRST};

/// A backfill in progress: [`write_slice`](Backfill::write_slice) until nothing is left,
/// [`publish`](Backfill::publish), [`sync`](Backfill::sync). Made by [`Database::begin_backfill`].
///
/// It may move to another thread, and writing and syncing, which block, should be done there. Dropped
/// before it is published it ends without effect for readers; the file then holds some newer pages,
/// which the WAL still has.
#[must_use]
pub struct Backfill {
    database: Arc<DatabaseInner>,
    end: CommitPoint,
    /// The last frame that an earlier backfill has moved.
    backfilled: u32,
    stage: Stage,
}

enum Stage {
    /// Nothing was looked up yet.
    Begun,
    /// The first `written` of these frames are in the file.
    Writing {
        newest: Vec<NewestFrame>,
        written: usize,
    },
    /// The file is the database as of the end.
    Written,
    /// Readers know, and no slot is held any more.
    Published,
}

impl Database {
    /// Begins to move committed frames into the file, up to the newest of `ends` that no reader and
    /// no [`Pin`](crate::Pin) stands in the way of. None if there is nothing to move now: nothing
    /// new, a reader in the way, or another backfill of this database in progress.
    ///
    /// `ends` are ascending commit points at which entries end. The caller promises that each is
    /// committed and durable in this node's own log, and that the newest was made durable as the
    /// `target` of the file before. Ends before the last restart of the WAL are ignored; one that
    /// was rolled back is [`VfsError::UnknownCommitPoint`].
    pub fn begin_backfill(&self, ends: &[CommitPoint]) -> Result<Option<Backfill>, VfsError> {
        let inner = &*self.inner;
        let _act = lock(&inner.acts);
        let history = lock(&inner.history);
        inner.require_present()?;
        let mut frames = Vec::with_capacity(ends.len());
        for end in ends {
            if !history.is_before_restart(end.position) {
                frames.push((inner.require(&history, end)?.position.frame, end));
            }
        }
        let epoch = inner.epoch();
        let backfilled = epoch.live.index.backfilled();
        let Some((newest, last)) = frames.last().filter(|(frame, _)| *frame > backfilled) else {
            return Ok(None);
        };
        if !epoch.live.locks.take_for_backfill(CHECKPOINT) {
            return Ok(None);
        }
        // Whoever begins to read from now on needs no page of the file that is to be written.
        epoch.show_committed(&last.header);
        let safe = epoch.safe_frame(*newest);
        let safe = history.oldest_pin().unwrap_or(safe).min(safe);
        // A backfill that was given up may have left pages of newer frames in the file. It is not
        // the database as of any commit until one goes as far.
        let least = (backfilled + 1).max(epoch.live.index.backfill_attempted());
        let end = frames.into_iter().rev().find(|(frame, _)| *frame <= safe);
        let end = end.filter(|(frame, _)| *frame >= least);
        match end {
            Some((frame, end)) if epoch.take_file_for_backfill() => {
                epoch.live.index.set_backfill_attempted(frame);
                Ok(Some(Backfill {
                    database: self.inner.clone(),
                    end: *end,
                    backfilled,
                    stage: Stage::Begun,
                }))
            }
            _ => {
                epoch.live.locks.release_exclusive(CHECKPOINT);
                Ok(None)
            }
        }
    }

    /// Makes durable what backfills have written; blocks until the disk has it. See
    /// [`Backfill::sync`].
    pub fn sync_file(&self) -> Result<(), VfsError> {
        self.inner.file.sync()
    }

    /// How many of the frames of [`wal_frames`](Database::wal_frames) the file has too (`nBackfill`
    /// in walformat.html).
    pub fn backfilled_frames(&self) -> u32 {
        self.inner.epoch().live.index.backfilled()
    }
}

impl Backfill {
    /// The commit that the file will hold: one of the ends that were given.
    pub fn end(&self) -> &CommitPoint {
        &self.end
    }

    /// Writes up to `pages_max` more pages into the file (at least one if there is any), each as of
    /// the end. True while there is more to write. With the last slice the file gets the size of
    /// the database as of the end.
    ///
    /// Fails with what the file system says, or with [`VfsError::Removed`]. The WAL and the log still
    /// have every page then, so that the slice may be tried again, as when a disk was full.
    pub fn write_slice(&mut self, pages_max: usize) -> Result<bool, VfsError> {
        let page_count = self.end.page_count();
        if let Stage::Begun = self.stage {
            let (first, last) = (self.backfilled + 1, self.end.position.frame);
            let mut newest = self.look_up(|frames| frames.newest(first, last))?;
            newest.retain(|entry| entry.number.0 <= page_count);
            self.stage = Stage::Writing { newest, written: 0 };
        }
        let Stage::Writing { newest, written } = &self.stage else {
            return Ok(false);
        };
        let slice = written + pages_max.max(1).min(newest.len() - written);
        let pages = self.look_up(|frames| frames.pages(&newest[*written..slice]))?;
        for (number, page) in &pages {
            self.database.file.write_page(*number, page)?;
        }
        let more = slice < newest.len();
        if !more {
            self.database.file.resize(page_count)?;
            self.stage = Stage::Written;
        } else if let Stage::Writing { written, .. } = &mut self.stage {
            *written = slice;
        }
        Ok(more)
    }

    /// Tells readers that the file has the frames, and gives the slots back: later readers use the
    /// file, and the WAL can be restarted. It does not block, and a second call does nothing.
    ///
    /// It may come before or after [`sync`](Backfill::sync), because readers see the page cache.
    /// Before is better: the WAL does not grow while the disk works. But the log may be cut only
    /// after the sync.
    ///
    /// # Panics
    ///
    /// If pages are left to write: readers would find old ones in the file.
    pub fn publish(&mut self) {
        match self.stage {
            Stage::Published => return,
            Stage::Written => {}
            _ => panic!("a backfill was published before it was written"),
        }
        let _act = lock(&self.database.acts);
        let epoch = self.database.epoch();
        epoch.set_backfilled(self.end.position.frame);
        epoch.release_backfill();
        self.stage = Stage::Published;
    }

    /// Makes what was written durable; blocks until the disk has it. Only then may the end be made
    /// durable as what is `applied`. A sync that failed must not be tried again: the system may have
    /// forgotten the pages that it could not write.
    pub fn sync(&self) -> Result<(), VfsError> {
        self.database.file.sync()
    }

    /// Looks frames up in the epoch that lives now. A roll-back takes them along to the next one,
    /// with their numbers.
    fn look_up<T>(
        &self,
        frames: impl Fn(&FrameStore) -> Result<T, FrameFault>,
    ) -> Result<T, VfsError> {
        loop {
            let epoch = self.database.epoch();
            match frames(&epoch.frames) {
                Ok(found) => return Ok(found),
                Err(FrameFault::Poisoned) => self.database.require_present()?,
                Err(fault) => {
                    unreachable!("committed frames are in the living epoch ({fault:?})")
                }
            }
        }
    }
}

impl Epoch {
    /// Takes READ(0) of both views; false if anybody reads the file alone.
    fn take_file_for_backfill(&self) -> bool {
        if !self.live.locks.take_for_backfill(READ_FIRST) {
            return false;
        }
        let taken = self.committed.locks.take_for_backfill(READ_FIRST);
        if !taken {
            self.live.locks.release_exclusive(READ_FIRST);
        }
        taken
    }

    fn set_backfilled(&self, frame: u32) {
        self.live.index.set_backfilled(frame);
        self.committed.index.set_backfilled(frame);
    }

    fn release_backfill(&self) {
        self.committed.locks.release_exclusive(READ_FIRST);
        self.live.locks.release_exclusive(READ_FIRST);
        self.live.locks.release_exclusive(CHECKPOINT);
    }
}

impl Drop for Backfill {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Published) {
            let _act = lock(&self.database.acts);
            self.database.epoch().release_backfill();
        }
    }
}

impl fmt::Debug for Backfill {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Backfill")
            .field("database", &self.database.name)
            .field("backfilled", &self.backfilled)
            .field("end", &self.end.position)
            .finish_non_exhaustive()
    }
}

//! Repair: pages of a database file that the disk has changed are put back as another replica has
//! them.
//!
//! Which image is the right one? The file has a page as it was at the last backfill, and as long as
//! no later frame holds an image of the page, every state since then has it like that. So the state of
//! another replica at any entry has it too, if that entry is not before the check and has been applied
//! here by the time of the repair, and still no frame holds the page. A page that a frame does hold is
//! written anew by the next backfill. Nobody writes the page in between: backfills end at a pin.

use std::fmt;
use std::ops::Range;

use crate::database::Database;
use crate::error::VfsError;
use crate::frames::{FrameFault, NewestFrame};
use crate::page::PageNumber;
use crate::snapshot::Pin;
use crate::{lock, main_file};

/// What is wrong with a part of a database file, and the right to put it right: see
/// [`Pin::check_file`]. As long as it lives the WAL is not restarted.
#[must_use]
pub struct FileCheck {
    /// Keeps backfills from writing pages that have no frame yet.
    pin: Pin,
    /// The file had the frames up to here.
    backfilled: u32,
    damaged: Vec<PageNumber>,
    next: u32,
}

impl Pin {
    /// Reads the pages `numbers` of the file, as far as the database goes as of the pinned commit, and
    /// finds those that are not what was written, or that the disk cannot read; no more than
    /// `damaged_max`. Pages of which the WAL has newer images are left out. It blocks.
    ///
    /// Fails with [`VfsError::Removed`], or with what the file system says.
    pub fn check_file(
        self,
        numbers: Range<u32>,
        damaged_max: usize,
    ) -> Result<FileCheck, VfsError> {
        let page_count = self.at().page_count();
        let database = self.database.clone();
        let mut check = FileCheck {
            pin: self,
            backfilled: database.backfilled_frames(),
            damaged: Vec::new(),
            next: numbers.start.max(1),
        };
        let changed = check.changed_since()?;
        let mut page = vec![0; database.page_size().as_usize()];
        while check.next < numbers.end.min(page_count.saturating_add(1))
            && check.damaged.len() < damaged_max
        {
            let number = PageNumber(check.next);
            check.next += 1;
            if has(&changed, number) {
                continue;
            }
            match database.inner.file.read_page(number, &mut page) {
                Err(error) if main_file::is_damage(&error) => check.damaged.push(number),
                read => drop(read?),
            }
        }
        if check.next > page_count {
            check.next = u32::MAX;
        }
        Ok(check)
    }
}

impl Database {
    /// Everything in the file was looked at and is right: [`Database::damage`] tells of what is found
    /// from now on.
    pub fn forget_damage(&self) {
        self.inner.forget_damage();
    }
}

impl FileCheck {
    /// The pages that are damaged, in order.
    pub fn damaged(&self) -> &[PageNumber] {
        &self.damaged
    }

    /// The first page that was not looked at; `None`: there is none.
    pub fn next(&self) -> Option<u32> {
        (self.next != u32::MAX).then_some(self.next)
    }

    /// Puts damaged pages back, durably, and returns how many. Of `pages`, those are left out that
    /// were not found damaged, and those of which the WAL has an image by now. It blocks.
    ///
    /// The caller promises that the images are those of the database at one entry, that everything in
    /// the pinned commit is in that entry or before it, and that it has been applied here.
    ///
    /// Fails with [`VfsError::InvalidPages`] if an image has another size than a page, with
    /// [`VfsError::Removed`], or with what the file system says.
    pub fn repair(&self, pages: &[(PageNumber, &[u8])]) -> Result<usize, VfsError> {
        let changed = self.changed_since()?;
        let inner = &*self.pin.database.inner;
        let mut repaired = 0;
        for (number, page) in pages {
            if page.len() != inner.page_size.as_usize() {
                return Err(VfsError::InvalidPages {
                    name: inner.name.clone(),
                    page: number.0,
                    reason: "has not the size of a page",
                });
            }
            if self.damaged.contains(number) && !has(&changed, *number) {
                inner.file.write_page(*number, page)?;
                repaired += 1;
            }
        }
        inner.file.sync()?;
        Ok(repaired)
    }

    /// The pages of which there is an image that the file had not at the time of the check.
    fn changed_since(&self) -> Result<Vec<NewestFrame>, VfsError> {
        let inner = &*self.pin.database.inner;
        loop {
            let history = lock(&inner.history);
            inner.require_present()?;
            let (epoch, last) = (inner.epoch(), history.committed.max_frame());
            drop(history);
            match epoch.frames.newest(self.backfilled + 1, last) {
                Ok(found) => return Ok(found),
                // A roll-back came in between, and has taken the frames along to the next epoch.
                Err(FrameFault::Poisoned) => {}
                Err(fault) => unreachable!("committed frames are in the living epoch ({fault:?})"),
            }
        }
    }
}

fn has(frames: &[NewestFrame], number: PageNumber) -> bool {
    let found = frames.binary_search_by_key(&number.0, |entry| entry.number.0);
    found.is_ok()
}

impl fmt::Debug for FileCheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FileCheck")
            .field("database", &self.pin.database.name())
            .field("damaged", &self.damaged)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

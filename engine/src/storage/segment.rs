//! Segments: the log's files, written with zeros ahead of use so that an append changes no
//! metadata (an unwritten extent would cost a journal commit at each durable write).
//!
//! A segment that the log was cut behind is used again: under a new number, and zeroed like a fresh
//! one, so that no record of its earlier life is there when it gets its name.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use glommio::io::{DmaFile, OpenOptions};

use super::StorageError;
use super::durable::DurableFile;

/// The size of a segment unless told.
pub(crate) const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Zeros are written in slices of this size, so that they do not stand long in the way.
const ZERO_SLICE_BYTES: u64 = 256 << 10;
/// Zeroed segments kept ready, besides the one that is being zeroed.
const RESERVE_SEGMENTS: usize = 1;
/// Old segments kept for being used again; what exceeds them is removed.
const OLD_SEGMENTS_MAX: usize = 2;

const SUFFIX: &str = ".seg";
const UNFINISHED_SUFFIX: &str = ".new";
/// A segment that a new log begins with, until the manifest says so.
const STAGED_SUFFIX: &str = ".base";

/// The file of a segment.
pub(super) fn path_in(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}{SUFFIX}"))
}

/// The file of a segment that is no part of the log unless the manifest names it.
pub(super) fn staged_path_in(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}{STAGED_SUFFIX}"))
}

/// Takes a segment out of the log, durably, until [`settle`] puts it back.
pub(super) async fn stage(directory: &Path, number: u64) -> Result<(), StorageError> {
    rename(
        &path_in(directory, number),
        &staged_path_in(directory, number),
    )?;
    sync_names(directory).await
}

/// The manifest that says that the log begins with this segment is durable: it is a part of the log.
pub(super) async fn unstage(directory: &Path, number: u64) -> Result<(), StorageError> {
    rename(
        &staged_path_in(directory, number),
        &path_in(directory, number),
    )?;
    sync_names(directory).await
}

/// Finishes at a start what a crash has interrupted: a staged segment is the one that the manifest
/// names, `first`, or is removed.
pub(super) fn settle(directory: &Path, first: u64) -> Result<(), StorageError> {
    let failed = |source| StorageError::io("read", directory, source);
    for file in std::fs::read_dir(directory).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        if path.extension() != Some(OsStr::new(&STAGED_SUFFIX[1..])) {
            continue;
        }
        if path == staged_path_in(directory, first) {
            rename(&path, &path_in(directory, first))?;
        } else {
            std::fs::remove_file(&path)
                .map_err(|source| StorageError::io("remove", &path, source))?;
        }
        std::fs::File::open(directory)
            .and_then(|names| names.sync_all())
            .map_err(|source| StorageError::io("sync", directory, source))?;
    }
    Ok(())
}

async fn sync_names(directory: &Path) -> Result<(), StorageError> {
    let names = glommio::io::Directory::open(directory)
        .await
        .map_err(|source| StorageError::glommio("open", directory, source))?;
    names
        .sync()
        .await
        .map_err(|source| StorageError::glommio("sync", directory, source))
}

/// The numbers of all segments, ascending.
pub(super) fn numbers_in(directory: &Path) -> Result<Vec<u64>, StorageError> {
    let names = names_in(directory)?;
    let numbers = names.iter().filter_map(|name| name.strip_suffix(SUFFIX));
    let numbers = numbers.filter_map(|number| u64::from_str_radix(number, 16).ok());
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes segments whose zeroing a crash has cut short.
pub(super) fn remove_unfinished(directory: &Path) -> Result<(), StorageError> {
    for name in names_in(directory)? {
        if name.ends_with(UNFINISHED_SUFFIX) {
            let path = directory.join(&name);
            std::fs::remove_file(&path)
                .map_err(|source| StorageError::io("remove", &path, source))?;
        }
    }
    Ok(())
}

fn names_in(directory: &Path) -> Result<Vec<String>, StorageError> {
    let failed = |source| StorageError::io("read", directory, source);
    let mut names = Vec::new();
    for file in std::fs::read_dir(directory).map_err(failed)? {
        let name = file.map_err(failed)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Makes a segment of these bytes, durably.
pub(super) fn make(directory: &Path, number: u64, bytes: &[u8]) -> Result<(), StorageError> {
    let path = path_in(directory, number);
    let unfinished = path.with_extension(&UNFINISHED_SUFFIX[1..]);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().map_err(|source| StorageError::io("write", &path, source))
}

/// A zeroed segment that nothing was written to yet.
pub(super) struct FreshSegment {
    pub(super) number: u64,
    pub(super) file: DurableFile,
}

/// The numbers of segments that wait for being used again.
type Old = Rc<RefCell<VecDeque<u64>>>;

/// Makes segments ahead of their use.
pub(super) struct SegmentReserve {
    directory: PathBuf,
    old: Old,
    ready: LocalReceiver<Result<FreshSegment, StorageError>>,
}

impl SegmentReserve {
    /// Starts to zero segments from `first` on.
    pub(super) fn start(directory: PathBuf, first: u64, segment_bytes: u64) -> Self {
        let (sender, ready) = local_channel::new_bounded(RESERVE_SEGMENTS);
        let old = Old::default();
        let maker = Maker {
            directory: directory.clone(),
            segment_bytes,
            old: Rc::clone(&old),
        };
        glommio::spawn_local(maker.make_for_ever(first, sender)).detach();
        Self {
            directory,
            old,
            ready,
        }
    }

    /// Takes a segment that is no part of the log any more, to use it again.
    pub(super) fn recycle(&self, number: u64) {
        let mut old = self.old.borrow_mut();
        if old.len() < OLD_SEGMENTS_MAX {
            old.push_back(number);
            return;
        }
        let path = path_in(&self.directory, number);
        glommio::spawn_local(async move {
            // On a helper's thread, perhaps after the end of this life: no segment ever gets the
            // number again, and the next start removes what is left.
            if let Err(error) = glommio::io::remove(&path).await {
                tracing::warn!("cannot remove the old segment {}: {error}", path.display());
            }
        })
        .detach();
    }

    /// The next segment; waits if none is ready yet.
    pub(super) async fn take(&self) -> Result<FreshSegment, StorageError> {
        self.ready.recv().await.unwrap_or_else(|| {
            Err(StorageError::io(
                "make a segment in",
                Path::new("the log"),
                std::io::ErrorKind::BrokenPipe.into(),
            ))
        })
    }
}

/// Makes segments, as long as somebody takes them.
struct Maker {
    directory: PathBuf,
    segment_bytes: u64,
    old: Old,
}

impl Maker {
    async fn make_for_ever(
        self,
        first: u64,
        sender: LocalSender<Result<FreshSegment, StorageError>>,
    ) {
        for number in first.. {
            let made = self.make(number).await;
            let failed = made.is_err();
            if sender.send(made).await.is_err() || failed {
                return;
            }
        }
    }

    /// Zeroes a segment under another name, so that a segment by its own name is whole.
    async fn make(&self, number: u64) -> Result<FreshSegment, StorageError> {
        let path = path_in(&self.directory, number);
        let unfinished = path.with_extension(&UNFINISHED_SUFFIX[1..]);
        let file = self.old_or_new(&unfinished).await?;
        self.zero(&file, &unfinished).await?;
        file.close()
            .await
            .map_err(|source| StorageError::glommio("close", &unfinished, source))?;
        rename(&unfinished, &path)?;
        sync_names(&self.directory).await?;
        let file = DurableFile::open(&path).await?;
        Ok(FreshSegment { number, file })
    }

    /// A file of any content by the name `unfinished`: an old segment if there is one.
    async fn old_or_new(&self, unfinished: &Path) -> Result<DmaFile, StorageError> {
        let failed = |source| StorageError::glommio("make", unfinished, source);
        let old = self.old.borrow_mut().pop_front();
        let Some(old) = old else {
            return DmaFile::create(unfinished).await.map_err(failed);
        };
        rename(&path_in(&self.directory, old), unfinished)?;
        let file = OpenOptions::new().write(true).dma_open(unfinished).await;
        let file = file.map_err(failed)?;
        // An earlier life may have had segments of another size.
        if file.file_size().await.map_err(failed)? > self.segment_bytes {
            file.truncate(self.segment_bytes).await.map_err(failed)?;
        }
        Ok(file)
    }

    async fn zero(&self, file: &DmaFile, path: &Path) -> Result<(), StorageError> {
        let failed = |source| StorageError::glommio("zero", path, source);
        let mut at = 0;
        while at < self.segment_bytes {
            let slice = ZERO_SLICE_BYTES.min(self.segment_bytes - at);
            let mut zeros = file.alloc_dma_buffer(slice as usize);
            zeros.as_bytes_mut().fill(0);
            let written = file.write_at(zeros, at).await.map_err(failed)?;
            if written as u64 != slice {
                return Err(StorageError::ShortWrite {
                    path: path.to_owned(),
                    written,
                    expected: slice as usize,
                });
            }
            at += slice;
        }
        file.fdatasync().await.map_err(failed)
    }
}

/// On this thread: one on a helper's could come after the end of the executor, when another life
/// has a file by that name.
fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    std::fs::rename(from, to).map_err(|source| StorageError::io("rename", from, source))
}

/// Removes a segment; it is no error if it is gone.
pub(super) fn remove(directory: &Path, number: u64) -> Result<(), StorageError> {
    let path = path_in(directory, number);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", &path, source))
        }
        _ => Ok(()),
    }
}

//! Segments: the log's files, written with zeros ahead of use so that an append changes no
//! metadata (an unwritten extent would cost a journal commit at each durable write).

use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use glommio::io::{DmaFile, OpenOptions};
use rustix::fs::OFlags;

use super::StorageError;

/// The size of a segment unless told.
pub(crate) const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Zeros are written in slices of this size, so that they do not stand long in the way.
const ZERO_SLICE_BYTES: u64 = 256 << 10;
/// Zeroed segments kept ready, besides the one that is being zeroed.
const RESERVE_SEGMENTS: usize = 1;

const SUFFIX: &str = ".seg";
const UNFINISHED_SUFFIX: &str = ".new";

/// The file of a segment.
pub(super) fn path_in(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}{SUFFIX}"))
}

/// The numbers of all segments, ascending. Segments whose zeroing a crash has cut short are
/// removed.
pub(super) fn numbers_in(directory: &Path) -> Result<Vec<u64>, StorageError> {
    let failed = |source| StorageError::io("read", directory, source);
    let mut numbers = Vec::new();
    for file in std::fs::read_dir(directory).map_err(failed)? {
        let name = file.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(UNFINISHED_SUFFIX) {
            let path = directory.join(&*name);
            std::fs::remove_file(&path)
                .map_err(|source| StorageError::io("remove", &path, source))?;
        } else if let Some(number) = name.strip_suffix(SUFFIX) {
            numbers.extend(u64::from_str_radix(number, 16));
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A zeroed segment that nothing was written to yet.
pub(super) struct FreshSegment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Rc<DmaFile>,
}

/// Makes segments ahead of their use.
pub(super) struct SegmentReserve {
    ready: LocalReceiver<Result<FreshSegment, StorageError>>,
}

impl SegmentReserve {
    /// Starts to zero segments from `first` on.
    pub(super) fn start(directory: PathBuf, first: u64, segment_bytes: u64) -> Self {
        let (sender, ready) = local_channel::new_bounded(RESERVE_SEGMENTS);
        glommio::spawn_local(make_for_ever(directory, first, segment_bytes, sender)).detach();
        Self { ready }
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

async fn make_for_ever(
    directory: PathBuf,
    first: u64,
    segment_bytes: u64,
    sender: LocalSender<Result<FreshSegment, StorageError>>,
) {
    for number in first.. {
        let made = make(&directory, number, segment_bytes).await;
        let failed = made.is_err();
        if sender.send(made).await.is_err() || failed {
            return;
        }
    }
}

/// Zeroes a segment under another name, so that a segment by its own name is whole.
async fn make(
    directory: &Path,
    number: u64,
    segment_bytes: u64,
) -> Result<FreshSegment, StorageError> {
    let path = path_in(directory, number);
    let unfinished = path.with_extension(&UNFINISHED_SUFFIX[1..]);
    let failed = |source| StorageError::glommio("zero", &unfinished, source);
    let file = DmaFile::create(&unfinished).await.map_err(failed)?;
    let mut at = 0;
    while at < segment_bytes {
        let slice = ZERO_SLICE_BYTES.min(segment_bytes - at);
        let mut zeros = file.alloc_dma_buffer(slice as usize);
        zeros.as_bytes_mut().fill(0);
        let written = file.write_at(zeros, at).await.map_err(failed)?;
        if written as u64 != slice {
            return Err(StorageError::ShortWrite {
                path: unfinished,
                written,
                expected: slice as usize,
            });
        }
        at += slice;
    }
    file.fdatasync().await.map_err(failed)?;
    file.close().await.map_err(failed)?;
    std::fs::rename(&unfinished, &path)
        .map_err(|source| StorageError::io("rename", &unfinished, source))?;
    let names = glommio::io::Directory::open(directory)
        .await
        .map_err(|source| StorageError::glommio("open", directory, source))?;
    names
        .sync()
        .await
        .map_err(|source| StorageError::glommio("sync", directory, source))?;
    let file = open_durable(&path).await?;
    Ok(FreshSegment {
        number,
        path,
        file: Rc::new(file),
    })
}

/// Opens a file so that each write has reached stable storage when it completes.
pub(super) async fn open_durable(path: &Path) -> Result<DmaFile, StorageError> {
    OpenOptions::new()
        .write(true)
        .custom_flags(i32::try_from(OFlags::DSYNC.bits()).unwrap_or(0))
        .dma_open(path)
        .await
        .map_err(|source| StorageError::glommio("open", path, source))
}

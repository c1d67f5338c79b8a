//! A database file that arrives in pieces, kept where nothing sees it until it is whole.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use ringlite_vfs::{PageSumsBuilder, VfsError};

use super::mark;
use crate::database_file;
use crate::replica::DatabaseId;
use crate::replica::payload::RestoreId;

/// What the files are called until they are databases.
const PREFIX: &str = "restore-";
/// Pieces on the way to the disk. Whoever sends a file waits while there are any (see
/// [`RestoreFile::has_queued`]), so that there are more only on a follower whose disk is slower than
/// its log and the leader's disk are; the last resort is that it waits with all that it does.
const PIECES_QUEUED_MAX: usize = 64;
/// Bytes that the system may keep to itself, so that the last sync is a short one.
const UNSYNCED_BYTES_MAX: usize = 4 << 20;

/// A file on its way in. Dropping it removes the file.
///
/// A thread of its own writes and syncs, so that the shard's core waits only for the last few
/// megabytes at the end.
pub(super) struct RestoreFile {
    path: PathBuf,
    /// None once everything has arrived.
    pieces: Option<SyncSender<Bytes>>,
    writer: Option<JoinHandle<io::Result<PageSumsBuilder>>>,
    /// How many pieces are on the way.
    queued: Arc<AtomicUsize>,
}

impl RestoreFile {
    /// A new, empty file in `directory`. One that an earlier life has left is overwritten.
    pub(super) fn create(directory: &Path, restore: RestoreId) -> Result<Self, VfsError> {
        let path = directory.join(format!("{PREFIX}{}", restore.0.0));
        let file = File::create(&path).map_err(io_error("create", &path))?;
        let (pieces, incoming) = sync_channel(PIECES_QUEUED_MAX);
        let queued = Arc::new(AtomicUsize::new(0));
        let writer = std::thread::Builder::new()
            .name("ringlite-restore".into())
            .spawn({
                let queued = Arc::clone(&queued);
                move || write_all(file, &incoming, &queued)
            })
            .map_err(io_error("start a thread for", &path))?;
        Ok(Self {
            path,
            pieces: Some(pieces),
            writer: Some(writer),
            queued,
        })
    }

    /// Appends to the file.
    pub(super) fn write(&self, bytes: Bytes) {
        // A writer that has failed says so in the end; until then the restore may yet be aborted.
        if let Some(pieces) = &self.pieces {
            self.queued.fetch_add(1, Ordering::Relaxed);
            let _ = pieces.send(bytes);
        }
    }

    /// Whether something is on the way to the disk. A writer that has failed has nothing.
    pub(super) fn has_queued(&self) -> bool {
        let is_writing = self
            .writer
            .as_ref()
            .is_some_and(|writer| !writer.is_finished());
        is_writing && self.queued.load(Ordering::Relaxed) > 0
    }

    /// Makes the file, which is whole, the database file `name` in `directory`, which must be free,
    /// and gives it its checksums. Durable on return.
    pub(super) fn finish(
        mut self,
        directory: &Path,
        name: &str,
        id: DatabaseId,
    ) -> Result<(), VfsError> {
        self.pieces = None;
        if let Some(writer) = self.writer.take() {
            let written = writer
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("its thread has panicked")));
            let sums = written.map_err(io_error("write", &self.path))?;
            let mark = || {
                let file = File::open(&self.path)?;
                mark::set(&file, id)?;
                file.sync_all()
            };
            mark().map_err(io_error("mark", &self.path))?;
            sums.install(directory, name)?;
        }
        std::fs::rename(&self.path, directory.join(name))
            .map_err(io_error("rename", &self.path))?;
        super::sync_directory(directory)
    }
}

impl Drop for RestoreFile {
    fn drop(&mut self) {
        // It is not there any more after `finish`. What is left otherwise goes at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn write_all(
    mut file: File,
    pieces: &Receiver<Bytes>,
    queued: &AtomicUsize,
) -> io::Result<PageSumsBuilder> {
    let mut unsynced_bytes = 0;
    let mut sums = None;
    while let Ok(bytes) = pieces.recv() {
        let sums = sums.get_or_insert_with(|| {
            // The leader has checked the first piece before it went into the log.
            PageSumsBuilder::new(database_file::page_size(&bytes).unwrap_or_default())
        });
        sums.update(&bytes);
        file.write_all(&bytes)?;
        unsynced_bytes += bytes.len();
        if unsynced_bytes > UNSYNCED_BYTES_MAX {
            file.sync_data()?;
            unsynced_bytes = 0;
        }
        queued.fetch_sub(1, Ordering::Relaxed);
    }
    file.sync_all()?;
    sums.ok_or_else(|| io::Error::other("nothing has arrived"))
}

/// Removes what restores of an earlier life have left in `directory`.
pub(super) fn remove_leftovers(directory: &Path) -> Result<(), VfsError> {
    super::remove_files(directory, |name| name.starts_with(PREFIX))
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VfsError {
    let path = path.to_owned();
    move |source| VfsError::Io {
        operation,
        path,
        source,
    }
}

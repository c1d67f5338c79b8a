//! A file whose writes have reached stable storage when they complete.

use std::path::{Path, PathBuf};

use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use rustix::fs::OFlags;

use super::StorageError;

/// A file that is written directly (O_DIRECT) and durably (O_DSYNC).
pub(super) struct DurableFile {
    path: PathBuf,
    file: DmaFile,
}

impl DurableFile {
    /// Opens a file that exists.
    pub(super) async fn open(path: &Path) -> Result<Self, StorageError> {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(i32::try_from(OFlags::DSYNC.bits()).unwrap_or(0))
            .dma_open(path)
            .await
            .map_err(|source| StorageError::glommio("open", path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// A buffer for a write; a multiple of the block size long.
    pub(super) fn buffer(&self, bytes: usize) -> DmaBuffer {
        self.file.alloc_dma_buffer(bytes)
    }

    /// Writes a whole buffer. It is on stable storage when this returns.
    ///
    /// # Errors
    /// If the write failed or was cut short. What is on the disk is unknown then; it must not be
    /// tried again, as a later success would prove nothing.
    pub(super) async fn write(&self, buffer: DmaBuffer, at: u64) -> Result<(), StorageError> {
        let expected = buffer.len();
        match self.file.write_at(buffer, at).await {
            Ok(written) if written == expected => Ok(()),
            Ok(written) => Err(StorageError::ShortWrite {
                path: self.path.clone(),
                written,
                expected,
            }),
            Err(source) => Err(StorageError::glommio("write", &self.path, source)),
        }
    }
}

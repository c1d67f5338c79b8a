//! The log writer's own io_uring: one direct, durable write at a time, waited for on the spot.
//!
//! glommio spends eight to eleven `io_uring_enter` calls and a `membarrier` on each time that it
//! sleeps and wakes, which is more than the write itself costs. Here a write is one call, and its
//! completion needs no wake-up, which takes a quarter of a leader's and half of a follower's wake-ups
//! out of a commit. The wait is in the kernel, so that the worker that finishes the flush on this
//! core is not starved. It is bounded: the completion of a slow write is looked for by a timer, so
//! that a slow disk does not stop the shard.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use ringlite_raft::RECORD_ALIGN;
use rustix::fs::OFlags;

use super::StorageError;

/// A healthy write is waited for on the spot; its 99.9th percentile is below this.
const PATIENCE: Duration = Duration::from_millis(1);
/// How often the completion of a slow write is looked for.
const SLOW_WRITE_INTERVAL: Duration = Duration::from_micros(200);
const QUEUE_ENTRIES: u32 = 8;

/// A file whose writes go past the page cache and are on stable storage when they complete.
pub(super) struct DurableFile {
    file: File,
    path: PathBuf,
}

impl DurableFile {
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
        let file = File::options()
            .write(true)
            .custom_flags(flags.cast_signed())
            .open(path)
            .map_err(|source| StorageError::io("open", path, source))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }
}

/// Memory that direct writes take: aligned, reused, and never moved while a write is in flight.
#[derive(Default)]
pub(super) struct AlignedBuffer {
    memory: Vec<u8>,
    bytes: usize,
}

impl AlignedBuffer {
    /// Makes room for `bytes`; their content is left from before.
    pub(super) fn resize(&mut self, bytes: usize) -> &mut [u8] {
        if self.memory.len() < bytes + RECORD_ALIGN {
            self.memory = vec![0; (bytes + RECORD_ALIGN).next_power_of_two()];
        }
        self.bytes = bytes;
        self.content_mut()
    }

    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(RECORD_ALIGN)
    }

    fn content_mut(&mut self) -> &mut [u8] {
        let start = self.start();
        &mut self.memory[start..start + self.bytes]
    }

    fn content(&self) -> &[u8] {
        let start = self.start();
        &self.memory[start..start + self.bytes]
    }
}

/// The ring, with the buffer of its one write.
pub(super) struct WriteRing {
    ring: IoUring,
    buffer: AlignedBuffer,
    in_flight: bool,
}

impl WriteRing {
    /// A ring for the thread that calls.
    pub(super) fn new() -> Result<Self, StorageError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(QUEUE_ENTRIES)
            // Kernels before 6.1 know neither.
            .or_else(|_| IoUring::new(QUEUE_ENTRIES))
            .map_err(|source| {
                StorageError::io("make an io_uring for", Path::new("the log"), source)
            })?;
        Ok(Self {
            ring,
            buffer: AlignedBuffer::default(),
            in_flight: false,
        })
    }

    /// The memory that the next write takes its bytes from.
    pub(super) fn buffer(&mut self, bytes: usize) -> &mut [u8] {
        assert!(!self.in_flight, "the kernel still reads the buffer");
        self.buffer.resize(bytes)
    }

    /// The memory of the next write, as [`Self::buffer`] has sized it.
    pub(super) fn content_mut(&mut self) -> &mut [u8] {
        assert!(!self.in_flight, "the kernel still reads the buffer");
        self.buffer.content_mut()
    }

    /// Writes what the buffer holds to `file` at `offset`; on return it is on stable storage.
    ///
    /// # Errors
    /// If the write fails or is cut short. Nothing is then known of what is on disk.
    pub(super) async fn write(
        &mut self,
        file: &DurableFile,
        offset: u64,
    ) -> Result<(), StorageError> {
        let failed = |source| StorageError::io("write", &file.path, source);
        self.submit(file, offset).map_err(failed)?;
        let mut done = self.wait(PATIENCE).map_err(failed)?;
        while done.is_none() {
            glommio::timer::sleep(SLOW_WRITE_INTERVAL).await;
            done = self.wait(Duration::ZERO).map_err(failed)?;
        }
        let written = done.map_or(Ok(0), |result| match u32::try_from(result) {
            Ok(written) => Ok(written as usize),
            Err(_) => Err(failed(io::Error::from_raw_os_error(-result))),
        })?;
        if written != self.buffer.bytes {
            return Err(StorageError::ShortWrite {
                path: file.path.clone(),
                written,
                expected: self.buffer.bytes,
            });
        }
        Ok(())
    }

    fn submit(&mut self, file: &DurableFile, offset: u64) -> io::Result<()> {
        assert!(!self.in_flight, "one write at a time");
        let content = self.buffer.content();
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        let entry = opcode::Write::new(Fd(file.file.as_raw_fd()), content.as_ptr(), length)
            .offset(offset)
            .build();
        // SAFETY: the buffer is neither changed, moved nor freed before the completion was seen
        // (`in_flight` forbids it, and `drop` leaks it), and the caller's file stays open for as
        // long, since it waits for the completion while it borrows the file.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.in_flight = true;
        Ok(())
    }

    /// Waits for the completion for at most `patience`.
    fn wait(&mut self, patience: Duration) -> io::Result<Option<i32>> {
        let limit = Timespec::from(patience);
        let arguments = SubmitArgs::new().timespec(&limit);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(code) if code == rustix::io::Errno::TIME.raw_os_error()
                        || code == rustix::io::Errno::INTR.raw_os_error()
                ) => {}
            Err(error) => return Err(error),
        }
        let completion = self.ring.completion().next();
        Ok(completion.map(|completion| {
            self.in_flight = false;
            completion.result()
        }))
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        if self.in_flight {
            // The kernel may still read the buffer.
            std::mem::forget(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use glommio::LocalExecutor;

    use super::*;

    #[test]
    fn what_is_written_is_in_the_file_and_a_failed_write_is_told() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![0; 4 * RECORD_ALIGN]).unwrap();
        LocalExecutor::default().run(async {
            let file = DurableFile::open(&path).unwrap();
            let mut ring = WriteRing::new().unwrap();
            for (fill, at) in [(7, 0), (8, 2)] {
                ring.buffer(2 * RECORD_ALIGN).fill(fill);
                ring.write(&file, at * RECORD_ALIGN as u64).await.unwrap();
            }
            ring.buffer(RECORD_ALIGN).fill(9);
            ring.write(&file, RECORD_ALIGN as u64).await.unwrap();
            // Direct IO refuses an offset between sectors.
            ring.buffer(RECORD_ALIGN).fill(1);
            let error = ring.write(&file, 3).await.unwrap_err();
            assert!(error.to_string().contains("cannot write"), "{error}");
        });
        let found = std::fs::read(&path).unwrap();
        let firsts: Vec<u8> = found.iter().step_by(RECORD_ALIGN).copied().collect();
        assert_eq!(firsts, [7, 9, 8, 8]);
    }
}

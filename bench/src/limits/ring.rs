//! A bare io_uring ring, and durable writes on it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::block_file::BlockFile;
use super::repeat;
use crate::outcome::Outcome;
use crate::pace::Pace;

/// More than are ever under way at once.
const ENTRIES: u32 = 16;

/// A ring for one thread, with the settings that cost least where the kernel has them.
pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        let frugal = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(ENTRIES);
        let ring = frugal.or_else(|_| IoUring::new(ENTRIES))?;
        Ok(Self { ring })
    }

    /// Takes an entry to be submitted with the next [`Ring::wait`].
    ///
    /// # Safety
    /// What the entry points to must stay valid, and be used by nobody else, until its completion
    /// was taken or the ring is dropped.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller vouches for what the entry points to.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("more entries at once than the ring has"))
    }

    /// Submits what was pushed, and waits for at least one completion.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.ring.submit_and_wait(1)?;
        Ok(())
    }

    /// The next completion that has arrived: the number its entry was given and its result.
    pub(super) fn take_completion(&mut self) -> Option<(u64, io::Result<usize>)> {
        let completion: cqueue::Entry = self.ring.completion().next()?;
        let result = usize::try_from(completion.result())
            .map_err(|_| io::Error::from_raw_os_error(-completion.result()));
        Some((completion.user_data(), result))
    }
}

/// Takes the next block of `file` to be written.
pub(super) fn push_write(ring: &mut Ring, file: &mut BlockFile, number: u64) -> io::Result<()> {
    let offset = file.next_offset();
    let block = file.block();
    let (start, bytes) = (block.as_ptr(), u32::try_from(block.len()).unwrap_or(0));
    let entry = opcode::Write::new(types::Fd(file.file().as_raw_fd()), start, bytes)
        .offset(offset)
        .build()
        .user_data(number);
    // SAFETY: the block belongs to the file, does not move, and is not touched while it is
    // written: whoever pushes a write waits for its completion before anything else.
    unsafe { ring.push(&entry) }
}

/// Checks the result of a write.
pub(super) fn written(result: io::Result<usize>, file: &mut BlockFile) -> io::Result<()> {
    if result? != file.block().len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Measures durable writes of `bytes` bytes.
pub(super) fn writes(
    directory: &Path,
    bytes: usize,
    pace: Pace,
    length: Duration,
) -> io::Result<Outcome> {
    let mut file = BlockFile::new(directory, bytes)?;
    let mut ring = Ring::new()?;
    repeat(pace, length, || {
        push_write(&mut ring, &mut file, 0)?;
        loop {
            ring.wait()?;
            if let Some((_, result)) = ring.take_completion() {
                return written(result, &mut file);
            }
        }
    })
}

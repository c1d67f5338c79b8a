//! Reads of a file, and who is told before one of them waits for the disk.
//!
//! What is in the page cache is read at once. For the rest a thread can ask to be told before it is
//! made to wait ([`with_disk_wait`]): a thread that must not wait then does something else in the
//! middle of the read, as a coroutine can, until the page cache has it or another thread goes on. A
//! thread that has not asked just waits.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};

/// Is told that a read is about to wait for the disk.
pub trait DiskWait: Send + Sync {
    /// What is to be read is not in the page cache. The read goes on when this returns, which may be
    /// on another thread. True: if that thread has asked to be told, it is told again should the page
    /// cache still lack it. False: the read waits. No lock is held that another connection could want,
    /// but for the slots of the connection that reads.
    fn before_wait(&self, missing: Missing) -> bool;
}

/// A part of a file that is not in the page cache.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    /// The file, open until [`DiskWait::before_wait`] returns.
    pub file: RawFd,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: usize,
}

thread_local! {
    static TOLD: RefCell<Option<Arc<dyn DiskWait>>> = const { RefCell::new(None) };
}

/// Runs `body`, in which every read of a database file on this thread tells `told` before it waits
/// for the disk. It is not to be nested.
pub fn with_disk_wait<T>(told: Arc<dyn DiskWait>, body: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            TOLD.set(None);
        }
    }
    TOLD.set(Some(told));
    let _reset = Reset;
    body()
}

/// Who is to be told on this thread. Not inlined: a caller goes on on another thread after a wait,
/// and must not have the address of this thread's variable at hand.
#[inline(never)]
fn told() -> Option<Arc<dyn DiskWait>> {
    TOLD.with_borrow(Clone::clone)
}

/// Reads as much as the file has at `offset`, and fills the rest with zeros. Returns the number of
/// bytes that came from the file. Who is told of a wait is told of the whole blocks of `block_bytes`
/// that the read lies in.
pub(crate) fn read(
    file: &File,
    offset: u64,
    into: &mut [u8],
    block_bytes: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(told) = told() {
        match read_cached(file, offset, into, &mut done)? {
            Cached::Whole => {
                into[done..].fill(0);
                return Ok(done);
            }
            Cached::Unknown => break,
            Cached::Missing => {
                let begin = (offset + done as u64) / block_bytes * block_bytes;
                let end = (offset + into.len() as u64).next_multiple_of(block_bytes);
                let missing = Missing {
                    file: file.as_raw_fd(),
                    offset: begin,
                    bytes: (end - begin) as usize,
                };
                if !told.before_wait(missing) {
                    break;
                }
            }
        }
    }
    read_waiting(file, offset, into, done)
}

/// The same for a caller that waits where it is, as one must that holds a lock.
pub(crate) fn read_here(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    read_waiting(file, offset, into, 0)
}

/// What the page cache has given.
enum Cached {
    /// Everything up to the end of the buffer or of the file.
    Whole,
    /// What follows has to come from the disk.
    Missing,
    /// This file system cannot tell.
    Unknown,
}

fn read_cached(file: &File, offset: u64, into: &mut [u8], done: &mut usize) -> io::Result<Cached> {
    while *done < into.len() {
        let at = offset + *done as u64;
        let mut rest = [IoSliceMut::new(&mut into[*done..])];
        match rustix::io::preadv2(file, &mut rest, at, ReadWriteFlags::NOWAIT) {
            Ok(0) => break,
            Ok(count) => *done += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Cached::Missing),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(Cached::Unknown),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Cached::Whole)
}

fn read_waiting(file: &File, offset: u64, into: &mut [u8], mut done: usize) -> io::Result<usize> {
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into[done..].fill(0);
    Ok(done)
}

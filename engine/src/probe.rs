//! What the machine itself can do: one durable write, one loopback round trip.
//!
//! A commit cannot be faster than the one, nor a commit over the network faster than both, so the
//! benchmarks and `ringlite demo` measure them in the same run, with plain blocking calls and
//! nothing of the engine in between. A node keeps the machine's cores awake while it works, which a
//! program that measures can do, too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;
use rustix::thread::CpuSet;
use tempfile::NamedTempFile;

use crate::awake::{self, Awake};

/// The unit of direct writes: offset, length and memory are multiples of it.
const ALIGN: usize = 4096;
/// The length of the file that is written over and over.
const FILE_BYTES: usize = 16 << 20;
/// The step in which the file is first filled with zeros.
const FILL_BYTES: usize = 1 << 20;
/// Unrecorded writes or round trips before the recorded ones.
const WARM_UP: usize = 64;
/// The length of a message of the round trip.
const MESSAGE_BYTES: usize = 64;
/// The longest time that a histogram tells from longer ones: one minute, in nanoseconds.
const RECORDED_MAX: u64 = 60_000_000_000;

const _: () = assert!(FILE_BYTES.is_multiple_of(FILL_BYTES));
const _: () = assert!(FILL_BYTES.is_multiple_of(ALIGN));

/// The machine's cores are kept awake as long as this lives, as a node does while it has work.
#[derive(Debug)]
pub struct AwakeCores {
    _request: Awake,
}

/// Keeps the machine's cores awake. `None` if this process may not.
pub fn keep_awake() -> Option<AwakeCores> {
    let request = Awake::new(Some(awake::device()?));
    request.hold();
    Some(AwakeCores { _request: request })
}

/// Measures durable writes of `bytes` in `directory`, one after the other for `duration`, in
/// nanoseconds.
///
/// Each write goes to the next place of a file of 16 MiB that was filled with zeros, past the page
/// cache and flushed before it returns (`O_DIRECT | O_DSYNC`): what a log does that is as good as
/// the disk. The file is removed afterwards.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if `bytes` is no multiple of 4096 between 4096 and 16 MiB; and
/// those of the file system, such as one without direct writes.
pub fn raw_write(directory: &Path, bytes: usize, duration: Duration) -> io::Result<Histogram<u64>> {
    let mut writer = RawWriter::new(directory, bytes)?;
    record(duration, || writer.write())
}

/// Writes a block of a fixed length durably, each time to the next place of a file of its own.
struct RawWriter {
    file: NamedTempFile<File>,
    memory: Vec<u8>,
    bytes: usize,
    offset: usize,
}

impl RawWriter {
    fn new(directory: &Path, bytes: usize) -> io::Result<Self> {
        if bytes == 0 || bytes > FILE_BYTES || !bytes.is_multiple_of(ALIGN) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a direct write of {bytes} bytes is no multiple of {ALIGN} up to {FILE_BYTES}"
                ),
            ));
        }
        let flags = OFlags::DIRECT | OFlags::DSYNC;
        let file = tempfile::Builder::new()
            .prefix("raw-write-")
            .make_in(directory, |path| {
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .custom_flags(flags.bits().cast_signed())
                    .open(path)
            })?;
        fill(file.as_file())?;
        Ok(Self {
            file,
            memory: vec![0xa5; bytes + ALIGN],
            bytes,
            offset: 0,
        })
    }

    fn write(&mut self) -> io::Result<()> {
        let block = aligned(&mut self.memory, self.bytes);
        self.file
            .as_file()
            .write_all_at(block, self.offset as u64)?;
        self.offset += self.bytes;
        if self.offset + self.bytes > FILE_BYTES {
            self.offset = 0;
        }
        Ok(())
    }
}

/// Writes the zeros, so that no write that is measured allocates or converts an extent.
fn fill(file: &File) -> io::Result<()> {
    let mut memory = vec![0; FILL_BYTES + ALIGN];
    let zeros = aligned(&mut memory, FILL_BYTES);
    for offset in (0..FILE_BYTES).step_by(FILL_BYTES) {
        file.write_all_at(zeros, offset as u64)?;
    }
    file.sync_all()
}

/// `bytes` bytes of `memory`, which is longer by [`ALIGN`], that begin at an aligned address.
fn aligned(memory: &mut [u8], bytes: usize) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(ALIGN);
    &mut memory[start..start + bytes]
}

/// Measures round trips of 64 bytes over a TCP connection on the loopback interface, one after the
/// other for `duration`, in nanoseconds.
///
/// Both ends are threads that block in `read`, each pinned to a core of its own if this process is
/// allowed two, without Nagle's delay.
///
/// # Errors
/// Those of the network and of pinning.
pub fn round_trip(duration: Duration) -> io::Result<Histogram<u64>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    let cores = allowed_cores()?;
    let (Some(first), Some(last)) = (cores.first(), cores.last()) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| echo(far, *last));
        // The near end is dropped with its thread, which ends the echo.
        let ping = scope.spawn(|| ping(near, *first, duration));
        let pinged = joined(ping.join())?;
        joined(echo.join())?;
        Ok(pinged)
    })
}

fn joined<T>(result: std::thread::Result<io::Result<T>>) -> io::Result<T> {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ping(mut stream: TcpStream, core: usize, duration: Duration) -> io::Result<Histogram<u64>> {
    pin(core)?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE_BYTES];
    record(duration, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)
    })
}

fn echo(mut stream: TcpStream, core: usize) -> io::Result<()> {
    pin(core)?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE_BYTES];
    loop {
        match stream.read_exact(&mut message) {
            Ok(()) => stream.write_all(&message)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The cores that this thread may run on.
fn allowed_cores() -> io::Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let cores = 0..CpuSet::MAX_CPU;
    Ok(cores.filter(|core| allowed.is_set(*core)).collect())
}

/// Pins the calling thread.
fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}

/// Repeats `act` for `duration`, and records how long each one took.
fn record(
    duration: Duration,
    mut act: impl FnMut() -> io::Result<()>,
) -> io::Result<Histogram<u64>> {
    let mut times = Histogram::new_with_bounds(1, RECORDED_MAX, 3).map_err(io::Error::other)?;
    for _ in 0..WARM_UP {
        act()?;
    }
    let begin = Instant::now();
    let mut start = begin;
    while start - begin < duration {
        act()?;
        let end = Instant::now();
        times.saturating_record(u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX));
        start = end;
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEFLY: Duration = Duration::from_millis(20);

    #[test]
    fn writes_are_recorded_and_the_file_is_gone() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let times = raw_write(directory.path(), 8192, BRIEFLY).unwrap();
        assert!(!times.is_empty() && times.min() > 0);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_length_that_cannot_be_written_directly_is_refused() {
        for bytes in [0, 1, 4095, 4097, FILE_BYTES + ALIGN] {
            let error = raw_write(Path::new("."), bytes, BRIEFLY).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bytes}");
        }
    }

    #[test]
    fn round_trips_are_recorded() {
        let times = round_trip(BRIEFLY).unwrap();
        assert!(!times.is_empty() && times.min() > 0);
    }

    #[test]
    fn memory_is_aligned() {
        let mut memory = vec![0; 3 * ALIGN];
        let block = aligned(&mut memory, 2 * ALIGN);
        assert_eq!(block.len(), 2 * ALIGN);
        assert_eq!(block.as_ptr().addr() % ALIGN, 0);
    }
}

//! A disk in memory, served as one file through FUSE: it records what it is told, and fails when
//! it is asked to.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};

use super::image::Image;
use super::recording::{Event, Position, Recording};

/// The largest write or read in one message.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;
/// Nothing else changes the file.
const ATTRIBUTES_TTL: Duration = Duration::from_secs(3600);

/// What a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Gives content.
    Read,
    /// Takes content in.
    Write,
    /// Makes it last.
    Flush,
}

/// A fault of the disk: the `nth` operation of a kind, counted from 1 and from when the fault was
/// set, fails with EIO.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The kind.
    pub operation: Operation,
    /// Which of them.
    pub nth: usize,
    /// Whether all that follow, of whatever kind, fail too.
    pub for_ever: bool,
}

struct State {
    image: Image,
    recording: Option<Recording>,
    fault: Option<Fault>,
    /// Operations of the kind of `fault` since it was set.
    counted: usize,
    faults_done: usize,
    /// What cannot be read until it is written.
    unreadable: Range<usize>,
    /// How long each read, and each flush, takes.
    read_time: Duration,
    flush_time: Duration,
}

/// The disk; clones are of one and the same.
#[derive(Clone)]
pub struct Device {
    state: Arc<Mutex<State>>,
}

impl Device {
    pub(super) fn new(image: Image) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                image,
                recording: None,
                fault: None,
                counted: 0,
                faults_done: 0,
                unreadable: 0..0,
                read_time: Duration::ZERO,
                flush_time: Duration::ZERO,
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its content.
    pub fn image(&self) -> Image {
        self.state().image.clone()
    }

    /// Takes other content. Nobody may be using the disk.
    pub fn set_image(&self, image: Image) {
        self.state().image = image;
    }

    /// Records from now on.
    pub fn record(&self) {
        let mut state = self.state();
        state.recording = Some(Recording {
            start: state.image.clone(),
            events: Vec::new(),
        });
    }

    /// What was recorded; it stops.
    ///
    /// # Panics
    /// If it was not recording.
    pub fn take_recording(&self) -> Recording {
        let recording = self.state().recording.take();
        recording.expect("the disk was recording")
    }

    /// How much was recorded up to now.
    pub fn position(&self) -> Position {
        self.state().recording.as_ref().map_or(0, Recording::end)
    }

    /// Sets a fault, or with `None` mends the disk.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.fault = fault;
        if fault.is_some() {
            state.counted = 0;
            state.faults_done = 0;
        }
    }

    /// Makes a part of the disk, in bytes, unreadable until it is written as a whole.
    pub fn set_unreadable(&self, part: Range<usize>) {
        self.state().unreadable = part;
    }

    /// Whether a part of the disk cannot be read.
    pub fn is_unreadable(&self) -> bool {
        !self.state().unreadable.is_empty()
    }

    /// Makes each read take so long from now on. Reads do not wait for each other, and nothing else
    /// waits for them.
    pub fn set_read_time(&self, time: Duration) {
        self.state().read_time = time;
    }

    /// Makes each flush take so long from now on; nothing else waits for it.
    pub fn set_flush_time(&self, time: Duration) {
        self.state().flush_time = time;
    }

    /// How many operations have failed since a fault was last set.
    pub fn faults_done(&self) -> usize {
        self.state().faults_done
    }
}

impl State {
    fn is_failing(&mut self, operation: Operation) -> bool {
        let Some(fault) = self.fault else {
            return false;
        };
        let is_lasting = fault.for_ever && self.faults_done > 0;
        let counts = operation == fault.operation;
        self.counted += usize::from(counts);
        let fails = is_lasting || (counts && self.counted == fault.nth);
        self.faults_done += usize::from(fails);
        fails
    }

    fn push(&mut self, event: Event) {
        if let Some(recording) = &mut self.recording {
            recording.events.push(event);
        }
    }

    fn write(&mut self, offset: usize, content: &[u8]) {
        if offset <= self.unreadable.start && offset + content.len() >= self.unreadable.end {
            self.unreadable = 0..0;
        }
        self.image.write(offset, content);
        if self.recording.is_some() {
            let content = content.into();
            self.push(Event::Write { offset, content });
        }
    }
}

/// The root of the file system is the file itself, so that there are no names and no directory.
impl Filesystem for Device {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What the kernel cannot do, it lowers by itself.
        let _ = config.set_max_write(MESSAGE_BYTES_MAX);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let bytes = self.state().image.bytes() as u64;
        let attributes = FileAttr {
            ino,
            size: bytes,
            blocks: bytes / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&ATTRIBUTES_TTL, &attributes);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the page cache: every write of the block device arrives, as it was and in order.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        let (start, end) = (offset as usize, offset as usize + size as usize);
        let is_unreadable = start < state.unreadable.end && state.unreadable.start < end;
        if state.is_failing(Operation::Read) || is_unreadable {
            return reply.error(Errno::EIO);
        }
        let content = state.image.read(offset as usize, size as usize);
        let time = state.read_time;
        drop(state);
        if time.is_zero() {
            return reply.data(&content);
        }
        thread::spawn(move || {
            thread::sleep(time);
            reply.data(&content);
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        let offset = offset as usize;
        if offset + data.len() > state.image.bytes() {
            return reply.error(Errno::ENOSPC);
        }
        if state.is_failing(Operation::Write) {
            // A part of it may have arrived.
            state.write(offset, &data[..data.len() / 1024 * 512]);
            return reply.error(Errno::EIO);
        }
        state.write(offset, data);
        drop(state);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // The close of a file is no flush of the disk.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        if state.is_failing(Operation::Flush) {
            return reply.error(Errno::EIO);
        }
        state.push(Event::Flush);
        let time = state.flush_time;
        drop(state);
        if time.is_zero() {
            return reply.ok();
        }
        thread::spawn(move || {
            thread::sleep(time);
            reply.ok();
        });
    }
}

//! Replication alone on bare io_uring rings: a leader sends an entry to two followers, writes it,
//! and waits until one of them says that it has written it too.
//!
//! No consensus, checksum, SQL or client is part of it: a replicated commit on this machine takes
//! this, and what a product adds. The leader is pinned to the first core, the followers share the
//! last one.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use super::block_file::BlockFile;
use super::ring::{self, Ring};
use super::{pin, repeat, two_cores};
use crate::outcome::Outcome;
use crate::pace::Pace;

const FOLLOWERS: usize = 2;
/// The number of the entry that writes; the sends and receives of follower i have 2 i + 1 and
/// 2 i + 2.
const WRITE: u64 = 0;
/// What a follower says when it has written an entry.
const ACKNOWLEDGEMENT_BYTES: usize = 1;

/// Measures entries of `bytes` bytes.
pub(super) fn entries(
    directory: &Path,
    bytes: usize,
    pace: Pace,
    length: Duration,
) -> io::Result<Outcome> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (first, last) = two_cores();
    let own = BlockFile::new(directory, bytes)?;
    let mut links = Vec::new();
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS {
        links.push(TcpStream::connect(listener.local_addr()?)?);
        followers.push((listener.accept()?.0, BlockFile::new(directory, bytes)?));
    }
    std::thread::scope(|scope| {
        let followers: Vec<_> = followers
            .into_iter()
            .map(|(link, file)| scope.spawn(move || follow(link, file, last)))
            .collect();
        // The links are dropped with the leader's thread, which ends the followers.
        let leader = scope.spawn(move || Leader::new(links, own, first)?.lead(pace, length));
        let outcome = joined(leader.join())?;
        for follower in followers {
            joined(follower.join())?;
        }
        Ok(outcome)
    })
}

fn joined<T>(result: std::thread::Result<io::Result<T>>) -> io::Result<T> {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A link to a follower.
struct Link {
    stream: TcpStream,
    /// Entries sent and acknowledged.
    sent: u64,
    acknowledged: u64,
    /// Acknowledgements go here.
    received: Box<[u8; 64]>,
}

/// The leader. The ring is dropped first, and with it what it has under way.
struct Leader {
    ring: Ring,
    file: BlockFile,
    links: Vec<Link>,
    /// What is sent: not the block that is written, so that both may be under way.
    entry: Vec<u8>,
}

impl Leader {
    fn new(streams: Vec<TcpStream>, mut file: BlockFile, core: usize) -> io::Result<Self> {
        pin(core)?;
        let entry = file.block().to_vec();
        let mut links = Vec::new();
        for stream in streams {
            stream.set_nodelay(true)?;
            links.push(Link {
                stream,
                sent: 0,
                acknowledged: 0,
                received: Box::new([0; 64]),
            });
        }
        let mut leader = Self {
            ring: Ring::new()?,
            file,
            links,
            entry,
        };
        for index in 0..leader.links.len() {
            leader.push_receive(index)?;
        }
        Ok(leader)
    }

    fn lead(mut self, pace: Pace, length: Duration) -> io::Result<Outcome> {
        repeat(pace, length, || self.commit())
    }

    fn commit(&mut self) -> io::Result<()> {
        for index in 0..self.links.len() {
            self.push_send(index)?;
        }
        ring::push_write(&mut self.ring, &mut self.file, WRITE)?;
        let (mut is_written, mut sends_left) = (false, self.links.len());
        // The sends too: the entry's memory is theirs until they are done.
        while !is_written || sends_left > 0 || !self.is_acknowledged() {
            self.ring.wait()?;
            while let Some((number, result)) = self.ring.take_completion() {
                if number == WRITE {
                    ring::written(result, &mut self.file)?;
                    is_written = true;
                    continue;
                }
                let index = (number as usize - 1) / 2;
                if number % 2 == 1 {
                    if result? != self.entry.len() {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    sends_left -= 1;
                } else {
                    match result? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        bytes => self.links[index].acknowledged += bytes as u64,
                    }
                    self.push_receive(index)?;
                }
            }
        }
        Ok(())
    }

    /// Whether one follower has written everything.
    fn is_acknowledged(&self) -> bool {
        let mut links = self.links.iter();
        links.any(|link| link.acknowledged == link.sent)
    }

    fn push_send(&mut self, index: usize) -> io::Result<()> {
        let link = &mut self.links[index];
        link.sent += 1;
        let (start, bytes) = (self.entry.as_ptr(), self.entry.len());
        let bytes = u32::try_from(bytes).unwrap_or(0);
        // A send that the socket has no room for at once is done whole, not in part.
        let entry = opcode::Send::new(types::Fd(link.stream.as_raw_fd()), start, bytes)
            .flags(rustix::net::SendFlags::NOSIGNAL.bits().cast_signed() | MSG_WAITALL)
            .build()
            .user_data(2 * index as u64 + 1);
        // SAFETY: `entry` is never changed and lives longer than the ring.
        unsafe { self.ring.push(&entry) }
    }

    fn push_receive(&mut self, index: usize) -> io::Result<()> {
        let link = &mut self.links[index];
        let descriptor = types::Fd(link.stream.as_raw_fd());
        let room = u32::try_from(link.received.len()).unwrap_or(0);
        let entry: squeue::Entry = opcode::Recv::new(descriptor, link.received.as_mut_ptr(), room)
            .build()
            .user_data(2 * index as u64 + 2);
        // SAFETY: the memory is on the heap, lives longer than the ring, and is read by nobody;
        // there is one receive of each link at a time.
        unsafe { self.ring.push(&entry) }
    }
}

/// `MSG_WAITALL`, as io_uring takes it for sends too.
const MSG_WAITALL: i32 = rustix::net::RecvFlags::WAITALL.bits().cast_signed();

/// Writes each entry that arrives, and says so.
///
/// The socket is read by a blocking call, as one thing is waited for at a time here, and so is the
/// answer; the write is the ring's.
fn follow(mut link: TcpStream, mut file: BlockFile, core: usize) -> io::Result<()> {
    pin(core)?;
    link.set_nodelay(true)?;
    let mut ring = Ring::new()?;
    loop {
        match link.read_exact(file.block()) {
            Ok(()) => {}
            // The leader has its majority of the last entry and is gone.
            Err(error) if is_end(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        ring::push_write(&mut ring, &mut file, WRITE)?;
        let result = loop {
            ring.wait()?;
            if let Some((_, result)) = ring.take_completion() {
                break result;
            }
        };
        ring::written(result, &mut file)?;
        match link.write_all(&[1; ACKNOWLEDGEMENT_BYTES]) {
            Err(error) if is_end(&error) => return Ok(()),
            written => written?,
        }
    }
}

/// Whether an error says that the other end has left.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

//! The leader's end: reads the files of its databases while they are written, and sends them.
//!
//! **Commits go on.** At most [`WINDOW_BYTES`] are on their way, so that what a slow member, or its
//! disk, cannot take is not read either; and slices leave no faster than the rate that the node was
//! given, so that the disk and the network have time for the log. Between two slices the core is
//! free.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::AsyncWriteExt as _;
use glommio::net::TcpStream;

use super::frame::{self, Frame};
use crate::net::handshake::{Purpose, Verdict};
use crate::net::peer;
use crate::replica::{Input, NodeAddress, SnapshotHead};
use crate::shard::Shard;
use crate::storage::Position;

/// What may be sent and not be acknowledged: enough for the rate over a network round trip of ten
/// milliseconds.
const WINDOW_BYTES: u64 = 1 << 20;
/// Between two attempts to reach the member.
const REDIAL_AFTER: Duration = Duration::from_millis(200);
/// For the next answer, syncs and the installation included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A member to which nothing more has got through for so long is given up, so that it holds the
/// log no longer.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Sends a snapshot to a member, however often the connection breaks, and tells the replica how that
/// has ended. `bytes_per_second` is the most that leaves.
pub(crate) async fn send(
    shard: Rc<Shard>,
    to: NodeAddress,
    head: SnapshotHead,
    bytes_per_second: u64,
) {
    let mut stream = Stream {
        shard: Rc::clone(&shard),
        head,
        bytes_per_second: bytes_per_second.max(1),
        next_slice_at: Instant::now(),
        progressed_at: Instant::now(),
    };
    tracing::info!(
        "{to} gets a snapshot of everything up to {}",
        stream.head.base.index
    );
    let is_installed = loop {
        match stream.attempt(&to).await {
            Ok(()) => break true,
            Err(error) => tracing::debug!("the snapshot for {to} is interrupted: {error}"),
        }
        if !stream.is_wanted() {
            tracing::info!("the snapshot for {to} ends, as this node leads no longer");
            return;
        }
        if stream.progressed_at.elapsed() > IDLE_TIME_MAX {
            tracing::warn!(
                "the snapshot for {to} is given up: it has not taken any of it for {IDLE_TIME_MAX:?}"
            );
            break false;
        }
        glommio::timer::sleep(REDIAL_AFTER).await;
    };
    shard.push(Input::SnapshotSent {
        to: to.id,
        id: stream.head.id,
        is_installed,
    });
}

/// A snapshot on its way, over all connections.
struct Stream {
    shard: Rc<Shard>,
    head: SnapshotHead,
    bytes_per_second: u64,
    next_slice_at: Instant,
    /// When the member has last acknowledged something new.
    progressed_at: Instant,
}

/// One connection.
struct Connection {
    stream: TcpStream,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Stream {
    fn is_wanted(&self) -> bool {
        let id = self.head.id;
        self.shard
            .with_replica(|replica| replica.snapshot_targets(id))
            .is_some()
    }

    /// One connection, to the end of the snapshot.
    async fn attempt(&mut self, to: &NodeAddress) -> Result<()> {
        let asks = self
            .shard
            .peers()
            .hello(to.id, Purpose::Snapshot, Verdict::None);
        let (stream, answer) = peer::dial(to, &asks).await?;
        if answer.verdict != Verdict::Welcome {
            return Err(refused(format!("{:?}", answer.verdict)));
        }
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Connection {
            stream,
            sent_bytes: 0,
            received_bytes: 0,
        };
        let offer = Frame::Offer(self.head.clone()).encode();
        connection.stream.write_all(&offer).await?;
        let mut at = match Frame::read(&mut connection.stream).await? {
            Frame::Resume(position) => position,
            other => return ended(other),
        };
        while let Some((database, suffix)) = self.head.file(at.file) {
            let end = match self.shard.open_database_file(database.id, suffix)? {
                Some(file) => self.send_file(&mut connection, file, at).await?,
                None => Frame::FileGone { file: at.file },
            };
            connection.stream.write_all(&end.encode()).await?;
            at = Position {
                file: at.file + 1,
                offset: 0,
            };
        }
        let id = self.head.id;
        let targets = self
            .shard
            .with_replica(|replica| replica.snapshot_targets(id))
            .ok_or_else(|| refused("this node leads no longer".into()))?;
        let end = Frame::End { targets }.encode();
        connection.stream.write_all(&end).await?;
        loop {
            match Frame::read(&mut connection.stream).await? {
                Frame::Received { .. } => self.progressed_at = Instant::now(),
                other => return ended(other),
            }
        }
    }

    /// Sends a file from a position to its end, wherever that is by then; returns what tells of it.
    async fn send_file(
        &mut self,
        connection: &mut Connection,
        file: File,
        mut at: Position,
    ) -> Result<Frame> {
        let file = Arc::new(file);
        loop {
            self.pace().await;
            if !self.is_wanted() {
                return Err(refused("this node leads no longer".into()));
            }
            let read = Arc::clone(&file);
            let slice = glommio::executor()
                .spawn_blocking(move || {
                    frame::encode_chunk(at.file, at.offset, |into| {
                        read_slice(&read, at.offset, into)
                    })
                })
                .await;
            let (slice, bytes) = slice?;
            if bytes == 0 {
                return Ok(Frame::FileEnd {
                    file: at.file,
                    bytes: at.offset,
                });
            }
            connection.stream.write_all(&slice).await?;
            connection.sent_bytes += bytes as u64;
            at.offset += bytes as u64;
            let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            self.next_slice_at = self.next_slice_at.max(Instant::now() - time) + time;
            while connection.sent_bytes - connection.received_bytes >= WINDOW_BYTES {
                match Frame::read(&mut connection.stream).await? {
                    Frame::Received { bytes }
                        if (connection.received_bytes..=connection.sent_bytes).contains(&bytes) =>
                    {
                        connection.received_bytes = bytes;
                        self.progressed_at = Instant::now();
                    }
                    other => ended(other)?,
                }
            }
        }
    }

    /// Waits until the next slice may leave.
    async fn pace(&self) {
        let wait = self.next_slice_at.saturating_duration_since(Instant::now());
        if wait > Duration::ZERO {
            glommio::timer::sleep(wait).await;
        }
    }
}

/// What the file has at `offset`, at most as much as there is room for; nothing at its end. A
/// backfill may write at the same time: what is torn by that, or is newer than the rest, the log
/// has whole.
fn read_slice(file: &File, offset: u64, into: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// What the member has said in place of going on.
fn ended(frame: Frame) -> Result<()> {
    match frame {
        Frame::Done => Ok(()),
        Frame::Refused { reason } => Err(refused(reason)),
        other => Err(refused(format!("it said {other:?} out of turn"))),
    }
}

fn refused(reason: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionAborted, reason)
}

//! The member's end: writes what arrives beside its own databases, and has it installed.

use std::cell::Cell;
use std::io::{Error, ErrorKind, Result};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::AsyncWriteExt as _;
use glommio::net::TcpStream;
use ringlite_raft::LogIndex;

use super::frame::{self, Frame};
use crate::replica::{SnapshotHead, SnapshotOutcome};
use crate::shard::Shard;
use crate::storage::{Position, StagedFile, Staging, StagingArea, StorageError};

/// For the next frame. The leader sends one now and then, whatever its rate.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a connection looks whether a newer one has taken its place.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// Where snapshots arrive: one connection at a time, the newest.
pub(crate) struct Arrivals {
    area: StagingArea,
    newest: Cell<u64>,
    is_taken: Cell<bool>,
}

impl Arrivals {
    pub(crate) fn new(area: StagingArea) -> Self {
        Self {
            area,
            newest: Cell::new(0),
            is_taken: Cell::new(false),
        }
    }

    pub(crate) fn area(&self) -> &StagingArea {
        &self.area
    }

    /// Waits until the connection before this one has ended. `None` if a newer one waits too.
    async fn enter(&self) -> Option<Place<'_>> {
        let number = self.newest.get() + 1;
        self.newest.set(number);
        while self.is_taken.get() {
            glommio::timer::sleep(LOOK_AFTER).await;
            if self.newest.get() != number {
                return None;
            }
        }
        self.is_taken.set(true);
        Some(Place {
            arrivals: self,
            number,
        })
    }
}

/// The right of one connection to write.
struct Place<'a> {
    arrivals: &'a Arrivals,
    number: u64,
}

impl Place<'_> {
    /// Waits until a newer connection has come.
    async fn superseded(&self) -> Error {
        while self.arrivals.newest.get() == self.number {
            glommio::timer::sleep(LOOK_AFTER).await;
        }
        Error::new(ErrorKind::ConnectionAborted, "a newer connection has come")
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.arrivals.is_taken.set(false);
    }
}

/// Receives a snapshot on a connection that a leader has dialled, and has it installed.
pub(crate) async fn receive(shard: Rc<Shard>, mut stream: TcpStream) {
    let arrivals = Rc::clone(shard.arrivals());
    let Some(place) = arrivals.enter().await else {
        return;
    };
    let ended = async {
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        match receive_all(&shard, &mut stream, &place).await {
            Ok(()) => send(&mut stream, &Frame::Done).await,
            Err(error) => {
                let reason = error.to_string();
                // Most likely the connection is broken.
                let _ = send(&mut stream, &Frame::Refused { reason }).await;
                Err(error)
            }
        }
    };
    if let Err(error) = ended.await {
        tracing::info!("the snapshot that arrives is interrupted: {error}");
    }
}

async fn send(stream: &mut TcpStream, frame: &Frame) -> Result<()> {
    stream.write_all(&frame.encode()).await
}

async fn receive_all(shard: &Rc<Shard>, stream: &mut TcpStream, place: &Place<'_>) -> Result<()> {
    let Frame::Offer(head) = Frame::read(stream).await? else {
        return Err(nonsense());
    };
    let area = place.arrivals.area.clone();
    if !shard.with_replica(|replica| replica.wants_snapshot(&head)) {
        return clear(area).await;
    }
    let base = head.base.index;
    let mut arrival = Arrival::begin(&area, head).await?;
    let Position { file, offset } = arrival.position();
    tracing::info!("a snapshot of everything up to {base} goes on at file {file}, offset {offset}");
    let arrived = arrival.receive_files(stream, place).await;
    if arrived.is_err() {
        // So that the next connection goes on from here.
        arrival.blocking(Staging::save).await?;
    }
    let head = arrival.finish(arrived?).await?;
    match shard.install_snapshot(head).await {
        SnapshotOutcome::Installed => Ok(()),
        SnapshotOutcome::NotNeeded => clear(area).await,
        SnapshotOutcome::Refused => Err(Error::new(
            ErrorKind::ConnectionAborted,
            "this node does not follow a leader now",
        )),
    }
}

/// Throws away what has arrived.
async fn clear(area: StagingArea) -> Result<()> {
    glommio::executor()
        .spawn_blocking(move || area.clear().map_err(Error::other))
        .await
}

/// A snapshot on its way in.
struct Arrival {
    head: SnapshotHead,
    /// None while a thread of the blocking pool has it.
    staging: Option<Staging>,
    received_bytes: u64,
}

impl Arrival {
    /// Goes on with what has arrived of this snapshot before, or begins anew.
    async fn begin(area: &StagingArea, head: SnapshotHead) -> Result<Self> {
        let mut bytes = Vec::new();
        frame::put_head(&mut bytes, &head);
        let (area, bytes) = (area.clone(), Bytes::from(bytes));
        let begin = move || match area.resume().map_err(Error::other)? {
            Some(staging) if *staging.head() == bytes => Ok(staging),
            _ => area.begin(bytes).map_err(Error::other),
        };
        let staging = glommio::executor().spawn_blocking(begin).await;
        Ok(Self {
            head,
            staging: Some(staging?),
            received_bytes: 0,
        })
    }

    /// Does what blocks on another thread. Once begun it is not given up, so that nobody else ever
    /// writes to these files at the same time.
    async fn blocking<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Staging) -> std::result::Result<T, StorageError> + Send + 'static,
    ) -> Result<T> {
        let Some(mut staging) = self.staging.take() else {
            return Err(Error::other(
                "the snapshot's files are in use: this is a bug",
            ));
        };
        let blocking = glommio::executor().spawn_blocking(move || {
            let done = act(&mut staging).map_err(Error::other);
            (staging, done)
        });
        let (staging, done) = blocking.await;
        self.staging = Some(staging);
        done
    }

    fn position(&self) -> Position {
        self.staging
            .as_ref()
            .map_or(Position::default(), Staging::position)
    }

    /// Takes in all files; returns their targets.
    async fn receive_files(
        &mut self,
        stream: &mut TcpStream,
        place: &Place<'_>,
    ) -> Result<Vec<LogIndex>> {
        send(stream, &Frame::Resume(self.position())).await?;
        loop {
            let superseded = async { Err(place.superseded().await) };
            let frame = futures_lite::future::or(Frame::read(stream), superseded).await?;
            let at = self.position();
            let due = self
                .head
                .file(at.file)
                .map(|(database, suffix)| StagedFile {
                    database: database.id.0.0,
                    suffix,
                });
            match (frame, due) {
                (
                    Frame::Chunk {
                        file,
                        offset,
                        bytes,
                    },
                    Some(due),
                ) if (file, offset) == (at.file, at.offset) => {
                    self.received_bytes += bytes.len() as u64;
                    self.blocking(move |staging| staging.write(due, &bytes))
                        .await?;
                    let bytes = self.received_bytes;
                    send(stream, &Frame::Received { bytes }).await?;
                }
                (Frame::FileEnd { file, bytes }, Some(due))
                    if (file, bytes) == (at.file, at.offset) =>
                {
                    self.blocking(move |staging| staging.end_file(due)).await?;
                }
                (Frame::FileGone { file }, Some(due)) if file == at.file => {
                    self.blocking(move |staging| staging.skip_file(due)).await?;
                }
                (Frame::End { targets }, None) if targets.len() == self.head.databases.len() => {
                    return Ok(targets);
                }
                _ => return Err(nonsense()),
            }
        }
    }

    /// Makes everything durable; returns what the snapshot consists of now that it is whole.
    async fn finish(mut self, targets: Vec<LogIndex>) -> Result<SnapshotHead> {
        let ids: Vec<u64> = self.head.databases.iter().map(|file| file.id.0.0).collect();
        let present = self
            .blocking(move |staging| {
                staging.save()?;
                Ok(ids.iter().map(|id| staging.has(*id)).collect::<Vec<_>>())
            })
            .await?;
        let mut head = self.head;
        for (file, target) in head.databases.iter_mut().zip(targets) {
            file.target = file.target.max(target);
        }
        // The log tells the end of a database that has no file.
        let mut present = present.into_iter();
        head.databases.retain(|_| present.next() == Some(true));
        Ok(head)
    }
}

fn nonsense() -> Error {
    Error::new(
        ErrorKind::InvalidData,
        "what came does not follow on what was there",
    )
}

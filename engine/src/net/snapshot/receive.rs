//! The member's end: writes what arrives beside its own databases, and has it installed.

use std::cell::Cell;
use std::io::{Error, ErrorKind, Result};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::AsyncWriteExt as _;
use glommio::net::TcpStream;

use super::arrival::{Arrival, Progress, nonsense};
use super::frame::Frame;
use crate::replica::{SnapshotHead, SnapshotOutcome};
use crate::shard::Shard;
use crate::storage::StagingArea;

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
    let begun_in = area.clone();
    let begin = move || Arrival::begin(&begun_in, head);
    let arrival = glommio::executor().spawn_blocking(begin).await?;
    let at = arrival.position();
    let (file, offset) = (at.file, at.offset);
    tracing::info!("a snapshot of everything up to {base} goes on at file {file}, offset {offset}");
    let mut arrival = Arriving {
        arrival: Some(arrival),
    };
    send(stream, &Frame::Resume(at)).await?;
    let arrived = arrival.receive_files(stream, place).await;
    if arrived.is_err() {
        // So that the next connection goes on from here.
        arrival.blocking(Arrival::save).await?;
    }
    let head = arrived?;
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

/// A snapshot that arrives on a connection.
struct Arriving {
    /// None while a thread of the blocking pool has it.
    arrival: Option<Arrival>,
}

impl Arriving {
    /// Does what blocks on another thread. Once begun it is not given up, so that nobody else ever
    /// writes to these files at the same time.
    async fn blocking<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Arrival) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(mut arrival) = self.arrival.take() else {
            return Err(Error::other(
                "the snapshot's files are in use: this is a bug",
            ));
        };
        let blocking = glommio::executor().spawn_blocking(move || {
            let done = act(&mut arrival);
            (arrival, done)
        });
        let (arrival, done) = blocking.await;
        self.arrival = Some(arrival);
        done
    }

    /// Takes in all files; returns what the snapshot consists of now that it is whole.
    async fn receive_files(
        &mut self,
        stream: &mut TcpStream,
        place: &Place<'_>,
    ) -> Result<SnapshotHead> {
        loop {
            let superseded = async { Err(place.superseded().await) };
            let frame = futures_lite::future::or(Frame::read(stream), superseded).await?;
            match self.blocking(move |arrival| arrival.take(frame)).await? {
                Progress::Goes => {}
                Progress::Says(frame) => send(stream, &frame).await?,
                Progress::Whole(head) => return Ok(head),
            }
        }
    }
}

//! A snapshot on its way in: what each frame of the leader means to the member. All calls block on
//! the disk.

use std::io::{Error, ErrorKind, Result};

use bytes::Bytes;
use ringlite_raft::LogIndex;

use super::frame::{self, Frame};
use crate::replica::SnapshotHead;
use crate::storage::{Position, StagedFile, Staging, StagingArea};

/// A snapshot on its way in.
#[derive(Debug)]
pub struct Arrival {
    head: SnapshotHead,
    staging: Staging,
    received_bytes: u64,
}

/// What a frame has led to.
#[derive(Debug)]
pub enum Progress {
    /// The next frame is awaited.
    Goes,
    /// The leader is told this, and the next frame is awaited.
    Says(Frame),
    /// Everything is here, durably. This is what it consists of: with the targets of the end of the
    /// copy, and without databases that were dropped meanwhile.
    Whole(SnapshotHead),
}

impl Arrival {
    /// Goes on with what has arrived of this snapshot before, or begins anew. The leader is told
    /// [`Arrival::position`].
    ///
    /// # Errors
    /// The disk refuses.
    pub fn begin(area: &StagingArea, head: SnapshotHead) -> Result<Self> {
        let mut bytes = Vec::new();
        frame::put_head(&mut bytes, &head);
        let bytes = Bytes::from(bytes);
        let staging = match area.resume().map_err(Error::other)? {
            Some(staging) if *staging.head() == bytes => staging,
            _ => area.begin(bytes).map_err(Error::other)?,
        };
        Ok(Self {
            head,
            staging,
            received_bytes: 0,
        })
    }

    /// From where on the files are wanted.
    pub fn position(&self) -> Position {
        self.staging.position()
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// The disk refuses, or the frame does not follow on what was there.
    pub fn take(&mut self, frame: Frame) -> Result<Progress> {
        let at = self.position();
        let due = self.head.file(at.file);
        let due = due.map(|(database, suffix)| StagedFile {
            database: database.id.0.0,
            suffix,
        });
        let done = match (frame, due) {
            (
                Frame::Chunk {
                    file,
                    offset,
                    bytes,
                },
                Some(due),
            ) if (file, offset) == (at.file, at.offset) => {
                self.received_bytes += bytes.len() as u64;
                let received = Frame::Received {
                    bytes: self.received_bytes,
                };
                let written = self.staging.write(due, &bytes);
                written.map(|()| Progress::Says(received))
            }
            (Frame::FileEnd { file, bytes }, Some(due))
                if (file, bytes) == (at.file, at.offset) =>
            {
                self.staging.end_file(due).map(|()| Progress::Goes)
            }
            (Frame::FileGone { file }, Some(due)) if file == at.file => {
                self.staging.skip_file(due).map(|()| Progress::Goes)
            }
            (Frame::End { targets }, None) if targets.len() == self.head.databases.len() => {
                let saved = self.staging.save();
                saved.map(|()| Progress::Whole(self.whole(targets)))
            }
            _ => return Err(nonsense()),
        };
        done.map_err(Error::other)
    }

    /// Makes what has arrived durable, so that the next connection goes on from here.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&mut self) -> Result<()> {
        self.staging.save().map_err(Error::other)
    }

    fn whole(&self, targets: Vec<LogIndex>) -> SnapshotHead {
        let mut head = self.head.clone();
        for (file, target) in head.databases.iter_mut().zip(targets) {
            file.target = file.target.max(target);
        }
        // The log tells the end of a database that has no file.
        let is_here = |id: u64| self.staging.has(id);
        head.databases.retain(|file| is_here(file.id.0.0));
        head
    }
}

pub(super) fn nonsense() -> Error {
    Error::new(
        ErrorKind::InvalidData,
        "what came does not follow on what was there",
    )
}

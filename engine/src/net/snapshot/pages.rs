//! Single pages of a database, for a node whose disk has changed its own: it dials another one and
//! asks.

use std::io::{Error, ErrorKind, Result};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::AsyncWriteExt as _;
use glommio::net::TcpStream;
use ringlite_raft::LogIndex;
use ringlite_vfs::PageNumber;

use super::frame::Frame;
use crate::net::handshake::{Purpose, Verdict};
use crate::net::peer;
use crate::replica::{DatabaseId, NodeAddress};
use crate::shard::Shard;

/// What one may ask for at once, in bytes of pages.
pub(crate) const ASKED_BYTES_MAX: usize = 1 << 20;
/// For the next frame, and for having applied what is asked for.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether that was applied.
const LOOK_AFTER: Duration = Duration::from_millis(10);

/// Which pages are asked for.
#[derive(Clone, Debug)]
pub(crate) struct AskedPages {
    pub(crate) database: DatabaseId,
    /// Not as of an entry before this one.
    pub(crate) index_min: LogIndex,
    /// At most [`ASKED_BYTES_MAX`] bytes of pages.
    pub(crate) numbers: Vec<PageNumber>,
}

/// Pages of a database in the state at one entry.
#[derive(Debug)]
pub(crate) struct GivenPages {
    /// The index of that entry.
    pub(crate) applied: LogIndex,
    /// Not those that the other node has not got.
    pub(crate) pages: Vec<(PageNumber, Bytes)>,
}

/// Asks another node for pages.
///
/// # Errors
/// It cannot be reached, or does not have the database at that index soon.
pub(crate) async fn ask_for_pages(
    shard: &Shard,
    of: &NodeAddress,
    asked: AskedPages,
) -> Result<GivenPages> {
    let hello = shard.peers().hello(of.id, Purpose::Pages, Verdict::None);
    let (mut stream, answer) = peer::dial(of, &hello).await?;
    if answer.verdict != Verdict::Welcome {
        return Err(refused(answer.verdict.to_string()));
    }
    // The other one may take as long before it begins to answer.
    stream.set_read_timeout(Some(2 * TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let AskedPages {
        database,
        index_min,
        numbers,
    } = asked;
    let ask = Frame::AskPages {
        database,
        index_min,
        numbers,
    };
    stream.write_all(&ask.encode()).await?;
    match Frame::read(&mut stream).await? {
        Frame::Pages { applied, pages, .. } if applied >= index_min => {
            Ok(GivenPages { applied, pages })
        }
        Frame::Refused { reason } => Err(refused(reason)),
        _ => Err(refused("it said something out of turn".into())),
    }
}

/// Answers a node that asks for pages.
///
/// # Errors
/// The connection ends, or what it brings is no question.
pub(crate) async fn give_pages(shard: Rc<Shard>, mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let Frame::AskPages {
        database,
        index_min,
        numbers,
    } = Frame::read(&mut stream).await?
    else {
        return Err(refused("this is no question for pages".into()));
    };
    let asked = AskedPages {
        database,
        index_min,
        numbers,
    };
    let answer = read_pages(&shard, asked).await;
    let answer = answer.unwrap_or_else(|error| Frame::Refused {
        reason: error.to_string(),
    });
    stream.write_all(&answer.encode()).await
}

async fn read_pages(shard: &Shard, asked: AskedPages) -> Result<Frame> {
    shard.await_applied(asked.index_min).await?;
    let id = asked.database;
    let (pages, page_size) = shard.pin_pages(id).map_err(Error::other)?;
    if asked.numbers.len() * page_size.as_usize() > ASKED_BYTES_MAX {
        return Err(refused("these are too many pages".into()));
    }
    let applied = pages.applied();
    let read = glommio::executor().spawn_blocking(move || pages.read(&asked.numbers));
    Ok(Frame::Pages {
        applied,
        page_size,
        pages: read.await.map_err(Error::other)?,
    })
}

impl Shard {
    /// Waits until everything up to `index` is applied here; not for long, as others are asked else.
    pub(crate) async fn await_applied(&self, index: LogIndex) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while self.with_replica(|replica| replica.serves_at().0) < index {
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("what is in the log up to {index} is not applied here yet"),
                ));
            }
            glommio::timer::sleep(LOOK_AFTER).await;
        }
        Ok(())
    }
}

fn refused(reason: String) -> Error {
    Error::new(ErrorKind::ConnectionAborted, reason)
}

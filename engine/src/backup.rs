//! A consistent copy of a database, read slice by slice while writing goes on.
//!
//! The copy is of the state at one applied index. Where each of its pages is, is found at the
//! start; the pages themselves are read a slice at a time, so that memory is bounded and the
//! shard's core is never kept for long.

use std::rc::Rc;
use std::time::Duration;

use ringlite_raft::LogIndex;
use ringlite_vfs::PastState;

use crate::error::{Error, Result};
use crate::replica::DatabaseId;
use crate::replica::request::{Admin, Request, SessionOptions};
use crate::shard::Shard;

/// How long reading a slice may keep the shard's core.
const SLICE_TIME: Duration = Duration::from_millis(1);
/// About how long a slice is, in bytes.
const SLICE_BYTES: usize = 256 << 10;

/// What a copy is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupHead {
    /// The applied index of the node that it is the state at.
    pub applied: LogIndex,
    /// The size of a page in bytes.
    pub page_size: u32,
    /// Its length in pages.
    pub page_count: u32,
}

impl BackupHead {
    /// The length of the copy in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }
}

/// A copy under way.
pub(crate) struct Backup {
    shard: Rc<Shard>,
    database: DatabaseId,
    past: PastState,
    head: BackupHead,
    next_page: u32,
}

impl Backup {
    /// Begins a copy of the database of this name: on the leader, of a state that has everything
    /// acknowledged before the call; with `local`, of what this node has applied.
    pub(crate) async fn begin(shard: Rc<Shard>, name: &str, local: bool) -> Result<Self> {
        if !local {
            let session = shard.new_session();
            let confirm = Request::Admin(Admin::Confirm);
            shard
                .ask(session, SessionOptions::default(), confirm)
                .reply()
                .await?;
        }
        shard.with_replica(|replica| replica.check_whole(name))?;
        // Everything acknowledged before the confirmation is committed here.
        let (status, applied) =
            shard.with_replica(|replica| (replica.database(name), replica.status().applied));
        let status = status.ok_or_else(|| {
            Error::misuse(
                rusqlite::ffi::SQLITE_NOTFOUND,
                format!("there is no database named {name:?} on this node"),
            )
        })?;
        let (past, page_size) = shard.with_sql(|sql| {
            let past = sql.past_state(status.id, &status.commit_point)?;
            Ok::<_, Error>((past, sql.page_size(status.id)))
        })?;
        let head = BackupHead {
            applied,
            page_size: page_size.map_or(0, ringlite_vfs::PageSize::bytes),
            page_count: status.commit_point.page_count(),
        };
        Ok(Self {
            shard,
            database: status.id,
            past,
            head,
            next_page: 1,
        })
    }

    /// What the copy is of.
    pub(crate) fn head(&self) -> BackupHead {
        self.head
    }

    /// Whether everything was read.
    pub(crate) fn is_complete(&self) -> bool {
        self.next_page > self.head.page_count
    }

    /// Appends the next pages to `into`, after letting others have the core.
    ///
    /// # Errors
    /// If the state is not to be had any more: the database was dropped, or was rolled back with
    /// this node's leadership. Then the copy has to be begun anew.
    pub(crate) async fn next_slice(&mut self, into: &mut Vec<u8>) -> Result<()> {
        glommio::executor().yield_now().await;
        self.next_page = self.shard.with_sql(|sql| {
            let bounds = (SLICE_TIME, SLICE_BYTES);
            sql.read_past_state(self.database, &self.past, self.next_page, bounds, into)
        })?;
        Ok(())
    }
}

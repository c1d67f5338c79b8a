//! What a shard does about pages of its database files that the disk has changed: it asks another
//! node how they are, and writes them anew. Why the answer is right is said where that is done
//! ([`ringlite_vfs::FileCheck`]).
//!
//! Whoever meets a damaged page is told so. Then all of the file is looked at, in slices on a thread
//! of the blocking pool, and everything else goes on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringlite_raft::MemberRole;
use ringlite_vfs::{PageNumber, PageSize};

use super::Shard;
use crate::error::{Error, Result};
use crate::net::snapshot::{self, ASKED_BYTES_MAX, AskedPages, GivenPages};
use crate::replica::{DatabaseId, DatabaseStatus, NodeAddress};
use crate::sql::PinnedPages;

/// Pages that are looked at before others may write to the file.
const SLICE_PAGES: u32 = 4096;
/// Between the first repair of a database and the next attempt. Each further one waits twice as long,
/// so that a disk that cannot keep a page is not read over and over.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A database that has been right for so long begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// When databases were repaired.
#[derive(Default)]
pub(super) struct Repairs {
    /// By database, the newest attempt, and how long to wait after it.
    attempts: RefCell<HashMap<DatabaseId, (Instant, Duration)>>,
}

impl Repairs {
    /// How long to wait before the next attempt, which is noted.
    fn next_pause(&self, id: DatabaseId) -> Duration {
        let now = Instant::now();
        let mut attempts = self.attempts.borrow_mut();
        attempts.retain(|_, (newest, _)| now.saturating_duration_since(*newest) < FORGOTTEN_AFTER);
        let Some((newest, pause)) = attempts.get_mut(&id) else {
            attempts.insert(id, (now, PAUSE_MIN));
            return Duration::ZERO;
        };
        let wait = (*newest + *pause).saturating_duration_since(now);
        *newest = now + wait;
        *pause = (2 * *pause).min(PAUSE_MAX);
        wait
    }
}

impl Shard {
    /// Begins to repair the databases of which a damaged page was met since the last call.
    pub(super) fn repair_damaged(self: &Rc<Self>) {
        let damaged = self.sql.borrow().take_damaged();
        for id in damaged {
            glommio::spawn_local(Rc::clone(self).repair(id)).detach();
        }
    }

    /// Repairs a database, however often that has to be tried.
    async fn repair(self: Rc<Self>, id: DatabaseId) {
        loop {
            glommio::timer::sleep(self.repairs.next_pause(id)).await;
            if self.halted.borrow().is_some() || !self.with_replica(|all| all.has_database(id)) {
                return;
            }
            match self.repair_file(id).await {
                Ok((name, pages)) => {
                    tracing::info!(
                        "the database {name} is right again; damaged pages of its file that were \
                         written anew as other nodes have them: {pages}"
                    );
                    return;
                }
                Err(error) => tracing::warn!(
                    "a damaged database file cannot be repaired now, and this is tried again: {error}"
                ),
            }
        }
    }

    /// Looks at the whole file of a database and writes anew what is damaged; returns the database's
    /// name and the number of those pages.
    async fn repair_file(&self, id: DatabaseId) -> Result<(String, usize)> {
        let mut repaired = 0;
        let mut next = Some(1_u32);
        while let Some(first) = next {
            let others = self.others_with_databases();
            if others.is_empty() {
                return Err(cannot("no other node has it"));
            }
            let (status, applied) =
                self.with_replica(|all| (all.database_of(id), all.serves_at().0));
            let at = status.ok_or_else(not_whole)?.commit_point;
            let database = self.with_sql(|sql| sql.database(id).cloned())?;
            let pin = database
                .pin(&at)
                .map_err(|error| cannot(&error.to_string()))?;
            let damaged_max = ASKED_BYTES_MAX / database.page_size().as_usize();
            let numbers = first..first.saturating_add(SLICE_PAGES);
            let check =
                glommio::executor().spawn_blocking(move || pin.check_file(numbers, damaged_max));
            let mut check = check.await.map_err(|error| cannot(&error.to_string()))?;
            next = check.next();
            let mut missing = check.damaged().to_vec();
            for other in others {
                if missing.is_empty() {
                    break;
                }
                let asked = AskedPages {
                    database: id,
                    index_min: applied,
                    numbers: missing.clone(),
                };
                let given = match snapshot::ask_for_pages(self, &other, asked).await {
                    Ok(given) => given,
                    Err(error) => {
                        tracing::debug!("{other} gives no pages: {error}");
                        continue;
                    }
                };
                let GivenPages { applied, pages } = given;
                self.await_applied(applied)
                    .await
                    .map_err(|error| cannot(&error.to_string()))?;
                missing.retain(|number| pages.iter().all(|(given, _)| given != number));
                let written = glommio::executor().spawn_blocking(move || {
                    let pages: Vec<(PageNumber, &[u8])> = pages
                        .iter()
                        .map(|(number, page)| (*number, &page[..]))
                        .collect();
                    let count = check.repair(&pages);
                    (check, count)
                });
                let (back, count) = written.await;
                check = back;
                repaired += count.map_err(|error| cannot(&error.to_string()))?;
            }
            if let Some(page) = missing.first() {
                return Err(cannot(&format!("no other node has given page {page}")));
            }
        }
        let database = self.with_sql(|sql| sql.database(id).cloned())?;
        database.forget_damage();
        Ok((database.name().to_owned(), repaired))
    }

    /// The other nodes that hold what the databases consist of, the leader first, which has applied
    /// the most.
    fn others_with_databases(&self) -> Vec<NodeAddress> {
        let (members, leader) =
            self.with_replica(|replica| (replica.members(), replica.leader_id()));
        let own = self.peers.identity().node;
        let mut others: Vec<_> = members
            .iter()
            .filter(|member| member.role != MemberRole::Spare && member.id.0 != own)
            .map(|member| member.node_address())
            .collect();
        others.sort_by_key(|other| Some(other.id) != leader);
        others
    }

    /// The pages of a database at the applied index, to be read on any thread.
    ///
    /// # Errors
    /// There is no such database here, or not all of it yet.
    pub(crate) fn pin_pages(&self, id: DatabaseId) -> Result<(PinnedPages, PageSize)> {
        let (status, applied) = self.with_replica(|all| (all.database_of(id), all.serves_at().0));
        let DatabaseStatus { commit_point, .. } = status.ok_or_else(not_whole)?;
        self.with_sql(|sql| {
            let page_size = sql.database(id)?.page_size();
            Ok((sql.begin_digest(id, &commit_point, applied)?, page_size))
        })
    }
}

fn not_whole() -> Error {
    Error::Busy {
        what: "this node has not got all that belongs to the file of the database yet",
    }
}

fn cannot(why: &str) -> Error {
    Error::misuse(rusqlite::ffi::SQLITE_IOERR, why.to_owned())
}

#[cfg(test)]
mod tests {
    use ringlite_raft::LogIndex;

    use super::*;

    #[test]
    fn a_database_that_is_damaged_again_and_again_waits_longer_each_time() {
        let repairs = Repairs::default();
        let [one, other] = [1, 2].map(|id| DatabaseId(LogIndex(id)));
        assert_eq!(repairs.next_pause(one), Duration::ZERO);
        let mut until = Duration::ZERO;
        let mut pause = PAUSE_MIN;
        for _ in 0..20 {
            until += pause;
            pause = (2 * pause).min(PAUSE_MAX);
            let wait = repairs.next_pause(one);
            assert!(
                wait <= until && wait + Duration::from_millis(500) > until,
                "{wait:?}"
            );
        }
        assert_eq!(pause, PAUSE_MAX);
        assert_eq!(repairs.next_pause(other), Duration::ZERO);
    }
}

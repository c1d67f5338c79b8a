//! What a shard tells the readers on other threads.

use std::sync::Arc;

use super::Shard;
use crate::error::{Error, Result};
use crate::readers::{Published, ReadDatabase, ReadLevel};
use crate::replica::request::Reply;

/// What a client may read at once at a level below `linearizable`: it is one message.
const READ_BYTES_MAX: usize = 64 << 20;

impl Shard {
    /// Tells the readers on other threads where the shard stands.
    pub(super) fn publish(&self) {
        let replica = self.replica.borrow();
        let (applied, serving) = replica.serves_at();
        let now = (applied, serving, replica.leader_id());
        let before = self.published.replace(Some(now));
        if before.is_none_or(|before| (before.1, before.2) != (now.1, now.2)) {
            let leader = replica.leader();
            tracing::info!(
                "{}{}",
                self.place().prefix(),
                leader.as_ref().map_or_else(
                    || "no leader is known".to_owned(),
                    |leader| format!("{leader} leads")
                )
            );
            self.readers.publish_leader(leader);
        }
        if before != Some(now) {
            let published = Published {
                applied: applied.0,
                serving,
            };
            self.readers.publish(published);
        }
        drop(replica);
        self.guide();
    }

    /// Tells the other shards of the node what they are to follow, if that has changed.
    fn guide(&self) {
        let place = self.place();
        if place.count == 1 || !place.is_first() {
            return;
        }
        let stamp = self.replica.borrow().guidance_stamp();
        if stamp.is_some() && self.guided.replace(stamp) != stamp {
            self.shards.guide(self.replica.borrow().guidance());
        }
    }

    /// Runs one statement that reads, at a level below `linearizable`, on another thread.
    pub(crate) async fn read(
        &self,
        level: ReadLevel,
        database: &str,
        sql: String,
    ) -> Result<Reply> {
        let database = self.read_database(database)?;
        let parameters = Vec::new();
        self.readers
            .query_async(level, database, sql, parameters, READ_BYTES_MAX)
            .await
            .map(Reply::Rows)
    }

    /// Readers on other threads want to read a database.
    pub(crate) fn read_database(&self, name: &str) -> Result<Arc<ReadDatabase>> {
        if self.replica.borrow().is_removed() {
            return Err(Error::Removed);
        }
        if let Some(known) = self.readers.find(name) {
            return Ok(known);
        }
        let replica = self.replica.borrow();
        replica.check_whole(name)?;
        let sql = self.sql.borrow();
        let found = replica
            .find_database(name)
            .and_then(|id| Some((id, sql.database(id).ok()?)));
        let Some((id, handle)) = found else {
            return Err(Error::misuse(
                rusqlite::ffi::SQLITE_NOTFOUND,
                format!("there is no database named {name:?} on this node"),
            ));
        };
        let database = Arc::new(ReadDatabase::new(id, handle.clone()));
        self.readers.insert(name, Arc::clone(&database));
        Ok(database)
    }
}

//! Requests about databases as a whole: copies out, files in, creation, dropping, the list.

use std::rc::Rc;

use futures_lite::AsyncWriteExt as _;
use ringlite_vfs::PageSize;

use super::{Ask, Connection, response_to};
use crate::backup::Backup;
use crate::commands::Command;
use crate::error::Error;
use crate::replica::request::Admin;
use crate::wire::{DatabaseEntry, FailureCode, Request, Response, dump_around};

impl Connection {
    /// Answers a request about databases, and hands any other back.
    pub(super) async fn handle_databases(
        &mut self,
        request: Request,
    ) -> std::io::Result<Option<Request>> {
        let admin = match request {
            Request::Backup { database, local } => {
                self.backup(&database, local).await?;
                return Ok(None);
            }
            Request::Dump { name } => {
                self.dump(&name).await?;
                return Ok(None);
            }
            Request::Databases => {
                let response = Response::Databases(self.databases().await);
                self.write(&response).await?;
                return Ok(None);
            }
            Request::CreateDatabase { name, page_size } => match PageSize::new(page_size) {
                Ok(page_size) => Admin::Create { name, page_size },
                Err(error) => {
                    let error = Error::misuse(rusqlite::ffi::SQLITE_MISUSE, error.to_string());
                    self.write(&response_to(Err(error))).await?;
                    return Ok(None);
                }
            },
            Request::DropDatabase { name } => Admin::Drop { name },
            Request::BeginRestore {
                database,
                file_bytes,
                replace,
            } => Admin::BeginRestore {
                name: database,
                file_bytes,
                replace,
            },
            Request::RestoreChunk { bytes } => Admin::RestoreChunk(bytes.into()),
            Request::FinishRestore => Admin::FinishRestore,
            other => return Ok(Some(other)),
        };
        if let Admin::RestoreChunk(_) | Admin::FinishRestore = admin {
            self.shard.restores_are_written().await;
        }
        self.answer(Ask::Admin(admin)).await?;
        Ok(None)
    }

    /// The databases of all shards, by name.
    async fn databases(&self) -> Vec<DatabaseEntry> {
        if self.shard.place().count == 1 {
            return self.shard.databases();
        }
        let mut all = self.of_all_shards(Command::Databases).await.concat();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Sends a copy in messages of one slice each. The client takes them as fast as it can, and
    /// the next slice is read when the last one is on its way.
    async fn backup(&mut self, name: &str, local: bool) -> std::io::Result<()> {
        let mut backup = match Backup::begin(Rc::clone(&self.shard), name, local).await {
            Ok(backup) => backup,
            Err(error) => return self.write(&response_to(Err(error))).await,
        };
        let head = backup.head();
        self.write(&Response::Backup {
            applied: head.applied.0,
            page_size: u64::from(head.page_size),
            page_count: u64::from(head.page_count),
        })
        .await?;
        while !backup.is_complete() {
            let mut bytes = Vec::new();
            match backup.next_slice(&mut bytes).await {
                Ok(()) => self.write(&Response::BackupChunk { bytes }).await?,
                Err(error) => return self.write(&response_to(Err(error))).await,
            }
        }
        Ok(())
    }

    /// Sends a copy as dqlite does: in one message, the main file and an empty WAL. The message is
    /// never in memory as a whole.
    async fn dump(&mut self, name: &str) -> std::io::Result<()> {
        let Ok(mut backup) = Backup::begin(Rc::clone(&self.shard), name, true).await else {
            let message = "database does not exists";
            return self
                .write(&Response::failure(FailureCode::NoDatabase, message))
                .await;
        };
        let (before, after) = match dump_around(name, backup.head().bytes()) {
            Ok(around) => around,
            Err(error) => return self.write(&Response::from(&error)).await,
        };
        self.stream.write_all(&before).await?;
        let mut bytes = Vec::new();
        while !backup.is_complete() {
            bytes.clear();
            // Nothing but the end of the connection can say that the rest will not come.
            let read = backup.next_slice(&mut bytes).await;
            read.map_err(|error| std::io::Error::other(error.to_string()))?;
            self.stream.write_all(&bytes).await?;
        }
        self.stream.write_all(&after).await
    }
}

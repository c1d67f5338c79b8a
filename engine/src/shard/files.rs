//! What a shard does with the files of its databases, and with the manifest that speaks of them.

use std::rc::Rc;
use std::time::Duration;

use ringlite_raft::{Configuration, LogIndex};
use ringlite_vfs::{CommitPoint, VfsError};

use super::Shard;
use crate::error::{Error, Result};
use crate::replica::request::{Reply, RequestId};
use crate::replica::{DatabaseFile, DatabaseId, Effect, Input};
use crate::sql::PinnedPages;
use crate::storage::{Manifest, ManifestDatabase};

/// Pages that backfill writes into a file at once.
const BACKFILL_SLICE_PAGES: usize = 256;
/// How often it is looked whether the disk has taken what arrives of a file.
const RESTORE_POLL: Duration = Duration::from_millis(1);
/// Digests that are being taken at once, or wait for a thread. Each keeps its pages from being moved.
const DIGESTS_RUNNING_MAX: usize = 16;

impl Shard {
    pub(super) fn perform_on_databases(self: &Rc<Self>, effect: Effect) {
        let mut sql = self.sql.borrow_mut();
        let result = match effect {
            Effect::CloseSession { session } => {
                sql.close_session(session);
                Ok(None)
            }
            Effect::SetWritable(writable) => {
                sql.set_writable(writable);
                Ok(None)
            }
            Effect::OpenDatabase {
                id,
                name,
                page_size,
            } => sql.open_database(id, &name, page_size),
            Effect::CreateDatabase {
                id,
                name,
                page_size,
            } => sql.create_database(id, &name, page_size).map(Some),
            Effect::RemoveDatabase { database } => {
                self.readers.forget(database);
                sql.remove_database(database).map(|()| None)
            }
            Effect::BeginRestore { restore } => sql.begin_restore(restore).map(|()| None),
            Effect::WriteRestore { restore, bytes } => {
                sql.write_restore(restore, bytes);
                Ok(None)
            }
            Effect::FinishRestore { restore, id, name } => sql.finish_restore(restore, id, &name),
            Effect::DiscardRestore { restore } => {
                sql.discard_restore(restore);
                Ok(None)
            }
            Effect::Apply { index, change } => sql.apply(&change).map(|applied| {
                applied.map(|commit_point| Input::Applied {
                    database: change.database,
                    index,
                    commit_point,
                })
            }),
            Effect::ShowCommitted { database, to } => {
                sql.show_committed(database, &to).map(|()| None)
            }
            Effect::RestartWal { database, ends } => {
                sql.restart_wal(database, &ends).map(|(end, commit_point)| {
                    Some(Input::WalRestarted {
                        database,
                        end,
                        commit_point,
                    })
                })
            }
            Effect::RollBack { database, to } => sql.roll_back(database, &to).map(|rolled_back| {
                rolled_back.map(|commit_point| Input::RolledBack {
                    database,
                    commit_point,
                })
            }),
            Effect::Digest {
                request,
                database,
                at,
                applied,
            } => {
                self.hash_pages(request, sql.begin_digest(database, &at, applied));
                Ok(None)
            }
            other => unreachable!("{other:?} is performed elsewhere"),
        };
        drop(sql);
        match result {
            Ok(None) => {}
            Ok(Some(input)) => self.replica.borrow_mut().step(input),
            Err(error) => self.halt(unusable(&error)),
        }
    }

    /// Waits until the disk has taken what has arrived of files that are being restored, so that
    /// whoever sends one sends no faster than that.
    pub(crate) async fn restores_are_written(&self) {
        while self.halted.borrow().is_none() && self.sql.borrow().has_queued_pieces() {
            glommio::timer::sleep(RESTORE_POLL).await;
        }
    }

    /// Hashes pages on another thread, and answers the request.
    fn hash_pages(self: &Rc<Self>, request: RequestId, pages: Result<PinnedPages>) {
        let pages = match pages {
            Ok(_) if self.digests_running.get() >= DIGESTS_RUNNING_MAX => Err(Error::Busy {
                what: "as many digests as may be at once are being taken",
            }),
            pages => pages,
        };
        let pages = match pages {
            Ok(pages) => pages,
            Err(error) => return self.deliver(request, Err(error)),
        };
        self.digests_running.update(|running| running + 1);
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            let digest = glommio::executor().spawn_blocking(move || pages.digest());
            let digest = digest.await.map(Reply::Digest);
            shard.digests_running.update(|running| running - 1);
            shard.deliver(request, digest);
        })
        .detach();
    }

    pub(super) fn save_manifest(
        self: &Rc<Self>,
        (base, owed): (LogIndex, LogIndex),
        configuration: Configuration,
        databases: &[DatabaseFile],
    ) {
        let log = self.log.start_behind(base);
        let manifest = Manifest {
            log: log.unwrap_or(self.log_start.get()),
            owed,
            installs: false,
            configuration,
            databases: databases.iter().map(ManifestDatabase::from).collect(),
        };
        let Some(mut file) = self.manifest.borrow_mut().take() else {
            unreachable!("the replica has one manifest saved at a time");
        };
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            match file.save(&manifest).await {
                Ok(()) => {
                    shard.manifest.replace(Some(file));
                    shard.log_start.set(manifest.log);
                    shard.push(Input::ManifestSaved);
                }
                Err(error) => shard.halt(format!("the manifest cannot be saved: {error}")),
            }
        })
        .detach();
    }

    pub(super) fn cut_log(&self, up_to: LogIndex) {
        let start = self.log_start.get();
        assert!(
            up_to <= start.base.index,
            "the manifest names the cut first"
        );
        self.log.cut(start);
    }

    /// Writes pages into a database's file and syncs it, on another thread.
    pub(super) fn backfill(
        self: &Rc<Self>,
        database: DatabaseId,
        ends: &[(LogIndex, CommitPoint)],
    ) {
        let sql = self.sql.borrow();
        let begun = match sql.begin_backfill(database, ends) {
            Ok(begun) => begun,
            Err(error) => return self.halt(unusable(&error)),
        };
        let file = sql.database(database).ok().cloned();
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            let written = glommio::executor().spawn_blocking(move || {
                let end = begun
                    .map(|(end, mut backfill)| {
                        while backfill.write_slice(BACKFILL_SLICE_PAGES)? {}
                        backfill.publish();
                        Ok(end)
                    })
                    .transpose()?;
                file.map_or(Ok(()), |file| file.sync_file())?;
                Ok(end)
            });
            match written.await {
                Ok(end) => shard.push(Input::Backfilled { database, end }),
                Err(VfsError::Removed { .. }) => shard.push(Input::Backfilled {
                    database,
                    end: None,
                }),
                Err(error) => shard.halt(unusable(&error)),
            }
        })
        .detach();
    }
}

fn unusable(error: &VfsError) -> String {
    format!("a database cannot be used any more: {error}")
}

//! The databases of a running node: real SQL over its files, and what is on its way into these.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ringlite::replica::{DatabaseId, Effect, Input};
use ringlite::sql::Sql;
use ringlite_raft::LogIndex;
use ringlite_vfs::{Backfill, CommitPoint, VfsError};

use super::disk::{Disk, Trouble};
use super::tally::{Kind, Tally};

/// Pages on their way into a database's file.
struct Filing {
    database: DatabaseId,
    end: Option<LogIndex>,
    backfill: Option<Backfill>,
    /// Then the file is synced.
    due: u64,
}

/// SQL over the files of one process.
pub(crate) struct Databases {
    pub(super) sql: Sql,
    filing: Option<Filing>,
    /// The file of each database.
    names: BTreeMap<DatabaseId, String>,
    /// How far the file of each database may have been written in this life.
    written: BTreeMap<DatabaseId, LogIndex>,
}

impl Databases {
    pub(super) fn new(directory: PathBuf, temporary: &Path) -> Databases {
        Databases {
            sql: Sql::new(directory, temporary.to_owned()).expect("SQLite"),
            filing: None,
            names: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// How far the file of a database may have been written in this life.
    pub(crate) fn written(&self, database: DatabaseId) -> Option<LogIndex> {
        self.written.get(&database).copied()
    }

    /// Whether pages are on their way into a file.
    pub(super) fn is_filing(&self) -> bool {
        self.filing.is_some()
    }

    /// A part of the file of a database; `None` if there is no such database any more.
    pub(crate) fn read_file(
        &mut self,
        database: DatabaseId,
        suffix: &str,
        offset: u64,
        length: usize,
    ) -> Option<Vec<u8>> {
        let opened = self.sql.open_file(database, suffix);
        let file = opened.expect("the file of a database")?;
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let read = file.read_at(&mut bytes[done..], offset + done as u64);
            match read.expect("a readable file") {
                0 => break,
                more => done += more,
            }
        }
        bytes.truncate(done);
        Some(bytes)
    }

    /// The files of a snapshot take the place of all databases.
    pub(super) fn replaced(&mut self) {
        self.sql.remove_databases().expect("a removal");
        self.names.clear();
        self.written.clear();
    }

    /// Goes on with what is being written into the file of a database; what the replica is told of it.
    /// `fails`: the next write does.
    pub(super) fn advance(
        &mut self,
        now: u64,
        fails: &mut bool,
        (disk, tally): (&mut Disk, &mut Tally),
    ) -> Result<Option<Input>, Trouble> {
        let Some(filing) = &mut self.filing else {
            return Ok(None);
        };
        if now < disk.health.hangs_until {
            return Ok(None);
        }
        let name = self.names.get(&filing.database);
        if let Some(mut backfill) = filing.backfill.take() {
            if std::mem::take(fails) {
                tally.count(Kind::FileError);
                return Err(Trouble::Failed);
            }
            if let Some(name) = name {
                disk.files.writes(name);
            }
            match backfill.write_slice(1) {
                Ok(true) => filing.backfill = Some(backfill),
                Ok(false) => {
                    backfill.publish();
                    tally.count(Kind::Backfill);
                    filing.due = now + disk.delay(tally);
                }
                Err(VfsError::Removed { .. }) => {
                    filing.end = None;
                    filing.due = now;
                }
                Err(error) => panic!("a file that cannot be written: {error}"),
            }
        } else if filing.due <= now {
            if let Some(name) = name {
                disk.files.is_safe(name);
            }
            let done = Input::Backfilled {
                database: filing.database,
                end: filing.end,
            };
            self.filing = None;
            return Ok(Some(done));
        }
        Ok(None)
    }

    fn begin_backfill(
        &mut self,
        database: DatabaseId,
        ends: &[(LogIndex, CommitPoint)],
        now: u64,
        (disk, tally): (&mut Disk, &mut Tally),
    ) -> Result<(), Trouble> {
        assert!(self.filing.is_none(), "one backfill at a time");
        disk.check_announced(database, ends);
        let begun = self.sql.begin_backfill(database, ends);
        let (end, backfill) = begun.expect("known commits").unzip();
        let grows = backfill.as_ref().is_some_and(|backfill: &Backfill| {
            let name = self.names.get(&database);
            let file = name.map(|name| disk.files.directory.join(name));
            let length = file.and_then(|file| Some(std::fs::metadata(file).ok()?.len()));
            let page_size = self.sql.page_size(database);
            let pages = u64::from(backfill.end().page_count());
            page_size.is_some_and(|size| length < Some(pages * u64::from(size.bytes())))
        });
        if grows && disk.health.is_full {
            tally.count(Kind::DiskFull);
            return Err(Trouble::Full);
        }
        if let Some(end) = end {
            self.written.insert(database, end);
        }
        self.filing = Some(Filing {
            database,
            end,
            backfill,
            due: now + disk.delay(tally),
        });
        Ok(())
    }

    /// Performs an effect that concerns databases as such; what the replica is told of it.
    pub(super) fn perform(
        &mut self,
        effect: Effect,
        now: u64,
        (disk, tally): (&mut Disk, &mut Tally),
    ) -> Result<Option<Input>, Trouble> {
        let needs_room = matches!(
            effect,
            Effect::CreateDatabase { .. } | Effect::FinishRestore { .. }
        );
        if needs_room && disk.health.is_full {
            tally.count(Kind::DiskFull);
            return Err(Trouble::Full);
        }
        let sql = &mut self.sql;
        if let Effect::OpenDatabase { id, name, .. }
        | Effect::CreateDatabase { id, name, .. }
        | Effect::FinishRestore { id, name, .. } = &effect
        {
            self.names.insert(*id, name.clone());
        }
        let answer = match effect {
            Effect::Backfill { database, ends } => {
                self.begin_backfill(database, &ends, now, (disk, tally))?;
                None
            }
            Effect::CloseSession { session } => {
                sql.close_session(session);
                None
            }
            Effect::SetWritable(writable) => {
                sql.set_writable(writable);
                None
            }
            Effect::OpenDatabase {
                id,
                name,
                page_size,
            } => sql
                .open_database(id, &name, page_size)
                .expect("a file or none"),
            Effect::CreateDatabase {
                id,
                name,
                page_size,
            } => {
                let opened = sql.create_database(id, &name, page_size);
                disk.files.is_safe(&name);
                Some(opened.expect("a database"))
            }
            Effect::RemoveDatabase { database } => {
                sql.remove_database(database).expect("a removal");
                if let Some(name) = self.names.remove(&database) {
                    disk.files.is_safe(&name);
                }
                None
            }
            Effect::BeginRestore { restore } => {
                sql.begin_restore(restore).expect("room for a file");
                None
            }
            Effect::WriteRestore { restore, bytes } => {
                sql.write_restore(restore, bytes);
                None
            }
            Effect::FinishRestore { restore, id, name } => {
                let opened = sql.finish_restore(restore, id, &name);
                disk.files.is_safe(&name);
                Some(opened.expect("a whole file").expect("a restore"))
            }
            Effect::DiscardRestore { restore } => {
                sql.discard_restore(restore);
                None
            }
            Effect::Apply { index, change } => {
                // An earlier life may have removed the file already, for an entry still to come.
                let point = sql.apply(&change).expect("pages that can be applied");
                point.map(|commit_point| Input::Applied {
                    database: change.database,
                    index,
                    commit_point,
                })
            }
            Effect::ShowCommitted { database, to } => {
                sql.show_committed(database, &to).expect("a known commit");
                None
            }
            Effect::RestartWal { database, ends } => {
                disk.check_announced(database, &ends);
                if let Some(name) = self.names.get(&database) {
                    disk.files.writes(name);
                }
                let (end, commit_point) = sql.restart_wal(database, &ends).expect("a restart");
                if let Some(end) = end {
                    self.written.insert(database, end);
                }
                tally.add(Kind::WalRestart, u64::from(commit_point.is_some()));
                Some(Input::WalRestarted {
                    database,
                    end,
                    commit_point,
                })
            }
            Effect::RollBack { database, to } => {
                tally.count(Kind::RollBack);
                let point = sql.roll_back(database, &to).expect("a known commit");
                point.map(|commit_point| Input::RolledBack {
                    database,
                    commit_point,
                })
            }
            other => panic!("{other:?} is performed elsewhere"),
        };
        Ok(answer)
    }
}

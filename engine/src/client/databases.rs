//! A client's requests about databases as a whole.

use std::path::Path;

use ringlite_raft::LogIndex;

use super::source_file::SourceFile;
use super::{Client, ClientError};
use crate::backup::BackupHead;
use crate::whole_file::WholeFile;
use crate::wire::{DatabaseEntry, Request, Response};

/// A file that is restored travels in pieces of so many bytes: large enough to be fast, small
/// enough that a commit of another client does not wait long behind one.
const CHUNK_BYTES: usize = 256 << 10;

/// What a backup leaves out of the server's answer is an error of the server.
const BACKUP_BYTES: &str = "as many bytes as BACKUP said";

impl Client {
    /// Creates a database with pages of `page_size` bytes, a power of two from 512 to 65536.
    /// [`Client::open`] creates them with pages of 4096 bytes. Ringlite only, as are the following.
    ///
    /// # Errors
    /// A failure if there is one of this name; otherwise as [`Client::execute`].
    pub fn create_database(&mut self, name: &str, page_size: u32) -> Result<(), ClientError> {
        let create = Request::CreateDatabase {
            name: name.to_owned(),
            page_size,
        };
        self.change_database(name, &create)
    }

    /// Drops a database on all nodes. Whoever has it open is told so by the next answer.
    ///
    /// # Errors
    /// A failure if there is none of this name; otherwise as [`Client::execute`].
    pub fn drop_database(&mut self, name: &str) -> Result<(), ClientError> {
        let drop = Request::DropDatabase {
            name: name.to_owned(),
        };
        self.change_database(name, &drop)
    }

    fn change_database(&mut self, name: &str, request: &Request) -> Result<(), ClientError> {
        match self.request_about(name, request)? {
            Response::Empty => Ok(()),
            other => Err(self.unexpected("EMPTY", &other)),
        }
    }

    /// The databases of the node, as far as it has applied the log.
    ///
    /// # Errors
    /// As every request.
    pub fn databases(&mut self) -> Result<Vec<DatabaseEntry>, ClientError> {
        match self.request(&Request::Databases)? {
            Response::Databases(databases) => Ok(databases),
            other => Err(self.unexpected("DATABASES", &other)),
        }
    }

    /// Writes a copy of a database to `path`, a SQLite file, while others go on writing: the state
    /// at one index of the log. The file appears as a whole; until then it is `PATH.partial`.
    ///
    /// With `local` it is of what this node has applied. Otherwise the node has to be the leader,
    /// and the copy has everything that was acknowledged before the call.
    ///
    /// `progress` is told how many bytes of how many have come.
    ///
    /// # Errors
    /// [`ClientError::File`]; a failure if there is no such database, or if its state was given up
    /// while it was being sent, as when the node lost its leadership: begin anew.
    pub fn backup(
        &mut self,
        database: &str,
        local: bool,
        path: &Path,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<BackupHead, ClientError> {
        let backup = Request::Backup {
            database: database.to_owned(),
            local,
        };
        let head = match self.request_about(database, &backup)? {
            Response::Backup {
                applied,
                page_size,
                page_count,
            } => BackupHead {
                applied: LogIndex(applied),
                page_size: u32::try_from(page_size).unwrap_or(0),
                page_count: u32::try_from(page_count).unwrap_or(0),
            },
            other => return Err(self.unexpected("BACKUP", &other)),
        };
        let copied = self.receive_backup(&head, path, &mut progress);
        if matches!(&copied, Err(ClientError::File { .. })) {
            // The rest of the answer is on its way; there is no way to call it off.
            self.connection = None;
        }
        copied.map(|()| head)
    }

    fn receive_backup(
        &mut self,
        head: &BackupHead,
        path: &Path,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), ClientError> {
        let cannot = |action| {
            move |source| ClientError::File {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let mut file = WholeFile::create(path).map_err(cannot("create"))?;
        let mut done = 0;
        while done < head.bytes() {
            let response = self.receive_success()?;
            let Response::BackupChunk { bytes } = &response else {
                return Err(self.unexpected("BACKUP_CHUNK", &response));
            };
            done += bytes.len() as u64;
            if bytes.is_empty() || done > head.bytes() {
                return Err(self.unexpected(BACKUP_BYTES, &response));
            }
            file.write(bytes).map_err(cannot("write"))?;
            progress(done, head.bytes());
        }
        file.finish().map_err(cannot("finish"))
    }

    /// Sends a database file to the leader, where nothing of it is visible before
    /// [`Client::finish_restore`]. Unless `replace`, there must be no database of the name.
    ///
    /// `progress` is told how many bytes of how many are on stable storage of a majority.
    ///
    /// # Errors
    /// As every request. Nothing has happened then, and nothing of it is left once the connection
    /// is closed: begin anew.
    pub fn send_restore(
        &mut self,
        database: &str,
        file: &mut SourceFile,
        replace: bool,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ClientError> {
        let begin = Request::BeginRestore {
            database: database.to_owned(),
            file_bytes: file.bytes(),
            replace,
        };
        self.change_database(database, &begin)?;
        let mut done = 0;
        while let Some(bytes) = file.read_chunk(done, CHUNK_BYTES)? {
            done += bytes.len() as u64;
            self.request_empty(&Request::RestoreChunk { bytes })?;
            progress(done, file.bytes());
        }
        file.check_is_unchanged()
    }

    /// Makes the file that was sent the database. When it returns, it is so on a majority, and
    /// every session on the database that it replaces has ended.
    ///
    /// # Errors
    /// As [`Client::execute`]: on [`ClientError::is_outcome_unknown`] and on a lost connection it
    /// may have happened or not; otherwise nothing has.
    pub fn finish_restore(&mut self) -> Result<(), ClientError> {
        self.request_empty(&Request::FinishRestore)
    }
}

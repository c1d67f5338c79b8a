//! A SQLite database file that is about to be restored: checked, and watched while it is read.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, OpenFlags};

use super::ClientError;
use crate::database_file::{self, HEADER_BYTES};

/// How a rollback journal begins that has something to roll back.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// A database file that plain SQLite can read, and that holds all of the database by itself.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    /// Reads the database all the time: so nobody can write it in rollback mode. It comes before
    /// `file`, because closing any other handle of the file gives up a process's locks on it.
    _reader: Connection,
    file: File,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl SourceFile {
    /// Opens a database file in rollback-journal or WAL mode. With `check` the whole of it is
    /// examined by SQLite (`PRAGMA quick_check`), which reads all of it once.
    ///
    /// # Errors
    /// [`ClientError::File`] if it cannot be read, [`ClientError::NotRestorable`] if it is no whole
    /// database: it is damaged, or a part of it is still in its journal or its WAL.
    pub fn open(path: &Path, check: bool) -> Result<Self, ClientError> {
        let cannot = |action| move |source| file_error(path, action, source);
        let file = File::open(path).map_err(cannot("open"))?;
        let metadata = file.metadata().map_err(cannot("examine"))?;
        let mut header = Vec::new();
        let start = (&file).take(HEADER_BYTES as u64).read_to_end(&mut header);
        start.map_err(cannot("read"))?;
        let refused = |reason: &dyn std::fmt::Display| ClientError::NotRestorable {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        database_file::check_header(&header, metadata.len()).map_err(|reason| refused(&reason))?;
        refuse_companions(path).map_err(|reason| refused(&reason))?;
        let reader = open_reader(path, database_file::is_in_wal_mode(&header), check)
            .map_err(|error| refused(&format!("SQLite says: {error}")))?;
        Ok(Self {
            path: path.to_owned(),
            _reader: reader,
            file,
            bytes: metadata.len(),
            modified: modified(&metadata),
        })
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next at most `bytes_max` bytes from `offset` on; `None` at the end.
    pub(super) fn read_chunk(
        &mut self,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, ClientError> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let mut chunk = vec![0; left.min(bytes_max)];
        self.file
            .read_exact_at(&mut chunk, offset)
            .map_err(|source| file_error(&self.path, "read", source))?;
        Ok(Some(chunk))
    }

    /// Fails if somebody has written the file since it was opened.
    pub(super) fn check_is_unchanged(&self) -> Result<(), ClientError> {
        let metadata = std::fs::metadata(&self.path)
            .map_err(|source| file_error(&self.path, "examine", source))?;
        let unchanged = metadata.len() == self.bytes && modified(&metadata) == self.modified;
        let companions = refuse_companions(&self.path);
        let reason = match (unchanged, companions) {
            (false, _) => {
                "it was written while it was read; restore a copy that nobody uses".into()
            }
            (true, Err(reason)) => reason,
            (true, Ok(())) => return Ok(()),
        };
        Err(ClientError::NotRestorable {
            path: self.path.clone(),
            reason,
        })
    }
}

fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

fn file_error(path: &Path, action: &'static str, source: std::io::Error) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        action,
        source,
    }
}

/// Refuses a file of which a part is elsewhere.
fn refuse_companions(path: &Path) -> Result<(), String> {
    let companion = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let journal = companion("-journal");
    let mut start = [0; JOURNAL_MAGIC.len()];
    let read = File::open(&journal).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == JOURNAL_MAGIC {
        return Err(format!(
            "it has a hot journal, {}: a program writes it now, or has died in a transaction; \
             open it once with sqlite3 to roll that back",
            journal.display()
        ));
    }
    let wal = companion("-wal");
    if std::fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 0) {
        return Err(format!(
            "a part of it may be in {}: end the programs that use it, or run \
             sqlite3 FILE 'PRAGMA wal_checkpoint(TRUNCATE)'",
            wal.display()
        ));
    }
    Ok(())
}

/// A connection that reads the database, and goes on doing so.
fn open_reader(path: &Path, is_in_wal_mode: bool, check: bool) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if is_in_wal_mode {
        // Its WAL is empty. Without this SQLite would make files beside it.
        flags |= OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(immutable_uri(path), flags)?
    } else {
        Connection::open_with_flags(path, flags)?
    };
    connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    if check {
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                Some(verdict),
            ));
        }
    }
    Ok(connection)
}

fn immutable_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri + "?immutable=1"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path, mode: &str) -> Connection {
        let connection = Connection::open(path).unwrap();
        let _: String = connection
            .query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get(0))
            .unwrap();
        connection
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(20000))")
            .unwrap();
        connection
    }

    fn refusal(path: &Path) -> String {
        match SourceFile::open(path, true) {
            Err(ClientError::NotRestorable { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_closed_file_of_each_mode_is_read_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        for (mode, name) in [
            ("delete", "a b%?#ä.db"),
            ("wal", "c d%?#ö.db"),
            ("persist", "p.db"),
        ] {
            let path = directory.path().join(name);
            drop(database(&path, mode));
            let mut source = SourceFile::open(&path, true).unwrap();
            let mut read = Vec::new();
            while let Some(chunk) = source.read_chunk(read.len() as u64, 1000).unwrap() {
                read.extend(chunk);
            }
            assert_eq!(read, std::fs::read(&path).unwrap(), "{mode}");
            source.check_is_unchanged().unwrap();
        }
    }

    #[test]
    fn what_is_no_whole_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.db");
        std::fs::write(&path, [7; 8192]).unwrap();
        assert!(refusal(&path).contains("does not begin"));
        std::fs::remove_file(&path).unwrap();

        let open = database(&path, "wal");
        assert!(refusal(&path).contains("wal_checkpoint"));
        drop(open);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 100]).unwrap();
        assert!(refusal(&path).contains("cut off"));

        let mut damaged = whole;
        damaged[4096..4200].fill(0xee);
        std::fs::write(&path, &damaged).unwrap();
        assert!(refusal(&path).contains("SQLite says"));
        assert!(
            SourceFile::open(&path, false).is_ok(),
            "it was not to be checked"
        );
        assert!(matches!(
            SourceFile::open(&directory.path().join("missing"), true),
            Err(ClientError::File { .. })
        ));
    }

    #[test]
    fn a_hot_journal_and_a_file_that_changes_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.db");
        let mut writer = database(&path, "delete");
        let source = SourceFile::open(&path, true).unwrap();
        let busy = writer.execute("INSERT INTO t VALUES (1)", []);
        assert!(busy.is_err(), "the reader's lock keeps writers out");
        drop(source);
        writer.pragma_update(None, "cache_size", 1).unwrap();
        let transaction = writer.transaction().unwrap();
        transaction
            .execute("UPDATE t SET x = randomblob(50000)", [])
            .unwrap();
        transaction
            .execute("INSERT INTO t VALUES (randomblob(90000))", [])
            .unwrap();
        assert!(refusal(&path).contains("hot journal"));
        transaction.rollback().unwrap();
        let source = SourceFile::open(&path, true).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([0; 4096]);
        std::fs::write(&path, bytes).unwrap();
        assert!(source.check_is_unchanged().is_err());
    }
}

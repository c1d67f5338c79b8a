//! A snapshot on its way in: the files of another node's databases, kept beside this node's own
//! until one record of the manifest makes them the databases.
//!
//! ```text
//! shard-N/snapshot/state    which snapshot it is, and what of it is on stable storage
//! shard-N/snapshot/ID.db*   the files of a database, ID being 16 hexadecimal digits
//! ```
//!
//! Files come one after the other, each from its beginning. What has arrived is synced as it comes, and
//! every few MiB `state` names how far that is, so that a node that was killed, or lost its power,
//! goes on from there.
//!
//! **The switch.** When everything is here and durable, a manifest is saved that names these
//! databases and says that it installs them. From then on they are the shard's, and every start
//! renames whatever still lies here; before it, nothing of this directory counts.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use ringlite_vfs::DATABASE_FILE_SUFFIXES;

use super::manifest::{self, Manifest, Stamp};
use super::{DataDirectory, StorageError, segment};
use crate::whole_file::WholeFile;

const DIRECTORY: &str = "snapshot";
const STATE: &str = "state";

const MAGIC: [u8; 8] = *b"RNGLSNAP";
const VERSION: u32 = 1;
/// Magic, version, file, offset, and the length of the head.
const STATE_BYTES: usize = 8 + 4 + 4 + 8 + 4;
const CRC_BYTES: usize = 4;

/// What may have arrived and not be durable. A sync of so much is over before a log write that shares
/// the disk has waited for long.
const UNSYNCED_BYTES_MAX: u64 = 1 << 20;
/// What may have arrived and not be named by `state`. A kill loses no more.
const UNSAVED_BYTES_MAX: u64 = 8 << 20;
/// How old what an earlier life has left may be. Leaders give a member up much sooner.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// A file of a database, by the database's id and what the file's name has behind that of the
/// database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StagedFile {
    pub(crate) database: u64,
    pub(crate) suffix: &'static str,
}

impl StagedFile {
    fn name(self) -> String {
        format!("{:016x}.db{}", self.database, self.suffix)
    }
}

/// How much of a snapshot has arrived: all files before the one at place `file` of its list, and
/// that one up to `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The place of a file.
    pub file: u32,
    /// In bytes.
    pub offset: u64,
}

/// The directory of a snapshot that arrives. All calls block.
#[derive(Debug)]
pub(crate) struct Staging {
    directory: PathBuf,
    /// What says which snapshot it is; opaque here.
    head: Bytes,
    position: Position,
    /// The file at `position`, once it is begun.
    file: Option<File>,
    unsynced_bytes: u64,
    unsaved_bytes: u64,
    /// A write or a sync has failed. The system tells of a page that it could not write only once, so that
    /// no later sync proves anything of what is here since the last save.
    has_failed: bool,
}

/// Where snapshots arrive in a data directory.
#[derive(Clone, Debug)]
pub struct StagingArea {
    shard: PathBuf,
}

impl StagingArea {
    pub(crate) fn of(directory: &DataDirectory) -> Self {
        Self::in_shard(&directory.shard())
    }

    /// Where they arrive in the directory of a shard.
    pub(super) fn in_shard(shard: &Path) -> Self {
        Self {
            shard: shard.to_owned(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.shard.join(DIRECTORY)
    }

    /// Begins a snapshot, in place of whatever is there.
    pub(crate) fn begin(&self, head: Bytes) -> Result<Staging, StorageError> {
        self.clear()?;
        let directory = self.directory();
        let make = || -> std::io::Result<()> {
            std::fs::create_dir(&directory)?;
            File::open(&self.shard)?.sync_all()
        };
        make().map_err(|source| StorageError::io("make", &directory, source))?;
        Ok(Staging {
            directory,
            head,
            position: Position::default(),
            file: None,
            unsynced_bytes: 0,
            unsaved_bytes: 0,
            has_failed: false,
        })
    }

    /// What an earlier connection, or an earlier life, has received and made durable. `None` if
    /// there is nothing that can be gone on with.
    pub(crate) fn resume(&self) -> Result<Option<Staging>, StorageError> {
        let directory = self.directory();
        let path = directory.join(STATE);
        match std::fs::read(&path) {
            Ok(state) => Ok(decode(&state).map(|(position, head)| Staging {
                directory,
                head,
                position,
                file: None,
                unsynced_bytes: 0,
                unsaved_bytes: 0,
                has_failed: false,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StorageError::io("read", &path, source)),
        }
    }

    /// Removes what an earlier life has left and no leader can be going on with any more.
    fn clear_stale(&self) -> Result<(), StorageError> {
        let state = self.directory().join(STATE);
        let age = std::fs::metadata(state)
            .and_then(|state| state.modified())
            .map(|modified| modified.elapsed().unwrap_or_default());
        match age {
            Ok(age) if age < KEPT_FOR => Ok(()),
            _ => self.clear(),
        }
    }

    /// Removes what has arrived.
    ///
    /// # Errors
    /// The system refuses.
    pub fn clear(&self) -> Result<(), StorageError> {
        let directory = self.directory();
        match std::fs::remove_dir_all(&directory) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(StorageError::io("remove", &directory, source))
            }
            _ => Ok(()),
        }
    }

    /// Makes the files the databases that `manifest` names, which says durably that it installs
    /// them, and removes all others. None of them may be open. What an interrupted call has done is
    /// not done again. Durable on return.
    ///
    /// # Errors
    /// A file is neither here nor among the databases, or the system refuses.
    pub(crate) fn install(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let databases = self.shard.join("databases");
        let failed =
            |operation, path: &Path, source| Err(StorageError::io(operation, path, source));
        let mut names = BTreeSet::new();
        let files = manifest.databases.iter().flat_map(|database| {
            // A database gets its name when its checksums have theirs.
            let suffixes = DATABASE_FILE_SUFFIXES.into_iter().rev();
            suffixes.map(move |suffix| (database, suffix))
        });
        for (database, suffix) in files {
            let file = StagedFile {
                database: database.id,
                suffix,
            };
            let name = format!("{}{suffix}", database.name);
            let from = self.directory().join(file.name());
            let to = databases.join(&name);
            names.insert(OsString::from(name));
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() == ErrorKind::NotFound && to.exists() => {}
                Err(error) => return failed("install", &from, error),
                Ok(()) => {}
            }
        }
        let list = |source| StorageError::io("list", &databases, source);
        for file in std::fs::read_dir(&databases).map_err(list)? {
            let file = file.map_err(list)?;
            if !names.contains(&file.file_name())
                && let Err(error) = std::fs::remove_file(file.path())
            {
                return failed("remove", &file.path(), error);
            }
        }
        match File::open(&databases).and_then(|directory| directory.sync_all()) {
            Err(error) => failed("sync", &databases, error),
            Ok(()) => self.clear(),
        }
    }
}

/// Finishes at a start what a crash has interrupted of an installation, on either side of the switch.
/// Returns the manifest as it is then.
pub(super) fn settle(
    shard: &Path,
    mut stamp: Stamp,
    mut manifest: Manifest,
) -> Result<(Stamp, Manifest), StorageError> {
    let area = StagingArea::in_shard(shard);
    segment::settle(&shard.join("log"), manifest.log.segment)?;
    if manifest.installs && !mutation!(InstallationForgotten) {
        area.install(&manifest)?;
        manifest.installs = false;
        stamp.sequence += 1;
        manifest::replace(shard, &stamp, &manifest)?;
    }
    area.clear_stale()?;
    Ok((stamp, manifest))
}

impl Staging {
    /// What [`StagingArea::begin`] was given.
    pub(crate) fn head(&self) -> &Bytes {
        &self.head
    }

    /// What comes next.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Appends to the file at the position.
    pub(crate) fn write(&mut self, file: StagedFile, bytes: &[u8]) -> Result<(), StorageError> {
        let path = self.directory.join(file.name());
        let offset = self.position.offset;
        let written = self.write_at(&path, bytes, offset);
        self.has_failed |= written.is_err();
        written.map_err(|source| StorageError::io("write", &path, source))?;
        self.position.offset += bytes.len() as u64;
        self.unsynced_bytes += bytes.len() as u64;
        self.unsaved_bytes += bytes.len() as u64;
        if self.unsaved_bytes >= UNSAVED_BYTES_MAX {
            self.save()?;
        } else if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.sync_file()?;
        }
        Ok(())
    }

    fn write_at(&mut self, path: &Path, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(path, offset)?,
        };
        file.write_all_at(bytes, offset)?;
        self.file = Some(file);
        Ok(())
    }

    /// The file at the position is whole.
    pub(crate) fn end_file(&mut self, file: StagedFile) -> Result<(), StorageError> {
        if self.file.is_none() {
            // Also an empty one has to be there.
            self.write(file, &[])?;
        }
        self.sync_file()?;
        self.next_file();
        Ok(())
    }

    /// There will be no file at the position: its database was dropped while it was copied.
    pub(crate) fn skip_file(&mut self, file: StagedFile) -> Result<(), StorageError> {
        let path = self.directory.join(file.name());
        self.next_file();
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(StorageError::io("remove", &path, source))
            }
            _ => Ok(()),
        }
    }

    /// Whether all files of a database are here.
    pub(crate) fn has(&self, database: u64) -> bool {
        let mut files = DATABASE_FILE_SUFFIXES
            .map(|suffix| StagedFile { database, suffix })
            .into_iter();
        files.all(|file| self.directory.join(file.name()).exists())
    }

    fn next_file(&mut self) {
        self.file = None;
        self.position = Position {
            file: self.position.file + 1,
            offset: 0,
        };
    }

    /// Makes what has arrived durable, and then says so: from here on a later life goes on.
    pub(crate) fn save(&mut self) -> Result<(), StorageError> {
        self.sync_file()?;
        let named = self.sync_names();
        self.has_failed |= named.is_err();
        named?;
        let path = self.directory.join(STATE);
        let save = || -> std::io::Result<()> {
            let mut state = WholeFile::create(&path)?;
            state.write(&encode(self.position, &self.head))?;
            state.finish()
        };
        save().map_err(|source| StorageError::io("write", &path, source))?;
        self.unsaved_bytes = 0;
        Ok(())
    }

    fn sync_file(&mut self) -> Result<(), StorageError> {
        let synced = match &self.file {
            _ if self.has_failed => {
                Err(std::io::Error::other("a write or a sync of it has failed"))
            }
            Some(file) => file.sync_data(),
            None => Ok(()),
        };
        self.has_failed |= synced.is_err();
        self.unsynced_bytes = 0;
        synced.map_err(|source| StorageError::io("sync a file in", &self.directory, source))
    }

    fn sync_names(&self) -> Result<(), StorageError> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| StorageError::io("sync", &self.directory, source))
    }
}

/// Opens a file for going on at `offset`; what an earlier life has written behind it is cut off.
fn open(path: &Path, offset: u64) -> std::io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.set_len(offset)?;
    Ok(file)
}

fn encode(position: Position, head: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(STATE_BYTES + head.len() + CRC_BYTES);
    out.put_slice(&MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(position.file);
    out.put_u64_le(position.offset);
    out.put_u32_le(head.len() as u32);
    out.put_slice(head);
    out.put_u32_le(crc32fast::hash(&out));
    out
}

/// `None`: then the snapshot is begun anew.
fn decode(state: &[u8]) -> Option<(Position, Bytes)> {
    let (record, mut crc) = state.split_at_checked(state.len().checked_sub(CRC_BYTES)?)?;
    let mut rest = record.strip_prefix(&MAGIC)?;
    if crc.get_u32_le() != crc32fast::hash(record)
        || record.len() < STATE_BYTES
        || rest.get_u32_le() != VERSION
    {
        return None;
    }
    let position = Position {
        file: rest.get_u32_le(),
        offset: rest.get_u64_le(),
    };
    let is_all = rest.get_u32_le() as usize == rest.len();
    is_all.then(|| (position, Bytes::copy_from_slice(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::manifest::ManifestDatabase;

    fn area() -> (tempfile::TempDir, StagingArea) {
        let shard = tempfile::tempdir().unwrap();
        std::fs::create_dir(shard.path().join("databases")).unwrap();
        let area = StagingArea {
            shard: shard.path().to_owned(),
        };
        (shard, area)
    }

    fn head() -> Bytes {
        Bytes::from_static(b"which one it is")
    }

    fn pages(database: u64) -> StagedFile {
        let suffix = "";
        StagedFile { database, suffix }
    }

    fn sums(database: u64) -> StagedFile {
        let suffix = ".sum";
        StagedFile { database, suffix }
    }

    /// The kernel tells of pages that it could not write once; the next sync would succeed.
    #[test]
    fn what_a_failed_sync_may_have_lost_is_never_named() {
        let (_shard, area) = area();
        let mut staging = area.begin(head()).unwrap();
        staging.write(pages(1), &[1; 100]).unwrap();
        staging.save().unwrap();
        staging.write(pages(1), &[2; 100]).unwrap();
        let whole = staging.file.take();
        // A pipe cannot be synced.
        let (pipe, _other) = std::io::pipe().unwrap();
        staging.file = Some(File::from(std::os::fd::OwnedFd::from(pipe)));
        assert!(staging.save().is_err());
        staging.file = whole;
        assert!(staging.save().is_err());
        assert!(staging.end_file(pages(1)).is_err());
        drop(staging);
        assert_eq!(area.resume().unwrap().unwrap().position(), at(0, 100));
    }

    #[test]
    fn what_lies_before_a_failed_write_is_not_named_either() {
        let (_shard, area) = area();
        let mut staging = area.begin(head()).unwrap();
        staging.write(pages(1), &[1; 100]).unwrap();
        let path = staging.directory.join(pages(1).name());
        staging.file = Some(File::open(path).unwrap());
        assert!(staging.write(pages(1), &[2; 100]).is_err());
        assert!(staging.save().is_err());
        assert!(area.resume().unwrap().is_none());
    }

    fn at(file: u32, offset: u64) -> Position {
        Position { file, offset }
    }

    fn manifest(databases: &[(u64, &str)]) -> Manifest {
        let databases = databases.iter().map(|(id, name)| ManifestDatabase {
            id: *id,
            name: (*name).to_owned(),
            page_size: 4096,
            applied: ringlite_raft::LogIndex(9),
            target: ringlite_raft::LogIndex(9),
        });
        Manifest {
            installs: true,
            databases: databases.collect(),
            ..Manifest::default()
        }
    }

    /// The names and contents of the databases.
    fn installed(shard: &Path) -> Vec<(String, Vec<u8>)> {
        let files = std::fs::read_dir(shard.join("databases")).unwrap();
        let mut found: Vec<_> = files
            .map(|file| {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                (name, std::fs::read(file.path()).unwrap())
            })
            .collect();
        found.sort();
        found
    }

    /// The files of a database, as they come from a leader.
    fn put(staging: &mut Staging, database: u64, bytes: &[u8]) {
        staging.write(pages(database), bytes).unwrap();
        staging.end_file(pages(database)).unwrap();
        staging.write(sums(database), b"sums").unwrap();
        staging.end_file(sums(database)).unwrap();
    }

    /// What is installed of databases with these names and contents.
    fn wanted(databases: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        let files = databases.iter().flat_map(|(name, content)| {
            [
                ((*name).to_owned(), content.as_bytes().to_vec()),
                (format!("{name}.sum"), b"sums".to_vec()),
            ]
        });
        files.collect()
    }

    #[test]
    fn it_goes_on_where_it_was_saved_and_what_came_later_is_written_again() {
        let (shard, area) = area();
        assert!(area.resume().unwrap().is_none());
        let mut staging = area.begin(head()).unwrap();
        assert!(area.resume().unwrap().is_none(), "nothing is durable yet");
        put(&mut staging, 7, b"seven");
        staging.write(pages(8), b"ei").unwrap();
        staging.save().unwrap();
        staging.write(pages(8), b"XXXXXXXX").unwrap();
        drop(staging);
        let mut staging = area.resume().unwrap().unwrap();
        assert_eq!((staging.head(), staging.position()), (&head(), at(2, 2)));
        put(&mut staging, 8, b"ght");
        staging.end_file(pages(9)).unwrap();
        assert!(staging.has(8) && !staging.has(9));
        staging.skip_file(sums(9)).unwrap();
        put(&mut staging, 10, b"");
        assert_eq!(staging.position(), at(8, 0));
        area.install(&manifest(&[(7, "a"), (8, "b"), (10, "c")]))
            .unwrap();
        let wanted = wanted(&[("a", "seven"), ("b", "eight"), ("c", "")]);
        assert_eq!(installed(shard.path()), wanted);
        assert!(area.resume().unwrap().is_none());
    }

    #[test]
    fn only_what_a_leader_may_be_going_on_with_survives_a_start() {
        let (shard, area) = area();
        area.clear_stale().unwrap();
        let mut staging = area.begin(head()).unwrap();
        staging.write(pages(7), b"seven").unwrap();
        staging.save().unwrap();
        area.clear_stale().unwrap();
        assert!(area.resume().unwrap().is_some());
        let state = File::options()
            .write(true)
            .open(shard.path().join("snapshot").join(STATE))
            .unwrap();
        let old = std::time::SystemTime::now() - KEPT_FOR;
        state.set_modified(old).unwrap();
        area.clear_stale().unwrap();
        assert!(!shard.path().join("snapshot").exists());
    }

    #[test]
    fn a_file_that_is_skipped_leaves_nothing_behind() {
        let (shard, area) = area();
        let mut staging = area.begin(head()).unwrap();
        staging.write(pages(7), b"seven").unwrap();
        staging.skip_file(pages(7)).unwrap();
        assert!(!shard.path().join("snapshot").join(pages(7).name()).exists());
    }

    /// The switch has been made; the process then dies behind each single rename.
    #[test]
    fn an_installation_is_finished_wherever_it_was_interrupted() {
        let named = manifest(&[(7, "a"), (8, "b")]);
        for renamed in 0..=4 {
            let (shard, area) = area();
            let databases = shard.path().join("databases");
            for name in ["a", "old", "old.sum", "b"] {
                std::fs::write(databases.join(name), "of before").unwrap();
            }
            let mut staging = area.begin(head()).unwrap();
            put(&mut staging, 7, b"seven");
            put(&mut staging, 8, b"eight");
            let all = [
                (sums(7), "a"),
                (pages(7), "a"),
                (sums(8), "b"),
                (pages(8), "b"),
            ];
            for (file, name) in all.into_iter().take(renamed) {
                let from = shard.path().join("snapshot").join(file.name());
                let name = format!("{name}{}", file.suffix);
                std::fs::rename(from, databases.join(name)).unwrap();
            }
            area.install(&named).unwrap();
            area.install(&named).unwrap();
            let wanted = wanted(&[("a", "seven"), ("b", "eight")]);
            assert_eq!(installed(shard.path()), wanted);
        }
    }

    #[test]
    fn a_file_that_is_nowhere_is_an_error() {
        let (_shard, area) = area();
        area.begin(head()).unwrap();
        let error = area.install(&manifest(&[(7, "a")])).unwrap_err();
        assert!(error.to_string().starts_with("cannot install"), "{error}");
    }

    #[test]
    fn a_state_with_any_changed_or_missing_byte_is_none() {
        let state = encode(at(3, 4), &head());
        assert_eq!(decode(&state), Some((at(3, 4), head())));
        for place in 0..state.len() {
            let mut damaged = state.clone();
            damaged[place] ^= 4;
            assert_eq!(decode(&damaged), None, "byte {place}");
            assert_eq!(decode(&state[..place]), None, "cut to {place} bytes");
        }
    }
}

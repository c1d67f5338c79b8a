//! The manifest: where a shard's log begins, and what the files of its databases hold.
//!
//! It lies in two copies, `manifest.a` and `manifest.b`, of any length; see `twin`. What it says
//! is durable before anything is done because of it: a segment is used again only when the manifest
//! no longer needs it, and a database's file is written only after its `target`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, BufMut as _, Bytes};
use ringlite_raft::{Configuration, LogBase, LogIndex, Term};

use crate::replica::DatabaseFile;

use super::durable::DurableFile;
use super::{DataDirectory, StorageError, twin};

const MAGIC: [u8; 8] = *b"RNGLMANI";
const VERSION: u32 = 2;
/// Files are written in whole blocks.
const BLOCK_BYTES: usize = 4096;

const HEADER_BYTES: usize = 96;
const DATABASE_BYTES: usize = 32;
const CRC_BYTES: usize = 4;

const NAMES: [&str; 2] = ["manifest.a", "manifest.b"];

/// Where the log on disk begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogStart {
    /// The log begins behind this entry.
    pub(crate) base: LogBase,
    /// The segment that holds the record of that entry. Older ones are no part of the log. 0 for a
    /// log that was never cut.
    pub(crate) segment: u64,
}

/// What the file of one database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestDatabase {
    /// The index of the entry that created it.
    pub(crate) id: u64,
    /// Its name, which is also the name of its file. At most 65,535 bytes.
    pub(crate) name: String,
    /// In bytes.
    pub(crate) page_size: u32,
    /// The file is the state at this index, unless something above it was written already.
    pub(crate) applied: LogIndex,
    /// Nothing above this index was written to the file. At least `applied`; if it is above, the
    /// file is whole only once it holds everything up to here.
    pub(crate) target: LogIndex,
}

impl From<&DatabaseFile> for ManifestDatabase {
    fn from(file: &DatabaseFile) -> Self {
        Self {
            id: file.id.0.0,
            name: file.name.clone(),
            page_size: file.page_size.bytes(),
            applied: file.applied,
            target: file.target,
        }
    }
}

/// The manifest of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Where the log begins.
    pub(crate) log: LogStart,
    /// Targets up to here are of an installed snapshot: the files came from another node, so that
    /// they are no evidence of what this node's log has held. 0 once the log holds it durably.
    pub(crate) owed: LogIndex,
    /// The files of a snapshot have become the databases, and may still lie under other names; see
    /// [`Staging`](super::Staging).
    pub(crate) installs: bool,
    /// The members as of the base of the log; none while the log has never been cut and nobody has
    /// told them.
    pub(crate) configuration: Configuration,
    /// All databases, in the order in which they were given.
    pub(crate) databases: Vec<ManifestDatabase>,
}

/// Whose manifest it is, and which one: what a copy tells besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Grows with each save.
    pub(super) sequence: u64,
    pub(super) cluster: u128,
    pub(super) incarnation: u64,
}

/// The bytes of one copy, in whole blocks.
pub(super) fn encode(stamp: &Stamp, manifest: &Manifest) -> Vec<u8> {
    let Manifest {
        log,
        owed,
        installs,
        configuration,
        databases,
    } = manifest;
    let configuration = configuration.encode();
    let mut out = Vec::with_capacity(BLOCK_BYTES);
    out.put_slice(&MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(0); // the length, once it is known
    out.put_u64_le(stamp.sequence);
    out.put_u128_le(stamp.cluster);
    out.put_u64_le(stamp.incarnation);
    out.put_u64_le(log.base.index.0);
    out.put_u64_le(log.base.term.0);
    out.put_u64_le(log.segment);
    out.put_u32_le(databases.len() as u32);
    out.put_u32_le(configuration.len() as u32);
    out.put_u64_le(owed.0);
    out.put_u8(u8::from(*installs));
    out.put_bytes(0, HEADER_BYTES - out.len());
    out.put_slice(&configuration);
    for database in databases {
        let name = database.name.as_bytes();
        assert!(
            database.applied <= database.target && name.len() <= usize::from(u16::MAX),
            "{database:?} cannot be in a manifest"
        );
        out.put_u64_le(database.id);
        out.put_u64_le(database.applied.0);
        out.put_u64_le(database.target.0);
        out.put_u32_le(database.page_size);
        out.put_u16_le(name.len() as u16);
        out.put_u16_le(0);
        out.put_slice(name);
    }
    let record_bytes = out.len() + CRC_BYTES;
    out[12..16].copy_from_slice(&(record_bytes as u32).to_le_bytes());
    out.put_u32_le(crc32fast::hash(&out));
    out.resize(record_bytes.next_multiple_of(BLOCK_BYTES), 0);
    out
}

/// Reads a copy; `None` if it is not a valid one.
fn decode(file: &[u8]) -> Option<(Stamp, Manifest)> {
    if file.get(..8)? != MAGIC || u32_at(file, 8)? != VERSION {
        return None;
    }
    let record = file.get(..u32_at(file, 12)? as usize)?;
    let (record, mut crc) = record.split_at_checked(record.len().checked_sub(CRC_BYTES)?)?;
    if record.len() < HEADER_BYTES || crc.get_u32_le() != crc32fast::hash(record) {
        return None;
    }
    let (mut header, mut rest) = record.split_at(HEADER_BYTES);
    header.advance(16);
    let stamp = Stamp {
        sequence: header.get_u64_le(),
        cluster: header.get_u128_le(),
        incarnation: header.get_u64_le(),
    };
    let base = LogBase {
        index: LogIndex(header.get_u64_le()),
        term: Term(header.get_u64_le()),
    };
    let segment = header.get_u64_le();
    let count = header.get_u32_le();
    let (configuration, behind) = rest.split_at_checked(header.get_u32_le() as usize)?;
    let configuration = Configuration::decode(Bytes::copy_from_slice(configuration)).ok()?;
    rest = behind;
    let owed = LogIndex(header.get_u64_le());
    let installs = header.get_u8();
    let mut databases = Vec::new();
    for _ in 0..count {
        databases.push(decode_database(&mut rest)?);
    }
    let log = LogStart { base, segment };
    let is_all = rest.is_empty() && installs <= 1 && header.iter().all(|&byte| byte == 0);
    let manifest = Manifest {
        log,
        owed,
        installs: installs == 1,
        configuration,
        databases,
    };
    is_all.then_some((stamp, manifest))
}

/// Reads any bytes as a copy, as they are and with a right length and checksum: what is understood is
/// understood in the same way when it is written again.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = decode(bytes);
    let mut record = bytes.to_vec();
    if record.len() < HEADER_BYTES {
        return;
    }
    let record_bytes = record.len() + CRC_BYTES;
    record[..8].copy_from_slice(&MAGIC);
    record[8..12].copy_from_slice(&VERSION.to_le_bytes());
    record[12..16].copy_from_slice(&(record_bytes as u32).to_le_bytes());
    let crc = crc32fast::hash(&record);
    record.put_u32_le(crc);
    if let Some((stamp, manifest)) = decode(&record) {
        assert_eq!(decode(&encode(&stamp, &manifest)), Some((stamp, manifest)));
    }
}

fn decode_database(rest: &mut &[u8]) -> Option<ManifestDatabase> {
    let (mut fixed, names) = rest.split_at_checked(DATABASE_BYTES)?;
    let id = fixed.get_u64_le();
    let (applied, target) = (LogIndex(fixed.get_u64_le()), LogIndex(fixed.get_u64_le()));
    let page_size = fixed.get_u32_le();
    let name_bytes = fixed.get_u16_le();
    let is_sound = fixed.get_u16_le() == 0 && applied <= target;
    let (name, behind) = names.split_at_checked(usize::from(name_bytes))?;
    *rest = behind;
    is_sound.then_some(ManifestDatabase {
        id,
        name: String::from_utf8(name.to_vec()).ok()?,
        page_size,
        applied,
        target,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn paths_in(shard: &Path) -> [PathBuf; 2] {
    NAMES.map(|name| shard.join(name))
}

/// Writes both copies of a shard's first manifest, durably up to the names of the files.
pub(super) fn create(shard: &Path, stamp: &Stamp) -> Result<(), StorageError> {
    replace(shard, stamp, &Manifest::default())
}

/// Both copies as they are, for looking at; `None` for a bad one.
pub(super) fn copies(shard: &Path) -> [Option<(Stamp, Manifest)>; 2] {
    paths_in(shard).map(|path| decode(&std::fs::read(path).ok()?))
}

/// Replaces the manifest when no node runs. Both copies are it on return, durably.
pub(super) fn replace(
    shard: &Path,
    stamp: &Stamp,
    manifest: &Manifest,
) -> Result<(), StorageError> {
    for copy in 0..2 {
        rewrite(shard, copy, &encode(stamp, manifest))?;
    }
    Ok(())
}

/// Reads the manifest. On return both copies are it, durably.
///
/// # Errors
/// Neither copy is valid: then the node cannot know what the files of its databases hold.
pub(super) fn load(shard: &Path) -> Result<(Stamp, Manifest), StorageError> {
    let mut copies = [None, None];
    for (path, copy) in paths_in(shard).iter().zip(&mut copies) {
        match std::fs::read(path) {
            Ok(file) => *copy = decode(&file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(StorageError::io("read", path, source)),
        }
    }
    let path = shard.join("manifest");
    let chosen = twin::choose(copies, |(stamp, _)| stamp.sequence, &path);
    let ((stamp, manifest), stale) = chosen.ok_or(StorageError::ManifestLost { path })?;
    if let Some(copy) = stale {
        rewrite(shard, copy, &encode(&stamp, &manifest))?;
    }
    Ok((stamp, manifest))
}

/// Writes one copy; the other one is made durable before, so that there always is a good one.
fn rewrite(shard: &Path, copy: usize, bytes: &[u8]) -> Result<(), StorageError> {
    let paths = paths_in(shard);
    let path = &paths[copy];
    let write = || -> std::io::Result<()> {
        match File::open(&paths[1 - copy]) {
            Ok(other) => other.sync_all()?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        File::open(shard)?.sync_all()
    };
    write().map_err(|source| StorageError::io("write", path, source))
}

/// The manifest's two files, open for writing.
pub(crate) struct ManifestFile {
    copies: [DurableFile; 2],
    stamp: Stamp,
}

impl ManifestFile {
    /// Opens the manifest of a formed directory, and tells what it says.
    ///
    /// # Errors
    /// Both copies are bad, or it is another node's.
    pub(crate) async fn open(directory: &DataDirectory) -> Result<(Self, Manifest), StorageError> {
        let (stamp, manifest) = directory.manifest()?;
        let [a, b] = paths_in(&directory.shard());
        let copies = [DurableFile::open(&a).await?, DurableFile::open(&b).await?];
        Ok((Self { copies, stamp }, manifest))
    }

    /// Replaces the manifest. It is durable, in both copies, when this returns.
    ///
    /// # Errors
    /// If a write failed. Either manifest may be found by the next start, and nothing may be done
    /// that only one of them allows: the node has to stop.
    pub(crate) async fn save(&mut self, manifest: &Manifest) -> Result<(), StorageError> {
        self.stamp.sequence += 1;
        let bytes = encode(&self.stamp, manifest);
        for copy in &self.copies {
            let mut buffer = copy.buffer(bytes.len());
            buffer.as_bytes_mut().copy_from_slice(&bytes);
            copy.write(buffer, 0).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The hard state: what a node must remember of its promises, in two copies.
//!
//! Nothing that depends on it leaves the node before both copies are durable; see `twin`.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ringlite_raft::{Debt, LogIndex, NodeId, Term};

use super::{StorageError, twin};

/// Each copy has a block of its own, so that no write touches both.
pub(super) const COPY_BYTES: usize = 4096;
const RECORD_BYTES: usize = 104;

const MAGIC: [u8; 8] = *b"RNGLHARD";
const VERSION: u32 = 2;

const AT_VERSION: usize = 8;
const AT_ZERO: usize = AT_VERSION + 4;
const AT_SEQUENCE: usize = AT_ZERO + 4;
const AT_TERM: usize = AT_SEQUENCE + 8;
const AT_VOTE: usize = AT_TERM + 8;
const AT_LOG_EPOCH: usize = AT_VOTE + 8;
const AT_DURABLE_MARK: usize = AT_LOG_EPOCH + 8;
const AT_CLUSTER: usize = AT_DURABLE_MARK + 8;
const AT_INCARNATION: usize = AT_CLUSTER + 16;
const AT_DEBT_TERM: usize = AT_INCARNATION + 8;
const AT_DEBT_INDEX: usize = AT_DEBT_TERM + 8;
const AT_CRC: usize = AT_DEBT_INDEX + 8;
const _: () = assert!(AT_CRC + 4 <= RECORD_BYTES && RECORD_BYTES <= COPY_BYTES);

/// The record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HardStateRecord {
    /// Grows with each save.
    pub(crate) sequence: u64,
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    /// The epoch of the log's newest segment.
    pub(crate) log_epoch: u64,
    /// The log was durable up to here when the record was saved; it can be durable beyond.
    pub(crate) durable_mark: LogIndex,
    pub(crate) cluster: u128,
    pub(crate) incarnation: u64,
    /// What the node may have acknowledged and lost, until it is repaired.
    pub(crate) debt: Option<Debt>,
}

impl HardStateRecord {
    /// Writes the record into the start of a zeroed block.
    pub(super) fn encode(&self, out: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(AT_VERSION, &VERSION.to_le_bytes());
        put(AT_SEQUENCE, &self.sequence.to_le_bytes());
        put(AT_TERM, &self.term.0.to_le_bytes());
        put(AT_VOTE, &self.vote.map_or(0, |id| id.0).to_le_bytes());
        put(AT_LOG_EPOCH, &self.log_epoch.to_le_bytes());
        put(AT_DURABLE_MARK, &self.durable_mark.0.to_le_bytes());
        put(AT_CLUSTER, &self.cluster.to_le_bytes());
        put(AT_INCARNATION, &self.incarnation.to_le_bytes());
        let (term, index) = self.debt.map_or((0, 0), |debt| (debt.term.0, debt.index.0));
        put(AT_DEBT_TERM, &term.to_le_bytes());
        put(AT_DEBT_INDEX, &index.to_le_bytes());
        let crc = crc32fast::hash(&out[..AT_CRC]);
        out[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a record; `None` if it is not a valid one.
    fn decode(block: &[u8]) -> Option<Self> {
        let record = block.get(..RECORD_BYTES)?;
        let u64_at = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?))
        };
        let u32_at = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(record.get(at..at + 4)?.try_into().ok()?))
        };
        if record[..8] != MAGIC
            || u32_at(AT_VERSION)? != VERSION
            || u32_at(AT_CRC)? != crc32fast::hash(&record[..AT_CRC])
        {
            return None;
        }
        let vote = u64_at(AT_VOTE)?;
        let debt = Debt {
            term: Term(u64_at(AT_DEBT_TERM)?),
            index: LogIndex(u64_at(AT_DEBT_INDEX)?),
        };
        Some(Self {
            sequence: u64_at(AT_SEQUENCE)?,
            term: Term(u64_at(AT_TERM)?),
            vote: (vote != 0).then_some(NodeId(vote)),
            log_epoch: u64_at(AT_LOG_EPOCH)?,
            durable_mark: LogIndex(u64_at(AT_DURABLE_MARK)?),
            cluster: u128::from_le_bytes(record[AT_CLUSTER..AT_CLUSTER + 16].try_into().ok()?),
            incarnation: u64_at(AT_INCARNATION)?,
            debt: (debt.index > LogIndex(0)).then_some(debt),
        })
    }
}

/// Where the hard state of a shard is.
pub(super) fn path_in(shard: &Path) -> PathBuf {
    shard.join("hard-state")
}

/// Chooses between the two copies; also tells which one has to be written anew, if one has.
///
/// # Errors
/// If neither is valid: then the node cannot know whom it has voted for.
fn choose(file: &[u8], path: &Path) -> Result<(HardStateRecord, Option<usize>), StorageError> {
    let a = HardStateRecord::decode(file.get(..COPY_BYTES).unwrap_or_default());
    let b = HardStateRecord::decode(file.get(COPY_BYTES..).unwrap_or_default());
    twin::choose([a, b], |record| record.sequence, path).ok_or_else(|| {
        StorageError::HardStateLost {
            path: path.to_owned(),
        }
    })
}

/// Both copies as they are, for looking at; `None` for a bad one.
pub(super) fn copies(shard: &Path) -> [Option<HardStateRecord>; 2] {
    let file = std::fs::read(path_in(shard)).unwrap_or_default();
    let split = file.len().min(COPY_BYTES);
    let (a, b) = file.split_at(split);
    [a, b].map(HardStateRecord::decode)
}

/// Reads the hard state; `None` if the shard has never started. On return both copies are it,
/// durably: a single one could rot, and one that a crash has cut short must not be all there is.
pub(super) fn load(shard: &Path) -> Result<Option<HardStateRecord>, StorageError> {
    let path = path_in(shard);
    let file = match std::fs::read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StorageError::io("read", &path, source)),
    };
    let (record, stale) = choose(&file, &path)?;
    if let Some(copy) = stale {
        rewrite(&path, copy, &record).map_err(|source| StorageError::io("write", &path, source))?;
    }
    Ok(Some(record))
}

/// Saves a record before the log writer is there to do it. Both copies are durable on return.
pub(super) fn save(shard: &Path, record: &HardStateRecord) -> Result<(), StorageError> {
    let path = path_in(shard);
    if !path.exists() {
        std::fs::File::create(&path).map_err(|source| StorageError::io("make", &path, source))?;
    }
    for copy in 0..2 {
        rewrite(&path, copy, record).map_err(|source| StorageError::io("write", &path, source))?;
    }
    Ok(())
}

/// Writes one copy; the other one is made durable before, so that there always is a good one.
fn rewrite(path: &Path, copy: usize, record: &HardStateRecord) -> std::io::Result<()> {
    let mut block = vec![0; COPY_BYTES];
    record.encode(&mut block);
    let file = std::fs::File::options().write(true).open(path)?;
    file.sync_all()?;
    file.write_all_at(&block, (copy * COPY_BYTES) as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> HardStateRecord {
        HardStateRecord {
            sequence,
            term: Term(7),
            vote: Some(NodeId(2)),
            log_epoch: 3,
            durable_mark: LogIndex(99),
            cluster: 0x1234_5678_9abc_def0,
            incarnation: 42,
            debt: Some(Debt {
                term: Term(6),
                index: LogIndex(100),
            }),
        }
    }

    /// If this fails the format has changed: give it a new version.
    #[test]
    fn the_bytes_are_those_of_the_golden_file() {
        let mut block = vec![0; COPY_BYTES];
        record(5).encode(&mut block);
        assert!(block[RECORD_BYTES..].iter().all(|&byte| byte == 0));
        let hex: String = block[..RECORD_BYTES]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let golden = include_str!("../../testdata/hard-state.hex");
        assert_eq!(golden.lines().last(), Some(hex.as_str()));
        let without = HardStateRecord {
            debt: None,
            ..record(5)
        };
        for record in [record(5), without] {
            record.encode(&mut block);
            assert_eq!(HardStateRecord::decode(&block), Some(record));
        }
    }

    fn file(a: &HardStateRecord, b: &HardStateRecord) -> Vec<u8> {
        let mut file = vec![0; 2 * COPY_BYTES];
        a.encode(&mut file[..COPY_BYTES]);
        b.encode(&mut file[COPY_BYTES..]);
        file
    }

    #[test]
    fn the_newer_valid_copy_holds() {
        let path = Path::new("hard-state");
        assert_eq!(
            choose(&file(&record(5), &record(4)), path).unwrap(),
            (record(5), Some(1))
        );
        assert_eq!(
            choose(&file(&record(5), &record(6)), path).unwrap(),
            (record(6), Some(0))
        );
        assert_eq!(
            choose(&file(&record(7), &record(7)), path).unwrap(),
            (record(7), None)
        );
    }

    #[test]
    fn any_flipped_bit_in_one_copy_leaves_the_other() {
        let path = Path::new("hard-state");
        for at in 0..AT_CRC + 4 {
            let mut bytes = file(&record(5), &record(4));
            bytes[at] ^= 0x10;
            assert_eq!(
                choose(&bytes, path).unwrap(),
                (record(4), Some(0)),
                "byte {at} of copy A"
            );
            let mut bytes = file(&record(4), &record(5));
            bytes[COPY_BYTES + at] ^= 0x10;
            assert_eq!(
                choose(&bytes, path).unwrap(),
                (record(4), Some(1)),
                "byte {at} of copy B"
            );
        }
    }

    #[test]
    fn two_bad_copies_are_refused() {
        let mut bytes = file(&record(5), &record(5));
        bytes[AT_TERM] ^= 1;
        bytes[COPY_BYTES + AT_TERM] ^= 1;
        let error = choose(&bytes, Path::new("d/hard-state")).unwrap_err();
        assert!(error.to_string().contains("d/hard-state"), "{error}");
    }

    #[test]
    fn a_bad_or_older_copy_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(directory.path());
        let good = file(&record(5), &record(5));
        let mut damaged = good.clone();
        damaged[AT_VOTE] ^= 1;
        for found in [
            damaged,
            good[..COPY_BYTES].to_vec(),
            file(&record(4), &record(5)),
            file(&record(5), &record(4)),
        ] {
            std::fs::write(&path, found).unwrap();
            assert_eq!(load(directory.path()).unwrap(), Some(record(5)));
            assert_eq!(std::fs::read(&path).unwrap(), good);
        }
    }
}

//! A shard's directory as bytes, for a disk that is simulated: what the records in it look like, and
//! what a restart makes of the files. The restart is the real one.

use std::path::{Path, PathBuf};

use ringlite_raft::{
    Configuration, Debt, Entry, HardState, LogBase, LogIndex, RecordIdentity, RestoredLog, Term,
};

use super::hard_state::{self, HardStateRecord};
use super::manifest::{self, LogStart, Manifest, ManifestDatabase, Stamp};
use super::recovered::Recovered;
use super::staging;
pub use super::staging::StagingArea;
use super::{StorageError, segment};
use crate::replica::DatabaseFile;

/// The length of one copy of the hard state; the second follows the first.
pub const HARD_STATE_COPY_BYTES: usize = hard_state::COPY_BYTES;

/// The directory of one shard.
#[derive(Clone, Debug)]
pub struct ShardImage {
    directory: PathBuf,
    identity: RecordIdentity,
}

/// What a copy of the hard state says, besides whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardStateImage {
    /// Grows with each save.
    pub sequence: u64,
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest epoch of which a record was durable.
    pub log_epoch: u64,
    /// Everything up to here was durable.
    pub durable_mark: LogIndex,
    /// What the node may have acknowledged and lost, until it is repaired.
    pub debt: Option<Debt>,
}

/// What a copy of the manifest says, besides whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestImage {
    /// Grows with each save.
    pub sequence: u64,
    /// The log begins behind this entry.
    pub base: LogBase,
    /// The segment that holds the record of that entry; 0 for a log that was never cut.
    pub segment: u64,
    /// Targets up to here came with a snapshot; 0 for none.
    pub owed: LogIndex,
    /// The files of a snapshot have become the databases, and may not have their names yet.
    pub installs: bool,
    /// The members as of the base.
    pub configuration: Configuration,
    /// The databases.
    pub databases: Vec<DatabaseFile>,
}

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordImage {
    /// The index of its entry.
    pub index: LogIndex,
    /// The term of its entry.
    pub term: Term,
    /// The number of its segment.
    pub segment: u64,
    /// Where it starts there.
    pub offset: u64,
    /// The length of the entry's payload.
    pub payload_bytes: usize,
}

/// What a restart finds.
#[derive(Debug)]
pub struct Restart {
    /// The hard state, of which both copies are good now.
    pub hard_state: HardStateImage,
    /// The manifest, of which both copies are good now.
    pub manifest: ManifestImage,
    /// The log as the consensus core takes it.
    pub log: RestoredLog,
    /// The entries that are known to be committed, from the first behind the base on.
    pub committed: Vec<Entry>,
    /// Where the log's records are, in their order.
    pub places: Vec<RecordImage>,
    /// Whether an unfinished write at the end of the log was cut off.
    pub torn: bool,
    /// Whether the record of the base has to be replaced before anything else is written.
    pub lacks_base: bool,
    /// The newest epoch that was ever used.
    pub newest_epoch: u64,
    /// The newest segment that was written to.
    pub newest_segment: u64,
}

impl ShardImage {
    /// The shard of `identity` in `directory`, which exists.
    pub fn new(directory: &Path, identity: RecordIdentity) -> Self {
        Self {
            directory: directory.to_owned(),
            identity,
        }
    }

    /// Whose log it is.
    pub fn identity(&self) -> RecordIdentity {
        self.identity
    }

    /// The file of the hard state.
    pub fn hard_state_path(&self) -> PathBuf {
        hard_state::path_in(&self.directory)
    }

    /// The files of the manifest's two copies.
    pub fn manifest_paths(&self) -> [PathBuf; 2] {
        manifest::paths_in(&self.directory)
    }

    /// The directory of the segments.
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The file of a segment.
    pub fn segment_path(&self, number: u64) -> PathBuf {
        segment::path_in(&self.log_directory(), number)
    }

    /// The file of a segment that a log begins with behind a snapshot, until the manifest names it.
    pub fn staged_segment_path(&self, number: u64) -> PathBuf {
        segment::staged_path_in(&self.log_directory(), number)
    }

    /// Where snapshots arrive.
    pub fn staging_area(&self) -> StagingArea {
        StagingArea::in_shard(&self.directory)
    }

    /// Makes the files of a snapshot the databases that `image` names, which says durably that it
    /// installs them.
    ///
    /// # Errors
    /// A file is nowhere, or the system refuses.
    pub fn install(&self, image: &ManifestImage) -> Result<(), StorageError> {
        self.staging_area().install(&manifest_of(image))
    }

    /// The bytes of a copy of the hard state.
    pub fn hard_state_copy(&self, image: &HardStateImage) -> Vec<u8> {
        let record = HardStateRecord {
            sequence: image.sequence,
            term: image.hard_state.term,
            vote: image.hard_state.vote,
            log_epoch: image.log_epoch,
            durable_mark: image.durable_mark,
            debt: image.debt,
            cluster: self.identity.cluster,
            incarnation: self.identity.incarnation,
        };
        let mut block = vec![0; hard_state::COPY_BYTES];
        record.encode(&mut block);
        block
    }

    /// The bytes of a copy of the manifest.
    pub fn manifest_copy(&self, image: &ManifestImage) -> Vec<u8> {
        let stamp = Stamp {
            sequence: image.sequence,
            cluster: self.identity.cluster,
            incarnation: self.identity.incarnation,
        };
        manifest::encode(&stamp, &manifest_of(image))
    }

    /// What a restart finds in the files. `is_alone`: nobody else can have what is damaged.
    ///
    /// # Errors
    /// They are damaged so that the node must not start.
    pub fn recover(&self, is_alone: bool) -> Result<Restart, StorageError> {
        let record =
            hard_state::load(&self.directory)?.ok_or_else(|| StorageError::HardStateLost {
                path: self.hard_state_path(),
            })?;
        let (stamp, manifest) = manifest::load(&self.directory)?;
        let (stamp, manifest) = staging::settle(&self.directory, stamp, manifest)?;
        let mut found = Recovered::read(&self.log_directory(), &self.identity, record, manifest)?;
        if is_alone {
            found.refuse_damage(&self.directory)?;
        } else {
            found.owe_what_is_lost(&self.directory)?;
        }
        found.remove_unused()?;
        let record = found.hard_state;
        let mut committed = Vec::new();
        found.for_each_committed(|entry| committed.push(entry))?;
        let first = found.manifest.log.base.index.next().0;
        let places = found.places().into_iter().zip(first..);
        Ok(Restart {
            hard_state: HardStateImage {
                sequence: record.sequence,
                hard_state: HardState {
                    term: record.term,
                    vote: record.vote,
                },
                log_epoch: record.log_epoch,
                durable_mark: record.durable_mark,
                debt: record.debt,
            },
            manifest: ManifestImage {
                sequence: stamp.sequence,
                base: found.manifest.log.base,
                segment: found.manifest.log.segment,
                owed: found.manifest.owed,
                installs: found.manifest.installs,
                configuration: found.manifest.configuration.clone(),
                databases: found.databases()?,
            },
            log: found.restored_log()?,
            committed,
            places: places
                .map(|(place, index)| RecordImage {
                    index: LogIndex(index),
                    term: place.term,
                    segment: place.segment,
                    offset: u64::from(place.offset),
                    payload_bytes: place.payload_bytes as usize,
                })
                .collect(),
            torn: found.is_torn(),
            lacks_base: found.lacks_base(),
            newest_epoch: found.newest_epoch(),
            newest_segment: found.newest_segment(),
        })
    }
}

fn manifest_of(image: &ManifestImage) -> Manifest {
    Manifest {
        log: LogStart {
            base: image.base,
            segment: image.segment,
        },
        owed: image.owed,
        installs: image.installs,
        configuration: image.configuration.clone(),
        databases: image.databases.iter().map(ManifestDatabase::from).collect(),
    }
}

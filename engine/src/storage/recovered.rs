//! What a restart finds: the hard state, the manifest and the log, read from mapped segments.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use ringlite_raft::{
    Configuration, Debt, DurableMark, Entry, EntryKind, LogIndex, RECORD_HEADER_BYTES,
    RecordIdentity, RecordPosition, RecoveredLog, RestoredLog,
};

use ringlite_vfs::PageSize;

use super::StorageError;
use super::hard_state::{self, HardStateRecord};
use super::log::Place;
use super::manifest::{Manifest, ManifestDatabase};
use super::segment;
use crate::replica::{DatabaseFile, DatabaseId};

struct MappedSegment {
    number: u64,
    /// `None` for an empty file, which cannot be mapped.
    bytes: Option<Mmap>,
}

/// A recovered shard.
pub(crate) struct Recovered {
    pub(crate) hard_state: HardStateRecord,
    /// Where the log begins, and what the databases' files hold.
    pub(crate) manifest: Manifest,
    log: RecoveredLog,
    segments: Vec<MappedSegment>,
    /// Files that are no part of the log.
    unused: Vec<u64>,
    directory: PathBuf,
}

impl Recovered {
    pub(super) fn read(
        directory: &Path,
        identity: &RecordIdentity,
        hard_state: HardStateRecord,
        manifest: Manifest,
    ) -> Result<Self, StorageError> {
        let failed = |source| StorageError::Log {
            path: directory.to_owned(),
            source: Box::new(source),
        };
        let mut segments = Vec::new();
        let mut scans = Vec::new();
        let numbers = segment::numbers_in(directory)?;
        let (obsolete, numbers): (Vec<u64>, Vec<u64>) = numbers
            .into_iter()
            .partition(|number| *number < manifest.log.segment);
        for number in numbers {
            let mapped = map(directory, number)?;
            let bytes = mapped.bytes.as_deref().unwrap_or_default();
            scans.push(ringlite_raft::scan_segment(bytes, number, identity).map_err(failed)?);
            segments.push(mapped);
        }
        let mark = DurableMark {
            index: hard_state.durable_mark,
            epoch: hard_state.log_epoch,
        };
        let mut log = ringlite_raft::recover(scans, mark, manifest.log.base).map_err(failed)?;
        // What a database's file may hold was committed, and was durable in this log, unless it came
        // with a snapshot.
        let own = |database: &&ManifestDatabase| database.target > manifest.owed;
        for database in manifest.databases.iter().filter(own) {
            log.commit = log.commit.max(database.target.min(log.last));
        }
        if let Some(cut) = &log.cut {
            tracing::info!("the log's unfinished end was cut: {cut}");
        }
        // The reserve of an earlier life, never written to. A life makes its own, so that without
        // this each start would leave some behind. And what the log was cut behind.
        let unused = segments
            .extract_if(.., |segment| segment.number > log.highest_segment)
            .map(|segment| segment.number);
        let unused = obsolete.into_iter().chain(unused).collect();
        Ok(Self {
            hard_state,
            manifest,
            log,
            segments,
            unused,
            directory: directory.to_owned(),
        })
    }

    /// Removes the files that are no part of the log.
    pub(super) fn remove_unused(&mut self) -> Result<(), StorageError> {
        segment::remove_unfinished(&self.directory)?;
        for number in self.unused.drain(..) {
            segment::remove(&self.directory, number)?;
        }
        Ok(())
    }

    /// The database whose file may hold most of what the log does not, and up to where.
    pub(super) fn ahead_of_log(&self) -> Option<(&str, LogIndex)> {
        let databases = self.manifest.databases.iter();
        // Nobody has promised what came with a snapshot.
        let held = self.log.last.max(self.manifest.owed);
        let ahead = databases.filter(|database| database.target > held);
        ahead
            .map(|database| (database.name.as_str(), database.target))
            .max_by_key(|(_, target)| *target)
    }

    /// # Errors
    /// Something that was durable is damaged or missing, and nobody else has it.
    pub(super) fn refuse_damage(&self, data: &Path) -> Result<(), StorageError> {
        if let Some(fault) = self.log.fault {
            return Err(StorageError::LogCorrupt {
                path: segment::path_in(&self.directory, fault.segment),
                last: self.log.last,
                fault: Box::new(fault),
                data: data.to_owned(),
            });
        }
        if let Some((database, target)) = self.ahead_of_log() {
            return Err(StorageError::LogShort {
                path: self.directory.clone(),
                last: self.log.last,
                database: database.to_owned(),
                target,
                data: data.to_owned(),
            });
        }
        match self.hard_state.debt {
            Some(debt) if self.end() < debt => Err(StorageError::DebtAlone {
                path: self.directory.clone(),
                last: self.log.last,
                debt,
                data: data.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Makes durable what the node may have acknowledged beyond the end of its log, before anything is
    /// written to it.
    pub(super) fn owe_what_is_lost(&mut self, shard: &Path) -> Result<(), StorageError> {
        if let Some(debt) = self.new_debt()
            && !mutation!(DebtForgotten)
        {
            self.hard_state.sequence += 1;
            self.hard_state.debt = Some(debt);
            hard_state::save(shard, &self.hard_state)?;
        }
        Ok(())
    }

    /// What the node may have acknowledged beyond the end of its log, unless the hard state says it
    /// already.
    fn new_debt(&self) -> Option<Debt> {
        let fault = self.log.fault.map(|fault| {
            tracing::warn!(
                "the log in {} is damaged: {fault}; it is kept up to {} and repaired from the leader, and \
                 until then this node does not campaign and votes for no log that ends before its own \
                 did",
                self.directory.display(),
                self.log.last
            );
            fault.debt(self.hard_state.term)
        });
        // A fault's debt covers what a file may hold if it reaches as far. An older debt always does: what
        // was durable here while it was owed ends below it.
        let owed = self.hard_state.debt;
        let is_covered = |target| owed.is_some() || fault.is_some_and(|debt| debt.index >= target);
        let short = self.ahead_of_log();
        let short = short.filter(|(_, target)| !is_covered(*target));
        let short = short.map(|(database, target)| {
            tracing::warn!(
                "the log in {} ends at {}, but the file of database {database:?} may hold what was \
                 committed up to {target}: the rest comes from the leader",
                self.directory.display(),
                self.log.last
            );
            Debt {
                term: self.hard_state.term,
                index: target,
            }
        });
        let debt = fault.max(short)?;
        // The mark, which tells of an epoch that is gone, may have fallen below what is owed.
        let index = owed.map_or(debt.index, |owed| owed.index.max(debt.index));
        let debt = Debt { index, ..debt };
        (Some(debt) > owed).then_some(debt)
    }

    /// Where the log ends.
    pub(super) fn end(&self) -> Debt {
        let last = self.log.records.last();
        Debt {
            term: last.map_or(self.log.base.term, |record| record.term),
            index: self.log.last,
        }
    }

    /// The newest configuration that is known: that of the log as it was kept, else of its base.
    pub(super) fn configuration(&self) -> Result<Configuration, StorageError> {
        let records = self.log.records.iter().rev();
        let mut records = records.filter(|record| record.kind == EntryKind::Configuration);
        let known = match records.next() {
            Some(record) => Configuration::decode(self.entry(record)?.payload).ok(),
            None => None,
        };
        Ok(known.unwrap_or_else(|| self.manifest.configuration.clone()))
    }

    /// What recovery has made of the segments.
    pub(super) fn log(&self) -> &RecoveredLog {
        &self.log
    }

    /// Whether the record of the base has to be replaced.
    pub(super) fn lacks_base(&self) -> bool {
        self.log.lacks_base() && self.log.base.index > LogIndex::ZERO
    }

    /// The databases, as the manifest tells of them.
    pub(crate) fn databases(&self) -> Result<Vec<DatabaseFile>, StorageError> {
        let databases = self.manifest.databases.iter();
        databases
            .map(|database| {
                Ok(DatabaseFile {
                    id: DatabaseId(LogIndex(database.id)),
                    name: database.name.clone(),
                    page_size: PageSize::new(database.page_size).map_err(|_| {
                        StorageError::ManifestLost {
                            path: self.directory.with_file_name("manifest"),
                        }
                    })?,
                    applied: database.applied,
                    target: database.target,
                })
            })
            .collect()
    }

    /// The log as the consensus core restarts from it.
    pub(crate) fn restored_log(&self) -> Result<RestoredLog, StorageError> {
        let uncommitted = self
            .log
            .records
            .iter()
            .filter(|record| record.index > self.log.commit);
        let configurations = self
            .log
            .records
            .iter()
            .filter(|record| record.kind == EntryKind::Configuration);
        Ok(RestoredLog {
            base: self.log.base,
            configuration: self.manifest.configuration.clone(),
            configurations: configurations
                .map(|record| self.entry(record))
                .collect::<Result<_, _>>()?,
            runs: self.log.runs.clone(),
            last: self.log.last,
            commit: self.log.commit,
            tail: uncommitted
                .map(|record| self.entry(record))
                .collect::<Result<_, _>>()?,
            debt: self.hard_state.debt,
        })
    }

    /// Gives every entry that is known to be committed, from the first behind the base on.
    pub(crate) fn for_each_committed(
        &self,
        mut each: impl FnMut(Entry),
    ) -> Result<(), StorageError> {
        for record in &self.log.records {
            if record.index <= self.log.commit {
                each(self.entry(record)?);
            }
        }
        Ok(())
    }

    fn entry(&self, record: &RecordPosition) -> Result<Entry, StorageError> {
        let start = record.offset as usize + RECORD_HEADER_BYTES;
        let payload = self
            .segments
            .iter()
            .find(|segment| segment.number == record.segment)
            .and_then(|segment| segment.bytes.as_deref())
            .and_then(|bytes| bytes.get(start..start + record.payload_bytes as usize))
            .ok_or_else(|| {
                StorageError::io(
                    "read again",
                    &segment::path_in(&self.directory, record.segment),
                    std::io::ErrorKind::UnexpectedEof.into(),
                )
            })?;
        Ok(Entry {
            term: record.term,
            index: record.index,
            kind: record.kind,
            payload: Bytes::copy_from_slice(payload),
        })
    }

    /// Where each record is, from the first behind the base on.
    pub(super) fn places(&self) -> VecDeque<Place> {
        let records = self.log.records.iter();
        let place = |record: &RecordPosition| {
            let (segment, offset) = (record.segment, record.offset);
            Place::new(segment, offset, record.term, record.payload_bytes)
        };
        records.map(place).collect()
    }

    /// The numbers of the log's segments, ascending.
    pub(super) fn segments(&self) -> VecDeque<u64> {
        self.segments.iter().map(|segment| segment.number).collect()
    }

    pub(super) fn last(&self) -> LogIndex {
        self.log.last
    }

    /// Whether an unfinished write at the end of the log was cut off.
    pub(super) fn is_torn(&self) -> bool {
        self.log.cut.is_some()
    }

    /// The next epoch is above every one that was ever used. The durable mark names this one until a
    /// record of the next one is durable, also if it is gone: a restart has to find that again.
    pub(super) fn newest_epoch(&self) -> u64 {
        self.log.epoch.max(self.hard_state.log_epoch)
    }

    /// The newest segment that was written to; there is none with a higher number any more.
    pub(super) fn newest_segment(&self) -> u64 {
        self.log.highest_segment.max(self.manifest.log.segment)
    }
}

fn map(directory: &Path, number: u64) -> Result<MappedSegment, StorageError> {
    let path = segment::path_in(directory, number);
    let open = || -> std::io::Result<Option<Mmap>> {
        let file = File::open(&path)?;
        if file.metadata()?.len() == 0 {
            return Ok(None);
        }
        // The last write of a killed process may have got into the drive's cache and no further.
        // What is found in the log counts as durable from now on, so that it has to be.
        file.sync_data()?;
        // SAFETY: the directory is locked, so that no other node writes or cuts the file while it
        // is mapped, and this node writes only to segments that it makes later: it uses old ones
        // again after the log is cut, which is after the replay that reads them here.
        let bytes = unsafe { Mmap::map(&file)? };
        read_ahead(&bytes)?;
        Ok(Some(bytes))
    };
    Ok(MappedSegment {
        number,
        bytes: open().map_err(|source| StorageError::io("read", &path, source))?,
    })
}

/// Reads a mapped file into the page cache, so that a disk that cannot read it is an error here and
/// no SIGBUS later, which would end the process without a word.
fn read_ahead(bytes: &Mmap) -> std::io::Result<()> {
    /// What the kernel says where an access would give SIGBUS.
    const UNREADABLE: Option<i32> = Some(rustix::io::Errno::FAULT.raw_os_error());
    match bytes.advise(memmap2::Advice::PopulateRead) {
        Err(error) if error.raw_os_error() == UNREADABLE => Err(rustix::io::Errno::IO.into()),
        // Linux knows this since 5.14, and it is of use only to those who find out why.
        _ => Ok(()),
    }
}

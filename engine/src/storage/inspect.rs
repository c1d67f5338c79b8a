//! What lies in a data directory, damaged or not, without a change to it.

use std::path::Path;

use ringlite_raft::{
    Debt, DurableMark, LogBase, RecordHeader, RecordIdentity, RecoveryError, SegmentScan,
};
use serde::Serialize;

use super::hard_state::{self, HardStateRecord};
use super::identity::Identity;
use super::manifest::{self, Manifest};
use super::{StorageError, directory, segment};

/// What lies in a data directory.
#[derive(Debug, Serialize)]
pub(crate) struct Inspection {
    /// The directory.
    pub(crate) directory: String,
    /// A node uses it: what it writes at this moment may look unfinished.
    pub(crate) in_use: bool,
    /// Whose it is.
    pub(crate) identity: Found<Identity>,
    /// Which of its shards what follows is of, where it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<u32>,
    /// The two copies of the hard state.
    pub(crate) hard_state: [Found<HardState>; 2],
    /// The two copies of the manifest.
    pub(crate) manifest: [Found<ManifestCopy>; 2],
    /// The files of the log, ascending.
    pub(crate) segments: Vec<Segment>,
    /// What a start would make of them.
    pub(crate) log: Found<Log>,
    /// The databases that the manifest names.
    pub(crate) databases: Vec<Database>,
    /// Files beside the databases that no manifest names.
    pub(crate) unknown_files: Vec<String>,
}

/// A part of a directory, or why it cannot be read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Found<T> {
    /// It is whole.
    Good(T),
    /// It is damaged or missing.
    Bad(String),
}

impl<T> Found<T> {
    pub(crate) fn good(&self) -> Option<&T> {
        match self {
            Self::Good(good) => Some(good),
            Self::Bad(_) => None,
        }
    }
}

/// An end of a log.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct End {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl From<Debt> for End {
    fn from(debt: Debt) -> Self {
        Self {
            term: debt.term.0,
            index: debt.index.0,
        }
    }
}

/// A copy of the hard state.
#[derive(Debug, Serialize)]
pub(crate) struct HardState {
    pub(crate) sequence: u64,
    pub(crate) term: u64,
    pub(crate) vote: Option<u64>,
    pub(crate) log_epoch: u64,
    pub(crate) durable_mark: u64,
    pub(crate) debt: Option<End>,
    pub(crate) cluster: String,
    pub(crate) incarnation: String,
}

/// A copy of the manifest.
#[derive(Debug, Serialize)]
pub(crate) struct ManifestCopy {
    pub(crate) sequence: u64,
    pub(crate) base: End,
    pub(crate) base_segment: u64,
    pub(crate) databases: usize,
    pub(crate) cluster: String,
    pub(crate) incarnation: String,
}

/// A file of the log.
#[derive(Debug, Serialize)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// Of the records; `None` if there is none.
    pub(crate) epoch: Option<u64>,
    /// The entry before the epoch. Its term is 0 if it is not known, or there is none.
    pub(crate) follows_on: Option<End>,
    /// The indexes of the first and last whole record.
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    /// How many whole records follow each other from the start.
    pub(crate) records: usize,
    /// Where they end, in bytes.
    pub(crate) end: u64,
    /// Whole headers behind that place.
    pub(crate) headers_behind: usize,
    /// What is wrong where the records end, or with the file as a whole.
    pub(crate) damage: Option<String>,
    /// The log was cut behind it.
    pub(crate) obsolete: bool,
    /// The records, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) list: Vec<Record>,
}

/// A record of a segment.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) offset: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) kind: String,
    pub(crate) payload_bytes: u32,
    pub(crate) durable_upto: u64,
    pub(crate) commit: u64,
}

/// The log as a start would find it.
#[derive(Debug, Serialize)]
pub(crate) struct Log {
    pub(crate) base: u64,
    pub(crate) last: u64,
    pub(crate) commit: u64,
    pub(crate) epoch: u64,
    /// The unfinished write that would be cut off.
    pub(crate) torn: Option<String>,
    /// What was durable and is damaged. A node that is alone does not start with it; a member cuts the
    /// log there and is repaired from the leader.
    pub(crate) fault: Option<String>,
    /// What would be owed then.
    pub(crate) debt: Option<End>,
}

/// A database.
#[derive(Debug, Serialize)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) page_size: u32,
    /// The file holds everything up to here.
    pub(crate) applied: u64,
    /// The file may hold something up to here.
    pub(crate) target: u64,
    /// The length of the file; `None` if it is missing.
    pub(crate) file_bytes: Option<u64>,
}

/// Looks at a shard of a directory. `records` lists every record of the log.
///
/// # Errors
/// There is no such directory.
pub(crate) fn inspect(root: &Path, number: u32, records: bool) -> Result<Inspection, StorageError> {
    std::fs::read_dir(root).map_err(|source| StorageError::io("read", root, source))?;
    let shard = directory::shard_of(root, number);
    let identity = match Identity::load(root) {
        Ok(Some(identity)) => Found::Good(identity),
        Ok(None) => Found::Bad("there is none".to_owned()),
        Err(error) => Found::Bad(error.to_string()),
    };
    let hard_states = hard_state::copies(&shard);
    let manifests = manifest::copies(&shard);
    let newest_state = hard_states
        .iter()
        .flatten()
        .max_by_key(|copy| copy.sequence);
    let newest_manifest = manifests
        .iter()
        .flatten()
        .max_by_key(|(stamp, _)| stamp.sequence);
    let owner = identity
        .good()
        .and_then(|identity| Some((identity.cluster?, identity.incarnation)))
        .or(newest_state.map(|state| (state.cluster, state.incarnation)))
        .or(newest_manifest.map(|(stamp, _)| (stamp.cluster, stamp.incarnation)));
    let manifest = newest_manifest.map(|(_, manifest)| manifest);
    let log = shard.join("log");
    let (segments, scans) = match owner {
        Some((cluster, incarnation)) => {
            let owner = RecordIdentity {
                cluster,
                shard: number,
                incarnation,
            };
            look_at_segments(&log, &owner, manifest, records)
        }
        None => (Vec::new(), Err("nobody knows whose log it is".to_owned())),
    };
    let recovered = scans.and_then(|scans| judge(scans, newest_state, manifest));
    Ok(Inspection {
        directory: root.display().to_string(),
        in_use: directory::is_in_use(root),
        shard: match &identity {
            Found::Good(identity) if identity.shards == 1 => None,
            _ => Some(number),
        },
        identity,
        hard_state: hard_states.map(|copy| match copy {
            Some(copy) => Found::Good(hard_state_of(&copy)),
            None => Found::Bad("it is damaged, missing or of another version".to_owned()),
        }),
        segments,
        log: recovered.map_or_else(Found::Bad, Found::Good),
        databases: manifest.map_or_else(Vec::new, |manifest| databases_of(&shard, manifest)),
        unknown_files: unknown_files(&shard, manifest),
        manifest: manifests.map(|copy| match copy {
            Some((stamp, manifest)) => Found::Good(ManifestCopy {
                sequence: stamp.sequence,
                base: end_of(manifest.log.base),
                base_segment: manifest.log.segment,
                databases: manifest.databases.len(),
                cluster: format!("{:032x}", stamp.cluster),
                incarnation: format!("{:016x}", stamp.incarnation),
            }),
            None => Found::Bad("it is damaged, missing or of another version".to_owned()),
        }),
    })
}

fn end_of(base: LogBase) -> End {
    End {
        term: base.term.0,
        index: base.index.0,
    }
}

fn hard_state_of(record: &HardStateRecord) -> HardState {
    HardState {
        sequence: record.sequence,
        term: record.term.0,
        vote: record.vote.map(|node| node.0),
        log_epoch: record.log_epoch,
        durable_mark: record.durable_mark.0,
        debt: record.debt.map(End::from),
        cluster: format!("{:032x}", record.cluster),
        incarnation: format!("{:016x}", record.incarnation),
    }
}

/// The segments, and the scans of those that are part of the log, or why there are none.
fn look_at_segments(
    log: &Path,
    owner: &RecordIdentity,
    manifest: Option<&Manifest>,
    records: bool,
) -> (Vec<Segment>, Result<Vec<SegmentScan>, String>) {
    let numbers = match segment::numbers_in(log) {
        Ok(numbers) => numbers,
        Err(error) => return (Vec::new(), Err(error.to_string())),
    };
    let start = manifest.map_or(0, |manifest| manifest.log.segment);
    let mut segments = Vec::new();
    let mut scans = Ok(Vec::new());
    for number in numbers {
        let path = segment::path_in(log, number);
        let mut found = Segment {
            number,
            file: path.display().to_string(),
            bytes: 0,
            epoch: None,
            follows_on: None,
            first: None,
            last: None,
            records: 0,
            end: 0,
            headers_behind: 0,
            damage: None,
            obsolete: number < start,
            list: Vec::new(),
        };
        let scan = std::fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                found.bytes = bytes.len() as u64;
                ringlite_raft::scan_segment(&bytes, number, owner)
                    .map_err(|error: RecoveryError| error.to_string())
            });
        match scan {
            Ok(scan) => {
                found.describe(&scan, records);
                if let (false, Ok(scans)) = (found.obsolete, &mut scans) {
                    scans.push(scan);
                }
            }
            Err(error) => {
                found.damage = Some(error.clone());
                if !found.obsolete {
                    scans = scans.and(Err(error));
                }
            }
        }
        segments.push(found);
    }
    (segments, scans)
}

impl Segment {
    fn describe(&mut self, scan: &SegmentScan, records: bool) {
        let list = scan.records();
        let (end, damage) = scan.end();
        self.epoch = scan.epoch();
        self.follows_on = scan.follows_on().map(|(index, term)| End {
            term: term.0,
            index: index.0,
        });
        self.first = list.first().map(|(_, header)| header.index.0);
        self.last = list.last().map(|(_, header)| header.index.0);
        self.records = list.len();
        self.end = end;
        self.headers_behind = scan.headers_behind();
        self.damage = damage.map(|damage| damage.to_string());
        if records {
            let record = |(offset, header): &(u64, RecordHeader)| Record {
                offset: *offset,
                index: header.index.0,
                term: header.term.0,
                kind: format!("{:?}", header.kind).to_lowercase(),
                payload_bytes: header.payload_bytes,
                durable_upto: header.place.durable_upto.0,
                commit: header.place.commit.0,
            };
            self.list = list.iter().map(record).collect();
        }
    }
}

fn judge(
    scans: Vec<SegmentScan>,
    hard_state: Option<&HardStateRecord>,
    manifest: Option<&Manifest>,
) -> Result<Log, String> {
    let manifest = manifest.ok_or("without a manifest nobody knows where the log begins")?;
    let mark = hard_state.map_or(DurableMark::default(), |state| DurableMark {
        epoch: state.log_epoch,
        index: state.durable_mark,
    });
    let found = ringlite_raft::recover(scans, mark, manifest.log.base)
        .map_err(|error| error.to_string())?;
    let term = hard_state.map(|state| state.term).unwrap_or_default();
    Ok(Log {
        base: found.base.index.0,
        last: found.last.0,
        commit: found.commit.0,
        epoch: found.epoch,
        torn: found.cut.map(|cut| cut.to_string()),
        fault: found.fault.map(|fault| fault.to_string()),
        debt: found.fault.map(|fault| fault.debt(term).into()),
    })
}

fn databases_of(shard: &Path, manifest: &Manifest) -> Vec<Database> {
    let databases = manifest.databases.iter().map(|database| {
        let file = std::fs::metadata(shard.join("databases").join(&database.name));
        Database {
            name: database.name.clone(),
            id: database.id,
            page_size: database.page_size,
            applied: database.applied.0,
            target: database.target.0,
            file_bytes: file.ok().map(|file| file.len()),
        }
    });
    databases.collect()
}

fn unknown_files(shard: &Path, manifest: Option<&Manifest>) -> Vec<String> {
    let known = |name: &String| {
        let databases = manifest.iter().flat_map(|manifest| &manifest.databases);
        let mut names = databases.into_iter().map(|database| &database.name);
        // A database may have a file with the checksums of its pages.
        names.any(|known| {
            name.strip_prefix(known)
                .is_some_and(|end| end.is_empty() || end == ".sum")
        })
    };
    let files = std::fs::read_dir(shard.join("databases"));
    let names = files.into_iter().flatten().flatten();
    let mut names: Vec<_> = names
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .filter(|name| !known(name))
        .collect();
    names.sort();
    names
}

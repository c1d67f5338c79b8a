//! The operator's last resort: a node goes on alone, with what its directory holds.
//!
//! What a vote or a leader would have to confirm is decided by decree. The log ends where it can be read.
//! A fresh segment of a new epoch follows, so that whatever lies behind a fault is void; it begins with a
//! configuration whose only member is the node. Everything that is changed, or void afterwards, is copied
//! first.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ringlite_raft::{
    Configuration, Debt, Entry, EntryKind, Fault, LogIndex, Member, MemberRole, NodeId,
    RecordIdentity, RecordPlace, Term, encode_record, record_bytes,
};

use super::hard_state::{self, HardStateRecord};
use super::identity::Identity;
use super::manifest::{self, Manifest, Stamp};
use super::recovered::Recovered;
use super::{StorageError, directory, segment, staging};
use crate::shards::ShardPlace;

/// A shard of a directory that is going to be a cluster of its own. Nothing is changed before
/// [`Forced::carry_out`]; no node can use the directory meanwhile.
pub(crate) struct Forced {
    root: PathBuf,
    identity: Identity,
    shard: u32,
    recovered: Recovered,
    /// The members by the log.
    configuration: Configuration,
    stamp: Stamp,
    manifest: Manifest,
    /// Both copies of the hard state were bad.
    votes_lost: bool,
    /// Locked while it is open.
    _lock: Arc<File>,
}

/// What has been done.
pub(crate) struct Outcome {
    /// Where the copies are.
    pub(crate) kept: PathBuf,
    /// The node.
    pub(crate) node: NodeId,
    /// The last entry that was kept.
    pub(crate) last: LogIndex,
}

impl Forced {
    /// Looks at the shards of the directory.
    ///
    /// # Errors
    /// A node uses it; or its identity, or both copies of its manifest, are damaged, or its log is none,
    /// so that nothing can be concluded from it.
    pub(crate) fn plan(root: &Path) -> Result<Vec<Self>, StorageError> {
        let lock = Arc::new(directory::lock_existing(root)?);
        let identity = Identity::load(root)?.ok_or_else(|| StorageError::Identity {
            path: root.join("identity"),
            what: "there is none".to_owned(),
        })?;
        let Some(cluster) = identity.cluster else {
            return Err(StorageError::Identity {
                path: root.join("identity"),
                what: "its cluster has never formed, so that it holds nothing".to_owned(),
            });
        };
        (0..identity.shards)
            .map(|number| Self::plan_shard(root, &identity, cluster, number, Arc::clone(&lock)))
            .collect()
    }

    fn plan_shard(
        root: &Path,
        identity: &Identity,
        cluster: u128,
        number: u32,
        lock: Arc<File>,
    ) -> Result<Self, StorageError> {
        let shard = directory::shard_of(root, number);
        let newest = hard_state::copies(&shard).into_iter().flatten();
        let newest = newest.max_by_key(|copy| copy.sequence);
        let hard_state = newest.unwrap_or(HardStateRecord {
            cluster,
            incarnation: identity.incarnation,
            ..HardStateRecord::default()
        });
        let (stamp, manifest) = manifest::load(&shard)?;
        let (stamp, manifest) = staging::settle(&shard, stamp, manifest)?;
        let owner = RecordIdentity {
            cluster,
            shard: number,
            incarnation: identity.incarnation,
        };
        let recovered = Recovered::read(&shard.join("log"), &owner, hard_state, manifest.clone())?;
        Ok(Self {
            root: root.to_owned(),
            identity: identity.clone(),
            shard: number,
            configuration: recovered.configuration()?,
            recovered,
            stamp,
            manifest,
            votes_lost: newest.is_none(),
            _lock: lock,
        })
    }

    /// Which shard of the node it is about.
    pub(crate) fn place(&self) -> ShardPlace {
        ShardPlace {
            number: self.shard,
            count: self.identity.shards,
        }
    }

    /// The node, and the other members that it will not know any more.
    pub(crate) fn members(&self) -> (u64, Vec<u64>) {
        let node = self.identity.node;
        let configured = self.identity.members.iter().map(|member| member.id);
        let known = self
            .configuration
            .members()
            .iter()
            .map(|member| member.id.0);
        let others: BTreeSet<u64> = configured.chain(known).filter(|id| *id != node).collect();
        (node, others.into_iter().collect())
    }

    /// Where the log is damaged.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.recovered.log().fault
    }

    /// The last entry that is kept.
    pub(crate) fn last(&self) -> LogIndex {
        self.recovered.log().last
    }

    /// What this node may have acknowledged and does not hold.
    pub(crate) fn owed(&self) -> Option<Debt> {
        let hard_state = &self.recovered.hard_state;
        let fault = self.fault().map(|fault| fault.debt(hard_state.term));
        let owed = fault.max(hard_state.debt);
        owed.filter(|owed| *owed > self.recovered.end())
    }

    /// Both copies of the hard state were bad: whom it voted for is unknown, and does not matter any more.
    pub(crate) fn votes_lost(&self) -> bool {
        self.votes_lost
    }

    /// The databases whose files may hold a part of entries that are lost.
    pub(crate) fn torn_databases(&self) -> Vec<&str> {
        let databases = self.manifest.databases.iter();
        let torn = databases
            .filter(|database| database.target > self.last() && database.target > database.applied);
        torn.map(|database| database.name.as_str()).collect()
    }

    /// Whether the node would start, and lead, as it is.
    pub(crate) fn is_needless(&self) -> bool {
        let (_, others) = self.members();
        others.is_empty() && !self.votes_lost && self.recovered.refuse_damage(&self.root).is_ok()
    }

    /// Does it for all shards, and then says in the node's identity that it is alone: as long as that names
    /// others, all can be done again.
    ///
    /// # Errors
    /// If a file cannot be copied or written. `done` is told of each shard as soon as it is done.
    pub(crate) fn carry_out_all(
        shards: Vec<Self>,
        mut done: impl FnMut(ShardPlace, Outcome),
    ) -> Result<(), StorageError> {
        let alone = shards.first().map(|shard| {
            let mut identity = shard.identity.clone();
            let node = identity.node;
            identity.members.retain(|member| member.id == node);
            (shard.root.clone(), identity)
        });
        for shard in shards {
            done(shard.place(), shard.carry_out()?);
        }
        alone.map_or(Ok(()), |(root, identity)| identity.save(&root))
    }

    fn carry_out(mut self) -> Result<Outcome, StorageError> {
        let kept = self.keep_copies()?;
        let shard = directory::shard_of(&self.root, self.shard);
        let term = self.save_hard_state(&shard)?;
        let segment = self.write_segment(&shard, term)?;
        if self.recovered.lacks_base() {
            self.manifest.log.segment = segment;
            self.stamp.sequence += 1;
            manifest::replace(&shard, &self.stamp, &self.manifest)?;
        }
        Ok(Outcome {
            kept,
            node: NodeId(self.identity.node),
            last: self.last(),
        })
    }

    /// A term that nobody has voted in, and no debt.
    fn save_hard_state(&self, shard: &Path) -> Result<Term, StorageError> {
        let mut record = self.recovered.hard_state;
        let seen = self.owed().map_or(Term(0), |owed| owed.term);
        record.sequence += 1;
        record.term = record.term.max(self.recovered.end().term).max(seen).next();
        record.vote = None;
        record.debt = None;
        hard_state::save(shard, &record)?;
        Ok(record.term)
    }

    /// The log goes on in a fresh segment: with another record of the base if that is damaged, and with
    /// empty entries up to what the files of the databases may hold, or any header names as committed, so
    /// that no later entry gets an index that seems to be had, or committed, already.
    fn write_segment(&self, shard: &Path, term: Term) -> Result<u64, StorageError> {
        let log = shard.join("log");
        let base = self.recovered.log().base;
        let last = self.last();
        let targets = self
            .manifest
            .databases
            .iter()
            .map(|database| database.target);
        let end = targets.max().unwrap_or_default().max(last.next());
        // The next recovery takes what it finds up to there for committed: it must not be what comes later.
        let end = end.max(self.recovered.log().named_commit);
        let first = if self.recovered.lacks_base() {
            base.index
        } else {
            last.next()
        };
        let number = segment::numbers_in(&log)?.into_iter().max().unwrap_or(0);
        let mut place = RecordPlace {
            identity: RecordIdentity {
                cluster: self.identity.cluster.unwrap_or(0),
                shard: self.shard,
                incarnation: self.identity.incarnation,
            },
            segment: number.max(self.recovered.newest_segment()) + 1,
            epoch: self.recovered.newest_epoch() + 1,
            epoch_first: first,
            epoch_previous_term: if first > last {
                self.recovered.end().term
            } else {
                Term(0)
            },
            previous_header_crc: 0,
            durable_upto: first.prev(),
            commit: self.recovered.log().commit.min(first.prev()),
        };
        let mut bytes = Vec::new();
        for index in first.0..=end.0 {
            let mut entry = Entry {
                term: if index <= last.0 { base.term } else { term },
                index: LogIndex(index),
                kind: EntryKind::Noop,
                payload: Bytes::new(),
            };
            if entry.index == last.next() {
                entry.kind = EntryKind::Configuration;
                entry.payload = self.sole_member().encode();
            }
            let start = bytes.len();
            bytes.resize(start + record_bytes(entry.payload.len()), 0);
            place.previous_header_crc = encode_record(&place, &entry, &mut bytes[start..]);
        }
        segment::make(&log, place.segment, &bytes)?;
        Ok(place.segment)
    }

    /// The configuration with this node as the only member.
    fn sole_member(&self) -> Configuration {
        let id = NodeId(self.identity.node);
        let known = self.configuration.member(id);
        let mut founders = self.identity.members.iter();
        let founder = founders.find(|member| member.id == id.0);
        let described = || {
            let described = crate::replica::member::Member {
                id,
                role: MemberRole::Voter,
                address: founder.map_or_else(String::new, |member| member.address.clone()),
                incarnation: self.identity.incarnation,
                failure_domain: 0,
                weight: 0,
                assigned: None,
            };
            described.context()
        };
        let member = Member {
            id,
            role: MemberRole::Voter,
            context: known.map_or_else(described, |member| member.context.clone()),
        };
        match Configuration::new(vec![member]) {
            Ok(configuration) => configuration,
            Err(error) => unreachable!("one voter is a configuration: {error}"),
        }
    }

    /// Copies whatever is changed, or void afterwards.
    fn keep_copies(&self) -> Result<PathBuf, StorageError> {
        let name = |number: u32| self.root.join(format!("before-recover-{number}"));
        let kept = (1..)
            .map(name)
            .find(|path| !path.exists())
            .unwrap_or_else(|| name(0));
        let shard = directory::shard_of(&self.root, self.shard);
        let log = shard.join("log");
        let mut files = vec![
            self.root.join("identity"),
            hard_state::path_in(&shard),
            shard.join("manifest.a"),
            shard.join("manifest.b"),
        ];
        if self.fault().is_some() {
            let all = self.recovered.lacks_base();
            let kept = self.recovered.log().records.last();
            let kept = kept.map_or(0, |record| record.segment);
            let numbers = segment::numbers_in(&log)?;
            // What is kept of the log may end long before the fault.
            let void = numbers.into_iter().filter(|number| all || *number >= kept);
            files.extend(void.map(|number| segment::path_in(&log, number)));
        }
        let failed = |path: &Path, source| StorageError::io("keep a copy in", path, source);
        std::fs::create_dir(&kept).map_err(|source| failed(&kept, source))?;
        for file in files.iter().filter(|file| file.exists()) {
            let copy = kept.join(file.file_name().unwrap_or_default());
            let copied = std::fs::copy(file, &copy).and_then(|_| File::open(&copy)?.sync_all());
            copied.map_err(|source| failed(&copy, source))?;
        }
        for directory in [&kept, &self.root] {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|source| failed(&kept, source))?;
        }
        Ok(kept)
    }
}

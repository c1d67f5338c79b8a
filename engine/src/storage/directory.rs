//! A data directory that a node holds.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ringlite_raft::{LogIndex, NodeId, RecordIdentity, Term};
use rustix::fs::{FlockOperation, OFlags};

use super::hard_state::{self, COPY_BYTES, HardStateRecord};
use super::identity::{Identity, Member};
use super::manifest::{self, Manifest, Stamp};
use super::recovered::Recovered;
use super::{StorageError, staging};
use crate::replica::NodeAddress;
use crate::shards::ShardPlace;

/// Whose directory it is meant to be.
pub(crate) struct Owner<'a> {
    /// The id that the node is to have; `None` for the one that it has, or gets when it joins.
    pub(crate) node: Option<NodeId>,
    /// All members of a fixed start. None: those that the directory knows.
    pub(crate) cluster: &'a [NodeAddress],
    /// The address of a node that starts a cluster of its own if the directory is new; `None` for
    /// one that joins another.
    pub(crate) alone_at: Option<&'a str>,
    /// How many shards the node is to have; `None` for as many as the directory has, which is 1 for one
    /// that starts a cluster and as many as the cluster has for one that joins.
    pub(crate) shards: Option<u32>,
}

/// A locked data directory, its identity known, as one of the node's shards uses it.
#[derive(Clone)]
pub(crate) struct DataDirectory {
    root: PathBuf,
    identity: Identity,
    /// Whose log and databases these are.
    shard: u32,
    segment_bytes: u64,
    /// Locked while it is open.
    _lock: Arc<File>,
}

impl DataDirectory {
    /// Opens the directory of `owner`, or makes it.
    pub(crate) fn open(
        root: &Path,
        owner: &Owner<'_>,
        segment_bytes: u64,
    ) -> Result<Self, StorageError> {
        let make = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|source| StorageError::io("make", path, source))
        };
        make(root)?;
        // The ring opens files without a current directory, so that only whole paths will do.
        let root = &root
            .canonicalize()
            .map_err(|source| StorageError::io("find", root, source))?;
        let lock = lock(root)?;
        probe_direct_io(root)?;
        let identity = match Identity::load(root)? {
            Some(mut identity) => {
                check_identity(root, &identity, owner)?;
                if identity.shards == 0 {
                    identity.shards = owner.shards.unwrap_or(0);
                }
                identity
            }
            None => new_identity(root, owner)?,
        };
        let directory = Self {
            root: root.to_owned(),
            identity,
            shard: 0,
            segment_bytes,
            _lock: Arc::new(lock),
        };
        directory.make_shards()?;
        Ok(directory)
    }

    /// Makes the directories of the shards. A node that has still to join does not know how many.
    fn make_shards(&self) -> Result<(), StorageError> {
        for directory in self.shards() {
            for path in [
                directory.log(),
                directory.databases(),
                directory.temporary(),
            ] {
                std::fs::create_dir_all(&path)
                    .map_err(|source| StorageError::io("make", &path, source))?;
            }
        }
        Ok(())
    }

    /// The directory as each of the shards uses it.
    pub(crate) fn shards(&self) -> impl Iterator<Item = Self> {
        (0..self.identity.shards).map(|shard| Self {
            shard,
            ..self.clone()
        })
    }

    /// Which shard this is for.
    pub(crate) fn place(&self) -> ShardPlace {
        ShardPlace {
            number: self.shard,
            count: self.identity.shards,
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The digest of the extensions that this life of the node loads.
    pub(crate) fn set_extensions(&mut self, digest: u64) {
        self.identity.extensions = digest;
    }

    /// Takes note of what this life of the node promises with leases, in ms; 0 without them. If that is
    /// not what an earlier life has promised, it first waits until that is over: nobody may be told
    /// anything before.
    pub(crate) fn promise(&mut self, lease_promise_ms: u32) -> Result<(), StorageError> {
        let before = self.identity.lease_promise_ms;
        if before == lease_promise_ms {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(before.into()));
        self.identity.lease_promise_ms = lease_promise_ms;
        self.identity.save(&self.root)
    }

    /// The cluster has formed: from now on the node may vote. The hard state comes first, as a
    /// formed directory without one would be damaged; so would one without a manifest.
    pub(crate) fn form(&mut self, formed: Identity) -> Result<(), StorageError> {
        self.identity.shards = formed.shards;
        self.make_shards()?;
        for shard in self.shards() {
            shard.form_shard(&formed)?;
        }
        formed.save(&self.root)?;
        self.identity = formed;
        Ok(())
    }

    fn form_shard(&self, formed: &Identity) -> Result<(), StorageError> {
        let record = HardStateRecord {
            sequence: 1,
            term: Term(0),
            vote: None,
            log_epoch: 0,
            durable_mark: LogIndex(0),
            cluster: formed.cluster.unwrap_or(0),
            incarnation: formed.incarnation,
            debt: None,
        };
        let mut bytes = vec![0; 2 * COPY_BYTES];
        record.encode(&mut bytes[..COPY_BYTES]);
        record.encode(&mut bytes[COPY_BYTES..]);
        let path = self.hard_state_path();
        let write = || -> std::io::Result<()> {
            std::fs::write(&path, &bytes)?;
            File::open(&path)?.sync_all()?;
            for directory in [&self.shard(), &self.root] {
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|source| StorageError::io("write", &path, source))?;
        let stamp = Stamp {
            sequence: 1,
            cluster: record.cluster,
            incarnation: record.incarnation,
        };
        manifest::create(&self.shard(), &stamp)
    }

    /// The manifest, both copies of which are good on return.
    pub(super) fn manifest(&self) -> Result<(Stamp, Manifest), StorageError> {
        let (stamp, manifest) = manifest::load(&self.shard())?;
        let path = || self.shard().join("manifest");
        self.check_owner(path, stamp.cluster, stamp.incarnation)?;
        Ok((stamp, manifest))
    }

    fn check_owner(
        &self,
        path: impl Fn() -> PathBuf,
        cluster: u128,
        incarnation: u64,
    ) -> Result<(), StorageError> {
        let wanted = (
            self.identity.cluster.unwrap_or(0),
            self.identity.incarnation,
        );
        if (cluster, incarnation) == wanted {
            return Ok(());
        }
        let name = |(cluster, incarnation): (u128, u64)| {
            format!("cluster {cluster:032x}, incarnation {incarnation:016x}")
        };
        Err(StorageError::OtherNode {
            path: path(),
            found: name((cluster, incarnation)),
            wanted: name(wanted),
        })
    }

    /// Reads what an earlier life has left. A log that is damaged ends before the damage then, if there
    /// are other voters to repair it from: what the node owes them is durable on return.
    ///
    /// # Errors
    /// If the directory cannot be used, or if its log is damaged and nobody else can have it: the node was
    /// started `alone`, and its log knows no other voter.
    pub(crate) fn recover(&self, alone: bool) -> Result<Recovered, StorageError> {
        let path = self.hard_state_path();
        let hard_state = hard_state::load(&self.shard())?
            .ok_or_else(|| StorageError::HardStateLost { path: path.clone() })?;
        self.check_owner(|| path.clone(), hard_state.cluster, hard_state.incarnation)?;
        let (stamp, manifest) = self.manifest()?;
        let (_, manifest) = staging::settle(&self.shard(), stamp, manifest)?;
        let mut recovered =
            Recovered::read(&self.log(), &self.record_identity(), hard_state, manifest)?;
        let node = NodeId(self.identity.node);
        let configuration = recovered.configuration()?;
        // A node that has joined knows from its log only who else votes.
        let is_known = !self.identity.joins || configuration.voter_count() > 0;
        if alone && is_known && configuration.voters().all(|voter| voter == node) {
            recovered.refuse_damage(&self.root)?;
        } else {
            recovered.owe_what_is_lost(&self.shard())?;
        }
        recovered.remove_unused()?;
        Ok(recovered)
    }

    pub(crate) fn record_identity(&self) -> RecordIdentity {
        RecordIdentity {
            cluster: self.identity.cluster.unwrap_or(0),
            shard: self.shard,
            incarnation: self.identity.incarnation,
        }
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    pub(super) fn shard(&self) -> PathBuf {
        shard_of(&self.root, self.shard)
    }

    pub(crate) fn hard_state_path(&self) -> PathBuf {
        hard_state::path_in(&self.shard())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.shard().join("log")
    }

    pub(crate) fn databases(&self) -> PathBuf {
        self.shard().join("databases")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        match self.shard {
            0 => self.root.join("tmp"),
            _ => self.shard().join("tmp"),
        }
    }
}

/// Takes a directory that exists away from every node, until the file is closed.
pub(super) fn lock_existing(root: &Path) -> Result<File, StorageError> {
    match File::open(root.join("identity")) {
        Err(source) => Err(StorageError::io("read", &root.join("identity"), source)),
        Ok(_) => lock(root),
    }
}

/// Whether a node uses the directory. Nothing is written.
pub(super) fn is_in_use(root: &Path) -> bool {
    let Ok(file) = File::open(root.join("lock")) else {
        return false;
    };
    let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
    locked == Err(rustix::io::Errno::WOULDBLOCK)
}

fn lock(root: &Path) -> Result<File, StorageError> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| StorageError::io("open", &path, source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StorageError::Locked {
            path: root.to_owned(),
        }),
        Err(error) => Err(StorageError::io("lock", &path, error.into())),
    }
}

/// The executor would fail, or panic, much later and with less to say.
fn probe_direct_io(root: &Path) -> Result<(), StorageError> {
    let path = root.join("probe");
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    let opened = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .custom_flags(direct)
        .open(&path);
    let removed = std::fs::remove_file(&path);
    match opened {
        Ok(_) => removed.map_err(|source| StorageError::io("remove", &path, source)),
        Err(source) if source.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            Err(StorageError::NoDirectIo {
                path: root.to_owned(),
                source,
            })
        }
        Err(source) => Err(StorageError::io("write to", root, source)),
    }
}

pub(super) fn shard_of(root: &Path, shard: u32) -> PathBuf {
    root.join(format!("shard-{shard}"))
}

fn check_identity(root: &Path, identity: &Identity, owner: &Owner<'_>) -> Result<(), StorageError> {
    let other = |found: String, wanted: String| StorageError::OtherNode {
        path: root.to_owned(),
        found,
        wanted,
    };
    if let Some(node) = owner.node
        && identity.node != node.0
        && identity.node != 0
    {
        return Err(other(
            format!("node {}", identity.node),
            format!("node {}", node.0),
        ));
    }
    if let Some(wanted) = owner.shards
        && ![0, wanted].contains(&identity.shards)
    {
        return Err(StorageError::OtherShards {
            path: root.to_owned(),
            found: identity.shards,
            wanted,
        });
    }
    if owner.cluster.is_empty() {
        return Ok(());
    }
    let list = |members: &mut dyn Iterator<Item = (u64, &str)>| {
        let mut members: Vec<_> = members.map(|(id, at)| format!("{id}={at}")).collect();
        members.sort();
        members.join(",")
    };
    let found = list(&mut identity.members.iter().map(|m| (m.id, m.address.as_str())));
    let wanted = list(&mut owner.cluster.iter().map(|m| (m.id.0, m.address.as_str())));
    // A cluster of one may move to another address: nobody else knows the old one.
    let alone = identity.members.len() == 1 && owner.cluster.len() == 1;
    if identity.joins || (found != wanted && !alone) {
        let found = if identity.joins {
            "a node that joined a running cluster".to_owned()
        } else {
            format!("a cluster of {found}")
        };
        return Err(other(found, format!("a node of a cluster of {wanted}")));
    }
    Ok(())
}

fn new_identity(root: &Path, owner: &Owner<'_>) -> Result<Identity, StorageError> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| StorageError::io("make an identity in", root, error.into()))?;
    let incarnation = u64::from_le_bytes(random).max(1);
    let joins = owner.cluster.is_empty() && owner.alone_at.is_none();
    let member = |id: NodeId, address: &str| Member {
        id: id.0,
        address: address.to_owned(),
        incarnation: 0,
    };
    let node = owner.node.unwrap_or(NodeId(u64::from(!joins)));
    let members = match owner.alone_at {
        Some(address) if owner.cluster.is_empty() => vec![member(node, address)],
        _ => {
            let members = owner.cluster.iter();
            members.map(|at| member(at.id, &at.address)).collect()
        }
    };
    let mut identity = Identity::new(node, incarnation, members);
    identity.joins = joins;
    identity.shards = owner.shards.unwrap_or(u32::from(!joins));
    identity.save(root)?;
    Ok(identity)
}

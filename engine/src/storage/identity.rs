//! Who a data directory belongs to: written when it is made, completed when its cluster forms.
//!
//! One line of JSON and one line with its CRC. It is replaced as a whole (temporary name, fsync,
//! rename, fsync of the directory), so that a crash leaves the old one or the new one.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use ringlite_raft::NodeId;
use serde::{Deserialize, Serialize};

use super::StorageError;

const FILE: &str = "identity";
const FORMAT: u32 = 1;

/// A member of a cluster, as it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) id: u64,
    /// `HOST:PORT` as configured.
    pub(crate) address: String,
    /// The incarnation of its directory; 0 while it is not known.
    pub(crate) incarnation: u64,
}

impl From<&crate::replica::member::Member> for Member {
    fn from(member: &crate::replica::member::Member) -> Self {
        Self {
            id: member.id.0,
            address: member.address.clone(),
            incarnation: member.incarnation,
        }
    }
}

/// The identity of a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    format: u32,
    /// 0 for a node that gets its id when it joins.
    pub(crate) node: u64,
    /// Chosen at random when the directory was made: a wiped directory gets another one, and
    /// cannot pass for the node that has voted before.
    pub(crate) incarnation: u64,
    /// The cluster; `None` until it has formed. In hexadecimal, as JSON has no such number.
    #[serde(with = "hexadecimal")]
    pub(crate) cluster: Option<u128>,
    /// The members of a fixed start, or those that there were when this node joined; the log tells
    /// what became of them. Empty for a node that has still to join.
    pub(crate) members: Vec<Member>,
    /// Whether the node has joined a running cluster, or wants to; its log has to tell it who the
    /// members are then. Otherwise its cluster began with `members`.
    #[serde(default)]
    pub(crate) joins: bool,
    /// For how long this node refuses to elect another leader after it has heard of one, in ms; 0
    /// without leases. What one life has promised binds the next.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) lease_promise_ms: u32,
    /// How many shards the node has, fixed when its cluster forms; 0 for a node that has still to join,
    /// and was not told.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(crate) shards: u32,
    /// The digest of the extensions that this life of the node loads; it is not kept.
    #[serde(skip)]
    pub(crate) extensions: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde calls"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde calls"
)]
fn is_one(number: &u32) -> bool {
    *number == 1
}

fn one() -> u32 {
    1
}

mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "the shape that serde calls")]
    pub(super) fn serialize<S: Serializer>(id: &Option<u128>, to: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => to.serialize_some(&format!("{id:032x}")),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<u128>, D::Error> {
        Option::<String>::deserialize(from)?
            .map(|text| u128::from_str_radix(&text, 16).map_err(D::Error::custom))
            .transpose()
    }
}

impl Identity {
    pub(crate) fn new(node: NodeId, incarnation: u64, members: Vec<Member>) -> Self {
        Self {
            format: FORMAT,
            node: node.0,
            incarnation,
            cluster: None,
            members,
            joins: false,
            lease_promise_ms: 0,
            shards: 1,
            extensions: 0,
        }
    }

    /// The incarnation that the cluster was formed with; 0 if unknown.
    pub(crate) fn incarnation_of(&self, node: NodeId) -> u64 {
        let member = self.members.iter().find(|member| member.id == node.0);
        member.map_or(0, |member| member.incarnation)
    }

    /// Reads the identity; `None` if the directory has none.
    pub(super) fn load(data: &Path) -> Result<Option<Self>, StorageError> {
        let path = data.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StorageError::io("read", &path, source)),
        };
        let bad = |what: String| StorageError::Identity {
            path: path.clone(),
            what,
        };
        let (json, crc) = text
            .split_once('\n')
            .ok_or_else(|| bad("it is cut short".into()))?;
        if crc.trim() != format!("{:08x}", crc32fast::hash(json.as_bytes())) {
            return Err(bad("its checksum is wrong".into()));
        }
        let identity: Self = serde_json::from_str(json)
            .map_err(|error| bad(format!("it cannot be read: {error}")))?;
        if identity.format != FORMAT {
            return Err(bad(format!(
                "it has format {}, and this version knows format {FORMAT}",
                identity.format
            )));
        }
        Ok(Some(identity))
    }

    /// Writes the identity durably.
    pub(crate) fn save(&self, data: &Path) -> Result<(), StorageError> {
        let path = data.join(FILE);
        let temporary = data.join("identity.new");
        let json = serde_json::to_string(self)
            .map_err(|error| StorageError::io("write", &path, error.into()))?;
        let crc = crc32fast::hash(json.as_bytes());
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            writeln!(file, "{json}\n{crc:08x}")?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(data)?.sync_all()
        };
        write().map_err(|source| StorageError::io("write", &path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_saved_and_a_changed_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), None);
        let mut identity = Identity::new(
            NodeId(2),
            9,
            vec![Member {
                id: 2,
                address: "h:1".into(),
                incarnation: 9,
            }],
        );
        identity.cluster = Some(7);
        identity.lease_promise_ms = 250;
        identity.shards = 3;
        identity.save(directory.path()).unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), Some(identity));

        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[12] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Identity::load(directory.path()).is_err());
    }
}

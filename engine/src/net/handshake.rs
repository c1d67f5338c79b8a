//! The first words between two nodes: who each is, and whether they may talk.
//!
//! The dialling node sends a [`Hello`], the other answers with one that has a [`Verdict`]. The
//! magic differs from every version word of the client protocol, so that one port serves both.

use ringlite_raft::NodeId;

use crate::replica::member::ADDRESS_BYTES_MAX;

/// Begins every connection between nodes.
pub(crate) const PEER_MAGIC: [u8; 8] = *b"RNGLPEER";
/// The bytes of a hello, magic included.
pub(crate) const HELLO_BYTES: usize = 352;

/// The versions of the protocol between nodes that this build speaks.
pub(crate) const VERSION_MIN: u16 = 1;
/// See [`VERSION_MIN`].
pub(crate) const VERSION_MAX: u16 = 1;

const AT_VERSION_MIN: usize = 8;
const AT_VERSION_MAX: usize = AT_VERSION_MIN + 2;
const AT_PURPOSE: usize = AT_VERSION_MAX + 2;
const AT_VERDICT: usize = AT_PURPOSE + 2;
const AT_CLUSTER: usize = AT_VERDICT + 2;
const AT_SENDER: usize = AT_CLUSTER + 16;
const AT_INCARNATION: usize = AT_SENDER + 8;
const AT_TARGET: usize = AT_INCARNATION + 8;
const AT_TARGET_INCARNATION: usize = AT_TARGET + 8;
const AT_FEATURES: usize = AT_TARGET_INCARNATION + 8;
const AT_SHARD: usize = AT_FEATURES + 4;
const AT_SHARDS: usize = AT_SHARD + 2;
const AT_EXTENSIONS: usize = AT_SHARDS + 2;
const AT_ADDRESS_BYTES: usize = AT_EXTENSIONS + 8;
const AT_ADDRESS: usize = AT_ADDRESS_BYTES + 2;
const AT_LEASE_PROMISE: usize = AT_CRC - 4;
const AT_CRC: usize = HELLO_BYTES - 4;
const _: () = assert!(AT_ADDRESS + ADDRESS_BYTES_MAX <= AT_LEASE_PROMISE);

/// Why a node connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Purpose {
    /// To send consensus messages.
    Link = 1,
    /// To learn at its first start who else starts for the first time.
    Formation = 2,
    /// To send a snapshot.
    Snapshot = 3,
    /// To ask for pages of a database.
    Pages = 4,
}

/// What the other node thinks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Verdict {
    /// In a hello that asks.
    None = 0,
    /// Go on.
    Welcome = 1,
    /// The answering node has not formed its cluster yet; try again.
    NotFormed = 2,
    /// The asking node belongs to another cluster.
    OtherCluster = 3,
    /// The answering node is not the one that was meant.
    NotMe = 4,
    /// The asking node is no member.
    NotMember = 5,
    /// The asking node's directory is not the one that its id belongs to.
    OtherIncarnation = 6,
    /// No common version.
    NoCommonVersion = 7,
    /// The two nodes load different extensions of SQLite.
    OtherExtensions = 8,
    /// One of the two nodes answers reads under leases and the other does not, or their election
    /// timeouts differ.
    OtherLeases = 9,
    /// The two nodes have different numbers of shards.
    OtherShards = 10,
}

/// What is said of nodes that differ in `--shards`.
pub(crate) const OTHER_SHARDS: &str = "the two nodes have different numbers of shards (start a new node \
     with the --shards of its cluster, in an empty data directory)";

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherExtensions => out.write_str(
                "it was started with another list of --extension (the names, entry points and \
                 contents of the files must be equal, in order)",
            ),
            Self::OtherLeases => out.write_str(
                "only one of the two nodes was started with --lease, or their --election differs (give \
                 all nodes the same)",
            ),
            Self::OtherShards => out.write_str(OTHER_SHARDS),
            verdict => write!(out, "{verdict:?}"),
        }
    }
}

/// What a node says of itself, and of the node it talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version_min: u16,
    pub(crate) version_max: u16,
    pub(crate) purpose: Purpose,
    pub(crate) verdict: Verdict,
    /// The cluster that the sender belongs to; 0 while it has none.
    pub(crate) cluster: u128,
    pub(crate) sender: NodeId,
    /// Chosen at random when the sender's directory was made.
    pub(crate) incarnation: u64,
    /// Whom the sender takes the receiver for.
    pub(crate) target: NodeId,
    /// The receiver's incarnation as the sender knows it; 0 if unknown.
    pub(crate) target_incarnation: u64,
    /// Optional abilities; none exist yet.
    pub(crate) features: u32,
    /// The shard of the sender that talks, and that of the receiver that it wants.
    pub(crate) shard: u16,
    /// How many shards the sender has; 0 if it has still to learn it.
    pub(crate) shards: u16,
    /// The digest of the extensions of SQLite that the sender loads; 0 if there are none.
    pub(crate) extensions: u64,
    /// For how long the sender refuses to elect another leader after it has heard of one, in ms; 0
    /// without leases.
    pub(crate) lease_promise_ms: u32,
    /// Where the sender is reached, `HOST:PORT`, at most [`ADDRESS_BYTES_MAX`] bytes, so that it can
    /// be answered by a node that does not know it.
    pub(crate) address: String,
}

/// Why a hello cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("it does not begin with the magic of a node")]
    Magic,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its {0} is unknown")]
    Unknown(&'static str),
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &PEER_MAGIC);
        put(AT_VERSION_MIN, &self.version_min.to_le_bytes());
        put(AT_VERSION_MAX, &self.version_max.to_le_bytes());
        put(AT_PURPOSE, &(self.purpose as u16).to_le_bytes());
        put(AT_VERDICT, &(self.verdict as u16).to_le_bytes());
        put(AT_CLUSTER, &self.cluster.to_le_bytes());
        put(AT_SENDER, &self.sender.0.to_le_bytes());
        put(AT_INCARNATION, &self.incarnation.to_le_bytes());
        put(AT_TARGET, &self.target.0.to_le_bytes());
        put(
            AT_TARGET_INCARNATION,
            &self.target_incarnation.to_le_bytes(),
        );
        put(AT_FEATURES, &self.features.to_le_bytes());
        put(AT_SHARD, &self.shard.to_le_bytes());
        put(AT_SHARDS, &self.shards.to_le_bytes());
        put(AT_EXTENSIONS, &self.extensions.to_le_bytes());
        put(AT_LEASE_PROMISE, &self.lease_promise_ms.to_le_bytes());
        let address = self.address.as_bytes();
        put(AT_ADDRESS_BYTES, &(address.len() as u16).to_le_bytes());
        put(AT_ADDRESS, address);
        let crc = crc32fast::hash(&out[..AT_CRC]);
        out[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HelloError> {
        fn field<const N: usize>(bytes: &[u8; HELLO_BYTES], at: usize) -> [u8; N] {
            let mut out = [0; N];
            out.copy_from_slice(&bytes[at..at + N]);
            out
        }
        let u16_at = |at| u16::from_le_bytes(field(bytes, at));
        let u64_at = |at| u64::from_le_bytes(field(bytes, at));
        if bytes[..8] != PEER_MAGIC {
            return Err(HelloError::Magic);
        }
        if u32::from_le_bytes(field(bytes, AT_CRC)) != crc32fast::hash(&bytes[..AT_CRC]) {
            return Err(HelloError::Checksum);
        }
        let purpose = match u16_at(AT_PURPOSE) {
            1 => Purpose::Link,
            2 => Purpose::Formation,
            3 => Purpose::Snapshot,
            4 => Purpose::Pages,
            _ => return Err(HelloError::Unknown("purpose")),
        };
        let verdict = match u16_at(AT_VERDICT) {
            0 => Verdict::None,
            1 => Verdict::Welcome,
            2 => Verdict::NotFormed,
            3 => Verdict::OtherCluster,
            4 => Verdict::NotMe,
            5 => Verdict::NotMember,
            6 => Verdict::OtherIncarnation,
            7 => Verdict::NoCommonVersion,
            8 => Verdict::OtherExtensions,
            9 => Verdict::OtherLeases,
            10 => Verdict::OtherShards,
            _ => return Err(HelloError::Unknown("verdict")),
        };
        let address_bytes = usize::from(u16_at(AT_ADDRESS_BYTES)).min(ADDRESS_BYTES_MAX);
        let address = bytes[AT_ADDRESS..AT_ADDRESS + address_bytes].to_vec();
        let address = String::from_utf8(address).map_err(|_| HelloError::Unknown("address"))?;
        Ok(Self {
            version_min: u16_at(AT_VERSION_MIN),
            version_max: u16_at(AT_VERSION_MAX),
            purpose,
            verdict,
            cluster: u128::from_le_bytes(field(bytes, AT_CLUSTER)),
            sender: NodeId(u64_at(AT_SENDER)),
            incarnation: u64_at(AT_INCARNATION),
            target: NodeId(u64_at(AT_TARGET)),
            target_incarnation: u64_at(AT_TARGET_INCARNATION),
            features: u32::from_le_bytes(field(bytes, AT_FEATURES)),
            shard: u16_at(AT_SHARD),
            shards: u16_at(AT_SHARDS),
            extensions: u64_at(AT_EXTENSIONS),
            lease_promise_ms: u32::from_le_bytes(field(bytes, AT_LEASE_PROMISE)),
            address,
        })
    }

    /// Whether sender and receiver have a version in common.
    pub(crate) fn has_common_version(&self) -> bool {
        self.version_min <= VERSION_MAX && VERSION_MIN <= self.version_max
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 3,
            purpose: Purpose::Formation,
            verdict: Verdict::OtherIncarnation,
            cluster: 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00,
            sender: NodeId(2),
            incarnation: 77,
            target: NodeId(3),
            target_incarnation: 78,
            features: 0,
            shard: 3,
            shards: 4,
            extensions: 79,
            lease_promise_ms: 80,
            address: "[::1]:9001".into(),
        }
    }

    #[test]
    fn a_hello_survives_the_codec() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..HELLO_BYTES * 8 {
            let mut bytes = hello().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), HELLO_BYTES)) {
            let mut array = [0; HELLO_BYTES];
            array.copy_from_slice(&bytes);
            let _ = Hello::decode(&array);
            array[..8].copy_from_slice(&PEER_MAGIC);
            let crc = crc32fast::hash(&array[..AT_CRC]);
            array[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
            let _ = Hello::decode(&array);
        }
    }
}

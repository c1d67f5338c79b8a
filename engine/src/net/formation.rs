//! The first start of a fixed cluster, without amnesia.
//!
//! A node with an empty directory may vote only if no member has ever started: else it could be
//! one that has voted before and lost its disk. So each node asks every other one. If all are at
//! their first start too, the cluster forms, and its id is a hash of all members' incarnations,
//! which all of them now know. If some have formed it already, with this very directory's
//! incarnation, then this node had only been interrupted, and joins them. Otherwise it refuses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ringlite_raft::NodeId;
use xxhash_rust::xxh3::Xxh3;

use super::handshake::{Hello, Purpose, Verdict};
use super::peer::dial;
use super::peers::hello;
use crate::replica::NodeAddress;
use crate::storage::{Identity, Member};

const ASK_AGAIN_AFTER: Duration = Duration::from_millis(30);
/// How often the wait is mentioned.
const REMIND_AFTER_ROUNDS: u32 = 100;

/// Why a node may not take part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormationError {
    /// The others know this node with another directory.
    #[error(
        "this data directory is empty, but {peer} says that the cluster has started before with \
         node {}: its old directory may have voted, so it must not start anew under the same \
         id (restore the old directory, or remove the member and let a new one join)", node.0
    )]
    Amnesia { peer: NodeAddress, node: NodeId },
    /// A member is configured differently.
    #[error(
        "{peer} refuses this node: {why}; check --id, --cluster, --shards and --extension on both"
    )]
    Refused {
        peer: NodeAddress,
        why: &'static str,
    },
}

/// Asks all members until the cluster has formed, and returns the completed identity.
pub(crate) async fn form(identity: &RefCell<Identity>) -> Result<Identity, FormationError> {
    let own = identity.borrow().clone();
    let members: Vec<NodeAddress> = own
        .members
        .iter()
        .map(|member| NodeAddress {
            id: NodeId(member.id),
            address: member.address.clone(),
        })
        .collect();
    let mut incarnations = BTreeMap::from([(own.node, own.incarnation)]);
    let mut round = 0;
    while incarnations.len() < members.len() {
        for member in &members {
            if incarnations.contains_key(&member.id.0) {
                continue;
            }
            let asks = hello(&own, member.id, Purpose::Formation, Verdict::None);
            let Ok((_, answer)) = dial(member, &asks).await else {
                continue;
            };
            if let Some(incarnation) = incarnation_from(&own, member, &answer)? {
                incarnations.insert(member.id.0, incarnation);
            }
        }
        if incarnations.len() < members.len() {
            round += 1;
            if round % REMIND_AFTER_ROUNDS == 0 {
                tracing::info!(
                    "first start: waiting for {} of {} members",
                    members.len() - incarnations.len(),
                    members.len()
                );
            }
            glommio::timer::sleep(ASK_AGAIN_AFTER).await;
        }
    }
    let mut formed = own;
    formed.cluster = Some(cluster_id(&incarnations));
    for member in &mut formed.members {
        member.incarnation = incarnations[&member.id];
    }
    Ok(formed)
}

/// What an answer tells of the member's incarnation.
fn incarnation_from(
    own: &Identity,
    member: &NodeAddress,
    answer: &Hello,
) -> Result<Option<u64>, FormationError> {
    let refused = |why| {
        Err(FormationError::Refused {
            peer: member.clone(),
            why,
        })
    };
    match answer.verdict {
        Verdict::OtherIncarnation => Err(FormationError::Amnesia {
            peer: member.clone(),
            node: NodeId(own.node),
        }),
        Verdict::NotMe => refused("it has another id"),
        Verdict::NotMember => refused("this node is not in its list of members"),
        Verdict::OtherCluster => refused("it belongs to another cluster"),
        Verdict::NoCommonVersion => refused("there is no common version of the protocol"),
        Verdict::OtherExtensions => refused("it was started with another list of --extension"),
        Verdict::OtherShards => refused(super::handshake::OTHER_SHARDS),
        Verdict::OtherLeases => refused("its --lease or --election is another one"),
        Verdict::None => Ok(None),
        Verdict::Welcome | Verdict::NotFormed => Ok(Some(answer.incarnation)),
    }
}

/// What a node answers whose shard has not started yet.
pub(crate) fn answer_while_forming(identity: &Identity, asks: &Hello) -> Hello {
    let is_member = |member: &Member| member.id == asks.sender.0;
    let verdict = if !asks.has_common_version() {
        Verdict::NoCommonVersion
    } else if identity.joins || asks.purpose == Purpose::Link {
        // Who is a member is for the log to say, which is not read yet.
        Verdict::NotFormed
    } else if asks.target.0 != identity.node {
        Verdict::NotMe
    } else if !identity.members.iter().any(is_member) {
        Verdict::NotMember
    } else if u32::from(asks.shards) != identity.shards {
        Verdict::OtherShards
    } else if identity.cluster.is_some() && asks.purpose == Purpose::Formation {
        // It has formed the cluster already, with the members that it knows.
        match identity.incarnation_of(asks.sender) {
            known if known == asks.incarnation => Verdict::Welcome,
            _ => Verdict::OtherIncarnation,
        }
    } else {
        // Nobody's incarnation is known for certain yet, and so none can be wrong.
        Verdict::NotFormed
    };
    hello(identity, asks.sender, asks.purpose, verdict)
}

/// The id of the cluster of these incarnations: the same wherever it is computed.
pub(crate) fn cluster_id(incarnations: &BTreeMap<u64, u64>) -> u128 {
    let mut hash = Xxh3::new();
    for (node, incarnation) in incarnations {
        hash.update(&node.to_le_bytes());
        hash.update(&incarnation.to_le_bytes());
    }
    // 0 means "no cluster" in a hello.
    hash.digest128().max(1)
}

/// An identity that answers hellos while it may still change.
pub(crate) type SharedIdentity = Rc<RefCell<Identity>>;

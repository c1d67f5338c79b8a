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
use super::peer;
use crate::replica::NodeAddress;
use crate::storage::Identity;

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
    #[error("{peer} refuses this node: {why}; check --id, --cluster and --extension on both")]
    Refused {
        peer: NodeAddress,
        why: &'static str,
    },
}

/// Asks all members until the cluster has formed, and returns the completed identity.
pub(crate) async fn form(
    identity: &RefCell<Identity>,
    members: &[NodeAddress],
) -> Result<Identity, FormationError> {
    let own = identity.borrow().clone();
    let mut incarnations = BTreeMap::from([(own.node, own.incarnation)]);
    let mut round = 0;
    while incarnations.len() < members.len() {
        for member in members {
            if incarnations.contains_key(&member.id.0) {
                continue;
            }
            let Ok((_, answer)) = peer::dial(member, &own, Purpose::Formation).await else {
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
        Verdict::None => Ok(None),
        Verdict::Welcome | Verdict::NotFormed => Ok(Some(answer.incarnation)),
    }
}

/// What a node answers that is at its first start itself.
pub(crate) fn answer_while_forming(identity: &Identity, asks: &Hello) -> Hello {
    let mut judged = identity.clone();
    // Nobody's incarnation is known for certain yet, and so none can be wrong.
    for member in &mut judged.members {
        if member.id == asks.sender.0 {
            member.incarnation = asks.incarnation;
        }
    }
    let verdict = match peer::judge(&judged, asks) {
        // A formed member can ask only for a link, for which it is too early here.
        Verdict::Welcome | Verdict::OtherCluster => Verdict::NotFormed,
        other => other,
    };
    peer::hello(identity, asks.sender, asks.purpose, verdict)
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

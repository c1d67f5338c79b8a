//! How a node becomes a member of a running cluster, and tells it what has changed about itself.
//!
//! It asks the leader, which it finds through any node, as a client does. The leader makes it a spare;
//! what it does from then on is the leader's decision. Asking twice does no harm: the leader knows the
//! node by the incarnation of its directory.

use std::time::Duration;

use crate::client::{Client, ClientError, ClientOptions};
use crate::replica::member::Member as KnownMember;
use crate::shards::SHARDS_MAX;
use crate::storage::{Identity, Member};
use crate::wire::Request;

const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// For one search for the leader. A node that is asked to stop waits for the end of one.
const FIND_LEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// The leader may first have to remove the member whose place is taken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the wait is mentioned.
const REMIND_AFTER_ROUNDS: u32 = 20;

/// What a node tells about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Introduction {
    /// Where others reach it.
    pub(crate) address: String,
    /// `None` for what the cluster knows.
    pub(crate) failure_domain: Option<u64>,
    /// `None` for what the cluster knows.
    pub(crate) weight: Option<u64>,
}

impl Introduction {
    /// Whether the configuration has it already.
    pub(crate) fn agrees_with(&self, known: &KnownMember) -> bool {
        (self.address.is_empty() || self.address == known.address)
            && self.failure_domain.unwrap_or(known.failure_domain) == known.failure_domain
            && self.weight.unwrap_or(known.weight) == known.weight
    }

    fn request(&self, identity: &Identity) -> Request {
        Request::Join {
            id: identity.node,
            incarnation: identity.incarnation,
            failure_domain: self.failure_domain.unwrap_or(u64::MAX),
            weight: self.weight.unwrap_or(u64::MAX),
            shards: identity.shards.into(),
            address: self.address.clone(),
        }
    }
}

/// Asks until this node is a member, and returns the completed identity.
///
/// # Errors
/// The leader's refusal.
pub(crate) async fn join(
    identity: &Identity,
    introduction: &Introduction,
    seeds: &[String],
) -> Result<Identity, ClientError> {
    let mut round = 0;
    loop {
        match introduce(identity, introduction, seeds).await {
            Ok(joined) => return Ok(joined),
            Err(error) if !may_pass(&error) => return Err(error),
            Err(error) if round % REMIND_AFTER_ROUNDS == 0 => {
                tracing::info!("waiting to join the cluster: {error}");
            }
            Err(_) => {}
        }
        round += 1;
        glommio::timer::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// Asks once.
pub(crate) async fn introduce(
    identity: &Identity,
    introduction: &Introduction,
    nodes: &[String],
) -> Result<Identity, ClientError> {
    let request = introduction.request(identity);
    let nodes = nodes.to_vec();
    let asked = glommio::executor().spawn_blocking(move || {
        let options = ClientOptions {
            find_leader_timeout: FIND_LEADER_TIMEOUT,
            connect_timeout: FIND_LEADER_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
        };
        Client::connect(&nodes, options)?.join(&request)
    });
    let joined = asked.await?;
    let mut identity = identity.clone();
    identity.node = joined.id;
    identity.cluster = Some(joined.cluster);
    identity.shards = u32::try_from(joined.shards)
        .unwrap_or(0)
        .clamp(1, SHARDS_MAX);
    let members = joined.members.into_iter().map(|member| Member {
        id: member.id,
        address: member.address,
        incarnation: member.incarnation,
    });
    identity.members = members.collect();
    Ok(identity)
}

/// Whether asking again can help.
fn may_pass(error: &ClientError) -> bool {
    let is_busy = matches!(error, ClientError::Failure { code: 5, .. });
    let is_no_leader = matches!(error, ClientError::NoLeader { .. });
    is_busy
        || is_no_leader
        || error.is_not_leader()
        || error.is_outcome_unknown()
        || error.is_connection_lost()
}

//! Requests about the cluster: who leads, who the members are, and changes of them.

use std::time::{Duration, Instant};

use ringlite_raft::{MemberRole, NodeId, Role as RaftRole};

use super::{Ask, Connection, response_to};
use crate::commands::Command;
use crate::error::Error;
use crate::net::joining::Introduction;
use crate::replica::request::{MemberRequest, Reply};
use crate::replica::{MemberStatus, NodeAddress, Replica, Status, all_follow};
use crate::shard::milliseconds;
use crate::stages::StageTimes;
use crate::wire::{FailureCode, MemberEntry, Request, Response, Role, ServerEntry};

/// How long a node that is elected and does not serve yet lets a client wait that asks who leads: it
/// takes a commit.
const ELECTED_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the other shards may take to follow a change of the members, which its asker waits for.
const FOLLOWED_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at that.
const FOLLOWED_POLL: Duration = Duration::from_millis(10);

impl Connection {
    /// Answers a request about the cluster, and hands any other back.
    pub(super) async fn handle_members(
        &mut self,
        request: Request,
    ) -> std::io::Result<Option<Request>> {
        let wanted = match request {
            // A database's connection has come to its shard by now.
            Request::Leader | Request::LeaderOf { .. } => {
                let response = self.leader().await;
                self.write(&response).await?;
                return Ok(None);
            }
            Request::Cluster { format } => {
                let members = self.shard.with_replica(Replica::members);
                let servers = members.into_iter().map(|member| ServerEntry {
                    id: member.id.0,
                    address: member.address,
                    role: Role::from(member.role),
                });
                let servers = servers.collect();
                self.write(&Response::Servers { format, servers }).await?;
                return Ok(None);
            }
            Request::Describe => {
                let own = self.shard.own_member();
                let (failure_domain, weight) =
                    own.map_or((0, 0), |own| (own.failure_domain, own.weight));
                self.write(&Response::Metadata {
                    failure_domain,
                    weight,
                })
                .await?;
                return Ok(None);
            }
            Request::Weight { weight } => {
                let introduction = Introduction {
                    weight: Some(weight),
                    ..Introduction::default()
                };
                let response = match self.shard.introduce(&introduction).await {
                    Ok(()) => Response::Empty,
                    Err(error) => Response::failure(FailureCode::Error, error.to_string()),
                };
                self.write(&response).await?;
                return Ok(None);
            }
            Request::Join {
                id,
                incarnation,
                failure_domain,
                weight,
                shards,
                address,
            } => {
                let place = self.shard.place();
                if ![0, u64::from(place.count)].contains(&shards) {
                    let refusal = format!(
                        "the cluster has {} shard(s), and the node was started with --shards {shards}: \
                         leave the option out, with an empty data directory",
                        place.count
                    );
                    let refusal = Response::failure(FailureCode::Error, refusal);
                    self.write(&refusal).await?;
                    return Ok(None);
                }
                let told = |number: u64| (number != u64::MAX).then_some(number);
                MemberRequest::Join {
                    id: node(id),
                    incarnation,
                    address,
                    failure_domain: told(failure_domain),
                    weight: told(weight),
                }
            }
            Request::Add { id, address } => MemberRequest::Add {
                id: node(id),
                address,
            },
            Request::Assign { id, role } => MemberRequest::Assign {
                id: NodeId(id),
                role: role.map(MemberRole::from),
            },
            Request::Remove { id } => MemberRequest::Remove { id: NodeId(id) },
            Request::Transfer { id } => MemberRequest::Transfer { to: node(id) },
            other => return Ok(Some(other)),
        };
        let is_followed = matches!(
            wanted,
            MemberRequest::Assign { .. } | MemberRequest::Remove { .. }
        );
        let mut answer = self.ask(Ask::Members(wanted)).await?;
        if is_followed && answer.reply.is_ok() && self.shard.place().count > 1 {
            answer.reply = self.all_shards_follow().await.map(|()| Reply::Done);
        }
        let response = match answer.reply {
            Ok(Reply::Joined { id }) => self.joined(id),
            reply => response_to(reply),
        };
        self.write(&response).await?;
        if answer.is_interrupted {
            self.write(&Response::Empty).await?;
        }
        Ok(None)
    }

    /// Who leads; a node that has just been elected names itself as soon as it serves.
    async fn leader(&self) -> Response {
        let deadline = Instant::now() + ELECTED_TIMEOUT;
        let leader = loop {
            let (leader, is_elected) = self
                .shard
                .with_replica(|replica| (replica.leader(), replica.role() == RaftRole::Leader));
            if leader.is_some() || !is_elected || Instant::now() >= deadline {
                break leader;
            }
            glommio::timer::sleep(Duration::from_millis(1)).await;
        };
        let (id, address) = leader.map_or((0, String::new()), |at| (at.id.0, at.address));
        if self.legacy {
            Response::LegacyServer { address }
        } else {
            Response::Server { id, address }
        }
    }

    /// Waits until all shards have committed the members, and their roles, of the first one: whoever has
    /// removed a member may then take its node away.
    async fn all_shards_follow(&self) -> Result<(), Error> {
        let deadline = Instant::now() + FOLLOWED_TIMEOUT;
        let count = self.shard.place().count as usize;
        loop {
            let shards = self.of_all_shards(Command::Status).await;
            // One that has stopped follows nobody.
            if shards.len() == count && all_follow(&shards) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Busy {
                    what: "the first shard has done it, and others have not followed yet: see the status of \
                           the shards, and leave the node running until they have",
                });
            }
            glommio::timer::sleep(FOLLOWED_POLL).await;
        }
    }

    /// The status of the node as one JSON object: that of its first shard, and beside it the others'.
    pub(super) async fn status_json(&self) -> String {
        let mut first = status_json(&self.shard.status(), &self.shard.stages());
        if self.shard.place().count > 1 {
            let statuses = self.of_all_shards(Command::Status).await;
            let stages = self.of_all_shards(Command::Stages).await;
            let shards = statuses.iter().zip(&stages).enumerate();
            let shards = shards.map(|(number, (status, stages))| {
                let mut status = status_json(status, stages);
                status["shard"] = number.into();
                status
            });
            first["shards"] = shards.collect();
        }
        first.to_string()
    }

    fn joined(&self, id: NodeId) -> Response {
        let members = self.shard.with_replica(Replica::members);
        let members = members.into_iter().map(|member| MemberEntry {
            id: member.id.0,
            incarnation: member.incarnation,
            address: member.address,
        });
        Response::Joined {
            cluster: self.shard.peers().identity().cluster.unwrap_or(0),
            id: id.0,
            shards: self.shard.place().count.into(),
            members: members.collect(),
        }
    }
}

/// The node that an id names; 0 names none.
fn node(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

impl From<MemberRole> for Role {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Voter => Self::Voter,
            MemberRole::Standby => Self::Standby,
            MemberRole::Spare => Self::Spare,
        }
    }
}

impl From<Role> for MemberRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Voter => Self::Voter,
            Role::Standby => Self::Standby,
            Role::Spare => Self::Spare,
        }
    }
}

/// The status of a shard as a JSON object.
fn status_json(status: &Status, stages: &[StageTimes]) -> serde_json::Value {
    let address = |at: &NodeAddress| serde_json::json!({"id": at.id.0, "address": at.address});
    let leader = status.leader.as_ref().map(|leader| leader.id);
    let member = |at: &MemberStatus| {
        let MemberStatus {
            member,
            matched,
            silent_ticks,
        } = at;
        serde_json::json!({
            "id": member.id.0,
            "address": member.address,
            "role": member.role.to_string(),
            "assigned": member.assigned.map(|role| role.to_string()),
            "leader": leader == Some(member.id),
            "failure_domain": member.failure_domain,
            "weight": member.weight,
            "joined": member.incarnation != 0,
            "matched_index": matched.map(|index| index.0),
            "lag": matched.map(|index| status.last.0.saturating_sub(index.0)),
            "silent_ms": silent_ticks.map(milliseconds),
        })
    };
    serde_json::json!({
        "id": status.id.0,
        "role": format!("{:?}", status.role).to_lowercase(),
        "removed": status.removed,
        "term": status.term,
        "leader": status.leader.as_ref().map(address),
        "commit_index": status.commit.0,
        "applied_index": status.applied.0,
        "last_index": status.last.0,
        "durable_index": status.durable.0,
        "debt": status.debt.map(|debt| serde_json::json!({"term": debt.term.0, "index": debt.index.0})),
        "lease": status.lease,
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
        "databases": status.databases,
        "sessions": status.sessions,
        "stages": stages,
    })
}

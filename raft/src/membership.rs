//! Who belongs to a cluster, and in what role: the configuration, its bytes, and its changes.
//!
//! A configuration travels as an entry of its own kind and holds for a node from the moment that it
//! is in the node's log, committed or not (thesis, 4.1). Each one is complete, so that a node needs
//! no earlier one to read it.

use crate::types::NodeId;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The most members of one cluster.
pub const MEMBERS_MAX: usize = 64;
/// The longest context of a member, in bytes.
pub const CONTEXT_BYTES_MAX: usize = 1024;

const VERSION: u16 = 1;
/// The version, the count, zeros.
const HEADER_BYTES: usize = 8;
/// The id, the role, zero, the length of the context.
const MEMBER_BYTES: usize = 12;

/// What a member does.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// It holds the log, votes, may lead, and counts towards majorities.
    Voter = 1,
    /// It holds the log and nothing else, so that it can become a voter at once.
    Standby = 2,
    /// It hears heartbeats only, so that it knows who leads.
    Spare = 3,
}

impl MemberRole {
    /// Whether a member in this role gets the log.
    pub const fn replicates(self) -> bool {
        matches!(self, MemberRole::Voter | MemberRole::Standby)
    }

    const fn from_byte(byte: u8) -> Option<MemberRole> {
        match byte {
            1 => Some(MemberRole::Voter),
            2 => Some(MemberRole::Standby),
            3 => Some(MemberRole::Spare),
            _ => None,
        }
    }
}

impl std::fmt::Display for MemberRole {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            MemberRole::Voter => "voter",
            MemberRole::Standby => "standby",
            MemberRole::Spare => "spare",
        })
    }
}

/// One node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its name, never used again for another node, not even after its removal.
    pub id: NodeId,
    /// What it does.
    pub role: MemberRole,
    /// What the caller needs to know of it, such as its address. The core does not look into it. At
    /// most [`CONTEXT_BYTES_MAX`] bytes.
    pub context: Bytes,
}

/// The members of a cluster, in order of their ids. The default has none: a node that waits to be
/// added somewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    members: Vec<Member>,
}

impl Configuration {
    /// A configuration of these members, in any order.
    ///
    /// # Errors
    /// An id is there twice, no member votes, or a bound is exceeded.
    pub fn new(mut members: Vec<Member>) -> Result<Configuration, ConfigurationError> {
        members.sort_by_key(|member| member.id);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ConfigurationError::MemberTwice { id: pair[0].id });
        }
        if members.len() > MEMBERS_MAX {
            return Err(ConfigurationError::TooManyMembers {
                members: members.len(),
            });
        }
        for member in &members {
            let context_bytes = member.context.len();
            if context_bytes > CONTEXT_BYTES_MAX {
                let id = member.id;
                return Err(ConfigurationError::ContextTooLong { id, context_bytes });
            }
        }
        let configuration = Configuration { members };
        if !configuration.members.is_empty() && configuration.voter_count() == 0 {
            return Err(ConfigurationError::NoVoter);
        }
        Ok(configuration)
    }

    /// A configuration of voters without contexts.
    ///
    /// # Errors
    /// As [`Configuration::new`].
    pub fn of_voters(
        ids: impl IntoIterator<Item = NodeId>,
    ) -> Result<Configuration, ConfigurationError> {
        let voter = |id| Member {
            id,
            role: MemberRole::Voter,
            context: Bytes::new(),
        };
        Configuration::new(ids.into_iter().map(voter).collect())
    }

    /// All members, in order of their ids.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of this name.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        let found = self.members.binary_search_by_key(&id, |member| member.id);
        found.ok().and_then(|position| self.members.get(position))
    }

    /// The role of a node; `None` for one that is no member.
    pub fn role(&self, id: NodeId) -> Option<MemberRole> {
        self.member(id).map(|member| member.role)
    }

    /// The ids of those that vote, ascending.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        let voters = self.members.iter();
        voters
            .filter(|member| member.role == MemberRole::Voter)
            .map(|member| member.id)
    }

    /// Whether this node votes.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.role(id) == Some(MemberRole::Voter)
    }

    /// How many members vote.
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// This configuration after a change. At most one voter comes or goes by it, so that each
    /// majority before has a member in common with each majority after (thesis, 4.1).
    ///
    /// # Errors
    /// The change makes no sense here, or the outcome would be no configuration.
    pub fn changed(&self, change: &MembershipChange) -> Result<Configuration, ConfigurationError> {
        let id = change.member();
        let position = self.members.iter().position(|member| member.id == id);
        let mut members = self.members.clone();
        match (change, position.and_then(|at| members.get_mut(at))) {
            (MembershipChange::Add { .. }, Some(_)) => {
                return Err(ConfigurationError::MemberTwice { id });
            }
            (MembershipChange::Add { role, context, .. }, None) => {
                if *role == MemberRole::Voter {
                    return Err(ConfigurationError::AddedAsVoter { id });
                }
                members.push(Member {
                    id,
                    role: *role,
                    context: context.clone(),
                });
            }
            (_, None) => return Err(ConfigurationError::NotAMember { id }),
            (MembershipChange::SetRole { role, .. }, Some(member)) => member.role = *role,
            (MembershipChange::SetContext { context, .. }, Some(member)) => {
                member.context = context.clone();
            }
            (MembershipChange::Remove { .. }, Some(_)) => {
                members.retain(|member| member.id != id);
            }
        }
        if members == self.members {
            return Err(ConfigurationError::NothingChanges { id });
        }
        if members.is_empty() {
            return Err(ConfigurationError::NoVoter);
        }
        Configuration::new(members)
    }

    /// The payload of an entry with this configuration; `docs/FORMAT.md` has the byte table.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.members.len() * MEMBER_BYTES);
        out.put_u16_le(VERSION);
        out.put_u16_le(self.members.len() as u16);
        out.put_u32_le(0);
        for member in &self.members {
            out.put_u64_le(member.id.0);
            out.put_u8(member.role as u8);
            out.put_u8(0);
            out.put_u16_le(member.context.len() as u16);
            out.put_slice(&member.context);
        }
        out.freeze()
    }

    /// Reads what [`Configuration::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// The bytes are no configuration. Nothing is allocated that they do not justify.
    pub fn decode(mut payload: Bytes) -> Result<Configuration, ConfigurationError> {
        let malformed = |field| Err(ConfigurationError::Malformed { field });
        if payload.len() < HEADER_BYTES {
            return malformed("header");
        }
        let found = payload.get_u16_le();
        if found != VERSION {
            return Err(ConfigurationError::Version { found });
        }
        let count = payload.get_u16_le();
        if payload.get_u32_le() != 0 {
            return malformed("zero");
        }
        let mut members: Vec<Member> = Vec::new();
        for _ in 0..count {
            if payload.len() < MEMBER_BYTES {
                return malformed("member");
            }
            let id = NodeId(payload.get_u64_le());
            let Some(role) = MemberRole::from_byte(payload.get_u8()) else {
                return malformed("role");
            };
            if payload.get_u8() != 0 {
                return malformed("zero");
            }
            let context_bytes = usize::from(payload.get_u16_le());
            if payload.len() < context_bytes {
                return malformed("context");
            }
            if members.last().is_some_and(|before| before.id >= id) {
                return malformed("order of ids");
            }
            let context = payload.split_to(context_bytes);
            members.push(Member { id, role, context });
        }
        if !payload.is_empty() {
            return malformed("end");
        }
        Configuration::new(members)
    }
}

/// One step from a configuration to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A node joins, as a standby or a spare.
    Add {
        /// Its name, never used before.
        id: NodeId,
        /// What it will do.
        role: MemberRole,
        /// What is to be known of it.
        context: Bytes,
    },
    /// A member gets another role.
    SetRole {
        /// The member.
        id: NodeId,
        /// What it will do.
        role: MemberRole,
    },
    /// What is known of a member changes, such as its address.
    SetContext {
        /// The member.
        id: NodeId,
        /// What is to be known of it.
        context: Bytes,
    },
    /// A member leaves, for ever.
    Remove {
        /// The member.
        id: NodeId,
    },
}

impl MembershipChange {
    /// Whom the change is about.
    pub const fn member(&self) -> NodeId {
        match self {
            MembershipChange::Add { id, .. }
            | MembershipChange::SetRole { id, .. }
            | MembershipChange::SetContext { id, .. }
            | MembershipChange::Remove { id } => *id,
        }
    }
}

/// Why something is no configuration, or a change leads to none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// A node would be there twice.
    #[error("{id} is a member already")]
    MemberTwice {
        /// The node.
        id: NodeId,
    },
    /// The change is about a node that is no member.
    #[error("{id} is not a member")]
    NotAMember {
        /// The node.
        id: NodeId,
    },
    /// A node that holds nothing yet would vote.
    #[error(
        "{id} cannot join as a voter: add it as a standby, and promote it when it has caught up"
    )]
    AddedAsVoter {
        /// The node.
        id: NodeId,
    },
    /// The configuration would stay as it is.
    #[error("nothing would change for {id}")]
    NothingChanges {
        /// The member.
        id: NodeId,
    },
    /// Nobody would be left to vote.
    #[error("a cluster needs at least one voter")]
    NoVoter,
    /// More members than the bound.
    #[error("{members} members are more than the {MEMBERS_MAX} that a cluster may have")]
    TooManyMembers {
        /// How many they would be.
        members: usize,
    },
    /// A longer context than the bound.
    #[error(
        "the context of {id} has {context_bytes} bytes, but {CONTEXT_BYTES_MAX} is the most allowed"
    )]
    ContextTooLong {
        /// The member.
        id: NodeId,
        /// The length of its context, in bytes.
        context_bytes: usize,
    },
    /// The bytes have another version.
    #[error("the configuration has version {found}, but this node reads version {VERSION}")]
    Version {
        /// The version that they have.
        found: u16,
    },
    /// The bytes are not what an encoder writes.
    #[error("the bytes are no configuration: the field \"{field}\" is wrong")]
    Malformed {
        /// The name of the first field that is wrong.
        field: &'static str,
    },
}

#[cfg(test)]
mod tests;

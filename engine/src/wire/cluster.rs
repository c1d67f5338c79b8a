//! The members of a cluster, as the protocol describes them.

use super::error::WireError;

/// What a member of the cluster does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum Role {
    /// Replicates and votes.
    #[default]
    Voter = 0,
    /// Replicates, does not vote.
    Standby = 1,
    /// Neither.
    Spare = 2,
}

impl Role {
    /// The role as it is called, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Standby => "standby",
            Self::Spare => "spare",
        }
    }

    pub(super) fn from_word(role: u64) -> Result<Self, WireError> {
        match role {
            0 => Ok(Self::Voter),
            1 => Ok(Self::Standby),
            2 => Ok(Self::Spare),
            _ => Err(WireError::UnknownRole { role }),
        }
    }
}

/// How the answer to CLUSTER is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum ClusterFormat {
    /// Ids and addresses.
    WithoutRoles = 0,
    /// Ids, addresses and roles. What every current client asks for.
    #[default]
    WithRoles = 1,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    /// Its id.
    pub id: u64,
    /// The address that clients dial.
    pub address: String,
    /// What it does. A voter, if the format has no roles.
    pub role: Role,
}

/// A member of the cluster, as a node that joins is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEntry {
    /// Its id.
    pub id: u64,
    /// The incarnation of its data directory; 0 while no node has taken its place.
    pub incarnation: u64,
    /// The address that it is reached at.
    pub address: String,
}

//! A member of the cluster, as the configuration in the log describes it.
//!
//! Consensus knows a member's id and role; everything else is the member's *context*, which is ours:
//! `version u16, assigned role u16, address length u16, 0 u16, incarnation u64, failure domain u64, weight u64,
//! address`. All integers are little-endian.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ringlite_raft::{MemberRole, NodeId};

use super::config::NodeAddress;

const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;
/// The longest address: a name of the DNS with a port, and some.
pub(crate) const ADDRESS_BYTES_MAX: usize = 262;

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, which no other node will ever have.
    pub id: NodeId,
    /// What it does.
    pub role: MemberRole,
    /// What an operator wants it to do; `None`: what the leader chooses.
    pub assigned: Option<MemberRole>,
    /// Where it is reached, `HOST:PORT`.
    pub address: String,
    /// The incarnation of its data directory; 0 while no node has taken the place that was made for
    /// it.
    pub incarnation: u64,
    /// Nodes that can fail together share one.
    pub failure_domain: u64,
    /// Among equals the member with the lower weight becomes a voter.
    pub weight: u64,
}

impl Member {
    /// Its id and address.
    pub fn node_address(&self) -> NodeAddress {
        NodeAddress {
            id: self.id,
            address: self.address.clone(),
        }
    }

    /// What consensus keeps of it without a look.
    pub fn context(&self) -> Bytes {
        assert!(
            self.address.len() <= ADDRESS_BYTES_MAX,
            "an address was checked when it came in"
        );
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.address.len());
        out.put_u16_le(VERSION);
        out.put_u16_le(self.assigned.map_or(0, |role| role as u16));
        out.put_u16_le(self.address.len() as u16);
        out.put_u16_le(0);
        out.put_u64_le(self.incarnation);
        out.put_u64_le(self.failure_domain);
        out.put_u64_le(self.weight);
        out.put_slice(self.address.as_bytes());
        out.freeze()
    }

    /// Reads a member of a configuration; `None` if its context is none of ours.
    pub(crate) fn of(member: &ringlite_raft::Member) -> Option<Self> {
        let mut context = member.context.clone();
        if context.len() < HEADER_BYTES || context.get_u16_le() != VERSION {
            return None;
        }
        let assigned = match context.get_u16_le() {
            0 => None,
            1 => Some(MemberRole::Voter),
            2 => Some(MemberRole::Standby),
            3 => Some(MemberRole::Spare),
            _ => return None,
        };
        let address_bytes = usize::from(context.get_u16_le());
        context.advance(2);
        let (incarnation, failure_domain, weight) = (
            context.get_u64_le(),
            context.get_u64_le(),
            context.get_u64_le(),
        );
        if context.len() != address_bytes {
            return None;
        }
        Some(Self {
            id: member.id,
            role: member.role,
            assigned,
            address: String::from_utf8(context.to_vec()).ok()?,
            incarnation,
            failure_domain,
            weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_as_it_was_written_and_no_part_of_it_is_one() {
        use MemberRole::{Spare, Standby, Voter};
        for assigned in [None, Some(Voter), Some(Standby), Some(Spare)] {
            is_read_as_it_was_written(assigned);
        }
    }

    fn is_read_as_it_was_written(assigned: Option<MemberRole>) {
        let member = Member {
            id: NodeId(7),
            role: MemberRole::Standby,
            assigned,
            address: "host:9001".into(),
            incarnation: u64::MAX - 1,
            failure_domain: 3,
            weight: 12,
        };
        let of = |context: Bytes| {
            Member::of(&ringlite_raft::Member {
                id: member.id,
                role: member.role,
                context,
            })
        };
        let context = member.context();
        assert_eq!(of(context.clone()), Some(member.clone()));
        for bytes in 0..context.len() {
            assert_eq!(of(context.slice(..bytes)), None);
        }
    }
}

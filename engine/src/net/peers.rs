//! Who else is in the cluster, as far as this node knows, and the links with them.
//!
//! Members come and go with the configuration in the log. There is a link to each of them, and to
//! whoever else of this cluster has dialled, for as long as it is connected: a node that is behind is
//! called by a leader that it does not know yet, and one that was removed asks what has become of it.
//! Whether a node belongs to the cluster is for consensus to say, not for the handshake.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use ringlite_raft::{Message, NodeId};

use super::handshake::{Hello, Purpose, VERSION_MAX, VERSION_MIN, Verdict};
use super::peer::PeerLink;
use crate::replica::NodeAddress;
use crate::shards::ShardPlace;
use crate::signal::Signal;
use crate::storage::{Identity, Member};

/// Another node.
struct Peer {
    /// 0 while no node has taken the place that was made for it.
    incarnation: u64,
    /// Whether the configuration has it.
    is_member: bool,
    link: Rc<PeerLink>,
}

/// A connection that a peer has dialled.
#[derive(Default)]
pub(crate) struct Incoming {
    /// Raised when it must end.
    cut: Signal,
}

impl Incoming {
    /// Waits until the connection must end.
    pub(crate) async fn is_cut(&self) {
        self.cut.wait().await;
    }
}

/// All other nodes.
pub(crate) struct Peers {
    identity: Identity,
    /// The shard that they are all of, here and there.
    shard: u32,
    /// Where this node is reached.
    address: String,
    peers: RefCell<BTreeMap<NodeId, Peer>>,
    /// The newest connection that each peer has dialled.
    incoming: RefCell<HashMap<NodeId, Rc<Incoming>>>,
}

impl Peers {
    /// The peers of a shard that the identity names. Their links have to be run.
    pub(crate) fn new(identity: Identity, address: String, shard: u32) -> Self {
        let members = identity.members.clone();
        let peers = Self {
            peers: RefCell::default(),
            incoming: RefCell::default(),
            identity,
            shard,
            address,
        };
        peers.set(&members);
        peers
    }

    /// The shard that they are all of.
    pub(crate) fn place(&self) -> ShardPlace {
        ShardPlace {
            number: self.shard,
            count: self.identity.shards,
        }
    }

    /// Who this node is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// All links. Each is to be run once.
    pub(crate) fn links(&self) -> Vec<Rc<PeerLink>> {
        let peers = self.peers.borrow();
        peers.values().map(|peer| Rc::clone(&peer.link)).collect()
    }

    /// The members are these. Returns the links that are new and have to be run. The link with a
    /// node that is no member any more ends with the connection from it.
    pub(crate) fn set(&self, members: &[Member]) -> Vec<Rc<PeerLink>> {
        for peer in self.peers.borrow_mut().values_mut() {
            peer.is_member = false;
        }
        let mut new = Vec::new();
        for member in members {
            if member.id != self.identity.node {
                new.extend(self.know(member, true));
            }
        }
        let incoming = self.incoming.borrow();
        self.peers.borrow_mut().retain(|id, peer| {
            let stays = peer.is_member || incoming.contains_key(id);
            if !stays {
                peer.link.close();
            }
            stays
        });
        new
    }

    /// Takes note of a peer; returns its link if that is a new one.
    fn know(&self, node: &Member, is_member: bool) -> Option<Rc<PeerLink>> {
        let id = NodeId(node.id);
        let mut peers = self.peers.borrow_mut();
        if let Some(peer) = peers.get_mut(&id) {
            peer.incarnation = node.incarnation;
            peer.is_member = is_member;
            if peer.link.peer().address == node.address {
                return None;
            }
            peer.link.close();
        }
        let address = node.address.clone();
        let link = PeerLink::new(NodeAddress { id, address }, self.shard);
        let peer = Peer {
            incarnation: node.incarnation,
            is_member,
            link: Rc::clone(&link),
        };
        peers.insert(id, peer);
        Some(link)
    }

    /// Where a node is reached.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<NodeAddress> {
        let peers = self.peers.borrow();
        peers.get(&node).map(|peer| peer.link.peer().clone())
    }

    /// Queues a message for the next flush. One for a node that is not known is lost, as messages
    /// may be.
    pub(crate) fn send(&self, to: NodeId, message: &Message) {
        if let Some(peer) = self.peers.borrow().get(&to) {
            peer.link.send(message);
        }
    }

    /// Hands what was queued for a peer to its socket.
    pub(crate) fn flush(&self, to: NodeId) {
        if let Some(peer) = self.peers.borrow().get(&to) {
            peer.link.flush();
        }
    }

    /// Hands what was queued to the sockets.
    pub(crate) fn flush_all(&self) {
        for peer in self.peers.borrow().values() {
            peer.link.flush();
        }
    }

    /// What this node says to `target`.
    pub(crate) fn hello(&self, target: NodeId, purpose: Purpose, verdict: Verdict) -> Hello {
        let peers = self.peers.borrow();
        let incarnation = peers.get(&target).map_or(0, |peer| peer.incarnation);
        Hello {
            address: self.address.clone(),
            target_incarnation: incarnation,
            shard: self.shard as u16,
            ..hello(&self.identity, target, purpose, verdict)
        }
    }

    /// Answers a hello.
    pub(crate) fn answer(&self, asks: &Hello) -> Hello {
        self.hello(asks.sender, asks.purpose, self.judge(asks))
    }

    fn judge(&self, asks: &Hello) -> Verdict {
        let identity = &self.identity;
        let is_me = asks.target.0 == identity.node
            && [0, identity.incarnation].contains(&asks.target_incarnation);
        let peers = self.peers.borrow();
        let known = peers.get(&asks.sender).map_or(0, |peer| peer.incarnation);
        if !asks.has_common_version() {
            Verdict::NoCommonVersion
        } else if !is_me {
            Verdict::NotMe
        } else if asks.cluster != 0 && Some(asks.cluster) != identity.cluster {
            Verdict::OtherCluster
        } else if ![0, asks.incarnation].contains(&known) {
            Verdict::OtherIncarnation
        } else if (u32::from(asks.shard), u32::from(asks.shards)) != (self.shard, identity.shards) {
            Verdict::OtherShards
        } else if asks.cluster != 0 && asks.extensions != identity.extensions {
            Verdict::OtherExtensions
        } else if asks.cluster != 0 && asks.lease_promise_ms != identity.lease_promise_ms {
            Verdict::OtherLeases
        } else if asks.cluster != 0 || (asks.purpose == Purpose::Formation && known != 0) {
            Verdict::Welcome
        } else if known == 0 {
            Verdict::NotMember
        } else {
            Verdict::NotFormed
        }
    }

    /// A welcome caller: this is its newest connection. Also returns the link to it, if that is new.
    pub(crate) fn accept(&self, asks: &Hello) -> (Rc<Incoming>, Option<Rc<PeerLink>>) {
        let is_known = self.peers.borrow().contains_key(&asks.sender);
        let caller = Member {
            id: asks.sender.0,
            incarnation: asks.incarnation,
            address: asks.address.clone(),
        };
        let new = (!is_known).then(|| self.know(&caller, false)).flatten();
        let incoming = Rc::new(Incoming::default());
        let mut all = self.incoming.borrow_mut();
        if let Some(before) = all.insert(asks.sender, Rc::clone(&incoming)) {
            before.cut.raise();
        }
        (incoming, new)
    }

    /// A connection has ended; whether it was the newest one of its peer, which is then lost. (The
    /// end of an older one may be noticed late, and says nothing about the peer.)
    pub(crate) fn ended(&self, from: NodeId, incoming: &Rc<Incoming>) -> bool {
        let mut all = self.incoming.borrow_mut();
        let newest = all.get(&from);
        let is_newest = newest.is_some_and(|newest| Rc::ptr_eq(newest, incoming));
        if is_newest {
            all.remove(&from);
            let mut peers = self.peers.borrow_mut();
            if let Some(peer) = peers.get(&from)
                && !peer.is_member
            {
                peer.link.close();
                peers.remove(&from);
            }
        }
        is_newest
    }
}

/// What `identity` says to `target`, as far as it alone tells.
pub(super) fn hello(
    identity: &Identity,
    target: NodeId,
    purpose: Purpose,
    verdict: Verdict,
) -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        purpose,
        verdict,
        cluster: identity.cluster.unwrap_or(0),
        sender: NodeId(identity.node),
        incarnation: identity.incarnation,
        target,
        target_incarnation: identity.incarnation_of(target),
        features: 0,
        shard: 0,
        shards: identity.shards as u16,
        extensions: identity.extensions,
        lease_promise_ms: identity.lease_promise_ms,
        address: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, incarnation: u64) -> Member {
        Member {
            id,
            address: format!("host:{id}"),
            incarnation,
        }
    }

    fn identity(id: u64, members: &[Member]) -> Identity {
        let mut identity = Identity::new(NodeId(id), id * 10, members.to_vec());
        identity.cluster = Some(7);
        identity
    }

    fn three() -> Vec<Member> {
        (1..=3).map(|id| member(id, id * 10)).collect()
    }

    fn peers() -> Peers {
        Peers::new(identity(1, &three()), "host:1".into(), 0)
    }

    fn asks(id: u64) -> Hello {
        Peers::new(identity(id, &three()), format!("host:{id}"), 0).hello(
            NodeId(1),
            Purpose::Link,
            Verdict::None,
        )
    }

    fn verdict(peers: &Peers, asks: &Hello) -> Verdict {
        peers.answer(asks).verdict
    }

    fn addresses(peers: &Peers) -> Vec<String> {
        let links = peers.links();
        links
            .iter()
            .map(|link| link.peer().address.clone())
            .collect()
    }

    #[test]
    fn nodes_of_this_cluster_are_welcome_but_not_with_another_directory() {
        let peers = peers();
        assert_eq!(verdict(&peers, &asks(2)), Verdict::Welcome);
        assert_eq!(verdict(&peers, &asks(9)), Verdict::Welcome);
        let mut with_leases = asks(2);
        with_leases.lease_promise_ms = 250;
        assert_eq!(verdict(&peers, &with_leases), Verdict::OtherLeases);
        let mut with_shards = asks(2);
        with_shards.shards = 2;
        assert_eq!(verdict(&peers, &with_shards), Verdict::OtherShards);
        let of_another_shard = Hello {
            shard: 1,
            ..asks(2)
        };
        assert_eq!(verdict(&peers, &of_another_shard), Verdict::OtherShards);
        let stranger = Hello {
            cluster: 8,
            ..asks(2)
        };
        assert_eq!(verdict(&peers, &stranger), Verdict::OtherCluster);
        let wiped = Hello {
            incarnation: 21,
            cluster: 0,
            purpose: Purpose::Formation,
            ..asks(2)
        };
        assert_eq!(verdict(&peers, &wiped), Verdict::OtherIncarnation);
        let unknown = Hello {
            cluster: 0,
            purpose: Purpose::Formation,
            ..asks(9)
        };
        assert_eq!(verdict(&peers, &unknown), Verdict::NotMember);
        let for_the_old = Hello {
            target_incarnation: 11,
            ..asks(2)
        };
        assert_eq!(verdict(&peers, &for_the_old), Verdict::NotMe);
    }

    #[test]
    fn a_caller_that_is_not_known_can_be_answered_while_it_is_connected() {
        let peers = peers();
        let (incoming, link) = peers.accept(&asks(9));
        assert!(link.is_some());
        assert!(peers.set(&three()).is_empty());
        assert_eq!(addresses(&peers), ["host:2", "host:3", "host:9"]);
        assert!(peers.ended(NodeId(9), &incoming));
        assert_eq!(addresses(&peers), ["host:2", "host:3"]);
    }

    #[test]
    fn only_the_end_of_the_newest_connection_loses_a_peer() {
        let peers = peers();
        let (old, _) = peers.accept(&asks(2));
        let (new, _) = peers.accept(&asks(2));
        assert!(!peers.ended(NodeId(2), &old));
        assert!(peers.ended(NodeId(2), &new));
        assert!(!peers.ended(NodeId(2), &new));
        assert_eq!(addresses(&peers), ["host:2", "host:3"]);
    }

    #[test]
    fn a_member_that_moves_gets_a_new_link_and_one_that_leaves_keeps_it_until_it_hangs_up() {
        let peers = peers();
        let mut moved = three();
        moved[1].address = "elsewhere:2".into();
        let (incoming, _) = peers.accept(&asks(3));
        assert_eq!(peers.set(&moved).len(), 1);
        assert_eq!(addresses(&peers), ["elsewhere:2", "host:3"]);
        peers.set(&moved[..2]);
        assert_eq!(addresses(&peers), ["elsewhere:2", "host:3"]);
        peers.ended(NodeId(3), &incoming);
        assert_eq!(addresses(&peers), ["elsewhere:2"]);
        peers.set(&moved[..1]);
        assert!(addresses(&peers).is_empty());
    }
}

//! Nodes come and go: they join, are given roles, are removed, and are replaced by nodes with an empty
//! disk. An operator here is careful: who is gone for good never leaves the others without a majority.

use ringlite::replica::request::MemberRequest;
use ringlite_raft::{Configuration, MemberRole, NodeId};

use super::clock::TICK;
use super::cluster::Cluster;
use super::node::{Identity, Node};
use super::tally::Kind;

/// So many nodes run at the same time, at the most.
const NODES_MAX: usize = 7;

/// A node with an empty disk that asks for a place in the cluster.
pub(super) struct Newcomer {
    incarnation: u64,
    address: String,
    /// Whom it asks next, and when.
    at: usize,
    asks_at: u64,
}

/// Nodes on their way in.
#[derive(Default)]
pub(crate) struct Newcomers {
    waiting: Vec<Newcomer>,
    count: u64,
}

impl Cluster {
    /// Perhaps an operator changes something about the members.
    pub(super) fn change_members(&mut self) {
        if !self.random.rarely(self.faults.membership) || self.is_operator_waiting() {
            return;
        }
        let Some(leader) = self.leader() else {
            return;
        };
        let at = self.random.below(self.nodes.len() as u64) as usize;
        let id = self.nodes[at].id;
        let running = self.nodes.iter().filter(|node| !node.is_retired).count();
        // Who is gone for good is taken out first.
        let may_change = !self.is_missing_voter();
        match self.random.below(8) {
            0..3 if running < NODES_MAX => {
                self.newcomers.count += 1;
                let address = format!("new{}:9000", self.newcomers.count);
                self.send_newcomer(address);
            }
            3 if may_change && running > 1 => {
                self.request(leader, MemberRequest::Remove { id });
            }
            4 if self.may_lose(at) => {
                self.note(("replaced", at));
                self.tally.count(Kind::Replaced);
                self.retire(at);
                let address = self.nodes[at].identity.address.clone();
                self.send_newcomer(address);
            }
            5..8 if may_change => {
                let roles = [
                    Some(MemberRole::Voter),
                    Some(MemberRole::Standby),
                    Some(MemberRole::Spare),
                    None,
                ];
                let role = self.random.one_of(&roles);
                self.request(leader, MemberRequest::Assign { id, role });
            }
            _ => {}
        }
    }

    fn is_operator_waiting(&self) -> bool {
        !self.operators.is_idle() || !self.newcomers.waiting.is_empty()
    }

    /// Whether somebody votes, as far as anybody knows, who is gone for good.
    fn is_missing_voter(&self) -> bool {
        let is_gone = |id: NodeId| {
            let node = self.nodes.iter().find(|node| node.id == id);
            node.is_none_or(|node| node.is_retired || node.retires_at.is_some())
        };
        let mut known = self.known_configurations();
        known.any(|known| known.voters().any(is_gone))
    }

    /// Whether a node can be lost for good whatever of the changes that nodes know of comes true.
    fn may_lose(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_spared = |known: &Configuration| !known.is_voter(node.id) || known.voter_count() > 2;
        !node.is_retired && !self.is_missing_voter() && self.known_configurations().all(is_spared)
    }

    /// What the members are as far as the leader and the voters know, of whom any may lead next.
    fn known_configurations(&self) -> impl Iterator<Item = &Configuration> {
        let leader = self.leader().map(|leader| &self.nodes[leader].told);
        let known = leader.and_then(|leader| leader.configuration());
        let may_lead = move |node: &&Node| {
            !node.is_retired && known.is_none_or(|known| known.is_voter(node.id))
        };
        let nodes = self.nodes.iter().filter(may_lead);
        nodes.filter_map(|node| node.told.configuration())
    }

    fn send_newcomer(&mut self, address: String) {
        self.newcomers.count += 1;
        // Above those of the founders, and never the same again.
        let incarnation = 100 + self.newcomers.count;
        self.newcomers.waiting.push(Newcomer {
            incarnation,
            address,
            at: self.random.below(self.nodes.len() as u64) as usize,
            asks_at: self.now,
        });
    }

    /// A node is gone for good, and its disk with it.
    fn retire(&mut self, at: usize) {
        if self.nodes[at].process.is_some() {
            self.nodes[at].disk.kill(&mut self.tally);
            self.end_process(at);
        }
        self.nodes[at].is_retired = true;
    }

    /// A member was removed, and its operator knows it.
    pub(super) fn member_removed(&mut self, id: NodeId) {
        self.tally.count(Kind::MemberRemoved);
        let soon = self.now + self.random.between(20, 400);
        if let Some(at) = self.position(id) {
            self.nodes[at].retires_at = Some(soon);
        }
    }

    /// Newcomers go on asking, as in `net/joining.rs`; nodes that were removed are switched off.
    pub(super) fn carry_on_changes(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            let process = node.process.as_ref();
            let is_removed = process.is_some_and(|process| process.replica.status().removed);
            if is_removed && !node.knows_its_removal {
                node.knows_its_removal = true;
                self.tally.count(Kind::ToldRemoved);
            }
            if node.retires_at.is_some_and(|then| then <= self.now) {
                self.retire(at);
            }
        }
        for place in 0..self.newcomers.waiting.len() {
            let newcomer = &mut self.newcomers.waiting[place];
            if newcomer.asks_at > self.now {
                continue;
            }
            // Unless it hears something before.
            newcomer.asks_at = self.now + self.random.between(200, 800);
            let wanted = MemberRequest::Join {
                id: None,
                incarnation: newcomer.incarnation,
                address: newcomer.address.clone(),
                failure_domain: None,
                weight: None,
            };
            let asked = newcomer.at;
            newcomer.at = self.random.below(self.nodes.len() as u64) as usize;
            self.request(asked, wanted);
        }
    }

    /// A newcomer is not told what it wants to hear; perhaps whom to ask.
    pub(super) fn newcomer_refused(&mut self, incarnation: u64, leader: Option<NodeId>) {
        let at = leader.and_then(|leader| self.position(leader));
        let soon = self.now + self.random.between(2, 60);
        let mut waiting = self.newcomers.waiting.iter_mut();
        if let Some(newcomer) = waiting.find(|newcomer| newcomer.incarnation == incarnation) {
            newcomer.at = at.unwrap_or(newcomer.at);
            newcomer.asks_at = soon;
        }
    }

    /// The cluster has given a newcomer a place: it forms its directory, and starts.
    pub(super) fn newcomer_joined(&mut self, incarnation: u64, id: NodeId, by: usize) {
        let mut waiting = self.newcomers.waiting.iter();
        let place = waiting.position(|newcomer| newcomer.incarnation == incarnation);
        let Some(place) = place else {
            // An answer that came before was the same.
            let before = self.position(id).map(|at| &self.nodes[at].identity);
            assert_eq!(before.map(|before| before.incarnation), Some(incarnation));
            return;
        };
        assert!(self.position(id).is_none(), "{id} was given out twice");
        self.tally.count(Kind::Joined);
        let newcomer = self.newcomers.waiting.remove(place);
        let members = self.nodes[by].running().replica.members();
        let identity = Identity {
            id,
            incarnation,
            address: newcomer.address,
            known: members.iter().map(|member| member.node_address()).collect(),
            is_founder: false,
        };
        let directory = self.directory.path();
        let node = Node::new(identity, directory, &self.settings, &mut self.random);
        self.nodes.push(node);
        self.start(self.nodes.len() - 1);
    }

    /// Waits until nothing changes any more about the members.
    pub(super) fn settle_members(&mut self) {
        self.settle("the operators", |cluster| cluster.operators.is_idle());
        if !self.settings.churns {
            return;
        }
        let calm_time = (self.settings.voter_gone_ticks + 50) * TICK * 5 / 4;
        let deadline = self.now + 10 * (calm_time + self.patience());
        let mut calm_since = self.now;
        let mut before = None;
        while self.now < calm_since + calm_time {
            assert!(self.now < deadline, "the members change for ever");
            self.step();
            let leader = self.leader();
            let known = leader.and_then(|at| self.nodes[at].told.configuration().cloned());
            let is_calm = known.is_some() && known == before && !self.is_operator_waiting();
            if !is_calm {
                calm_since = self.now;
            }
            before = known;
        }
        assert!(
            !self.is_missing_voter(),
            "a voter that is gone was not replaced"
        );
    }
}

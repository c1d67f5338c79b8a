//! What operators do: they hand leadership over, and stop nodes in an orderly way.

use std::collections::BTreeMap;

use ringlite::replica::Input;
use ringlite::replica::request::SessionOptions;
use ringlite::replica::request::{MemberRequest, Reply, Request, RequestId, SessionId};
use ringlite::{Error, Result};
use ringlite_raft::NodeId;

use super::cluster::Cluster;
use super::tally::Kind;

/// The session of all operators; above those that ask for digests.
pub(super) const OPERATOR_SESSION: SessionId = SessionId(1 << 33);
/// For how long a stop may move into the files what is committed, in units of time.
const FLUSH_TIME_MAX: u64 = 400;

/// What operators have asked and not been told yet.
#[derive(Default)]
pub(crate) struct Operators {
    serial: u64,
    asked: BTreeMap<RequestId, Asked>,
}

/// A request, at a node.
struct Asked {
    at: usize,
    wanted: MemberRequest,
}

/// A node that stops, as on a signal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stopping {
    HandsOver,
    /// What is committed moves into the files, until this time at the latest.
    Flushes {
        until: u64,
    },
}

impl Operators {
    /// Whether nobody waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// Nobody answers what was asked there.
    pub(crate) fn process_ended(&mut self, at: usize) {
        self.asked.retain(|_, asked| asked.at != at);
    }
}

impl Cluster {
    /// Perhaps an operator does something now.
    pub(super) fn operate(&mut self) {
        let leader = self.leader();
        if self.random.rarely(self.faults.transfer)
            && let Some(leader) = leader
        {
            let to = self.random.below(self.nodes.len() as u64) as usize;
            let to = self.random.per_mille(300).then(|| self.nodes[to].id);
            self.request(leader, MemberRequest::Transfer { to });
        }
        if self.random.rarely(self.faults.stop) {
            let any = self.random.below(self.nodes.len() as u64) as usize;
            let at = leader.filter(|_| self.random.per_mille(600));
            self.stop(at.unwrap_or(any));
        }
    }

    /// Asks a node for something about the members.
    pub(super) fn request(&mut self, at: usize, wanted: MemberRequest) {
        let Some(process) = &mut self.nodes[at].process else {
            return;
        };
        self.operators.serial += 1;
        let id = RequestId {
            session: OPERATOR_SESSION,
            serial: self.operators.serial,
        };
        process.pending.insert(id);
        process.inbox.push_back(Input::Asked {
            id,
            options: SessionOptions::default(),
            request: Request::Members(wanted.clone()),
        });
        self.operators.asked.insert(id, Asked { at, wanted });
    }

    pub(super) fn operator_answered(&mut self, id: RequestId, reply: Result<Reply>) {
        let asked = self.operators.asked.remove(&id);
        let Asked { wanted, at } = asked.expect("a request of an operator");
        match (wanted, reply) {
            (MemberRequest::Join { incarnation, .. }, Ok(Reply::Joined { id })) => {
                self.newcomer_joined(incarnation, id, at);
            }
            (MemberRequest::Join { incarnation, .. }, Err(error)) => {
                let leader = match error {
                    Error::NotLeader { leader } => leader.map(|leader| leader.id),
                    _ => None,
                };
                self.newcomer_refused(incarnation, leader);
            }
            (MemberRequest::Remove { id }, Ok(Reply::Done)) => self.member_removed(id),
            (MemberRequest::Assign { .. }, Ok(Reply::Done)) => {
                self.tally.count(Kind::RoleAssigned);
            }
            (MemberRequest::Transfer { .. }, Ok(Reply::Done)) => {
                self.tally.count(Kind::Transferred);
            }
            (
                _,
                Err(
                    Error::NotLeader { .. }
                    | Error::Busy { .. }
                    | Error::Misuse { .. }
                    | Error::Stopped
                    | Error::Removed
                    | Error::OutcomeUnknown,
                ),
            ) => {
                self.tally.count(Kind::OperatorRefused);
            }
            (wanted, reply) => panic!("{wanted:?} was answered with {reply:?}"),
        }
    }

    /// A node begins to stop.
    pub(super) fn stop(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(process) = &mut node.process
            && node.stopping.is_none()
        {
            process.inbox.push_back(Input::HandOver);
            node.stopping = Some(Stopping::HandsOver);
        }
    }

    /// Stops go on, as in `node/life.rs`.
    pub(super) fn carry_on_stops(&mut self) {
        for at in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[at];
            let (Some(stopping), Some(process)) = (node.stopping, &mut node.process) else {
                continue;
            };
            match stopping {
                _ if now < node.stands_still_until || !process.inbox.is_empty() => {}
                Stopping::HandsOver if process.replica.is_handing_over() => {}
                Stopping::HandsOver => {
                    process.inbox.push_back(Input::Flush);
                    let until = now + FLUSH_TIME_MAX;
                    node.stopping = Some(Stopping::Flushes { until });
                }
                Stopping::Flushes { until } if now < until && !process.replica.is_flushed() => {}
                Stopping::Flushes { .. } => {
                    let has_left = self.leader().is_some_and(|leader| leader != at);
                    let pending = &self.nodes[at].running().pending;
                    assert!(
                        !self.is_orderly || !has_left || pending.is_empty(),
                        "a node has stopped without an answer to {pending:?}"
                    );
                    self.note(("stopped", at));
                    self.tally.count(Kind::CleanStop);
                    self.nodes[at].disk.kill(&mut self.tally);
                    self.end_process(at);
                }
            }
        }
    }

    /// With clients at work and nothing that goes wrong, leadership changes hands and a leader stops:
    /// nobody is told anything worse than "not leader".
    pub(super) fn check_handovers(&mut self) {
        if self.leader().is_none_or(|leader| self.voters(leader) < 2) {
            return;
        }
        for round in 0..2 {
            self.begin_operations();
            let leader = self.lead("a leader that hands over");
            let begun = self.tally.of(Kind::Transferred);
            self.is_orderly = true;
            if round == 0 {
                self.request(leader, MemberRequest::Transfer { to: None });
                self.settle("a transfer", |cluster| cluster.operators.is_idle());
                let moved = self.tally.of(Kind::Transferred) > begun;
                self.tally.add(Kind::TransferInCalm, u64::from(moved));
            } else {
                self.stop(leader);
                self.settle("a stop", |cluster| cluster.nodes[leader].process.is_none());
                self.tally.count(Kind::StopInCalm);
                self.start(leader);
            }
            self.lead("a leader after that");
            self.settle("the operations", |cluster| {
                cluster.clients.iter().all(super::client::Client::is_idle)
            });
            self.is_orderly = false;
        }
    }

    fn begin_operations(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].is_idle() {
                self.begin_operation(at);
            }
        }
        for _ in 0..self.random.between(2, 20) {
            self.step();
        }
    }

    /// The leader, once there is one.
    fn lead(&mut self, what: &str) -> usize {
        self.settle(what, |cluster| cluster.leader().is_some());
        self.leader().expect("a leader")
    }

    /// How many members vote, as far as a node knows.
    fn voters(&self, at: usize) -> usize {
        let process = self.nodes[at].process.as_ref();
        let members = process.map(|process| process.replica.members());
        let members = members.unwrap_or_default();
        let is_voter = |member: &&ringlite::replica::member::Member| {
            member.role == ringlite_raft::MemberRole::Voter
        };
        members.iter().filter(is_voter).count()
    }

    /// The place of a node in the list of all; `None` for one that has joined and does not know it yet.
    pub(super) fn position(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }
}

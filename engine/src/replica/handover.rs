//! Handing leadership over without a failed write: on request, and before the node stops.
//!
//! New requests are held back until what is under way has been committed and answered. Only then is
//! the other node told to take over; so nobody is left with an outcome that is unknown, and who has
//! been held back is told "not leader" as soon as it is known who is.

use ringlite_raft::{NodeId, Role, TransferOutcome};

use super::request::{Reply, Request, RequestId, SessionId, SessionOptions};
use super::{Effect, Replica};
use crate::error::Error;

/// Leadership on its way to another node.
#[derive(Debug)]
pub(super) struct Handover {
    /// Who waits for it.
    request: Option<RequestId>,
    to: Option<NodeId>,
    stage: Stage,
    deadline: u64,
    held_back: Vec<(RequestId, SessionOptions, Request)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What is under way comes to its end.
    Draining,
    /// The other node takes over.
    Transferring,
    /// It is no longer this node that leads; whoever was held back waits until it is known who does.
    Over,
}

impl Replica {
    /// Begins to hand leadership over to a voter, or the best one.
    pub(super) fn hand_over(&mut self, request: Option<RequestId>, to: Option<NodeId>) {
        let refusal = if self.handover.is_some() {
            Some(Error::Busy {
                what: "leadership is being handed over already",
            })
        } else if !self.serving {
            Some(self.not_leader())
        } else if self.raft.configuration().voter_count() < 2 {
            Some(cannot("there is no other voter"))
        } else if to == Some(self.raft.status().id) {
            Some(cannot("it leads already"))
        } else {
            None
        };
        if let Some(error) = refusal {
            self.answer_handover(request, Err(error));
            return;
        }
        self.handover = Some(Handover {
            request,
            to,
            stage: Stage::Draining,
            deadline: self.now + u64::from(self.config.raft.election_timeout_ticks_max),
            held_back: Vec::new(),
        });
        self.drive_handover();
    }

    /// Whether leadership is on its way to another node, or has just left.
    pub fn is_handing_over(&self) -> bool {
        self.handover.is_some()
    }

    /// Holds a request back while leadership is on its way; gives it back otherwise.
    pub(super) fn hold_back(
        &mut self,
        id: RequestId,
        options: SessionOptions,
        request: Request,
    ) -> Option<Request> {
        let Some(handover) = &mut self.handover else {
            return Some(request);
        };
        handover.held_back.push((id, options, request));
        None
    }

    /// A session has ended: what it asked is asked no more.
    pub(super) fn forget_held_back(&mut self, session: SessionId) -> Vec<RequestId> {
        let Some(handover) = &mut self.handover else {
            return Vec::new();
        };
        let of_session = |(id, ..): &mut (RequestId, _, _)| id.session == session;
        let forgotten = handover.held_back.extract_if(.., of_session);
        forgotten.map(|(id, ..)| id).collect()
    }

    /// At the end of a turn, and with each tick.
    pub(super) fn drive_handover(&mut self) {
        let Some(handover) = &self.handover else {
            return;
        };
        let raft = self.raft.status();
        match handover.stage {
            Stage::Draining => {
                let is_drained = self.batch.is_empty()
                    && raft.commit == raft.last
                    && self.applied == raft.last
                    && self.gate.is_empty()
                    && !self.may_commit_away();
                if raft.role == Role::Leader && is_drained {
                    match self.raft.transfer(handover.to) {
                        Ok(_) => self.set_stage(Stage::Transferring),
                        Err(error) => self.end_handover(Err(cannot(&error.to_string()))),
                    }
                } else if self.now >= handover.deadline {
                    let what = "what is under way does not come to its end";
                    self.end_handover(Err(cannot(what)));
                }
            }
            // Its end comes from the core.
            Stage::Transferring => {}
            Stage::Over => {
                if raft.leader.is_some() || self.now >= handover.deadline {
                    self.end_handover(Ok(()));
                }
            }
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(handover) = &mut self.handover {
            handover.stage = stage;
        }
    }

    pub(super) fn transfer_ended(&mut self, outcome: TransferOutcome) {
        if outcome == TransferOutcome::Abandoned {
            self.end_handover(Err(cannot("the other node has not taken over in time")));
        }
    }

    /// This node does not lead any more.
    pub(super) fn handover_leaves_leadership(&mut self) {
        let Some(handover) = &mut self.handover else {
            return;
        };
        handover.stage = Stage::Over;
        handover.deadline = self.now + u64::from(self.config.raft.election_timeout_ticks_max);
        let request = handover.request.take();
        self.answer_handover(request, Ok(Reply::Done));
    }

    /// Whoever was held back goes on, here if this node still leads.
    fn end_handover(&mut self, result: Result<(), Error>) {
        let Some(handover) = self.handover.take() else {
            return;
        };
        self.answer_handover(handover.request, result.map(|()| Reply::Done));
        for (id, options, request) in handover.held_back {
            self.asked(id, options, request);
        }
        self.resume_all_writers();
    }

    fn answer_handover(&mut self, request: Option<RequestId>, reply: Result<Reply, Error>) {
        if let Some(request) = request {
            self.effects.push_back(Effect::Reply { request, reply });
        }
    }
}

fn cannot(why: &str) -> Error {
    Error::misuse(
        rusqlite::ffi::SQLITE_ERROR,
        format!("leadership stays here: {why}"),
    )
}

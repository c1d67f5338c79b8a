//! A client: it looks for the leader, opens a session, and runs one operation after the other.

use ringlite::replica::request::{Reply, Request, RequestId, SessionId};
use ringlite::{Error, Result};
use ringlite_raft::NodeId;

use super::operation::{Operation, Progress, Role};
use super::oracle::Oracle;
use super::random::Random;

/// What a client wants to happen.
pub(crate) enum Wish {
    Ask(RequestId, Request),
    Close(SessionId),
}

pub(crate) struct Client {
    pub(crate) role: Role,
    /// The node that it talks to, and the session there.
    pub(crate) node: usize,
    session: Option<SessionId>,
    /// The database that the session has open.
    open: Option<String>,
    operation: Option<Operation>,
    waiting: Option<(RequestId, u64)>,
    opening: bool,
    resumes_at: u64,
    next_serial: u64,
    patience: u64,
    pub(crate) answers: u64,
}

impl Client {
    pub(crate) fn new(random: &mut Random, nodes: usize, role: Role) -> Client {
        Client {
            role,
            node: random.below(nodes as u64) as usize,
            session: None,
            open: None,
            operation: None,
            waiting: None,
            opening: false,
            resumes_at: random.below(20),
            next_serial: 0,
            patience: match role {
                Role::Writer => 40,
                _ => random.one_of(&[40, 150, 600]),
            },
            answers: 0,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.operation.is_none()
    }

    pub(crate) fn options(&self) -> ringlite::replica::request::SessionOptions {
        self.operation
            .as_ref()
            .map(|operation| operation.options)
            .unwrap_or_default()
    }

    /// Whether this is what it waits for, and it was slow to ask for it: a write may have been ended that
    /// it has let idle for so many units of time.
    pub(crate) fn has_idled(&self, id: RequestId, limit: u64) -> bool {
        let waits = self.waiting.is_some_and(|(waiting, _)| waiting == id);
        let operation = self.operation.as_ref();
        waits && operation.is_some_and(|operation| operation.batch_pause >= limit)
    }

    /// Gives the client something to do; it must be idle.
    pub(crate) fn begin(&mut self, operation: Operation, now: u64) {
        assert!(self.is_idle());
        self.resumes_at = now;
        self.operation = Some(operation);
    }

    /// What it does now.
    pub(crate) fn act(
        &mut self,
        now: u64,
        sessions: &mut u64,
        oracle: &mut Oracle,
    ) -> Option<Wish> {
        if let Some((_, since)) = self.waiting {
            if since + self.patience > now {
                return None;
            }
            return self.give_up(oracle);
        }
        if now < self.resumes_at {
            return None;
        }
        let name = self.operation.as_ref()?.name.clone();
        if self.open.is_some() && self.open.as_ref() != Some(&name) {
            return self.leave();
        }
        let operation = self.operation.as_mut()?;
        let session = *self.session.get_or_insert_with(|| {
            *sessions += 1;
            SessionId(*sessions)
        });
        let request = if self.open.is_none() {
            self.opening = true;
            Request::Open {
                database: name,
                create: true,
            }
        } else {
            operation.ask(oracle)
        };
        self.next_serial += 1;
        let id = RequestId {
            session,
            serial: self.next_serial,
        };
        self.waiting = Some((id, now));
        Some(Wish::Ask(id, request))
    }

    /// Its patience is at an end, in the middle of a request.
    fn give_up(&mut self, oracle: &mut Oracle) -> Option<Wish> {
        let was_asking = self.waiting.take().is_some();
        if !std::mem::take(&mut self.opening)
            && (was_asking || self.open.is_some())
            && let Some(mut operation) = self.operation.take()
        {
            operation.lost(oracle);
        }
        self.leave()
    }

    /// It ends its session before an operation has begun.
    pub(crate) fn change_session(&mut self) -> Option<Wish> {
        self.leave()
    }

    fn leave(&mut self) -> Option<Wish> {
        self.open = None;
        self.session.take().map(Wish::Close)
    }

    /// The answer to a request; an answer that comes too late is none.
    pub(crate) fn answered(
        &mut self,
        id: RequestId,
        reply: Result<Reply>,
        now: u64,
        (oracle, random, nodes): (&mut Oracle, &mut Random, &[NodeId]),
    ) -> Option<Wish> {
        match self.waiting {
            Some((waiting, _)) if waiting == id => self.waiting = None,
            _ => return None,
        }
        self.answers += 1;
        let leads_elsewhere = match &reply {
            Err(Error::NotLeader { leader }) => Some(leader.clone()),
            Err(Error::Stopped | Error::Removed) => Some(None),
            _ => None,
        };
        let wish = self.digest_answer(reply, now, oracle);
        if let Some(leader) = leads_elsewhere {
            let known = leader.filter(|_| random.per_mille(800));
            let known = known.and_then(|leader| nodes.iter().position(|id| *id == leader.id));
            self.node = known.unwrap_or_else(|| random.below(nodes.len() as u64) as usize);
            self.resumes_at = now + random.between(1, 10);
        }
        wish
    }

    fn digest_answer(
        &mut self,
        reply: Result<Reply>,
        now: u64,
        oracle: &mut Oracle,
    ) -> Option<Wish> {
        let operation = self.operation.as_mut().expect("an operation that waits");
        if std::mem::take(&mut self.opening) {
            return match reply {
                Ok(Reply::Opened) => {
                    self.open = Some(operation.name.clone());
                    None
                }
                Err(
                    Error::NotLeader { .. } | Error::Busy { .. } | Error::Stopped | Error::Removed,
                ) => self.leave(),
                Err(error) if oracle.is_told_damage(&error) => {
                    // There is no use in trying again.
                    operation.lost(oracle);
                    self.operation = None;
                    self.leave()
                }
                other => panic!("a database could not be opened: {other:?}"),
            };
        }
        let progress = operation.answered(reply, oracle);
        self.resumes_at = now + operation.pause().unwrap_or(0);
        match progress {
            Progress::Goes => None,
            Progress::Done => {
                self.operation = None;
                None
            }
            Progress::Broken => {
                self.operation = None;
                self.leave()
            }
        }
    }

    /// It goes away between two requests of an operation, with whatever is open.
    pub(crate) fn walk_out(&mut self, oracle: &mut Oracle) -> Option<Wish> {
        if self.waiting.is_some() || self.open.is_none() {
            return None;
        }
        if let Some(mut operation) = self.operation.take() {
            operation.lost(oracle);
        }
        self.leave()
    }

    /// The node that it talks to is gone.
    pub(crate) fn connection_lost(
        &mut self,
        oracle: &mut Oracle,
        random: &mut Random,
        nodes: usize,
    ) {
        drop(self.give_up(oracle));
        self.node = random.below(nodes as u64) as usize;
    }
}

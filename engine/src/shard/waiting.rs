//! Who waits for the answers to requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use crate::error::Result;
use crate::replica::request::Reply;
use crate::signal::Signal;

/// A request that was not answered yet.
pub(super) struct Waiting {
    pub(super) asked: Instant,
    /// Whether it has committed something, which the answer waits for.
    pub(super) commits: bool,
    pub(super) waiter: Waiter,
}

impl From<Waiter> for Waiting {
    fn from(waiter: Waiter) -> Self {
        Self {
            asked: Instant::now(),
            commits: false,
            waiter,
        }
    }
}

/// Receives the answer to one request.
pub(super) enum Waiter {
    /// A task of this executor.
    Local(Rc<ReplySlot>),
    /// A thread or task elsewhere.
    Remote(flume::Sender<Result<Reply>>),
}

#[derive(Default)]
pub(super) struct ReplySlot {
    pub(super) reply: RefCell<Option<Result<Reply>>>,
    /// Whether the answer will take its time.
    pub(super) is_slow: Cell<bool>,
    /// Raised with each of the two.
    pub(super) changed: Signal,
}

/// A question to the replica that was not answered yet.
pub(crate) struct Pending(pub(super) Rc<ReplySlot>);

impl Pending {
    /// Waits for the answer; comes back with none, once, when it is seen that it will take its
    /// time.
    pub(crate) async fn reply_unless_slow(&self) -> Option<Result<Reply>> {
        loop {
            if let Some(reply) = self.0.reply.take() {
                return Some(reply);
            }
            if self.0.is_slow.get() {
                return None;
            }
            self.0.changed.wait().await;
        }
    }

    /// Waits for the answer.
    pub(crate) async fn reply(&self) -> Result<Reply> {
        loop {
            if let Some(reply) = self.0.reply.take() {
                return reply;
            }
            self.0.changed.wait().await;
        }
    }
}

//! A flag that one task of an executor waits for and any of its tasks raises.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Raised any number of times before it is waited for, it wakes its waiter once.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiter, now or when it comes to wait.
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Waits until it is raised, and lowers it. Only one task may wait.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            *self.waiter.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn it_wakes_once_for_any_number_of_raises() {
        block_on(async {
            let signal = Signal::default();
            assert!(poll_once(signal.wait()).await.is_none());
            signal.raise();
            signal.raise();
            assert!(poll_once(signal.wait()).await.is_some());
            assert!(poll_once(signal.wait()).await.is_none());
        });
    }
}

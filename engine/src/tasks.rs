//! Tasks that end with what they belong to. An executor that ends drops none of those that it has detached,
//! nor the sockets that they hold.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use glommio::Task;

/// Tasks of one executor, each until its end.
#[derive(Default)]
pub(crate) struct Tasks(Rc<Running>);

#[derive(Default)]
struct Running {
    begun: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Option<Task<()>>>>,
}

impl Tasks {
    /// Begins a task.
    pub(crate) fn spawn(&self, does: impl Future<Output = ()> + 'static) {
        // What a task awaits it has twice in itself: where it came, and where it is polled.
        let does = Box::pin(does);
        let number = self.0.begun.get();
        self.0.begun.set(number + 1);
        // It runs at once, and may come to its end before its handle is here.
        self.0.tasks.borrow_mut().insert(number, None);
        let running = Rc::clone(&self.0);
        let task = glommio::spawn_local(async move {
            does.await;
            let own = running.tasks.borrow_mut().remove(&number);
            // To drop it would cancel what is at its end.
            own.flatten().map(Task::detach);
        });
        match self.0.tasks.borrow_mut().get_mut(&number) {
            Some(place) => *place = Some(task),
            None => drop(task.detach()),
        }
    }

    /// Ends those that have not ended, wherever they are, and drops what they hold.
    pub(crate) async fn end(&self) {
        // It cancels a task to drop its handle; the executor then drops the task in its turn.
        drop(self.0.tasks.take());
        futures_lite::future::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_ends_by_itself_or_with_the_others() {
        let executor = glommio::LocalExecutorBuilder::default();
        let executor = executor.io_memory(1 << 20).make().unwrap();
        executor.run(async {
            let (tasks, held) = (Tasks::default(), Rc::new(()));
            for waits in [false, true] {
                let held = Rc::clone(&held);
                tasks.spawn(async move {
                    if waits {
                        std::future::pending::<()>().await;
                    }
                    drop(held);
                });
            }
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
            assert_eq!(Rc::strong_count(&held), 2);
            assert_eq!(tasks.0.tasks.borrow().len(), 1);
            tasks.end().await;
            assert_eq!(Rc::strong_count(&held), 1);
        });
    }
}

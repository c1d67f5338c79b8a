//! A client that sends one random transaction after the other to databases of its own, and keeps
//! book of what it was answered.

use std::thread;
use std::time::Duration;

use ringlite::{Client, ClientError};

use crate::disk::Device;
use crate::history::{History, Twin};
use crate::workload::{Action, Workload};

/// The client.
pub struct Author {
    name: String,
    workload: Workload,
    twin: Twin,
    history: History,
}

impl Author {
    /// One whose transactions depend on `seed` alone, and whose databases begin with `name`.
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            workload: Workload::new(seed),
            twin: Twin::default(),
            history: History::default(),
        }
    }

    /// Sends some transactions to a node whose data is on `device`.
    ///
    /// # Errors
    /// The first error; what became of that transaction is then not known, and no further one may
    /// be sent.
    pub fn write(
        &mut self,
        mut connect: impl FnMut() -> Result<Client, ClientError>,
        device: &Device,
        transactions: usize,
    ) -> Result<(), ClientError> {
        for _ in 0..transactions {
            thread::sleep(Duration::from_millis(self.workload.pause_milliseconds()));
            let mut client = connect()?;
            let action = self.workload.next_action();
            let database = format!("{}{}", self.name, action.database());
            let content = match &action {
                Action::Create(_) => Some(self.twin.create(&database)),
                Action::Drop(_) => None,
                Action::Transact(_, statements) => Some(self.twin.execute(&database, statements)),
            };
            self.history.submit(&database, content, device.position());
            match action {
                Action::Create(_) => client.open(&database)?,
                Action::Drop(_) => client.drop_database(&database)?,
                Action::Transact(_, statements) => {
                    client.open(&database)?;
                    for statement in statements {
                        client.execute(&statement.sql, &statement.parameters)?;
                    }
                }
            }
            self.history.acknowledge(device.position());
        }
        Ok(())
    }

    /// What it has done.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What it has done, at its end.
    pub fn into_history(self) -> History {
        self.history
    }
}

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
            let (database, statements) = match self.workload.next_action() {
                Action::Create(database) => (database, None),
                Action::Transact(database, statements) => (database, Some(statements)),
            };
            let database = format!("{}{database}", self.name);
            let content = match &statements {
                None => self.twin.create(&database),
                Some(statements) => self.twin.execute(&database, statements),
            };
            self.history.submit(&database, content, device.position());
            client.open(&database)?;
            for statement in statements.into_iter().flatten() {
                client.execute(&statement.sql, &statement.parameters)?;
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

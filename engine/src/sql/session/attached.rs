//! What a session attaches and detaches, and snapshots of all that it has.

use ringlite_raft::LogIndex;
use rusqlite::ffi;

use super::super::authorizer::Call;
use super::super::joint::SessionDatabase;
use super::super::statement::{Special, Statement, Step, schemas};
use super::{Session, empty_statement};
use crate::error::Error;
use crate::replica::DatabaseId;

impl Session {
    /// Attaches or detaches a database.
    pub(super) fn step_special(&self, statement: &mut Statement) -> Result<Step, Error> {
        let (what, name) = match statement.special() {
            Some(Special::Attach(name)) => ("ATTACH", Some(name.clone())),
            _ => ("DETACH", None),
        };
        if self.in_transaction() {
            return Err(Error::misuse(
                ffi::SQLITE_ERROR,
                format!("cannot {what} a database within a transaction"),
            ));
        }
        if !self.stopper.watch.go_to_core() {
            return Err(Error::interrupted());
        }
        if let Some(name) = name {
            self.require_attachable(&name)?;
        }
        let step = self.step(statement)?;
        self.find_databases()?;
        // The locks that it may take are those of the databases that it had.
        self.stopper.watch.forbid_writing();
        Ok(step)
    }

    fn require_attachable(&self, name: &str) -> Result<(), Error> {
        let databases = self.databases();
        let same = databases.iter().find(|at| at.database.name() == name);
        if let Some(same) = same {
            let schema = same.schema.to_string_lossy();
            return Err(Error::misuse(
                ffi::SQLITE_ERROR,
                format!("cannot ATTACH {name:?}: it is open in this session already, as {schema}"),
            ));
        }
        if self.database.sibling(name).is_none() {
            return Err(Error::misuse(
                ffi::SQLITE_CANTOPEN,
                format!(
                    "cannot ATTACH {name:?}: there is no database of this name; it is created when \
                     a client opens it"
                ),
            ));
        }
        Ok(())
    }

    /// Finds what is attached now.
    fn find_databases(&self) -> Result<(), Error> {
        let before = self.databases();
        let mut databases = Vec::with_capacity(before.len() + 1);
        for schema in schemas(&self.connection) {
            let text = schema.to_str().unwrap_or_default();
            // There is none behind the schema of temporary tables.
            let Some(database) = ringlite_vfs::schema_database(&self.connection, text) else {
                continue;
            };
            if !before.iter().any(|at| at.schema == schema) {
                let quoted = text.replace('"', "\"\"");
                self.run_own(&format!("PRAGMA \"{quoted}\".synchronous=OFF"))?;
            }
            databases.push(SessionDatabase {
                id: DatabaseId(LogIndex(database.label())),
                schema,
                database,
            });
        }
        self.joint.set_databases(databases.into());
        Ok(())
    }

    /// Runs a statement of the node's own.
    fn run_own(&self, sql: &str) -> Result<(), Error> {
        let (statement, _) = Statement::prepare_as(Call::Own, &self.connection, sql)?;
        statement.ok_or_else(empty_statement)?.step()?;
        Ok(())
    }

    /// In a transaction that has no snapshot yet, takes one of each database, all of one moment: no
    /// other transaction is seen in one of them and not in another.
    pub(super) fn take_snapshots(&self) -> Result<(), Error> {
        if !self.joint.has_attached() || !self.in_transaction() {
            return Ok(());
        }
        let databases = self.databases();
        let has_snapshot =
            |at: &SessionDatabase| self.transaction_state(&at.schema) != ffi::SQLITE_TXN_NONE;
        if databases.iter().any(has_snapshot) {
            return Ok(());
        }
        if !self.stopper.watch.go_to_core() {
            return Err(Error::interrupted());
        }
        for at in databases.iter() {
            let quoted = at.schema.to_string_lossy().replace('"', "\"\"");
            self.run_own(&format!("PRAGMA \"{quoted}\".user_version"))?;
        }
        Ok(())
    }
}

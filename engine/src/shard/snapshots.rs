//! What a shard does to send a snapshot, and to become what one says.

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;

use ringlite_raft::{LogIndex, NodeId};

use super::Shard;
use crate::net::snapshot::{self, Arrivals};
use crate::replica::{DatabaseId, Input, SnapshotHead, SnapshotOutcome};
use crate::signal::Signal;
use crate::storage::{LogStart, Manifest, ManifestDatabase, StagingArea};

/// How fast a snapshot leaves unless told, in bytes per second: half of what a network of 1 Gbit/s
/// carries, and well above what the log grows by, so that the copy comes to an end.
pub(crate) const SNAPSHOT_RATE_DEFAULT: u64 = 64 << 20;

/// What a shard needs for snapshots.
pub(crate) struct Snapshots {
    bytes_per_second: u64,
    arrivals: Rc<Arrivals>,
    outcome: RefCell<Option<SnapshotOutcome>>,
    ended: Signal,
}

impl Snapshots {
    pub(crate) fn new(area: StagingArea, bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            arrivals: Rc::new(Arrivals::new(area)),
            outcome: RefCell::default(),
            ended: Signal::default(),
        }
    }

    /// Tells whoever waits for the installation.
    pub(super) fn end(&self, outcome: SnapshotOutcome) {
        self.outcome.replace(Some(outcome));
        self.ended.raise();
    }
}

impl Shard {
    /// Where snapshots arrive.
    pub(crate) fn arrivals(&self) -> &Rc<Arrivals> {
        &self.snapshots.arrivals
    }

    pub(super) fn send_snapshot(self: &Rc<Self>, to: NodeId, head: SnapshotHead) {
        let Some(peer) = self.peers.address_of(to) else {
            let (id, is_installed) = (head.id, false);
            return self.push(Input::SnapshotSent {
                to,
                id,
                is_installed,
            });
        };
        glommio::spawn_local(snapshot::send(
            Rc::clone(self),
            peer,
            head,
            self.snapshots.bytes_per_second,
        ))
        .detach();
    }

    /// Opens a file of a database for reading its bytes as they are; `None` if there is no such
    /// database any more.
    pub(crate) fn open_database_file(
        &self,
        id: DatabaseId,
        suffix: &str,
    ) -> std::io::Result<Option<File>> {
        self.sql.borrow().open_file(id, suffix)
    }

    /// Has a snapshot installed that has arrived as a whole.
    pub(crate) async fn install_snapshot(&self, head: SnapshotHead) -> SnapshotOutcome {
        self.push(Input::SnapshotArrived { head });
        loop {
            if let Some(outcome) = self.snapshots.outcome.take() {
                return outcome;
            }
            self.snapshots.ended.wait().await;
        }
    }

    /// Puts a snapshot in the place of everything that is here.
    pub(super) fn replace_by_snapshot(self: &Rc<Self>, head: SnapshotHead) {
        let Some(file) = self.manifest.borrow_mut().take() else {
            unreachable!("the replica has one manifest saved at a time");
        };
        let targets = head.databases.iter().map(|database| database.target);
        let manifest = Manifest {
            // Where the log begins is known once its first segment is there.
            log: LogStart::default(),
            owed: targets.max().unwrap_or(LogIndex::ZERO),
            installs: true,
            configuration: head.configuration,
            databases: head.databases.iter().map(ManifestDatabase::from).collect(),
        };
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            let base = head.base;
            let (mut file, mut manifest) = shard.writer.replace_log(base, file, manifest).await;
            shard.log_start.set(manifest.log);
            if let Err(error) = shard.replace_databases(&manifest) {
                return shard.halt(format!("a snapshot cannot be installed: {error}"));
            }
            manifest.installs = false;
            match file.save(&manifest).await {
                Ok(()) => {
                    tracing::info!(
                        "a snapshot of everything up to {} was installed",
                        base.index
                    );
                    shard.manifest.replace(Some(file));
                    shard.push(Input::SnapshotInstalled);
                }
                Err(error) => shard.halt(format!("the manifest cannot be saved: {error}")),
            }
        })
        .detach();
    }

    /// The manifest says durably that it installs a snapshot.
    fn replace_databases(
        &self,
        manifest: &Manifest,
    ) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let mut sql = self.sql.borrow_mut();
        self.readers.replace_all();
        sql.remove_databases()?;
        self.snapshots.arrivals.area().install(manifest)?;
        Ok(())
    }
}

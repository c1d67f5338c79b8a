//! The systems that are measured, and how they are started and stopped.

mod dqlite;
mod dqlite_wire;
mod embedded;
mod etcd;
mod hiqlite;
mod http;
mod remote;
mod rqlite;
mod served;
mod sqlite;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringlite::StageTimes;

use crate::error::MeasureError;
use crate::load::Load;
use crate::outcome::Outcome;
use crate::process;
use crate::workload::Workload;

pub(crate) use embedded::allowed_cores;
pub(crate) use served::SERVE;

/// A system that runs.
pub(crate) trait System {
    /// Makes the tables and rows of all workloads.
    fn prepare(&mut self) -> Result<(), MeasureError>;

    /// Loads it for `length`, after a warm-up.
    fn load(&mut self, load: Load, length: Duration) -> Result<Outcome, MeasureError>;

    /// The processes of its nodes.
    fn processes(&self) -> Vec<u32>;

    /// How long the stages of commits have taken since it was started; nothing from systems that
    /// do not tell.
    fn stages(&self) -> Result<Vec<StageTimes>, MeasureError> {
        Ok(Vec::new())
    }
}

/// A system and how many nodes of it run where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SQLite in this process, which forces each commit to the disk.
    SqliteFull,
    /// SQLite in this process, which may lose the last commits with the power.
    SqliteNormal,
    /// Ringlite in this process: alone, or as the leader of three nodes.
    Embedded { nodes: usize },
    /// Ringlite's nodes as processes, and clients over TCP.
    Served { nodes: usize },
    /// Three nodes of dqlite.
    Dqlite,
    /// Three nodes of rqlite.
    Rqlite,
    /// Three nodes of etcd.
    Etcd,
    /// Three nodes of hiqlite, the load in the leader's process.
    Hiqlite,
}

/// Whether a system can be measured here.
#[derive(Clone, Debug)]
pub(crate) enum Presence {
    /// It is there in this version, with these settings.
    Here {
        version: String,
        settings: &'static str,
    },
    /// It is not installed: what was looked for.
    Missing(String),
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::SqliteFull,
        Self::SqliteNormal,
        Self::Embedded { nodes: 1 },
        Self::Embedded { nodes: 3 },
        Self::Served { nodes: 1 },
        Self::Served { nodes: 3 },
        Self::Dqlite,
        Self::Rqlite,
        Self::Etcd,
        Self::Hiqlite,
    ];

    /// What it is called in options and results.
    pub(crate) fn system(self) -> &'static str {
        match self {
            Self::SqliteFull => "sqlite-full",
            Self::SqliteNormal => "sqlite-normal",
            Self::Embedded { .. } | Self::Served { .. } => "ringlite",
            Self::Dqlite => "dqlite",
            Self::Rqlite => "rqlite",
            Self::Etcd => "etcd",
            Self::Hiqlite => "hiqlite",
        }
    }

    /// How many nodes it has.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::SqliteFull | Self::SqliteNormal => 1,
            Self::Embedded { nodes } | Self::Served { nodes } => nodes,
            Self::Dqlite | Self::Rqlite | Self::Etcd | Self::Hiqlite => 3,
        }
    }

    /// How the load gets to it.
    pub(crate) fn transport(self) -> &'static str {
        match self {
            Self::SqliteFull | Self::SqliteNormal | Self::Embedded { .. } | Self::Hiqlite => {
                "embedded"
            }
            Self::Served { .. } | Self::Dqlite => "tcp",
            Self::Rqlite | Self::Etcd => "http",
        }
    }

    /// Whether it is compared with, rather than the product or the limit.
    pub(crate) fn is_peer(self) -> bool {
        matches!(
            self,
            Self::Dqlite | Self::Rqlite | Self::Etcd | Self::Hiqlite
        )
    }

    /// Whether it has what the workload asks for.
    pub(crate) fn can(self, workload: Workload) -> bool {
        self != Self::Etcd || workload != Workload::NewOrder
    }

    /// The program that a peer is.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Dqlite => Some(dqlite::PROGRAM),
            Self::Rqlite => Some(rqlite::PROGRAM),
            Self::Etcd => Some(etcd::PROGRAM),
            Self::Hiqlite => Some(hiqlite::PROGRAM),
            _ => None,
        }
    }

    /// Whether it is there, looking first in `peers` for a peer.
    pub(crate) fn presence(self, peers: Option<&Path>) -> Presence {
        let settings = match self {
            Self::SqliteFull => sqlite::SETTINGS_FULL,
            Self::SqliteNormal => sqlite::SETTINGS_NORMAL,
            Self::Embedded { .. } | Self::Served { .. } => served::SETTINGS,
            Self::Dqlite => dqlite::SETTINGS,
            Self::Rqlite => rqlite::SETTINGS,
            Self::Etcd => etcd::SETTINGS,
            Self::Hiqlite => hiqlite::SETTINGS,
        };
        let Some(program) = self.program() else {
            let version = match self {
                Self::SqliteFull | Self::SqliteNormal => rusqlite::version(),
                _ => env!("CARGO_PKG_VERSION"),
            };
            return Presence::Here {
                version: version.to_owned(),
                settings,
            };
        };
        let Some(path) = process::find(program, peers) else {
            return Presence::Missing(format!("{program} is not installed"));
        };
        let version = match self {
            Self::Dqlite => dqlite::version(),
            Self::Rqlite => process::first_line(&path, &["-version"]),
            _ => process::first_line(&path, &["--version"]),
        };
        Presence::Here {
            version: version.unwrap_or_else(|| "of unknown version".to_owned()),
            settings,
        }
    }

    /// Starts it with its data below `directory`, and waits until it serves.
    pub(crate) fn start(
        self,
        directory: &Path,
        peers: Option<&Path>,
    ) -> Result<Box<dyn System>, MeasureError> {
        let program = || -> PathBuf {
            let name = self.program().unwrap_or_default();
            process::find(name, peers).unwrap_or_else(|| name.into())
        };
        Ok(match self {
            Self::SqliteFull => Box::new(sqlite::Sqlite::new(directory, "FULL")),
            Self::SqliteNormal => Box::new(sqlite::Sqlite::new(directory, "NORMAL")),
            Self::Embedded { nodes } => Box::new(embedded::Embedded::start(directory, nodes)?),
            Self::Served { nodes } => Box::new(served::start(directory, nodes)?),
            Self::Dqlite => Box::new(dqlite::start(&program(), directory)?),
            Self::Rqlite => Box::new(rqlite::start(&program(), directory)?),
            Self::Etcd => Box::new(etcd::start(&program(), directory)?),
            Self::Hiqlite => Box::new(hiqlite::Hiqlite::start(&program(), directory)?),
        })
    }
}

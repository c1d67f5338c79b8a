//! What a run is: its command, the machine, the systems with their versions and settings.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine;
use crate::plan::Plan;
use crate::process::first_line;
use crate::systems::{Kind, Presence};

/// What is stated about a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct About {
    /// The command that began it.
    pub(crate) command: String,
    /// When it began.
    pub(crate) date: String,
    /// The commit of the working directory, if it is a checkout.
    pub(crate) commit: Option<String>,
    /// The machine: what is stated, and how it is.
    pub(crate) machine: Vec<(String, String)>,
    /// Seconds of each measure, without its warm-up.
    pub(crate) seconds: f64,
    /// How often each measure was to be taken.
    pub(crate) repetitions: usize,
    /// The systems that are measured.
    pub(crate) systems: Vec<AboutSystem>,
    /// The systems that were asked for and are not installed.
    pub(crate) missing: Vec<Missing>,
    /// What was wrong with the machine when the run began.
    pub(crate) warning: Option<String>,
}

/// A system that is measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AboutSystem {
    pub(crate) system: String,
    pub(crate) version: String,
    pub(crate) settings: String,
}

/// A system that is not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) system: String,
    pub(crate) why: String,
}

impl About {
    /// States what can be known now, and takes the systems out of `plan` that are not installed.
    pub(crate) fn new(plan: &mut Plan, directory: &Path, peers: Option<&Path>) -> Self {
        let mut about = Self {
            command: std::env::args().collect::<Vec<String>>().join(" "),
            date: first_line(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M:%S UTC"])
                .unwrap_or_default(),
            commit: first_line(
                Path::new("git"),
                &["describe", "--always", "--dirty", "--abbrev=12"],
            ),
            machine: machine::described(directory),
            seconds: plan.length.as_secs_f64(),
            repetitions: plan.repetitions,
            warning: machine::warning_if_busy(),
            ..Self::default()
        };
        plan.parts
            .retain(|part| about.take_system(part.kind, part.kind.presence(peers)));
        about
    }

    /// Notes a system once. Whether it is there.
    fn take_system(&mut self, kind: Kind, presence: Presence) -> bool {
        let system = kind.system().to_owned();
        match presence {
            Presence::Here { version, settings } => {
                if self.systems.iter().all(|known| known.system != system) {
                    self.systems.push(AboutSystem {
                        system,
                        version,
                        settings: settings.to_owned(),
                    });
                }
                true
            }
            Presence::Missing(why) => {
                self.missing.push(Missing { system, why });
                false
            }
        }
    }
}

/// A time in minutes and seconds.
pub(crate) fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Selection;

    #[test]
    fn a_peer_that_is_not_installed_is_missing_and_no_error() {
        let mut plan = Plan::new(&Selection {
            full: true,
            ..Selection::default()
        });
        let mut about = About::default();
        plan.parts.retain(|part| {
            let presence = if part.kind.is_peer() {
                Presence::Missing("it is not installed".to_owned())
            } else {
                part.kind.presence(None)
            };
            about.take_system(part.kind, presence)
        });
        assert!(plan.parts.iter().all(|part| !part.kind.is_peer()));
        let missing: Vec<&str> = about
            .missing
            .iter()
            .map(|missing| missing.system.as_str())
            .collect();
        assert_eq!(missing, ["dqlite", "rqlite", "etcd", "hiqlite"]);
        let systems: Vec<&str> = about
            .systems
            .iter()
            .map(|system| system.system.as_str())
            .collect();
        assert_eq!(systems, ["sqlite-full", "sqlite-normal", "ringlite"]);
    }
}

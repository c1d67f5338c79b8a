//! What a replica is told at its start: who it is, its patience, and what it may hold.

use crate::debt::Debt;
use crate::entry::{Entry, LogBase, PAYLOAD_BYTES_MAX, TermRun};
use crate::membership::{Configuration, ConfigurationError};
use crate::types::{LogIndex, NodeId, Term};

/// The settings of one replica. They do not change during its life.
///
/// Times are in ticks of the caller's clock; the defaults mean a tick of 10 ms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// The members of a cluster whose log begins with its first entry: what counts until the log
    /// tells otherwise. The same on all nodes of a cluster that starts with several; empty on a node
    /// that waits to be added to one.
    pub bootstrap: Configuration,
    /// The shortest election timeout, in ticks. Within it a follower that heard from its leader
    /// refuses to elect another one.
    pub election_timeout_ticks_min: u32,
    /// The longest election timeout, in ticks. A leader that heard from no quorum for so long
    /// steps down.
    pub election_timeout_ticks_max: u32,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: u32,
    /// The most bytes of entries in one `Append` message; one larger entry still travels alone.
    pub append_bytes_max: usize,
    /// The most bytes of entries on their way to one peer and not yet acknowledged by it. The last
    /// message may exceed it, so that one large entry always fits.
    pub window_bytes_max: usize,
    /// How many bytes of applied entries stay in memory for peers that are a little behind.
    pub log_cache_bytes_max: usize,
    /// How far, in entries, a member may be behind this leader's log and still be made a voter or
    /// leader.
    pub lag_entries_max: u64,
    /// When the oldest disk operation of a node is so many ticks old, its disk *hangs*: a leader of
    /// several voters steps down, and the node neither stands for election nor votes until the
    /// operation completes. 0: never.
    pub disk_stall_ticks: u32,
    /// How many ticks a leader may answer reads without asking, once a majority has answered a
    /// heartbeat, counted from when that was sent. 0, the default: never. Less than 0.9 times one
    /// less than `election_timeout_ticks_min`, for which each voter that answered refuses to elect another.
    ///
    /// **What leases assume**, and reads without leases do not: in any stretch of time no node's
    /// ticks come at less than 0.95 or more than 1.05 times the true rate. So ticks are taken from a
    /// monotonic clock that goes on while the process or the machine is suspended (on Linux
    /// `CLOCK_BOOTTIME`), and all of them that have passed when a turn begins come before that
    /// turn's other inputs. The setting is equal on all nodes; to switch it, stop all of them.
    pub lease_ticks: u32,
    /// The seed of the election timeouts. Give each node and each start a different one.
    pub seed: u64,
}

impl Config {
    /// The default timeouts and bounds, for a cluster that starts with these voters (an id that is
    /// there twice counts once).
    ///
    /// # Panics
    /// If there are more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) of them.
    pub fn new(id: NodeId, mut voters: Vec<NodeId>, seed: u64) -> Config {
        voters.sort_unstable();
        voters.dedup();
        Config {
            id,
            bootstrap: Configuration::of_voters(voters)
                .unwrap_or_else(|error| panic!("the voters are no configuration: {error}")),
            election_timeout_ticks_min: 25,
            election_timeout_ticks_max: 50,
            heartbeat_ticks: 5,
            append_bytes_max: 1024 * 1024,
            window_bytes_max: 16 * 1024 * 1024,
            log_cache_bytes_max: 32 * 1024 * 1024,
            lag_entries_max: 1024,
            disk_stall_ticks: 200,
            lease_ticks: 0,
            seed,
        }
    }

    /// Whether a replica can work with these settings.
    ///
    /// # Errors
    /// The first rule that is broken, as a sentence.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (min, max) = (
            self.election_timeout_ticks_min,
            self.election_timeout_ticks_max,
        );
        if self.heartbeat_ticks == 0 || self.heartbeat_ticks >= min || min >= max {
            return Err(ConfigError::Timeouts {
                heartbeat: self.heartbeat_ticks,
                min,
                max,
            });
        }
        // A voter that was answered just before a tick counts one tick too many.
        if u64::from(self.lease_ticks) * 10 >= u64::from(min.saturating_sub(1)) * 9 {
            return Err(ConfigError::Lease {
                lease: self.lease_ticks,
                min,
            });
        }
        // A message of append_bytes_max must fit a frame with room for its entry headers.
        if self.append_bytes_max == 0 || self.append_bytes_max > PAYLOAD_BYTES_MAX {
            return Err(ConfigError::AppendBytes {
                append_bytes_max: self.append_bytes_max,
                limit: PAYLOAD_BYTES_MAX,
            });
        }
        if self.window_bytes_max == 0 {
            return Err(ConfigError::NoWindow);
        }
        Ok(())
    }
}

/// What must survive a crash besides the log (Raft paper, figure 2).
///
/// It is written as one record and is durable before any message that follows from it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The newest term that this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// What a restart found: the log as storage recovered it. All of it must be durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredLog {
    /// Behind which entry the log begins.
    pub base: LogBase,
    /// The terms of all entries: the first run starts just behind the base, terms strictly grow.
    pub runs: Vec<TermRun>,
    /// The last index; that of the base for an empty log.
    pub last: LogIndex,
    /// What was known to be committed; a lower bound of what is. Not below the base.
    pub commit: LogIndex,
    /// The newest entries: contiguous, ending at `last`, at least all those above `commit`.
    pub tail: Vec<Entry>,
    /// What this node may have acknowledged beyond what was found, if its log was damaged.
    pub debt: Option<Debt>,
    /// The members as of the base. None for a log that was never cut, where
    /// [`Config::bootstrap`] counts; and none on a node that joined and cut its log before the first
    /// configuration came, so that it is still nobody's member.
    pub configuration: Configuration,
    /// Every entry of kind [`Configuration`](crate::EntryKind::Configuration) in the log, in order of
    /// index; those in the tail may be left out.
    pub configurations: Vec<Entry>,
}

/// Why a replica cannot start from what it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The timeouts are not 0 < heartbeat < min < max.
    #[error(
        "the heartbeat ({heartbeat} ticks) must be positive and below the election timeouts, \
             and the shortest of these ({min}) below the longest ({max})"
    )]
    Timeouts {
        /// The heartbeat interval, in ticks.
        heartbeat: u32,
        /// The shortest election timeout, in ticks.
        min: u32,
        /// The longest election timeout, in ticks.
        max: u32,
    },
    /// A lease would not be over well before its voters elect another leader.
    #[error(
        "a lease of {lease} ticks is not below 0.9 times one less than the shortest election timeout ({min})"
    )]
    Lease {
        /// The lease, in ticks.
        lease: u32,
        /// The shortest election timeout, in ticks.
        min: u32,
    },
    /// An append message would carry nothing, or more than a frame holds.
    #[error("append_bytes_max is {append_bytes_max}, but must be from 1 to {limit}")]
    AppendBytes {
        /// What was asked for.
        append_bytes_max: usize,
        /// The most that is possible.
        limit: usize,
    },
    /// The window is empty, so nothing could ever be sent.
    #[error("window_bytes_max is 0, so no entry could ever be sent")]
    NoWindow,
    /// The term runs of the restored log do not describe a log.
    #[error("the restored term runs are no log: the run at {first} with {term} is out of order")]
    TermRuns {
        /// Where the first wrong run starts.
        first: LogIndex,
        /// Its term.
        term: Term,
    },
    /// The log holds an entry of a term that the hard state has not seen, so a vote was forgotten.
    #[error(
        "the log ends with an entry of {log}, but the hard state is only at {hard_state}: \
             it is older than the log, and votes may have been forgotten"
    )]
    HardStateBehindLog {
        /// The term of the last entry.
        log: Term,
        /// The term of the hard state.
        hard_state: Term,
    },
    /// The log begins or ends where none can: the base is half a base, or above the last or the
    /// commit index.
    #[error(
        "a log behind {base} of {base_term} cannot end at {last} with everything up to {commit} \
         committed"
    )]
    Base {
        /// The index of the base.
        base: LogIndex,
        /// Its term.
        base_term: Term,
        /// The restored last index.
        last: LogIndex,
        /// The restored commit index.
        commit: LogIndex,
    },
    /// More is committed than the log holds.
    #[error("the restored commit index {commit} is above the last index {last}")]
    CommitAboveLast {
        /// The restored commit index.
        commit: LogIndex,
        /// The restored last index.
        last: LogIndex,
    },
    /// The restored entries are not the contiguous end of the restored log.
    #[error("the restored tail is not the end of the log above {commit}: it breaks at {index}")]
    Tail {
        /// The first index that is missing or wrong.
        index: LogIndex,
        /// The restored commit index.
        commit: LogIndex,
    },
    /// An entry with a configuration cannot be read, or is not where the log says.
    #[error("the configuration at {index} cannot be restored: {source}")]
    Configuration {
        /// The index of the entry.
        index: LogIndex,
        /// What is wrong with it.
        source: ConfigurationError,
    },
    /// An entry was given as a configuration of the log and is none.
    #[error("the entry at {index} is no configuration of this log")]
    NotAConfiguration {
        /// The index of the entry.
        index: LogIndex,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config::new(NodeId(1), vec![NodeId(1), NodeId(2), NodeId(3)], 7)
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(good().validate(), Ok(()));
        let mut with_leases = good();
        with_leases.lease_ticks = 21;
        assert_eq!(with_leases.validate(), Ok(()));
    }

    #[test]
    fn each_rule_refuses_its_breach() {
        let check = |change: fn(&mut Config), text: &str| {
            let mut config = good();
            change(&mut config);
            let error = config.validate().expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        };
        check(|config| config.heartbeat_ticks = 0, "must be positive");
        check(
            |config| config.heartbeat_ticks = 25,
            "below the election timeouts",
        );
        check(
            |config| config.election_timeout_ticks_max = 25,
            "below the longest",
        );
        check(|config| config.lease_ticks = 22, "a lease of 22 ticks");
        check(
            |config| config.append_bytes_max = 0,
            "append_bytes_max is 0",
        );
        check(
            |config| config.append_bytes_max = usize::MAX,
            "must be from 1 to",
        );
        check(
            |config| config.window_bytes_max = 0,
            "window_bytes_max is 0",
        );
    }
}

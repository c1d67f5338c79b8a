//! The state machine: what every role shares, and the way in and out.
//!
//! The parts of the protocol are in the submodules: [`election`] (terms, votes, timers),
//! [`follower`] (entries and heartbeats that come in), [`leader`] (replies, commit, reads),
//! [`replication`] (what goes out to each peer), [`membership`], [`transfer`] (of leadership),
//! [`snapshots`] and [`lease`]. This file owns the state and the turn.

mod election;
mod follower;
mod invariants;
mod leader;
mod lease;
mod membership;
#[cfg(test)]
mod model;
mod replication;
mod snapshots;
mod transfer;

use crate::config::{Config, ConfigError, HardState, RestoredLog};
use crate::debt::Debt;
use crate::effect::{Effect, Input};
use crate::entry::{Entry, EntryKind, LogBase, PAYLOAD_BYTES_MAX};
use crate::io::Io;
use crate::log::Log;
use crate::message::{AppendResult, Message};
use crate::progress::Progress;
use crate::random::SplitMix64;
use crate::reads::Reads;
use crate::refusal::{NotLeader, ProposeError};
use crate::status::{Role, Status};
use crate::types::{IoId, LogIndex, NodeId, Term};
use bytes::Bytes;
use election::Timers;
use lease::Lease;
use std::collections::{BTreeMap, BTreeSet};
use transfer::Transfer;

/// One replica of one shard: Raft (Ongaro and Ousterhout 2014) with pre-vote, check-quorum,
/// pipelined replication, reads without log entries, and a leader that writes its own copy while
/// the followers write theirs; with members that come and go, leadership that is handed over,
/// snapshots for those whom the log cannot serve, and leases if they are asked for.
///
/// Feed it with [`Raft::step`] and [`Raft::propose`]; call [`Raft::take_effects`] once per turn.
#[derive(Clone, Debug)]
pub struct Raft {
    config: Config,
    random: SplitMix64,
    hard_state: HardState,
    role: Role,
    leader: Option<NodeId>,
    log: Log,
    /// What was acknowledged beyond the end of a log that was damaged. Gone once the durable log
    /// ends there or above.
    debt: Option<Debt>,
    io: Io,
    timers: Timers,
    /// Who (pre-)voted for this candidate. Its own vote is in from the start, but counts only once
    /// the hard state is durable.
    votes: BTreeSet<NodeId>,
    /// One per other member while leading, else empty.
    peers: BTreeMap<NodeId, Progress>,
    /// Outstanding reads; empty unless leading.
    reads: Reads,
    /// The newest heartbeat round. It only grows, so no round is ever used twice.
    round: u64,
    /// All voters and standbys are known to hold the log durably up to here. A hint, for what may
    /// leave memory and log. Never above the commit index or what is durable here.
    matched_by_all: LogIndex,
    /// Some configuration of this node's log had it as a member.
    was_member: bool,
    /// A member said that this node is none as of this committed entry.
    told_removed: Option<(Term, LogIndex)>,
    transfer: Option<Transfer>,
    lease: Lease,
    /// The snapshot that is about to take the place of everything.
    installing: Option<LogBase>,
    /// This leader's no-op. Once it is committed the leader serves.
    noop: LogIndex,
    /// A heartbeat to everybody is due at the end of this turn.
    heartbeat_due: bool,
    /// Messages of this turn, in order.
    messages: Vec<(NodeId, Message, Option<IoId>)>,
    /// Everything else of this turn, in order.
    events: Vec<Effect>,
    /// The role, term and leader that the caller knows.
    announced: (Role, Term, Option<NodeId>),
    /// The version of the newest configuration that the caller knows.
    announced_configuration: u64,
    dropped: u64,
}

impl Raft {
    /// A replica that continues from what storage recovered.
    ///
    /// Its first effects contain [`Effect::Committed`] if anything is known to be committed and, if
    /// it is the sole voter, its campaign.
    ///
    /// # Errors
    /// The settings are unusable, or the log and the hard state do not belong together.
    pub fn new(
        config: Config,
        hard_state: HardState,
        log: RestoredLog,
    ) -> Result<Raft, ConfigError> {
        config.validate()?;
        let debt = log.debt;
        let log = Log::restore(log, config.bootstrap.clone(), config.log_cache_bytes_max)?;
        if hard_state.term < log.last_term() {
            return Err(ConfigError::HardStateBehindLog {
                log: log.last_term(),
                hard_state: hard_state.term,
            });
        }
        let mut raft = Raft {
            random: SplitMix64::new(config.seed ^ config.id.0.rotate_left(32)),
            hard_state,
            role: Role::Follower,
            leader: None,
            debt,
            io: Io::new(log.last()),
            timers: Timers::default(),
            votes: BTreeSet::new(),
            peers: BTreeMap::new(),
            reads: Reads::default(),
            round: 0,
            matched_by_all: LogIndex::ZERO,
            was_member: log.had_member(config.id),
            told_removed: None,
            transfer: None,
            lease: Lease::default(),
            installing: None,
            noop: LogIndex::ZERO,
            heartbeat_due: false,
            messages: Vec::new(),
            events: Vec::new(),
            announced: (Role::Follower, hard_state.term, None),
            announced_configuration: log.configuration_version(),
            dropped: 0,
            log,
            config,
        };
        if raft.log.commit() > raft.log.base() {
            raft.events.push(Effect::Committed {
                up_to: raft.log.commit(),
            });
        }
        raft.forget_settled_debt();
        raft.restart_election_timer();
        if raft.is_sole_voter() && raft.may_stand() {
            raft.campaign(false);
        }
        Ok(raft)
    }

    /// Takes note of something that happened. What follows from it comes with the next
    /// [`Raft::take_effects`].
    ///
    /// # Panics
    /// On a bug of the runtime, such as the completion of an operation that was never asked for.
    /// Nonsense from a peer is dropped and counted in [`Status::dropped`].
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::Receive { from, message } => self.receive(from, message),
            Input::Persisted { io } => self.persisted(io),
            Input::ReadIndex { id } => {
                if self.role == Role::Leader {
                    self.reads.push(id);
                }
            }
            Input::PeerLost { peer } => self.peer_lost(peer),
            Input::Cut { up_to } => self.cut(up_to),
            Input::EntriesRead { peer, entries } => self.entries_read(peer, entries),
            Input::SnapshotSent { peer, result } => self.snapshot_sent(peer, result),
            Input::Installed {
                base,
                configuration,
            } => self.installed(base, configuration),
        }
    }

    /// Appends an entry to the log of this leader and returns its index. Proposals of one turn
    /// travel together.
    ///
    /// The entry is committed when [`Effect::Committed`] reaches the index while the term is still
    /// the same; after a change of role its outcome is unknown until the log tells.
    ///
    /// # Errors
    /// This replica does not lead, or hands leadership over. Nothing was appended.
    ///
    /// # Panics
    /// If the payload is longer than [`PAYLOAD_BYTES_MAX`], or the kind is that of a configuration,
    /// which [`Raft::change_membership`] appends.
    pub fn propose(&mut self, kind: EntryKind, payload: Bytes) -> Result<LogIndex, ProposeError> {
        assert!(
            payload.len() <= PAYLOAD_BYTES_MAX,
            "a payload of {} bytes",
            payload.len()
        );
        assert!(
            kind != EntryKind::Configuration,
            "members are not changed by a proposal"
        );
        if self.role != Role::Leader {
            let leader = self.leader;
            return Err(NotLeader { leader }.into());
        }
        if let Some(to) = self.transferring_to() {
            return Err(ProposeError::Transferring { to });
        }
        Ok(self.append_own(kind, payload))
    }

    /// A leader's own next entry.
    fn append_own(&mut self, kind: EntryKind, payload: Bytes) -> LogIndex {
        let index = self.log.last().next();
        let entry = Entry {
            term: self.hard_state.term,
            index,
            kind,
            payload,
        };
        self.log.push(entry.clone());
        self.io.append(None, vec![entry]);
        if kind == EntryKind::Configuration {
            self.configuration_may_have_changed();
        }
        index
    }

    /// Ends the turn: everything to be done because of it, in the order of execution.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        if self.role == Role::Leader {
            self.start_round_if_due();
            self.replicate();
            self.drive_transfer();
        }
        if self.announced_configuration != self.log.configuration_version() {
            self.announced_configuration = self.log.configuration_version();
            let (index, _) = self.log.configuration();
            self.events.push(Effect::ConfigurationChanged { index });
        }
        let messages = std::mem::take(&mut self.messages);
        let (at_once, waiting): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|(_, _, after)| after.is_none());
        let send = |(to, message, after)| Effect::Send { to, message, after };
        let mut effects: Vec<Effect> = at_once.into_iter().map(send).collect();
        effects.extend(self.io.take_pending());
        effects.extend(waiting.into_iter().map(send));
        effects.append(&mut self.events);
        effects
    }

    /// What this replica is and knows now.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            role: self.role,
            term: self.hard_state.term,
            leader: self.leader,
            commit: self.log.commit(),
            last: self.log.last(),
            durable: self.io.durable(),
            base: self.log.base(),
            matched_by_all: self.matched_by_all,
            serving: self.is_serving(),
            debt: self.debt,
            membership: self.membership(),
            configuration_index: self.log.configuration().0,
            transferring_to: self.transferring_to(),
            disk_stalled: self.disk_stalled(),
            lease: self.lease.is_valid(),
            dropped: self.dropped,
        }
    }

    /// An entry, if it is still in memory. Entries above the applied index always are.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.entry(index)
    }

    /// The term of the entry at any index; `None` below the base and beyond the end of the log.
    pub fn entry_term(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// Everything up to `up_to` is applied: once durable it may leave memory if the cache is full.
    ///
    /// # Panics
    /// If `up_to` is not committed yet.
    pub fn applied(&mut self, up_to: LogIndex) {
        self.log.applied(up_to);
        self.evict();
    }

    fn evict(&mut self) {
        self.log.evict(self.io.durable(), self.matched_by_all);
    }

    fn cut(&mut self, up_to: LogIndex) {
        assert!(
            up_to <= self.io.durable(),
            "the log is cut at {up_to}, but only {} is durable",
            self.io.durable()
        );
        self.log.cut(up_to);
    }

    /// Whoever speaks need not be a member by this node's log: the log may be behind (thesis, 4.1).
    /// Votes and acknowledgements count by the configuration of the one who counts.
    fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.config.id || message.term() > Term::MAX {
            self.dropped += 1;
            return;
        }
        match message {
            // A pre-vote and its grant speak of a term that need not come: they never move ours.
            Message::PreVote {
                term,
                last_index,
                last_term,
            } => {
                self.pre_vote_asked(from, term, last_index, last_term);
                self.answer_stranger(from);
            }
            Message::PreVoteReply { term, granted } => self.pre_vote_replied(from, term, granted),
            Message::Vote {
                term,
                last_index,
                last_term,
                by_transfer,
            } => {
                self.vote_asked(from, term, (last_index, last_term), by_transfer);
                self.answer_stranger(from);
            }
            Message::VoteReply { term, granted } => self.vote_replied(from, term, granted),
            Message::Append {
                term,
                prev_index,
                prev_term,
                commit,
                matched_by_all,
                entries,
            } => {
                let takes = self.installing.is_none() || mutation!(EntriesWhileInstalling);
                if self.follow(from, term) && takes {
                    self.append_offered(from, (prev_index, prev_term), commit, entries);
                    self.matched_by_all_heard(matched_by_all);
                }
            }
            Message::Heartbeat {
                term,
                commit,
                matched_by_all,
                round,
            } => {
                if self.follow(from, term) {
                    self.heartbeat_heard(from, commit, round);
                    self.matched_by_all_heard(matched_by_all);
                }
            }
            Message::AppendReply { term, result } => {
                if self.is_reply_to_this_leader(from, term) {
                    self.append_replied(from, result);
                }
            }
            Message::HeartbeatReply { term, round } => {
                if self.is_reply_to_this_leader(from, term) {
                    self.heartbeat_replied(from, round);
                }
                self.answer_stranger(from);
            }
            Message::TimeoutNow { term } => self.told_to_stand(from, term),
            Message::Removed {
                commit,
                commit_term,
                ..
            } => self.removal_heard((commit_term, commit)),
        }
    }

    fn persisted(&mut self, io: IoId) {
        let grew = self.io.persisted(io);
        self.forget_settled_debt();
        match self.role {
            Role::Candidate => self.count_votes(),
            Role::Leader if grew => self.commit_what_a_majority_holds(),
            _ => {}
        }
        self.evict();
    }

    /// The durable log says by itself what the debt says, once it ends there or above.
    fn forget_settled_debt(&mut self) {
        let index = self.io.durable();
        let end = self.log.term(index).map(|term| Debt { term, index });
        if end >= self.debt {
            self.debt = None;
        }
    }

    fn is_serving(&self) -> bool {
        self.role == Role::Leader
            && (self.log.commit() >= self.noop || mutation!(ServesBeforeItsNoop))
    }

    /// Sends something that waits for nothing.
    fn send(&mut self, to: NodeId, message: Message) {
        self.messages.push((to, message, None));
    }

    /// Sends something that speaks of the term or the vote: it waits for the hard state.
    fn send_after_hard_state(&mut self, to: NodeId, message: Message) {
        let after = self.io.after_hard_state();
        self.messages.push((to, message, after));
    }

    /// Acknowledges entries once they are durable. Of several acknowledgements of one turn to one
    /// leader only the highest is sent, because it says everything the others do.
    fn send_acceptance(&mut self, to: NodeId, match_index: LogIndex) {
        let after = self.io.after_index(match_index);
        let term = self.hard_state.term;
        let message = Message::AppendReply {
            term,
            result: AppendResult::Accepted { match_index },
        };
        if let Some((earlier_to, earlier, earlier_after)) = self.messages.last_mut()
            && let Message::AppendReply {
                term: earlier_term,
                result,
            } = earlier
            && let AppendResult::Accepted {
                match_index: earlier_match,
            } = result
            && (*earlier_to, *earlier_term) == (to, term)
        {
            if *earlier_match <= match_index {
                (*earlier, *earlier_after) = (message, after);
            }
            return;
        }
        self.messages.push((to, message, after));
    }

    /// Raises the commit index and tells the caller, once per turn.
    fn commit_to(&mut self, index: LogIndex) {
        if !self.log.commit_to(index) {
            return;
        }
        if let Some(Effect::Committed { up_to }) = self.events.last_mut() {
            *up_to = index;
        } else {
            self.events.push(Effect::Committed { up_to: index });
        }
    }

    /// Tells the caller about the role, the term and the leader, if they changed.
    fn announce(&mut self) {
        let now = (self.role, self.hard_state.term, self.leader);
        if now != self.announced {
            self.announced = now;
            let (role, term, leader) = now;
            self.events.push(Effect::RoleChanged { role, term, leader });
        }
    }
}

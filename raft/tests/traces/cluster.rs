//! The cluster that scripts command: replicas, disks that complete when they are told to, and a
//! network that keeps messages until they are delivered or dropped.

use crate::show;
use bytes::Bytes;
use ringlite_raft::{
    Config, Configuration, Effect, Entry, EntryKind, HardState, Input, IoId, LogBase, LogIndex,
    MemberRole, MembershipChange, Message, NodeId, Raft, ReadId, RestoredLog, SnapshotResult, Term,
    TermRun,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

struct Node {
    config: Config,
    /// None: it is down.
    raft: Option<Raft>,
    hard_state: HardState,
    base: LogBase,
    members_at_base: Configuration,
    /// What is durable, from behind the base.
    log: Vec<Entry>,
    disk: VecDeque<Effect>,
    persisted: IoId,
    held: Vec<(IoId, NodeId, Message)>,
    commit: LogIndex,
}

#[derive(Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    /// In order of sending.
    network: VecDeque<(NodeId, NodeId, Message)>,
    out: String,
}

type Outcome = Result<(), String>;

fn number(word: Option<&&str>) -> Result<u64, String> {
    let word = word.ok_or("a number is missing")?;
    let digits = word.trim_start_matches(|letter: char| letter.is_ascii_alphabetic());
    digits.parse().map_err(|_| format!("{word} is no number"))
}

fn id(word: Option<&&str>) -> Result<NodeId, String> {
    number(word).map(NodeId)
}

fn role(word: Option<&&str>) -> Result<MemberRole, String> {
    match word {
        Some(&"voter") => Ok(MemberRole::Voter),
        Some(&"standby") => Ok(MemberRole::Standby),
        Some(&"spare") => Ok(MemberRole::Spare),
        other => Err(format!("{other:?} is no role")),
    }
}

impl Cluster {
    /// Runs one command and tells what came of it, a line each.
    pub(crate) fn run(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, rest) = words.split_first().ok_or("an empty command")?;
        match *command {
            "cluster" => self.begin(rest)?,
            "join" => self.join(id(rest.first())?),
            "tick" => self.tick(
                id(rest.first())?,
                rest.get(1).map_or(Ok(1), |_| number(rest.get(1)))?,
            )?,
            "timeout" => self.timeout(id(rest.first())?)?,
            "persist" => self.persist(
                id(rest.first())?,
                rest.get(1).map(|_| number(rest.get(1))).transpose()?,
            )?,
            "deliver" => self.deliver(rest)?,
            "repeat" => self.repeat(rest)?,
            "drop" => self.lose(rest)?,
            "settle" => self.settle(rest)?,
            "propose" => {
                let text = rest.get(1..).unwrap_or_default().join(" ");
                let payload = Bytes::from(text.into_bytes());
                self.with(id(rest.first())?, |raft| {
                    raft.propose(EntryKind::Data, payload)
                        .map_err(|error| error.to_string())?;
                    Ok(())
                })?;
            }
            "read" => {
                let read = ReadId(number(rest.get(1))?);
                self.step(id(rest.first())?, Input::ReadIndex { id: read })?;
            }
            "change" => self.change(rest)?,
            "transfer" => {
                let to = rest.get(1).map(|_| id(rest.get(1))).transpose()?;
                self.with(id(rest.first())?, |raft| {
                    raft.transfer(to).map_err(|error| error.to_string())?;
                    Ok(())
                })?;
            }
            "lost" => {
                let peer = id(rest.get(1))?;
                self.step(id(rest.first())?, Input::PeerLost { peer })?;
            }
            "cut" => {
                let (node, up_to) = (id(rest.first())?, LogIndex(number(rest.get(1))?));
                self.cut(node, up_to)?;
            }
            "snapshot" => self.snapshot(id(rest.first())?, id(rest.get(1))?)?,
            "crash" => self.crash(id(rest.first())?)?,
            "restart" => self.restart(id(rest.first())?)?,
            "status" => self.status(),
            other => return Err(format!("there is no command {other}")),
        }
        let out = std::mem::take(&mut self.out);
        Ok(if out.is_empty() {
            "ok\n".to_owned()
        } else {
            out
        })
    }

    /// `cluster 3 [stall=N] [lease=N] [lag=N] [append=N]`: nodes 1 to 3, all voters.
    fn begin(&mut self, rest: &[&str]) -> Outcome {
        let size = number(rest.first())?;
        let voters: Vec<NodeId> = (1..=size).map(NodeId).collect();
        for &node in &voters {
            let mut config = Config::new(node, voters.clone(), node.0);
            for option in rest.get(1..).unwrap_or_default() {
                let (name, value) = option.split_once('=').ok_or("name=value")?;
                let value = number(Some(&value))?;
                match name {
                    "stall" => config.disk_stall_ticks = value as u32,
                    "lease" => config.lease_ticks = value as u32,
                    // One entry per message.
                    "append" => config.append_bytes_max = value as usize,
                    "lag" => config.lag_entries_max = value,
                    other => return Err(format!("there is no option {other}")),
                }
            }
            self.add(config);
        }
        Ok(())
    }

    /// A node that waits to be added.
    fn join(&mut self, node: NodeId) {
        let mut config = Config::new(node, vec![node], node.0);
        config.bootstrap = Configuration::default();
        self.add(config);
    }

    fn add(&mut self, config: Config) {
        let (id, own) = (config.id, config.clone());
        let raft = Raft::new(own, HardState::default(), RestoredLog::default());
        let node = Node {
            raft: Some(raft.expect("a good start")),
            hard_state: HardState::default(),
            base: LogBase::default(),
            members_at_base: Configuration::default(),
            log: Vec::new(),
            disk: VecDeque::new(),
            persisted: IoId(0),
            held: Vec::new(),
            commit: LogIndex::ZERO,
            config,
        };
        self.nodes.insert(id, node);
    }

    fn node(&mut self, node: NodeId) -> Result<&mut Node, String> {
        self.nodes
            .get_mut(&node)
            .ok_or(format!("there is no {node}"))
    }

    fn with(&mut self, node: NodeId, act: impl FnOnce(&mut Raft) -> Outcome) -> Outcome {
        let raft = self.node(node)?.raft.as_mut().ok_or("it is down")?;
        if let Err(refusal) = act(raft) {
            let _ = writeln!(self.out, "{node} refuses: {refusal}");
        }
        self.flush(node)
    }

    fn step(&mut self, node: NodeId, input: Input) -> Outcome {
        self.with(node, |raft| {
            raft.step(input);
            Ok(())
        })
    }

    /// Ends a turn.
    fn flush(&mut self, at: NodeId) -> Outcome {
        let node = self.node(at)?;
        let Some(raft) = &mut node.raft else {
            return Ok(());
        };
        raft.check_invariants();
        let effects = raft.take_effects();
        raft.check_invariants();
        let commit = raft.status().commit;
        let mut sent = Vec::new();
        let mut lines = String::new();
        for effect in effects {
            let _ = writeln!(lines, "{at} {}", show::effect(&effect));
            match effect {
                Effect::Send {
                    to,
                    message,
                    after: Some(io),
                } if io > node.persisted => node.held.push((io, to, message)),
                Effect::Send { to, message, .. } => sent.push((at, to, message)),
                Effect::SaveHardState { .. } | Effect::Append { .. } => node.disk.push_back(effect),
                Effect::Committed { up_to } => raft.applied(up_to),
                _ => {}
            }
        }
        node.commit = node.commit.max(commit);
        self.network.extend(sent);
        self.out += &lines;
        Ok(())
    }

    fn tick(&mut self, node: NodeId, count: u64) -> Outcome {
        for _ in 0..count {
            self.step(node, Input::Tick)?;
        }
        Ok(())
    }

    /// Ticks until the node asks for (pre-)votes.
    fn timeout(&mut self, node: NodeId) -> Outcome {
        let asked = |cluster: &Cluster| {
            let mut messages = cluster.network.iter();
            messages.any(|(from, _, message)| {
                let asks = matches!(message, Message::PreVote { .. } | Message::Vote { .. });
                *from == node && asks
            })
        };
        if asked(self) {
            return Err("it has asked already".to_owned());
        }
        for _ in 0..100 {
            self.step(node, Input::Tick)?;
            if asked(self) {
                return Ok(());
            }
        }
        Err("nothing happened within 100 ticks".to_owned())
    }

    /// Completes disk operations: all, or those up to one. An operation that a later one voids may
    /// be completed late like any other.
    fn persist(&mut self, at: NodeId, up_to: Option<u64>) -> Outcome {
        let node = self.node(at)?;
        let mut done = None;
        while let Some(effect) = node.disk.front() {
            let (Effect::SaveHardState { io, .. } | Effect::Append { io, .. }) = effect else {
                unreachable!("only disk operations wait here")
            };
            if up_to.is_some_and(|up_to| io.0 > up_to) {
                break;
            }
            done = Some(*io);
            match node.disk.pop_front() {
                Some(Effect::SaveHardState { hard_state, .. }) => node.hard_state = hard_state,
                Some(Effect::Append {
                    truncate_from,
                    entries,
                    ..
                }) => {
                    if let Some(from) = truncate_from {
                        node.log.retain(|entry| entry.index < from);
                    }
                    node.log.extend(entries);
                }
                _ => {}
            }
        }
        let Some(io) = done else {
            return Ok(());
        };
        node.persisted = io;
        let (ready, held) = std::mem::take(&mut node.held)
            .into_iter()
            .partition(|(after, _, _)| *after <= io);
        node.held = held;
        let ready: Vec<_> = ready;
        let ready = ready.into_iter().map(|(_, to, message)| (at, to, message));
        self.network.extend(ready);
        self.step(at, Input::Persisted { io })
    }

    /// The places of messages on a link: `TO`, or `FROM->TO`.
    fn on_link(&self, word: Option<&&str>) -> Result<Vec<usize>, String> {
        let word = word.ok_or("a link is missing")?;
        let (from, to) = match word.split_once("->") {
            Some((from, to)) => (Some(id(Some(&from))?), id(Some(&to))?),
            None => (None, id(Some(word))?),
        };
        let messages = self.network.iter().enumerate();
        let found = messages.filter(|(_, (sender, receiver, _))| {
            *receiver == to && from.is_none_or(|from| from == *sender)
        });
        Ok(found.map(|(at, _)| at).collect())
    }

    /// Delivers what is under way on a link: all, or the first so many.
    fn deliver(&mut self, rest: &[&str]) -> Outcome {
        let places = self.on_link(rest.first())?;
        let count = rest
            .get(1)
            .map_or(Ok(places.len() as u64), |_| number(rest.get(1)))?;
        for (taken, place) in places.into_iter().take(count as usize).enumerate() {
            if let Some((from, to, message)) = self.network.remove(place - taken) {
                self.arrive(from, to, message)?;
            }
        }
        Ok(())
    }

    fn arrive(&mut self, from: NodeId, to: NodeId, message: Message) -> Outcome {
        if self.node(to)?.raft.is_none() {
            return Ok(());
        }
        let text = show::message(&message);
        let _ = writeln!(self.out, "{from} => {to}: {text}");
        self.step(to, Input::Receive { from, message })
    }

    /// Doubles what is under way on a link: the copies arrive last.
    fn repeat(&mut self, rest: &[&str]) -> Outcome {
        for place in self.on_link(rest.first())? {
            let copy = self.network[place].clone();
            self.network.push_back(copy);
        }
        Ok(())
    }

    fn lose(&mut self, rest: &[&str]) -> Outcome {
        for (taken, place) in self.on_link(rest.first())?.into_iter().enumerate() {
            self.network.remove(place - taken);
        }
        Ok(())
    }

    /// Completes disk operations and delivers messages until nothing is left to do: of all nodes, or
    /// of some, between whom and the others everything is lost.
    fn settle(&mut self, rest: &[&str]) -> Outcome {
        let some: Vec<NodeId> = rest
            .iter()
            .map(|word| id(Some(word)))
            .collect::<Result<_, _>>()?;
        let all = self.nodes.keys().copied();
        let nodes: Vec<NodeId> = all
            .filter(|node| some.is_empty() || some.contains(node))
            .collect();
        for _ in 0..100 {
            for &node in &nodes {
                if self.node(node)?.raft.is_some() {
                    self.persist(node, None)?;
                }
            }
            let under_way = std::mem::take(&mut self.network);
            let mut idle = true;
            for (from, to, message) in under_way {
                match (nodes.contains(&from), nodes.contains(&to)) {
                    (true, true) => {
                        idle = false;
                        self.arrive(from, to, message)?;
                    }
                    (false, false) => self.network.push_back((from, to, message)),
                    _ => {}
                }
            }
            let mut disks = nodes.iter().filter_map(|node| self.nodes.get(node));
            if idle && disks.all(|node| node.disk.is_empty()) {
                return Ok(());
            }
        }
        Err("it does not settle".to_owned())
    }

    /// `change LEADER add|role|remove NODE [ROLE]`
    fn change(&mut self, rest: &[&str]) -> Outcome {
        let member = id(rest.get(2))?;
        let change = match rest.get(1) {
            Some(&"add") => MembershipChange::Add {
                id: member,
                role: role(rest.get(3))?,
                context: Bytes::new(),
            },
            Some(&"role") => MembershipChange::SetRole {
                id: member,
                role: role(rest.get(3))?,
            },
            Some(&"remove") => MembershipChange::Remove { id: member },
            other => return Err(format!("{other:?} is no change")),
        };
        self.with(id(rest.first())?, |raft| {
            raft.change_membership(&change)
                .map_err(|error| error.to_string())?;
            Ok(())
        })
    }

    fn cut(&mut self, at: NodeId, up_to: LogIndex) -> Outcome {
        let node = self.node(at)?;
        let raft = node.raft.as_mut().ok_or("it is down")?;
        node.members_at_base = raft.configuration_at(up_to).ok_or("no such entry")?.clone();
        node.base = LogBase {
            index: up_to,
            term: raft.entry_term(up_to).ok_or("no such entry")?,
        };
        node.log.retain(|entry| entry.index > up_to);
        self.step(at, Input::Cut { up_to })
    }

    /// A snapshot of what the sender has applied arrives, and is installed at once.
    fn snapshot(&mut self, from: NodeId, to: NodeId) -> Outcome {
        let sender = self.node(from)?.raft.as_ref().ok_or("it is down")?;
        let index = sender.status().commit;
        let base = LogBase {
            index,
            term: sender.entry_term(index).ok_or("no such entry")?,
        };
        let configuration = sender
            .configuration_at(index)
            .ok_or("no such entry")?
            .clone();
        let node = self.node(to)?;
        let raft = node.raft.as_mut().ok_or("it is down")?;
        let result = match raft.begin_install(base) {
            Ok(()) => {
                node.base = base;
                node.members_at_base = configuration.clone();
                node.log.clear();
                node.commit = base.index;
                self.step(
                    to,
                    Input::Installed {
                        base,
                        configuration,
                    },
                )?;
                SnapshotResult::Installed { base: index }
            }
            Err(refusal) => {
                let _ = writeln!(self.out, "{to} refuses: {refusal}");
                SnapshotResult::Failed
            }
        };
        self.step(from, Input::SnapshotSent { peer: to, result })
    }

    /// What is not durable is gone.
    fn crash(&mut self, at: NodeId) -> Outcome {
        let node = self.node(at)?;
        node.raft = None;
        node.disk.clear();
        node.held.clear();
        node.persisted = IoId(0);
        Ok(())
    }

    fn restart(&mut self, at: NodeId) -> Outcome {
        self.crash(at)?;
        let node = self.node(at)?;
        let last = node.log.last().map_or(node.base.index, |entry| entry.index);
        let commit = node.commit.min(last).max(node.base.index);
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &node.log {
            if runs.last().map_or(Term(0), |run| run.term) < entry.term {
                let (first, term) = (entry.index, entry.term);
                runs.push(TermRun { first, term });
            }
        }
        let configurations = node.log.iter();
        let configurations = configurations.filter(|entry| entry.kind == EntryKind::Configuration);
        let log = RestoredLog {
            base: node.base,
            runs,
            last,
            commit,
            configurations: configurations.cloned().collect(),
            tail: node.log.clone(),
            configuration: node.members_at_base.clone(),
            debt: None,
        };
        let raft = Raft::new(node.config.clone(), node.hard_state, log);
        node.raft = Some(raft.map_err(|error| error.to_string())?);
        self.flush(at)
    }

    fn status(&mut self) {
        for (id, node) in &self.nodes {
            let Some(raft) = &node.raft else {
                let _ = writeln!(self.out, "{id} is down");
                continue;
            };
            let status = raft.status();
            let members = show::members(raft.configuration());
            let _ = write!(
                self.out,
                "{id} {} {} last={} durable={} commit={} members={members}",
                status.role, status.term, status.last, status.durable, status.commit
            );
            for (holds, text) in [
                (status.serving, " serving"),
                (status.lease, " lease"),
                (status.disk_stalled, " disk hangs"),
                (status.dropped > 0, " dropped"),
            ] {
                self.out += if holds { text } else { "" };
            }
            let _ = writeln!(self.out, " {:?}", status.membership);
        }
    }
}

//! Hands messages to replicas and looks at what comes out.

use bytes::Bytes;
use ringlite_raft::{
    AppendResult, Config, ConfigError, Conflict, Debt, Effect, Entry, EntryKind, HardState, Input,
    LogBase, LogIndex, Message, NodeId, Raft, RestoredLog, Role, Term, TermRun,
};

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const C: NodeId = NodeId(3);

pub(crate) fn entry(index: u64, term: u64) -> Entry {
    let payload = Bytes::from(index.to_le_bytes().to_vec());
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Data,
        payload,
    }
}

/// A node of three that restarts with a log of these terms, at the term of its last entry.
pub(crate) fn restarted(id: NodeId, terms: &[u64], commit: u64) -> Raft {
    started_with(Config::new(id, vec![A, B, C], 5), terms, commit)
}

/// The same, behind the entry of index `base`.
pub(crate) fn restarted_behind(id: NodeId, base: u64, terms: &[u64], commit: u64) -> Raft {
    started_behind(Config::new(id, vec![A, B, C], 5), base, terms, commit)
}

pub(crate) fn started_with(config: Config, terms: &[u64], commit: u64) -> Raft {
    started_behind(config, 0, terms, commit)
}

fn started_behind(config: Config, base: u64, terms: &[u64], commit: u64) -> Raft {
    started_owing(config, base, terms, commit, None).expect("a good start")
}

/// A node whose log was damaged: it ends with these terms, and may have been acknowledged up to `debt`.
pub(crate) fn started_owing(
    config: Config,
    base: u64,
    terms: &[u64],
    commit: u64,
    debt: Option<Debt>,
) -> Result<Raft, ConfigError> {
    #[cfg(feature = "mutations")]
    if let Ok(name) = std::env::var("RINGLITE_MUTATION") {
        ringlite_raft::mutation::switch_on(&name);
    }
    let tail: Vec<Entry> = (1..)
        .zip(terms)
        .skip(base as usize)
        .map(|(index, &term)| entry(index, term))
        .collect();
    let base = LogBase {
        index: LogIndex(base),
        term: Term(base.checked_sub(1).map_or(0, |at| terms[at as usize])),
    };
    let mut runs: Vec<TermRun> = Vec::new();
    for entry in &tail {
        if runs.last().is_none_or(|run| run.term < entry.term) {
            runs.push(TermRun {
                first: entry.index,
                term: entry.term,
            });
        }
    }
    let last = LogIndex(terms.len() as u64);
    let hard_state = HardState {
        term: debt
            .map_or(Term(0), |debt| debt.term)
            .max(Term(terms.last().copied().unwrap_or(0))),
        vote: None,
    };
    let log = RestoredLog {
        base,
        runs,
        last,
        commit: LogIndex(commit),
        tail,
        debt,
        configuration: config.bootstrap.clone(),
        ..RestoredLog::default()
    };
    Raft::new(config, hard_state, log)
}

pub(crate) fn receive(raft: &mut Raft, from: NodeId, message: Message) {
    raft.step(Input::Receive { from, message });
    raft.check_invariants();
}

/// Ends the turn; everything it asks of the disk becomes durable at once.
pub(crate) fn turn(raft: &mut Raft) -> Vec<Effect> {
    let mut all = Vec::new();
    loop {
        let effects = raft.take_effects();
        let newest = effects.iter().filter_map(|effect| match effect {
            Effect::SaveHardState { io, .. } | Effect::Append { io, .. } => Some(*io),
            _ => None,
        });
        let newest = newest.max();
        let quiet = effects.is_empty();
        all.extend(effects);
        if let Some(io) = newest {
            raft.step(Input::Persisted { io });
        }
        raft.check_invariants();
        if quiet {
            return all;
        }
    }
}

pub(crate) fn messages(effects: &[Effect], peer: NodeId) -> Vec<Message> {
    let to_peer = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message, .. } if *to == peer => Some(message.clone()),
        _ => None,
    });
    to_peer.collect()
}

pub(crate) fn committed(effects: &[Effect]) -> Option<u64> {
    let commits = effects.iter().filter_map(|effect| match effect {
        Effect::Committed { up_to } => Some(up_to.0),
        _ => None,
    });
    commits.max()
}

pub(crate) fn tick_until(raft: &mut Raft, role: Role) -> Vec<Effect> {
    let mut effects = Vec::new();
    for _ in 0..200 {
        if raft.status().role == role {
            return effects;
        }
        raft.step(Input::Tick);
        effects.extend(turn(raft));
    }
    panic!("no {role} after 200 ticks");
}

/// Makes the node leader of the next term with the vote of `voter`; its no-op is durable here only.
pub(crate) fn elect(raft: &mut Raft, voter: NodeId) -> Vec<Effect> {
    tick_until(raft, Role::PreCandidate);
    let term = raft.status().term.next();
    receive(
        raft,
        voter,
        Message::PreVoteReply {
            term,
            granted: true,
        },
    );
    turn(raft);
    receive(
        raft,
        voter,
        Message::VoteReply {
            term,
            granted: true,
        },
    );
    assert_eq!(raft.status().role, Role::Leader);
    turn(raft)
}

pub(crate) fn accept(raft: &mut Raft, from: NodeId, index: u64) {
    let term = raft.status().term;
    let result = AppendResult::Accepted {
        match_index: LogIndex(index),
    };
    receive(raft, from, Message::AppendReply { term, result });
}

pub(crate) fn append(term: u64, prev: (u64, u64), commit: u64, terms: &[u64]) -> Message {
    Message::Append {
        term: Term(term),
        prev_index: LogIndex(prev.0),
        prev_term: Term(prev.1),
        commit: LogIndex(commit),
        matched_by_all: LogIndex(0),
        entries: (prev.0 + 1..)
            .zip(terms)
            .map(|(index, &term)| entry(index, term))
            .collect(),
    }
}

/// A follower's rejection of an append behind `prev`, with its hint (index, term, first index).
pub(crate) fn reject(raft: &mut Raft, from: NodeId, prev: u64, hint: (u64, u64, u64)) {
    let (index, term, first) = (LogIndex(hint.0), Term(hint.1), LogIndex(hint.2));
    let conflict = Conflict { index, term, first };
    let result = AppendResult::Rejected {
        prev_index: LogIndex(prev),
        conflict,
    };
    let term = raft.status().term;
    receive(raft, from, Message::AppendReply { term, result });
}

//! Members that come, go and change their roles.

use crate::script::{
    A, B, C, accept, append, committed, elect, messages, receive, restarted, started_with,
    tick_until, turn,
};
use bytes::Bytes;
use ringlite_raft::{
    ChangeError, Config, Configuration, Effect, Entry, EntryKind, Input, LogBase, LogIndex, Member,
    MemberRole, Membership, MembershipChange, Message, Mode, NodeId, Raft, RestoredLog, Role, Term,
};

const D: NodeId = NodeId(4);

fn add(id: NodeId, role: MemberRole) -> MembershipChange {
    let context = Bytes::from_static(b"somewhere");
    MembershipChange::Add { id, role, context }
}

fn promote(id: NodeId) -> MembershipChange {
    let role = MemberRole::Voter;
    MembershipChange::SetRole { id, role }
}

/// A leads A, B and C in term 2, and its no-op at index 2 is committed.
fn serving() -> Raft {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    accept(&mut a, B, 2);
    accept(&mut a, C, 2);
    turn(&mut a);
    assert!(a.status().serving);
    a
}

fn roles(raft: &Raft) -> Vec<(u64, MemberRole)> {
    let members = raft.configuration().members().iter();
    members.map(|member| (member.id.0, member.role)).collect()
}

fn configuration_entry(index: u64, term: u64, members: &[(u64, MemberRole)]) -> Entry {
    let members = members.iter().map(|&(id, role)| Member {
        id: NodeId(id),
        role,
        context: Bytes::new(),
    });
    let configuration = Configuration::new(members.collect()).expect("a configuration");
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Configuration,
        payload: configuration.encode(),
    }
}

#[test]
fn a_standby_gets_the_log_and_counts_for_nothing_until_it_is_promoted() {
    let mut a = serving();
    let index = a.change_membership(&add(D, MemberRole::Standby));
    assert_eq!(index, Ok(LogIndex(3)));
    let effects = turn(&mut a);
    let changed = Effect::ConfigurationChanged { index: LogIndex(3) };
    assert!(effects.contains(&changed), "it counts at once");
    assert!(!messages(&effects, D).is_empty(), "the log is sent to it");
    let again = a.change_membership(&promote(D));
    let in_progress = ChangeError::InProgress { index: LogIndex(3) };
    assert_eq!(again, Err(in_progress));
    accept(&mut a, D, 3);
    assert_eq!(a.status().commit, LogIndex(2), "a standby commits nothing");
    accept(&mut a, B, 3);
    assert_eq!(a.status().commit, LogIndex(3));
    assert_eq!(a.change_membership(&promote(D)), Ok(LogIndex(4)));
    turn(&mut a);
    // Four voters: a majority has three members.
    accept(&mut a, D, 4);
    assert_eq!(a.status().commit, LogIndex(3));
    accept(&mut a, C, 4);
    assert_eq!(a.status().commit, LogIndex(4));
    let voters: Vec<NodeId> = a.configuration().voters().collect();
    assert_eq!(voters, [A, B, C, D]);
    let before = a.configuration_at(LogIndex(2)).expect("in the log");
    assert_eq!(before.role(D), None);
}

#[test]
fn a_spare_hears_heartbeats_and_gets_no_log() {
    let mut a = serving();
    a.change_membership(&add(D, MemberRole::Spare))
        .expect("room");
    assert!(messages(&turn(&mut a), D).is_empty());
    accept(&mut a, B, 3);
    for _ in 0..5 {
        a.step(Input::Tick);
    }
    let heard = messages(&turn(&mut a), D);
    assert!(
        matches!(
            heard.as_slice(),
            [Message::Heartbeat {
                commit: LogIndex(0),
                ..
            }]
        ),
        "{heard:?}"
    );
    let role = MemberRole::Standby;
    a.change_membership(&MembershipChange::SetRole { id: D, role })
        .expect("another role");
    let heard = messages(&turn(&mut a), D);
    assert!(
        matches!(heard.as_slice(), [Message::Append { .. }]),
        "{heard:?}"
    );
}

#[test]
fn nothing_changes_before_an_entry_of_the_own_term_is_committed() {
    // Ongaro, raft-dev 2015: without this rule two leaders may each commit a change with a majority
    // of its own.
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    let change = add(D, MemberRole::Standby);
    assert_eq!(a.change_membership(&change), Err(ChangeError::NotServing));
    accept(&mut a, B, 2);
    assert_eq!(a.change_membership(&change), Ok(LogIndex(3)));
    let mut b = restarted(B, &[1], 1);
    let refused = b.change_membership(&change).expect_err("a follower");
    assert_eq!(refused.to_string(), "this node does not lead");
}

#[test]
fn a_member_that_lags_or_is_silent_is_not_promoted() {
    let mut config = Config::new(A, vec![A, B, C], 5);
    config.lag_entries_max = 2;
    let mut a = started_with(config, &[1], 1);
    elect(&mut a, B);
    accept(&mut a, B, 2);
    a.change_membership(&add(D, MemberRole::Standby))
        .expect("room");
    turn(&mut a);
    accept(&mut a, B, 3);
    let lagging = a
        .change_membership(&promote(D))
        .expect_err("it has nothing");
    assert_eq!(
        lagging.to_string(),
        "the member cannot be made a voter: n4 holds the log up to i0 only, and the end is i3: let \
         it catch up first"
    );
    accept(&mut a, D, 1);
    for _ in 0..25 {
        a.step(Input::Tick);
        accept(&mut a, B, 3);
    }
    let silent = a.change_membership(&promote(D)).expect_err("it is gone");
    assert!(
        silent
            .to_string()
            .contains("not been heard from for 25 ticks")
    );
    accept(&mut a, D, 1);
    assert_eq!(a.change_membership(&promote(D)), Ok(LogIndex(4)));
}

#[test]
fn a_truncated_change_goes_back() {
    use MemberRole::{Standby, Voter};
    let mut b = restarted(B, &[1], 1);
    let mut message = append(2, (1, 1), 1, &[2, 2]);
    let added = [(1, Voter), (2, Voter), (3, Voter), (4, Standby)];
    if let Message::Append { entries, .. } = &mut message {
        entries[1] = configuration_entry(3, 2, &added);
    }
    receive(&mut b, A, message);
    let effects = turn(&mut b);
    assert!(effects.contains(&Effect::ConfigurationChanged { index: LogIndex(3) }));
    assert_eq!(roles(&b), added);
    // C leads term 3 and knows nothing of it.
    receive(&mut b, C, append(3, (2, 2), 2, &[3]));
    let effects = turn(&mut b);
    assert!(effects.contains(&Effect::ConfigurationChanged { index: LogIndex(0) }));
    assert_eq!(roles(&b), added[..3]);
}

#[test]
fn bytes_that_are_no_configuration_are_dropped_before_they_reach_the_log() {
    let mut b = restarted(B, &[1], 1);
    let mut message = append(2, (1, 1), 1, &[2, 2]);
    if let Message::Append { entries, .. } = &mut message {
        entries[1].kind = EntryKind::Configuration;
    }
    receive(&mut b, A, message);
    assert_eq!((b.status().last, b.status().dropped), (LogIndex(1), 1));
}

#[test]
fn a_leader_that_removes_itself_leads_until_that_is_committed_and_hands_over() {
    let mut a = serving();
    a.change_membership(&MembershipChange::Remove { id: A })
        .expect("two others stay");
    turn(&mut a);
    // Of two voters both are needed, and the leader is none of them (thesis, 4.2.2).
    accept(&mut a, B, 3);
    assert_eq!(
        (a.status().commit, a.status().role),
        (LogIndex(2), Role::Leader)
    );
    accept(&mut a, C, 3);
    let effects = turn(&mut a);
    assert_eq!(committed(&effects), Some(3));
    assert_eq!(
        (a.status().role, a.status().membership),
        (Role::Follower, Membership::Removed)
    );
    let told = messages(&effects, B);
    assert!(
        matches!(
            told.as_slice(),
            [
                Message::Heartbeat {
                    commit: LogIndex(3),
                    ..
                },
                Message::TimeoutNow { term: Term(2) }
            ]
        ),
        "{told:?}"
    );
    for _ in 0..500 {
        a.step(Input::Tick);
    }
    assert_eq!(
        (a.status().role, a.status().term),
        (Role::Follower, Term(2))
    );
}

#[test]
fn a_removed_node_is_told_and_stops_campaigning() {
    // C was down when it was removed.
    let mut a = serving();
    a.change_membership(&MembershipChange::Remove { id: C })
        .expect("two others stay");
    turn(&mut a);
    accept(&mut a, B, 3);
    let told = messages(&turn(&mut a), C);
    assert!(
        matches!(told.as_slice(), [Message::Removed { .. }]),
        "told at once: {told:?}"
    );
    let mut c = restarted(C, &[1], 1);
    let asked = messages(&tick_until(&mut c, Role::PreCandidate), A);
    receive(&mut a, C, asked[0].clone());
    for answer in messages(&turn(&mut a), C) {
        receive(&mut c, A, answer);
    }
    assert_eq!(
        (c.status().membership, c.status().role),
        (Membership::Removed, Role::Follower)
    );
    for _ in 0..500 {
        c.step(Input::Tick);
    }
    let effects = turn(&mut c);
    assert!(messages(&effects, A).is_empty() && messages(&effects, B).is_empty());
    assert_eq!(a.status().role, Role::Leader);
}

#[test]
fn a_member_does_not_believe_somebody_who_is_behind() {
    use MemberRole::{Standby, Voter};
    let mut d = Config::new(D, Vec::new(), 5);
    d.bootstrap = Configuration::default();
    let mut d = Raft::new(d, Default::default(), RestoredLog::default()).expect("a joiner");
    assert_eq!(d.status().membership, Membership::Outside);
    for _ in 0..200 {
        d.step(Input::Tick);
    }
    assert_eq!(d.status().role, Role::Follower, "it waits to be added");
    assert!(turn(&mut d).is_empty());
    let mut message = append(2, (0, 0), 0, &[1, 2, 2]);
    let added = [(1, Voter), (2, Voter), (3, Voter), (4, Standby)];
    if let Message::Append { entries, .. } = &mut message {
        entries[2] = configuration_entry(3, 2, &added);
    }
    receive(&mut d, A, message);
    turn(&mut d);
    assert_eq!(d.status().membership, Membership::Member(Standby));
    let told = |commit, term| Message::Removed {
        term: Term(2),
        commit: LogIndex(commit),
        commit_term: Term(term),
    };
    receive(&mut d, B, told(2, 2));
    assert_eq!(d.status().membership, Membership::Member(Standby));
    // A standby asks, when it hears no leader, and is answered if it is none any more.
    for _ in 0..200 {
        d.step(Input::Tick);
    }
    assert!(!messages(&turn(&mut d), B).is_empty());
    receive(&mut d, B, told(9, 2));
    assert_eq!(d.status().membership, Membership::Removed);
}

#[test]
fn a_restart_knows_its_members_from_the_base_and_the_log() {
    use MemberRole::{Standby, Voter};
    let at_base = Configuration::of_voters([A, B]).expect("two voters");
    let entry = configuration_entry(4, 2, &[(1, Voter), (2, Voter), (3, Standby)]);
    let log = || RestoredLog {
        base: LogBase {
            index: LogIndex(3),
            term: Term(2),
        },
        runs: vec![ringlite_raft::TermRun {
            first: LogIndex(4),
            term: Term(2),
        }],
        last: LogIndex(4),
        commit: LogIndex(4),
        configuration: at_base.clone(),
        configurations: vec![entry.clone()],
        ..RestoredLog::default()
    };
    let hard_state = ringlite_raft::HardState {
        term: Term(2),
        vote: None,
    };
    let config = || Config::new(A, vec![A, B, C], 5);
    let a = Raft::new(config(), hard_state, log()).expect("a good start");
    assert_eq!(roles(&a), [(1, Voter), (2, Voter), (3, Standby)]);
    assert_eq!(a.configuration_at(LogIndex(3)), Some(&at_base));
    assert_eq!(a.status().configuration_index, LogIndex(4));
    let check = |change: fn(&mut RestoredLog), text: &str| {
        let mut log = log();
        change(&mut log);
        let error = Raft::new(config(), hard_state, log).expect_err(text);
        assert_eq!(error.to_string(), text);
    };
    check(
        |log| log.configurations[0].index = LogIndex(3),
        "the entry at i3 is no configuration of this log",
    );
    check(
        |log| log.configurations[0].payload = Bytes::from_static(b"x"),
        "the configuration at i4 cannot be restored: the bytes are no configuration: the field \
         \"header\" is wrong",
    );
}

#[test]
fn a_snapshot_takes_the_place_of_the_log() {
    let mut b = restarted(B, &[1, 1, 2], 1);
    let base = |index, term| LogBase {
        index: LogIndex(index),
        term: Term(term),
    };
    let refused = |b: &mut Raft, base: LogBase| {
        let error = b.begin_install(base).expect_err("a refusal");
        error.to_string()
    };
    assert_eq!(
        refused(&mut b, base(3, 2)),
        "this node has everything up to i3 already"
    );
    assert_eq!(
        refused(&mut b, base(1, 1)),
        "this node has everything up to i1 already"
    );
    assert!(refused(&mut b, base(9, 5)).contains("not durable there yet"));
    let heartbeat = Message::Heartbeat {
        term: Term(5),
        commit: LogIndex(0),
        matched_by_all: LogIndex(0),
        round: 1,
    };
    receive(&mut b, A, heartbeat);
    assert!(
        refused(&mut b, base(9, 5)).contains("not durable there yet"),
        "not written yet"
    );
    turn(&mut b);
    assert_eq!(b.begin_install(base(9, 5)), Ok(()));
    // Nothing is acknowledged that is about to vanish.
    receive(&mut b, A, append(5, (3, 2), 1, &[5]));
    assert!(messages(&turn(&mut b), A).is_empty());
    let configuration = Configuration::of_voters([A, B, D]).expect("three voters");
    b.step(Input::Installed {
        base: base(9, 5),
        configuration: configuration.clone(),
    });
    b.check_invariants();
    let status = b.status();
    assert_eq!(
        (status.base, status.last, status.commit),
        (LogIndex(9), LogIndex(9), LogIndex(9))
    );
    assert_eq!((status.durable, status.term), (LogIndex(9), Term(5)));
    assert_eq!(b.configuration(), &configuration);
    let effects = turn(&mut b);
    assert!(effects.contains(&Effect::ConfigurationChanged { index: LogIndex(9) }));
    receive(&mut b, A, append(5, (9, 5), 10, &[5]));
    assert_eq!(committed(&turn(&mut b)), Some(10));
}

#[test]
fn a_peer_whose_entries_cannot_be_read_gets_a_snapshot() {
    let mut config = Config::new(A, vec![A, B, C], 5);
    config.log_cache_bytes_max = 0;
    let mut a = started_with(config, &[1, 1, 1], 3);
    a.applied(LogIndex(3));
    elect(&mut a, B);
    accept(&mut a, C, 1);
    let mut reads = 0;
    let mut asked = false;
    for _ in 0..100 {
        let effects = turn(&mut a);
        asked |= effects.contains(&Effect::SendSnapshot { peer: C });
        for effect in effects {
            if let Effect::ReadEntries { peer, .. } = effect {
                reads += 1;
                let entries = Vec::new();
                a.step(Input::EntriesRead { peer, entries });
            }
        }
        accept(&mut a, C, 1);
        a.step(Input::Tick);
    }
    assert_eq!((reads, asked), (20, true));
    let mode = a.peers().find(|peer| peer.id == C).map(|peer| peer.mode);
    assert_eq!(mode, Some(Mode::Snapshot));
}

#[test]
fn a_leader_whose_own_demotion_is_not_committed_can_be_elected_again() {
    // The simulator found it: A and B vote, A demotes itself and crashes before B has the entry. B's
    // log is shorter, so that A does not vote for it; and A, by its own log, votes no longer. If it
    // did not stand either, nobody would ever lead again (thesis, figure 4.6).
    use MemberRole::{Standby, Voter};
    let mut a = Raft::new(
        Config::new(A, vec![A, B], 5),
        ringlite_raft::HardState {
            term: Term(1),
            vote: None,
        },
        RestoredLog {
            runs: vec![ringlite_raft::TermRun {
                first: LogIndex(1),
                term: Term(1),
            }],
            last: LogIndex(2),
            commit: LogIndex(1),
            tail: vec![configuration_entry(2, 1, &[(1, Standby), (2, Voter)])],
            ..RestoredLog::default()
        },
    )
    .expect("a good start");
    tick_until(&mut a, Role::PreCandidate);
    let granted = true;
    let term = Term(2);
    receive(&mut a, B, Message::PreVoteReply { term, granted });
    turn(&mut a);
    assert_eq!(
        a.status().role,
        Role::Candidate,
        "its own vote is not needed"
    );
    receive(&mut a, B, Message::VoteReply { term, granted });
    assert_eq!(a.status().role, Role::Leader);
    turn(&mut a);
    accept(&mut a, B, 3);
    let effects = turn(&mut a);
    assert_eq!(
        (a.status().commit, a.status().role),
        (LogIndex(3), Role::Follower)
    );
    assert!(messages(&effects, B).contains(&Message::TimeoutNow { term }));
}

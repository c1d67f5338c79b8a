//! What all members hold, and logs that begin behind a base.

use crate::script::{
    A, B, C, accept, append, committed, elect, entry, messages, receive, reject, restarted,
    restarted_behind, started_with, turn,
};
use bytes::Bytes;
use ringlite_raft::{
    AppendResult, Config, Effect, EntryKind, Input, LogIndex, Message, Raft, Role, SnapshotResult,
    Term,
};

fn cut(raft: &mut Raft, up_to: u64) {
    raft.step(Input::Cut {
        up_to: LogIndex(up_to),
    });
    raft.check_invariants();
}

fn held_by_all(raft: &Raft) -> u64 {
    raft.status().matched_by_all.0
}

fn told(messages: &[Message]) -> Vec<u64> {
    let told = messages.iter().filter_map(|message| match message {
        Message::Append { matched_by_all, .. } | Message::Heartbeat { matched_by_all, .. } => {
            Some(matched_by_all.0)
        }
        _ => None,
    });
    told.collect()
}

fn heartbeat(term: u64, commit: u64, matched_by_all: u64) -> Message {
    Message::Heartbeat {
        term: Term(term),
        commit: LogIndex(commit),
        matched_by_all: LogIndex(matched_by_all),
        round: 1,
    }
}

#[test]
fn the_slowest_member_holds_back_what_all_are_known_to_hold() {
    let mut a = restarted(A, &[1, 1], 2);
    elect(&mut a, B);
    accept(&mut a, B, 3);
    assert_eq!((a.status().commit, held_by_all(&a)), (LogIndex(3), 0));
    accept(&mut a, C, 2);
    assert_eq!(held_by_all(&a), 2);
    a.propose(EntryKind::Data, Bytes::new()).expect("a leader");
    a.propose(EntryKind::Data, Bytes::new()).expect("a leader");
    let sent = messages(&turn(&mut a), B);
    assert_eq!(told(&sent), [2], "with the next append");
    accept(&mut a, C, 5);
    assert_eq!(held_by_all(&a), 3);
    accept(&mut a, B, 4);
    assert_eq!(held_by_all(&a), 4);
    for _ in 0..5 {
        a.step(Input::Tick);
    }
    let sent = messages(&turn(&mut a), C);
    assert_eq!(told(&sent).last(), Some(&4), "with the next heartbeat");
}

#[test]
fn a_leaders_own_disk_counts_like_any_other() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    a.propose(EntryKind::Data, Bytes::new()).expect("a leader");
    let effects = a.take_effects();
    accept(&mut a, B, 3);
    accept(&mut a, C, 3);
    assert_eq!((a.status().commit, held_by_all(&a)), (LogIndex(3), 2));
    let io = effects.iter().find_map(|effect| match effect {
        Effect::Append { io, .. } => Some(*io),
        _ => None,
    });
    a.step(Input::Persisted {
        io: io.expect("an append"),
    });
    assert_eq!(held_by_all(&a), 3);
}

#[test]
fn a_sole_voter_is_all() {
    let mut a = started_with(Config::new(A, vec![A], 5), &[1, 1], 0);
    turn(&mut a);
    assert_eq!((a.status().commit, held_by_all(&a)), (LogIndex(3), 3));
}

#[test]
fn what_is_not_committed_is_not_held_for_good() {
    // All hold the entry of term 1, but no entry of term 2 is committed yet.
    let mut a = restarted(A, &[1, 1], 0);
    elect(&mut a, B);
    accept(&mut a, B, 2);
    accept(&mut a, C, 2);
    assert_eq!((a.status().commit, held_by_all(&a)), (LogIndex(0), 0));
    accept(&mut a, C, 3);
    assert_eq!((a.status().commit, held_by_all(&a)), (LogIndex(3), 2));
}

#[test]
fn a_follower_takes_the_hint_from_appends_and_heartbeats() {
    let mut b = restarted(B, &[1, 1, 1, 1], 1);
    receive(&mut b, A, heartbeat(2, 2, 2));
    assert_eq!(held_by_all(&b), 2);
    let mut next = append(2, (4, 1), 3, &[2]);
    if let Message::Append { matched_by_all, .. } = &mut next {
        *matched_by_all = LogIndex(3);
    }
    receive(&mut b, A, next);
    turn(&mut b);
    assert_eq!(held_by_all(&b), 3);
    // This node does not know yet that all of it is committed, or does not hold it.
    receive(&mut b, C, heartbeat(3, 4, 5));
    assert_eq!((held_by_all(&b), b.status().dropped), (4, 0));
    receive(&mut b, C, heartbeat(3, 5, 6));
    assert_eq!((held_by_all(&b), b.status().dropped), (5, 0));
}

#[test]
fn what_a_member_lacks_may_be_cut_and_then_it_gets_a_snapshot() {
    let mut b = restarted(B, &[1, 1, 1, 1], 4);
    b.applied(LogIndex(4));
    cut(&mut b, 3);
    elect(&mut b, C);
    turn(&mut b);
    let asked = |effects: &[Effect]| {
        let snapshots = effects.iter().filter_map(|effect| match effect {
            Effect::SendSnapshot { peer } => Some(*peer),
            _ => None,
        });
        snapshots.collect::<Vec<_>>()
    };
    reject(&mut b, A, 4, (2, 1, 1));
    let effects = turn(&mut b);
    assert_eq!(asked(&effects), [A]);
    assert!(messages(&effects, A).is_empty());
    // It is asked for once, and no entries are sent meanwhile.
    b.propose(EntryKind::Data, Bytes::new()).expect("a leader");
    reject(&mut b, A, 4, (2, 1, 1));
    assert!(messages(&turn(&mut b), A).is_empty());
    // A failure leads to a new probe with the next heartbeat, and to a new request if need be.
    let peer = A;
    let failed = Input::SnapshotSent {
        peer,
        result: SnapshotResult::Failed,
    };
    b.step(failed);
    assert!(turn(&mut b).is_empty());
    for _ in 0..5 {
        b.step(Input::Tick);
    }
    let sent = messages(&turn(&mut b), A);
    assert!(sent.iter().any(|message| matches!(
        message,
        Message::Append {
            prev_index: LogIndex(6),
            ..
        }
    )));
    reject(&mut b, A, 6, (2, 1, 1));
    assert_eq!(asked(&turn(&mut b)), [A]);
    // After success the core goes on behind the snapshot.
    let installed = Input::SnapshotSent {
        peer,
        result: SnapshotResult::Installed { base: LogIndex(4) },
    };
    b.step(installed);
    let sent = messages(&turn(&mut b), A);
    assert!(
        matches!(
            sent.as_slice(),
            [Message::Append { prev_index: LogIndex(4), entries, .. }] if entries.len() == 2
        ),
        "{sent:?}"
    );
    accept(&mut b, A, 6);
    assert_eq!(b.status().commit, LogIndex(6));
}

#[test]
fn a_log_that_was_cut_goes_on_as_before() {
    let mut b = restarted(B, &[1, 1, 1, 1], 4);
    receive(&mut b, A, heartbeat(2, 4, 3));
    b.applied(LogIndex(4));
    cut(&mut b, 2);
    cut(&mut b, 1);
    assert_eq!(b.status().base, LogIndex(2));
    assert_eq!(b.entry_term(LogIndex(1)), None);
    assert_eq!(b.entry_term(LogIndex(2)), Some(Term(1)));
    // Late messages from before the base, one of which brings something new.
    turn(&mut b);
    receive(&mut b, A, append(2, (0, 0), 0, &[1]));
    receive(&mut b, A, append(2, (1, 1), 0, &[1, 1, 1, 2]));
    let replies = messages(&turn(&mut b), A);
    let accepted = Message::AppendReply {
        term: Term(2),
        result: AppendResult::Accepted {
            match_index: LogIndex(5),
        },
    };
    assert_eq!(replies, [accepted]);
    assert_eq!((b.status().last, b.status().dropped), (LogIndex(5), 0));
    // What contradicts the base is no message of a correct leader.
    receive(&mut b, A, append(2, (1, 1), 0, &[2, 2]));
    assert_eq!((b.status().last, b.status().dropped), (LogIndex(5), 1));
}

#[test]
fn a_restart_behind_a_base_knows_what_the_base_says() {
    let mut a = restarted_behind(A, 3, &[1, 1, 2, 2], 3);
    assert!(turn(&mut a).is_empty(), "the base is applied already");
    let status = a.status();
    assert_eq!((status.base, status.commit), (LogIndex(3), LogIndex(3)));
    assert_eq!((status.last, status.durable), (LogIndex(4), LogIndex(4)));
    assert_eq!(status.matched_by_all, LogIndex(0));
    // With nothing behind it: the base's term still counts in an election.
    let mut a = restarted_behind(A, 4, &[1, 1, 2, 2], 4);
    receive(
        &mut a,
        B,
        Message::Vote {
            term: Term(3),
            last_index: LogIndex(9),
            last_term: Term(1),
            by_transfer: false,
        },
    );
    let refused = Message::VoteReply {
        term: Term(3),
        granted: false,
    };
    assert_eq!(messages(&turn(&mut a), B), [refused]);
    elect(&mut a, B);
    assert_eq!(
        (a.status().role, a.status().last),
        (Role::Leader, LogIndex(5))
    );
    accept(&mut a, B, 5);
    assert_eq!(committed(&turn(&mut a)), Some(5));
}

#[test]
fn a_peer_is_served_from_the_log_as_far_back_as_the_base() {
    let mut config = Config::new(A, vec![A, B, C], 5);
    config.log_cache_bytes_max = 0;
    let mut a = started_with(config, &[1, 1, 1, 1, 1], 5);
    receive(&mut a, B, heartbeat(2, 5, 2));
    a.applied(LogIndex(5));
    cut(&mut a, 2);
    elect(&mut a, B);
    // C has nothing but what all have.
    reject(&mut a, C, 5, (2, 1, 1));
    turn(&mut a);
    accept(&mut a, C, 2);
    let asked = turn(&mut a).into_iter().find_map(|effect| match effect {
        Effect::ReadEntries { from, up_to, .. } => Some((from.0, up_to.0)),
        _ => None,
    });
    assert_eq!(asked, Some((3, 5)));
    let entries = (3..=5).map(|index| entry(index, 1)).collect();
    a.step(Input::EntriesRead { peer: C, entries });
    let sent = messages(&turn(&mut a), C);
    assert!(matches!(sent.first(), Some(Message::Append { entries, .. }) if entries.len() == 3));
}

#[test]
fn memory_is_flat_under_endless_load() {
    let config = Config::new(A, vec![A, B, C], 5);
    let cache_bytes_max = config.log_cache_bytes_max;
    let mut a = started_with(config, &[1], 1);
    elect(&mut a, B);
    let payload = Bytes::from(vec![7; 1 << 20]);
    let in_memory = |a: &Raft| {
        let held = (1..=a.status().last.0).filter(|&index| a.entry(LogIndex(index)).is_some());
        held.count()
    };
    for _ in 0..100 {
        let index = a
            .propose(EntryKind::Data, payload.clone())
            .expect("a leader");
        turn(&mut a);
        accept(&mut a, B, index.0);
        accept(&mut a, C, index.0);
        turn(&mut a);
        a.applied(index);
        assert_eq!(in_memory(&a), 0, "all have {index}");
        cut(&mut a, index.0);
    }
    // C stands still: the cache fills up to its bound, and what was cut does not come back.
    for _ in 0..100 {
        let index = a
            .propose(EntryKind::Data, payload.clone())
            .expect("a leader");
        turn(&mut a);
        accept(&mut a, B, index.0);
        turn(&mut a);
        a.applied(index);
        assert!(in_memory(&a) <= cache_bytes_max >> 20);
    }
    assert_eq!((a.status().base, held_by_all(&a)), (LogIndex(102), 102));
}

#[test]
#[should_panic(expected = "only i3 is durable")]
fn what_is_not_durable_here_cannot_be_cut() {
    let mut b = restarted(B, &[1, 1, 1], 3);
    receive(&mut b, A, append(2, (3, 1), 4, &[2]));
    b.take_effects();
    b.applied(LogIndex(4));
    cut(&mut b, 4);
}

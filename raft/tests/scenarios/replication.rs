//! Appends, commits, and catching up.

use crate::script::{
    A, B, C, accept, append, committed, elect, entry, messages, receive, reject, restarted,
    started_with, turn,
};
use bytes::Bytes;
use ringlite_raft::{AppendResult, Config, Effect, EntryKind, Input, LogIndex, Message, Term};

#[test]
fn figure_8_an_entry_of_an_older_term_is_not_committed_by_counting() {
    // A has [1, 2]; as leader of term 3 it replicates the entry of term 2 to a majority. Counting
    // that alone must not commit it: C, with an entry of term 3 or more, could still overwrite it.
    let mut a = restarted(A, &[1, 2], 1);
    elect(&mut a, B);
    assert_eq!(a.status().term, Term(3));
    accept(&mut a, B, 2);
    assert_eq!(a.status().commit, LogIndex(1));
    // With the no-op of term 3 everything before it is committed too.
    accept(&mut a, B, 3);
    assert_eq!(a.status().commit, LogIndex(3));
}

#[test]
fn a_late_completion_of_a_truncated_append_counts_for_nothing() {
    let mut a = restarted(A, &[1], 1);
    receive(&mut a, B, append(2, (1, 1), 1, &[2, 2, 2]));
    let first = a.take_effects();
    let Some(Effect::Append { io: old, .. }) = first
        .iter()
        .find(|effect| matches!(effect, Effect::Append { .. }))
    else {
        panic!("no append in {first:?}");
    };
    receive(&mut a, C, append(3, (1, 1), 1, &[3, 3]));
    let second = a.take_effects();
    a.step(Input::Persisted { io: *old });
    assert_eq!(
        a.status().durable,
        LogIndex(1),
        "the completion spoke of what is void"
    );
    // The acknowledgement of the new entries waits for the new append.
    let waits = second.iter().find_map(|effect| match effect {
        Effect::Send {
            message: Message::AppendReply { .. },
            after,
            ..
        } => *after,
        _ => None,
    });
    let new = second.iter().find_map(|effect| match effect {
        Effect::Append {
            io,
            truncate_from: Some(LogIndex(2)),
            ..
        } => Some(*io),
        _ => None,
    });
    assert!(waits.is_some() && waits == new && new > Some(*old));
    a.step(Input::Persisted {
        io: waits.expect("an operation"),
    });
    assert_eq!(a.status().durable, LogIndex(3));
}

#[test]
fn delayed_and_repeated_appends_neither_truncate_nor_commit_what_they_did_not_verify() {
    let mut a = restarted(A, &[1], 1);
    receive(&mut a, B, append(2, (1, 1), 1, &[2, 2, 2]));
    turn(&mut a);
    receive(&mut a, B, append(2, (1, 1), 4, &[2]));
    let effects = turn(&mut a);
    assert_eq!(a.status().last, LogIndex(4), "a matching suffix was cut");
    assert_eq!(
        committed(&effects),
        Some(2),
        "only what the message verified is committed"
    );
    let result = AppendResult::Accepted {
        match_index: LogIndex(2),
    };
    assert_eq!(
        messages(&effects, B),
        [Message::AppendReply {
            term: Term(2),
            result
        }]
    );
}

#[test]
fn a_leader_sends_all_proposals_of_a_turn_in_one_message_before_its_own_disk_is_done() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    accept(&mut a, B, 2);
    turn(&mut a);
    for _ in 0..3 {
        a.propose(EntryKind::Data, Bytes::from_static(b"x"))
            .expect("a leader");
    }
    let effects = a.take_effects();
    let Some(Effect::Send {
        to: B,
        message: Message::Append { entries, .. },
        after: None,
    }) = effects.first()
    else {
        panic!("the message to B does not come first: {effects:?}");
    };
    assert_eq!(entries.len(), 3);
    let appends: Vec<&Effect> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Append { .. }))
        .collect();
    assert_eq!(appends.len(), 1, "one disk operation");
    // Both followers hold it, this node's disk still writes: a majority is a majority.
    accept(&mut a, B, 5);
    assert_eq!(a.status().commit, LogIndex(2));
    accept(&mut a, C, 5);
    assert_eq!(
        (a.status().commit, a.status().durable),
        (LogIndex(5), LogIndex(2))
    );
}

#[test]
fn evicted_entries_are_read_from_the_log() {
    let mut config = Config::new(A, vec![A, B, C], 5);
    config.log_cache_bytes_max = 0;
    config.append_bytes_max = 200;
    let mut a = started_with(config, &[1, 1, 1, 1, 1, 1], 6);
    a.applied(LogIndex(6));
    elect(&mut a, B);
    assert_eq!(a.entry(LogIndex(6)), None);
    assert_eq!(a.entry_term(LogIndex(6)), Some(Term(1)));
    // C is far behind: its hint leads to the start of its log.
    reject(&mut a, C, 6, (1, 1, 1));
    let probe = Message::Append {
        term: Term(2),
        prev_index: LogIndex(1),
        prev_term: Term(1),
        commit: LogIndex(6),
        matched_by_all: LogIndex(0),
        entries: vec![],
    };
    assert_eq!(messages(&turn(&mut a), C), [probe]);
    accept(&mut a, C, 1);
    let wanted = Effect::ReadEntries {
        peer: C,
        from: LogIndex(2),
        up_to: LogIndex(6),
        bytes_max: 200,
    };
    assert!(turn(&mut a).contains(&wanted));
    assert!(turn(&mut a).is_empty(), "one request at a time");
    // Answers that are not what the log says are not believed.
    a.step(Input::EntriesRead {
        peer: C,
        entries: vec![entry(2, 2)],
    });
    assert!(turn(&mut a).contains(&wanted), "asked again");
    a.step(Input::EntriesRead {
        peer: C,
        entries: vec![],
    });
    assert!(
        turn(&mut a).is_empty(),
        "nothing could be read: not before the next tick"
    );
    a.step(Input::Tick);
    assert!(turn(&mut a).contains(&wanted));
    let entries = (2..=6).map(|index| entry(index, 1)).collect();
    a.step(Input::EntriesRead { peer: C, entries });
    let sent: Vec<usize> = messages(&turn(&mut a), C)
        .into_iter()
        .map(|message| match message {
            Message::Append { entries, .. } => entries.len(),
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(
        sent,
        [2, 2, 1, 1],
        "in messages of the size, then the no-op from memory"
    );
}

#[test]
fn a_commit_is_told_by_the_next_tick_when_nothing_else_is_sent() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    accept(&mut a, B, 2);
    assert!(
        messages(&turn(&mut a), B).is_empty(),
        "no message just for the commit"
    );
    a.step(Input::Tick);
    let told = Message::Heartbeat {
        term: Term(2),
        commit: LogIndex(2),
        matched_by_all: LogIndex(0),
        round: 0,
    };
    let effects = turn(&mut a);
    assert_eq!(messages(&effects, B), [told]);
    assert!(
        messages(&effects, C).is_empty(),
        "C has acknowledged nothing yet"
    );
    a.step(Input::Tick);
    assert!(messages(&turn(&mut a), B).is_empty(), "once");
}

#[test]
fn a_lost_append_is_found_by_the_next_heartbeat_and_sent_again() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    accept(&mut a, B, 2);
    turn(&mut a);
    a.propose(EntryKind::Data, Bytes::new()).expect("a leader");
    turn(&mut a); // lost
    let mut found = Vec::new();
    for _ in 0..10 {
        a.step(Input::Tick);
        found.extend(messages(&turn(&mut a), B));
    }
    assert!(found.iter().any(|message| matches!(message,
        Message::Append { prev_index: LogIndex(3), entries, .. } if entries.is_empty())));
    reject(&mut a, B, 3, (2, 2, 2));
    let again = messages(&turn(&mut a), B);
    assert!(matches!(again.as_slice(),
        [Message::Append { prev_index: LogIndex(2), entries, .. }] if entries.len() == 1));
}

#[test]
fn what_is_under_way_to_a_peer_is_bounded_by_the_window() {
    let mut config = Config::new(A, vec![A, B, C], 5);
    (config.append_bytes_max, config.window_bytes_max) = (200, 400);
    let mut a = started_with(config, &[1], 1);
    elect(&mut a, B);
    accept(&mut a, B, 2);
    turn(&mut a);
    for _ in 0..20 {
        a.propose(EntryKind::Data, Bytes::from_static(&[0; 36]))
            .expect("a leader");
    }
    // Each entry counts for 100 bytes: two in a message, four under way.
    let last_sent = |effects: &[Effect]| {
        let sent = messages(effects, B)
            .into_iter()
            .filter_map(|message| match message {
                Message::Append { entries, .. } => entries.last().map(|entry| entry.index.0),
                _ => None,
            });
        sent.collect::<Vec<_>>()
    };
    assert_eq!(last_sent(&turn(&mut a)), [4, 6]);
    accept(&mut a, B, 4);
    assert_eq!(last_sent(&turn(&mut a)), [8]);
    accept(&mut a, B, 8);
    assert_eq!(last_sent(&turn(&mut a)), [10, 12]);
}

#[test]
fn a_leader_whose_peer_is_gone_probes_it_without_entries() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    accept(&mut a, C, 2);
    turn(&mut a);
    a.step(Input::PeerLost { peer: C });
    for _ in 0..3 {
        a.propose(EntryKind::Data, Bytes::new()).expect("a leader");
    }
    let probes = messages(&turn(&mut a), C);
    assert!(matches!(probes.as_slice(), [Message::Append { entries, .. }] if entries.is_empty()));
    // It comes back, and its answer starts the stream again.
    accept(&mut a, C, 2);
    assert!(matches!(messages(&turn(&mut a), C).as_slice(),
        [Message::Append { entries, .. }] if entries.len() == 3));
}

#[test]
fn a_late_rejection_does_not_interrupt_the_stream() {
    let mut a = restarted(A, &[1, 1, 1], 3);
    elect(&mut a, B);
    reject(&mut a, B, 3, (1, 1, 1));
    turn(&mut a);
    accept(&mut a, B, 4);
    turn(&mut a);
    // The same rejection again, and one of something that was never sent.
    reject(&mut a, B, 3, (1, 1, 1));
    reject(&mut a, B, 9, (1, 1, 1));
    assert!(
        messages(&turn(&mut a), B).is_empty(),
        "a probe would have been sent"
    );
    a.propose(EntryKind::Data, Bytes::new()).expect("a leader");
    assert!(matches!(
        messages(&turn(&mut a), B).as_slice(),
        [Message::Append {
            prev_index: LogIndex(4),
            ..
        }]
    ));
    // Also while probing: only the current probe's rejection counts.
    reject(&mut a, C, 3, (2, 1, 1));
    assert_eq!(messages(&turn(&mut a), C).len(), 1);
    reject(&mut a, C, 3, (1, 1, 1));
    reject(&mut a, C, 1, (0, 0, 0));
    assert!(messages(&turn(&mut a), C).is_empty());
}

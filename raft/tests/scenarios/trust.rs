//! What is believed of peers and of a restart.

use crate::script::{A, B, accept, append, elect, entry, messages, receive, restarted, turn};
use ringlite_raft::{
    Config, Effect, HardState, LogBase, LogIndex, Message, Raft, RestoredLog, Role, Term, TermRun,
};

#[test]
fn what_contradicts_a_committed_entry_is_dropped() {
    let mut a = restarted(A, &[1, 1], 2);
    receive(&mut a, B, append(3, (1, 1), 1, &[3]));
    let effects = turn(&mut a);
    assert!(messages(&effects, B).is_empty());
    assert_eq!((a.status().last, a.status().dropped), (LogIndex(2), 1));
    assert_eq!(a.entry_term(LogIndex(2)), Some(Term(1)));
}

#[test]
fn nonsense_is_dropped_and_counted() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    let heartbeat = Message::Heartbeat {
        term: Term(9),
        commit: LogIndex(0),
        matched_by_all: LogIndex(0),
        round: 1,
    };
    let endless = Message::PreVoteReply {
        term: Term(u64::MAX),
        granted: false,
    };
    receive(&mut a, B, endless);
    receive(&mut a, A, heartbeat);
    accept(&mut a, B, 99);
    receive(&mut a, B, append(2, (1, 1), 1, &[2]));
    receive(
        &mut a,
        B,
        Message::HeartbeatReply {
            term: Term(2),
            round: 99,
        },
    );
    assert_eq!((a.status().dropped, a.status().role), (5, Role::Leader));
    let mut b = restarted(B, &[1], 1);
    let mut gap = append(2, (1, 1), 1, &[2, 2]);
    if let Message::Append { entries, .. } = &mut gap {
        entries.remove(0);
    }
    receive(&mut b, A, gap);
    assert_eq!((b.status().dropped, b.status().last), (1, LogIndex(1)));
}

#[test]
fn a_restart_announces_what_is_known_to_be_committed() {
    let mut a = restarted(A, &[1, 1, 1], 2);
    assert_eq!(turn(&mut a), [Effect::Committed { up_to: LogIndex(2) }]);
    assert_eq!(a.status().durable, LogIndex(3));
}

#[test]
fn a_hard_state_older_than_the_log_is_refused() {
    let found = RestoredLog {
        base: LogBase::default(),
        runs: vec![TermRun {
            first: LogIndex(1),
            term: Term(4),
        }],
        last: LogIndex(1),
        commit: LogIndex(0),
        tail: vec![entry(1, 4)],
        ..RestoredLog::default()
    };
    let old = HardState {
        term: Term(3),
        vote: None,
    };
    let error = Raft::new(Config::new(A, vec![A], 5), old, found).expect_err("a forgotten term");
    assert!(
        error.to_string().contains("votes may have been forgotten"),
        "{error}"
    );
}

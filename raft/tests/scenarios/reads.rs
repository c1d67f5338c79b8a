//! Linearizable reads.

use crate::script::{A, B, C, accept, elect, messages, receive, restarted, started_with, turn};
use bytes::Bytes;
use ringlite_raft::{Config, Effect, EntryKind, Input, LogIndex, Message, NotLeader, ReadId, Term};

#[test]
fn a_read_waits_for_the_no_op_and_for_an_echo_of_its_own_round() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    a.step(Input::ReadIndex { id: ReadId(7) });
    assert!(
        turn(&mut a).is_empty(),
        "the no-op is not committed: no round yet"
    );
    accept(&mut a, B, 2);
    let effects = turn(&mut a);
    let round_of = |effects: &[Effect]| {
        let rounds = messages(effects, B)
            .into_iter()
            .filter_map(|message| match message {
                Message::Heartbeat { round, .. } => Some(round),
                _ => None,
            });
        rounds.max().expect("a heartbeat")
    };
    let round = round_of(&effects);
    let ready = |effects: &[Effect]| -> Vec<(u64, u64)> {
        let ready = effects.iter().filter_map(|effect| match effect {
            Effect::ReadReady { id, index } => Some((id.0, index.0)),
            _ => None,
        });
        ready.collect()
    };
    // A second read must not be answered by the first one's round.
    a.step(Input::ReadIndex { id: ReadId(8) });
    let second = round_of(&turn(&mut a));
    assert!(second > round);
    let echo = |round| Message::HeartbeatReply {
        term: Term(2),
        round,
    };
    receive(&mut a, B, echo(round - 1));
    assert_eq!(ready(&turn(&mut a)), []);
    receive(&mut a, B, echo(round));
    assert_eq!(ready(&turn(&mut a)), [(7, 2)]);
    // The echoes of the second round are lost: the heartbeat of a tick has a newer one.
    let mut later = 0;
    while later == 0 {
        a.step(Input::Tick);
        let effects = turn(&mut a);
        let beats = messages(&effects, B)
            .iter()
            .any(|m| matches!(m, Message::Heartbeat { .. }));
        later = if beats { round_of(&effects) } else { 0 };
    }
    assert!(later > second);
    receive(&mut a, C, echo(later));
    assert_eq!(ready(&turn(&mut a)), [(8, 2)]);
}

#[test]
fn a_sole_voter_answers_reads_at_once_and_a_follower_drops_them() {
    let mut sole = started_with(Config::new(A, vec![A], 5), &[], 0);
    turn(&mut sole);
    sole.step(Input::ReadIndex { id: ReadId(1) });
    assert_eq!(
        turn(&mut sole),
        [Effect::ReadReady {
            id: ReadId(1),
            index: LogIndex(1)
        }]
    );
    let mut follower = restarted(B, &[1], 0);
    follower.step(Input::ReadIndex { id: ReadId(1) });
    assert!(turn(&mut follower).is_empty());
    let refused = follower
        .propose(EntryKind::Data, Bytes::new())
        .expect_err("no leader");
    assert_eq!(refused, NotLeader { leader: None }.into());
}

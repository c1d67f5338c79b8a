//! Terms, votes, pre-votes, stickiness, and lost leaders.

use crate::script::{
    A, B, C, accept, append, committed, elect, messages, receive, restarted, started_with,
    tick_until, turn,
};
use ringlite_raft::{
    Config, Effect, HardState, Input, IoId, LogIndex, Message, NodeId, Raft, Role, Term,
};

#[test]
fn a_sole_voter_leads_and_commits_when_its_own_disk_says_so() {
    let mut sole = started_with(Config::new(A, vec![A], 5), &[], 0);
    let effects = sole.take_effects();
    assert_eq!(sole.status().role, Role::Candidate, "it campaigns at once");
    let Some(Effect::SaveHardState { io, hard_state }) = effects.first() else {
        panic!("no hard state in {effects:?}");
    };
    assert_eq!(
        *hard_state,
        HardState {
            term: Term(1),
            vote: Some(A)
        }
    );
    sole.step(Input::Persisted { io: *io });
    assert_eq!(sole.status().role, Role::Leader);
    let effects = sole.take_effects();
    assert_eq!(committed(&effects), None, "the no-op is not durable yet");
    sole.step(Input::Persisted { io: IoId(io.0 + 1) });
    assert_eq!(committed(&sole.take_effects()), Some(1));
    assert!(sole.status().serving);
}

#[test]
fn a_vote_waits_for_the_hard_state_and_is_given_once_per_term() {
    let mut a = restarted(A, &[1], 1);
    a.take_effects();
    let ask = Message::Vote {
        term: Term(2),
        last_index: LogIndex(1),
        last_term: Term(1),
        by_transfer: false,
    };
    receive(&mut a, B, ask.clone());
    let effects = a.take_effects();
    let saved = HardState {
        term: Term(2),
        vote: Some(B),
    };
    assert!(effects.contains(&Effect::SaveHardState {
        io: IoId(1),
        hard_state: saved
    }));
    let yes = Message::VoteReply {
        term: Term(2),
        granted: true,
    };
    assert!(effects.contains(&Effect::Send {
        to: B,
        message: yes.clone(),
        after: Some(IoId(1))
    }));
    // One vote per term; asking again gets the same answer, another candidate does not.
    a.step(Input::Persisted { io: IoId(1) });
    receive(&mut a, B, ask.clone());
    receive(&mut a, C, ask);
    let effects = a.take_effects();
    assert_eq!(messages(&effects, B), [yes]);
    assert_eq!(
        messages(&effects, C),
        [Message::VoteReply {
            term: Term(2),
            granted: false
        }]
    );
}

#[test]
fn a_candidate_asks_for_votes_and_leads_only_when_its_own_vote_is_durable() {
    let mut c = restarted(C, &[1], 1);
    c.take_effects();
    for _ in 0..50 {
        c.step(Input::Tick);
    }
    c.take_effects();
    receive(
        &mut c,
        B,
        Message::PreVoteReply {
            term: Term(2),
            granted: true,
        },
    );
    let requests_wait = c.take_effects().into_iter().all(|effect| {
        !matches!(
            effect,
            Effect::Send {
                message: Message::Vote { .. },
                after: None,
                ..
            }
        )
    });
    assert!(requests_wait);
    // A majority has voted, but the candidate's own vote is not durable yet.
    receive(
        &mut c,
        B,
        Message::VoteReply {
            term: Term(2),
            granted: true,
        },
    );
    receive(
        &mut c,
        A,
        Message::VoteReply {
            term: Term(2),
            granted: true,
        },
    );
    assert_eq!(c.status().role, Role::Candidate);
    c.step(Input::Persisted { io: IoId(1) });
    assert_eq!(c.status().role, Role::Leader);
}

#[test]
fn a_log_that_is_behind_gets_no_vote() {
    let mut a = restarted(A, &[1, 2, 2], 0);
    let ask = |term, last_index, last_term| Message::Vote {
        term: Term(term),
        last_index: LogIndex(last_index),
        last_term: Term(last_term),
        by_transfer: false,
    };
    let granted = |a: &mut Raft, message| {
        receive(a, B, message);
        let effects = turn(a);
        matches!(
            messages(&effects, B).as_slice(),
            [Message::VoteReply { granted: true, .. }]
        )
    };
    assert!(!granted(&mut a, ask(3, 2, 2)), "shorter");
    assert!(
        !granted(&mut a, ask(4, 9, 1)),
        "longer, but of an older term"
    );
    assert!(granted(&mut a, ask(5, 3, 2)), "equal");
    assert!(granted(&mut a, ask(6, 1, 3)), "of a newer term");
}

#[test]
fn a_node_that_hears_its_leader_helps_nobody_against_it() {
    // Partial mesh: A leads and reaches B; C reaches B, but not A. Without pre-vote and stickiness
    // C would raise the term for ever (Cloudflare, 2020).
    let mut b = restarted(B, &[1], 1);
    let ask_pre = Message::PreVote {
        term: Term(3),
        last_index: LogIndex(1),
        last_term: Term(1),
    };
    let ask = Message::Vote {
        term: Term(9),
        last_index: LogIndex(1),
        last_term: Term(1),
        by_transfer: false,
    };
    for _ in 0..100 {
        let heartbeat = Message::Heartbeat {
            term: Term(2),
            commit: LogIndex(0),
            matched_by_all: LogIndex(0),
            round: 1,
        };
        receive(&mut b, A, heartbeat);
        for _ in 0..20 {
            b.step(Input::Tick);
        }
        receive(&mut b, C, ask_pre.clone());
        let effects = turn(&mut b);
        let no = Message::PreVoteReply {
            term: Term(2),
            granted: false,
        };
        assert_eq!(
            messages(&effects, C),
            [no],
            "the refusal names the term, for C to learn"
        );
        receive(&mut b, C, ask.clone());
        assert!(
            messages(&turn(&mut b), C).is_empty(),
            "not even the term is taken"
        );
        assert_eq!((b.status().term, b.status().leader), (Term(2), Some(A)));
    }
    // Once A has been silent for the shortest timeout, B helps.
    for _ in 0..5 {
        b.step(Input::Tick);
    }
    receive(&mut b, C, ask_pre);
    let yes = Message::PreVoteReply {
        term: Term(3),
        granted: true,
    };
    assert_eq!(messages(&turn(&mut b), C), [yes]);
    assert_eq!(b.status().term, Term(2), "a pre-vote moves no term");
}

#[test]
fn a_node_that_fell_behind_learns_the_term_from_a_refusal() {
    let mut c = restarted(C, &[1], 1);
    tick_until(&mut c, Role::PreCandidate);
    receive(
        &mut c,
        B,
        Message::PreVoteReply {
            term: Term(7),
            granted: false,
        },
    );
    assert_eq!(
        (c.status().term, c.status().role),
        (Term(7), Role::Follower)
    );
}

#[test]
fn a_deposed_leader_is_told_and_the_answer_proves_nothing() {
    let mut b = restarted(B, &[1, 5], 1);
    receive(
        &mut b,
        A,
        Message::Heartbeat {
            term: Term(4),
            commit: LogIndex(0),
            matched_by_all: LogIndex(0),
            round: 40,
        },
    );
    let told = Message::HeartbeatReply {
        term: Term(5),
        round: 0,
    };
    assert_eq!(
        messages(&turn(&mut b), A),
        std::slice::from_ref(&told),
        "round 40 must not be echoed"
    );
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    receive(&mut a, B, told);
    assert_eq!(
        (a.status().role, a.status().term),
        (Role::Follower, Term(5))
    );
}

#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut a = restarted(A, &[1], 1);
    elect(&mut a, B);
    for _ in 0..30 {
        a.step(Input::Tick);
    }
    accept(&mut a, C, 2);
    for _ in 0..49 {
        a.step(Input::Tick);
    }
    assert_eq!(a.status().role, Role::Leader);
    a.step(Input::Tick);
    assert_eq!((a.status().role, a.status().leader), (Role::Follower, None));
    a.check_invariants();
}

#[test]
fn a_killed_leader_is_replaced_within_a_few_ticks() {
    // B and C follow A in term 2; A's process is killed, and both see the connection reset.
    let mut b = restarted(B, &[1], 1);
    let mut c = restarted(C, &[1], 1);
    for follower in [&mut b, &mut c] {
        receive(follower, A, append(2, (1, 1), 1, &[2]));
        turn(follower);
        follower.step(Input::PeerLost { peer: A });
        assert_eq!(follower.status().leader, None);
    }
    let mut ticks = 0;
    while b.status().role != Role::Leader {
        ticks += 1;
        assert!(ticks <= 4, "still no leader");
        let mut post: Vec<(NodeId, Message)> = Vec::new();
        b.step(Input::Tick);
        c.step(Input::Tick);
        loop {
            post.extend(
                messages(&turn(&mut b), C)
                    .into_iter()
                    .map(|message| (C, message)),
            );
            post.extend(
                messages(&turn(&mut c), B)
                    .into_iter()
                    .map(|message| (B, message)),
            );
            if post.is_empty() {
                break;
            }
            for (to, message) in post.drain(..) {
                let (raft, from) = if to == B { (&mut b, C) } else { (&mut c, B) };
                receive(raft, from, message);
            }
        }
    }
    assert_eq!(ticks, 1, "the lower rank goes first, after one tick");
    assert_eq!((c.status().leader, c.status().term), (Some(B), Term(3)));
    assert!(b.status().serving, "no-op committed by both");
}

#[test]
fn a_survivor_that_is_refused_tries_again_within_ticks_and_gives_up_its_haste_later() {
    let mut b = restarted(B, &[1], 1);
    receive(&mut b, A, append(2, (1, 1), 1, &[2]));
    turn(&mut b);
    b.step(Input::PeerLost { peer: A });
    let mut asked_at = Vec::new();
    for tick in 1..=150 {
        b.step(Input::Tick);
        if !messages(&turn(&mut b), C).is_empty() {
            asked_at.push(tick);
        }
    }
    let hasty = asked_at.iter().filter(|&&tick| tick <= 50).count();
    assert!(
        (12..=26).contains(&hasty),
        "asked {hasty} times in the first election timeout"
    );
    let late: Vec<i32> = asked_at.into_iter().filter(|&tick| tick > 60).collect();
    assert!(
        (1..=4).contains(&late.len()),
        "ordinary timeouts after that: {late:?}"
    );
    // The leader was not dead after all: its next message ends the search.
    receive(
        &mut b,
        A,
        Message::Heartbeat {
            term: Term(2),
            commit: LogIndex(0),
            matched_by_all: LogIndex(0),
            round: 1,
        },
    );
    assert_eq!(
        (b.status().role, b.status().leader),
        (Role::Follower, Some(A))
    );
}

/// A promise to a leader holds whatever term its node has heard of since: the leader may answer reads by
/// it for as long as the promise lasts.
#[test]
fn a_promise_outlives_the_term_of_its_leader() {
    let mut config = Config::new(A, vec![A, B, C], 5);
    config.lease_ticks = 1;
    let mut a = started_with(config, &[1], 1);
    tick_until(&mut a, Role::PreCandidate);
    a.take_effects();
    let beat = Message::Heartbeat {
        term: Term(1),
        commit: LogIndex(1),
        matched_by_all: LogIndex(0),
        round: 1,
    };
    receive(&mut a, B, beat);
    // Somebody has answered, late, to what it asked before it heard that leader.
    let refusal = Message::PreVoteReply {
        term: Term(2),
        granted: false,
    };
    receive(&mut a, C, refusal);
    a.take_effects();
    assert_eq!(a.status().term, Term(2));
    let ask = Message::Vote {
        term: Term(2),
        last_index: LogIndex(1),
        last_term: Term(1),
        by_transfer: false,
    };
    receive(&mut a, C, ask);
    let effects = a.take_effects();
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::SaveHardState { .. })),
        "a vote against the promise: {effects:?}"
    );
}

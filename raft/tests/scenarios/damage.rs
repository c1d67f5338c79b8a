//! A node whose log was damaged: how it votes, and how its leader repairs it.

use crate::script::{
    A, B, C, accept, append, committed, elect, messages, receive, restarted, restarted_behind,
    started_owing, tick_until, turn,
};
use ringlite_raft::{
    AppendResult, Config, Conflict, Debt, Effect, Input, LogIndex, Message, NodeId, Raft, Role,
    Term,
};

fn debt(term: u64, index: u64) -> Debt {
    Debt {
        term: Term(term),
        index: LogIndex(index),
    }
}

/// Node A of three, with what is left of its log.
fn owing(terms: &[u64], owed: Debt) -> Raft {
    let config = Config::new(A, vec![A, B, C], 5);
    started_owing(config, 0, terms, 0, Some(owed)).expect("a good start")
}

/// Whether the node gives its pre-vote, and its vote, to a log that ends there.
fn grants(raft: &mut Raft, last_term: u64, last_index: u64) -> (bool, bool) {
    let term = raft.status().term.next();
    let (last_term, last_index) = (Term(last_term), LogIndex(last_index));
    let pre_vote = Message::PreVote {
        term,
        last_index,
        last_term,
    };
    receive(raft, B, pre_vote);
    let vote = Message::Vote {
        term,
        last_index,
        last_term,
        by_transfer: false,
    };
    receive(raft, B, vote);
    let answers = messages(&turn(raft), B);
    let [
        Message::PreVoteReply {
            granted: pre_vote, ..
        },
        Message::VoteReply { granted: vote, .. },
    ] = answers[..]
    else {
        panic!("not two answers: {answers:?}");
    };
    (pre_vote, vote)
}

#[test]
fn it_votes_as_it_would_with_its_whole_log() {
    for (term, index) in [(1, 2), (1, 9), (2, 5), (2, 6), (2, 7), (3, 1)] {
        let mut whole = restarted(A, &[1, 1, 2, 2, 2, 2], 0);
        let mut owes = owing(&[1, 1], debt(2, 6));
        let expected = grants(&mut whole, term, index);
        let found = grants(&mut owes, term, index);
        assert_eq!(
            found, expected,
            "a candidate with a log to {index} of term {term}"
        );
        assert_eq!(found.1, (term, index) >= (2, 6));
    }
}

#[test]
fn it_does_not_stand_for_election_before_it_is_repaired() {
    let mut raft = owing(&[1, 1], debt(1, 4));
    for _ in 0..1000 {
        raft.step(Input::Tick);
        raft.step(Input::PeerLost { peer: B });
        assert_eq!(turn(&mut raft), []);
        assert_eq!(raft.status().role, Role::Follower);
    }
    // A part of what is missing is not enough, and what is not durable does not count.
    receive(&mut raft, B, append(1, (2, 1), 0, &[1]));
    turn(&mut raft);
    assert_eq!(raft.status().debt, Some(debt(1, 4)));
    receive(&mut raft, B, append(1, (3, 1), 0, &[1]));
    assert_eq!(raft.status().debt, Some(debt(1, 4)));
    turn(&mut raft);
    assert_eq!(raft.status().debt, None);
    tick_until(&mut raft, Role::PreCandidate);
}

#[test]
fn the_log_of_a_later_term_settles_the_debt_even_if_it_is_shorter() {
    let mut raft = owing(&[1], debt(2, 9));
    receive(&mut raft, B, append(3, (1, 1), 0, &[1, 1]));
    turn(&mut raft);
    assert_eq!(
        raft.status().debt,
        Some(debt(2, 9)),
        "three entries of term 1"
    );
    receive(&mut raft, B, append(3, (3, 1), 0, &[3]));
    turn(&mut raft);
    assert_eq!(raft.status().debt, None);
}

#[test]
fn a_debt_that_the_log_covers_is_none() {
    assert_eq!(owing(&[1, 2], debt(2, 2)).status().debt, None);
    assert_eq!(owing(&[1, 2], debt(2, 3)).status().debt, Some(debt(2, 3)));
}

/// Its log may have lost the entries that made it one of several.
#[test]
fn a_node_that_believes_to_be_alone_does_not_lead_with_a_damaged_log() {
    let config = Config::new(A, vec![A], 5);
    let raft = started_owing(config, 0, &[1], 0, Some(debt(1, 3)));
    let mut raft = raft.expect("a good start");
    for _ in 0..200 {
        raft.step(Input::Tick);
        assert_eq!(turn(&mut raft), []);
    }
    assert_eq!(raft.status().role, Role::Follower);
    receive(&mut raft, B, append(1, (1, 1), 0, &[1, 1]));
    turn(&mut raft);
    tick_until(&mut raft, Role::Leader);
}

/// Carries messages between two nodes until there are none.
fn converse(
    (one, one_id): (&mut Raft, NodeId),
    (other, other_id): (&mut Raft, NodeId),
) -> Vec<Effect> {
    let mut all = Vec::new();
    for _ in 0..100 {
        let effects = turn(one);
        let there = messages(&effects, other_id);
        all.extend(effects);
        for message in there.clone() {
            receive(other, one_id, message);
        }
        let effects = turn(other);
        let back = messages(&effects, one_id);
        for message in back.clone() {
            receive(one, other_id, message);
        }
        if there.is_empty() && back.is_empty() {
            return all;
        }
    }
    panic!("they never stop talking");
}

/// A leader has counted a follower's entries and does not know that they are gone. Without the word
/// *damaged* it would take the rejection for a late one and never go below what it knows to match.
#[test]
fn a_leader_goes_below_the_match_of_a_follower_that_was_damaged() {
    let mut leader = restarted(B, &[1, 1, 1, 1], 4);
    elect(&mut leader, C);
    accept(&mut leader, A, 5);
    turn(&mut leader);
    assert_eq!(leader.status().commit, LogIndex(5));
    let mut damaged = owing(&[1], debt(2, 5));
    // A node that was damaged has restarted.
    leader.step(Input::PeerLost { peer: A });
    let mut effects = Vec::new();
    for _ in 0..20 {
        leader.step(Input::Tick);
        accept(&mut leader, C, 5);
        effects.extend(converse((&mut leader, B), (&mut damaged, A)));
    }
    assert_eq!(damaged.status().last, LogIndex(5));
    assert_eq!(damaged.status().debt, None);
    assert_eq!(damaged.status().commit, LogIndex(5));
    assert_eq!(damaged.status().dropped + leader.status().dropped, 0);
    assert_eq!(
        committed(&effects),
        None,
        "the commit index stays what it was"
    );
}

#[test]
fn a_late_word_of_damage_costs_a_probe() {
    let mut leader = restarted(B, &[1, 1, 1], 0);
    elect(&mut leader, C);
    let term = leader.status().term;
    accept(&mut leader, A, 4);
    let conflict = Conflict {
        index: LogIndex(1),
        term: Term(1),
        first: LogIndex(1),
    };
    let result = AppendResult::Damaged {
        prev_index: LogIndex(3),
        conflict,
    };
    receive(&mut leader, A, Message::AppendReply { term, result });
    let sent = messages(&turn(&mut leader), A);
    assert!(
        matches!(&sent[..], [Message::Append { prev_index: LogIndex(1), entries, .. }] if entries.len() == 3),
        "{sent:?}"
    );
    accept(&mut leader, A, 4);
    assert_eq!(leader.status().commit, LogIndex(4));
    assert_eq!(messages(&turn(&mut leader), A).len(), 0);
}

#[test]
fn a_follower_that_lacks_what_was_cut_gets_a_snapshot() {
    let mut leader = restarted_behind(B, 3, &[1, 1, 1, 1], 4);
    elect(&mut leader, C);
    accept(&mut leader, A, 5);
    turn(&mut leader);
    let term = leader.status().term;
    let conflict = Conflict {
        index: LogIndex(1),
        term: Term(1),
        first: LogIndex(1),
    };
    let result = AppendResult::Damaged {
        prev_index: LogIndex(5),
        conflict,
    };
    receive(&mut leader, A, Message::AppendReply { term, result });
    assert_eq!(turn(&mut leader), [Effect::SendSnapshot { peer: A }]);
}

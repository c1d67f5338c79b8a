//! What a shard does with what the first one tells it.

use ringlite_raft::{Message, NodeId, Role};

use super::lone::{Lone, receive};
use super::{INSERT, Input};
use crate::replica::request::SessionId;
use crate::replica::{Guidance, Status, all_follow};
use crate::shards::ShardPlace;

/// The leader of the second shard.
fn leading() -> Lone {
    let place = ShardPlace {
        number: 1,
        count: 2,
    };
    Lone::leading(|config| config.shard = place).0
}

/// The members as they are, and a leader.
fn guidance(lone: &Lone, leader: Option<u64>) -> Guidance {
    Guidance {
        members: lone.replica.members(),
        leader: leader.map(NodeId),
        is_removed: false,
    }
}

/// In which of so many ticks, in all of which both other nodes are heard of, leadership began to be moved.
fn moves(lone: &mut Lone, ticks: usize) -> Vec<usize> {
    let mut moves = Vec::new();
    for tick in 0..ticks {
        let was_moving = lone.replica.is_handing_over();
        lone.turn([Input::Tick]);
        lone.confirm();
        if let Input::Receive { message, .. } = lone.accepted(lone.last()) {
            lone.turn([receive(3, message)]);
        }
        if lone.replica.is_handing_over() && !was_moving {
            moves.push(tick);
        }
    }
    moves
}

#[test]
fn a_new_leader_stays_and_attempts_to_move_it_become_rarer() {
    let mut lone = leading();
    let told = guidance(&lone, Some(2));
    lone.turn([Input::Guided(told.clone())]);
    // Three election timeouts of 20 ticks, some of which it has led; nobody ever stands.
    assert!(moves(&mut lone, 40).is_empty());
    let first = moves(&mut lone, 1_000);
    let pauses: Vec<_> = first.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(pauses, [200, 400], "{first:?}");
    // What is told again is nothing new; somebody else is.
    lone.turn([Input::Guided(told)]);
    assert!(moves(&mut lone, 100).is_empty());
    let other = guidance(&lone, Some(3));
    lone.turn([Input::Guided(other)]);
    assert_eq!(moves(&mut lone, 10).len(), 1);
}

#[test]
fn members_of_long_ago_are_not_followed() {
    let mut lone = leading();
    let last = lone.last();
    let mut told = guidance(&lone, None);
    told.members.retain(|member| member.id != NodeId(3));
    lone.turn([Input::Guided(told.clone())]);
    moves(&mut lone, 100);
    assert_eq!(lone.last(), last, "nobody is known to lead the first shard");
    told.leader = Some(NodeId(1));
    lone.turn([Input::Guided(told)]);
    moves(&mut lone, 1);
    assert_eq!(lone.last(), last.next());
    assert_eq!(lone.replica.members().len(), 2);
}

#[test]
fn a_removed_node_lets_go_though_it_knows_of_no_leader() {
    let mut lone = leading();
    let mut told = guidance(&lone, None);
    told.members.retain(|member| member.id != NodeId(1));
    told.is_removed = true;
    lone.turn([Input::Guided(told)]);
    assert_eq!(moves(&mut lone, 100).len(), 1);
}

#[test]
fn a_node_that_is_about_to_stop_does_not_stand() {
    for stops in [false, true] {
        let mut lone = leading();
        let written = lone.execute(SessionId(1), INSERT);
        lone.commit_all();
        lone.reply(written).unwrap();
        let deposed = lone.deposed();
        lone.turn([deposed]);
        if stops {
            lone.turn([Input::Flush]);
        }
        let term = ringlite_raft::Term(lone.replica.status().term);
        lone.turn([receive(3, Message::TimeoutNow { term })]);
        let stands = lone.replica.status().role != Role::Follower;
        assert_eq!(stands, !stops);
    }
}

#[test]
fn a_shard_follows_when_it_has_committed_what_the_first_one_has() {
    let mut lone = leading();
    let before = lone.replica.status();
    assert!(all_follow(&[before.clone(), before.clone()]));
    let mut told = guidance(&lone, Some(1));
    told.members.retain(|member| member.id != NodeId(3));
    lone.turn([Input::Guided(told), Input::Tick]);
    let changes = lone.replica.status();
    assert!(changes.members.len() == 2 && !changes.members_committed);
    assert!(!all_follow(&[before, changes.clone()]));
    let first = Status {
        members_committed: true,
        ..changes.clone()
    };
    assert!(!all_follow(&[first.clone(), changes]));
    lone.commit_all();
    let changed = lone.replica.status();
    assert!(all_follow(&[first.clone(), changed.clone()]));
    let mut other = changed;
    other.members[0].member.incarnation = 7;
    assert!(!all_follow(&[first, other]));
}

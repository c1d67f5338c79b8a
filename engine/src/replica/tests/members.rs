//! Members, and leadership on its way to another one.

use ringlite_raft::{MemberRole, Message, NodeId};

use super::lone::{Lone, sql_request};
use super::{INSERT, Input, Request};
use crate::error::Error;
use crate::replica::request::{MemberRequest, Reply, RequestId, SessionId};

fn is_told_to_stand(lone: &Lone) -> bool {
    let mut sent = lone.sent.iter();
    sent.any(|message| matches!(message, Message::TimeoutNow { .. }))
}

fn ask_members(lone: &mut Lone, wanted: MemberRequest) -> RequestId {
    let (id, asked) = lone.ask(SessionId(99), Request::Members(wanted));
    lone.turn([asked]);
    id
}

#[test]
fn leadership_is_handed_over_only_when_what_is_under_way_is_answered() {
    let (mut lone, session) = Lone::leading(|_| ());
    let written = lone.execute(session, INSERT);
    lone.turn([Input::HandOver]);
    // Node 2 has all of the log, of which the end is not committed.
    let accepted = lone.accepted(lone.last());
    lone.turn([accepted]);
    assert!(!is_told_to_stand(&lone), "a write is under way");
    let held_back = lone.execute(session, INSERT);
    lone.commit_all();
    assert!(matches!(lone.reply(written), Ok(Reply::Executed(_))));
    assert!(is_told_to_stand(&lone));
    assert!(lone.answer(held_back).is_none());
    let deposed = lone.deposed();
    lone.turn([deposed]);
    // By now it is known who leads.
    match lone.reply(held_back) {
        Err(Error::NotLeader { leader }) => assert_eq!(leader.map(|at| at.id), Some(NodeId(3))),
        other => panic!("{other:?}"),
    }
    assert_eq!(lone.rows(), 1);
}

#[test]
fn what_was_held_back_goes_on_if_nobody_takes_over() {
    let (mut lone, session) = Lone::leading(|_| ());
    let to = Some(NodeId(2));
    let transfer = ask_members(&mut lone, MemberRequest::Transfer { to });
    assert!(is_told_to_stand(&lone));
    let held_back = lone.execute(session, INSERT);
    // Node 2 answers, and does not stand.
    while lone.answer(transfer).is_none() {
        lone.turn([Input::Tick]);
        lone.confirm();
    }
    let error = lone.reply(transfer).unwrap_err();
    assert!(
        error.to_string().contains("leadership stays here"),
        "{error}"
    );
    lone.commit_all();
    assert!(matches!(lone.reply(held_back), Ok(Reply::Executed(_))));
}

#[test]
fn what_a_session_asked_that_has_ended_is_not_asked_when_it_could_be() {
    let (mut lone, session) = Lone::leading(|_| ());
    let written = lone.execute(session, INSERT);
    lone.turn([Input::HandOver]);
    let (id, asked) = lone.ask(session, sql_request(INSERT));
    lone.turn([asked, Input::SessionClosed { session }]);
    assert!(lone.reply(id).is_err());
    lone.commit_all();
    assert!(lone.reply(written).is_ok());
}

#[test]
fn a_role_is_given_when_its_entry_is_committed() {
    let (mut lone, _) = Lone::leading(|_| ());
    let (id, standby) = (NodeId(3), Some(MemberRole::Standby));
    // Left to the leader, which wants three voters, it is a voter.
    for (role, becomes) in [(standby, MemberRole::Standby), (None, MemberRole::Voter)] {
        let assigned = ask_members(&mut lone, MemberRequest::Assign { id, role });
        assert!(lone.answer(assigned).is_none());
        // What is wanted, for a leader to come, and then the role.
        for _ in 0..3 {
            lone.commit_all();
            lone.turn([Input::Tick]);
        }
        lone.confirm();
        assert_eq!(lone.reply(assigned), Ok(Reply::Done));
        let members = lone.replica.members();
        let member = members.iter().find(|member| member.id == id).unwrap();
        assert_eq!((member.role, member.assigned), (becomes, role));
    }
    let unknown = NodeId(77);
    let refused = ask_members(&mut lone, MemberRequest::Remove { id: unknown });
    lone.commit_all();
    lone.confirm();
    let error = lone.reply(refused).unwrap_err();
    assert!(
        error.to_string().contains("no member with the id 77"),
        "{error}"
    );
}

#[test]
fn an_id_that_is_chosen_was_never_another_nodes() {
    let (mut lone, _) = Lone::leading(|_| ());
    let mut chosen = Vec::new();
    for incarnation in [50, 51] {
        let join = MemberRequest::Join {
            id: None,
            incarnation,
            address: format!("new:{incarnation}"),
            failure_domain: None,
            weight: Some(4),
        };
        let joined = ask_members(&mut lone, join.clone());
        lone.commit_all();
        lone.confirm();
        let Ok(Reply::Joined { id }) = lone.reply(joined) else {
            panic!("it has not joined");
        };
        // Whoever asks again is the same member.
        let again = ask_members(&mut lone, join);
        lone.confirm();
        assert_eq!(lone.reply(again), Ok(Reply::Joined { id }));
        chosen.push(id);
        let removed = ask_members(&mut lone, MemberRequest::Remove { id });
        lone.commit_all();
        lone.confirm();
        assert_eq!(lone.reply(removed), Ok(Reply::Done));
    }
    assert!(chosen[0] < chosen[1], "{chosen:?}");
}

/// It stayed known, so that its client was told for ever that a database is open already.
#[test]
fn a_session_whose_connection_fails_may_open_again() {
    let (mut lone, _) = Lone::leading(|_| ());
    lone.refuse_connections = true;
    let session = SessionId(5);
    let open = Request::Open {
        database: "app".into(),
        create: true,
    };
    let (id, asked) = lone.ask(session, open);
    lone.turn([asked]);
    lone.confirm();
    assert!(
        lone.reply(id)
            .unwrap_err()
            .to_string()
            .contains("no more files")
    );
    lone.refuse_connections = false;
    lone.open(5);
}

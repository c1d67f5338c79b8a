//! What is promised around a snapshot: what its files hold, how long the log is kept, and when a
//! database that came with one is shown.

use bytes::Bytes;
use ringlite_raft::{
    AppendResult, Configuration, Conflict, Entry, EntryKind, LogBase, LogIndex, Message, NodeId,
    Term,
};
use ringlite_vfs::{Page, PageNumber, PageSize};

use super::lone::{Lone, receive};
use crate::replica::Input;
use crate::replica::payload::{DatabaseChange, encode_changes};
use crate::replica::request::{RequestId, SessionId};
use crate::replica::{DatabaseFile, DatabaseId, SnapshotHead, SnapshotId, SnapshotOutcome};

fn lone() -> Lone {
    Lone::new(|config| {
        config.log_window_bytes = 0;
        config.backfill_bytes = 1;
    })
}

/// A leader that has asked for a snapshot for node 3, which holds nothing.
fn sending() -> (Lone, SnapshotHead) {
    let mut lone = lone();
    lone.win();
    let session = lone.open(1);
    for number in 0..4 {
        write(&mut lone, session, number);
    }
    assert!(lone.log_base > LogIndex(0), "the log was cut");
    let term = Term(lone.replica.status().term);
    let prev_index = lone.last();
    let conflict = Conflict {
        index: LogIndex(0),
        term: Term(0),
        first: LogIndex(0),
    };
    let result = AppendResult::Rejected {
        prev_index,
        conflict,
    };
    lone.turn([receive(3, Message::AppendReply { term, result })]);
    let head = lone.snapshots.pop().expect("a snapshot for node 3");
    (lone, head)
}

/// A commit that gets into the file, and a manifest that says so.
fn write(lone: &mut Lone, session: SessionId, number: u32) {
    let sql = format!("CREATE TABLE t{number} (x)");
    lone.execute(session, &sql);
    lone.commit_all();
    lone.turn([Input::Tick]);
}

#[test]
fn the_log_is_held_from_the_base_of_a_snapshot_on_until_it_is_given_up() {
    let (mut lone, head) = sending();
    let before = lone.replica.snapshot_targets(head.id).unwrap();
    let session = lone.open(2);
    for number in 10..14 {
        write(&mut lone, session, number);
    }
    assert!(
        lone.log_base <= head.base.index,
        "what comes behind is needed"
    );
    // What was read of the file in the meantime may hold all this.
    let after = lone.replica.snapshot_targets(head.id).unwrap();
    assert!(after[0] > before[0] && after[0] > head.base.index);

    lone.turn([Input::SnapshotSent {
        to: NodeId(3),
        id: head.id,
        is_installed: false,
    }]);
    assert_eq!(lone.replica.snapshot_targets(head.id), None);
    write(&mut lone, session, 20);
    assert!(lone.log_base > head.base.index, "nobody needs it any more");
}

#[test]
fn the_log_is_held_until_the_member_is_within_the_window() {
    let (mut lone, head) = sending();
    let session = lone.open(2);
    write(&mut lone, session, 10);
    lone.turn([Input::SnapshotSent {
        to: NodeId(3),
        id: head.id,
        is_installed: true,
    }]);
    write(&mut lone, session, 11);
    assert!(lone.log_base <= head.base.index);
    let term = Term(lone.replica.status().term);
    let match_index = lone.last();
    let result = AppendResult::Accepted { match_index };
    lone.turn([receive(3, Message::AppendReply { term, result })]);
    write(&mut lone, session, 12);
    assert!(lone.log_base > head.base.index);
}

#[test]
fn a_leader_that_is_deposed_sends_nothing_more() {
    let (mut lone, head) = sending();
    let deposed = lone.deposed();
    lone.turn([deposed]);
    assert_eq!(lone.replica.snapshot_targets(head.id), None);
}

/// A snapshot of one empty database, which changes up to `target`.
fn arriving(target: u64) -> SnapshotHead {
    SnapshotHead {
        id: SnapshotId {
            term: Term(1),
            serial: 1,
        },
        base: LogBase {
            index: LogIndex(10),
            term: Term(1),
        },
        configuration: Configuration::of_voters([1, 2, 3].map(NodeId)).unwrap(),
        databases: vec![DatabaseFile {
            id: DatabaseId(LogIndex(5)),
            name: "came".into(),
            page_size: PageSize::DEFAULT,
            applied: LogIndex(10),
            target: LogIndex(target),
        }],
    }
}

fn append_of_leader(index: u64, commit: u64) -> Input {
    append(index, commit, EntryKind::Noop, Bytes::new())
}

/// The leader's word that it has written a page of a database, and that this is committed.
fn page_of_leader(index: u64, database: DatabaseId) -> Input {
    let page_one = ringlite_vfs::first_page(PageSize::DEFAULT);
    let change = DatabaseChange {
        database,
        page_count: 1,
        pages: vec![(PageNumber(1), Page::from(page_one.as_slice()))],
    };
    let (kind, payload) = encode_changes(&[change], 1 << 20).remove(0);
    append(index, index, kind, payload)
}

fn append(index: u64, commit: u64, kind: EntryKind, payload: Bytes) -> Input {
    let entry = Entry {
        term: Term(1),
        index: LogIndex(index),
        kind,
        payload,
    };
    receive(
        3,
        Message::Append {
            term: Term(1),
            prev_index: LogIndex(index - 1),
            prev_term: Term(1),
            commit: LogIndex(commit),
            matched_by_all: LogIndex(commit),
            entries: vec![entry],
        },
    )
}

/// A node that follows a leader.
fn follower() -> Lone {
    let mut lone = lone();
    let heartbeat = Message::Heartbeat {
        term: Term(1),
        commit: LogIndex(0),
        matched_by_all: LogIndex(0),
        round: 1,
    };
    lone.turn([receive(3, heartbeat)]);
    lone.turn([lone.persisted()]);
    lone
}

#[test]
fn a_database_is_shown_when_its_target_is_applied() {
    let mut lone = follower();
    let head = arriving(12);
    assert!(lone.replica.wants_snapshot(&head));
    lone.turn([Input::SnapshotArrived { head: head.clone() }]);
    assert_eq!(lone.installing.take(), Some(head.clone()));
    // Nothing of the old log is applied while the files change.
    lone.turn([append_of_leader(1, 1)]);
    assert_eq!(lone.replica.status().applied, LogIndex(0));
    lone.put_database("came");
    lone.turn([Input::SnapshotInstalled]);
    assert_eq!(lone.outcomes, [SnapshotOutcome::Installed]);
    assert!(!lone.replica.wants_snapshot(&head), "it is there");

    let id = RequestId {
        session: SessionId(9),
        serial: 1_000,
    };
    lone.turn([Input::DigestAsked {
        id,
        database: "came".into(),
        index_min: LogIndex(0),
    }]);
    assert!(lone.replica.find_database("came").is_none());
    lone.turn([append_of_leader(11, 11)]);
    assert_eq!(lone.replica.status().applied, LogIndex(11));
    assert!(lone.answer(id).is_none() && lone.replica.database("came").is_none());
    lone.turn([append_of_leader(12, 12)]);
    assert!(lone.answer(id).is_some());
    assert!(lone.replica.find_database("came").is_some());
}

/// Its creation is behind the base, and what it was restored from may be before it: only the manifest
/// tells of it, whatever other databases' files are written before the log has come so far.
#[test]
fn a_database_that_came_with_a_snapshot_stays_in_the_manifest() {
    let mut lone = follower();
    let mut head = arriving(10);
    let younger = DatabaseFile {
        id: DatabaseId(LogIndex(14)),
        name: "younger".into(),
        applied: LogIndex(15),
        target: LogIndex(16),
        ..head.databases[0].clone()
    };
    head.databases.push(younger.clone());
    lone.turn([Input::SnapshotArrived { head }]);
    lone.put_database("came");
    lone.put_database("younger");
    lone.turn([Input::SnapshotInstalled]);
    for index in 11..=12 {
        lone.turn([page_of_leader(index, DatabaseId(LogIndex(5)))]);
        lone.turn([lone.persisted()]);
        lone.turn([Input::Tick]);
    }
    assert!(lone.log_base > LogIndex(10), "a file was written");
    assert!(lone.manifest.contains(&younger), "{:?}", lone.manifest);
}

#[test]
fn a_node_that_holds_the_base_keeps_its_log() {
    let (mut lone, mut head) = sending();
    let deposed = lone.deposed();
    lone.turn([deposed]);
    lone.turn([lone.persisted()]);
    head.databases.clear();
    assert!(!lone.replica.wants_snapshot(&head));
    let last = lone.last();
    lone.turn([Input::SnapshotArrived { head }]);
    assert_eq!(lone.outcomes, [SnapshotOutcome::NotNeeded]);
    assert_eq!((lone.installing.take(), lone.last()), (None, last));
}

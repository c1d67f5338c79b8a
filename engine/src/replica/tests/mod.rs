//! Single moments that went wrong once, or would with a likely mistake.

mod attach;
mod databases;
mod following;
mod lone;
mod long_runs;
mod members;
mod snapshots;

use bytes::Bytes;
use ringlite_raft::{Entry, EntryKind, LogIndex, Message, Term};

use super::Input;
use super::payload::{DatabaseAct, encode_act};
use super::request::{Reply, Request, RequestId, RowLimit, SessionId, Work};
use crate::error::Error;
use lone::{Lone, receive, sql_request};
use ringlite_vfs::PageSize;

const INSERT: &str = "INSERT INTO t VALUES (NULL, 'x')";
const WHOLE: RowLimit = RowLimit::Whole { bytes_max: 1 << 20 };

/// An insertion of several rows that stands between two of them: it holds the write lock.
fn stream(lone: &mut Lone, session: SessionId) -> RequestId {
    let sql = "INSERT INTO t VALUES (1, 'x'), (2, 'x'), (3, 'x') RETURNING id";
    let first = lone.query(session, sql, RowLimit::Batches { bytes: 1 });
    lone.confirm();
    match lone.reply(first) {
        Ok(Reply::Rows(batch)) => assert!(!batch.complete),
        other => panic!("{other:?}"),
    }
    first
}

fn is_not_leader(lone: &mut Lone, id: RequestId) -> bool {
    matches!(lone.reply(id), Err(Error::NotLeader { .. }))
}

#[test]
fn a_writer_that_may_go_on_in_the_turn_of_the_step_down_does_not() {
    let (mut lone, first) = Lone::leading(|config| config.uncommitted_bytes_max = 1);
    let second = lone.open(2);
    let written = lone.execute(first, INSERT);
    let parked = lone.execute(second, INSERT);
    let inputs = [lone.persisted(), lone.accepted(lone.last()), lone.deposed()];
    lone.turn(inputs);
    assert!(matches!(lone.reply(written), Ok(Reply::Executed(_))));
    assert!(is_not_leader(&mut lone, parked));
    assert_eq!(lone.rows(), 1, "what was refused is there");
}

#[test]
fn a_stream_that_the_step_down_ends_leaves_nothing_behind() {
    let (mut lone, session) = Lone::leading(|_| ());
    stream(&mut lone, session);
    let deposed = lone.deposed();
    lone.turn([deposed]);
    assert_eq!(lone.rows(), 0, "its connection's end has committed it");
}

#[test]
fn a_leader_that_was_rolled_back_and_leads_again_answers_reads() {
    let (mut lone, session) = Lone::leading(|_| ());
    let (id, asked) = lone.ask(session, sql_request(INSERT));
    let inputs = [asked, lone.deposed()];
    lone.turn(inputs);
    assert!(is_not_leader(&mut lone, id));
    lone.win();
    let session = lone.open(2);
    let read = lone.query(session, "SELECT id FROM t", WHOLE);
    lone.confirm();
    assert!(matches!(lone.reply(read), Ok(Reply::Rows(batch)) if batch.rows.is_empty()));
}

#[test]
fn a_run_that_the_next_leader_commits_is_applied_from_its_first_part() {
    let (mut lone, session) = Lone::leading(|config| config.part_bytes = 5_000);
    let before = lone.last();
    let written = lone.execute(
        session,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
         INSERT INTO t SELECT i, replace(hex(zeroblob(900)), '00', 'xy') FROM n",
    );
    let last = lone.last();
    assert!(last.0 > before.0 + 3, "a run of several entries");
    // This leader learns of the commit of the first parts only.
    let inputs = [lone.persisted(), lone.accepted(LogIndex(before.0 + 2))];
    lone.turn(inputs);
    assert!(lone.answer(written).is_none());
    let deposed = lone.deposed();
    lone.turn([deposed]);
    assert!(matches!(lone.reply(written), Err(Error::OutcomeUnknown)));
    assert_eq!(lone.rows(), 0);
    let noop = Entry {
        term: Term(2),
        index: last.next(),
        kind: EntryKind::Noop,
        payload: Bytes::new(),
    };
    let append = Message::Append {
        term: Term(2),
        prev_index: last,
        prev_term: Term(1),
        commit: last.next(),
        matched_by_all: LogIndex(0),
        entries: vec![noop],
    };
    lone.turn([receive(3, append)]);
    assert_eq!(lone.rows(), 20);
}

#[test]
fn a_follower_applies_what_is_committed_after_it_has_begun_to_write_what_came_with_it() {
    let mut lone = Lone::new(|_| ());
    let create = |index| Entry {
        term: Term(1),
        index: LogIndex(index),
        kind: EntryKind::Data,
        payload: encode_act(&DatabaseAct::Create {
            name: format!("database-{index}"),
            page_size: PageSize::DEFAULT,
        }),
    };
    let append = |prev: u64, commit, entries| {
        let message = Message::Append {
            term: Term(1),
            prev_index: LogIndex(prev),
            prev_term: Term(u64::from(prev > 0)),
            commit: LogIndex(commit),
            matched_by_all: LogIndex(0),
            entries,
        };
        receive(2, message)
    };
    lone.one_turn([append(0, 0, vec![create(1)])]);
    lone.one_turn([append(1, 1, vec![create(2)])]);
    assert_eq!(lone.appends.len(), 2);
    assert!(lone.replica.applies_later());
    assert_eq!(lone.replica.status().applied, LogIndex(0));
    // In the next turn before anything else.
    lone.one_turn([]);
    assert_eq!(lone.replica.status().applied, LogIndex(1));
    assert!(lone.replica.find_database("database-1").is_some());
    // Without anything to write at once.
    lone.one_turn([append(2, 2, vec![])]);
    assert!(!lone.replica.applies_later());
    assert_eq!(lone.replica.status().applied, LogIndex(2));
}

#[test]
fn records_that_their_turn_voids_say_nothing_of_what_replaced_them() {
    let mut lone = Lone::new(|_| ());
    let entry = |index, term, name: &str| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Data,
        payload: encode_act(&DatabaseAct::Create {
            name: name.to_owned(),
            page_size: PageSize::DEFAULT,
        }),
    };
    let append = |from, prev_index, commit, entries: Vec<Entry>| {
        let term = entries[0].term;
        let message = Message::Append {
            term,
            prev_index: LogIndex(prev_index),
            prev_term: Term(u64::from(prev_index > 0)),
            commit: LogIndex(commit),
            matched_by_all: LogIndex(0),
            entries,
        };
        receive(from, message)
    };
    // A node that stood still finds the messages of two leaders.
    lone.turn([
        append(2, 0, 0, vec![entry(1, 1, "a"), entry(2, 1, "b")]),
        append(3, 1, 2, vec![entry(2, 2, "c")]),
    ]);
    let commits: Vec<_> = lone
        .appends
        .iter()
        .map(|append| (append.entries.len(), append.commit.0))
        .collect();
    // With 2 in the first one, a crash between the two would make "b" a committed entry.
    assert_eq!(commits, [(2, 1), (1, 2)]);
}

#[test]
fn a_script_that_begins_another_transaction_has_to_be_confirmed_again() {
    for script in ["ROLLBACK; BEGIN", "COMMIT; BEGIN;", "ROLLBACK; SAVEPOINT s"] {
        let (mut lone, session) = Lone::leading(|_| ());
        let begun = lone.execute(session, "BEGIN");
        lone.confirm();
        lone.reply(begun).unwrap();
        let first = lone.query(session, "SELECT id FROM t", WHOLE);
        lone.confirm();
        lone.reply(first).unwrap();
        let second = lone.query(session, "SELECT id FROM t", WHOLE);
        assert!(lone.answer(second).is_some(), "the same snapshot");
        let again = lone.execute(session, script);
        lone.confirm();
        lone.reply(again).unwrap();
        // A new leader may have committed something since.
        let third = lone.query(session, "SELECT id FROM t", WHOLE);
        assert!(lone.answer(third).is_none(), "{script}: a stale read");
        lone.confirm();
        lone.reply(third).unwrap();
    }
}

#[test]
fn a_script_that_ends_a_transaction_reads_on_with_a_confirmation() {
    let (mut lone, session) = Lone::leading(|_| ());
    lone.execute(session, "BEGIN");
    lone.query(session, "SELECT id FROM t", WHOLE);
    lone.confirm();
    let after = lone.execute(session, "ROLLBACK; UPDATE t SET data = 'y' WHERE id = 77");
    assert!(lone.answer(after).is_none(), "it tells that there is no 77");
    lone.confirm();
    lone.reply(after).unwrap();
}

#[test]
fn a_stream_that_idled_too_long_is_not_said_to_be_rolled_back() {
    for is_deposed in [false, true] {
        let (mut lone, session) = Lone::leading(|config| config.write_idle_ticks = 3);
        stream(&mut lone, session);
        for _ in 0..4 {
            lone.turn([Input::Tick]);
        }
        lone.commit_all();
        assert_eq!(lone.rows(), 3, "SQLite commits it");
        if is_deposed {
            let deposed = lone.deposed();
            lone.turn([deposed]);
        }
        let (id, asked) = lone.ask(session, Request::Sql(Work::Continue));
        lone.turn([asked]);
        assert_eq!(lone.reply(id), Err(Error::OutcomeUnknown));
    }
}

#[test]
fn what_the_end_of_a_session_commits_gets_into_the_log() {
    let (mut lone, session) = Lone::leading(|_| ());
    stream(&mut lone, session);
    let before = lone.last();
    lone.turn([Input::SessionClosed { session }]);
    assert_eq!(lone.rows(), 3, "SQLite commits it");
    assert_eq!(lone.last(), before.next());
}

#[test]
fn a_parked_request_is_answered_when_its_session_is_closed() {
    let (mut lone, first) = Lone::leading(|_| ());
    let second = lone.open(2);
    lone.execute(first, "BEGIN IMMEDIATE");
    let parked = lone.execute(second, INSERT);
    assert!(lone.answer(parked).is_none());
    lone.turn([Input::SessionClosed { session: second }]);
    assert!(lone.reply(parked).is_err());
}

#[test]
fn digests_that_wait_are_bounded() {
    let (mut lone, _) = Lone::leading(|_| ());
    let ask = |serial| Input::DigestAsked {
        id: RequestId {
            session: SessionId(77),
            serial,
        },
        database: "app".into(),
        index_min: LogIndex(1_000_000),
    };
    let waiting_max = super::DIGESTS_WAITING_MAX as u64;
    for serial in 0..waiting_max + 3 {
        lone.turn([ask(serial)]);
    }
    for serial in 0..waiting_max + 3 {
        let id = RequestId {
            session: SessionId(77),
            serial,
        };
        match lone.answer(id) {
            None => assert!(serial < waiting_max),
            Some(Err(Error::Busy { .. })) => assert!(serial >= waiting_max),
            other => panic!("{serial}: {other:?}"),
        }
    }
}

/// A crash would leave a file with pages of an entry that the restart does not know to be committed.
#[test]
fn what_commits_while_a_backfill_is_announced_is_not_a_part_of_it() {
    for wal_bytes_max in [1, 1 << 20] {
        let (mut lone, session) = Lone::leading(|config| {
            config.backfill_bytes = 1;
            config.wal_bytes_max = wal_bytes_max;
        });
        lone.saves_slowly = true;
        let mut saved = 0;
        for _ in 0..40 {
            lone.execute(session, INSERT);
            lone.commit_all();
            lone.turn([Input::Tick]);
            if std::mem::take(&mut lone.is_saving) {
                lone.turn([Input::ManifestSaved]);
                saved += 1;
            }
        }
        assert!(saved > 10, "only {saved} manifests");
    }
}

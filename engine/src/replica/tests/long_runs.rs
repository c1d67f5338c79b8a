//! Statements that go on on another thread: what their commits do to everyone else.

use ringlite_raft::Message;

use super::lone::Lone;
use super::{INSERT, WHOLE, is_not_leader};
use crate::error::Error;
use crate::replica::request::{
    Admin, Reply, Request, RequestId, RowLimit, SessionId, Source, Work,
};
use crate::replica::{Config, Input};

/// Long enough to leave the core, and inserts one row.
const LONG_INSERT: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000)
    INSERT INTO t SELECT NULL, max(i) FROM n";
const LONG_READ: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000)
    SELECT max(i), (SELECT count(*) FROM t) FROM n";
const COUNT: &str = "SELECT count(*) FROM t";

fn leading(change: impl FnOnce(&mut Config)) -> (Lone, SessionId) {
    let (mut lone, session) = Lone::leading(change);
    lone.leave_early();
    (lone, session)
}

fn long_insert(lone: &mut Lone, session: SessionId) -> RequestId {
    let id = lone.execute(session, LONG_INSERT);
    assert_eq!(lone.away.len(), 1, "it has left the core");
    id
}

/// One entry is written at a time.
fn commit_everything(lone: &mut Lone) {
    for _ in 0..4 {
        lone.commit_all();
    }
}

fn is_interrupted(reply: &crate::error::Result<Reply>) -> bool {
    matches!(reply, Err(Error::Sqlite { code, .. }) if *code == rusqlite::ffi::SQLITE_INTERRUPT)
}

fn count(reply: crate::error::Result<Reply>) -> i64 {
    match reply {
        Ok(Reply::Rows(batch)) => match batch.rows[0][0] {
            crate::rows::Value::Integer(count) => count,
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn others_read_and_write_elsewhere_while_a_statement_is_away() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open(2);
    let long = lone.query(first, LONG_READ, WHOLE);
    assert_eq!(lone.away.len(), 1);
    let written = lone.execute(second, INSERT);
    lone.commit_all();
    assert!(
        matches!(lone.reply(written), Ok(Reply::Executed(_))),
        "a reader stops no writer"
    );
    let returned = lone.run_away();
    lone.come_back(returned);
    lone.confirm();
    let Ok(Reply::Rows(batch)) = lone.reply(long) else {
        panic!("rows")
    };
    assert_eq!(
        batch.rows[0][1],
        crate::rows::Value::Integer(0),
        "its snapshot is from before"
    );
}

/// Its outcome would be unknown, as it may have committed already.
#[test]
fn leadership_stays_until_what_writes_away_has_come_back() {
    for is_captured in [false, true] {
        let (mut lone, session) = leading(|_| ());
        let long = long_insert(&mut lone, session);
        lone.turn([Input::HandOver]);
        let returned = lone.run_away();
        if is_captured {
            let other = lone.query(session, COUNT, WHOLE);
            assert!(lone.answer(other).is_none(), "it is held back");
        }
        commit_everything(&mut lone);
        let is_told = |lone: &Lone| {
            let mut sent = lone.sent.iter();
            sent.any(|message| matches!(message, Message::TimeoutNow { .. }))
        };
        assert!(!is_told(&lone), "the run is away");
        lone.come_back(returned);
        commit_everything(&mut lone);
        assert!(matches!(lone.reply(long), Ok(Reply::Executed(_))));
        assert!(is_told(&lone));
    }
}

/// A database is dropped while one of its statements is away, has committed, and was seen.
#[test]
fn what_is_away_when_its_database_is_dropped_is_answered_once() {
    for is_captured in [false, true] {
        let (mut lone, writer) = leading(|_| ());
        let reader = lone.open(2);
        let long = long_insert(&mut lone, writer);
        let next = lone.execute(writer, INSERT);
        let returned = lone.run_away();
        lone.hide_captures = !is_captured;
        let read = lone.query(reader, COUNT, WHOLE);
        let admin = Admin::Drop { name: "app".into() };
        let (dropped, asked) = lone.ask(SessionId(900), Request::Admin(admin));
        lone.turn([asked]);
        assert!(lone.answer(long).is_none() && lone.answer(next).is_none());
        commit_everything(&mut lone);
        lone.confirm();
        assert_eq!(lone.reply(dropped), Ok(Reply::Done));
        if is_captured {
            assert_eq!(lone.reply(long), Err(Error::OutcomeUnknown));
            assert_eq!(count(lone.reply(read)), 1, "it came before the drop");
        } else {
            for id in [long, read] {
                assert!(matches!(lone.reply(id), Err(Error::DatabaseGone { .. })));
            }
        }
        assert!(matches!(lone.reply(next), Err(Error::DatabaseGone { .. })));
        lone.come_back(returned);
        assert!(lone.replies.is_empty(), "a second answer");
        assert!(lone.replica.databases().is_empty());
    }
}

#[test]
fn a_commit_away_is_acknowledged_by_its_entry_alone() {
    let (mut lone, session) = leading(|_| ());
    let before = lone.last();
    let long = long_insert(&mut lone, session);
    let returned = lone.run_away();
    lone.turn([Input::Tick]);
    assert_eq!(lone.last(), before, "nobody has looked");
    lone.come_back(returned);
    assert_eq!(lone.last(), before.next());
    assert!(lone.answer(long).is_none(), "its entry is not committed");
    lone.commit_all();
    assert!(matches!(lone.reply(long), Ok(Reply::Executed(_))));
}

/// Without rule 1 and 2 of `long_runs.rs` the reader's capture would leave the writer with none, and
/// its reply would go before its entry is committed.
#[test]
fn a_reader_that_finds_a_commit_away_takes_nothing_from_its_writer() {
    let (mut lone, writer) = leading(|_| ());
    let reader = lone.open(2);
    let before = lone.last();
    let long = long_insert(&mut lone, writer);
    let returned = lone.run_away();
    // The commit is there, and its run is not known to have ended.
    let read = lone.query(reader, COUNT, WHOLE);
    assert_eq!(lone.last(), before.next(), "it went into an entry at once");
    lone.confirm();
    assert!(
        lone.answer(read).is_none(),
        "it has seen what is not committed"
    );
    lone.come_back(returned);
    assert!(
        lone.answer(long).is_none(),
        "it has written what is not committed"
    );
    lone.commit_all();
    assert_eq!(count(lone.reply(read)), 1);
    assert!(matches!(lone.reply(long), Ok(Reply::Executed(_))));
}

#[test]
fn a_reader_that_found_a_commit_away_is_not_told_that_it_wrote() {
    for is_back in [false, true] {
        let (mut lone, writer) = leading(|_| ());
        let reader = lone.open(2);
        let long = long_insert(&mut lone, writer);
        let returned = lone.run_away();
        let read = lone.query(reader, COUNT, WHOLE);
        let returned = match is_back {
            true => {
                lone.come_back(returned);
                None
            }
            false => Some(returned),
        };
        let deposed = lone.deposed();
        lone.turn([deposed]);
        assert!(is_not_leader(&mut lone, read), "it may be repeated");
        assert!(matches!(lone.reply(long), Err(Error::OutcomeUnknown)));
        assert_eq!(lone.rows(), 0);
        if let Some(returned) = returned {
            lone.come_back(returned);
        }
        assert_eq!(lone.rows(), 0);
    }
}

/// Another thread publishes its commit some instructions before it can be captured.
#[test]
fn a_reader_ahead_of_the_captures_waits_for_the_capture() {
    let (mut lone, writer) = leading(|_| ());
    let reader = lone.open(2);
    let long = long_insert(&mut lone, writer);
    let returned = lone.run_away();
    lone.hide_captures = true;
    let read = lone.query(reader, COUNT, WHOLE);
    lone.hide_captures = false;
    lone.confirm();
    assert!(
        lone.answer(read).is_none(),
        "it has seen what is in no entry"
    );
    let hidden = lone.hidden.take().expect("the reader found it");
    lone.turn([hidden]);
    lone.confirm();
    assert!(lone.answer(read).is_none(), "the entry is not committed");
    lone.commit_all();
    assert_eq!(count(lone.reply(read)), 1);
    lone.come_back(returned);
    assert!(matches!(lone.reply(long), Ok(Reply::Executed(_))));
}

#[test]
fn nobody_begins_to_write_while_a_writer_is_away() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open(2);
    let long = long_insert(&mut lone, first);
    let written = lone.execute(second, INSERT);
    let returned = lone.run_away();
    // SQLite's lock is free by now.
    let third = lone.open(3);
    let also = lone.execute(third, INSERT);
    assert_eq!(
        lone.rows(),
        1,
        "the queue still counts the first one as the holder"
    );
    lone.come_back(returned);
    assert_eq!(lone.rows(), 3);
    commit_everything(&mut lone);
    for id in [long, written, also] {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
}

#[test]
fn a_script_that_left_before_it_wrote_queues_for_its_writes() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open(2);
    // It leaves after its first statement.
    let script = format!("SAVEPOINT s; RELEASE s; {INSERT}; {LONG_INSERT}; {INSERT}");
    let scripted = lone.execute(first, &script);
    assert_eq!(lone.away.len(), 1);
    let long = lone.execute(second, LONG_INSERT);
    assert_eq!(lone.away.len(), 2, "the script does not hold the lock");
    let returned = lone.run_away();
    lone.come_back(returned);
    assert_eq!(lone.away.len(), 1, "the script waits for its turn");
    while !lone.away.is_empty() {
        let returned = lone.run_away();
        lone.come_back(returned);
    }
    commit_everything(&mut lone);
    for id in [scripted, long] {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
    assert_eq!(lone.rows(), 4);
}

#[test]
fn the_requests_of_a_session_wait_for_its_long_run() {
    let (mut lone, session) = leading(|_| ());
    let long = lone.query(session, LONG_READ, WHOLE);
    let written = lone.execute(session, INSERT);
    let read = lone.query(session, COUNT, WHOLE);
    let returned = lone.run_away();
    lone.come_back(returned);
    lone.confirm();
    commit_everything(&mut lone);
    assert!(lone.reply(long).is_ok());
    assert!(matches!(lone.reply(written), Ok(Reply::Executed(_))));
    assert_eq!(count(lone.reply(read)), 1);
}

/// A session runs one request at a time, whatever it has asked for.
#[test]
fn what_waits_for_a_long_script_waits_for_all_of_it() {
    let (mut lone, session) = leading(|_| ());
    let script = format!("SAVEPOINT s; RELEASE s; {LONG_INSERT}");
    let scripted = lone.execute(session, &script);
    let waiting = lone.execute(session, INSERT);
    // It comes back for the write lock, and is let go on at once.
    let returned = lone.run_away();
    lone.come_back(returned);
    assert_eq!(lone.away.len(), 1);
    assert_eq!(lone.rows(), 0, "the other request has begun");
    lone.finish_away();
    commit_everything(&mut lone);
    for id in [scripted, waiting] {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
    assert_eq!(lone.rows(), 2);
}

#[test]
fn an_interrupt_stops_what_is_away_and_what_waits() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open(2);
    let long = long_insert(&mut lone, first);
    let parked = lone.execute(second, INSERT);
    lone.turn([Input::Interrupted { session: second }]);
    assert!(is_interrupted(&lone.reply(parked)));
    lone.turn([Input::Interrupted { session: first }]);
    let returned = lone.run_away();
    lone.come_back(returned);
    lone.confirm();
    assert!(is_interrupted(&lone.reply(long)));
    assert_eq!(lone.rows(), 0);
    // The session and the lock are free again.
    let again = lone.execute(first, INSERT);
    lone.commit_all();
    assert!(matches!(lone.reply(again), Ok(Reply::Executed(_))));
}

#[test]
fn the_lock_of_a_client_that_left_is_free_when_its_statement_has_ended() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open(2);
    long_insert(&mut lone, first);
    let parked = lone.execute(second, INSERT);
    lone.turn([Input::SessionClosed { session: first }]);
    let returned = lone.run_away();
    lone.come_back(returned);
    lone.commit_all();
    assert!(matches!(lone.reply(parked), Ok(Reply::Executed(_))));
    assert_eq!(lone.rows(), 1, "the long one was interrupted");
}

#[test]
fn what_a_client_that_left_has_committed_gets_into_the_log() {
    let (mut lone, session) = leading(|_| ());
    long_insert(&mut lone, session);
    let before = lone.last();
    let returned = lone.run_away();
    lone.turn([Input::SessionClosed { session }]);
    lone.come_back(returned);
    assert_eq!(lone.rows(), 1);
    assert_eq!(lone.last(), before.next());
}

/// What it committed would be in this node's database and in no entry.
#[test]
fn a_script_whose_client_left_does_not_begin_to_write() {
    let (mut lone, session) = leading(|_| ());
    let scripted = lone.execute(session, &format!("SAVEPOINT s; RELEASE s; {INSERT}"));
    // It has got as far as it may without the write lock, which is free when it comes back.
    let returned = lone.run_away();
    lone.turn([Input::SessionClosed { session }]);
    lone.come_back(returned);
    assert_eq!(lone.rows(), 0);
    assert_eq!(lone.reply(scripted), Err(Error::NoDatabaseOpened));
    // Its place in the write queue is free again.
    let other = lone.open(2);
    let written = lone.execute(other, INSERT);
    commit_everything(&mut lone);
    assert!(matches!(lone.reply(written), Ok(Reply::Executed(_))));
    assert_eq!(lone.rows(), 1);
}

#[test]
fn what_waited_for_a_stream_whose_client_left_does_not_begin() {
    let (mut lone, session) = leading(|_| ());
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000)
        INSERT INTO t SELECT NULL, i FROM n WHERE i % 20000 = 1 RETURNING id";
    lone.query(session, sql, RowLimit::Batches { bytes: 1 });
    let waiting = lone.execute(session, INSERT);
    assert!(lone.answer(waiting).is_none());
    let before = lone.last();
    // It is between two of its rows, and ends with a commit.
    let returned = lone.run_away();
    lone.turn([Input::SessionClosed { session }]);
    lone.come_back(returned);
    assert_eq!((lone.rows(), lone.last()), (3, before.next()));
    assert_eq!(lone.reply(waiting), Err(Error::NoDatabaseOpened));
}

#[test]
fn a_step_down_leaves_nothing_of_a_run_that_is_away() {
    // The run goes on before, in the middle of, and after the roll-back.
    for moment in 0..3 {
        let (mut lone, session) = leading(|_| ());
        let long = long_insert(&mut lone, session);
        let mut returned = (moment == 0).then(|| lone.run_away());
        let deposed = lone.deposed();
        lone.turn([deposed]);
        assert!(
            is_not_leader(&mut lone, long),
            "nothing of it is in an entry"
        );
        if moment == 1 {
            returned = Some(lone.run_away());
        }
        assert_eq!(lone.rows(), 0);
        lone.win();
        // The session's id is used again.
        let session = lone.open(session.0);
        let returned = returned.unwrap_or_else(|| lone.run_away());
        lone.come_back(returned);
        assert_eq!(lone.rows(), 0);
        let written = lone.execute(session, INSERT);
        lone.commit_all();
        assert!(matches!(lone.reply(written), Ok(Reply::Executed(_))));
        assert_eq!(lone.rows(), 1);
    }
}

#[test]
fn a_transaction_goes_away_with_its_lock_and_comes_back_with_it() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open(2);
    lone.execute(first, "BEGIN IMMEDIATE");
    let read = lone.query(first, LONG_READ, WHOLE);
    assert_eq!(
        lone.away.len(),
        1,
        "a read within a transaction that holds the lock"
    );
    let parked = lone.execute(second, INSERT);
    let returned = lone.run_away();
    lone.come_back(returned);
    lone.confirm();
    assert!(lone.reply(read).is_ok());
    assert!(lone.answer(parked).is_none(), "the transaction goes on");
    let inserted = lone.execute(first, INSERT);
    let committed = lone.execute(first, "COMMIT");
    commit_everything(&mut lone);
    for id in [inserted, committed, parked] {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
}

#[test]
fn a_stream_goes_away_between_two_of_its_batches() {
    let (mut lone, session) = leading(|_| ());
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000)
        SELECT i FROM n WHERE i % 40000 = 1";
    let limit = RowLimit::Batches { bytes: 1 };
    let mut id = lone.query(session, sql, limit);
    let mut rows = Vec::new();
    loop {
        if !lone.away.is_empty() {
            let returned = lone.run_away();
            lone.come_back(returned);
        }
        lone.confirm();
        let Ok(Reply::Rows(batch)) = lone.reply(id) else {
            panic!("rows")
        };
        rows.extend(batch.rows.into_iter().flatten());
        if batch.complete {
            break;
        }
        let (next, asked) = lone.ask(session, Request::Sql(Work::Continue));
        lone.turn([asked]);
        id = next;
    }
    let numbers: Vec<_> = [1, 40_001, 80_001].map(crate::rows::Value::Integer).into();
    assert_eq!(rows, numbers);
}

#[test]
fn a_reader_is_ended_when_it_keeps_a_full_wal_from_being_restarted() {
    let (mut lone, session) = leading(|config| config.set_wal_bytes(30_000));
    lone.execute(session, "BEGIN");
    let read = lone.query(session, COUNT, WHOLE);
    lone.confirm();
    lone.reply(read).unwrap();
    let writer = lone.open(2);
    let mut rounds = 0;
    let told = loop {
        let written = lone.execute(writer, "INSERT INTO t VALUES (NULL, 'x')");
        lone.commit_all();
        lone.reply(written).unwrap();
        for _ in 0..5 {
            lone.turn([Input::Tick]);
        }
        let again = lone.query(session, COUNT, WHOLE);
        if let Err(error) = lone.reply(again) {
            break error.to_string();
        }
        rounds += 1;
        assert!(rounds < 100, "the WAL may grow for ever");
    };
    assert!(told.contains("snapshot too old"), "{told}");
    assert!(rounds > 2, "it was ended too early");
}

#[test]
fn a_reader_that_holds_its_snapshot_too_long_is_told_so() {
    let is_too_old = |reply: crate::error::Result<Reply>| matches!(reply, Err(error) if error.to_string().contains("snapshot too old"));
    let (mut lone, session) = leading(|config| config.snapshot_ticks = 3);
    // Idle in a transaction.
    lone.execute(session, "BEGIN");
    let read = lone.query(session, COUNT, WHOLE);
    lone.confirm();
    lone.reply(read).unwrap();
    let ticks = |lone: &mut Lone, count: usize| {
        for _ in 0..count {
            lone.turn([Input::Tick]);
        }
    };
    ticks(&mut lone, 3);
    let in_time = lone.query(session, COUNT, WHOLE);
    assert!(lone.reply(in_time).is_ok());
    ticks(&mut lone, 1);
    let late = lone.query(session, COUNT, WHOLE);
    assert!(is_too_old(lone.reply(late)));
    let after = lone.query(session, COUNT, WHOLE);
    lone.confirm();
    assert!(lone.reply(after).is_ok(), "the session is usable");
    // In the middle of a statement.
    let long = lone.query(session, LONG_READ, WHOLE);
    ticks(&mut lone, 4);
    let returned = lone.run_away();
    lone.come_back(returned);
    lone.confirm();
    assert!(is_too_old(lone.reply(long)));
}

#[test]
fn a_long_prepared_statement_is_kept() {
    let (mut lone, session) = leading(|_| ());
    let work = Work::Prepare {
        sql: LONG_INSERT.into(),
        allow_tail: false,
    };
    let (id, asked) = lone.ask(session, Request::Sql(work));
    lone.turn([asked]);
    lone.confirm();
    let Ok(Reply::Prepared { statement, .. }) = lone.reply(id) else {
        panic!("a statement")
    };
    for rows in 1..=2 {
        let parameters = Vec::new();
        let work = Work::Execute(Source::Prepared {
            statement,
            parameters,
        });
        let (id, asked) = lone.ask(session, Request::Sql(work));
        lone.turn([asked]);
        let returned = lone.run_away();
        lone.come_back(returned);
        lone.commit_all();
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
        assert_eq!(lone.rows(), rows);
    }
}

/// It would begin a transaction of its own, and be committed, when the other one is told to run again.
#[test]
fn a_write_that_waits_ends_with_the_transaction_that_it_is_in() {
    let (mut lone, first) = Lone::leading(|config| config.snapshot_ticks = 20);
    let second = lone.open(2);
    lone.execute(first, "BEGIN IMMEDIATE");
    lone.execute(second, "BEGIN");
    let read = lone.query(second, COUNT, WHOLE);
    lone.confirm();
    assert_eq!(count(lone.reply(read)), 0);
    let waiting = lone.execute(second, INSERT);
    for _ in 0..40 {
        lone.turn([Input::Tick]);
        lone.confirm();
    }
    lone.execute(first, "ROLLBACK");
    commit_everything(&mut lone);
    assert_eq!(lone.reply(waiting), Err(Error::snapshot_too_old()));
    assert_eq!(lone.rows(), 0);
    // It has been told, and begins anew.
    let again = lone.execute(second, INSERT);
    commit_everything(&mut lone);
    assert!(matches!(lone.reply(again), Ok(Reply::Executed(_))));
}

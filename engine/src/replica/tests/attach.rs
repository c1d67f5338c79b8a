//! Sessions with several databases, and transactions over them.

use ringlite_raft::{Entry, EntryKind};
use rusqlite::ffi;

use super::lone::{Away, Lone, sql_request};
use super::{INSERT, WHOLE, is_not_leader};
use crate::error::Error;
use crate::replica::payload::{Section, decode};
use crate::replica::request::{Admin, Reply, Request, RequestId, RowLimit, SessionId};
use crate::replica::{Config, Input};
use crate::rows::Value;
use crate::sql::Paused;

const BOTH: &str = "BEGIN; INSERT INTO main.t VALUES (NULL, 'x');
                    INSERT INTO other.t VALUES (NULL, 'x'); COMMIT";
const COUNT_BOTH: &str =
    "SELECT (SELECT count(*) FROM main.t) * 10 + (SELECT count(*) FROM other.t)";
/// Long enough to leave the core; inserts one row into each database.
const LONG_BOTH: &str = "BEGIN; INSERT INTO main.t VALUES (NULL, 'x');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000)
    INSERT INTO other.t SELECT NULL, max(i) FROM n; COMMIT";

/// A leader with the databases `app` and `b`, each with an empty table `t`, and a session on `app`
/// that has attached `b` as `other`.
fn leading(change: impl FnOnce(&mut Config)) -> (Lone, SessionId) {
    add_other(Lone::leading(change))
}

fn add_other((mut lone, session): (Lone, SessionId)) -> (Lone, SessionId) {
    let on_b = lone.open_database(50, "b");
    done(
        &mut lone,
        on_b,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, data TEXT)",
    );
    lone.turn([Input::SessionClosed { session: on_b }]);
    done(&mut lone, session, "ATTACH 'b' AS other");
    (lone, session)
}

/// What is away goes on until it is about to commit.
fn run_to_commit(lone: &mut Lone) -> Paused {
    loop {
        match lone.run_away_until_core() {
            Away::Returned(returned) => lone.come_back(returned),
            Away::WantsCore(paused) => return paused,
        }
        assert!(!lone.away.is_empty(), "it has committed away from the core");
    }
}

fn settle(lone: &mut Lone) {
    for _ in 0..4 {
        lone.commit_all();
    }
    lone.confirm();
}

/// Runs a script, which succeeds.
fn done(lone: &mut Lone, session: SessionId, sql: &str) {
    let id = lone.execute(session, sql);
    settle(lone);
    let reply = lone.reply(id);
    assert!(matches!(reply, Ok(Reply::Executed(_))), "{sql}: {reply:?}");
}

/// Runs a script, which fails.
fn error(lone: &mut Lone, session: SessionId, sql: &str) -> Error {
    let id = lone.execute(session, sql);
    settle(lone);
    lone.reply(id).expect_err(sql)
}

fn integer(reply: crate::error::Result<Reply>) -> i64 {
    match reply {
        Ok(Reply::Rows(batch)) => match batch.rows[0][0] {
            Value::Integer(integer) => integer,
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn read(lone: &mut Lone, session: SessionId, sql: &str) -> i64 {
    let id = lone.query(session, sql, WHOLE);
    settle(lone);
    integer(lone.reply(id))
}

fn counts(lone: &mut Lone) -> (usize, usize) {
    (lone.rows_in("app"), lone.rows_in("b"))
}

fn drop_database(lone: &mut Lone, name: &str) -> RequestId {
    let admin = Admin::Drop { name: name.into() };
    let (id, asked) = lone.ask(SessionId(900), Request::Admin(admin));
    lone.turn([asked]);
    id
}

/// The entries with pages, and how many databases each changes.
fn page_entries(lone: &Lone) -> Vec<(Entry, usize)> {
    let entries = lone.appends.iter().flat_map(|append| &append.entries);
    let entries = entries.filter(|entry| entry.kind != EntryKind::Noop);
    let changed = entries.map(|entry| {
        let sections = decode(&entry.payload).unwrap();
        let pages = sections.iter().filter(|at| matches!(at, Section::Pages(_)));
        (entry.clone(), pages.count())
    });
    changed.filter(|(_, databases)| *databases > 0).collect()
}

#[test]
fn a_transaction_over_two_databases_is_one_entry() {
    let (mut lone, session) = leading(|_| ());
    let before = lone.last();
    let id = lone.execute(session, BOTH);
    assert_eq!(lone.last(), before.next());
    assert_eq!(page_entries(&lone).last().unwrap().1, 2);
    lone.confirm();
    assert!(lone.answer(id).is_none(), "its entry is not committed");
    lone.commit_all();
    assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    assert_eq!(counts(&mut lone), (1, 1));
    lone.replica.check_invariants();
}

#[test]
fn a_large_transaction_over_two_databases_is_one_run_and_is_lost_as_a_whole() {
    let (mut lone, session) = leading(|config| config.part_bytes = 5_000);
    let fill = |schema: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
             INSERT INTO {schema}.t SELECT i, replace(hex(zeroblob(900)), '00', 'xy') FROM n;"
        )
    };
    let before = lone.last();
    let sql = format!("BEGIN; {} {} COMMIT", fill("other"), fill("main"));
    let id = lone.execute(session, &sql);
    assert!(lone.last().0 > before.0 + 6, "a run of several entries");
    let entries = page_entries(&lone);
    let run = entries.iter().filter(|(entry, _)| entry.index > before);
    let kinds: Vec<_> = run.map(|(entry, _)| entry.kind).collect();
    let (last, parts) = kinds.split_last().unwrap();
    assert_eq!(*last, EntryKind::Data);
    assert!(parts.iter().all(|kind| *kind == EntryKind::DataPart));
    // This leader learns of the commit of the first parts only, which hold one of the databases.
    let inputs = [lone.persisted(), lone.accepted(before.next().next())];
    lone.turn(inputs);
    let deposed = lone.deposed();
    lone.turn([deposed]);
    assert!(matches!(lone.reply(id), Err(Error::OutcomeUnknown)));
    assert_eq!(counts(&mut lone), (0, 0));
}

#[test]
fn a_lost_leader_has_nothing_of_a_transaction_over_two_databases() {
    for sql in [
        BOTH,
        "BEGIN; INSERT INTO main.t VALUES (1, 'x'); INSERT INTO other.t VALUES (1, 'x')",
    ] {
        let (mut lone, session) = leading(|_| ());
        let (_, asked) = lone.ask(session, sql_request(sql));
        let deposed = lone.deposed();
        lone.turn([asked, deposed]);
        assert_eq!(counts(&mut lone), (0, 0));
        lone.win();
        let session = lone.open(70);
        done(&mut lone, session, "ATTACH 'b' AS other");
        done(&mut lone, session, BOTH);
        assert_eq!(counts(&mut lone), (1, 1));
    }
}

/// SQLite commits `main` first; the other database cannot take what the transaction has written
/// there, which shows only when it is committed too.
#[test]
fn a_commit_that_fails_in_the_second_database_leaves_nothing_in_the_first() {
    let (mut lone, session) = add_other(Lone::bounded(40 * 4096, |_| ()).lead());
    let neighbour = lone.open(2);
    done(&mut lone, neighbour, "INSERT INTO t VALUES (7, 'mine')");
    // It stands in the middle of a read, and has the page cache of its life.
    done(&mut lone, neighbour, "BEGIN");
    assert_eq!(read(&mut lone, neighbour, "SELECT count(*) FROM t"), 1);
    let before = lone.last();
    done(&mut lone, session, "BEGIN");
    done(&mut lone, session, "INSERT INTO main.t VALUES (1, 'x')");
    done(
        &mut lone,
        session,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
         INSERT INTO other.t SELECT i, hex(zeroblob(1900)) FROM n",
    );
    let failed = error(&mut lone, session, "COMMIT");
    assert_eq!(failed.code(), ffi::SQLITE_FULL, "{failed}");
    assert_eq!(lone.last(), before, "nothing is in the log");
    assert_eq!(counts(&mut lone), (1, 0));
    // The session, and everybody else, goes on as before.
    assert_eq!(read(&mut lone, session, COUNT_BOTH), 10);
    assert_eq!(read(&mut lone, neighbour, "SELECT count(*) FROM t"), 1);
    done(
        &mut lone,
        neighbour,
        "INSERT INTO t VALUES (8, 'mine'); COMMIT",
    );
    done(&mut lone, session, BOTH);
    assert_eq!(read(&mut lone, neighbour, "SELECT count(*) FROM t"), 3);
    assert_eq!(counts(&mut lone), (3, 1));
    for check in [
        "PRAGMA main.integrity_check",
        "PRAGMA other.integrity_check",
    ] {
        let id = lone.query(session, check, WHOLE);
        settle(&mut lone);
        let Ok(Reply::Rows(rows)) = lone.reply(id) else {
            panic!("rows")
        };
        assert_eq!(rows.rows[0][0], Value::Text("ok".into()));
    }
}

/// What an earlier statement of the same script has committed stays when a later commit is undone.
#[test]
fn an_undone_commit_takes_nothing_of_an_earlier_one_along() {
    let (mut lone, session) = add_other(Lone::bounded(40 * 4096, |_| ()).lead());
    let script = "INSERT INTO main.t VALUES (1, 'x'); INSERT INTO other.t VALUES (100, 'x');
        BEGIN; INSERT INTO main.t VALUES (2, 'x');
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
        INSERT INTO other.t SELECT i, hex(zeroblob(1900)) FROM n; COMMIT";
    let failed = error(&mut lone, session, script);
    assert_eq!(failed.code(), ffi::SQLITE_FULL, "{failed}");
    assert_eq!(counts(&mut lone), (1, 1));
    let deposed = lone.deposed();
    lone.turn([deposed]);
    assert_eq!(counts(&mut lone), (1, 1), "they are committed");
}

#[test]
fn a_long_transaction_over_two_databases_is_captured_as_a_whole() {
    let (mut lone, session) = leading(|_| ());
    let neighbour = lone.open(2);
    lone.leave_early();
    let before = lone.last();
    let id = lone.execute(session, LONG_BOTH);
    let paused = run_to_commit(&mut lone);
    // Before its commit nobody finds anything of it.
    let seen = lone.query(neighbour, "SELECT count(*) FROM t", WHOLE);
    lone.confirm();
    assert_eq!(integer(lone.reply(seen)), 0);
    let parked = lone.execute(neighbour, INSERT);
    lone.visit(paused);
    assert_eq!(lone.last(), before.next());
    assert_eq!(page_entries(&lone).last().unwrap().1, 2);
    lone.finish_away();
    settle(&mut lone);
    for id in [id, parked] {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
    assert_eq!(counts(&mut lone), (2, 1));
}

#[test]
fn a_transaction_that_is_stopped_at_its_commit_is_rolled_back() {
    for is_deposed in [false, true] {
        let (mut lone, session) = leading(|_| ());
        lone.leave_early();
        let id = lone.execute(session, LONG_BOTH);
        let paused = run_to_commit(&mut lone);
        if is_deposed {
            let deposed = lone.deposed();
            lone.turn([deposed]);
            assert!(is_not_leader(&mut lone, id));
        } else {
            lone.turn([Input::Interrupted { session }]);
        }
        lone.visit(paused);
        lone.finish_away();
        if !is_deposed {
            settle(&mut lone);
            let error = lone.reply(id).unwrap_err();
            assert_eq!(error.code(), ffi::SQLITE_INTERRUPT, "{error}");
        }
        assert_eq!(counts(&mut lone), (0, 0));
    }
}

#[test]
fn writers_that_attach_in_opposite_orders_make_way_for_each_other() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open_database(2, "b");
    done(&mut lone, second, "ATTACH 'app' AS other");
    let third = lone.open_database(3, "b");
    done(&mut lone, first, "BEGIN IMMEDIATE");
    let opposite = lone.execute(second, BOTH);
    let alone = lone.execute(third, INSERT);
    settle(&mut lone);
    assert!(lone.answer(opposite).is_none() && lone.answer(alone).is_none());
    done(&mut lone, first, "INSERT INTO other.t VALUES (NULL, 'x')");
    done(&mut lone, first, "COMMIT");
    settle(&mut lone);
    for id in [opposite, alone] {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
    assert_eq!(counts(&mut lone), (1, 3));
    // Both at once, again and again, while runs leave the core.
    lone.leave_early();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(lone.execute(first, LONG_BOTH));
        ids.push(lone.execute(second, LONG_BOTH));
        ids.push(lone.execute(third, INSERT));
        lone.finish_away();
    }
    settle(&mut lone);
    for id in ids {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
    assert_eq!(counts(&mut lone), (11, 18));
}

/// A session writes in a database that it has attached, and its client then asks another session.
#[test]
fn a_reply_waits_for_what_it_has_seen_in_an_attached_database() {
    let (mut lone, session) = leading(|_| ());
    let writer = lone.open_database(2, "b");
    let written = lone.execute(writer, INSERT);
    let seen = lone.query(session, "SELECT count(*) FROM other.t", WHOLE);
    lone.confirm();
    assert!(lone.answer(seen).is_none(), "it has seen what may be lost");
    lone.commit_all();
    assert_eq!(integer(lone.reply(seen)), 1);
    assert!(lone.reply(written).is_ok());
}

#[test]
fn the_snapshots_of_a_transaction_are_of_one_moment() {
    let (mut lone, reader) = leading(|_| ());
    let writer = lone.open(2);
    done(&mut lone, writer, "ATTACH 'b' AS other");
    for begin in ["BEGIN", "SAVEPOINT s"] {
        done(&mut lone, reader, begin);
        let in_main = read(&mut lone, reader, "SELECT count(*) FROM main.t");
        done(&mut lone, writer, BOTH);
        let in_other = read(&mut lone, reader, "SELECT count(*) FROM other.t");
        assert_eq!(in_main, in_other, "{begin}");
        // So it cannot write on what it has read.
        let sql = "INSERT INTO other.t VALUES (NULL, 'x')";
        assert_eq!(
            error(&mut lone, reader, sql).code(),
            ffi::SQLITE_BUSY_SNAPSHOT
        );
        done(&mut lone, reader, "ROLLBACK");
    }
    // A writer has them from the same moment on as its locks.
    done(
        &mut lone,
        reader,
        "BEGIN; INSERT INTO main.t VALUES (NULL, 'x')",
    );
    let parked = lone.execute(writer, BOTH);
    done(
        &mut lone,
        reader,
        "INSERT INTO other.t VALUES (NULL, 'x'); COMMIT",
    );
    settle(&mut lone);
    assert!(lone.reply(parked).is_ok());
    assert_eq!(counts(&mut lone), (4, 4));
}

#[test]
fn what_is_attached_may_be_written_by_the_same_script_and_detached_again() {
    let (mut lone, first) = leading(|_| ());
    let second = lone.open(2);
    let holder = lone.open_database(3, "b");
    done(&mut lone, holder, "BEGIN IMMEDIATE");
    let script = format!(
        "INSERT INTO t VALUES (1, 'x'); ATTACH 'b' AS other; {BOTH}; DETACH other;
                          INSERT INTO t VALUES (NULL, 'x')"
    );
    let scripted = lone.execute(second, &script);
    settle(&mut lone);
    assert!(lone.answer(scripted).is_none(), "b is locked");
    assert_eq!(counts(&mut lone), (1, 0));
    done(&mut lone, holder, "COMMIT");
    settle(&mut lone);
    let reply = lone.reply(scripted);
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(counts(&mut lone), (3, 1));
    // It waits for b no longer.
    done(&mut lone, holder, "BEGIN IMMEDIATE");
    done(&mut lone, second, INSERT);
    let parked = lone.execute(first, INSERT);
    settle(&mut lone);
    assert!(lone.answer(parked).is_none(), "its places are in both");
    done(&mut lone, holder, "ROLLBACK");
    assert!(lone.reply(parked).is_ok());
}

/// "Not leader" says that nothing was done, so that whoever hears it runs the whole script again.
#[test]
fn a_script_that_has_written_is_not_told_that_nothing_was_done() {
    let script = format!("{INSERT}; ATTACH 'b' AS other; INSERT INTO other.t VALUES (NULL, 'x')");
    for goes_on in [false, true] {
        let (mut lone, _) = leading(|_| ());
        let second = lone.open(2);
        let holder = lone.open_database(3, "b");
        done(&mut lone, holder, "BEGIN IMMEDIATE");
        let scripted = lone.execute(second, &script);
        settle(&mut lone);
        assert!(lone.answer(scripted).is_none(), "b is locked");
        assert_eq!(counts(&mut lone), (1, 0));
        let deposed = lone.deposed();
        if goes_on {
            // The rest has just been let go on, and may not begin any more.
            let (_, asked) = lone.ask(holder, sql_request("ROLLBACK"));
            lone.turn([asked, deposed]);
        } else {
            lone.turn([deposed]);
        }
        assert_eq!(lone.reply(scripted), Err(Error::OutcomeUnknown));
        assert_eq!(counts(&mut lone), (1, 0));
    }
}

#[test]
fn what_cannot_be_attached_is_refused_with_the_reason() {
    let (mut lone, session) = leading(|_| ());
    for (sql, words) in [
        (
            "ATTACH 'b' AS again",
            "open in this session already, as other",
        ),
        (
            "ATTACH 'app' AS again",
            "open in this session already, as main",
        ),
        ("ATTACH 'c' AS c", "there is no database of this name"),
        ("ATTACH ':memory:' AS c", "give the name of a database"),
        ("ATTACH '' AS c", "give the name of a database"),
        ("ATTACH '/etc/passwd' AS c", "give the name of a database"),
        (
            "ATTACH 'file:b?vfs=unix' AS c",
            "give the name of a database",
        ),
        ("ATTACH 'b-wal' AS c", "give the name of a database"),
        ("ATTACH ('b' || '') AS c", "written out in the statement"),
        ("ATTACH ?1 AS c", "written out in the statement"),
        ("BEGIN; ATTACH 'c' AS c", "within a transaction"),
        ("DETACH other", "within a transaction"),
        ("ROLLBACK; DETACH main", "cannot detach database main"),
        ("DETACH nobody", "no such database: nobody"),
    ] {
        let error = error(&mut lone, session, sql).to_string();
        assert!(error.contains(words), "{sql}: {error}");
    }
    assert_eq!(read(&mut lone, session, COUNT_BOTH), 0);
    done(
        &mut lone,
        session,
        "DETACH DATABASE other; ATTACH DATABASE b AS other",
    );
    done(&mut lone, session, BOTH);
    let pragma = lone.query(session, "PRAGMA other.synchronous", WHOLE);
    settle(&mut lone);
    assert_eq!(integer(lone.reply(pragma)), 0, "as for its own database");
}

#[test]
fn a_database_that_ends_ends_the_sessions_that_have_attached_it() {
    for state in [
        "idle",
        "open",
        "writing",
        "between rows",
        "away",
        "at its commit",
    ] {
        let (mut lone, session) = leading(|_| ());
        let own = lone.open(2);
        let mut asked = None;
        match state {
            "open" => done(
                &mut lone,
                session,
                "BEGIN; INSERT INTO other.t VALUES (1, 'x')",
            ),
            "writing" => done(
                &mut lone,
                session,
                "BEGIN; INSERT INTO main.t VALUES (1, 'x')",
            ),
            "between rows" => {
                let sql = "INSERT INTO main.t VALUES (1, 'x'), (2, 'x') RETURNING id";
                let first = lone.query(session, sql, RowLimit::Batches { bytes: 1 });
                lone.confirm();
                assert!(lone.reply(first).is_ok());
            }
            "away" | "at its commit" => {
                lone.leave_early();
                asked = Some(lone.execute(session, LONG_BOTH));
            }
            _ => {}
        }
        let paused = (state == "at its commit").then(|| run_to_commit(&mut lone));
        let parked = lone.execute(own, INSERT);
        let dropped = drop_database(&mut lone, "b");
        settle(&mut lone);
        if let Some(paused) = paused {
            lone.visit(paused);
        }
        lone.finish_away();
        settle(&mut lone);
        assert_eq!(lone.reply(dropped), Ok(Reply::Done), "{state}");
        let reply = lone.answer(parked);
        assert!(matches!(reply, Some(Ok(_))), "{state}: {reply:?}");
        if let Some(asked) = asked {
            assert!(lone.reply(asked).is_err(), "{state}");
        }
        let rows = if state == "between rows" { 3 } else { 1 };
        assert_eq!(
            lone.rows_in("app"),
            rows,
            "{state}: nothing of the transaction"
        );
        let told = error(&mut lone, session, INSERT);
        match state {
            "between rows" => assert_eq!(told, Error::OutcomeUnknown),
            _ => assert!(
                matches!(told, Error::DatabaseGone { .. }),
                "{state}: {told}"
            ),
        }
        assert_eq!(error(&mut lone, session, INSERT), Error::NoDatabaseOpened);
        lone.replica.check_invariants();
    }
}

#[test]
fn the_end_of_a_database_that_was_detached_ends_nobody() {
    let (mut lone, session) = leading(|_| ());
    done(&mut lone, session, "DETACH other");
    let dropped = drop_database(&mut lone, "b");
    settle(&mut lone);
    assert!(lone.reply(dropped).is_ok());
    done(&mut lone, session, INSERT);
    assert_eq!(lone.rows(), 1);
}

#[test]
fn a_database_whose_end_is_in_the_log_is_not_kept_attached() {
    let (mut lone, session) = leading(|_| ());
    done(&mut lone, session, "DETACH other");
    let dropped = drop_database(&mut lone, "b");
    let attached = lone.execute(session, "ATTACH 'b' AS other");
    let written = lone.execute(session, BOTH);
    settle(&mut lone);
    assert!(lone.reply(dropped).is_ok());
    assert!(lone.reply(attached).is_ok());
    assert!(matches!(
        lone.reply(written),
        Err(Error::DatabaseGone { .. })
    ));
    assert_eq!(lone.rows(), 0);
}

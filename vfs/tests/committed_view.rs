//! The committed view: read-only connections see what is committed for good, and nothing else,
//! whatever happens above it.

mod common;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use common::{Node, assert_sound, backfill, code, content, content_of_image, file_image, number};
use ringlite_vfs::{
    CommitPoint, Database, Page, PageSize, VfsError, held_snapshot, is_ended, read_position,
};
use rusqlite::{Connection, ErrorCode};

const ROWS: i64 = 500;
const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b, pad)";
const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                    INSERT INTO t SELECT i, 0, hex(randomblob(100)) FROM n";
const SUM: &str = "SELECT sum(b) FROM t";

/// A leader with a table of rows whose `b` is 0, committed and shown, and a connection on it.
fn leader(node: &Node) -> (Database, Connection) {
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    sql.execute_batch(FILL).unwrap();
    let point = database.take_capture().unwrap().commit_point;
    database.show_committed(&point).unwrap();
    (database, sql)
}

/// One transaction that makes `b` of every row `value`; returns where it ends.
fn set(database: &Database, sql: &Connection, value: i64) -> CommitPoint {
    sql.execute("UPDATE t SET b = ?1", [value]).unwrap();
    database.take_capture().unwrap().commit_point
}

/// A committed connection with a read transaction open.
fn held(database: &Database) -> Connection {
    let reader = database.connect_committed().unwrap();
    // The pages have to come from the WAL and the file each time.
    reader.pragma_update(None, "cache_size", 2).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
        .unwrap();
    assert!(held_snapshot(&reader, "main").is_some());
    reader
}

#[test]
fn it_shows_what_was_said_to_be_committed_and_nothing_newer() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let reader = database.connect_committed().unwrap();
    let one = set(&database, &sql, 1);
    sql.execute_batch("CREATE TABLE u (x); DROP TABLE u; CREATE TABLE u2 (x)")
        .unwrap();
    let two = database.take_capture().unwrap().commit_point;
    assert_eq!(number(&sql, SUM), ROWS);
    assert_eq!(number(&reader, SUM), 0);
    assert_eq!(number(&database.connect_committed().unwrap(), SUM), 0);

    database.show_committed(&one).unwrap();
    assert_eq!(number(&reader, SUM), ROWS);
    assert_eq!(read_position(&reader, "main"), Some(one.position));
    assert!(reader.prepare("SELECT * FROM u2").is_err());
    // What is shown already, or was before, changes nothing.
    database.show_committed(&one).unwrap();
    database.show_committed(&two).unwrap();
    database.show_committed(&one).unwrap();
    assert_eq!(read_position(&reader, "main"), Some(one.position));
    assert_eq!(number(&reader, "SELECT count(*) FROM u2"), 0);
    assert_eq!(read_position(&reader, "main"), Some(two.position));
    assert_sound(&reader);
}

#[test]
fn a_transaction_that_spills_is_not_seen_and_does_no_harm() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    sql.pragma_update(None, "cache_size", 3).unwrap();
    let reader = database.connect_committed().unwrap();
    let frames = database.wal_bytes();
    for end in ["ROLLBACK", "COMMIT"] {
        sql.execute_batch("BEGIN; UPDATE t SET b = 1, pad = hex(randomblob(200))")
            .unwrap();
        assert!(database.wal_bytes() > frames + 100_000, "it has spilled");
        assert_eq!(number(&reader, SUM), 0);
        sql.execute_batch(end).unwrap();
        assert_eq!(number(&reader, SUM), 0);
    }
    let point = database.take_capture().unwrap().commit_point;
    database.show_committed(&point).unwrap();
    assert_eq!(content(&reader), content(&sql));
}

#[test]
fn it_cannot_be_written() {
    let node = Node::new();
    let (database, _sql) = leader(&node);
    let reader = database.connect_committed().unwrap();
    // A read-only connection may begin so, and has begun to read then.
    reader.execute_batch("BEGIN IMMEDIATE").unwrap();
    for sql in [
        "DELETE FROM t",
        "CREATE TABLE x (y)",
        "PRAGMA user_version = 3",
    ] {
        assert_eq!(
            code(reader.execute_batch(sql)),
            ErrorCode::ReadOnly,
            "{sql}"
        );
    }
    assert!(!ringlite_vfs::holds_write_lock(&reader, "main"));
    reader.execute_batch("COMMIT").unwrap();
    let _ = reader.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    assert_eq!(number(&reader, SUM), 0);
    assert_eq!(database.recovery_requests(), 0);
}

#[test]
fn frames_stay_out_of_the_file_while_a_committed_reader_needs_older_pages() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let reader = held(&database);
    let one = set(&database, &sql, 1);
    let two = set(&database, &sql, 2);
    let three = set(&database, &sql, 3);
    // The reader of the state before holds back all of it, that of entry 1 the rest.
    let before = database.oldest_snapshot().unwrap();
    assert!(before < one.position);
    assert!(backfill(&database, &[one, two]).is_none());
    assert_eq!(number(&reader, SUM), 0);
    drop(reader);
    // Two ends have been offered, so both are committed.
    let reader = held(&database);
    assert_eq!(number(&reader, SUM), 2 * ROWS);
    assert_eq!(backfill(&database, &[one, two, three]), Some(two));
    assert_eq!(database.oldest_snapshot(), Some(two.position));
    assert_eq!(number(&reader, SUM), 2 * ROWS);
    assert_eq!(
        content_of_image(&file_image(&node, &database)),
        content(&reader)
    );
    drop(reader);
    // Of the committed view entry 3 is a part by now, and it is not in the file.
    let reader = held(&database);
    assert_eq!(number(&reader, SUM), 3 * ROWS);
    assert_eq!(backfill(&database, &[three]), Some(three));
    assert_eq!(number(&reader, SUM), 3 * ROWS);
}

#[test]
fn a_committed_reader_of_the_file_alone_holds_back_backfill_and_restart() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = set(&database, &sql, 1);
    assert_eq!(backfill(&database, &[one]), Some(one));
    // The live view has newer frames, the committed one none: its readers need the file alone.
    let two = set(&database, &sql, 2);
    let reader = held(&database);
    assert_eq!(number(&reader, SUM), ROWS);
    assert!(backfill(&database, &[two]).is_none());
    assert_eq!(number(&reader, SUM), ROWS);
    assert_eq!(
        content_of_image(&file_image(&node, &database)),
        content(&reader)
    );
    drop(reader);
    assert_eq!(backfill(&database, &[two]), Some(two));

    let reader = held(&database);
    assert_eq!(number(&reader, SUM), 2 * ROWS);
    assert!(!database.restart());
    reader.execute_batch("COMMIT").unwrap();
    assert!(database.restart());
    assert_eq!(number(&reader, SUM), 2 * ROWS);
    // The new life of the WAL is seen as the old one was.
    let three = set(&database, &sql, 3);
    assert_eq!(number(&reader, SUM), 2 * ROWS);
    // The commit at the restart is shown, by any of its names.
    database.show_committed(&two).unwrap();
    assert_eq!(number(&reader, SUM), 2 * ROWS);
    database.show_committed(&three).unwrap();
    assert_eq!(number(&reader, SUM), 3 * ROWS);
    assert_eq!(backfill(&database, &[three]), Some(three));
    assert!(database.restart());
    assert_eq!(content(&reader), content(&sql));
}

#[test]
fn a_running_backfill_keeps_committed_readers_out_of_the_pages_that_it_writes() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = set(&database, &sql, 1);
    let reader = database.connect_committed().unwrap();
    reader.pragma_update(None, "cache_size", 2).unwrap();
    let mut running = database.begin_backfill(&[one]).unwrap().unwrap();
    set(&database, &sql, 2);
    let mut more = true;
    while more {
        more = running.write_slice(1).unwrap();
        assert_eq!(number(&reader, SUM), ROWS);
    }
    running.publish();
    assert_eq!(number(&reader, SUM), ROWS);
    assert_eq!(number(&sql, SUM), 2 * ROWS);
}

#[test]
fn a_roll_back_ends_the_readers_and_shows_the_same_state_again() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = set(&database, &sql, 1);
    database.show_committed(&one).unwrap();
    let reader = held(&database);
    assert_eq!(number(&reader, SUM), ROWS);
    let lost = set(&database, &sql, 2);
    database.roll_back(&one).unwrap();
    assert!(is_ended(&reader, "main") && is_ended(&sql, "main"));
    assert_eq!(
        code(reader.query_row(SUM, [], |_| Ok(()))),
        ErrorCode::SystemIoFailure
    );
    let refused = database.show_committed(&lost);
    assert!(
        matches!(refused, Err(VfsError::UnknownCommitPoint { .. })),
        "{refused:?}"
    );
    // Other pages take the places of the frames that were cut off.
    let sql = database.connect().unwrap();
    let fresh = database.connect_committed().unwrap();
    assert!(!is_ended(&fresh, "main"));
    assert_eq!(number(&fresh, SUM), ROWS);
    sql.execute_batch("CREATE TABLE other AS SELECT randomblob(300) FROM t")
        .unwrap();
    assert_eq!(number(&fresh, SUM), ROWS);
    assert!(fresh.prepare("SELECT * FROM other").is_err());
    let two = database.take_capture().unwrap().commit_point;
    database.show_committed(&two).unwrap();
    assert_eq!(content(&fresh), content(&sql));
    assert_sound(&fresh);
    // The old reader goes at last, and takes no lock of the new life with it.
    drop(reader);
    assert_eq!(backfill(&database, &[two]), Some(two));
    drop(fresh);
    assert!(database.restart());
    assert_eq!(database.recovery_requests(), 0);
}

#[test]
fn what_is_rolled_back_to_is_shown() {
    // The VFS was not told of the commit. What is rolled back to is committed.
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = set(&database, &sql, 1);
    set(&database, &sql, 2);
    database.roll_back(&one).unwrap();
    let reader = database.connect_committed().unwrap();
    assert_eq!(number(&reader, SUM), ROWS);
}

#[test]
fn a_follower_shows_what_it_applies() {
    let node = Node::new();
    let (leader, sql) = leader(&node);
    let follower = node.database("follower.db", PageSize::DEFAULT);
    let reader = follower.connect_committed().unwrap();
    let mut whole = Vec::new();
    leader
        .read_pages_at(&leader.commit_point(), &mut |number, page| {
            whole.push((number, Page::from(page)));
        })
        .unwrap();
    let page_count = leader.commit_point().page_count();
    let start = follower.apply(&whole, page_count).unwrap();
    assert_eq!(number(&reader, SUM), 0);
    for value in 1..=20 {
        sql.execute("UPDATE t SET b = ?1", [value]).unwrap();
        let capture = leader.take_capture().unwrap();
        let point = follower.apply(&capture.pages, capture.page_count).unwrap();
        assert_eq!(number(&reader, SUM), value * ROWS);
        assert_eq!(read_position(&reader, "main"), Some(point.position));
        if value % 7 == 0 {
            assert_eq!(backfill(&follower, &[start, point]), Some(point));
            assert!(follower.restart());
        }
    }
    assert_sound(&reader);
}

#[test]
fn readers_on_threads_see_only_committed_states_in_order() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let said = AtomicI64::new(0);
    let stop = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0u64;
                    let mut last = 0;
                    let mut reader = database.connect_committed().unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let rows = "SELECT min(b), max(b), count(*) FROM t";
                        let seen = reader.query_row(rows, [], |row| {
                            Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?))
                        });
                        let Ok((least, most, count)) = seen else {
                            assert!(is_ended(&reader, "main"), "{seen:?}");
                            reader = database.connect_committed().unwrap();
                            continue;
                        };
                        let said = said.load(Ordering::SeqCst);
                        assert_eq!((least, count), (most, ROWS), "half a transaction");
                        assert!(last <= least, "time goes backwards");
                        assert!(least <= said, "not committed");
                        last = least;
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let _stop_anyway = common::Stop(&stop);
        let mut sql = sql;
        let mut ends = Vec::new();
        for value in 1..=150 {
            let point = set(&database, &sql, value);
            if value % 40 == 13 {
                // It was not committed after all: the same value comes again, in a new life.
                let to = *ends.last().unwrap();
                set(&database, &sql, 1_000_000);
                said.store(value - 1, Ordering::SeqCst);
                database.roll_back(&to).unwrap();
                sql = database.connect().unwrap();
                let again = set(&database, &sql, value);
                ends.push(again);
            } else {
                ends.push(point);
            }
            // One commit runs ahead of what is said to be committed.
            if let [.., known, _] = ends[..] {
                said.store(value - 1, Ordering::SeqCst);
                database.show_committed(&known).unwrap();
                if value % 10 == 0 {
                    backfill(&database, &ends[..ends.len() - 1]);
                }
            }
            if value % 25 == 0 {
                said.store(value, Ordering::SeqCst);
                let last = *ends.last().unwrap();
                database.show_committed(&last).unwrap();
                backfill(&database, &ends);
                let parking = database.park(std::time::Duration::from_millis(200));
                for _ in 0..1_000 {
                    backfill(&database, &ends);
                    if database.restart() {
                        ends = vec![database.commit_point()];
                        break;
                    }
                    std::thread::yield_now();
                }
                drop(parking);
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .sum::<u64>()
    });
    assert!(reads > 50, "{reads} reads");
    assert_eq!(database.recovery_requests(), 0);
}

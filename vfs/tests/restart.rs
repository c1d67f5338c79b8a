//! Restart of the WAL: its memory returns, and nobody notices.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Node, assert_same_image, assert_sound, backfill, content, file_image, image, image_at, number,
};
use ringlite_vfs::{CommitPoint, Database, PageSize, VfsError, held_snapshot, read_position};
use rusqlite::Connection;

const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)";
const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                    INSERT INTO t SELECT i, hex(randomblob(200)) FROM n";

fn leader(node: &Node) -> (Database, Connection) {
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    (database, sql)
}

/// Captures, and backfills everything.
fn backfill_all(database: &Database) -> CommitPoint {
    let end = database.take_capture().unwrap().commit_point;
    assert_eq!(backfill(database, &[end]), Some(end));
    end
}

#[test]
fn the_memory_returns_and_the_content_stays() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    assert!(!database.restart(), "nothing is backfilled");
    sql.execute_batch(ROWS).unwrap();
    let expected = content(&sql);
    let end = backfill_all(&database);
    assert!(database.wal_bytes() > 100_000);
    assert!(database.restart());
    assert!(!database.restart(), "nothing is there");
    assert_eq!((database.wal_frames(), database.wal_bytes()), (0, 0));
    assert_eq!(database.backfilled_frames(), 0);
    let start = database.commit_point();
    assert!(start.position > end.position);
    assert_eq!(start.page_count(), end.page_count());
    assert!(database.take_capture().is_none());
    // The open connection and a new one go on, and readers see the newer position.
    assert_eq!(content(&sql), expected);
    assert_eq!(read_position(&sql, "main"), Some(start.position));
    sql.execute_batch("UPDATE t SET b = 'new' WHERE a < 9")
        .unwrap();
    let capture = database.take_capture().unwrap();
    assert!(capture.commit_point.position > start.position);
    assert!(capture.pages.len() < 10);
    assert_eq!(content(&database.connect().unwrap()), content(&sql));
    assert_sound(&sql);
    assert_eq!(database.recovery_requests(), 0);
}

#[test]
fn what_is_not_captured_or_in_use_prevents_it() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    sql.execute_batch(ROWS).unwrap();
    // The caller says that this commit is durable, which it cannot be before its capture.
    let end = database.commit_point();
    backfill(&database, &[end]).unwrap();
    assert!(!database.restart(), "not captured");
    database.take_capture().unwrap();
    let writer = database.connect().unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(!database.restart(), "a writer");
    writer.execute_batch("ROLLBACK").unwrap();
    let pin = database.pin(&end).unwrap();
    assert!(!database.restart(), "a pin");
    drop(pin);
    let reader = database.connect().unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 500);
    assert!(!database.restart(), "a reader");
    drop(reader);
    assert!(database.restart());
}

#[test]
fn who_has_read_may_write_after_a_restart_was_tried() {
    // With READ(0) left free, the restart would change the header under this transaction, and its
    // UPDATE would be told that somebody had committed.
    let node = Node::new();
    let (database, sql) = leader(&node);
    sql.execute_batch(ROWS).unwrap();
    let other = database.connect().unwrap();
    for round in 0..4 {
        // In turn with READ(0), because all frames are in the file, and with a read mark.
        if round % 2 == 0 {
            backfill_all(&database);
        }
        sql.execute_batch("BEGIN").unwrap();
        assert_eq!(number(&sql, "SELECT count(*) FROM t"), 500);
        assert!(!database.restart());
        assert_eq!(number(&other, "SELECT count(*) FROM t"), 500);
        sql.execute_batch(&format!("UPDATE t SET b = {round}; COMMIT"))
            .unwrap();
    }
    backfill_all(&database);
    assert!(database.restart());
    // And the other way round: a real conflict stays one.
    sql.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&sql, "SELECT count(*) FROM t"), 500);
    other.execute_batch("UPDATE t SET b = 2").unwrap();
    let error = sql.execute_batch("UPDATE t SET b = 3").unwrap_err();
    let busy_snapshot = rusqlite::ffi::SQLITE_BUSY_SNAPSHOT;
    assert_eq!(error.sqlite_error().unwrap().extended_code, busy_snapshot);
}

#[test]
fn readers_of_the_empty_wal_stop_no_writer() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    sql.execute_batch(ROWS).unwrap();
    backfill_all(&database);
    assert!(database.restart());
    let readers: Vec<_> = (0..8).map(|_| database.connect().unwrap()).collect();
    for reader in &readers {
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(number(reader, "SELECT count(*) FROM t"), 500);
    }
    for row in 1000..1100 {
        sql.execute("INSERT INTO t VALUES (?1, hex(randomblob(900)))", [row])
            .unwrap();
    }
    for reader in &readers {
        assert_eq!(number(reader, "SELECT count(*) FROM t"), 500);
    }
    assert_eq!(number(&sql, "SELECT count(*) FROM t"), 600);
}

#[test]
fn a_follower_applies_into_the_new_generation_and_can_lead() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let follower = node.database("follower.db", PageSize::DEFAULT);
    let mut position = follower.commit_point().position;
    for round in 0..5 {
        sql.execute_batch(&format!(
            "{}; DELETE FROM t WHERE a % 3 = {round}",
            ROWS.replace("INSERT", "INSERT OR REPLACE")
        ))
        .unwrap();
        let capture = database.take_capture().unwrap();
        let reader = follower.connect().unwrap();
        reader.execute_batch("BEGIN").unwrap();
        let before = content(&reader);
        let end = follower.apply(&capture.pages, capture.page_count).unwrap();
        assert!(end.position > position);
        assert_eq!(content(&reader), before);
        drop(reader);
        assert_eq!(backfill(&follower, &[end]), Some(end));
        assert_same_image(&file_image(&node, &follower), &image(&database));
        assert!(follower.restart());
        position = follower.commit_point().position;
        assert!(position > end.position);
    }
    // A commit of the size alone, with the file as its base.
    let pages = follower.commit_point().page_count();
    follower.apply(&[], pages + 1).unwrap();
    assert_eq!(follower.wal_frames(), 1);
    follower.apply(&[], pages).unwrap();
    follower.set_writable(true);
    let promoted = follower.connect().unwrap();
    promoted.pragma_update(None, "cache_size", 3).unwrap();
    promoted
        .execute_batch("UPDATE t SET b = hex(randomblob(500)); DELETE FROM t WHERE a < 50")
        .unwrap();
    assert_sound(&promoted);
    backfill_all(&follower);
    assert!(follower.restart());
    // SQLite's first frame after a restart, in a transaction that spills and rewrites frames.
    promoted
        .execute_batch(
            "BEGIN; UPDATE t SET b = hex(randomblob(400)); UPDATE t SET b = b || 'x'; COMMIT",
        )
        .unwrap();
    assert_sound(&promoted);
    backfill_all(&follower);
    assert_eq!(
        common::content_of_image(&file_image(&node, &follower)),
        content(&promoted)
    );
}

#[test]
fn a_spill_that_is_rolled_back_in_an_empty_wal_leaves_nothing() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    sql.execute_batch(ROWS).unwrap();
    backfill_all(&database);
    assert!(database.restart());
    sql.pragma_update(None, "cache_size", 3).unwrap();
    let expected = content(&sql);
    sql.execute_batch("BEGIN; UPDATE t SET b = hex(randomblob(900))")
        .unwrap();
    assert!(database.wal_bytes() > 100_000);
    sql.execute_batch("ROLLBACK").unwrap();
    assert_eq!((database.wal_frames(), database.wal_bytes()), (0, 0));
    assert_eq!(content(&sql), expected);
    sql.execute_batch("UPDATE t SET b = 1 WHERE a = 1").unwrap();
    assert_sound(&database.connect().unwrap());
    backfill_all(&database);
    assert!(database.restart());
}

#[test]
fn the_commit_of_the_restart_stays_known_and_earlier_ones_do_not() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let early = database.commit_point();
    sql.execute_batch(ROWS).unwrap();
    let lost = database.commit_point();
    sql.execute_batch("UPDATE t SET b = 1").unwrap();
    let _ = database.take_capture();
    // The point has two names when the leader has stepped down to it.
    database.roll_back(&lost).unwrap();
    let again = database.commit_point();
    assert_eq!(backfill(&database, &[lost]), Some(lost));
    let expected = image(&database);
    assert!(database.restart());
    for name in [lost, again] {
        assert_same_image(&image_at(&database, &name), &expected);
        // As an end it is in the file already.
        assert!(database.begin_backfill(&[name]).unwrap().is_none());
    }
    for result in [
        database.roll_back(&early),
        database.read_pages_at(&early, &mut |_, _| ()),
    ] {
        assert!(
            matches!(result, Err(VfsError::UnknownCommitPoint { .. })),
            "{result:?}"
        );
    }
    // A leader that steps down before its first commit of the new generation was committed.
    let fresh = database.connect().unwrap();
    fresh.execute_batch("DELETE FROM t").unwrap();
    let before = database.commit_point().position;
    database.roll_back(&lost).unwrap();
    assert!(database.commit_point().position > before);
    assert_eq!(database.wal_frames(), 0);
    assert_same_image(&image(&database), &expected);
    assert_same_image(&image_at(&database, &again), &expected);
    let fresh = database.connect().unwrap();
    assert_eq!(number(&fresh, "SELECT count(*) FROM t"), 500);
    fresh.execute_batch("DELETE FROM t WHERE a = 1").unwrap();
    backfill_all(&database);
    assert!(database.restart());
    assert!(database.read_pages_at(&lost, &mut |_, _| ()).is_err());
}

#[test]
fn parking_holds_new_readers_and_ends_by_itself() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    sql.execute_batch("INSERT INTO t VALUES (1, 1)").unwrap();
    // It is over with its limit,
    let begun = Instant::now();
    let parking = database.park(Duration::from_millis(30));
    assert_eq!(number(&sql, "SELECT count(*) FROM t"), 1);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    drop(parking);
    // and with its guard. A transaction that is open goes on.
    sql.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&sql, "SELECT count(*) FROM t"), 1);
    let parking = database.park(Duration::from_secs(60));
    let begun = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let reader = database.connect().unwrap();
            begun.store(true, Ordering::Release);
            assert_eq!(number(&reader, "SELECT count(*) FROM t"), 2);
        });
        sql.execute_batch("INSERT INTO t VALUES (2, 2); COMMIT")
            .unwrap();
        assert!(held_snapshot(&sql, "main").is_none());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!reader.is_finished());
        backfill_all(&database);
        assert!(database.restart());
        drop(parking);
        reader.join().unwrap();
    });
    assert!(begun.into_inner());
}

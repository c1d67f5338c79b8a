//! The bound on the WAL bytes of one write transaction.

mod common;

use common::{Node, assert_sound, code, content, number};
use ringlite_vfs::{Database, Vfs, VfsOptions, holds_write_lock, transaction_is_too_large};
use rusqlite::{Connection, ErrorCode};

const BYTES_MAX: u64 = 40 * 4096;
const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)";
/// About 250 pages.
const LARGE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                     INSERT INTO t SELECT i + 100, hex(randomblob(450)) FROM n";

fn bounded() -> (Node, Database, Connection) {
    let mut node = Node::new();
    node.vfs = Vfs::register(VfsOptions {
        transaction_bytes_max: BYTES_MAX,
        ..VfsOptions::new(node.path(), node.path())
    })
    .unwrap();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    sql.execute_batch("INSERT INTO t VALUES (1, 1)").unwrap();
    (node, database, sql)
}

/// What has to be true after a transaction was refused.
#[track_caller]
fn assert_clean(database: &Database, sql: &Connection, before: &[String]) {
    assert!(sql.is_autocommit() && !holds_write_lock(sql, "main"));
    assert_eq!(
        database.wal_bytes(),
        u64::from(database.wal_frames()) * 4096,
        "the memory is back"
    );
    assert_eq!(content(sql), before);
    assert_eq!(content(&database.connect().unwrap()), before);
    assert_sound(sql);
    // Another connection writes, and so does the same one.
    let other = database.connect().unwrap();
    other
        .execute_batch("INSERT INTO t VALUES (-5, 5); DELETE FROM t WHERE a = -5")
        .unwrap();
    assert!(transaction_is_too_large(sql, "main"));
    assert!(!transaction_is_too_large(&other, "main"));
    sql.execute_batch("INSERT INTO t VALUES (-6, 6); DELETE FROM t WHERE a = -6")
        .unwrap();
    assert!(!transaction_is_too_large(sql, "main"), "a new transaction");
    assert_eq!(database.recovery_requests(), 0);
}

#[test]
fn a_statement_that_spills_too_much_fails_and_leaves_nothing() {
    let (_node, database, sql) = bounded();
    let before = content(&sql);
    // With a small cache it is a spill that is refused, with a large one the commit.
    for cache_pages in [5, 10_000] {
        sql.pragma_update(None, "cache_size", cache_pages).unwrap();
        assert_eq!(code(sql.execute_batch(LARGE)), ErrorCode::DiskFull);
        assert_clean(&database, &sql, &before);
    }
}

#[test]
fn so_does_an_explicit_transaction() {
    let (_node, database, sql) = bounded();
    let before = content(&sql);
    for cache_pages in [5, 10_000] {
        sql.pragma_update(None, "cache_size", cache_pages).unwrap();
        sql.execute_batch("BEGIN; INSERT INTO t VALUES (2, 2); SAVEPOINT s")
            .unwrap();
        let refused = sql
            .execute_batch(LARGE)
            .and_then(|()| sql.execute_batch("COMMIT"));
        assert_eq!(code(refused), ErrorCode::DiskFull);
        if !sql.is_autocommit() {
            sql.execute_batch("ROLLBACK").unwrap();
        }
        assert_clean(&database, &sql, &before);
    }
}

#[test]
fn index_and_vacuum_count_too() {
    let (_node, database, sql) = bounded();
    sql.pragma_update(None, "cache_size", 5).unwrap();
    for first in (0..400).step_by(40) {
        sql.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n
                 WHERE i < {first} + 39)
             INSERT OR REPLACE INTO t SELECT i, hex(randomblob(450)) FROM n"
        ))
        .unwrap();
    }
    let before = content(&sql);
    for statement in ["CREATE INDEX i ON t (b)", "VACUUM"] {
        assert_eq!(code(sql.execute_batch(statement)), ErrorCode::DiskFull);
        assert_clean(&database, &sql, &before);
    }
}

#[test]
fn a_transaction_up_to_the_bound_is_served() {
    let (_node, database, sql) = bounded();
    // One row of so many overflow pages, with the leaf and page 1 that change with it.
    let commit = |pages: u64| {
        let before = database.wal_frames();
        let bytes = i64::try_from(pages * 4092).unwrap();
        sql.execute("INSERT INTO t (b) VALUES (zeroblob(?1))", [bytes])
            .map(|_| u64::from(database.wal_frames() - before))
    };
    let spare = commit(10).unwrap() - 10;
    let most = BYTES_MAX / 4096 - spare;
    assert_eq!(commit(most).unwrap() * 4096, BYTES_MAX);
    assert_eq!(code(commit(most + 1)), ErrorCode::DiskFull);
    // What was committed before does not count.
    assert_eq!(commit(most).unwrap() * 4096, BYTES_MAX);
    assert_eq!(number(&sql, "SELECT count(*) FROM t"), 4);
}

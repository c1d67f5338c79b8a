//! Removal: the file goes, live handles die, and the name is free.

mod common;

use common::{Node, code, content, number};
use ringlite_vfs::{PageSize, Vfs, VfsError, VfsOptions};
use rusqlite::ErrorCode;

const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)";

#[track_caller]
fn assert_removed<T: std::fmt::Debug>(result: &Result<T, VfsError>) {
    assert!(
        matches!(result, Err(VfsError::Removed { .. })),
        "{result:?}"
    );
}

#[test]
fn live_handles_die_and_the_name_is_free_at_once() {
    let node = Node::new();
    let old = node.leader();
    let sql = old.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    sql.execute_batch("INSERT INTO t VALUES (1, zeroblob(100000))")
        .unwrap();
    let point = old.take_capture().unwrap().commit_point;
    let mut backfill = old.begin_backfill(&[point]).unwrap().unwrap();
    assert!(backfill.write_slice(1).unwrap());
    let writer = old.connect().unwrap();
    writer.pragma_update(None, "cache_size", 3).unwrap();
    writer
        .execute_batch("BEGIN; UPDATE t SET b = zeroblob(200000)")
        .unwrap();
    let reader = old.connect().unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 1);

    node.vfs.remove("leader.db").unwrap();
    assert!(!node.path().join("leader.db").exists());
    let new = node.leader();
    let fresh = new.connect().unwrap();
    assert_eq!(content(&fresh), Vec::<String>::new());
    fresh.execute_batch("CREATE TABLE other (c)").unwrap();

    // Whatever the old ones do now, it fails, and nothing of it is seen in the new database.
    assert_eq!(old.wal_bytes(), 0);
    let failed = reader.query_row("SELECT hex(b) FROM t", [], |_| Ok(()));
    assert_eq!(code(failed), ErrorCode::SystemIoFailure);
    assert_eq!(
        code(sql.execute_batch("INSERT INTO t VALUES (2, 2)")),
        ErrorCode::SystemIoFailure
    );
    assert!(writer.execute_batch("COMMIT").is_err());
    let _ = writer.execute_batch("ROLLBACK");
    drop((sql, writer, reader));
    assert_removed(&backfill.write_slice(1));
    drop(backfill);
    assert_removed(&old.connect());
    assert_removed(&old.pin(&point));
    assert_removed(&old.roll_back(&point));
    assert_removed(&old.begin_backfill(&[point]));
    assert_removed(&old.apply(&[], 1));
    assert_removed(&old.read_pages_at(&point, &mut |_, _| ()));
    assert!(old.take_capture().is_none() && !old.restart());

    assert_eq!(content(&fresh), content(&new.connect().unwrap()));
    assert_eq!(number(&fresh, "SELECT count(*) FROM other"), 0);
    assert_eq!((old.recovery_requests(), new.recovery_requests()), (0, 0));
}

#[test]
fn what_is_not_there_can_be_removed_again() {
    let node = Node::new();
    node.vfs.remove("never.db").unwrap();
    drop(node.database("closed.db", PageSize::MIN));
    node.vfs.remove("closed.db").unwrap();
    node.vfs.remove("closed.db").unwrap();
    assert!(matches!(
        node.vfs.open("closed.db"),
        Err(VfsError::Io { .. })
    ));
    assert!(matches!(
        node.vfs.remove("../outside"),
        Err(VfsError::InvalidName { .. })
    ));
}

#[test]
fn a_removal_that_fails_says_so() {
    let node = Node::new();
    std::fs::create_dir(node.path().join("in-the-way.db")).unwrap();
    assert!(matches!(
        node.vfs.remove("in-the-way.db"),
        Err(VfsError::Io {
            operation: "remove",
            ..
        })
    ));
    let nowhere = node.path().join("nowhere");
    let vfs = Vfs::register(VfsOptions::new(&nowhere, &nowhere)).unwrap();
    assert!(matches!(
        vfs.remove("a.db"),
        Err(VfsError::Io {
            operation: "sync",
            ..
        })
    ));
}

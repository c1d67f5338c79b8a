//! Roll back: what comes after a commit is gone, whatever old connections still do.

mod common;

use common::{
    Node, assert_same_image, assert_sound, content, content_of_image, image, image_at, number,
};
use ringlite_vfs::{CommitPoint, Database, Page, PageNumber, PageSize, VfsError, first_page};
use rusqlite::{Connection, ffi};

/// The size of the databases that [`fill`] makes, in pages.
const FILLED_PAGES: u32 = 702;

/// Puts commits of one page each into the WAL until it has `frames` frames. Only the index matters
/// here, so the pages after the first belong to no tree.
fn fill(database: &Database, frames: u32, salt: u8) -> Vec<CommitPoint> {
    let mut points = Vec::new();
    while database.wal_frames() < frames {
        let frame = database.wal_frames() + 1;
        let (number, page) = match frame {
            1 => {
                let mut bytes = first_page(PageSize::MIN);
                bytes[28..32].copy_from_slice(&FILLED_PAGES.to_be_bytes());
                (1, Page::from(&bytes[..]))
            }
            _ => {
                let fill = (frame >> 3) as u8 ^ salt;
                (
                    2 + frame.wrapping_mul(31) % 700,
                    Page::from(&[fill; 512][..]),
                )
            }
        };
        points.push(
            database
                .apply(&[(PageNumber(number), page)], FILLED_PAGES)
                .unwrap(),
        );
    }
    points
}

/// A database whose commits are one frame each once the table is there.
fn prepared(node: &Node) -> (Database, Connection) {
    let database = node.database("rolled.db", PageSize::MIN);
    database.set_writable(true);
    let sql = database.connect().unwrap();
    sql.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        .unwrap();
    (database, sql)
}

#[test]
fn to_every_border_of_the_index_regions_and_on_from_there() {
    for cut in [1, 2, 4060, 4061, 4062, 4063, 8157, 8158, 8159] {
        let node = Node::new();
        let database = node.database("borders.db", PageSize::MIN);
        let points = fill(&database, 8300, 0);
        let to = points
            .iter()
            .find(|point| point.position.frame == cut)
            .unwrap();
        let expected = image_at(&database, to);
        database.roll_back(to).unwrap();
        assert_eq!(database.wal_frames(), cut);
        assert_eq!(database.wal_bytes(), u64::from(cut) * 512);
        assert_same_image(&image(&database), &expected);
        // The next life writes other pages over the same borders; SQLite's lookups have to agree
        // with the frames.
        fill(&database, cut + 4300, 0xff);
        check_lookups(&database);
    }
}

/// Compares what SQLite finds through the index with the frames themselves, page by page.
#[track_caller]
fn check_lookups(database: &Database) {
    for sql in [
        database.connect().unwrap(),
        database.connect_committed().unwrap(),
    ] {
        assert_same_image(&found_by_sqlite(&sql), &image(database));
    }
}

/// The pages of a database as a connection finds them.
fn found_by_sqlite(sql: &Connection) -> Vec<Vec<u8>> {
    let mut bytes: ffi::sqlite3_int64 = 0;
    // SAFETY: the connection is open; the result is memory of that many bytes, freed below.
    let found = unsafe {
        let start = ffi::sqlite3_serialize(sql.handle(), c"main".as_ptr(), &raw mut bytes, 0);
        assert!(!start.is_null());
        let copy = std::slice::from_raw_parts(start, usize::try_from(bytes).unwrap()).to_vec();
        ffi::sqlite3_free(start.cast());
        copy
    };
    found.chunks(512).map(<[u8]>::to_vec).collect()
}

#[test]
fn of_sql_commits_to_each_and_writes_on() {
    for cut in [0, 1, 5, 30] {
        let node = Node::new();
        let database = node.database("sql.db", PageSize::DEFAULT);
        database.set_writable(true);
        let mut points = vec![(database.commit_point(), Vec::new())];
        let sql = database.connect().unwrap();
        sql.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
            .unwrap();
        for row in 0..40 {
            points.push((database.commit_point(), content(&sql)));
            sql.execute("INSERT INTO t VALUES (?1, hex(randomblob(300)))", [row])
                .unwrap();
        }
        drop(sql);
        database.take_capture().unwrap();
        let (to, expected) = &points[cut];
        database.roll_back(to).unwrap();
        assert!(database.take_capture().is_none());
        assert_eq!(&content_of_image(&image(&database)), expected);

        let sql = database.connect().unwrap();
        assert_eq!(&content(&sql), expected);
        sql.execute_batch("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b)")
            .unwrap();
        sql.execute_batch("INSERT INTO t VALUES (1000, 'new life')")
            .unwrap();
        let capture = database.take_capture().unwrap();
        assert!(capture.commit_point.position > points.last().unwrap().0.position);
        assert_sound(&sql);
        assert_eq!(content_of_image(&image(&database)), content(&sql));
    }
}

#[test]
fn a_point_that_was_cut_off_is_unknown() {
    let node = Node::new();
    let (database, sql) = prepared(&node);
    let start = database.commit_point();
    sql.execute_batch("INSERT INTO t VALUES (1, 1)").unwrap();
    let gone = database.commit_point();
    drop(sql);
    database.roll_back(&start).unwrap();
    let sql = database.connect().unwrap();
    sql.execute_batch("INSERT INTO t VALUES (2, 2); INSERT INTO t VALUES (3, 3)")
        .unwrap();
    for result in [
        database.roll_back(&gone),
        database.read_pages_at(&gone, &mut |_, _| ()),
    ] {
        assert!(
            matches!(result, Err(VfsError::UnknownCommitPoint { .. })),
            "{result:?}"
        );
    }
    // What lies before both cuts is still there, twice over.
    database.roll_back(&start).unwrap();
    database.roll_back(&start).unwrap();
    let sql = database.connect().unwrap();
    assert_eq!(number(&sql, "SELECT count(*) FROM t"), 0);
}

#[test]
fn open_readers_get_errors_and_never_wrong_rows() {
    let node = Node::new();
    let (database, sql) = prepared(&node);
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                INSERT INTO t SELECT i, hex(randomblob(60)) FROM n";
    let to = database.commit_point();
    sql.execute_batch(rows).unwrap();
    let reader = database.connect().unwrap();
    reader.pragma_update(None, "cache_size", 2).unwrap();
    let mut statement = reader.prepare("SELECT a FROM t").unwrap();
    let mut cursor = statement.query([]).unwrap();
    assert!(cursor.next().unwrap().is_some());
    let idle = database.connect().unwrap();
    assert_eq!(number(&idle, "SELECT count(*) FROM t"), 500);

    database.roll_back(&to).unwrap();
    let fresh = database.connect().unwrap();
    fresh
        .execute_batch("INSERT INTO t VALUES (7000, 'new life')")
        .unwrap();

    let mut seen = 0;
    let error = loop {
        match cursor.next() {
            Ok(Some(row)) => {
                let a: i64 = row.get(0).unwrap();
                assert!(a <= 500, "rows of the old life only, from the cache");
                seen += 1;
            }
            Ok(None) => panic!("the whole table was read"),
            Err(error) => break error,
        }
    };
    assert!(seen < 200, "{seen} rows from a cache of two pages");
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::SystemIoFailure)
    );
    for old in [&idle, &sql] {
        assert!(old.execute_batch("SELECT count(*) FROM t").is_err());
        assert!(old.execute_batch("INSERT INTO t VALUES (1, 1)").is_err());
    }
    drop(cursor);
    drop(statement);
    drop((reader, idle, sql));
    assert_eq!(number(&fresh, "SELECT count(*) FROM t"), 1);
    assert_sound(&fresh);
}

/// Opens a transaction that has written pages to the WAL already.
fn spilled_writer(database: &Database) -> Connection {
    let sql = database.connect().unwrap();
    sql.pragma_update(None, "cache_size", 5).unwrap();
    sql.execute_batch(
        "BEGIN IMMEDIATE;
         WITH RECURSIVE n(i) AS (SELECT 100000 UNION ALL SELECT i + 1 FROM n WHERE i < 101500)
         INSERT INTO t SELECT i, hex(randomblob(60)) FROM n",
    )
    .unwrap();
    sql
}

#[test]
fn a_spilled_writer_that_ends_late_harms_nobody() {
    for end in ["ROLLBACK", "COMMIT", ""] {
        let node = Node::new();
        let (database, sql) = prepared(&node);
        sql.execute_batch("INSERT INTO t VALUES (1, 'kept')")
            .unwrap();
        let to = database.commit_point();
        sql.execute_batch("INSERT INTO t VALUES (2, 'speculative')")
            .unwrap();
        drop(sql);
        let zombie = spilled_writer(&database);
        assert!(database.wal_bytes() > u64::from(database.wal_frames()) * 512);

        database.roll_back(&to).unwrap();
        assert_eq!(database.wal_bytes(), u64::from(to.position.frame) * 512);
        let fresh = database.connect().unwrap();
        fresh
            .execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
                 INSERT INTO t SELECT i, hex(randomblob(60)) FROM n",
            )
            .unwrap();
        // The new life has spilled too when the old one ends: what cleans the hash table of one
        // must not touch the other's.
        let writer = spilled_writer(&database);
        let point = database.commit_point();
        match end {
            "" => drop(zombie),
            end => {
                let _ = zombie.execute_batch(end);
                assert_eq!(database.commit_point(), point);
                drop(zombie);
            }
        }
        writer
            .execute_batch("UPDATE t SET b = b || 'x' WHERE a >= 100000; COMMIT")
            .unwrap();
        for row in 0..200 {
            fresh
                .execute("INSERT INTO t VALUES (?1, 'after')", [10_000 + row])
                .unwrap();
        }
        assert_eq!(
            number(&fresh, "SELECT count(*) FROM t"),
            1 + 391 + 1501 + 200
        );
        assert_sound(&fresh);
        assert_eq!(content_of_image(&image(&database)), content(&fresh));
        assert_eq!(database.recovery_requests(), 0);
    }
}

#[test]
fn a_connection_that_never_read_before_is_not_of_two_epochs() {
    // SQLite opens the WAL file at the first read, long after the main file.
    let node = Node::new();
    let (database, _sql) = prepared(&node);
    let to = database.commit_point();
    let other = node.database("other.db", PageSize::MIN);
    let sql = other.connect().unwrap();
    sql.execute_batch("ATTACH 'rolled.db' AS late").unwrap();
    database.roll_back(&to).unwrap();
    assert!(
        sql.query_row("SELECT count(*) FROM late.t", [], |_| Ok(()))
            .is_err()
    );
    sql.execute_batch("DETACH late; ATTACH 'rolled.db' AS again")
        .unwrap();
    assert_eq!(number(&sql, "SELECT count(*) FROM again.t"), 0);
}

#[test]
fn writers_on_another_thread_while_epochs_change() {
    let node = Node::new();
    let (database, sql) = prepared(&node);
    let to = database.commit_point();
    drop(sql);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let database = &database;
                scope.spawn(move || {
                    let mut lives = 0;
                    while lives < 100 {
                        // A roll-back may come while a connection is set up.
                        let sql = match database.connect() {
                            Ok(sql) => sql,
                            Err(VfsError::Connect { source, .. }) => {
                                let io_failure = Some(rusqlite::ErrorCode::SystemIoFailure);
                                assert_eq!(source.sqlite_error_code(), io_failure, "{source}");
                                continue;
                            }
                            Err(other) => panic!("{other}"),
                        };
                        sql.pragma_update(None, "cache_size", 5).unwrap();
                        // A bound, so that a failure elsewhere does not let this go on for ever.
                        for _ in 0..2000 {
                            let insert = "INSERT INTO t (b) VALUES (hex(randomblob(900)))";
                            match sql.execute(insert, []) {
                                Ok(_) => {}
                                Err(error) => match error.sqlite_error_code() {
                                    Some(rusqlite::ErrorCode::DatabaseBusy) => continue,
                                    Some(rusqlite::ErrorCode::SystemIoFailure) => break,
                                    other => panic!("{other:?}: {error}"),
                                },
                            }
                        }
                        lives += 1;
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            std::thread::sleep(std::time::Duration::from_micros(300));
            let _ = database.take_capture();
            database.roll_back(&to).unwrap();
            // The writers go on; this thread alone rolls back.
            image_at(&database, &database.commit_point());
        }
    });
    let sql = database.connect().unwrap();
    assert_sound(&sql);
    assert_eq!(database.recovery_requests(), 0);
}

//! Captures: whatever a transaction does, its pages alone rebuild the database.

mod common;

use common::{
    Node, Shadow, assert_same_image, assert_sound, content, content_of_image, image, number,
};
use ringlite_vfs::{Capture, Database, PageSize};
use rusqlite::Connection;

/// A database, the same statements run by plain SQLite, and what the captures add up to.
struct Case {
    _node: Node,
    database: Database,
    connection: Connection,
    plain: Connection,
    shadow: Shadow,
    captures: usize,
}

impl Case {
    fn new(page_bytes: u32) -> Case {
        let node = Node::new();
        let page_size = PageSize::new(page_bytes).unwrap();
        let database = node.database("case.db", page_size);
        database.set_writable(true);
        let connection = database.connect().unwrap();
        let plain = Connection::open_in_memory().unwrap();
        let shadow = Shadow::new(page_size);
        Case {
            _node: node,
            database,
            connection,
            plain,
            shadow,
            captures: 0,
        }
    }

    fn run(&mut self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
        self.plain.execute_batch(sql).unwrap();
        self.take();
    }

    fn take(&mut self) -> Option<Capture> {
        let capture = self.database.take_capture()?;
        assert_eq!(capture.commit_point, self.database.commit_point());
        self.shadow.absorb(&capture);
        self.captures += 1;
        assert!(self.database.take_capture().is_none(), "taken once");
        Some(capture)
    }

    #[track_caller]
    fn check(&self) {
        let image = image(&self.database);
        assert_same_image(&self.shadow.image(), &image);
        let expected = content(&self.plain);
        assert_eq!(content(&self.connection), expected);
        assert_eq!(content_of_image(&image), expected);
        assert_sound(&self.connection);
        // Nothing that was rolled back stays.
        let committed = u64::from(self.database.wal_frames());
        let page_bytes = u64::from(self.database.page_size().bytes());
        assert_eq!(self.database.wal_bytes(), committed * page_bytes);
        assert_eq!(self.database.recovery_requests(), 0);
    }
}

/// `count` rows of 200 bytes into table t.
fn rows(first: u32, count: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO t SELECT i, printf('%0200d', i * 7919) FROM n;",
        first + count - 1
    )
}

const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX t_b ON t (b);";

#[test]
fn nothing_is_captured_of_what_does_not_commit() {
    let mut case = Case::new(4096);
    assert!(case.take().is_none());
    case.run(TABLE);
    assert_eq!(case.captures, 1);
    case.run("SELECT 1; BEGIN; INSERT INTO t VALUES (1, 'x'); ROLLBACK; UPDATE t SET b = 0");
    assert!(
        case.connection
            .execute("INSERT INTO nothing VALUES (1)", [])
            .is_err()
    );
    assert!(case.take().is_none());
    case.check();
}

#[test]
fn statements_in_autocommit() {
    let mut case = Case::new(4096);
    case.run(TABLE);
    for row in 0..300 {
        case.run(&format!("INSERT INTO t VALUES ({row}, 'row {row}')"));
    }
    assert_eq!(case.captures, 301);
    case.run("UPDATE t SET b = b || '!' WHERE a % 3 = 0; DELETE FROM t WHERE a % 5 = 0");
    case.check();
}

#[test]
fn several_commits_are_one_capture_with_each_page_once() {
    let mut case = Case::new(4096);
    case.run(TABLE);
    for row in 0..64 {
        let sql = format!("INSERT INTO t VALUES ({row}, {row})");
        case.connection.execute_batch(&sql).unwrap();
        case.plain.execute_batch(&sql).unwrap();
    }
    let capture = case.take().unwrap();
    assert!(capture.pages.len() <= 3, "{} pages", capture.pages.len());
    case.check();
}

#[test]
fn a_transaction_that_spills_the_cache() {
    for page_bytes in [512, 4096, 65536] {
        let mut case = Case::new(page_bytes);
        case.connection
            .pragma_update(None, "cache_size", 5)
            .unwrap();
        case.run(TABLE);
        case.run(&format!(
            "BEGIN; {} UPDATE t SET b = b || 'x'; COMMIT",
            rows(1, 2000)
        ));
        case.run("UPDATE t SET b = a");
        case.check();
    }
}

#[test]
fn spilled_frames_that_are_written_again_get_their_checksums_and_images() {
    // A page that was spilled and changes again is written over its first frame, and all checksums
    // after it are written anew.
    let mut case = Case::new(512);
    case.connection
        .pragma_update(None, "cache_size", 5)
        .unwrap();
    case.run(TABLE);
    case.run(&rows(1, 500));
    let before = case.database.wal_frames();
    case.run(
        "BEGIN; UPDATE t SET b = b || '1'; UPDATE t SET b = b || '2'; UPDATE t SET b = b || '3';
         COMMIT",
    );
    assert!(case.database.wal_frames() > before);
    // And in an empty WAL, where the first checksum is that of the WAL header.
    let mut case = Case::new(512);
    case.connection
        .pragma_update(None, "cache_size", 5)
        .unwrap();
    case.run(&format!(
        "BEGIN; {TABLE} {} UPDATE t SET b = b || '1'; COMMIT",
        rows(1, 500)
    ));
    assert_eq!(case.captures, 1);
    case.check();
}

#[test]
fn savepoints_with_spills() {
    let mut case = Case::new(1024);
    case.connection
        .pragma_update(None, "cache_size", 5)
        .unwrap();
    case.run(TABLE);
    case.run(&format!(
        "BEGIN; {} SAVEPOINT one; {} UPDATE t SET b = 'gone'; ROLLBACK TO one; {} SAVEPOINT two;
         DELETE FROM t WHERE a < 100; RELEASE two; ROLLBACK TO one; RELEASE one; {} COMMIT",
        rows(1, 400),
        rows(401, 900),
        rows(2000, 300),
        rows(5000, 10),
    ));
    case.check();
}

#[test]
fn a_statement_that_fails_half_way_is_undone() {
    let mut case = Case::new(1024);
    case.connection
        .pragma_update(None, "cache_size", 5)
        .unwrap();
    case.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b, CHECK (b <> 'bad'));");
    case.run(&rows(1, 800));
    for connection in [&case.connection, &case.plain] {
        connection
            .execute_batch("BEGIN; DELETE FROM t WHERE a = 5")
            .unwrap();
        let failing = "UPDATE t SET b = CASE a WHEN 700 THEN 'bad' ELSE b || 'y' END";
        assert!(connection.execute(failing, []).is_err());
        connection.execute_batch("COMMIT").unwrap();
    }
    case.take().unwrap();
    case.check();
}

#[test]
fn a_spilled_transaction_that_rolls_back_leaves_nothing() {
    let mut case = Case::new(1024);
    case.connection
        .pragma_update(None, "cache_size", 5)
        .unwrap();
    case.run(TABLE);
    case.run(&rows(1, 300));
    let before = (case.database.wal_frames(), case.database.commit_point());
    case.connection
        .execute_batch(&format!("BEGIN; {}", rows(1000, 2000)))
        .unwrap();
    let spilled = case.database.wal_bytes() / 1024;
    assert!(spilled > u64::from(before.0) + 100, "it did spill");
    assert!(case.take().is_none());
    case.connection.execute_batch("ROLLBACK").unwrap();
    assert!(case.take().is_none());
    assert_eq!(
        (case.database.wal_frames(), case.database.commit_point()),
        before
    );
    case.check();
    case.run(&rows(1000, 50));
    case.check();
}

#[test]
fn vacuum_drop_and_shrinking() {
    for auto_vacuum in [0, 1, 2] {
        let mut case = Case::new(1024);
        case.connection
            .pragma_update(None, "auto_vacuum", auto_vacuum)
            .unwrap();
        case.connection
            .pragma_update(None, "cache_size", 5)
            .unwrap();
        case.run("VACUUM");
        case.run(TABLE);
        case.run(&rows(1, 1500));
        let large = case.database.commit_point().page_count();
        case.run("CREATE TABLE u AS SELECT * FROM t; DROP TABLE t; PRAGMA incremental_vacuum");
        case.check();
        case.run("DELETE FROM u WHERE a > 100; VACUUM");
        assert!(case.database.commit_point().page_count() < large);
        case.check();
    }
}

#[test]
fn pages_that_were_spilled_and_then_cut_off_are_left_out() {
    let mut case = Case::new(512);
    case.connection
        .pragma_update(None, "auto_vacuum", 1)
        .unwrap();
    case.run("VACUUM");
    case.connection
        .pragma_update(None, "cache_size", 5)
        .unwrap();
    case.run(TABLE);
    let before = case.database.wal_frames();
    case.run(&format!("BEGIN; {} DELETE FROM t; COMMIT", rows(1, 1000)));
    let after = case.database.wal_frames();
    let page_count = case.database.commit_point().page_count();
    assert!(
        after - before > page_count,
        "frames of pages that are gone again"
    );
    case.check();
}

#[test]
fn a_wal_of_several_index_regions() {
    let mut case = Case::new(512);
    case.run(TABLE);
    for part in 0..6 {
        case.run(&rows(1 + part * 2000, 1000));
    }
    assert!(case.database.wal_frames() > 8158, "three regions");
    case.run("UPDATE t SET b = 'short' WHERE a % 2 = 0");
    case.check();
}

#[test]
fn a_commit_is_taken_on_another_thread() {
    let mut case = Case::new(4096);
    case.run(TABLE);
    let connection = case.database.connect().unwrap();
    std::thread::spawn(move || connection.execute_batch("INSERT INTO t VALUES (1, 2)"))
        .join()
        .unwrap()
        .unwrap();
    case.plain
        .execute_batch("INSERT INTO t VALUES (1, 2)")
        .unwrap();
    case.take().unwrap();
    assert_eq!(number(&case.connection, "SELECT b FROM t"), 2);
    case.check();
}

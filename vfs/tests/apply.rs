//! Apply: a replica that gets the captures of a leader has the same bytes, and its readers never
//! see anything but whole commits.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    Node, Random, Stop, assert_same_image, assert_sound, code, content, content_of_image, image,
    image_at, number,
};
use ringlite_vfs::{
    Database, Page, PageNumber, PageSize, VfsError, WalPosition, holds_write_lock, read_position,
};
use rusqlite::{Connection, ErrorCode};

struct Pair {
    leader: Database,
    replica: Database,
    sql: Connection,
    _node: Node,
}

impl Pair {
    fn new(page_bytes: u32) -> Pair {
        let node = Node::new();
        let page_size = PageSize::new(page_bytes).unwrap();
        let leader = node.database("leader.db", page_size);
        let replica = node.database("replica.db", page_size);
        leader.set_writable(true);
        let sql = leader.connect().unwrap();
        Pair {
            leader,
            replica,
            sql,
            _node: node,
        }
    }

    fn run(&self, sql: &str) {
        self.sql.execute_batch(sql).unwrap();
    }

    /// Moves what has committed since the last time to the replica, as one commit.
    fn ship(&self) {
        if let Some(capture) = self.leader.take_capture() {
            let before = self.replica.commit_point();
            let after = self
                .replica
                .apply(&capture.pages, capture.page_count)
                .unwrap();
            assert!(after.position > before.position);
            assert_eq!(after, self.replica.commit_point());
            assert_eq!(after.page_count(), capture.page_count);
        }
    }

    #[track_caller]
    fn check(&self) {
        let leader = image(&self.leader);
        assert_same_image(&image(&self.replica), &leader);
        let expected = content(&self.sql);
        let reader = self.replica.connect().unwrap();
        assert_eq!(content(&reader), expected);
        assert_sound(&reader);
        assert_eq!(content_of_image(&leader), expected);
        assert_eq!(self.replica.recovery_requests(), 0);
        assert!(
            self.replica.take_capture().is_none(),
            "an apply is not captured"
        );
    }
}

const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)";

#[test]
fn without_any_connection() {
    let pair = Pair::new(4096);
    pair.run(TABLE);
    pair.ship();
    for row in 0..200 {
        pair.run(&format!(
            "INSERT INTO t VALUES ({row}, hex(randomblob(30)))"
        ));
        pair.ship();
    }
    pair.check();
}

#[test]
fn coalesced_commits_over_several_index_regions() {
    let pair = Pair::new(512);
    pair.run(TABLE);
    let mut random = Random(1);
    while pair.replica.wal_frames() < 8400 {
        for _ in 0..1 + random.below(9) {
            pair.run(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
                 INSERT OR REPLACE INTO t SELECT abs(random()) % 4000, hex(randomblob(20)) FROM n;
                 DELETE FROM t WHERE a % 97 = {}",
                random.below(97)
            ));
        }
        pair.ship();
    }
    assert!(pair.leader.wal_frames() > pair.replica.wal_frames());
    pair.check();
    pair.run("DELETE FROM t WHERE a > 1000; VACUUM");
    pair.ship();
    pair.check();
}

#[test]
fn a_reader_keeps_its_snapshot_and_the_next_one_sees_the_commit() {
    let pair = Pair::new(4096);
    pair.run(TABLE);
    pair.run("INSERT INTO t VALUES (1, 'old')");
    pair.ship();
    let old = pair.replica.connect().unwrap();
    let fresh = pair.replica.connect().unwrap();
    old.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&old, "SELECT count(*) FROM t WHERE b = 'old'"), 1);
    let at = pair.replica.commit_point();
    assert_eq!(read_position(&old, "main"), Some(at.position));
    pair.run("UPDATE t SET b = 'new'; INSERT INTO t VALUES (2, 'new')");
    pair.ship();
    assert_eq!(number(&old, "SELECT count(*) FROM t WHERE b = 'old'"), 1);
    assert_eq!(read_position(&old, "main"), Some(at.position));
    assert_eq!(number(&fresh, "SELECT count(*) FROM t WHERE b = 'new'"), 2);
    assert_eq!(
        read_position(&fresh, "main"),
        Some(pair.replica.commit_point().position)
    );
    old.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&old, "SELECT count(*) FROM t WHERE b = 'new'"), 2);
    assert_eq!(image_at(&pair.replica, &at).len(), at.page_count() as usize);
    assert_same_image(&image(&pair.replica), &image(&pair.leader));
}

#[test]
fn sql_cannot_write_on_a_replica() {
    let pair = Pair::new(4096);
    pair.run(TABLE);
    pair.ship();
    let sql = pair.replica.connect().unwrap();
    assert_eq!(
        code(sql.execute("INSERT INTO t VALUES (1, 1)", [])),
        ErrorCode::DatabaseBusy
    );
    assert_eq!(
        code(sql.execute_batch("BEGIN IMMEDIATE")),
        ErrorCode::DatabaseBusy
    );
    assert!(!holds_write_lock(&sql, "main"));
    pair.replica.set_writable(true);
    sql.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(holds_write_lock(&sql, "main"));
    pair.replica.set_writable(false);
    sql.execute_batch("INSERT INTO t VALUES (1, 1); COMMIT")
        .unwrap();
    assert!(!holds_write_lock(&sql, "main"));
    assert_eq!(
        code(sql.execute("INSERT INTO t VALUES (2, 1)", [])),
        ErrorCode::DatabaseBusy
    );
}

#[test]
fn an_apply_during_a_transaction_of_sql_is_refused() {
    let pair = Pair::new(4096);
    pair.run(TABLE);
    let capture = pair.leader.take_capture().unwrap();
    pair.run("BEGIN IMMEDIATE");
    let refused = pair.leader.apply(&capture.pages, capture.page_count);
    assert!(matches!(refused, Err(VfsError::WriteLockHeld { .. })));
    pair.run("COMMIT");
    pair.leader
        .apply(&capture.pages, capture.page_count)
        .unwrap();
}

#[test]
fn sets_of_pages_that_no_commit_has_are_refused_without_effect() {
    let pair = Pair::new(4096);
    let before = (pair.replica.commit_point(), pair.replica.wal_bytes());
    let page = Page::from(&[0; 4096][..]);
    let short = Page::from(&[0; 512][..]);
    let set = |numbers: &[u32], page: &Page| -> Vec<(PageNumber, Page)> {
        numbers
            .iter()
            .map(|number| (PageNumber(*number), page.clone()))
            .collect()
    };
    let refused = [
        (set(&[0], &page), 1),
        (set(&[2], &page), 1),
        (set(&[2, 1], &page), 2),
        (set(&[2, 2], &page), 2),
        (set(&[1], &short), 1),
        (set(&[], &page), 0),
    ];
    for (pages, page_count) in refused {
        let result = pair.replica.apply(&pages, page_count);
        assert!(
            matches!(result, Err(VfsError::InvalidPages { .. })),
            "{result:?}"
        );
    }
    assert_eq!(
        (pair.replica.commit_point(), pair.replica.wal_bytes()),
        before
    );
}

#[test]
fn a_change_of_size_alone_is_a_commit_too() {
    let pair = Pair::new(4096);
    pair.run(TABLE);
    pair.ship();
    let before = pair.replica.commit_point();
    assert_eq!(
        pair.replica.apply(&[], before.page_count()).unwrap(),
        before
    );
    let grown = pair.replica.apply(&[], before.page_count() + 2).unwrap();
    assert!(grown.position > before.position);
    let pages = image(&pair.replica);
    assert_eq!(pages.len() as u32, before.page_count() + 2);
    assert_same_image(
        &pages[..before.page_count() as usize],
        &image_at(&pair.replica, &before),
    );
    assert!(
        pages[before.page_count() as usize..]
            .concat()
            .iter()
            .all(|byte| *byte == 0)
    );
    pair.replica.apply(&[], before.page_count()).unwrap();
    pair.check();
    // In an empty WAL page 1 comes from the file.
    let empty = Pair::new(512);
    empty.replica.apply(&[], 2).unwrap();
    assert_same_image(&image(&empty.replica)[..1], &image(&empty.leader));
}

#[test]
fn a_promoted_replica_writes_on_top_of_what_was_applied() {
    let pair = Pair::new(1024);
    pair.run(TABLE);
    pair.run("INSERT INTO t VALUES (1, 'from the first leader')");
    pair.ship();
    pair.replica.set_writable(true);
    let sql = pair.replica.connect().unwrap();
    sql.pragma_update(None, "cache_size", 5).unwrap();
    // Its first capture is its own commit and nothing of what it has applied.
    sql.execute_batch("INSERT INTO t VALUES (9000, 'from the second')")
        .unwrap();
    let capture = pair.replica.take_capture().unwrap();
    assert_eq!(capture.pages.len(), 1);
    pair.leader
        .apply(&capture.pages, capture.page_count)
        .unwrap();
    // Spills and writes checksums anew, the first of them after an applied frame, whose own is
    // none.
    sql.execute_batch(
        "BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO t SELECT i, hex(randomblob(40)) FROM n;
         UPDATE t SET b = b || 'x'; UPDATE t SET b = b || 'y';
         COMMIT",
    )
    .unwrap();
    let capture = pair.replica.take_capture().unwrap();
    pair.leader
        .apply(&capture.pages, capture.page_count)
        .unwrap();
    assert_eq!(number(&pair.sql, "SELECT count(*) FROM t"), 2001);
    pair.check();
}

/// Reads sums in transactions until told to stop; returns how many it has read.
fn read_sums(database: &Database, stop: &AtomicBool, expected: i64) -> u64 {
    let sql = database.connect().unwrap();
    let mut statement = sql
        .prepare("SELECT sum(cents), count(*) FROM account")
        .unwrap();
    let (mut transactions, mut last) = (
        0,
        WalPosition {
            generation: 0,
            frame: 0,
        },
    );
    while !stop.load(Ordering::Relaxed) {
        sql.execute_batch("BEGIN").unwrap();
        for _ in 0..2 {
            let (sum, count): (i64, i64) = statement
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap();
            assert_eq!((sum, count), (expected, 100));
        }
        let position = read_position(&sql, "main").unwrap();
        assert!(position >= last, "snapshots do not go back");
        last = position;
        sql.execute_batch("COMMIT").unwrap();
        transactions += 1;
    }
    transactions
}

const BANK: &str = "CREATE TABLE account (id INTEGER PRIMARY KEY, cents INTEGER, padding TEXT);
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
    INSERT INTO account SELECT i, 1000, hex(randomblob(200)) FROM n";

/// One transfer between two accounts, on pages of their own most of the time.
fn transfer(sql: &Connection, random: &mut Random) -> rusqlite::Result<()> {
    let (from, to, cents) = (random.below(100), random.below(100), random.below(50));
    sql.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         UPDATE account SET cents = cents - {cents} WHERE id = {from};
         UPDATE account SET cents = cents + {cents} WHERE id = {to};
         COMMIT"
    ))
}

#[test]
fn readers_on_other_threads_see_whole_commits_of_applies() {
    let pair = Pair::new(512);
    pair.run(BANK);
    pair.ship();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        let readers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| read_sums(&pair.replica, &stop, 100_000)))
            .collect();
        let mut random = Random(7);
        for _ in 0..3000 {
            transfer(&pair.sql, &mut random).unwrap();
            pair.ship();
        }
        drop(stopping);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    pair.check();
}

#[test]
fn a_writer_and_readers_on_other_threads() {
    let pair = Pair::new(512);
    pair.run(BANK);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        let readers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| read_sums(&pair.leader, &stop, 100_000)))
            .collect();
        let writer = scope.spawn(|| {
            let sql = pair.leader.connect().unwrap();
            let mut random = Random(8);
            for _ in 0..4000 {
                transfer(&sql, &mut random).unwrap();
            }
        });
        while !writer.is_finished() {
            pair.ship();
        }
        writer.join().unwrap();
        drop(stopping);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    pair.ship();
    pair.check();
}

#[test]
fn a_lone_writer_is_never_told_that_the_database_is_locked() {
    // The other thread takes the write lock for the VFS again and again, each time for a moment.
    // Its applies change nothing, so that the writer's own commits stay what they are.
    let node = Node::new();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch("CREATE TABLE t (a)").unwrap();
    database.take_capture().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        let applier = scope.spawn(|| {
            let mut applied = 0;
            while !stop.load(Ordering::Relaxed) {
                let page_count = database.commit_point().page_count();
                match database.apply(&[], page_count) {
                    Ok(_) => applied += 1,
                    Err(VfsError::WriteLockHeld { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            applied
        });
        for row in 0..20_000 {
            // One row over and over: the size stays, and so the applies stay empty.
            sql.execute("REPLACE INTO t (rowid, a) VALUES (1, ?1)", [row])
                .unwrap();
        }
        drop(stopping);
        assert!(applier.join().unwrap() > 100);
    });
}

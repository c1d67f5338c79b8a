//! Readers, a writer, and whoever moves the WAL into the file, each on a thread of its own.
//! `VFS_THREADS_MILLISECONDS` says how long.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Node, Stop, assert_sound, content, content_of_image, file_image, number};
use ringlite_vfs::{CommitPoint, Database, PageSize};
use rusqlite::Connection;

const MILLISECONDS_DEFAULT: u64 = 3000;
const READERS: usize = 3;
const ACCOUNTS: i64 = 400;
const CENTS: i64 = 1000;
/// Commits that are offered to a backfill as ends.
const ENDS_MAX: usize = 200;
/// Where the WAL is to be restarted, and where it must never get to. The writer is not stopped, so
/// between the two lies what it writes while a restart waits for a reader to end.
const WAL_BYTES_SOFT: u64 = 256 << 10;
const WAL_BYTES_MAX: u64 = 64 << 20;

fn run_time() -> Duration {
    let milliseconds = std::env::var("VFS_THREADS_MILLISECONDS").ok();
    Duration::from_millis(milliseconds.map_or(MILLISECONDS_DEFAULT, |text| text.parse().unwrap()))
}

fn bank(node: &Node) -> Database {
    let database = node.database("bank.db", PageSize::MIN);
    database.set_writable(true);
    let sql = database.connect().unwrap();
    sql.execute_batch(&format!(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, cents INTEGER, note TEXT);
         CREATE INDEX by_cents ON account (cents);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS})
             INSERT INTO account SELECT i, {CENTS}, hex(randomblob(40)) FROM n"
    ))
    .unwrap();
    database
}

/// Moves money by each of the ways to begin a transaction. It is the only writer, so nothing may
/// fail.
fn write(sql: &Connection, round: i64) {
    let (from, to) = (1 + round * 7 % ACCOUNTS, 1 + round * 13 % ACCOUNTS);
    let transfer = format!(
        "UPDATE account SET cents = cents - 3, note = hex(randomblob(40)) WHERE id = {from};
         UPDATE account SET cents = cents + 3 WHERE id = {to}"
    );
    match round % 4 {
        // One that has read first: a restart between its two statements would end it.
        0 => {
            sql.execute_batch("BEGIN").unwrap();
            assert_eq!(sum(sql), ACCOUNTS * CENTS);
            sql.execute_batch(&format!("{transfer}; COMMIT")).unwrap();
        }
        1 => sql
            .execute_batch(&format!("BEGIN IMMEDIATE; {transfer}; ROLLBACK"))
            .unwrap(),
        2 => sql
            .execute_batch(&format!("BEGIN IMMEDIATE; {transfer}; COMMIT"))
            .unwrap(),
        _ => sql
            .execute_batch("UPDATE account SET note = hex(randomblob(40)) WHERE id % 50 = 3")
            .unwrap(),
    }
}

fn sum(sql: &Connection) -> i64 {
    number(sql, "SELECT sum(cents) FROM account")
}

/// Reads by the table and by the index, in one snapshot, some of them for long.
fn read(database: &Database, stop: &AtomicBool, reads: &AtomicU64) {
    let sql = database.connect().unwrap();
    sql.pragma_update(None, "cache_size", 4).unwrap();
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        sql.execute_batch("BEGIN").unwrap();
        let seen = sum(&sql);
        assert_eq!(seen, ACCOUNTS * CENTS);
        let by_index = "SELECT sum(cents) FROM account INDEXED BY by_cents WHERE cents > -100000";
        if round.is_multiple_of(50) {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(number(&sql, by_index), seen);
        sql.execute_batch("COMMIT").unwrap();
        if round.is_multiple_of(200) {
            assert_sound(&sql);
        }
        round += 1;
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Backfills as much as readers let it, and counts it; true if all of the WAL is in the file then.
fn move_all(database: &Database, ends: &mut Vec<CommitPoint>, backfills: &mut u64) -> bool {
    // The log is not part of this test: a commit counts as durable at once.
    if let Some(capture) = database.take_capture() {
        ends.push(capture.commit_point);
    }
    ends.drain(..ends.len().saturating_sub(ENDS_MAX));
    if let Some(mut backfill) = database.begin_backfill(ends).unwrap() {
        while backfill.write_slice(16).unwrap() {}
        backfill.publish();
        *backfills += 1;
    }
    database.backfilled_frames() == database.wal_frames()
}

#[test]
fn nobody_notices_backfills_and_restarts() {
    let node = Node::new();
    let database = bank(&node);
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut rounds, mut restarts, mut backfills, mut wal_bytes_max) = (0, 0u64, 0u64, 0);
    let mut ends = Vec::new();
    let end = Instant::now() + run_time();
    std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        for _ in 0..READERS {
            scope.spawn(|| {
                let _stopping = Stop(&stop);
                read(&database, &stop, &reads);
            });
        }
        let writer = scope.spawn(|| {
            let _stopping = Stop(&stop);
            let sql = database.connect().unwrap();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                write(&sql, round);
                round += 1;
            }
            round
        });
        while Instant::now() < end && !stop.load(Ordering::Relaxed) {
            move_all(&database, &mut ends, &mut backfills);
            let wal_bytes = database.wal_bytes();
            wal_bytes_max = wal_bytes.max(wal_bytes_max);
            assert!(wal_bytes < WAL_BYTES_MAX, "{wal_bytes} bytes");
            if wal_bytes > WAL_BYTES_SOFT {
                let parking = database.park(Duration::from_millis(5));
                let until = Instant::now() + Duration::from_millis(5);
                while Instant::now() < until {
                    if move_all(&database, &mut ends, &mut backfills) && database.restart() {
                        restarts += 1;
                        break;
                    }
                    std::thread::yield_now();
                }
                drop(parking);
            }
        }
        drop(stopping);
        rounds = writer.join().unwrap();
    });
    println!(
        "{rounds} write rounds, {} reads, {backfills} backfills, {restarts} restarts, \
         at most {wal_bytes_max} bytes of WAL",
        reads.load(Ordering::Relaxed)
    );
    assert_eq!(database.recovery_requests(), 0);
    assert!(restarts > 5 && backfills > 20, "{restarts}, {backfills}");
    while !move_all(&database, &mut ends, &mut backfills) {}
    let sql = database.connect().unwrap();
    assert_eq!(sum(&sql), ACCOUNTS * CENTS);
    assert_eq!(
        content_of_image(&file_image(&node, &database)),
        content(&sql)
    );
}

//! Real SQLite over the VFS under shuttle, which runs one thread at a time and decides at each lock,
//! atomic and fence of the VFS (and each barrier of SQLite) who goes on. A failure prints a schedule
//! to replay. `VFS_INTERLEAVINGS` says how many schedules are tried.
//!
//! `cargo test -p ringlite-vfs --features shuttle --test interleavings`
#![cfg(feature = "shuttle")]

use ringlite_vfs::{
    Database, PageSize, Vfs, VfsOptions, create_database_file, first_page, held_snapshot,
};
use rusqlite::Connection;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

const SCHEDULES_DEFAULT: usize = 400;
const ACCOUNTS: i64 = 30;
const CENTS: i64 = 100;

fn check(test: impl Fn() + Send + Sync + Copy + 'static) {
    let schedules = std::env::var("VFS_INTERLEAVINGS").ok();
    let schedules = schedules.map_or(SCHEDULES_DEFAULT, |text| text.parse().unwrap());
    let mut config = Config::new();
    // SQLite runs on these stacks.
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new(schedules), config.clone()).run(test);
    // Few switches at the worst places, where random ones are too many.
    Runner::new(PctScheduler::new(3, schedules), config).run(test);
}

/// A database of several pages, each account on another.
fn bank() -> (tempfile::TempDir, Database) {
    // Files in memory: thousands of them are made.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = directory.path();
    let vfs = Vfs::register(VfsOptions::new(root, root)).unwrap();
    create_database_file(root, "bank.db", &first_page(PageSize::MIN)).unwrap();
    let database = vfs.open("bank.db").unwrap();
    database.set_writable(true);
    let sql = database.connect().unwrap();
    sql.execute_batch(&format!(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, cents INTEGER, pad TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS})
             INSERT INTO account SELECT i, {CENTS}, printf('%0150d', i) FROM n"
    ))
    .unwrap();
    (directory, database)
}

fn sum(sql: &Connection) -> i64 {
    sql.query_row("SELECT sum(cents) FROM account", [], |row| row.get(0))
        .unwrap()
}

fn read(sql: &Connection, rounds: usize) {
    sql.pragma_update(None, "cache_size", 2).unwrap();
    for _ in 0..rounds {
        sql.execute_batch("BEGIN").unwrap();
        assert_eq!(sum(sql), ACCOUNTS * CENTS);
        assert!(held_snapshot(sql, "main").is_some());
        assert_eq!(sum(sql), ACCOUNTS * CENTS);
        sql.execute_batch("COMMIT").unwrap();
    }
}

fn write(database: &Database, rounds: usize) {
    let sql = database.connect().unwrap();
    for round in 0..rounds {
        // It has read first, and is the only writer.
        sql.execute_batch("BEGIN").unwrap();
        assert_eq!(sum(&sql), ACCOUNTS * CENTS);
        let (from, to) = (1 + round * 11 % 30, 1 + round * 17 % 30);
        sql.execute_batch(&format!(
            "UPDATE account SET cents = cents - 1 WHERE id = {from};
             UPDATE account SET cents = cents + 1 WHERE id = {to}; COMMIT"
        ))
        .unwrap();
    }
}

fn move_all(database: &Database, rounds: usize) {
    let mut ends = Vec::new();
    for _ in 0..rounds {
        if let Some(capture) = database.take_capture() {
            database.show_committed(&capture.commit_point).unwrap();
            ends.push(capture.commit_point);
        }
        if let Some(mut backfill) = database.begin_backfill(&ends).unwrap() {
            while backfill.write_slice(2).unwrap() {}
            backfill.publish();
        }
        database.restart();
    }
}

/// What has to be true in the end.
fn assert_whole(database: &Database) {
    assert_eq!(database.recovery_requests(), 0);
    let sql = database.connect().unwrap();
    assert_eq!(sum(&sql), ACCOUNTS * CENTS);
    let verdict: String = sql
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}

#[test]
fn readers_and_a_writer_while_frames_move() {
    check(|| {
        let (_directory, database) = bank();
        let start = database.take_capture().unwrap().commit_point;
        database.show_committed(&start).unwrap();
        shuttle::thread::scope(|scope| {
            scope.spawn(|| read(&database.connect().unwrap(), 2));
            scope.spawn(|| read(&database.connect_committed().unwrap(), 2));
            scope.spawn(|| write(&database, 2));
            move_all(&database, 4);
        });
        assert_whole(&database);
    });
}

#[test]
fn a_follower_that_is_read_while_entries_are_applied_and_moved() {
    check(|| {
        let (_directory, leader) = bank();
        let (_other, follower) = bank();
        leader.take_capture().unwrap();
        let start = follower.take_capture().unwrap().commit_point;
        follower.show_committed(&start).unwrap();
        follower.set_writable(false);
        let captures: Vec<_> = (0..3)
            .map(|_| {
                write(&leader, 1);
                leader.take_capture().unwrap()
            })
            .collect();
        shuttle::thread::scope(|scope| {
            scope.spawn(|| read(&follower.connect().unwrap(), 2));
            scope.spawn(|| read(&follower.connect_committed().unwrap(), 2));
            let mut ends = Vec::new();
            for capture in &captures {
                ends.push(follower.apply(&capture.pages, capture.page_count).unwrap());
                if let Some(mut backfill) = follower.begin_backfill(&ends).unwrap() {
                    while backfill.write_slice(2).unwrap() {}
                    backfill.publish();
                }
                follower.restart();
            }
        });
        assert_whole(&follower);
    });
}

#[test]
fn a_roll_back_while_a_backfill_runs_and_others_read() {
    check(|| {
        let (_directory, database) = bank();
        let one = database.take_capture().unwrap().commit_point;
        shuttle::thread::scope(|scope| {
            // Connections of the old epoch may see the commit that is lost, then get errors, and
            // never see half of anything.
            scope.spawn(|| {
                let Ok(sql) = database.connect() else { return };
                for _ in 0..3 {
                    let _ = sql.query_row("SELECT sum(cents) FROM account", [], |row| {
                        assert!([0, ACCOUNTS * CENTS].contains(&row.get(0)?));
                        Ok(())
                    });
                }
            });
            scope.spawn(|| {
                let mut running = database.begin_backfill(&[one]).unwrap();
                if let Some(backfill) = &mut running {
                    while backfill.write_slice(2).unwrap() {}
                    backfill.publish();
                }
            });
            let sql = database.connect().unwrap();
            let _ = sql.execute_batch("UPDATE account SET cents = 0, pad = 'lost'");
            drop(sql);
            database.roll_back(&one).unwrap();
            read(&database.connect().unwrap(), 1);
            read(&database.connect_committed().unwrap(), 1);
        });
        assert_whole(&database);
    });
}

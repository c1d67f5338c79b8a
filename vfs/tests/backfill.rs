//! Backfill: the file becomes the database as of the end of an entry, and nothing else.

mod common;

use common::{
    Node, assert_same_image, assert_sound, backfill, content, content_of_image, file_image, image,
    image_at, number,
};
use ringlite_vfs::{
    CommitPoint, Database, Page, PageNumber, PageSize, VfsError, held_snapshot, read_position,
};
use rusqlite::Connection;

const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)";
const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                    INSERT INTO t SELECT i, hex(randomblob(200)) FROM n";

/// A leader with a table, and a connection on it.
fn leader(node: &Node) -> (Database, Connection) {
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    (database, sql)
}

/// Runs one transaction, captures it, and returns where it ends.
fn commit(database: &Database, sql: &Connection, statements: &str) -> CommitPoint {
    sql.execute_batch(statements).unwrap();
    database.take_capture().unwrap().commit_point
}

/// A connection with a read transaction open.
fn reader(database: &Database) -> Connection {
    let reader = database.connect().unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
        .unwrap();
    assert!(held_snapshot(&reader, "main").is_some());
    reader
}

/// The database that a plain SQLite makes of the file.
fn plain_content(node: &Node, database: &Database) -> Vec<String> {
    content_of_image(&file_image(node, database))
}

/// A page full of one byte. These tests do not open the database by SQL.
fn page(fill: u8) -> Page {
    Page::build(PageSize::MIN, |bytes| bytes.fill(fill))
}

#[test]
fn the_file_holds_the_whole_of_one_transaction_and_nothing_of_the_next() {
    // The experiment that killed an earlier design. Entry 1 changes pages 2 and 3, entry 2 changes
    // 2 again and never commits. A backfill that took the newest frame of each page, or left out
    // pages that have a newer one, would make a file that is no state of the database.
    let node = Node::new();
    let database = node.database("experiment.db", PageSize::MIN);
    let one = database
        .apply(&[(PageNumber(2), page(1)), (PageNumber(3), page(1))], 3)
        .unwrap();
    database.apply(&[(PageNumber(2), page(2))], 3).unwrap();
    assert_eq!(backfill(&database, &[one]), Some(one));
    let file = file_image(&node, &database);
    assert_eq!((file[1][0], file[2][0]), (1, 1));
    assert_eq!(database.backfilled_frames(), 2);
    // The live state is still the newer one, also for SQLite, and also without entry 2.
    assert_eq!(image(&database)[1][0], 2);
    database.roll_back(&one).unwrap();
    assert_same_image(&image(&database), &file);
    assert_eq!(database.backfilled_frames(), 2);
}

#[test]
fn a_power_loss_after_a_backfill_leaves_the_state_of_its_end() {
    // The same by SQL, and with the loss: the WAL in memory is gone, the file is opened anew.
    let node = Node::new();
    let (database, sql) = leader(&node);
    commit(&database, &sql, ROWS);
    let one = commit(&database, &sql, "UPDATE t SET b = 'one'");
    let expected = content(&sql);
    sql.execute_batch("UPDATE t SET b = 'two' WHERE a % 7 = 0; DELETE FROM t WHERE a > 400")
        .unwrap();
    assert_eq!(backfill(&database, &[one]), Some(one));
    assert_eq!(plain_content(&node, &database), expected);
    drop(sql);
    drop(database);
    let database = node.vfs.open("leader.db").unwrap();
    let sql = database.connect().unwrap();
    assert_sound(&sql);
    assert_eq!(content(&sql), expected);
}

#[test]
fn replay_heals_what_a_power_loss_has_left_of_a_backfill() {
    // Each file is the one before a backfill with some of its pages written, and perhaps cut in the
    // middle of a page: the end of the file moves by the pages of the system, not by ours.
    let page_size = PageSize::MAX;
    let node = Node::new();
    let database = node.database("torn.db", page_size);
    database.set_writable(true);
    let sql = database.connect().unwrap();
    sql.execute_batch(&format!("{TABLE}; {ROWS}")).unwrap();
    backfill(&database, &[database.commit_point()]).unwrap();
    database.take_capture();
    let before = std::fs::read(node.path().join("torn.db")).unwrap();
    sql.execute_batch("UPDATE t SET b = zeroblob(900)").unwrap();
    let capture = database.take_capture().unwrap();
    let expected = image(&database);
    drop((sql, database));
    for (written, cut) in [(0, 0), (1, 0), (3, 4096), (usize::MAX, 65536 - 512)] {
        let mut file = before.clone();
        for (number, page) in capture.pages.iter().take(written) {
            let offset = (number.0 as usize - 1) * page_size.as_usize();
            file.resize(file.len().max(offset + page.len()), 0);
            file[offset..offset + page.len()].copy_from_slice(page);
        }
        file.truncate(file.len() - cut);
        std::fs::write(node.path().join("torn.db"), &file).unwrap();
        let database = node.vfs.open("torn.db").unwrap();
        let end = database.apply(&capture.pages, capture.page_count).unwrap();
        assert_same_image(&image(&database), &expected);
        assert_eq!(backfill(&database, &[end]), Some(end));
        assert_same_image(&file_image(&node, &database), &expected);
    }
}

#[test]
fn a_reader_bounds_it_and_it_rounds_down_to_an_end() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let mut ends = Vec::new();
    let mut states = Vec::new();
    let mut held = None;
    for round in 0..4 {
        // An entry of two transactions, with a reader in its middle.
        sql.execute_batch(&format!(
            "INSERT INTO t VALUES ({round}, hex(randomblob(9000)))"
        ))
        .unwrap();
        let middle = reader(&database);
        sql.execute_batch(&format!(
            "UPDATE t SET b = b || {round}; DELETE FROM t WHERE a = {round} - 2"
        ))
        .unwrap();
        ends.push(database.take_capture().unwrap().commit_point);
        states.push(image(&database));
        if round == 2 {
            held = Some(middle);
        }
    }
    // In the middle of entry 2: the file may be entry 1 at most.
    let middle = held.unwrap();
    let seen = content(&middle);
    assert_eq!(backfill(&database, &ends), Some(ends[1]));
    assert_same_image(&file_image(&node, &database), &states[1]);
    assert_eq!(backfill(&database, &ends), None, "it is still there");
    assert_eq!(content(&middle), seen);
    assert_eq!(database.oldest_snapshot(), read_position(&middle, "main"));
    drop(middle);
    // One exactly at the end of entry 3 lets it through.
    let last = reader(&database);
    sql.execute_batch("DELETE FROM t").unwrap();
    let later = database.take_capture().unwrap().commit_point;
    ends.push(later);
    assert_eq!(backfill(&database, &ends), Some(ends[3]));
    assert_same_image(&file_image(&node, &database), &states[3]);
    drop(last);
    assert_eq!(database.oldest_snapshot(), None);
    assert_eq!(backfill(&database, &ends), Some(later));
    assert_same_image(&file_image(&node, &database), &image(&database));
}

#[test]
fn only_ends_that_are_given_are_ends() {
    // Three entries are committed, the second alone is durable here: the file stops there, though
    // the live state is further.
    let node = Node::new();
    let (database, sql) = leader(&node);
    let ends: Vec<_> = ["one", "two", "three"]
        .map(|text| {
            commit(
                &database,
                &sql,
                &format!("INSERT INTO t (b) VALUES ('{text}')"),
            )
        })
        .into();
    assert_eq!(backfill(&database, &[]), None);
    assert_eq!(backfill(&database, &ends[..2]), Some(ends[1]));
    assert_same_image(
        &file_image(&node, &database),
        &image_at(&database, &ends[1]),
    );
    assert_eq!(backfill(&database, &ends[..2]), None, "nothing is new");
    assert_eq!(backfill(&database, &ends), Some(ends[2]));
}

#[test]
fn the_file_shrinks_and_grows_with_vacuum() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let full = commit(&database, &sql, ROWS);
    backfill(&database, &[full]).unwrap();
    assert_eq!(file_image(&node, &database).len() as u32, full.page_count());
    let small = commit(&database, &sql, "DELETE FROM t WHERE a > 10; VACUUM");
    assert!(small.page_count() * 4 < full.page_count());
    let small_state = (image(&database), content(&sql));
    let grown = commit(
        &database,
        &sql,
        &ROWS.replace("SELECT i,", "SELECT i + 10000,"),
    );
    // To the small state while the live one has grown again: the file ends where that one does.
    let held = reader(&database);
    backfill(&database, &[small]).unwrap();
    assert_same_image(&file_image(&node, &database), &small_state.0);
    assert_eq!(plain_content(&node, &database), small_state.1);
    assert_eq!(
        content(&held),
        content(&sql),
        "no reader needs pages that the file lacks"
    );
    assert_sound(&sql);
    drop(held);
    backfill(&database, &[small, grown]).unwrap();
    assert_same_image(&file_image(&node, &database), &image(&database));
    assert_eq!(plain_content(&node, &database), content(&sql));
}

#[test]
fn after_a_full_backfill_plain_sqlite_opens_the_file() {
    for page_bytes in [512, 4096, 65536] {
        let node = Node::new();
        let database = node.database("plain.db", PageSize::new(page_bytes).unwrap());
        database.set_writable(true);
        let sql = database.connect().unwrap();
        sql.execute_batch(&format!("{TABLE}; {ROWS}; CREATE INDEX i ON t (b)"))
            .unwrap();
        let expected = content(&sql);
        let end = database.take_capture().unwrap().commit_point;
        backfill(&database, &[end]).unwrap();
        assert!(database.restart());
        drop(sql);
        drop(database);
        let path = node.path().join("plain.db");
        let plain = Connection::open(&path).unwrap();
        assert_sound(&plain);
        assert_eq!(content(&plain), expected);
        let mode: String = plain
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .unwrap();
        assert_eq!(mode, "wal");
        // And it is a database that can be written and come back, if it is said that the file is to
        // be taken as it is now.
        plain
            .execute_batch("INSERT INTO t VALUES (9000, 'by plain SQLite')")
            .unwrap();
        drop(plain);
        let database = node.vfs.open("plain.db").unwrap();
        let sql = database.connect().unwrap();
        let counted = sql.query_row("SELECT count(*) FROM t", [], |_| Ok(()));
        assert!(counted.is_err(), "nobody has said so");
        assert!(database.damage().is_some());
        drop((sql, database));
        std::fs::remove_file(node.path().join("plain.db.sum")).unwrap();
        let database = node.vfs.open("plain.db").unwrap();
        let sql = database.connect().unwrap();
        assert_eq!(number(&sql, "SELECT count(*) FROM t"), 501);
        assert_sound(&sql);
    }
}

#[test]
fn a_reader_of_the_file_alone_blocks_it_and_nobody_else() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = commit(&database, &sql, ROWS);
    backfill(&database, &[one]).unwrap();
    // All frames are in the file, so this one takes READ(0).
    let held = reader(&database);
    let seen = content(&held);
    let two = commit(&database, &sql, "UPDATE t SET b = 2");
    let three = commit(&database, &sql, "UPDATE t SET b = 3");
    assert!(database.begin_backfill(&[two, three]).unwrap().is_none());
    assert!(!database.restart());
    assert_eq!(content(&held), seen);
    let oldest = database.oldest_snapshot().unwrap();
    assert_eq!(oldest.frame, database.backfilled_frames());
    drop(held);
    assert_eq!(backfill(&database, &[two, three]), Some(three));
    assert_eq!(plain_content(&node, &database), content(&sql));
}

#[test]
fn one_at_a_time_and_one_that_is_given_up_does_no_harm() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = commit(&database, &sql, ROWS);
    let two = commit(&database, &sql, "UPDATE t SET b = 2");
    let mut given_up = database.begin_backfill(&[one, two]).unwrap().unwrap();
    assert!(given_up.write_slice(3).unwrap());
    assert!(database.begin_backfill(&[one, two]).unwrap().is_none());
    assert!(!database.restart());
    // While it runs, SQL reads, writes, and reads what is being overwritten in the file.
    let three = commit(&database, &sql, "UPDATE t SET b = 3 WHERE a = 1");
    let fresh = database.connect().unwrap();
    assert_eq!(number(&fresh, "SELECT sum(b) FROM t"), 2 * 499 + 3);
    drop(given_up);
    assert_eq!(database.backfilled_frames(), 0);
    assert_eq!(content(&database.connect().unwrap()), content(&sql));
    // The file holds pages of entry 2 now. It must not be taken for entry 1, nor go back to it.
    assert!(database.begin_backfill(&[one]).unwrap().is_none());
    assert_too_old(&database.roll_back(&one));
    assert_too_old(&database.read_pages_at(&one, &mut |_, _| ()));
    // Not in the next epoch either.
    database.roll_back(&three).unwrap();
    assert!(database.begin_backfill(&[one]).unwrap().is_none());
    assert_too_old(&database.pin(&one));
    assert_eq!(backfill(&database, &[one, two, three]), Some(three));
    let sql = database.connect().unwrap();
    assert_eq!(plain_content(&node, &database), content(&sql));
}

#[track_caller]
fn assert_too_old<T: std::fmt::Debug>(result: &Result<T, VfsError>) {
    assert!(
        matches!(result, Err(VfsError::SnapshotTooOld { .. })),
        "{result:?}"
    );
}

#[test]
#[should_panic(expected = "before it was written")]
fn it_cannot_be_published_half_written() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = commit(&database, &sql, ROWS);
    let mut backfill = database.begin_backfill(&[one]).unwrap().unwrap();
    backfill.write_slice(1).unwrap();
    backfill.publish();
}

#[test]
fn a_roll_back_in_the_middle_of_it_lets_it_finish() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = commit(&database, &sql, ROWS);
    let expected = image(&database);
    let mut running = database.begin_backfill(&[one]).unwrap().unwrap();
    assert!(running.write_slice(2).unwrap());
    sql.execute_batch("UPDATE t SET b = 'lost'").unwrap();
    database.roll_back(&one).unwrap();
    assert!(sql.execute_batch("SELECT count(*) FROM t").is_err());
    // The new life begins while the old backfill still writes.
    let fresh = database.connect().unwrap();
    let rows = content(&fresh);
    assert!(!database.restart());
    assert!(database.begin_backfill(&[one]).unwrap().is_none());
    let two = commit(&database, &fresh, "UPDATE t SET b = 'kept' WHERE a < 100");
    while running.write_slice(2).unwrap() {}
    running.publish();
    running.sync().unwrap();
    assert_same_image(&file_image(&node, &database), &expected);
    assert_eq!(plain_content(&node, &database), rows);
    assert_eq!(database.backfilled_frames(), one.position.frame);
    drop(running);
    // Late calls of the old life change nothing of the new one's locks.
    drop(sql);
    assert_eq!(backfill(&database, &[two]), Some(two));
    assert_eq!(plain_content(&node, &database), content(&fresh));
    assert_eq!(database.recovery_requests(), 0);
}

#[test]
fn a_roll_back_keeps_what_is_backfilled() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let early = commit(&database, &sql, "INSERT INTO t VALUES (0, 0)");
    let one = commit(&database, &sql, ROWS);
    let expected = content(&sql);
    backfill(&database, &[one]).unwrap();
    sql.execute_batch("DELETE FROM t").unwrap();
    assert_too_old(&database.roll_back(&early));
    database.roll_back(&one).unwrap();
    assert_eq!(database.backfilled_frames(), database.wal_frames());
    let fresh = database.connect().unwrap();
    assert_eq!(content(&fresh), expected);
    let two = commit(&database, &fresh, "DELETE FROM t WHERE a > 100");
    assert_eq!(backfill(&database, &[two]), Some(two));
    assert_eq!(plain_content(&node, &database), content(&fresh));
}

#[test]
fn ends_that_were_rolled_back_are_refused() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = commit(&database, &sql, ROWS);
    let gone = commit(&database, &sql, "DELETE FROM t");
    database.roll_back(&one).unwrap();
    let refused = database.begin_backfill(&[one, gone]);
    assert!(
        matches!(refused, Err(VfsError::UnknownCommitPoint { .. })),
        "{refused:?}"
    );
    assert_eq!(backfill(&database, &[one]), Some(one));
}

#[test]
fn a_pinned_commit_stays_readable() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = commit(&database, &sql, ROWS);
    let expected = image(&database);
    let two = commit(&database, &sql, "UPDATE t SET b = 2");
    let three = commit(&database, &sql, "UPDATE t SET b = 3");
    let pin = database.pin(&one).unwrap();
    assert_eq!(database.oldest_snapshot(), Some(one.position));
    assert_eq!(backfill(&database, &[one, two, three]), Some(one));
    assert_eq!(backfill(&database, &[one, two, three]), None);
    assert_same_image(&image_at(&database, &one), &expected);
    let newer = database.pin(&two).unwrap();
    drop(pin);
    assert_eq!(backfill(&database, &[one, two, three]), Some(two));
    assert_too_old(&database.pin(&one));
    assert_too_old(&database.read_pages_at(&one, &mut |_, _| ()));
    assert_eq!(image_at(&database, &two), file_image(&node, &database));
    drop(newer);
    assert_eq!(backfill(&database, &[one, two, three]), Some(three));
    assert_eq!(database.oldest_snapshot(), None);
}

#[test]
fn reading_all_pages_holds_a_backfill_back() {
    let node = Node::new();
    let (database, sql) = leader(&node);
    let one = commit(&database, &sql, ROWS);
    backfill(&database, &[one]).unwrap();
    assert!(database.restart());
    let at = database.commit_point();
    let expected = image(&database);
    let two = commit(&database, &sql, "UPDATE t SET b = 2");
    let mut pages = Vec::new();
    database
        .read_pages_at(&at, &mut |_, page| {
            // All of these come from the file, which must not change meanwhile.
            if pages.len() == 3 {
                assert!(database.begin_backfill(&[two]).unwrap().is_none());
                assert!(!database.restart());
            }
            pages.push(page.to_vec());
        })
        .unwrap();
    assert_same_image(&pages, &expected);
    assert_eq!(backfill(&database, &[two]), Some(two));
}

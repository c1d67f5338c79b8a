//! Damaged pages of a database file that are put back as another replica has them.

mod common;

use std::os::unix::fs::FileExt as _;

use common::{Node, Random, assert_same_image, assert_sound, backfill, file_image, image, number};
use ringlite_vfs::{CommitPoint, Database, FileCheck, Page, PageNumber, PageSize};

const SIZES: [u32; 3] = [512, 4096, 65536];
const ALL: std::ops::Range<u32> = 1..u32::MAX;

/// A database of some pages that are all in the file, and nothing in the WAL.
fn filed(node: &Node, page_size: PageSize) -> Database {
    let database = node.database("rot.db", page_size);
    database.set_writable(true);
    let sql = database.connect().unwrap();
    sql.execute_batch(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300)
         INSERT INTO t SELECT i, randomblob(100) FROM n",
    )
    .unwrap();
    backfill(&database, &[commit(&database)]).unwrap();
    assert!(database.restart());
    database
}

/// What SQL has committed until now, as a replica would capture it.
fn commit(database: &Database) -> CommitPoint {
    database.take_capture();
    database.commit_point()
}

fn overwrite(node: &Node, suffix: &str, at: u64, bytes: &[u8]) {
    let path = node.path().join(format!("rot.db{suffix}"));
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Spoils a page, its checksum, or both.
fn spoil(node: &Node, page_bytes: u64, page: PageNumber, what: [bool; 2]) {
    let place = u64::from(page.0 - 1);
    if what[0] {
        overwrite(node, "", place * page_bytes, b"this is no page");
    }
    if what[1] {
        overwrite(node, ".sum", place * 4, b"sum!");
    }
}

fn check(database: &Database) -> FileCheck {
    check_at(database, &database.commit_point())
}

/// Repairs from the pages of another replica.
fn repair(check: &FileCheck, replica: &[Vec<u8>]) -> usize {
    let pages: Vec<_> = (1..)
        .map(PageNumber)
        .zip(replica.iter().map(Vec::as_slice))
        .collect();
    check.repair(&pages).unwrap()
}

#[test]
fn whatever_was_spoilt_is_found_and_put_back_and_nothing_else_is_touched() {
    for bytes in SIZES {
        let node = Node::new();
        let database = filed(&node, PageSize::new(bytes).unwrap());
        let replica = image(&database);
        let sums = std::fs::read(node.path().join("rot.db.sum")).unwrap();
        assert!(check(&database).damaged().is_empty());
        let mut random = Random(u64::from(bytes));
        let mut spoilt = Vec::new();
        for page in (1..=replica.len() as u32).map(PageNumber) {
            let what = [random.one_in(3), random.one_in(3)];
            if what != [false, false] {
                spoil(&node, u64::from(bytes), page, what);
                spoilt.push(page);
            }
        }
        let found = check(&database);
        assert_eq!(found.damaged(), spoilt);
        assert_eq!(found.next(), None);
        let first = database.read_pages_at(&database.commit_point(), &mut |_, _| ());
        assert!(first.is_err());
        assert_eq!(database.damage(), Some(spoilt[0]));
        assert_eq!(node.vfs.take_damaged(), [0], "it is told once");
        // What was not found damaged is not written, whatever comes.
        let sound = (1..)
            .map(PageNumber)
            .find(|page| !spoilt.contains(page))
            .unwrap();
        let nonsense = vec![7; bytes as usize];
        assert_eq!(found.repair(&[(sound, &nonsense)]).unwrap(), 0);
        assert!(found.repair(&[(spoilt[0], &nonsense[1..])]).is_err());
        assert_eq!(repair(&found, &replica), spoilt.len());
        assert!(check(&database).damaged().is_empty());
        assert_same_image(&file_image(&node, &database), &replica);
        assert_eq!(std::fs::read(node.path().join("rot.db.sum")).unwrap(), sums);
        database.forget_damage();
        assert_eq!(
            (database.damage(), node.vfs.take_damaged().len()),
            (None, 0)
        );
        assert_sound(&database.connect().unwrap());
    }
}

#[test]
fn a_file_is_looked_at_in_slices_with_an_end() {
    let node = Node::new();
    let database = filed(&node, PageSize::MIN);
    let pages = image(&database).len() as u32;
    for page in [3, 4, 20, pages] {
        spoil(&node, 512, PageNumber(page), [true, false]);
    }
    let mut found = Vec::new();
    let mut next = Some(1);
    let mut slices = 0;
    while let Some(first) = next {
        let at = database.commit_point();
        let check = database
            .pin(&at)
            .unwrap()
            .check_file(first..first + 16, 2)
            .unwrap();
        assert!(check.damaged().len() <= 2);
        found.extend(check.damaged().iter().map(|page| page.0));
        next = check.next();
        slices += 1;
    }
    assert_eq!(found, [3, 4, 20, pages]);
    assert!(slices >= pages / 16, "{slices}");
}

/// What is changed between the check and the repair is as it was changed, also if the image of the
/// other replica is from before that.
#[test]
fn a_page_that_has_changed_since_is_left_to_the_next_backfill() {
    let node = Node::new();
    let database = filed(&node, PageSize::DEFAULT);
    let before = image(&database);
    for page in 1..=before.len() as u32 {
        spoil(&node, 4096, PageNumber(page), [true, true]);
    }
    let found = check(&database);
    let changes = [(PageNumber(2), page_of(1)), (PageNumber(4), page_of(2))];
    database.set_writable(false);
    database.apply(&changes, before.len() as u32).unwrap();
    assert!(!database.restart(), "not as long as the check lives");
    assert_eq!(repair(&found, &before), before.len() - 2);
    drop(found);
    // Not in the file, and so neither of the two.
    let left = file_image(&node, &database);
    assert!(left[1].starts_with(b"this is no page") && left[3].starts_with(b"this is no page"));
    assert!(check(&database).damaged().is_empty(), "the WAL has them");
    backfill(&database, &[database.commit_point()]).unwrap();
    let mut expected = before;
    expected[1] = vec![1; 4096];
    expected[3] = vec![2; 4096];
    assert_same_image(&file_image(&node, &database), &expected);
    assert!(database.restart());
    assert_same_image(&image(&database), &expected);
}

/// Readers take a page from the file as soon as it is backfilled, although its frame is still there.
#[test]
fn a_page_that_was_backfilled_is_repaired_while_its_frame_is_in_the_wal() {
    let node = Node::new();
    let database = filed(&node, PageSize::DEFAULT);
    let sql = database.connect().unwrap();
    sql.execute("UPDATE t SET b = randomblob(100)", []).unwrap();
    backfill(&database, &[commit(&database)]).unwrap();
    drop(sql);
    let replica = image(&database);
    for page in 1..=replica.len() as u32 {
        spoil(&node, 4096, PageNumber(page), [true, page % 2 == 0]);
    }
    let found = check(&database);
    assert_eq!(found.damaged().len(), replica.len());
    assert_eq!(repair(&found, &replica), replica.len());
    drop(found);
    assert_same_image(&file_image(&node, &database), &replica);
    let sql = database.connect().unwrap();
    assert_eq!(number(&sql, "SELECT count(hex(b)) FROM t"), 300);
}

/// The node leads no longer, and loses what it had written and nobody has seen.
#[test]
fn a_roll_back_between_the_check_and_the_repair_does_no_harm() {
    let node = Node::new();
    let database = filed(&node, PageSize::DEFAULT);
    let replica = image(&database);
    let committed = database.commit_point();
    for page in 1..=replica.len() as u32 {
        spoil(&node, 4096, PageNumber(page), [true, false]);
    }
    let speculative: Vec<_> = [3, 5].map(|page| (PageNumber(page), page_of(9))).into();
    database.set_writable(false);
    database.apply(&speculative, replica.len() as u32).unwrap();
    let found = check_at(&database, &committed);
    assert_eq!(
        found.damaged().len(),
        replica.len() - 2,
        "two are in the WAL"
    );
    database.roll_back(&committed).unwrap();
    assert_eq!(repair(&found, &replica), replica.len() - 2);
    drop(found);
    // What the roll-back has brought to light is found by the next check.
    let found = check(&database);
    assert_eq!(found.damaged(), [PageNumber(3), PageNumber(5)]);
    assert_eq!(repair(&found, &replica), 2);
    drop(found);
    assert_same_image(&image(&database), &replica);
}

fn page_of(byte: u8) -> Page {
    Page::from(&[byte; 4096][..])
}

fn check_at(database: &Database, at: &CommitPoint) -> FileCheck {
    database
        .pin(at)
        .unwrap()
        .check_file(ALL, usize::MAX)
        .unwrap()
}

//! The checksums of pages at rest: damage is told and never given out as data.

mod common;

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use common::{
    Node, Random, assert_same_image, assert_sound, backfill, content, file_image, image, number,
};
use ringlite_vfs::{
    Database, Page, PageNumber, PageSize, PageSumsBuilder, VfsError, create_database_file,
    first_page,
};
use rusqlite::{Connection, ffi};

const SIZES: [u32; 3] = [512, 4096, 65536];

/// A database of some pages that are all in the file.
fn filed(node: &Node, name: &str, page_size: PageSize) -> Database {
    let database = node.database(name, page_size);
    database.set_writable(true);
    let sql = database.connect().unwrap();
    sql.execute_batch(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300)
         INSERT INTO t SELECT i, randomblob(100) FROM n",
    )
    .unwrap();
    file(&database);
    database
}

/// Moves everything into the file.
fn file(database: &Database) {
    database.take_capture();
    backfill(database, &[database.commit_point()]).unwrap();
    assert!(database.restart());
}

fn path(node: &Node, name: &str) -> PathBuf {
    node.path().join(name)
}

/// Flips a bit of a file; a second time makes it right again.
fn flip(path: &std::path::Path, byte: u64, bit: u8) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut value = [0];
    file.read_exact_at(&mut value, byte).unwrap();
    value[0] ^= 1 << bit;
    file.write_all_at(&value, byte).unwrap();
}

/// Everything in the database, by a new connection that knows no page yet; or the extended result
/// code that SQLite gave.
fn read_all(database: &Database) -> Result<Vec<String>, i32> {
    let failure = |error: rusqlite::Error| match error {
        rusqlite::Error::SqliteFailure(error, _) => error.extended_code,
        other => panic!("not a failure of SQLite: {other}"),
    };
    let sql = database.connect().map_err(|error| match error {
        VfsError::Connect { source, .. } => failure(source),
        other => panic!("{other}"),
    })?;
    let mut rows = Vec::new();
    for query in [
        "SELECT a, hex(b) FROM t NOT INDEXED",
        "SELECT '', hex(b) FROM t INDEXED BY i WHERE b > ''",
    ] {
        let mut statement = sql.prepare(query).map_err(failure)?;
        let mut found = statement.query([]).map_err(failure)?;
        while let Some(row) = found.next().map_err(failure)? {
            rows.push(format!("{:?} {:?}", row.get_ref(0), row.get_ref(1)));
        }
    }
    Ok(rows)
}

#[test]
fn a_flipped_bit_in_any_page_is_told_and_no_wrong_row_is_given() {
    for bytes in SIZES {
        let page_size = PageSize::new(bytes).unwrap();
        let node = Node::new();
        let database = filed(&node, "rot.db", page_size);
        let expected = read_all(&database).unwrap();
        let pages = file_image(&node, &database).len() as u64;
        drop(database);
        let mut random = Random(u64::from(bytes));
        let mut in_use = 0;
        for page in 0..pages {
            let at = page * u64::from(bytes) + random.below(u64::from(bytes));
            let bit = random.below(8) as u8;
            flip(&path(&node, "rot.db"), at, bit);
            // What was known of the page before is of another life.
            let database = node.vfs.reopen("rot.db", page_size).unwrap();
            assert_eq!(database.damage(), None);
            match read_all(&database) {
                Ok(rows) => assert_eq!(rows, expected, "byte {at}"),
                Err(code) => {
                    assert_eq!(code, ffi::SQLITE_IOERR_DATA, "byte {at}");
                    in_use += 1;
                }
            }
            // A backup or a digest reads it all.
            let number = PageNumber(page as u32 + 1);
            let refused = database.read_pages_at(&database.commit_point(), &mut |at, _| {
                assert!(at < number, "page {at} was given out");
            });
            match refused {
                Err(VfsError::DamagedPage { page, .. }) => assert_eq!(page, number),
                other => panic!("{other:?}"),
            }
            assert_eq!(database.damage(), Some(number));
            drop(database);
            flip(&path(&node, "rot.db"), at, bit);
        }
        println!("{in_use} of {pages} pages of {bytes} bytes were read by SQL");
        assert!(in_use * 2 > pages, "most pages are read");
        let database = node.vfs.reopen("rot.db", page_size).unwrap();
        assert_eq!(read_all(&database).unwrap(), expected, "mended");
        assert_eq!(database.damage(), None);
    }
}

#[test]
fn damage_of_one_page_leaves_the_others_readable_and_a_new_image_heals_it() {
    let node = Node::new();
    let database = filed(&node, "rot.db", PageSize::MIN);
    let sql = database.connect().unwrap();
    let pages = file_image(&node, &database).len() as u64;
    assert!(pages > 100);
    // The last page belongs to the table or the index; one of the two can still be read.
    flip(&path(&node, "rot.db"), pages * 512 - 9, 3);
    let whole = |query| {
        let sql = database.connect().unwrap();
        sql.query_row(query, [], |row| row.get::<_, i64>(0))
    };
    let counts = [
        whole("SELECT count(hex(b)) FROM t NOT INDEXED"),
        whole("SELECT count(hex(b)) FROM t INDEXED BY i WHERE b > ''"),
    ];
    assert_eq!(counts.iter().filter(|count| count.is_err()).count(), 1);
    assert_eq!(counts.iter().flatten().collect::<Vec<_>>(), [&300]);
    assert_eq!(database.damage(), Some(PageNumber(pages as u32)));
    drop(sql);
    // Entries carry whole pages, so that the next image of the page makes it right.
    let mut all = image_of_log(&database, pages as u32);
    all.push((PageNumber(pages as u32), Page::build(PageSize::MIN, |_| {})));
    let end = database.apply(&all, pages as u32).unwrap();
    assert_eq!(backfill(&database, &[end]), Some(end));
    let sound = image(&database);
    assert_same_image(&file_image(&node, &database), &sound);
}

/// The pages before `end`, as they are.
fn image_of_log(database: &Database, end: u32) -> Vec<(PageNumber, Page)> {
    let mut pages = Vec::new();
    let at = database.commit_point();
    let past = database.past_state(&at).unwrap();
    database
        .read_page_range_at(&past, 1..end, &mut |number, page| {
            pages.push((number, Page::from(page)));
        })
        .unwrap();
    pages
}

#[test]
fn a_rotten_checksum_is_damage_too() {
    let node = Node::new();
    let database = filed(&node, "rot.db", PageSize::DEFAULT);
    let pages = file_image(&node, &database).len() as u64;
    for page in 0..pages {
        flip(&path(&node, "rot.db.sum"), page * 4 + page % 4, 6);
        let read = database.read_pages_at(&database.commit_point(), &mut |_, _| {});
        assert!(
            matches!(read, Err(VfsError::DamagedPage { page: at, .. }) if u64::from(at.0) == page + 1),
            "{read:?}"
        );
        flip(&path(&node, "rot.db.sum"), page * 4 + page % 4, 6);
    }
    image(&database);
}

#[test]
fn files_that_are_cut_or_exchanged_are_damaged() {
    let node = Node::new();
    let database = filed(&node, "a.db", PageSize::DEFAULT);
    let other = filed(&node, "b.db", PageSize::DEFAULT);
    let point = database.commit_point();
    let is_damaged = |database: &Database| {
        let read = database.read_pages_at(&point, &mut |_, _| {});
        matches!(read, Err(VfsError::DamagedPage { .. }))
    };
    let (file, sums) = (path(&node, "a.db"), path(&node, "a.db.sum"));
    let (good, good_sums) = (std::fs::read(&file).unwrap(), std::fs::read(&sums).unwrap());
    assert!(!is_damaged(&database));
    std::fs::write(&sums, &good_sums[..good_sums.len() - 4]).unwrap();
    assert!(
        is_damaged(&database),
        "the checksum of the last page is gone"
    );
    std::fs::write(&sums, &good_sums).unwrap();
    std::fs::write(&file, &good[..good.len() - 4096]).unwrap();
    assert!(is_damaged(&database), "the last page is gone");
    // A write that went to another place: each page is a whole one.
    let mut moved = good.clone();
    moved.copy_within(4096..8192, 8192);
    std::fs::write(&file, &moved).unwrap();
    assert!(is_damaged(&database), "a page lies in the place of another");
    std::fs::write(&file, std::fs::read(path(&node, "b.db")).unwrap()).unwrap();
    assert!(is_damaged(&database), "it is the file of another database");
    std::fs::write(&file, &good).unwrap();
    assert!(!is_damaged(&database));
    drop(other);
}

#[test]
fn checksums_follow_the_file_as_it_shrinks_and_grows() {
    for bytes in SIZES {
        let node = Node::new();
        let page_size = PageSize::new(bytes).unwrap();
        let database = filed(&node, "size.db", page_size);
        let sql = database.connect().unwrap();
        let sums = path(&node, "size.db.sum");
        let mut lengths = Vec::new();
        for statements in [
            "DELETE FROM t WHERE a > 20; VACUUM",
            "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n LIMIT 900)
             INSERT INTO t SELECT i, randomblob(100) FROM n; DELETE FROM t WHERE a % 3 = 0",
            "DELETE FROM t WHERE a > 20; VACUUM",
        ] {
            sql.execute_batch(statements).unwrap();
            file(&database);
            let pages = file_image(&node, &database);
            let length = std::fs::metadata(&sums).unwrap().len();
            assert_eq!(length, pages.len() as u64 * 4);
            assert_same_image(&image(&database), &pages);
            lengths.push(length);
        }
        assert!(
            lengths[0] < lengths[1] && lengths[2] < lengths[1],
            "{lengths:?}"
        );
        let fresh = database.connect().unwrap();
        assert_sound(&fresh);
    }
}

/// What a power loss leaves of a backfill: any of the pages, and any of the checksums, in any
/// combination. The replay makes all of it good, and nothing is taken for damage.
#[test]
fn whatever_is_left_of_a_backfill_is_made_good_by_the_replay() {
    for (round, bytes) in SIZES.into_iter().cycle().take(30).enumerate() {
        let mut random = Random(round as u64);
        let page_size = PageSize::new(bytes).unwrap();
        let node = Node::new();
        let database = filed(&node, "torn.db", page_size);
        let (file, sums) = (path(&node, "torn.db"), path(&node, "torn.db.sum"));
        let before = (std::fs::read(&file).unwrap(), std::fs::read(&sums).unwrap());
        let sql = database.connect().unwrap();
        sql.execute_batch(
            "UPDATE t SET b = randomblob(150); CREATE TABLE u (c); INSERT INTO u VALUES (1)",
        )
        .unwrap();
        if random.one_in(2) {
            sql.execute_batch("DELETE FROM t WHERE a > 10; VACUUM")
                .unwrap();
        }
        let capture = database.take_capture().unwrap();
        let expected = image(&database);
        backfill(&database, &[capture.commit_point]).unwrap();
        let after = (std::fs::read(&file).unwrap(), std::fs::read(&sums).unwrap());
        drop((sql, database));
        std::fs::write(&file, mixed(&before.0, &after.0, 512, &mut random)).unwrap();
        std::fs::write(&sums, mixed(&before.1, &after.1, 512, &mut random)).unwrap();

        let database = node.vfs.reopen("torn.db", page_size).unwrap();
        let end = database.apply(&capture.pages, capture.page_count).unwrap();
        assert_same_image(&image(&database), &expected);
        let sql = database.connect().unwrap();
        let rows = content(&sql);
        assert_sound(&sql);
        drop(sql);
        assert_eq!(backfill(&database, &[end]), Some(end));
        assert!(database.restart());
        assert_eq!(content(&database.connect().unwrap()), rows);
        assert_same_image(&file_image(&node, &database), &expected);
        assert_eq!(database.damage(), None);
        assert_eq!(std::fs::read(&sums).unwrap(), after.1);
    }
}

/// One of two lengths, and each sector from one of two files.
fn mixed(before: &[u8], after: &[u8], sector: usize, random: &mut Random) -> Vec<u8> {
    let lengths = [before.len(), after.len()];
    let mut bytes = vec![0; lengths[random.below(2) as usize]];
    for (number, place) in bytes.chunks_mut(sector).enumerate() {
        let from = if random.one_in(2) { before } else { after };
        let from = from.get(number * sector..).unwrap_or_default();
        let count = place.len().min(from.len());
        place[..count].copy_from_slice(&from[..count]);
    }
    bytes
}

#[test]
fn a_file_without_checksums_is_taken_as_it_is() {
    let node = Node::new();
    let plain = Connection::open(path(&node, "old.db")).unwrap();
    plain
        .query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
        .unwrap();
    plain
        .execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(5000000))")
        .unwrap();
    drop(plain);
    let database = node.vfs.open("old.db").unwrap();
    let sql = database.connect().unwrap();
    assert_eq!(number(&sql, "SELECT length(a) FROM t"), 5_000_000);
    drop((sql, database));
    // They are kept from then on.
    flip(&path(&node, "old.db"), 3_000_000, 1);
    let database = node.vfs.open("old.db").unwrap();
    let read = database.read_pages_at(&database.commit_point(), &mut |_, _| {});
    assert!(
        matches!(read, Err(VfsError::DamagedPage { .. })),
        "{read:?}"
    );
}

#[test]
fn the_builder_makes_what_a_backfill_keeps_however_the_bytes_come() {
    let node = Node::new();
    for bytes in SIZES {
        let name = format!("{bytes}.db");
        let page_size = PageSize::new(bytes).unwrap();
        let database = filed(&node, &name, page_size);
        let kept = std::fs::read(path(&node, &format!("{name}.sum"))).unwrap();
        let file = file_image(&node, &database).concat();
        for piece in [1 << 20, 65536, 5000, 511] {
            let mut builder = PageSumsBuilder::new(page_size);
            for bytes in file.chunks(piece) {
                builder.update(bytes);
            }
            let directory = tempfile::tempdir().unwrap();
            builder.install(directory.path(), "x").unwrap();
            assert_eq!(std::fs::read(directory.path().join("x.sum")).unwrap(), kept);
        }
    }
}

#[test]
fn checksums_come_and_go_with_their_database() {
    let node = Node::new();
    let first = first_page(PageSize::DEFAULT);
    // What an interrupted life has left is overwritten.
    std::fs::write(path(&node, "a.db.sum"), b"left").unwrap();
    create_database_file(node.path(), "a.db", &first).unwrap();
    let database = node.vfs.open("a.db").unwrap();
    assert_same_image(&image(&database), &[first]);
    drop(database);
    node.vfs.remove("a.db").unwrap();
    assert_eq!(std::fs::read_dir(node.path()).unwrap().count(), 0);
    node.vfs.remove("a.db").unwrap();
}

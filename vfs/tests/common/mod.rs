//! What the suites share: databases to try things on, and three ways to look at their content.

// Each suite uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ringlite_vfs::{
    Capture, CommitPoint, Database, Page, PageSize, Vfs, VfsOptions, create_database_file,
    first_page,
};
use rusqlite::Connection;
use tempfile::TempDir;

/// A data directory with a VFS on it. Fields are dropped in order: the directory goes last.
pub(crate) struct Node {
    pub(crate) vfs: Vfs,
    pub(crate) directory: TempDir,
}

impl Node {
    pub(crate) fn new() -> Node {
        let directory = TempDir::new().unwrap();
        let vfs = Vfs::register(VfsOptions::new(directory.path(), directory.path())).unwrap();
        Node { vfs, directory }
    }

    /// Creates and opens a database.
    pub(crate) fn database(&self, name: &str, page_size: PageSize) -> Database {
        create_database_file(self.path(), name, &first_page(page_size)).unwrap();
        self.vfs.open(name).unwrap()
    }

    /// A database that SQL may write.
    pub(crate) fn leader(&self) -> Database {
        let database = self.database("leader.db", PageSize::DEFAULT);
        database.set_writable(true);
        database
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// The pages of a database as of its last commit.
pub(crate) fn image(database: &Database) -> Vec<Vec<u8>> {
    image_at(database, &database.commit_point())
}

/// The pages of a database as of some commit.
pub(crate) fn image_at(database: &Database, at: &CommitPoint) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    database
        .read_pages_at(at, &mut |number, page| {
            assert_eq!(number.0 as usize, pages.len() + 1, "pages come in order");
            pages.push(page.to_vec());
        })
        .unwrap();
    assert_eq!(pages.len() as u32, at.page_count());
    pages
}

/// The pages of the database file itself, whatever the WAL has.
pub(crate) fn file_image(node: &Node, database: &Database) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(node.path().join(database.name())).unwrap();
    let page_bytes = database.page_size().as_usize();
    assert_eq!(bytes.len() % page_bytes, 0, "whole pages");
    bytes.chunks(page_bytes).map(<[u8]>::to_vec).collect()
}

/// Backfills up to one of `ends`, if that can be done now. Returns the end.
pub(crate) fn backfill(database: &Database, ends: &[CommitPoint]) -> Option<CommitPoint> {
    let mut backfill = database.begin_backfill(ends).unwrap()?;
    while backfill.write_slice(7).unwrap() {}
    backfill.publish();
    backfill.sync().unwrap();
    Some(*backfill.end())
}

/// An image that is built from captures alone.
#[derive(Clone)]
pub(crate) struct Shadow {
    pages: BTreeMap<u32, Page>,
    page_count: u32,
    page_size: PageSize,
}

impl Shadow {
    pub(crate) fn new(page_size: PageSize) -> Shadow {
        let first = Page::from(&first_page(page_size)[..]);
        Shadow {
            pages: BTreeMap::from([(1, first)]),
            page_count: 1,
            page_size,
        }
    }

    pub(crate) fn absorb(&mut self, capture: &Capture) {
        assert!(
            capture.pages.is_sorted_by(|a, b| a.0 < b.0),
            "sorted, each page once"
        );
        for (number, page) in &capture.pages {
            assert!(
                (1..=capture.page_count).contains(&number.0),
                "page {number} in the database"
            );
            assert_eq!(page.len(), self.page_size.as_usize());
            self.pages.insert(number.0, page.clone());
        }
        self.page_count = capture.page_count;
        self.pages.retain(|number, _| *number <= capture.page_count);
    }

    pub(crate) fn image(&self) -> Vec<Vec<u8>> {
        let zeros = vec![0; self.page_size.as_usize()];
        let page = |number| {
            self.pages
                .get(&number)
                .map_or(zeros.clone(), |page| page.to_vec())
        };
        (1..=self.page_count).map(page).collect()
    }
}

/// Fails unless two images are the same, and says where they differ.
#[track_caller]
pub(crate) fn assert_same_image(left: &[Vec<u8>], right: &[Vec<u8>]) {
    assert_eq!(left.len(), right.len(), "sizes in pages");
    let differing: Vec<usize> = (0..left.len())
        .filter(|at| left[*at] != right[*at])
        .collect();
    assert!(
        differing.is_empty(),
        "pages from 0 that differ: {differing:?}"
    );
}

/// Opens an image with SQLite's own VFS, as a user of a backup would, checks it, and returns its
/// content.
pub(crate) fn content_of_image(image: &[Vec<u8>]) -> Vec<String> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("copy.db");
    std::fs::write(&path, image.concat()).unwrap();
    let connection = Connection::open(&path).unwrap();
    assert_sound(&connection);
    content(&connection)
}

/// Everything that SQL can see of the main schema: its definitions and its rows.
pub(crate) fn content(connection: &Connection) -> Vec<String> {
    let mut lines = Vec::new();
    let mut schema = connection
        .prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name")
        .unwrap();
    let mut rows = schema.query([]).unwrap();
    let mut tables = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let (kind, name): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        lines.push(format!(
            "{kind} {name} {}",
            row.get::<_, String>(2).unwrap()
        ));
        if kind == "table" {
            tables.push(name);
        }
    }
    for table in tables {
        let mut statement = connection
            .prepare(&format!("SELECT * FROM \"{table}\""))
            .unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap()));
            lines.push(format!(
                "{table}: {}",
                values.collect::<Vec<_>>().join(", ")
            ));
        }
    }
    lines
}

/// `PRAGMA integrity_check`.
#[track_caller]
pub(crate) fn assert_sound(connection: &Connection) {
    let verdict: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}

/// The one number that a query returns.
#[track_caller]
pub(crate) fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The primary result code of a failed call.
#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(result: rusqlite::Result<T>) -> rusqlite::ErrorCode {
    match result.unwrap_err() {
        rusqlite::Error::SqliteFailure(error, _) => error.code,
        other => panic!("not a failure of SQLite: {other}"),
    }
}

/// A small pseudo-random generator (SplitMix64), so that a seed is all that a failure needs.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// Tells threads to stop when it is dropped, also by a failed assertion: a test that fails has to
/// end.
pub(crate) struct Stop<'flag>(pub(crate) &'flag AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

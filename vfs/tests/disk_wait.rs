//! Reads of what is not in the page cache: whoever asked is told before the thread waits.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Node, backfill, number};
use ringlite_vfs::{Database, DiskWait, Missing, with_disk_wait};

/// Counts waits; it may have the page cache filled meanwhile.
#[derive(Default)]
struct Told {
    fetches: bool,
    waits: AtomicUsize,
}

impl DiskWait for Told {
    fn before_wait(&self, missing: Missing) -> bool {
        assert!(missing.bytes > 0, "{missing:?}");
        self.waits.fetch_add(1, Ordering::Relaxed);
        if self.fetches {
            let file = File::open(format!("/proc/self/fd/{}", missing.file)).unwrap();
            let mut bytes = vec![0; missing.bytes];
            // A block of checksums may reach behind the end.
            assert!(file.read_at(&mut bytes, missing.offset).unwrap() > 0);
        }
        self.fetches
    }
}

/// Sums a table up on a connection of its own; also how often a read was about to wait.
fn sum(database: &Database, fetches: bool) -> (i64, usize) {
    let told = Arc::new(Told {
        fetches,
        ..Told::default()
    });
    let sum = with_disk_wait(told.clone(), || {
        let sql = database.connect().unwrap();
        number(&sql, "SELECT sum(length(b)) FROM t")
    });
    (sum, told.waits.load(Ordering::Relaxed))
}

/// Takes a file out of the page cache.
fn evict(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Whether the file system tells what is in the page cache (some, such as overlay, do not).
fn can_tell(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    let mut byte = [0];
    let mut into = [std::io::IoSliceMut::new(&mut byte)];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    match rustix::io::preadv2(&file, &mut into, 0, flags) {
        Err(rustix::io::Errno::OPNOTSUPP) => false,
        Ok(_) | Err(rustix::io::Errno::AGAIN) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_read_that_would_wait_says_so_and_one_from_the_cache_does_not() {
    let node = Node::new();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
         INSERT INTO t SELECT i, randomblob(3000) FROM n",
    )
    .unwrap();
    let end = database.take_capture().unwrap().commit_point;
    assert_eq!(backfill(&database, &[end]), Some(end));
    assert!(database.restart());
    let path = node.path().join(database.name());
    if !can_tell(&path) {
        println!(
            "NOT CHECKED: the file system of {} cannot tell",
            path.display()
        );
        return;
    }
    let cached = (6_000_000, 0);
    assert_eq!(sum(&database, false), cached, "what was just written");
    for fetches in [false, true] {
        evict(&path);
        evict(&node.path().join(format!("{}.sum", database.name())));
        let (cold, waits) = sum(&database, fetches);
        assert_eq!(cold, 6_000_000);
        assert!(waits > 0, "nobody was told");
        let pages = end.page_count() as usize;
        assert!(
            waits <= pages + 2,
            "{waits} waits: a fetched page was not looked for"
        );
        println!("{waits} reads of {pages} pages waited");
        assert_eq!(sum(&database, fetches), cached, "what was just read");
    }
    // Nobody who has not asked is told.
    evict(&path);
    assert_eq!(number(&sql, "SELECT sum(length(b)) FROM t"), 6_000_000);
}

//! The canonical first page and the file it becomes.

mod common;

use common::{Node, content, content_of_image, image, number};
use ringlite_vfs::{PageSize, VfsError, create_database_file, first_page};
use rusqlite::Connection;

const SIZES: [u32; 3] = [512, 4096, 65536];

#[test]
fn the_first_page_never_changes() {
    for bytes in SIZES {
        let page = first_page(PageSize::new(bytes).unwrap());
        // Only the first 108 bytes are not zero; the golden file has them as lines of hex.
        assert!(page[108..].iter().all(|byte| *byte == 0));
        let hex: Vec<String> = page[..108]
            .chunks(16)
            .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        let golden = match bytes {
            512 => include_str!("golden/first_page_512.hex"),
            4096 => include_str!("golden/first_page_4096.hex"),
            _ => include_str!("golden/first_page_65536.hex"),
        };
        assert_eq!(hex, golden.lines().collect::<Vec<_>>(), "page size {bytes}");
    }
}

#[test]
fn sqlite_makes_the_same_first_page_but_for_its_own_version() {
    for bytes in SIZES {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sqlite.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "page_size", bytes).unwrap();
        // Going to WAL mode writes the first page of an empty database.
        connection
            .query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
            .unwrap();
        drop(connection);
        let mut theirs = std::fs::read(&path).unwrap();
        let mut ours = first_page(PageSize::new(bytes).unwrap());
        assert_eq!(theirs.len(), ours.len());
        theirs[96..100].fill(0);
        // How often it was written is not part of the shape: 24-27, which 92-95 repeat.
        for page in [&mut theirs, &mut ours] {
            assert_eq!(page[24..28], page[92..96]);
            page[24..28].fill(0);
            page[92..96].fill(0);
        }
        assert_eq!(theirs, ours, "page size {bytes}");
    }
}

#[test]
fn a_created_database_works_without_a_write_to_its_file() {
    for bytes in SIZES {
        let node = Node::new();
        let size = PageSize::new(bytes).unwrap();
        let database = node.database("new.db", size);
        database.set_writable(true);
        let path = node.path().join("new.db");
        let before = (std::fs::read(&path).unwrap(), modified(&path));
        let connection = database.connect().unwrap();
        connection
            .execute_batch("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'one'), (2, 'two')")
            .unwrap();
        assert_eq!(number(&connection, "SELECT count(*) FROM t"), 2);
        assert_eq!(number(&connection, "PRAGMA page_size"), i64::from(bytes));
        assert_eq!(content_of_image(&image(&database)), content(&connection));
        drop(connection);
        assert_eq!((std::fs::read(&path).unwrap(), modified(&path)), before);
        assert_eq!(database.recovery_requests(), 0);
        let names = std::fs::read_dir(node.path()).unwrap().count();
        assert_eq!(
            names, 2,
            "no -wal, -shm or journal beside the file and its checksums"
        );
    }
}

fn modified(path: &std::path::Path) -> std::time::SystemTime {
    std::fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_file_is_created_once_and_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let page = first_page(PageSize::DEFAULT);
    create_database_file(directory.path(), "a.db", &page).unwrap();
    create_database_file(directory.path(), "a.db", &page).unwrap();
    let other = first_page(PageSize::MIN);
    let differs = create_database_file(directory.path(), "a.db", &other);
    assert!(
        matches!(differs, Err(VfsError::FileDiffers { .. })),
        "{differs:?}"
    );
    assert_eq!(std::fs::read(directory.path().join("a.db")).unwrap(), page);
    // A crash may have left the temporary file of an earlier attempt.
    std::fs::write(directory.path().join(".b.db.new"), b"torn").unwrap();
    create_database_file(directory.path(), "b.db", &page).unwrap();
    assert_eq!(std::fs::read(directory.path().join("b.db")).unwrap(), page);
    // Each with its checksums.
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4);
}

#[test]
fn what_is_no_first_page_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut rollback_mode = first_page(PageSize::DEFAULT);
    rollback_mode[18] = 1;
    for page in [
        &rollback_mode[..],
        b"",
        &first_page(PageSize::DEFAULT)[..4000],
    ] {
        let refused = create_database_file(directory.path(), "a.db", page);
        assert!(
            matches!(refused, Err(VfsError::NotADatabase { .. })),
            "{refused:?}"
        );
    }
    let refused = create_database_file(directory.path(), "../a.db", &first_page(PageSize::MIN));
    assert!(matches!(refused, Err(VfsError::InvalidName { .. })));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn files_that_cannot_be_the_base_of_a_wal_are_not_opened() {
    let node = Node::new();
    let page = first_page(PageSize::DEFAULT);
    let mut rollback_mode = page.clone();
    rollback_mode[19] = 1;
    for bytes in [&rollback_mode[..], &page[..50], b""] {
        std::fs::write(node.path().join("bad.db"), bytes).unwrap();
        let refused = node.vfs.open("bad.db");
        assert!(
            matches!(refused, Err(VfsError::NotADatabase { .. })),
            "{refused:?}"
        );
    }
    assert!(matches!(node.vfs.open("none.db"), Err(VfsError::Io { .. })));
    assert!(matches!(
        node.vfs.open("../bad.db"),
        Err(VfsError::InvalidName { .. })
    ));
}

#[test]
fn a_name_is_open_once_until_its_last_connection_is_gone() {
    let node = Node::new();
    let database = node.database("one.db", PageSize::DEFAULT);
    assert!(matches!(
        node.vfs.open("one.db"),
        Err(VfsError::AlreadyOpen { .. })
    ));
    let connection = database.connect().unwrap();
    drop(database);
    assert!(matches!(
        node.vfs.open("one.db"),
        Err(VfsError::AlreadyOpen { .. })
    ));
    drop(connection);
    node.vfs.open("one.db").unwrap();
}

#[test]
fn connections_outlive_every_handle() {
    let node = Node::new();
    let database = node.leader();
    let connection = database.connect().unwrap();
    let Node { vfs, directory } = node;
    drop((database, vfs));
    connection
        .execute_batch("CREATE TABLE t (a); CREATE TEMP TABLE u (b)")
        .unwrap();
    connection
        .execute_batch("INSERT INTO u VALUES (1); INSERT INTO t SELECT b FROM u")
        .unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1);
    drop(connection);
    drop(directory);
}

#[test]
fn an_existing_database_of_many_pages_is_read_from_its_file() {
    let node = Node::new();
    let path = node.path().join("old.db");
    let plain = Connection::open(&path).unwrap();
    plain
        .query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
        .unwrap();
    plain
        .execute_batch(
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO t SELECT i, hex(randomblob(50)) FROM n",
        )
        .unwrap();
    let expected = content(&plain);
    drop(plain);
    let database = node.vfs.open("old.db").unwrap();
    database.set_writable(true);
    let connection = database.connect().unwrap();
    assert_eq!(content(&connection), expected);
    connection
        .execute_batch("DELETE FROM t WHERE a % 2 = 0; PRAGMA incremental_vacuum")
        .unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1500);
    assert_eq!(content_of_image(&image(&database)), content(&connection));
}

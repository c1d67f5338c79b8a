//! Connections: what SQL may ask for, what it is refused, and what stays harmless.

mod common;

use common::{Node, code, content, content_of_image, image, number};
use ringlite_vfs::{PageSize, Vfs, VfsOptions, holds_write_lock, read_position};
use rusqlite::{Connection, ErrorCode};

const TABLE: &str = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)";
const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                    INSERT INTO t SELECT i, hex(randomblob(100)) FROM n";

fn pragma(sql: &Connection, pragma: &str) -> String {
    sql.query_row(pragma, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_connection_is_set_up_as_promised() {
    let node = Node::new();
    let sql = node.leader().connect().unwrap();
    assert_eq!(pragma(&sql, "PRAGMA journal_mode"), "wal");
    let expected = [
        ("synchronous", 0),
        ("wal_autocheckpoint", 0),
        ("foreign_keys", 1),
        ("temp_store", 0),
        ("busy_timeout", 0),
    ];
    for (name, value) in expected {
        assert_eq!(number(&sql, &format!("PRAGMA {name}")), value, "{name}");
    }
    let refused = sql.query_row("SELECT load_extension('x')", [], |_| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("not authorized"));
    assert_ne!(
        pragma(&sql, "SELECT hex(randomblob(16))"),
        pragma(&sql, "SELECT hex(zeroblob(16))")
    );
    let now = number(&sql, "SELECT unixepoch()");
    let expected = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!((now - expected.as_secs() as i64).abs() <= 2);
}

#[test]
fn a_checkpoint_answers_busy_and_does_nothing() {
    let node = Node::new();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    sql.execute_batch(ROWS).unwrap();
    // The case that would advance the backfill without a single write: a reader below, and a newer
    // version of every page that it sees.
    let reader = database.connect().unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 2000);
    sql.execute_batch("UPDATE t SET b = 1").unwrap();
    let file = std::fs::read(node.path().join("leader.db")).unwrap();
    let before = (database.commit_point(), database.wal_frames());
    for mode in ["", "(PASSIVE)", "(FULL)", "(RESTART)", "(TRUNCATE)"] {
        for connection in [&sql, &reader] {
            let pragma = format!("PRAGMA wal_checkpoint{mode}");
            let row = connection.query_row(&pragma, [], |row| {
                Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?])
            });
            // Within a read transaction SQLite itself says that the table is locked.
            if let Ok(row) = row {
                assert_eq!(row, [1, -1, -1], "{mode}");
            }
        }
    }
    assert_eq!((database.commit_point(), database.wal_frames()), before);
    assert_eq!(std::fs::read(node.path().join("leader.db")).unwrap(), file);
    assert_eq!(number(&reader, "SELECT count(*) FROM t WHERE b = 1"), 0);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t WHERE b = 1"), 2000);
    sql.execute_batch("INSERT INTO t VALUES (5000, 0)").unwrap();
    assert!(
        database.wal_frames() > before.1,
        "appended, not started anew"
    );
}

#[test]
fn the_journal_mode_stays() {
    let node = Node::new();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        let changed = sql.query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| {
            row.get::<_, String>(0)
        });
        if let Ok(mode) = changed {
            assert_eq!(mode, "wal");
        }
        assert_eq!(pragma(&sql, "PRAGMA journal_mode"), "wal");
        sql.execute("INSERT INTO t (b) VALUES (?1)", [mode])
            .unwrap();
    }
    assert_eq!(content_of_image(&image(&database)), content(&sql));
    assert_eq!(database.recovery_requests(), 0);
}

#[test]
fn exclusive_locking_mode_harms_only_who_asks_for_it() {
    let node = Node::new();
    let database = node.leader();
    let (odd, sql) = (database.connect().unwrap(), database.connect().unwrap());
    sql.execute_batch(TABLE).unwrap();
    pragma(&odd, "PRAGMA locking_mode=EXCLUSIVE");
    let _ = odd.execute_batch("INSERT INTO t VALUES (1, 1)");
    sql.execute_batch("INSERT INTO t VALUES (2, 2)").unwrap();
    drop(odd);
    assert!(number(&sql, "SELECT count(*) FROM t") >= 1);
    assert_eq!(content_of_image(&image(&database)), content(&sql));
}

#[test]
fn one_writer_at_a_time_and_stale_readers_cannot_write() {
    let node = Node::new();
    let database = node.leader();
    let (one, two) = (database.connect().unwrap(), database.connect().unwrap());
    one.execute_batch(TABLE).unwrap();
    one.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(holds_write_lock(&one, "main") && !holds_write_lock(&two, "main"));
    assert_eq!(
        code(two.execute_batch("BEGIN IMMEDIATE")),
        ErrorCode::DatabaseBusy
    );
    two.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&two, "SELECT count(*) FROM t"), 0);
    one.execute_batch("INSERT INTO t VALUES (1, 1); COMMIT")
        .unwrap();
    let stale = two.execute("INSERT INTO t VALUES (2, 2)", []).unwrap_err();
    let busy_snapshot = rusqlite::ffi::SQLITE_BUSY_SNAPSHOT;
    assert_eq!(stale.sqlite_error().unwrap().extended_code, busy_snapshot);
    two.execute_batch("ROLLBACK; INSERT INTO t VALUES (2, 2)")
        .unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 2);
}

#[test]
fn many_snapshots_at_once() {
    // More than there are read marks: later readers share the mark of an earlier snapshot.
    let node = Node::new();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch(TABLE).unwrap();
    let mut readers = Vec::new();
    for row in 0..300i64 {
        let reader = database.connect().unwrap();
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(number(&reader, "SELECT count(*) FROM t"), row);
        assert_eq!(
            read_position(&reader, "main"),
            Some(database.commit_point().position)
        );
        readers.push(reader);
        sql.execute("INSERT INTO t VALUES (?1, 0)", [row]).unwrap();
    }
    for (row, reader) in readers.iter().enumerate() {
        assert_eq!(number(reader, "SELECT count(*) FROM t"), row as i64);
    }
}

#[test]
fn positions_exist_only_where_there_is_a_database_of_ours() {
    let node = Node::new();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch("CREATE TABLE t (a); CREATE TEMP TABLE u (b); ATTACH ':memory:' AS m")
        .unwrap();
    assert!(read_position(&sql, "main").is_some());
    for schema in ["temp", "m", "nothing", "", "ma\0in"] {
        assert_eq!(read_position(&sql, schema), None, "{schema:?}");
        assert!(!holds_write_lock(&sql, schema));
    }
    let plain = Connection::open(node.path().join("plain.db")).unwrap();
    plain.execute_batch("CREATE TABLE t (a)").unwrap();
    assert_eq!(read_position(&plain, "main"), None);
}

#[test]
fn other_open_databases_can_be_attached_and_written_in_one_transaction() {
    let node = Node::new();
    let one = node.leader();
    let two = node.database("two.db", PageSize::MIN);
    two.set_writable(true);
    let sql = one.connect().unwrap();
    sql.execute_batch("ATTACH 'two.db' AS two; CREATE TABLE t (a); CREATE TABLE two.u (b)")
        .unwrap();
    one.take_capture().unwrap();
    two.take_capture().unwrap();
    sql.execute_batch("BEGIN; INSERT INTO t VALUES (1); INSERT INTO two.u VALUES (2)")
        .unwrap();
    assert!(holds_write_lock(&sql, "main") && holds_write_lock(&sql, "two"));
    sql.execute_batch("COMMIT").unwrap();
    for database in [&one, &two] {
        assert_eq!(
            database.take_capture().unwrap().commit_point,
            database.commit_point()
        );
        assert!(!holds_write_lock(&sql, "two"));
    }
    assert_eq!(number(&sql, "SELECT b FROM two.u"), 2);
    assert_eq!(
        read_position(&sql, "two"),
        Some(two.commit_point().position)
    );
    // By its path in the directory too.
    let path = node.path().join("two.db");
    sql.execute("ATTACH ?1 AS again", [path.to_str().unwrap()])
        .unwrap();
    assert_eq!(number(&sql, "SELECT b FROM again.u"), 2);
}

#[test]
fn nothing_but_open_databases_can_be_opened() {
    let node = Node::new();
    let database = node.leader();
    let plain = node.path().join("plain.db");
    Connection::open(&plain)
        .unwrap()
        .execute_batch("CREATE TABLE t (a)")
        .unwrap();
    let sub = node.path().join("sub/../leader.db");
    let sql = database.connect().unwrap();
    let names = [
        plain.to_str().unwrap(),
        sub.to_str().unwrap(),
        "plain.db",
        "/etc/passwd",
        "../leader.db",
        "./leader.db",
        "leader.db-wal",
        "leader.db-journal",
        "new.db",
    ];
    for name in names {
        let refused = sql.execute("ATTACH ?1 AS foreign_file", [name]);
        assert_eq!(code(refused), ErrorCode::CannotOpen, "{name}");
    }
    assert!(sql.execute("VACUUM INTO 'copy.db'", []).is_err());
    assert!(!node.path().join("copy.db").exists() && !node.path().join("new.db").exists());
    // Databases of another VFS are foreign too, even under the same name and directory.
    let other = Vfs::register(VfsOptions::new(node.path(), node.path())).unwrap();
    let same_file = other.open("leader.db").unwrap().connect().unwrap();
    assert_eq!(number(&same_file, "SELECT count(*) FROM sqlite_schema"), 0);
    assert!(same_file.execute("ATTACH 'two.db' AS two", []).is_err());
}

#[test]
fn temporary_files_spill_into_the_directory_and_leave_nothing_there() {
    for temporary_memory_bytes in [0, 20_000, 1 << 30] {
        let mut node = Node::new();
        let temporary = tempfile::tempdir().unwrap();
        node.vfs = Vfs::register(VfsOptions {
            temporary_memory_bytes,
            ..VfsOptions::new(node.path(), temporary.path())
        })
        .unwrap();
        let database = node.leader();
        let sql = database.connect().unwrap();
        sql.execute_batch("PRAGMA temp_store=FILE; PRAGMA temp.cache_size=3; PRAGMA cache_size=3")
            .unwrap();
        sql.execute_batch(&format!(
            "{TABLE}; {ROWS}; CREATE TEMP TABLE u AS SELECT * FROM t"
        ))
        .unwrap();
        sql.execute_batch("BEGIN; UPDATE u SET b = b || 'x' WHERE a < 900; ROLLBACK")
            .unwrap();
        sql.execute_batch("CREATE INDEX u_b ON u (b); DELETE FROM u WHERE a % 2; VACUUM")
            .unwrap();
        assert_eq!(number(&sql, "SELECT count(*) FROM u"), 1000);
        assert_eq!(
            number(&sql, "SELECT count(*) FROM u JOIN t USING (a, b)"),
            1000
        );
        let sorted = "SELECT count(*) FROM (SELECT DISTINCT x.b || y.b FROM t x, t y
                      WHERE x.a < 80 AND y.a < 80 ORDER BY 1 LIMIT -1)";
        assert_eq!(number(&sql, sorted), 79 * 79);
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_temporary_file_that_cannot_spill_is_an_error_and_no_more() {
    let mut node = Node::new();
    node.vfs = Vfs::register(VfsOptions {
        temporary_memory_bytes: 1000,
        ..VfsOptions::new(node.path(), node.path().join("nowhere"))
    })
    .unwrap();
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch("PRAGMA temp.cache_size=3").unwrap();
    sql.execute_batch(&format!("{TABLE}; {ROWS}")).unwrap();
    let refused = sql.execute_batch("CREATE TEMP TABLE u AS SELECT * FROM t");
    assert_eq!(code(refused), ErrorCode::SystemIoFailure);
    assert_eq!(number(&sql, "SELECT count(*) FROM t"), 2000);
}

//! The answers to requests that SQLite makes rarely or never, asked directly.

mod common;

use std::ffi::{c_int, c_void};

use common::{Node, number};
use ringlite_vfs::{Database, PageSize, holds_write_lock};
use rusqlite::{Connection, ffi};

const EXCLUSIVE: c_int = ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_EXCLUSIVE;
const UNLOCK_EXCLUSIVE: c_int = ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_EXCLUSIVE;
const SHARED: c_int = ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_SHARED;
const UNLOCK_SHARED: c_int = ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_SHARED;

/// The open main file of a connection, as SQLite itself would call it.
struct MainFile<'connection> {
    file: *mut ffi::sqlite3_file,
    methods: &'connection ffi::sqlite3_io_methods,
}

impl MainFile<'_> {
    fn of(sql: &Connection) -> MainFile<'_> {
        let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
        // SAFETY: the connection is open, and its file stays open while it is borrowed.
        let methods = unsafe {
            let operation = ffi::SQLITE_FCNTL_FILE_POINTER;
            let out = (&raw mut file).cast::<c_void>();
            ffi::sqlite3_file_control(sql.handle(), c"main".as_ptr(), operation, out);
            &*(*file).pMethods
        };
        MainFile { file, methods }
    }

    fn shm_lock(&self, offset: c_int, count: c_int, flags: c_int) -> c_int {
        // SAFETY: the file is open.
        unsafe { self.methods.xShmLock.unwrap()(self.file, offset, count, flags) }
    }

    fn shm_map(&self, region: c_int, extend: c_int) -> (c_int, *mut c_void) {
        let mut address = std::ptr::dangling_mut();
        let map = self.methods.xShmMap.unwrap();
        // SAFETY: the file is open, and there is a place for the address.
        let code = unsafe { map(self.file, region, 32768, extend, &raw mut address) };
        (code, address)
    }

    fn control(&self, operation: c_int) -> (c_int, c_int) {
        let mut answer: c_int = -1;
        let control = self.methods.xFileControl.unwrap();
        // SAFETY: the file is open, and the operations asked for take an int.
        let code = unsafe { control(self.file, operation, (&raw mut answer).cast()) };
        (code, answer)
    }
}

fn opened(node: &Node) -> (Database, Connection) {
    let database = node.leader();
    let sql = database.connect().unwrap();
    sql.execute_batch("CREATE TABLE t (a)").unwrap();
    (database, sql)
}

#[test]
fn checkpoints_restarts_and_recovery_are_not_for_sqlite() {
    let node = Node::new();
    let (database, sql) = opened(&node);
    let file = MainFile::of(&sql);
    // The checkpoint slot, and the read slots that a restart of the WAL takes at once.
    assert_eq!(file.shm_lock(1, 1, EXCLUSIVE), ffi::SQLITE_BUSY);
    assert_eq!(file.shm_lock(4, 4, EXCLUSIVE), ffi::SQLITE_BUSY);
    assert_eq!(database.recovery_requests(), 0);
    assert_eq!(file.shm_lock(1, 2, EXCLUSIVE), ffi::SQLITE_IOERR_SHMLOCK);
    assert_eq!(file.shm_lock(2, 1, EXCLUSIVE), ffi::SQLITE_IOERR_SHMLOCK);
    assert_eq!(database.recovery_requests(), 2);
    for (offset, count) in [(-1, 1), (8, 1), (0, 0), (7, 2), (0, -1), (0, 9)] {
        assert_eq!(
            file.shm_lock(offset, count, EXCLUSIVE),
            ffi::SQLITE_IOERR_SHMLOCK
        );
    }
    // A refused request leaves nothing behind.
    sql.execute_batch("INSERT INTO t VALUES (1)").unwrap();
}

#[test]
fn locks_are_those_of_the_handle_that_took_them() {
    let node = Node::new();
    let (database, sql) = opened(&node);
    let other = database.connect().unwrap();
    let (one, two) = (MainFile::of(&sql), MainFile::of(&other));
    // Writers have a read slot first. Without one it would be a second look at the header, which
    // others wait for.
    assert_eq!(one.shm_lock(4, 1, SHARED), ffi::SQLITE_OK);
    assert_eq!(two.shm_lock(4, 1, SHARED), ffi::SQLITE_OK);
    assert_eq!(one.shm_lock(0, 1, EXCLUSIVE), ffi::SQLITE_OK);
    assert!(holds_write_lock(&sql, "main"));
    assert_eq!(two.shm_lock(0, 1, EXCLUSIVE), ffi::SQLITE_BUSY);
    // Somebody who does not hold it cannot give it back.
    assert_eq!(two.shm_lock(0, 1, UNLOCK_EXCLUSIVE), ffi::SQLITE_OK);
    assert_eq!(two.shm_lock(0, 1, EXCLUSIVE), ffi::SQLITE_BUSY);
    assert_eq!(one.shm_lock(0, 1, UNLOCK_EXCLUSIVE), ffi::SQLITE_OK);
    assert_eq!(two.shm_lock(0, 1, EXCLUSIVE), ffi::SQLITE_OK);
    // Slots go with the connection.
    assert_eq!(two.shm_lock(7, 1, SHARED), ffi::SQLITE_OK);
    assert_eq!(one.shm_lock(7, 1, EXCLUSIVE), ffi::SQLITE_BUSY);
    drop(other);
    assert_eq!(one.shm_lock(0, 1, EXCLUSIVE), ffi::SQLITE_OK);
    assert_eq!(one.shm_lock(7, 1, EXCLUSIVE), ffi::SQLITE_OK);
    assert_eq!(one.shm_lock(7, 1, UNLOCK_EXCLUSIVE), ffi::SQLITE_OK);
}

#[test]
fn regions_stay_where_they_are() {
    let node = Node::new();
    let (_database, sql) = opened(&node);
    let file = MainFile::of(&sql);
    let (code, first) = file.shm_map(0, 0);
    assert_eq!(code, ffi::SQLITE_OK);
    assert_eq!(file.shm_map(3, 0), (ffi::SQLITE_OK, std::ptr::null_mut()));
    let (_, third) = file.shm_map(3, 1);
    assert!(!third.is_null());
    for region in 4..200 {
        assert!(!file.shm_map(region, 1).1.is_null());
    }
    assert_eq!(file.shm_map(3, 0), (ffi::SQLITE_OK, third));
    assert_eq!(file.shm_map(0, 0), (ffi::SQLITE_OK, first));
    assert_eq!(file.shm_map(-1, 1).0, ffi::SQLITE_IOERR_SHMMAP);
}

#[test]
fn the_main_file_is_not_for_sqlite_to_change() {
    let node = Node::new();
    let (_database, sql) = opened(&node);
    let MainFile { file, methods } = MainFile::of(&sql);
    let bytes = [0u8; 4096];
    let mut size = 0;
    // SAFETY: the file is open; the buffers are as long as said.
    unsafe {
        let write = methods.xWrite.unwrap();
        assert_eq!(
            write(file, bytes.as_ptr().cast(), 4096, 0),
            ffi::SQLITE_READONLY
        );
        assert_eq!(methods.xTruncate.unwrap()(file, 0), ffi::SQLITE_READONLY);
        let lock = methods.xLock.unwrap();
        assert_eq!(lock(file, ffi::SQLITE_LOCK_SHARED), ffi::SQLITE_OK);
        assert_eq!(lock(file, ffi::SQLITE_LOCK_RESERVED), ffi::SQLITE_BUSY);
        assert_eq!(lock(file, ffi::SQLITE_LOCK_EXCLUSIVE), ffi::SQLITE_BUSY);
        assert_eq!(
            methods.xFileSize.unwrap()(file, &raw mut size),
            ffi::SQLITE_OK
        );
    }
    assert_eq!(size, 4096);
    let file = MainFile::of(&sql);
    assert_eq!(
        file.control(ffi::SQLITE_FCNTL_HAS_MOVED),
        (ffi::SQLITE_OK, 0)
    );
    assert_eq!(
        file.control(ffi::SQLITE_FCNTL_PERSIST_WAL),
        (ffi::SQLITE_OK, 1)
    );
    assert_eq!(
        file.control(ffi::SQLITE_FCNTL_SIZE_HINT).0,
        ffi::SQLITE_NOTFOUND
    );
}

#[test]
fn an_old_epoch_gives_nothing_and_takes_everything_back() {
    let node = Node::new();
    let (database, sql) = opened(&node);
    let to = database.commit_point();
    let file = MainFile::of(&sql);
    assert_eq!(file.shm_lock(0, 1, EXCLUSIVE), ffi::SQLITE_OK);
    assert_eq!(file.shm_lock(5, 1, SHARED), ffi::SQLITE_OK);
    database.roll_back(&to).unwrap();
    assert_eq!(file.shm_lock(6, 1, EXCLUSIVE), ffi::SQLITE_IOERR_SHMLOCK);
    assert_eq!(file.shm_lock(6, 1, SHARED), ffi::SQLITE_IOERR_SHMLOCK);
    assert_eq!(file.shm_map(0, 0).0, ffi::SQLITE_IOERR_SHMMAP);
    let mut bytes = [0u8; 100];
    // SAFETY: the file is open, and the buffer is as long as said.
    let read = unsafe { file.methods.xRead.unwrap()(file.file, bytes.as_mut_ptr().cast(), 100, 0) };
    assert_eq!(read, ffi::SQLITE_IOERR_READ);
    // The new epoch does not know of the old one's locks.
    let fresh = database.connect().unwrap();
    fresh.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let point = database.commit_point();
    assert_eq!(file.shm_lock(0, 1, UNLOCK_EXCLUSIVE), ffi::SQLITE_OK);
    assert_eq!(file.shm_lock(5, 1, UNLOCK_SHARED), ffi::SQLITE_OK);
    assert_eq!(database.commit_point(), point);
    // SAFETY: the file is open.
    let unmapped = unsafe { file.methods.xShmUnmap.unwrap()(file.file, 0) };
    assert_eq!(unmapped, ffi::SQLITE_OK);
    assert_eq!(number(&fresh, "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_small_change_is_one_frame() {
    // Without POWERSAFE_OVERWRITE every page of a sector would go with a changed one.
    let node = Node::new();
    let database = node.database("small.db", PageSize::MIN);
    database.set_writable(true);
    let sql = database.connect().unwrap();
    sql.execute_batch(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO t SELECT i, printf('%050d', i) FROM n",
    )
    .unwrap();
    let before = database.wal_frames();
    sql.execute_batch("UPDATE t SET b = printf('%050d', 7) WHERE a = 100")
        .unwrap();
    assert_eq!(database.wal_frames() - before, 1);
}

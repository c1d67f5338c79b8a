//! Bounds on what one statement, or all of them together, may take. `docs/SQL.md` lists them.

use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};

/// The limits of each session that are not SQLite's own, or that must not change with SQLite's.
const LIMITS: [(Limit, i32); 13] = [
    // A text, a blob, or a row. Larger transactions do not fit into the log's entries either.
    (Limit::SQLITE_LIMIT_LENGTH, 64 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 16 << 20),
    (Limit::SQLITE_LIMIT_COLUMN, 2_000),
    // Compiling recurses on the thread's stack.
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 1_000),
    (Limit::SQLITE_LIMIT_PARSER_DEPTH, 2_500),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    // An instruction takes 24 bytes.
    (Limit::SQLITE_LIMIT_VDBE_OP, 5_000_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 1_000),
    (Limit::SQLITE_LIMIT_ATTACHED, 10),
    // Matching takes pattern x text steps, and nothing can stop it on the way.
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50_000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 32_766),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1_000),
    // Sorting stays on the thread of the statement.
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// SQLite's memory in this process above which page caches give back pages instead of growing.
const HEAP_BYTES_SOFT: i64 = 256 << 20;
/// SQLite's memory in this process above which statements fail with `SQLITE_NOMEM`.
const HEAP_BYTES_MAX: i64 = 1 << 30;

/// Sets the limits of a session's connection.
pub(super) fn set(connection: &Connection) -> rusqlite::Result<()> {
    for (limit, value) in LIMITS {
        connection.set_limit(limit, value)?;
    }
    Ok(())
}

/// Bounds the memory of all of SQLite in this process, unless its owner has done so already.
pub(super) fn bound_heap() {
    // SAFETY: both calls may be made at any time and from any thread; a negative number asks for
    // the limit that is set, and 0 means none.
    unsafe {
        if ffi::sqlite3_hard_heap_limit64(-1) == 0 {
            ffi::sqlite3_hard_heap_limit64(HEAP_BYTES_MAX);
        }
        // A hard limit implies a soft one at the same place.
        let soft = ffi::sqlite3_soft_heap_limit64(-1);
        if soft == 0 || soft == HEAP_BYTES_MAX {
            ffi::sqlite3_soft_heap_limit64(HEAP_BYTES_SOFT);
        }
    }
}

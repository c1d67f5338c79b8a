//! A compiled statement that owns a share of its connection.
//!
//! rusqlite's own statement borrows the connection, and gives no access to the tail of a text, so
//! that a session could keep neither statements nor half-read results. This is the thin layer
//! over `sqlite3_stmt` that a session needs, and no more.

use std::ffi::{CStr, c_char, c_int};
use std::rc::Rc;
use std::sync::Arc;

use rusqlite::{Connection, ffi};

use crate::error::Error;
use crate::rows::{Column, ColumnKind, Value};

/// What one step gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Row,
    Done,
}

/// A compiled statement.
pub(super) struct Statement {
    raw: *mut ffi::sqlite3_stmt,
    connection: Rc<Connection>,
    parameters: u32,
    readonly: bool,
}

impl Statement {
    /// Compiles the first statement of `sql`; `None` if there is none but blanks and comments.
    /// Also returns where in `sql` the rest begins.
    pub(super) fn prepare(
        connection: &Rc<Connection>,
        sql: &str,
    ) -> Result<(Option<Self>, usize), Error> {
        let length = c_int::try_from(sql.len()).map_err(|_| Error::Sqlite {
            code: ffi::SQLITE_TOOBIG,
            message: "the SQL text is longer than 2 GiB".into(),
        })?;
        let mut raw = std::ptr::null_mut();
        let mut tail: *const c_char = std::ptr::null();
        // SAFETY: the connection is open while `connection` lives; the text is valid for `length`
        // bytes, and SQLite writes both out-pointers before it returns.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                connection.handle(),
                sql.as_ptr().cast(),
                length,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &raw mut raw,
                &raw mut tail,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(last_error(connection, code));
        }
        let consumed = (tail as usize)
            .checked_sub(sql.as_ptr() as usize)
            .map_or(sql.len(), |offset| offset.min(sql.len()));
        if raw.is_null() {
            return Ok((None, consumed));
        }
        // SAFETY: `raw` is a statement that was just compiled.
        let (parameters, readonly) = unsafe {
            (
                ffi::sqlite3_bind_parameter_count(raw),
                ffi::sqlite3_stmt_readonly(raw) != 0,
            )
        };
        let statement = Self {
            raw,
            connection: Rc::clone(connection),
            parameters: u32::try_from(parameters).unwrap_or(0),
            readonly,
        };
        Ok((Some(statement), consumed))
    }

    /// How many parameters it takes.
    pub(super) fn parameters(&self) -> u32 {
        self.parameters
    }

    /// Whether it changes no database.
    pub(super) fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Binds the parameters from the first on; those that are not given are NULL.
    pub(super) fn bind(&mut self, values: &[Value]) -> Result<(), Error> {
        // SAFETY: the statement is live and not stepping (`reset` comes before every bind).
        unsafe { ffi::sqlite3_clear_bindings(self.raw) };
        for (position, value) in (1..).zip(values) {
            // SAFETY: as above; SQLite copies text and blobs (SQLITE_TRANSIENT) before it
            // returns, and the lengths are those of the slices.
            let code = unsafe {
                match value {
                    Value::Null => ffi::sqlite3_bind_null(self.raw, position),
                    Value::Integer(value) => ffi::sqlite3_bind_int64(self.raw, position, *value),
                    Value::Real(value) => ffi::sqlite3_bind_double(self.raw, position, *value),
                    Value::Text(text) => ffi::sqlite3_bind_text64(
                        self.raw,
                        position,
                        text.as_ptr().cast(),
                        text.len() as u64,
                        ffi::SQLITE_TRANSIENT(),
                        ffi::SQLITE_UTF8 as u8,
                    ),
                    Value::Blob(blob) if blob.is_empty() => {
                        ffi::sqlite3_bind_zeroblob(self.raw, position, 0)
                    }
                    Value::Blob(blob) => ffi::sqlite3_bind_blob64(
                        self.raw,
                        position,
                        blob.as_ptr().cast(),
                        blob.len() as u64,
                        ffi::SQLITE_TRANSIENT(),
                    ),
                }
            };
            if code != ffi::SQLITE_OK {
                return Err(last_error(&self.connection, code));
            }
        }
        Ok(())
    }

    /// Runs to the next row or to the end.
    pub(super) fn step(&mut self) -> Result<Step, Error> {
        // SAFETY: the statement is live.
        match unsafe { ffi::sqlite3_step(self.raw) } {
            ffi::SQLITE_ROW => Ok(Step::Row),
            ffi::SQLITE_DONE => Ok(Step::Done),
            code => Err(last_error(&self.connection, code)),
        }
    }

    /// Makes it ready to run again and ends the reading of its snapshot.
    pub(super) fn reset(&mut self) {
        // SAFETY: the statement is live. The returned code repeats the last step's error.
        unsafe { ffi::sqlite3_reset(self.raw) };
    }

    /// The columns of its rows. Asked for after the first step, since a step may compile it anew.
    pub(super) fn columns(&self) -> Arc<[Column]> {
        // SAFETY: the statement is live; names and declared types are NUL-terminated texts that
        // stay valid until the next call on the statement, and are copied here.
        unsafe {
            (0..ffi::sqlite3_column_count(self.raw))
                .map(|column| Column {
                    name: text_at(ffi::sqlite3_column_name(self.raw, column)).unwrap_or_default(),
                    kind: ColumnKind::of_declared_type(
                        text_at(ffi::sqlite3_column_decltype(self.raw, column)).as_deref(),
                    ),
                })
                .collect()
        }
    }

    /// The values of the current row, and about how many bytes they are.
    pub(super) fn row(&self) -> (Vec<Value>, usize) {
        let mut bytes = 0;
        // SAFETY: the statement stands on a row; the pointer of a text or blob is valid for the
        // length that SQLite tells right after it, and is copied at once.
        let values = unsafe {
            (0..ffi::sqlite3_data_count(self.raw))
                .map(|column| {
                    let value = match ffi::sqlite3_column_type(self.raw, column) {
                        ffi::SQLITE_INTEGER => {
                            Value::Integer(ffi::sqlite3_column_int64(self.raw, column))
                        }
                        ffi::SQLITE_FLOAT => {
                            Value::Real(ffi::sqlite3_column_double(self.raw, column))
                        }
                        ffi::SQLITE_TEXT => {
                            let text = ffi::sqlite3_column_text(self.raw, column);
                            let text = self.copy(column, text.cast());
                            Value::Text(match String::from_utf8(text) {
                                Ok(text) => text,
                                Err(error) => {
                                    String::from_utf8_lossy(error.as_bytes()).into_owned()
                                }
                            })
                        }
                        ffi::SQLITE_BLOB => {
                            let blob = ffi::sqlite3_column_blob(self.raw, column);
                            Value::Blob(self.copy(column, blob.cast()))
                        }
                        _ => Value::Null,
                    };
                    bytes += match &value {
                        Value::Text(text) => text.len() + 8,
                        Value::Blob(blob) => blob.len() + 8,
                        _ => 8,
                    };
                    value
                })
                .collect()
        };
        (values, bytes)
    }

    /// # Safety
    /// `start` must be what SQLite gave for the column of the current row just before.
    unsafe fn copy(&self, column: c_int, start: *const u8) -> Vec<u8> {
        if start.is_null() {
            return Vec::new();
        }
        // SAFETY: the statement is live, and SQLite tells the length of what it gave.
        unsafe {
            let length = ffi::sqlite3_column_bytes(self.raw, column);
            std::slice::from_raw_parts(start, usize::try_from(length).unwrap_or(0)).to_vec()
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: the statement is live and this is its last use; its connection is open, because
        // the statement owns a share of it.
        unsafe { ffi::sqlite3_finalize(self.raw) };
    }
}

/// # Safety
/// `text` must be null or point to a NUL-terminated text.
unsafe fn text_at(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller says so.
    Some(
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned(),
    )
}

/// The connection's last error, in SQLite's words where they help.
fn last_error(connection: &Connection, code: c_int) -> Error {
    // SAFETY: the connection is open; the message is copied before the next call on it.
    let (code, message) = unsafe {
        let handle = connection.handle();
        let extended = ffi::sqlite3_extended_errcode(handle);
        let code = if extended == ffi::SQLITE_OK {
            code
        } else {
            extended
        };
        (
            code,
            text_at(ffi::sqlite3_errmsg(handle)).unwrap_or_default(),
        )
    };
    let message = match code {
        ffi::SQLITE_BUSY_SNAPSHOT => "this transaction has read, and another one has committed \
             since, so that it cannot write any more: roll back and run it again, or begin it \
             with BEGIN IMMEDIATE"
            .into(),
        ffi::SQLITE_AUTH => {
            format!("{message}: it would leave the replicated database, or change how it is stored")
        }
        _ => message,
    };
    Error::Sqlite { code, message }
}

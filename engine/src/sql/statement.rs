//! A compiled statement that owns a share of its connection.
//!
//! rusqlite's own statement borrows the connection, and gives no access to the tail of a text, so
//! that a session could keep neither statements nor half-read results. This is the thin layer
//! over `sqlite3_stmt` that a session needs, and no more.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rusqlite::{Connection, ffi};

use super::authorizer::{self, Call, Refusal};
use crate::error::Error;
use crate::rows::{Column, ColumnKind, Value};

/// What one step gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Row,
    Done,
}

/// A statement that changes which databases the connection has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// It attaches the database of this name.
    Attach(Box<str>),
    /// It detaches one.
    Detach,
}

/// A compiled statement.
pub(super) struct Statement {
    raw: *mut ffi::sqlite3_stmt,
    connection: Rc<Connection>,
    parameters: u32,
    readonly: bool,
    special: Option<Special>,
}

impl Statement {
    /// Compiles the first statement of `sql`; `None` if there is none but blanks and comments.
    /// Also returns where in `sql` the rest begins.
    pub(super) fn prepare(
        connection: &Rc<Connection>,
        sql: &str,
    ) -> Result<(Option<Self>, usize), Error> {
        Self::prepare_as(Call::Prepare, connection, sql)
    }

    /// As [`Statement::prepare`], with what the authorizer is to know of it.
    pub(super) fn prepare_as(
        call: Call,
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
        let (code, observed) = authorizer::observe(connection, call, || unsafe {
            ffi::sqlite3_prepare_v3(
                connection.handle(),
                sql.as_ptr().cast(),
                length,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &raw mut raw,
                &raw mut tail,
            )
        });
        if code != ffi::SQLITE_OK {
            return Err(match observed.refusal {
                Some(Refusal::Because(reason)) => not_authorized(&reason),
                _ => last_error(connection, code),
            });
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
            special: observed.special,
        };
        Ok((Some(statement), consumed))
    }

    /// The memory that it takes now, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        // SAFETY: the statement is live.
        let bytes =
            unsafe { ffi::sqlite3_stmt_status(self.raw, ffi::SQLITE_STMTSTATUS_MEMUSED, 0) };
        usize::try_from(bytes).unwrap_or(0)
    }

    /// How many parameters it takes.
    pub(super) fn parameters(&self) -> u32 {
        self.parameters
    }

    /// Whether it changes no database.
    pub(super) fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Whether it attaches or detaches a database.
    pub(super) fn special(&self) -> Option<&Special> {
        self.special.as_ref()
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
        let call = match self.special {
            Some(_) => Call::Attach,
            None => Call::Step,
        };
        match self.step_as(call) {
            (Err(_), Some(Refusal::VacuumInto(path))) => {
                drop(self.reset());
                self.vacuum_into(&path)
            }
            (Err(_), Some(Refusal::Because(reason))) => Err(not_authorized(&reason)),
            (stepped, _) => stepped,
        }
    }

    fn step_as(&mut self, call: Call) -> (Result<Step, Error>, Option<Refusal>) {
        // SAFETY: the statement is live.
        let (code, observed) = authorizer::observe(&self.connection, call, || unsafe {
            ffi::sqlite3_step(self.raw)
        });
        let stepped = match code {
            ffi::SQLITE_ROW => Ok(Step::Row),
            ffi::SQLITE_DONE => Ok(Step::Done),
            code => Err(last_error(&self.connection, code)),
        };
        (stepped, observed.refusal)
    }

    /// Runs `VACUUM INTO` for the operator's directory. SQLite does not sync that file, because
    /// `synchronous` is off for the database.
    fn vacuum_into(&self, path: &Path) -> Result<Step, Error> {
        let sql = authorizer::vacuum_into(&self.vacuumed_schema()?, path);
        let (statement, _) = Self::prepare(&self.connection, &sql)?;
        let Some(mut statement) = statement else {
            unreachable!("the text is a statement");
        };
        let step = statement.step_as(Call::VacuumInto).0?;
        let synced = File::open(path)
            .and_then(|file| file.sync_all())
            .and_then(|()| File::open(path.parent().unwrap_or(path)))
            .and_then(|directory| directory.sync_all());
        synced.map_err(|error| Error::Sqlite {
            code: ffi::SQLITE_IOERR_FSYNC,
            message: format!("cannot sync {}: {error}", path.display()),
        })?;
        Ok(step)
    }

    /// Which schema a VACUUM is of: its program says so in the first parameter of its instruction.
    fn vacuumed_schema(&self) -> Result<String, Error> {
        // SAFETY: the statement is live, and its text with it, which is copied here.
        let sql = unsafe { text_at(ffi::sqlite3_sql(self.raw)) }.unwrap_or_default();
        let explain = format!("EXPLAIN {sql}");
        let (program, _) = Self::prepare(&self.connection, &explain)?;
        let mut program = program.ok_or_else(Error::interrupted)?;
        while program.step()? == Step::Row {
            let (instruction, _) = program.row()?;
            if let [_, Value::Text(name), Value::Integer(schema), ..] = &instruction[..]
                && name == "Vacuum"
            {
                let place = usize::try_from(*schema).unwrap_or(0);
                let name = schemas(&self.connection).into_iter().nth(place);
                return Ok(name
                    .and_then(|name| name.into_string().ok())
                    .unwrap_or_default());
            }
        }
        unreachable!("the statement is a VACUUM")
    }

    /// Makes it ready to run again and ends the reading of its snapshot. A statement that has not
    /// come to its end ends here, which may commit.
    ///
    /// # Errors
    /// The last step's, again, or that of the commit.
    pub(super) fn reset(&mut self) -> Result<(), Error> {
        // SAFETY: the statement is live.
        let code = unsafe { ffi::sqlite3_reset(self.raw) };
        // SAFETY: the statement is live. The values that were bound, which can be large, would stay
        // until others are.
        unsafe { ffi::sqlite3_clear_bindings(self.raw) };
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(last_error(&self.connection, code)),
        }
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
    ///
    /// # Errors
    /// If there is no memory for a text or blob that SQLite makes only now.
    pub(super) fn row(&self) -> Result<(Vec<Value>, usize), Error> {
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
                            let text = self.copy(column, text.cast())?;
                            Value::Text(match String::from_utf8(text) {
                                Ok(text) => text,
                                Err(error) => {
                                    String::from_utf8_lossy(error.as_bytes()).into_owned()
                                }
                            })
                        }
                        ffi::SQLITE_BLOB => {
                            let blob = ffi::sqlite3_column_blob(self.raw, column);
                            Value::Blob(self.copy(column, blob.cast())?)
                        }
                        _ => Value::Null,
                    };
                    bytes += match &value {
                        Value::Text(text) => text.len() + 8,
                        Value::Blob(blob) => blob.len() + 8,
                        _ => 8,
                    };
                    Ok(value)
                })
                .collect::<Result<_, Error>>()?
        };
        Ok((values, bytes))
    }

    /// # Safety
    /// `start` must be what SQLite gave for the column of the current row just before.
    unsafe fn copy(&self, column: c_int, start: *const u8) -> Result<Vec<u8>, Error> {
        if start.is_null() {
            // It is empty, or could not be made.
            // SAFETY: the connection is open.
            let code = unsafe { ffi::sqlite3_errcode(self.connection.handle()) };
            return match code {
                ffi::SQLITE_NOMEM => Err(last_error(&self.connection, code)),
                _ => Ok(Vec::new()),
            };
        }
        // SAFETY: the statement is live, and SQLite tells the length of what it gave.
        unsafe {
            let length = ffi::sqlite3_column_bytes(self.raw, column);
            Ok(std::slice::from_raw_parts(start, usize::try_from(length).unwrap_or(0)).to_vec())
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

/// The names of the connection's databases, its own one first.
pub(super) fn schemas(connection: &Connection) -> Vec<CString> {
    let names = (0..).map_while(|place| {
        // SAFETY: the connection is open; the name is valid until a database is attached or
        // detached, and is copied at once. It is null behind the last database.
        let name = unsafe { ffi::sqlite3_db_name(connection.handle(), place) };
        // SAFETY: as above; it is NUL-terminated.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_owned())
    });
    names.collect()
}

/// Whether the transaction was refused a page because it has too many.
fn is_too_large(connection: &Connection) -> bool {
    schemas(connection).iter().any(|schema| {
        let schema = schema.to_str().unwrap_or_default();
        ringlite_vfs::transaction_is_too_large(connection, schema)
    })
}

/// A refusal of the authorizer.
fn not_authorized(reason: &str) -> Error {
    Error::Sqlite {
        code: ffi::SQLITE_AUTH,
        message: format!("not authorized: {reason}"),
    }
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
        ffi::SQLITE_NOMEM | ffi::SQLITE_IOERR_NOMEM => {
            "out of memory: the statement needs more than this node gives to SQLite".into()
        }
        ffi::SQLITE_FULL if is_too_large(connection) => {
            "the transaction changes more than a transaction may, and was rolled back: make it \
             smaller, or start the nodes with a greater --transaction-bytes"
                .into()
        }
        _ => message,
    };
    Error::Sqlite { code, message }
}

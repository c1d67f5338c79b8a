//! Values and the codes of their types.

use super::{
    body::{BodyReader, put_blob, put_f64, put_i64, put_text, put_u64},
    error::WireError,
};
use crate::rows::{ColumnKind, Value};

/// How a value is encoded. The first five are SQLite's storage classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TypeCode {
    /// A signed 64-bit integer.
    Integer = 1,
    /// An IEEE-754 double.
    Float = 2,
    /// UTF-8 up to a NUL.
    Text = 3,
    /// A length and bytes.
    Blob = 4,
    /// One word that means nothing.
    Null = 5,
    /// An INTEGER in a column declared as a time: seconds since 1970.
    UnixTime = 9,
    /// A TEXT in a column declared as a time.
    Iso8601 = 10,
    /// An INTEGER in a column declared BOOLEAN.
    Boolean = 11,
}

impl TypeCode {
    /// The type with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Integer,
            2 => Self::Float,
            3 => Self::Text,
            4 => Self::Blob,
            5 => Self::Null,
            9 => Self::UnixTime,
            10 => Self::Iso8601,
            11 => Self::Boolean,
            _ => return None,
        })
    }

    /// How a server sends `value` in a column of `kind`.
    ///
    /// The storage class decides, except for what the declared type gives a meaning to. A value
    /// that does not suit its column (a REAL in a DATETIME column) travels as what it is, and a
    /// NULL is always a NULL; the peer aborts at the former and sends "" or 0 for the latter.
    pub fn of(value: &Value, kind: ColumnKind) -> Self {
        match (value, kind) {
            (Value::Integer(_), ColumnKind::DateTime) => Self::UnixTime,
            (Value::Text(_), ColumnKind::DateTime) => Self::Iso8601,
            (Value::Integer(_), ColumnKind::Boolean) => Self::Boolean,
            (Value::Integer(_), _) => Self::Integer,
            (Value::Real(_), _) => Self::Float,
            (Value::Text(_), _) => Self::Text,
            (Value::Blob(_), _) => Self::Blob,
            (Value::Null, _) => Self::Null,
        }
    }
}

/// Appends a value. Its type code stands elsewhere; it does not change the bytes.
///
/// A TEXT is cut at its first NUL, as the peer does: this wire ends texts with one.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => put_u64(out, 0),
        Value::Integer(integer) => put_i64(out, *integer),
        Value::Real(real) => put_f64(out, *real),
        Value::Text(text) => put_text(out, text),
        Value::Blob(bytes) => put_blob(out, bytes),
    }
}

/// Reads a parameter: code 10 binds as TEXT and 11 as INTEGER 0 or 1; 9 is not accepted.
pub(super) fn parameter(
    reader: &mut BodyReader<'_>,
    index: usize,
    code: u8,
) -> Result<Value, WireError> {
    const FIELD: &str = "a parameter";
    Ok(match TypeCode::from_code(code) {
        Some(TypeCode::Integer) => Value::Integer(reader.i64(FIELD)?),
        Some(TypeCode::Float) => Value::Real(reader.f64(FIELD)?),
        Some(TypeCode::Text | TypeCode::Iso8601) => Value::Text(reader.text(FIELD)?.to_owned()),
        Some(TypeCode::Blob) => Value::Blob(reader.blob(FIELD)?.to_vec()),
        Some(TypeCode::Null) => {
            reader.u64(FIELD)?;
            Value::Null
        }
        Some(TypeCode::Boolean) => Value::Integer(i64::from(reader.u64(FIELD)? != 0)),
        Some(TypeCode::UnixTime) | None => {
            return Err(WireError::RefusedParameterType {
                index: index + 1,
                code,
            });
        }
    })
}

/// Reads a value of a row: the special codes become the storage class they stand for.
///
/// A TEXT that is not UTF-8 (SQLite stores any bytes) becomes a BLOB, so that nothing is lost.
pub(super) fn column_value(
    reader: &mut BodyReader<'_>,
    column: usize,
    code: u8,
) -> Result<Value, WireError> {
    const FIELD: &str = "a column value";
    Ok(match TypeCode::from_code(code) {
        Some(TypeCode::Integer | TypeCode::UnixTime | TypeCode::Boolean) => {
            Value::Integer(reader.i64(FIELD)?)
        }
        Some(TypeCode::Float) => Value::Real(reader.f64(FIELD)?),
        Some(TypeCode::Text | TypeCode::Iso8601) => {
            let bytes = reader.text_bytes(FIELD)?;
            match std::str::from_utf8(bytes) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => Value::Blob(bytes.to_vec()),
            }
        }
        Some(TypeCode::Blob) => Value::Blob(reader.blob(FIELD)?.to_vec()),
        Some(TypeCode::Null) => {
            reader.u64(FIELD)?;
            Value::Null
        }
        None => return Err(WireError::UnknownColumnType { column, code }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_type_changes_only_what_it_means_something_for() {
        use ColumnKind::{Boolean, DateTime, Plain};
        let cases = [
            (Value::Integer(1), [1, 9, 11]),
            (Value::Real(1.5), [2, 2, 2]),
            (Value::Text("x".into()), [3, 10, 3]),
            (Value::Blob(vec![1]), [4, 4, 4]),
            (Value::Null, [5, 5, 5]),
        ];
        for (value, codes) in cases {
            let found = [Plain, DateTime, Boolean].map(|kind| TypeCode::of(&value, kind) as u8);
            assert_eq!(found, codes, "{value:?}");
        }
    }

    #[test]
    fn codes_read_back_as_themselves() {
        for code in 0..=u8::MAX {
            if let Some(known) = TypeCode::from_code(code) {
                assert_eq!(known as u8, code);
            }
        }
    }

    #[test]
    fn parameters_of_the_special_types() {
        let read = |body: &[u8], code| parameter(&mut BodyReader::new(body), 2, code);
        assert_eq!(read(&7u64.to_le_bytes(), 11), Ok(Value::Integer(1)));
        assert_eq!(read(&0u64.to_le_bytes(), 11), Ok(Value::Integer(0)));
        assert_eq!(read(b"2024\0...", 10), Ok(Value::Text("2024".into())));
        for code in [0, 6, 9, 12, 255] {
            let error = read(&[0; 8], code).unwrap_err();
            assert_eq!(error, WireError::RefusedParameterType { index: 3, code });
            assert_eq!(
                (error.failure_code(), error.closes_connection()),
                (1, false)
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_not_lost_in_a_row_and_not_bound_as_a_parameter() {
        let body = [0xff, 0xfe, 0, 0, 0, 0, 0, 0];
        let value = column_value(&mut BodyReader::new(&body), 0, 3);
        assert_eq!(value, Ok(Value::Blob(vec![0xff, 0xfe])));
        let error = parameter(&mut BodyReader::new(&body), 0, 3).unwrap_err();
        assert_eq!(
            (error.failure_code(), error.closes_connection()),
            (1, false)
        );
    }
}

//! Tuples: the parameters of a statement and the rows of a result.

use super::{
    WORD_BYTES,
    body::{BodyReader, padded, put_u32, put_zeros},
    error::WireError,
    value::{TypeCode, column_value, parameter, put_value},
};
use crate::rows::{Column, ColumnKind, Value};

/// The most parameters one statement may have: what SQLite itself allows at most.
pub const PARAMETERS_MAX: usize = 32_766;

/// The bytes of the count in a parameter tuple of schema 0 and of schema 1.
const COUNT_BYTES: [usize; 2] = [1, 4];

/// Columns per byte of a row header.
const COLUMNS_PER_BYTE: usize = 2;

/// Reads the parameters that end a body. A body that has ended before them has none.
///
/// Schema 0 counts in a u8, schema 1 in a u32; then follow the type codes, padding up to a word
/// counted from the count, and the values.
pub(super) fn parameters(reader: &mut BodyReader<'_>, schema: u8) -> Result<Vec<Value>, WireError> {
    const FIELD: &str = "the types of the parameters";
    if reader.left() == 0 {
        return Ok(Vec::new());
    }
    let (count, count_bytes) = if schema == 0 {
        (usize::from(reader.bytes(1, FIELD)?[0]), COUNT_BYTES[0])
    } else {
        (reader.u32(FIELD)? as usize, COUNT_BYTES[1])
    };
    if count > PARAMETERS_MAX {
        return Err(WireError::TooManyParameters {
            count,
            count_max: PARAMETERS_MAX,
        });
    }
    let header_bytes = padded((count_bytes + count) as u64) as usize;
    let codes = reader.bytes((header_bytes - count_bytes) as u64, FIELD)?;
    let needed = count * WORD_BYTES;
    if needed > reader.left() {
        return Err(WireError::Truncated {
            field: "the values of the parameters",
            needed: needed as u64,
            left: reader.left() as u64,
        });
    }
    let codes = codes.iter().take(count).enumerate();
    codes
        .map(|(index, &code)| parameter(reader, index, code))
        .collect()
}

/// Appends parameters and returns the schema they are in: the older one as long as they fit it.
pub(super) fn put_parameters(out: &mut Vec<u8>, values: &[Value]) -> Result<u8, WireError> {
    let count = values.len();
    if count == 0 {
        return Ok(0);
    }
    if count > PARAMETERS_MAX {
        return Err(WireError::TooManyParameters {
            count,
            count_max: PARAMETERS_MAX,
        });
    }
    let start = out.len();
    let schema = match u8::try_from(count) {
        Ok(count) => {
            out.push(count);
            0
        }
        Err(_) => {
            put_u32(out, count as u32);
            1
        }
    };
    out.extend(
        values
            .iter()
            .map(|value| TypeCode::of(value, ColumnKind::Plain) as u8),
    );
    put_zeros(
        out,
        padded((out.len() - start) as u64) as usize - (out.len() - start),
    );
    for value in values {
        put_value(out, value);
    }
    Ok(schema)
}

/// The length of the header of a row: four bits per column, in whole words.
fn row_header_bytes(columns: usize) -> usize {
    padded(columns.div_ceil(COLUMNS_PER_BYTE) as u64) as usize
}

/// Appends a row: its type codes, column 0 in the low nibble of the first byte, then its values.
pub(super) fn put_row(out: &mut Vec<u8>, columns: &[Column], row: &[Value]) {
    assert_eq!(columns.len(), row.len(), "a row has one value per column");
    let start = out.len();
    put_zeros(out, row_header_bytes(row.len()));
    for (index, (value, column)) in row.iter().zip(columns).enumerate() {
        let code = TypeCode::of(value, column.kind) as u8;
        out[start + index / COLUMNS_PER_BYTE] |= code << (4 * (index % COLUMNS_PER_BYTE));
    }
    for value in row {
        put_value(out, value);
    }
}

/// Reads a row of `columns` values.
///
/// The caller has checked `columns` against the length of the body: each had a name in it.
pub(super) fn row(reader: &mut BodyReader<'_>, columns: usize) -> Result<Vec<Value>, WireError> {
    let header = reader.bytes(row_header_bytes(columns) as u64, "the header of a row")?;
    let needed = columns * WORD_BYTES;
    if needed > reader.left() {
        let left = reader.left() as u64;
        return Err(WireError::Truncated {
            field: "a row",
            needed: needed as u64,
            left,
        });
    }
    (0..columns)
        .map(|column| {
            let pair = header[column / COLUMNS_PER_BYTE];
            let code = (pair >> (4 * (column % COLUMNS_PER_BYTE))) & 0x0f;
            column_value(reader, column, code)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(count: usize) -> (u8, usize) {
        let values: Vec<Value> = (0..count as i64).map(Value::Integer).collect();
        let mut out = Vec::new();
        let schema = put_parameters(&mut out, &values).unwrap();
        let mut reader = BodyReader::new(&out);
        assert_eq!(parameters(&mut reader, schema).unwrap(), values);
        assert_eq!(reader.left(), 0);
        (schema, out.len())
    }

    #[test]
    fn the_schema_follows_the_count() {
        assert_eq!(round_trip(0), (0, 0));
        assert_eq!(round_trip(7), (0, 8 + 7 * 8));
        assert_eq!(round_trip(8), (0, 16 + 8 * 8));
        assert_eq!(round_trip(255), (0, 256 + 255 * 8));
        assert_eq!(round_trip(256), (1, 264 + 256 * 8));
        assert_eq!(round_trip(PARAMETERS_MAX).0, 1);
    }

    #[test]
    fn too_many_parameters_are_refused_on_both_sides() {
        let values = vec![Value::Null; PARAMETERS_MAX + 1];
        assert!(put_parameters(&mut Vec::new(), &values).is_err());
        let body = [0xff; 16];
        let error = parameters(&mut BodyReader::new(&body), 1).unwrap_err();
        assert!(matches!(error, WireError::TooManyParameters { .. }));
    }

    #[test]
    fn a_count_without_values_is_an_error() {
        let mut body = vec![200];
        body.resize(208, 1);
        let error = parameters(&mut BodyReader::new(&body), 0).unwrap_err();
        assert!(error.closes_connection());
        assert!(
            error
                .to_string()
                .contains("1600 bytes where the body has 0"),
            "{error}"
        );
    }

    #[test]
    fn row_headers_are_whole_words() {
        let lengths = [0, 1, 16, 17, 32, 33].map(row_header_bytes);
        assert_eq!(lengths, [0, 8, 8, 16, 16, 24]);
    }
}

//! The primitives of a body: numbers, texts and blobs, each on a word boundary.
//!
//! The content of padding is not defined in either direction (the peer leaves old bytes there):
//! a reader ignores it; we write zeros.

use std::ffi::CStr;

use super::{WORD_BYTES, error::WireError};

/// Reads fields from a body, front to back.
pub(super) struct BodyReader<'a> {
    rest: &'a [u8],
}

impl<'a> BodyReader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// The bytes not yet read.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: u64, field: &'static str) -> Result<&'a [u8], WireError> {
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| self.rest.split_at_checked(count));
        let Some((bytes, rest)) = taken else {
            return Err(WireError::Truncated {
                field,
                needed: count,
                left: self.left() as u64,
            });
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            let left = self.left() as u64;
            return Err(WireError::Truncated {
                field,
                needed: N as u64,
                left,
            });
        };
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, WireError> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    pub(super) fn f64(&mut self, field: &'static str) -> Result<f64, WireError> {
        Ok(f64::from_le_bytes(self.array(field)?))
    }

    /// Looks at the next word without taking it.
    pub(super) fn peek_word(&self) -> Option<[u8; WORD_BYTES]> {
        self.rest.first_chunk().copied()
    }

    /// The bytes of a text, without its NUL and padding.
    pub(super) fn text_bytes(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        let Ok(text) = CStr::from_bytes_until_nul(self.rest) else {
            return Err(WireError::Unterminated { field });
        };
        let text = text.to_bytes();
        self.bytes(padded(text.len() as u64 + 1), field)?;
        Ok(text)
    }

    /// A text that has to be UTF-8.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.text_bytes(field)?).map_err(|error| WireError::NotUtf8 {
            field,
            valid_up_to: error.valid_up_to(),
        })
    }

    /// The bytes of a blob, without its padding.
    pub(super) fn blob(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        let length = self.u64(field)?;
        // A length near the end of u64 has no padded form; it is longer than any body anyway.
        let taken = self.bytes(padded(length), field)?;
        taken.get(..length as usize).ok_or(WireError::Truncated {
            field,
            needed: length,
            left: taken.len() as u64,
        })
    }

    /// A count of things that take at least `bytes_each`, checked against what is left, so that
    /// the caller may allocate for it.
    pub(super) fn count(
        &mut self,
        bytes_each: usize,
        field: &'static str,
    ) -> Result<usize, WireError> {
        let count = self.u64(field)?;
        if count > (self.left() / bytes_each) as u64 {
            let needed = count.saturating_mul(bytes_each as u64);
            return Err(WireError::Truncated {
                field,
                needed,
                left: self.left() as u64,
            });
        }
        Ok(count as usize)
    }
}

/// `bytes` rounded up to whole words (down at the very end of the range, where there is no up).
pub(super) fn padded(bytes: u64) -> u64 {
    bytes
        .checked_next_multiple_of(WORD_BYTES as u64)
        .unwrap_or(u64::MAX)
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a text. It ends at its first NUL, as everything behind one is lost on this wire.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let end = CStr::from_bytes_until_nul(bytes).map_or(bytes.len(), |head| head.count_bytes());
    out.extend_from_slice(&bytes[..end]);
    put_zeros(out, padded(end as u64 + 1) as usize - end);
}

/// Appends a blob.
pub(super) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    put_zeros(out, padded(bytes.len() as u64) as usize - bytes.len());
}

pub(super) fn put_zeros(out: &mut Vec<u8>, count: usize) {
    out.resize(out.len() + count, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_takes_one_byte_more_than_it_has_and_then_whole_words() {
        for (text, bytes) in [("", 8), ("1234567", 8), ("12345678", 16), ("a\0bc", 8)] {
            let mut out = Vec::new();
            put_text(&mut out, text);
            assert_eq!(out.len(), bytes, "{text:?}");
            let read = BodyReader::new(&out).text("text").unwrap();
            assert_eq!(read, text.split('\0').next().unwrap());
        }
    }

    #[test]
    fn an_empty_blob_is_one_word() {
        let mut out = Vec::new();
        put_blob(&mut out, b"");
        assert_eq!(out, [0; 8]);
        assert_eq!(BodyReader::new(&out).blob("blob"), Ok(&[][..]));
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        for length in [1, 9, u64::MAX, u64::MAX - 7, u64::MAX - 8, 1 << 63] {
            let body = length.to_le_bytes();
            let error = BodyReader::new(&body).blob("blob").unwrap_err();
            assert!(
                matches!(error, WireError::Truncated { left: 0, .. }),
                "{error}"
            );
        }
        assert!(
            BodyReader::new(&u64::MAX.to_le_bytes())
                .count(8, "count")
                .is_err()
        );
        assert_eq!(
            BodyReader::new(b"12345678").text("name"),
            Err(WireError::Unterminated { field: "name" })
        );
    }
}

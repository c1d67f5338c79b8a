//! The frame around each message: 8 bytes that tell its length, type and schema.

use super::{WORD_BYTES, error::WireError};

/// The length of a frame header.
pub const FRAME_HEADER_BYTES: usize = 8;

/// The longest request body a server accepts.
///
/// A longer one is answered by FAILURE 1001, and the connection is closed, because the rest of
/// the body is not worth reading. It bounds the memory that one connection can claim; a dump, the
/// one long message, goes the other way.
pub const BODY_BYTES_MAX: u64 = 256 << 20;

/// The longest body that a frame can announce: 32 bits of length, in bytes, as the peer counts.
pub const FRAME_BYTES_MAX: u64 = u32::MAX as u64 & !7;

const _: () = assert!(FRAME_HEADER_BYTES == WORD_BYTES);
const _: () = assert!(BODY_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(BODY_BYTES_MAX.is_multiple_of(WORD_BYTES as u64));

/// What stands before each body.
///
/// ```text
/// byte 0..4  u32  length of the body in words of 8 bytes
/// byte 4     u8   type
/// byte 5     u8   schema of that type
/// byte 6..8  u16  unused, 0
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The length of the body, in words.
    pub words: u32,
    /// The type of the request or response.
    pub kind: u8,
    /// The schema of that type.
    pub schema: u8,
}

impl FrameHeader {
    /// Reads a header. Every 8 bytes are one; the unused bytes are ignored.
    pub fn parse(bytes: [u8; FRAME_HEADER_BYTES]) -> Self {
        let [b0, b1, b2, b3, kind, schema, _, _] = bytes;
        Self {
            words: u32::from_le_bytes([b0, b1, b2, b3]),
            kind,
            schema,
        }
    }

    /// The bytes of the header.
    pub fn encode(self) -> [u8; FRAME_HEADER_BYTES] {
        let [b0, b1, b2, b3] = self.words.to_le_bytes();
        [b0, b1, b2, b3, self.kind, self.schema, 0, 0]
    }

    /// The length of the body that follows, in bytes.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] above `bytes_max`: answer with the FAILURE and close.
    pub fn body_bytes(self, bytes_max: u64) -> Result<usize, WireError> {
        let bytes = u64::from(self.words) * WORD_BYTES as u64;
        match usize::try_from(bytes) {
            Ok(length) if bytes <= bytes_max => Ok(length),
            _ => Err(WireError::TooLarge { bytes, bytes_max }),
        }
    }
}

/// Appends one message to `out`: `body` writes the body and returns the schema it wrote.
///
/// On an error `out` is as it was, so that a FAILURE can be sent instead.
pub(super) fn put_message(
    out: &mut Vec<u8>,
    kind: u8,
    bytes_max: u64,
    body: impl FnOnce(&mut Vec<u8>) -> Result<u8, WireError>,
) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    let written = body(out).and_then(|schema| {
        let bytes = (out.len() - start - FRAME_HEADER_BYTES) as u64;
        assert!(
            bytes.is_multiple_of(WORD_BYTES as u64),
            "a body is written in whole words"
        );
        match u32::try_from(bytes / WORD_BYTES as u64) {
            Ok(words) if bytes <= bytes_max => Ok(FrameHeader {
                words,
                kind,
                schema,
            }),
            _ => Err(WireError::TooLarge { bytes, bytes_max }),
        }
    });
    match written {
        Ok(header) => {
            out[start..start + FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_little_endian() {
        let header = FrameHeader {
            words: 0x0102_0304,
            kind: 8,
            schema: 1,
        };
        assert_eq!(header.encode(), [4, 3, 2, 1, 8, 1, 0, 0]);
        assert_eq!(FrameHeader::parse([4, 3, 2, 1, 8, 1, 0xaa, 0xbb]), header);
    }

    #[test]
    fn a_length_above_the_bound_is_refused() {
        let at_bound = FrameHeader {
            words: (BODY_BYTES_MAX / 8) as u32,
            kind: 0,
            schema: 0,
        };
        assert_eq!(
            at_bound.body_bytes(BODY_BYTES_MAX),
            Ok(BODY_BYTES_MAX as usize)
        );
        let above = FrameHeader {
            words: at_bound.words + 1,
            ..at_bound
        };
        let error = above.body_bytes(BODY_BYTES_MAX).unwrap_err();
        assert_eq!(error.failure_code(), 1001);
        assert!(error.closes_connection());
    }

    #[test]
    fn a_message_that_fails_leaves_the_buffer_as_it_was() {
        let mut out = vec![1, 2, 3];
        let body = |out: &mut Vec<u8>| {
            out.extend_from_slice(&[0; 16]);
            Ok(0)
        };
        assert!(put_message(&mut out, 1, 8, body).is_err());
        assert_eq!(out, [1, 2, 3]);
        assert!(put_message(&mut out, 1, 16, body).is_ok());
        assert_eq!(out.len(), 3 + 8 + 16);
    }
}

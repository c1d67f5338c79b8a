//! The workload: rows of 100 bytes, inserted one at a time.

use ringlite::Value;

/// What it is called in the results.
pub(crate) const NAME: &str = "insert-100";
/// The database it writes to.
pub(crate) const DATABASE: &str = "bench";
/// The statement that makes its table.
pub(crate) const CREATE: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB NOT NULL)";
/// The statement that is measured.
pub(crate) const INSERT: &str = "INSERT INTO item (body) VALUES (?1)";

const BODY_BYTES: usize = 100;

/// The bytes of the rows, one after the other: no two of a writer are the same, and they do not
/// compress to nothing.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    random: u64,
}

impl Bodies {
    /// The bodies of one writer.
    pub(crate) fn of_writer(writer: usize) -> Self {
        Self {
            random: writer as u64,
        }
    }

    /// The next body.
    pub(crate) fn next_body(&mut self) -> Value {
        let mut body = Vec::with_capacity(BODY_BYTES + 8);
        while body.len() < BODY_BYTES {
            body.extend_from_slice(&self.next_random().to_le_bytes());
        }
        body.truncate(BODY_BYTES);
        Value::Blob(body)
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_differ_and_have_100_bytes() {
        let mut bodies = Bodies::of_writer(0);
        let (first, second) = (bodies.next_body(), bodies.next_body());
        assert_ne!(first, second);
        assert_ne!(first, Bodies::of_writer(1).next_body());
        assert!(matches!(first, Value::Blob(bytes) if bytes.len() == BODY_BYTES));
    }
}

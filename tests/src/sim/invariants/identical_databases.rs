//! Nodes that have applied the same hold the same bytes.

use std::collections::BTreeMap;

/// The digests of each database at each applied index.
#[derive(Default)]
pub(crate) struct Digests {
    known: BTreeMap<(String, u64), String>,
}

impl Digests {
    /// Some node has this digest at this index. Returns whether it was compared with another.
    pub(crate) fn observe(&mut self, database: &str, applied: u64, digest: &str) -> bool {
        let key = (database.to_owned(), applied);
        let is_known = self.known.contains_key(&key);
        let known = self.known.entry(key).or_insert_with(|| digest.to_owned());
        assert_eq!(
            known, digest,
            "replicas of {database} differ at index {applied}"
        );
        is_known
    }
}

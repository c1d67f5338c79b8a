//! What a client was told to be committed is there for ever.

use std::collections::{BTreeMap, BTreeSet};

use crate::sim::oracle::Fate;

/// `found`: every token in the databases, at the end.
pub(crate) fn check(fates: &BTreeMap<u64, Fate>, found: &BTreeSet<u64>) {
    for (token, fate) in fates {
        assert_ne!(*fate, Fate::Open, "{token} was never decided");
        assert!(
            *fate != Fate::Acknowledged || found.contains(token),
            "{token} was acknowledged, and is lost"
        );
    }
}

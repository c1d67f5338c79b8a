//! Nobody sees what was refused, or never sent, or only half of a transaction.

use crate::sim::oracle::Fate;

/// Somebody was shown what `token` has written.
pub(crate) fn check_seen(token: u64, fate: Option<Fate>) {
    match fate {
        None => panic!("{token} was seen, but never sent"),
        Some(Fate::Refused) => panic!("{token} was seen after it had been refused"),
        Some(_) => {}
    }
}

/// A write is refused.
pub(crate) fn check_refused(token: u64, was_seen: bool) {
    assert!(!was_seen, "{token} was refused after somebody had seen it");
}

//! Known bugs that can be switched on, one at a time, so that it is seen whether the tests find them.
//! Only in builds with the feature `mutations`; `docs/mutations.md` has the list.

use std::sync::OnceLock;

static ON: OnceLock<String> = OnceLock::new();

/// Switches a bug on for the rest of the process.
pub fn switch_on(name: &str) {
    ON.get_or_init(|| name.to_owned());
}

/// Whether this bug is switched on.
pub fn is_on(name: &str) -> bool {
    ON.get().is_some_and(|on| on == name)
}

//! What SQL may not do here, because it would leave the replicated database or break it.

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// Settings that belong to the engine. Their setters are refused; reading them is allowed unless
/// they are in [`PRAGMAS_REFUSED`].
const PRAGMAS_READ_ONLY: [&str; 7] = [
    "journal_mode",
    "journal_size_limit",
    "mmap_size",
    "page_size",
    "query_only",
    "synchronous",
    "wal_autocheckpoint",
];

/// Refused in any form.
const PRAGMAS_REFUSED: [&str; 7] = [
    "busy_timeout",
    "data_store_directory",
    "lock_proxy_file",
    "locking_mode",
    "read_uncommitted",
    "temp_store_directory",
    "wal_checkpoint",
];

/// Decides on one action of a statement while it is compiled.
pub(super) fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        // VACUUM attaches a nameless temporary database, and detaches it again.
        AuthAction::Attach { filename: "" } | AuthAction::Detach { .. } => Authorization::Allow,
        // A file name that is no literal is not told, so that the action is unknown.
        AuthAction::Attach { .. } | AuthAction::Unknown { .. } => Authorization::Deny,
        AuthAction::Function { function_name } => {
            if function_name.eq_ignore_ascii_case("load_extension") {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }
        AuthAction::Pragma {
            pragma_name,
            pragma_value,
        } => {
            let is_in = |names: &[&str]| {
                names
                    .iter()
                    .any(|name| name.eq_ignore_ascii_case(pragma_name))
            };
            if is_in(&PRAGMAS_REFUSED) || (pragma_value.is_some() && is_in(&PRAGMAS_READ_ONLY)) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }
        _ => Authorization::Allow,
    }
}

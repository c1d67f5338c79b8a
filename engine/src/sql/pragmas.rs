//! Which PRAGMAs a session may use. `docs/SQL.md` has the same table, and a test holds the two
//! together.
//!
//! Three things are asked of each: whether it would break replication or the node, whether SQLite
//! itself treats it as a hint, and whether drivers and frameworks send it when they connect. A hint
//! about files and locks, which are the node's own here, is accepted without effect, so that a
//! program that was written for plain SQLite starts; what would mean something else than it says
//! is refused with the reason.

/// The page cache that one session may ask for, in bytes.
const CACHE_BYTES_MAX: u64 = 64 << 20;

/// What becomes of a PRAGMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// SQLite runs it.
    Allowed,
    /// It is accepted, has no effect, and gives no row.
    Ignored,
    /// It is refused, because of this.
    Refused(String),
}

/// What holds for a PRAGMA that is not simply allowed.
enum Rule {
    /// Setting has no effect; reading is allowed.
    Hint,
    /// Reading is allowed, setting is not.
    ReadOnly(&'static str),
    /// Setting it to one of these words is allowed, and so is reading.
    Only(&'static [&'static str], &'static str),
    /// Refused in any form.
    Never(&'static str),
    /// Setting is allowed within [`CACHE_BYTES_MAX`].
    CacheSize,
    /// Setting it to what it is is allowed.
    PageSize,
}

const HEAP: &str = "it would bound the memory of the whole node, whose operator decides on it";
const DIRECTORY: &str = "the directory of temporary files is the node's";

/// Everything that SQLite knows and that is not here is allowed.
const RULES: [(&str, Rule); 24] = [
    ("busy_timeout", Rule::Hint),
    ("cache_size", Rule::CacheSize),
    ("cache_spill", Rule::Hint),
    ("checkpoint_fullfsync", Rule::Hint),
    ("data_store_directory", Rule::Never(DIRECTORY)),
    (
        "default_cache_size",
        Rule::ReadOnly("it would change the memory of every session; use cache_size"),
    ),
    ("fullfsync", Rule::Hint),
    ("hard_heap_limit", Rule::ReadOnly(HEAP)),
    (
        "journal_mode",
        Rule::Only(
            &["wal"],
            "changes travel to the other nodes through the WAL, so that the mode stays WAL",
        ),
    ),
    ("journal_size_limit", Rule::Hint),
    (
        "locking_mode",
        Rule::Only(&["normal"], "a database is open in many sessions at once"),
    ),
    ("mmap_size", Rule::Hint),
    ("page_size", Rule::PageSize),
    (
        "query_only",
        Rule::ReadOnly("whether a session may write is the node's decision"),
    ),
    ("read_uncommitted", Rule::Hint),
    (
        "schema_version",
        Rule::ReadOnly("SQLite counts it, and a wrong value corrupts the database"),
    ),
    ("soft_heap_limit", Rule::ReadOnly(HEAP)),
    ("synchronous", Rule::Hint),
    ("temp_store", Rule::Hint),
    ("temp_store_directory", Rule::ReadOnly(DIRECTORY)),
    ("threads", Rule::Hint),
    ("wal_autocheckpoint", Rule::Hint),
    (
        "wal_checkpoint",
        Rule::Never("the WAL is in memory, and the node moves it into the file by itself"),
    ),
    (
        "writable_schema",
        Rule::Only(
            &["off", "false", "no", "0", "reset"],
            "writing the schema by hand corrupts the database on all nodes",
        ),
    ),
];

/// Decides on `PRAGMA name` or `PRAGMA name = value` in a database with pages of `page_bytes`.
pub(super) fn verdict(name: &str, value: Option<&str>, page_bytes: u32) -> Verdict {
    let rule = RULES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, rule)| rule);
    let refused =
        |reason: &str| Verdict::Refused(format!("PRAGMA {name} is refused here: {reason}"));
    match (rule, value) {
        (Some(Rule::Never(reason)), _) => refused(reason),
        (None, _) | (Some(_), None) => Verdict::Allowed,
        (Some(Rule::Hint), Some(_)) => Verdict::Ignored,
        (Some(Rule::ReadOnly(reason)), Some(_)) => refused(reason),
        (Some(Rule::Only(words, reason)), Some(value)) => {
            if words.iter().any(|word| word.eq_ignore_ascii_case(value)) {
                Verdict::Allowed
            } else {
                refused(reason)
            }
        }
        (Some(Rule::CacheSize), Some(value)) => match cache_bytes(value, page_bytes) {
            Some(bytes) if bytes <= CACHE_BYTES_MAX => Verdict::Allowed,
            Some(_) => refused(&format!(
                "a session's page cache may have at most {CACHE_BYTES_MAX} bytes"
            )),
            None => refused(&format!("{value:?} is no whole number")),
        },
        (Some(Rule::PageSize), Some(value)) => {
            if value.parse() == Ok(page_bytes) {
                Verdict::Allowed
            } else {
                refused("the size of a page is chosen when the database is created")
            }
        }
    }
}

/// How much memory a `cache_size` means: pages if positive, KiB if negative.
fn cache_bytes(value: &str, page_bytes: u32) -> Option<u64> {
    let value: i64 = value.parse().ok()?;
    let unit = if value < 0 {
        1024
    } else {
        u64::from(page_bytes)
    };
    Some(value.unsigned_abs().saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_asks_for_what_holds_is_accepted() {
        for (name, value, expected) in [
            ("journal_mode", Some("WAL"), true),
            ("journal_mode", None, true),
            ("JOURNAL_MODE", Some("delete"), false),
            ("locking_mode", Some("normal"), true),
            ("locking_mode", Some("exclusive"), false),
            ("page_size", Some("4096"), true),
            ("page_size", Some("8192"), false),
            ("cache_size", Some("-65536"), true),
            ("cache_size", Some("-65537"), false),
            ("cache_size", Some("16384"), true),
            ("cache_size", Some("16385"), false),
            ("cache_size", Some("-9223372036854775808"), false),
            ("cache_size", Some("0x7fffffff"), false),
            ("wal_checkpoint", None, false),
            ("user_version", Some("7"), true),
            ("writable_schema", Some("ON"), false),
            ("writable_schema", Some("off"), true),
        ] {
            let verdict = verdict(name, value, 4096);
            assert_eq!(
                verdict == Verdict::Allowed,
                expected,
                "{name} {value:?}: {verdict:?}"
            );
        }
        assert_eq!(
            verdict("synchronous", Some("NORMAL"), 4096),
            Verdict::Ignored
        );
        assert_eq!(verdict("synchronous", None, 4096), Verdict::Allowed);
    }
}

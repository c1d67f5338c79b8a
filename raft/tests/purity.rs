//! The core stays pure: what it must not use is not in its sources, not even by accident.

use std::path::Path;

/// Each with what to use instead.
const BANNED: [(&str, &str); 9] = [
    ("std::time", "ticks"),
    ("std::net", "an effect"),
    ("std::fs", "an effect"),
    ("std::io", "an effect"),
    ("std::env", "Config"),
    ("std::thread", "the caller's thread"),
    ("HashMap", "BTreeMap: its order is the same in every run"),
    ("HashSet", "BTreeSet: its order is the same in every run"),
    ("async ", "inputs and effects"),
];

/// Compares golden files, and is compiled for tests only.
const EXEMPT: &str = "hex.rs";

#[test]
fn the_core_uses_no_io_no_clock_no_threads_and_no_hash_order() {
    let mut seen = 0;
    check_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut seen,
    );
    assert!(seen > 20, "only {seen} files were found");
}

fn check_folder(folder: &Path, seen: &mut usize) {
    for item in std::fs::read_dir(folder).expect("a folder") {
        let path = item.expect("an item").path();
        if path.is_dir() {
            check_folder(&path, seen);
        } else if !path.ends_with(EXEMPT) {
            *seen += 1;
            let text = std::fs::read_to_string(&path).expect("a source file");
            for (banned, instead) in BANNED {
                let path = path.display();
                assert!(
                    !text.contains(banned),
                    "{path} has \"{banned}\"; use {instead}"
                );
            }
        }
    }
}

//! Golden files for tests: lines of hexadecimal digits, one item per line, `#` for comments.

use std::fmt::Write;

/// Compares items with a file in `testdata`. `RAFT_WRITE_GOLDEN=1` writes the file instead; do that
/// only together with a new format version.
pub(crate) fn check(name: &str, items: &[Vec<u8>]) {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("RAFT_WRITE_GOLDEN").is_some() {
        let header = "# Golden bytes of a format; see docs/FORMAT.md. Trailing zeros: \"*N\".\n";
        let lines: Vec<String> = items.iter().map(|item| line(item)).collect();
        std::fs::write(&path, format!("{header}{}\n", lines.join("\n"))).expect("a writable file");
    }
    let text = std::fs::read_to_string(&path).expect("a golden file");
    let golden: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        golden.len(),
        items.len(),
        "{name} has another number of items"
    );
    for (golden, item) in golden.iter().zip(items) {
        assert_eq!(*golden, line(item), "{name} differs");
    }
}

/// The digits of all bytes up to the last one that is not zero, then how many zeros follow.
fn line(item: &[u8]) -> String {
    let end = item
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    let mut line = String::new();
    for byte in &item[..end] {
        write!(line, "{byte:02x}").expect("a string takes it");
    }
    format!("{line}*{}", item.len() - end)
}

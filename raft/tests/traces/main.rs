//! Golden traces: scripts in `raft/testdata/traces` with everything that a cluster answers to them.
//!
//! A script is a list of commands, each followed by `----` and what came of it, up to an empty line.
//! Lines before a command that begin with `#` tell the story. `RAFT_WRITE_GOLDEN=1 cargo test -p
//! ringlite-raft --test traces` writes the answers anew; read the difference before keeping it.

mod cluster;
mod show;

use cluster::Cluster;
use std::path::Path;

fn answers(script: &str) -> String {
    let mut cluster = Cluster::default();
    let mut out = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        out += line;
        out += "\n";
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if lines.next_if(|line| *line == "----").is_some() {
            while lines.next_if(|line| !line.is_empty()).is_some() {}
        }
        let answer = cluster
            .run(line)
            .unwrap_or_else(|error| panic!("the command \"{line}\": {error}"));
        out += "----\n";
        out += &answer;
    }
    out
}

#[test]
fn every_trace_is_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/traces");
    let items = std::fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<_> = items.map(|item| item.expect("an item").path()).collect();
    paths.sort();
    assert!(paths.len() >= 11, "only {} traces were found", paths.len());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a readable file");
        let name = path.file_name().expect("a name").display().to_string();
        println!("{name}");
        let found = answers(&script);
        if std::env::var_os("RAFT_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, found).expect("a writable file");
            continue;
        }
        for (number, (found, wanted)) in found.lines().zip(script.lines()).enumerate() {
            assert_eq!(found, wanted, "line {} of {name}", number + 1);
        }
        assert_eq!(found.lines().count(), script.lines().count(), "{name}");
    }
}

//! The program as it is run: real nodes, for a moment.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(directory: &Path, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringlite-bench"))
        .args(words.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap()
}

/// The objects that a run has written.
fn objects(json: &[u8]) -> Vec<Value> {
    let lines = json.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// Those of a system.
fn of<'all>(objects: &'all [Value], system: &str, transport: &str, nodes: u64) -> Vec<&'all Value> {
    let is_one = |object: &&Value| {
        object["system"] == system && object["transport"] == transport && object["nodes"] == nodes
    };
    objects.iter().filter(is_one).collect()
}

#[test]
fn systems_are_measured_and_nothing_is_left() {
    // Direct writes need a disk: a temporary directory may have none.
    let directory = tempfile::tempdir_in(".").unwrap();
    let run = bench(
        directory.path(),
        "--systems sqlite-full,ringlite --workloads ten-rows,read --connections 2 --paces 20000 \
         --repetitions 2 --seconds 0.5 --html run.html",
    );
    let words = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{words}");
    let objects = objects(&run.stdout);
    assert!(objects[0]["about"]["systems"].as_array().unwrap().len() == 2);
    for (system, transport, nodes, disk) in [
        ("sqlite-full", "embedded", 1, 1),
        ("ringlite", "embedded", 1, 1),
        ("ringlite", "embedded", 3, 3),
        ("ringlite", "tcp", 1, 1),
        ("ringlite", "tcp", 3, 3),
    ] {
        let measures = of(&objects, system, transport, nodes);
        assert_eq!(measures.len(), 4, "{system}/{nodes}/{transport}: {words}");
        for measure in measures {
            // Ten rows change a page at the least, and a page is written at the least.
            let written = measure["disk_bytes_per_commit"].as_array().unwrap();
            assert_eq!(written.len(), disk, "{measure}");
            let writes = measure["workload"] == "ten-rows";
            let wrote = written.iter().any(|bytes| bytes.as_f64() > Some(1000.0));
            let done = measure["commits"].as_u64() > Some(0);
            assert!(!writes || !done || wrote, "{measure}");
            assert_eq!(measure["pace_us"], 20_000.0);
            assert_eq!(measure["errors"], 0, "{measure}: {words}");
        }
    }
    let page = std::fs::read_to_string(directory.path().join("run.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("ringlite/3/tcp/ten-rows/2@20000us"));
    let left: Vec<_> = directory.path().read_dir().unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_peer_that_is_not_installed_is_left_out() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_ringlite-bench"))
        .args(["--systems", "rqlite", "--seconds", "0.1"])
        .current_dir(directory.path())
        .env("PATH", "/nowhere")
        .env("HOME", "/nowhere")
        .env_remove("GOBIN")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{words}");
    assert!(words.contains("rqlited is not installed"), "{words}");
    let missing = &objects(&run.stdout)[0]["about"]["missing"];
    assert_eq!(missing[0]["system"], "rqlite");
}

#[test]
fn what_got_slower_is_told_by_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let line = |p50: f64| {
        format!(
            r#"{{"system":"ringlite","nodes":1,"transport":"embedded","workload":"insert-100",
            "connections":1,"seconds":3.0,"commits":9,"errors":0,"rate":{},"p50_us":{p50},
            "p90_us":1,"p99_us":1,"p999_us":1,"max_us":1,"raw_write_p50_us":40.0,
            "round_trip_p50_us":20.0}}"#,
            1e6 / p50
        )
        .replace('\n', "")
    };
    for (name, p50) in [("before", 50.0), ("after", 80.0)] {
        std::fs::write(directory.path().join(name), line(p50)).unwrap();
    }
    let slower = bench(directory.path(), "compare before after");
    assert_eq!(slower.status.code(), Some(1));
    let said = String::from_utf8_lossy(&slower.stdout);
    assert!(said.contains("+60 % slower"), "{said}");
    let faster = bench(directory.path(), "compare after before");
    assert_eq!(faster.status.code(), Some(0));
}

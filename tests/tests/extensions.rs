//! Extensions of SQLite that the operator lists: in every session, the same on all nodes, and none
//! that SQL asks for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringlite::local_cluster::Launch;
use ringlite::{Node, ReadLevel, Value};
use ringlite_tests::scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "extended";

/// `plus(x)` is x + `ADDEND`, and may be used in an index.
const SOURCE: &str = r#"
#include "sqlite3ext.h"
SQLITE_EXTENSION_INIT1
static void plus(sqlite3_context *context, int count, sqlite3_value **values) {
    sqlite3_result_int64(context, sqlite3_value_int64(values[0]) + ADDEND);
}
int ENTRY(sqlite3 *db, char **message, const sqlite3_api_routines *api) {
    SQLITE_EXTENSION_INIT2(api)
    int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    return sqlite3_create_function(db, "plus", 1, flags, 0, plus, 0, 0);
}
"#;

/// Compiles the extension into `directory`.
fn library(directory: &Path, name: &str, entry_point: &str, addend: i64) -> PathBuf {
    let source = directory.join("plus.c");
    std::fs::write(&source, SOURCE).unwrap();
    let library = directory.join(format!("{name}.so"));
    let fresh = directory.join("fresh.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-I", env!("SQLITE_INCLUDE")])
        .arg(format!("-DADDEND={addend}"))
        .arg(format!("-DENTRY={entry_point}"))
        .arg("-o")
        .args([&fresh, &source])
        .output()
        .expect("there is a C compiler");
    let words = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{words}");
    // Not in place: a node may have the old one in use.
    std::fs::rename(&fresh, &library).unwrap();
    library
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn all_sessions_have_them_and_a_node_with_another_one_is_left_out() {
    let directory = directory();
    let path = library(directory.path(), "plus", "sqlite3_plus_init", 7);
    let launch = Launch::program(PROGRAM)
        .with_arguments(scene::SMALL_SEGMENTS)
        .with_arguments(["--extension", path.to_str().unwrap()]);
    let mut cluster = scene::launch_nodes(directory.path(), 3, launch);
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute("CREATE TABLE t (a, b AS (plus(a)))", &[])
        .unwrap();
    client
        .execute("CREATE INDEX i ON t (plus(a))", &[])
        .unwrap();
    client
        .execute("INSERT INTO t VALUES (1), (2), (35)", &[])
        .unwrap();
    let by_index = "SELECT a FROM t INDEXED BY i WHERE plus(a) = 42";
    assert_eq!(scene::integer(&mut client, by_index), 35);
    let error = client
        .query(
            "SELECT load_extension(?)",
            &[Value::Text(path.to_str().unwrap().into())],
        )
        .unwrap_err();
    assert!(error.to_string().contains("foreign code"), "{error}");
    // The next leader has it too.
    let leader = scene::leader_of(&mut cluster);
    cluster.kill(leader);
    let mut client = scene::open(&mut cluster, DATABASE);
    assert_eq!(scene::integer(&mut client, by_index), 35);

    // The node that was killed comes back with another library of the same name.
    library(directory.path(), "plus", "sqlite3_plus_init", 8);
    cluster.start_node(leader).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let words = std::fs::read_to_string(cluster.log_of(leader)).unwrap();
        if words.contains("refuses this node: it was started with another list of --extension") {
            break;
        }
        assert!(Instant::now() < deadline, "it does not say so: {words}");
        std::thread::sleep(Duration::from_millis(10));
    }
    client.execute("INSERT INTO t VALUES (36)", &[]).unwrap();
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 4);
    assert_ne!(scene::leader_of(&mut cluster), leader);
    cluster.kill(leader);
    library(directory.path(), "plus", "sqlite3_plus_init", 7);
    // The compiler may make another file of the same source; then they all have to have it.
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.kill(id);
        cluster.start_node(id).unwrap();
    }
    cluster.start_node(leader).unwrap();
    scene::assert_identical(&mut cluster, DATABASE);
}

#[test]
fn readers_have_them_and_what_cannot_be_loaded_is_told_at_the_start() {
    let directory = directory();
    let node = |path: &Path, entry_point| {
        Node::builder(directory.path().join("data"))
            .segment_bytes(4 << 20)
            .extension(path, entry_point)
            .start()
    };
    let refusal = |path: &Path, entry_point| match node(path, entry_point) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error.to_string(),
    };
    let path = library(directory.path(), "other", "my_entry", 7);
    let missing = refusal(&directory.path().join("missing.so"), None);
    assert!(missing.contains("missing.so"), "{missing}");
    let no_library = refusal(&directory.path().join("plus.c"), None);
    assert!(no_library.contains("cannot be loaded"), "{no_library}");
    let unguessed = refusal(&path, None);
    assert!(unguessed.contains("sqlite3_other_init"), "{unguessed}");
    let misnamed = refusal(&path, Some("your_entry"));
    assert!(misnamed.contains("your_entry"), "{misnamed}");

    let node = node(&path, Some("my_entry")).unwrap();
    let database = node.database(DATABASE).unwrap();
    database
        .execute("CREATE TABLE t AS SELECT plus(35) AS a", ())
        .unwrap();
    let levels = [
        ReadLevel::Linearizable,
        ReadLevel::Leader,
        ReadLevel::Local {
            index_min: 0,
            staleness_max: None,
        },
    ];
    for level in levels {
        let rows = database
            .query_with(level, "SELECT plus(a) FROM t", ())
            .unwrap();
        assert_eq!(rows.first().unwrap().get::<i64>(0).unwrap(), 49);
    }
}

//! Databases as files: `ringlite backup` and `ringlite restore` on real processes, under load,
//! interrupted at the client, at the leader and at a follower; databases dropped and created under
//! one name.
//!
//! `RESTORE_MEGABYTES` is the size of the files that are interrupted (24 unless told).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::LocalCluster;
use ringlite::wire::{Request, Response};
use ringlite::{Client, ClientOptions, Value};
use ringlite_tests::process::{self, Finished};
use ringlite_tests::raw::{Answer, RawConnection};
use ringlite_tests::scene;
use ringlite_tests::shell::{Format, Shell};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const LIMIT: Duration = Duration::from_secs(120);

fn cluster(nodes: usize) -> (TempDir, LocalCluster) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cluster = scene::start(PROGRAM, directory.path(), nodes);
    (directory, cluster)
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(words);
    command
}

fn ringlite(words: &[&str]) -> Finished {
    process::run(&mut command(words), b"", LIMIT)
}

fn plain(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(path).unwrap()
}

fn text(connection: &rusqlite::Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// A database file in some journal mode, with about `megabytes` of rows.
fn make_file(path: &Path, page_size: u32, mode: &str, megabytes: usize) {
    let connection = plain(path);
    let setup = format!("PRAGMA page_size = {page_size}; PRAGMA synchronous = OFF");
    connection.execute_batch(&setup).unwrap();
    let set = text(&connection, &format!("PRAGMA journal_mode = {mode}"));
    assert_eq!(set, mode);
    connection
        .execute_batch(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB, tag TEXT);
             CREATE INDEX by_tag ON t (tag);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
             INSERT INTO t SELECT i, randomblob(1000), 'tag ' || (i % 7) FROM n;",
            megabytes * 1000 + 10
        ))
        .unwrap();
}

const SUMMARY: &str = "SELECT count(*) || ' ' || sum(length(data)) || ' ' ||
    sum(unicode(substr(hex(data), 7, 1)) * id) || ' ' || min(tag) || max(tag) FROM t";

fn query_text(client: &mut Client, sql: &str) -> String {
    match client.query(sql, &[]).unwrap().rows.as_slice() {
        [row] => match row.as_slice() {
            [Value::Text(text)] => text.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What restores have in the temporary directory of a node.
fn leftovers(cluster: &LocalCluster, id: usize) -> Vec<PathBuf> {
    let files = std::fs::read_dir(cluster.data_of(id).join("tmp")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

fn assert_no_leftovers(cluster: &LocalCluster) {
    let deadline = Instant::now() + Duration::from_secs(10);
    for id in 1..=3 {
        while !leftovers(cluster, id).is_empty() {
            assert!(Instant::now() < deadline, "{:?}", leftovers(cluster, id));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn names(address: &str) -> Vec<String> {
    let mut client = Client::connect_to(address).unwrap();
    let databases = client.databases().unwrap();
    databases.into_iter().map(|entry| entry.name).collect()
}

/// Writes into another database until told to stop; the longest that a row took, and how many.
fn write_beside(addresses: &[String], stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    let connect = || {
        let mut client = Client::connect(addresses, ClientOptions::default())?;
        client.open("beside")?;
        client.execute("CREATE TABLE IF NOT EXISTS t (x)", &[])?;
        Ok::<_, ringlite::ClientError>(client)
    };
    let mut client = connect().unwrap();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match client.execute("INSERT INTO t VALUES (1)", &[]) {
            Ok(_) => took.push(began.elapsed()),
            Err(_) => client = connect().unwrap(),
        }
        thread::sleep(Duration::from_millis(1));
    }
    took.sort_unstable();
    took
}

#[test]
fn a_backup_under_load_comes_back_as_the_same_database_on_all_nodes() {
    let (directory, mut cluster) = cluster(3);
    let addresses = cluster.addresses();
    let list = addresses.join(",");
    let mut bank = scene::open(&mut cluster, "bank");
    bank.execute(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, cents INTEGER, padding TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO account SELECT i, 100, hex(randomblob(300)) FROM n",
        &[],
    )
    .unwrap();
    let copy = directory.path().join("copy.db");
    let path = copy.to_str().unwrap();
    let stop = AtomicBool::new(false);
    let local = directory.path().join("local.db");
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0i64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (from, to) = (number * 7919 % 2000 + 1, number * 104_729 % 2000 + 1);
                bank.execute(
                    "BEGIN; UPDATE account SET cents = cents - 1 WHERE id = ?;
                     UPDATE account SET cents = cents + 1 WHERE id = ?; COMMIT",
                    &[Value::Integer(from), Value::Integer(to)],
                )
                .unwrap();
            }
        });
        for _ in 0..3 {
            let said = ringlite(&["backup", &list, "bank", path]).succeeded();
            assert!(said.contains("pages of 4096 bytes"), "{said}");
        }
        for address in &addresses {
            let words = [
                "backup",
                address,
                "bank",
                local.to_str().unwrap(),
                "--local",
            ];
            ringlite(&words).succeeded();
        }
        stop.store(true, Ordering::Relaxed);
    });
    for file in [&copy, &local] {
        let file = plain(file);
        assert_eq!(text(&file, "PRAGMA integrity_check"), "ok");
        assert_eq!(
            text(&file, "SELECT sum(cents) || '' FROM account"),
            "200000"
        );
    }

    // Nothing of the bank may change but through the restore.
    let refused = ringlite(&["restore", &list, "bank", path]);
    assert!(refused.refusal().contains("already"), "{refused:?}");
    ringlite(&["restore", &list, "second", path]).succeeded();
    let digest = scene::assert_identical(&mut cluster, "second");
    let bytes = std::fs::metadata(&copy).unwrap().len();
    assert_eq!(digest.page_count * digest.page_size, bytes);
    let again = directory.path().join("again.db");
    ringlite(&["backup", &list, "second", again.to_str().unwrap()]).succeeded();
    assert_eq!(
        std::fs::read(&copy).unwrap(),
        std::fs::read(&again).unwrap()
    );

    let mut on_bank = scene::open(&mut cluster, "bank");
    on_bank.execute("DELETE FROM account", &[]).unwrap();
    on_bank.execute("BEGIN", &[]).unwrap();
    on_bank
        .execute("INSERT INTO account VALUES (1, 1, '')", &[])
        .unwrap();
    ringlite(&["restore", &list, "bank", path, "--replace"]).succeeded();
    let error = on_bank.execute("COMMIT", &[]).unwrap_err();
    assert!(
        error.to_string().contains("replaced by a restored file"),
        "{error}"
    );
    assert_eq!(
        scene::assert_identical(&mut cluster, "bank").digest,
        digest.digest
    );
    let mut bank = scene::open(&mut cluster, "bank");
    assert_eq!(
        scene::integer(&mut bank, "SELECT sum(cents) FROM account"),
        200_000
    );
    bank.execute("UPDATE account SET cents = cents + 1", &[])
        .unwrap();
    cluster.kill_all();
    for id in 1..=3 {
        cluster.start_node(id).unwrap();
    }
    let mut bank = scene::open(&mut cluster, "bank");
    assert_eq!(
        scene::integer(&mut bank, "SELECT sum(cents) FROM account"),
        202_000
    );
    assert_ne!(
        scene::assert_identical(&mut cluster, "bank").digest,
        digest.digest
    );
    assert_eq!(
        scene::assert_identical(&mut cluster, "second").digest,
        digest.digest
    );
}

#[test]
fn files_of_every_page_size_and_mode_become_databases() {
    let (directory, mut cluster) = cluster(3);
    let list = cluster.addresses().join(",");
    let mut kept = Vec::new();
    for (page_size, mode) in [
        (512, "delete"),
        (1024, "wal"),
        (8192, "truncate"),
        (65536, "wal"),
    ] {
        let name = format!("app-{page_size}");
        let path = directory.path().join(&name);
        make_file(&path, page_size, mode, 1);
        let expected = text(&plain(&path), SUMMARY);
        ringlite(&["restore", &list, &name, path.to_str().unwrap()]).succeeded();
        let digest = scene::assert_identical(&mut cluster, &name);
        assert_eq!(digest.page_size, u64::from(page_size));
        let mut client = scene::open(&mut cluster, &name);
        assert_eq!(query_text(&mut client, SUMMARY), expected);
        assert_eq!(query_text(&mut client, "PRAGMA integrity_check"), "ok");
        client
            .execute("INSERT INTO t (tag) VALUES ('tag 9'), ('tag 8')", &[])
            .unwrap();
        kept.push((name, query_text(&mut client, SUMMARY)));
    }
    cluster.kill_all();
    for id in 1..=3 {
        cluster.start_node(id).unwrap();
    }
    for (name, expected) in kept {
        let mut client = scene::open(&mut cluster, &name);
        assert_eq!(query_text(&mut client, SUMMARY), expected);
        scene::assert_identical(&mut cluster, &name);
    }
}

#[test]
fn what_is_no_database_is_refused_and_leaves_nothing() {
    let (directory, mut cluster) = cluster(3);
    let list = cluster.addresses().join(",");
    let path = directory.path().join("garbage.db");
    std::fs::write(&path, vec![0x5a; 100_000]).unwrap();
    let words = ["restore", &list, "app", path.to_str().unwrap()];
    let refused = ringlite(&words);
    assert!(refused.refusal().contains("does not begin"), "{refused:?}");
    // A file that only its header lets pass, sent without a look at it.
    make_file(&directory.path().join("good.db"), 4096, "delete", 1);
    let good = std::fs::read(directory.path().join("good.db")).unwrap();
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    let refused = ringlite(&words);
    assert!(refused.refusal().contains("cut off"), "{refused:?}");

    // The leader does not rely on what its clients have checked.
    let mut client = scene::connect(&mut cluster);
    for (start, file_bytes) in [(&[0x5a; 4096][..], 8192), (&good[..4096], 8191)] {
        let mut raw = RawConnection::client(client.address());
        assert_eq!(ask(&mut raw, &begin("app", file_bytes)), None);
        let error = ask(&mut raw, &chunk(start)).unwrap();
        assert!(error.contains("cannot be restored"), "{error}");
        let error = ask(&mut raw, &chunk(start)).unwrap();
        assert!(error.contains("no restore"), "{error}");
    }
    let mut raw = RawConnection::client(client.address());
    assert_eq!(ask(&mut raw, &begin("app", 8192)), None);
    assert_eq!(ask(&mut raw, &chunk(&good[..4096])), None);
    let error = ask(&mut raw, &Request::FinishRestore).unwrap();
    assert!(error.contains("end is missing"), "{error}");
    let mut raw = RawConnection::client(client.address());
    assert_eq!(ask(&mut raw, &begin("app", 8192)), None);
    let error = ask(&mut raw, &chunk(&good[..12_288])).unwrap();
    assert!(error.contains("longer than"), "{error}");
    assert!(names(client.address()).is_empty());
    assert_no_leftovers(&cluster);
    client.open("app").unwrap();
}

fn begin(name: &str, file_bytes: u64) -> Request {
    Request::BeginRestore {
        database: name.to_owned(),
        file_bytes,
        replace: false,
    }
}

fn chunk(bytes: &[u8]) -> Request {
    Request::RestoreChunk {
        bytes: bytes.to_owned(),
    }
}

/// What a FAILURE says; None for EMPTY.
fn ask(connection: &mut RawConnection, request: &Request) -> Option<String> {
    match connection.ask(request) {
        Answer::Response(Response::Empty) => None,
        other => Some(other.failure().1),
    }
}

/// `ringlite restore` of a large file, half way through.
struct Underway {
    child: Child,
    expected: String,
}

impl Underway {
    fn start(directory: &TempDir, cluster: &LocalCluster) -> Self {
        let path = directory.path().join("large.db");
        let _ = std::fs::remove_file(&path);
        make_file(
            &path,
            4096,
            "delete",
            process::size("RESTORE_MEGABYTES", 24),
        );
        let expected = text(&plain(&path), SUMMARY);
        let list = cluster.addresses().join(",");
        let child = command(&["restore", &list, "large", path.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let half = std::fs::metadata(&path).unwrap().len() / 2;
        let deadline = Instant::now() + LIMIT;
        let arrived = |path: &PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
        while leftovers(cluster, 1).iter().map(arrived).max() < Some(half) {
            assert!(
                Instant::now() < deadline,
                "the restore does not get half way"
            );
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!names(&cluster.addresses()[0]).contains(&"large".to_owned()));
        Self { child, expected }
    }

    /// Waits for its success; what the database must then hold.
    fn ends(self) -> String {
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        println!("the command said: {said:?}");
        self.expected
    }

    fn succeeds(self, cluster: &mut LocalCluster) {
        let expected = self.ends();
        let mut client = scene::open(cluster, "large");
        assert_eq!(query_text(&mut client, SUMMARY), expected);
        client
            .execute("INSERT INTO t (tag) VALUES ('more')", &[])
            .unwrap();
        scene::assert_identical(cluster, "large");
        assert_no_leftovers(cluster);
        assert_eq!(cluster.dead_node(), None);
    }
}

#[test]
fn a_restore_whose_client_is_killed_leaves_nothing() {
    let (directory, mut cluster) = cluster(3);
    let mut underway = Underway::start(&directory, &cluster);
    underway.child.kill().unwrap();
    underway.child.wait().unwrap();
    assert_no_leftovers(&cluster);
    for address in cluster.addresses() {
        assert!(names(&address).is_empty());
    }
    // Nothing of it is in the way of the next one.
    Underway::start(&directory, &cluster).succeeds(&mut cluster);
}

#[test]
fn a_restore_survives_the_death_of_its_leader() {
    let (directory, mut cluster) = cluster(3);
    let underway = Underway::start(&directory, &cluster);
    let leader = scene::leader_of(&mut cluster);
    cluster.kill(leader);
    thread::sleep(Duration::from_millis(300));
    cluster.start_node(leader).unwrap();
    underway.succeeds(&mut cluster);
}

#[test]
fn a_restore_survives_the_death_of_a_follower() {
    let (directory, mut cluster) = cluster(3);
    let underway = Underway::start(&directory, &cluster);
    let follower = scene::leader_of(&mut cluster) % 3 + 1;
    cluster.kill(follower);
    cluster.start_node(follower).unwrap();
    underway.succeeds(&mut cluster);
}

#[test]
fn a_restore_survives_the_death_of_all_nodes() {
    let (directory, mut cluster) = cluster(3);
    let underway = Underway::start(&directory, &cluster);
    cluster.kill_all();
    for id in 1..=3 {
        cluster.start_node(id).unwrap();
    }
    underway.succeeds(&mut cluster);
}

#[test]
fn other_databases_go_on_while_a_file_is_restored() {
    let (directory, cluster) = cluster(3);
    let addresses = cluster.addresses();
    let quiet = beside_for(&addresses, || thread::sleep(Duration::from_secs(1)));
    let busy = beside_for(&addresses, || {
        Underway::start(&directory, &cluster).ends();
    });
    let of = |took: &[Duration], part: f64| took[(took.len() as f64 * part) as usize];
    println!(
        "a row beside: p50 {:?} p99 {:?} quiet, p50 {:?} p99 {:?} of {} during a restore",
        of(&quiet, 0.5),
        of(&quiet, 0.99),
        of(&busy, 0.5),
        of(&busy, 0.99),
        busy.len()
    );
    assert!(of(&busy, 0.99) < Duration::from_millis(500));
}

/// Stops the writers also when a check panics meanwhile.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn beside_for(addresses: &[String], meanwhile: impl FnOnce()) -> Vec<Duration> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_beside(addresses, &stop));
        let stop_anyway = StopOnDrop(&stop);
        meanwhile();
        drop(stop_anyway);
        writer.join().unwrap()
    })
}

/// Two databases under one name in turns, each with rows of its own life only, while nodes die.
#[test]
fn a_name_is_dropped_and_created_under_load_and_kills() {
    let (_directory, mut cluster) = cluster(3);
    let addresses = cluster.addresses();
    let list = addresses.join(",");
    let stop = AtomicBool::new(false);
    let lives = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| write_into_whatever_is_there(&addresses, &stop));
        }
        let dropper = scope.spawn(|| {
            let mut lives = 0;
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(40));
                let ended = ringlite(&["cluster", &list, "drop", "app", "--yes"]);
                lives += usize::from(ended.code == Some(0));
            }
            lives
        });
        for round in 0..4 {
            thread::sleep(Duration::from_millis(400));
            let id = match round % 2 {
                0 => scene::leader_of(&mut cluster),
                _ => scene::leader_of(&mut cluster) % 3 + 1,
            };
            cluster.kill(id);
            thread::sleep(Duration::from_millis(200));
            cluster.start_node(id).unwrap();
        }
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        dropper.join().unwrap()
    });
    println!("{lives} lives of one name");
    assert!(lives > 5, "only {lives} lives");
    let mut client = scene::open(&mut cluster, "app");
    client
        .execute("CREATE TABLE IF NOT EXISTS t (x)", &[])
        .unwrap();
    scene::assert_identical(&mut cluster, "app");
    ringlite(&["cluster", &list, "drop", "app", "--yes"]).succeeded();
    let list_of =
        |address: &str| ringlite(&["cluster", address, "databases", "--json"]).succeeded();
    let leader = scene::connect(&mut cluster).address().to_owned();
    assert_eq!(list_of(&leader).trim(), "[]");
    for id in 1..=3 {
        let files = cluster.data_of(id).join("shard-0/databases");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_dir(&files).unwrap().count() > 0 {
            assert!(Instant::now() < deadline, "node {id} keeps the file");
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(cluster.dead_node(), None);
}

/// Opens the database, makes its table and inserts, again and again. Each row that is there was
/// written in this life of the database: its table is made by it.
fn write_into_whatever_is_there(addresses: &[String], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(addresses, ClientOptions::default()) else {
            continue;
        };
        let mut life = || {
            client.open("app")?;
            client.execute("CREATE TABLE IF NOT EXISTS t (x INTEGER)", &[])?;
            for row in 0.. {
                // Nobody may be left to end this life.
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                client.execute("INSERT INTO t VALUES (?)", &[Value::Integer(row)])?;
                let counted = client.query(
                    "SELECT count(*) FROM t WHERE x <= ?",
                    &[Value::Integer(row)],
                )?;
                let Value::Integer(count) = counted.rows[0][0] else {
                    panic!("{counted:?}");
                };
                assert!(
                    count > row,
                    "acknowledged rows are gone while the session lives"
                );
            }
            Ok::<_, ringlite::ClientError>(())
        };
        let _ = life();
    }
}

#[test]
fn a_dump_of_the_peer_s_protocol_is_a_database() {
    let (directory, mut cluster) = cluster(3);
    let mut client = scene::open(&mut cluster, "app");
    client.execute("CREATE TABLE t (x)", &[]).unwrap();
    client
        .execute("INSERT INTO t VALUES (randomblob(300000))", &[])
        .unwrap();
    let index = client.digest("app", 0).unwrap().applied;
    for address in cluster.addresses() {
        Client::connect_to(&address)
            .unwrap()
            .digest("app", index)
            .unwrap();
        let mut connection = RawConnection::client(&address);
        let name = "app".to_owned();
        let files = match connection.ask(&Request::Dump { name }) {
            Answer::Response(Response::Files(files)) => files,
            other => panic!("{other:?}"),
        };
        assert_eq!(files[0].name, "app");
        assert_eq!(
            (files[1].name.as_str(), files[1].bytes.len()),
            ("app-wal", 0)
        );
        let path = directory.path().join("dump.db");
        std::fs::write(&path, &files[0].bytes).unwrap();
        assert_eq!(text(&plain(&path), "PRAGMA integrity_check"), "ok");
        assert_eq!(
            text(&plain(&path), "SELECT length(x) || '' FROM t"),
            "300000"
        );
        let name = "none".to_owned();
        assert_eq!(connection.ask(&Request::Dump { name }).failure().0, 1002);
    }
}

#[test]
fn databases_are_created_listed_and_dropped_by_command() {
    let (_directory, mut cluster) = cluster(3);
    let address = cluster.addresses()[0].clone();
    let run = |words: &[&str]| ringlite(&[&["cluster", &address], words].concat());
    run(&["create", "app", "--page-size", "512"]).succeeded();
    let again = run(&["create", "app"]);
    assert!(again.refusal().contains("already"), "{again:?}");
    let odd = run(&["create", "odd", "--page-size", "1000"]);
    assert!(odd.refusal().contains("page size"), "{odd:?}");
    let mut client = scene::open(&mut cluster, "app");
    client.execute("CREATE TABLE t (x)", &[]).unwrap();
    let entry = client.databases().unwrap().remove(0);
    assert_eq!((entry.page_size, entry.page_count), (512, 2));
    let index = client.digest("app", 0).unwrap().applied;
    Client::connect_to(&address)
        .unwrap()
        .digest("app", index)
        .unwrap();
    let listed = run(&["databases", "--json"]).succeeded();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], "app");
    assert_eq!(listed[0]["bytes"], 1024);
    run(&["drop", "app", "--yes"]).succeeded();
    let error = client.execute("INSERT INTO t VALUES (1)", &[]).unwrap_err();
    assert!(error.to_string().contains("dropped"), "{error}");
    let missing = run(&["drop", "app", "--yes"]);
    assert!(
        missing.refusal().contains("no database named"),
        "{missing:?}"
    );
}

/// What `.dump` writes makes the same database again, in sqlite3 and in the shell.
#[test]
fn a_dump_as_text_makes_the_database_again() {
    let (directory, cluster) = cluster(1);
    let schema = r#"
        CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE);
        CREATE TABLE "odd ""name" ("a b" REAL, c BLOB, d AS ("a b" * 2) STORED, yes BOOLEAN, at DATETIME);
        CREATE TABLE child (id INTEGER PRIMARY KEY, of INTEGER REFERENCES parent (id)) STRICT;
        CREATE TABLE pairs (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
        CREATE INDEX by_of ON child (of) WHERE of > 1;
        CREATE VIEW names AS SELECT name FROM parent;
        CREATE VIRTUAL TABLE words USING fts5 (body);
        CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1);
        CREATE VIRTUAL TABLE terms USING fts5vocab (words, 'row');
        CREATE TABLE log (text);
        CREATE TRIGGER noted AFTER INSERT ON child BEGIN
            INSERT INTO log VALUES ('child ' || new.id || '; of ' || new.of); END;
        INSERT INTO parent (name) VALUES ('it''s'), ('zwei
Zeilen'), ('drei');
        DELETE FROM parent WHERE id = 3;
        INSERT INTO child VALUES (1, 1), (2, 2);
        INSERT INTO "odd ""name" ("a b", c, yes, at) VALUES
            (0.1, x'00ff', 1, '2026-01-01'), (9e999, CAST(x'610062' AS TEXT), 'text', NULL), (-0.0, '', 0, 5);
        INSERT INTO pairs VALUES ('k', NULL), ('ä', 9223372036854775807);
        INSERT INTO words VALUES ('the quick brown fox'), ('a lazy dog');
        DELETE FROM words WHERE rowid = 1;
        INSERT INTO words VALUES ('the quick brown fox');
        INSERT INTO boxes VALUES (7, 0.1, 2.5);
        ANALYZE;
    "#;
    let shell = |database: &'static str| Shell::new(PROGRAM, &cluster, database);
    shell("app").script(Format::Csv, schema).succeeded();
    let dump = shell("app").script(Format::Csv, ".dump\n").succeeded();
    assert!(dump.starts_with("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n"));
    assert!(dump.ends_with("COMMIT;\n"));
    // By the shell, from the standard input and from a file.
    shell("again").script(Format::Csv, &dump).succeeded();
    assert_eq!(
        shell("again").script(Format::Csv, ".dump").succeeded(),
        dump
    );
    let path = directory.path().join("dump of app.sql");
    std::fs::write(&path, &dump).unwrap();
    let read = format!(".read {}\n", path.display());
    shell("read").script(Format::Csv, &read).succeeded();
    assert_eq!(shell("read").script(Format::Csv, ".dump").succeeded(), dump);
    // By SQLite.
    let copy = directory.path().join("plain.db");
    plain(&copy).execute_batch(&dump).unwrap();
    let file = plain(&copy);
    assert_eq!(text(&file, "PRAGMA integrity_check"), "ok");
    let found = "SELECT body FROM words WHERE words MATCH 'quick'";
    assert_eq!(text(&file, found), "the quick brown fox");
    let boxes = "SELECT id || '' FROM boxes WHERE x0 < 0.2 AND x1 > 2";
    assert_eq!(text(&file, boxes), "7");
    assert_eq!(text(&file, "SELECT count(*) || '' FROM terms"), "7");
    assert_eq!(
        text(&file, "SELECT group_concat(text) FROM log"),
        "child 1; of 1,child 2; of 2"
    );
    assert_eq!(text(&file, "SELECT seq || '' FROM sqlite_sequence"), "3");
    assert_eq!(
        text(
            &file,
            r#"SELECT hex(c) FROM "odd ""name" WHERE yes = 'text'"#
        ),
        "610062"
    );
    drop(file);
    let list = cluster.addresses().join(",");
    ringlite(&["restore", &list, "plain", copy.to_str().unwrap()]).succeeded();
    assert_eq!(
        shell("plain").script(Format::Csv, ".dump").succeeded(),
        dump
    );

    let databases = shell("app").script(Format::Csv, ".databases\n").succeeded();
    assert!(databases.contains("again"), "{databases}");
    let endless = directory.path().join("endless.sql");
    std::fs::write(&endless, format!(".read {}\n", endless.display())).unwrap();
    let read = shell("app").script(Format::Csv, &format!(".read {}\n", endless.display()));
    assert!(read.refusal().contains("too many deep"), "{read:?}");
}

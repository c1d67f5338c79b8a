//! A node that cannot start, or cannot go on, says why in one sentence and ends with a status that
//! is not zero: no panic, no backtrace, no silence. What only looks like damage does not stop it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, Value};
use ringlite_tests::process::{self, Finished};
use ringlite_tests::{scene, segments};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const LIMIT: Duration = Duration::from_secs(30);
const DATABASE: &str = "d";

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs `serve` to its end.
fn serve(arguments: &[&str]) -> Finished {
    process::run(
        Command::new(PROGRAM).arg("serve").args(arguments),
        b"",
        LIMIT,
    )
}

fn serve_in(data: &Path, listen: &str) -> Finished {
    let data = data.to_string_lossy();
    serve(&["--data", &data, "--listen", listen, "--segment-mib", "8"])
}

/// An address on which nobody listens.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn assert_says(finished: &Finished, words: &[&str]) {
    let refusal = finished.refusal();
    for word in words {
        assert!(refusal.contains(word), "{word:?} is not in: {refusal}");
    }
}

/// A cluster of one with a table of numbers.
fn one_node(directory: &Path) -> (LocalCluster, Client) {
    scene::start_with_table(PROGRAM, directory, 1, DATABASE)
}

fn insert(client: &mut Client, rows: std::ops::Range<i64>) {
    for row in rows {
        let row = [Value::Integer(row), Value::Text("x".repeat(50))];
        client.execute("INSERT INTO t VALUES (?, ?)", &row).unwrap();
    }
}

/// Waits until a node has died, and returns the line that it died with.
fn death_of(cluster: &mut LocalCluster, id: usize) -> String {
    let deadline = Instant::now() + LIMIT;
    while cluster.dead_node() != Some(id) {
        assert!(Instant::now() < deadline, "node {id} goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    let words = cluster.last_words_of(id);
    assert!(words.starts_with("ringlite: "), "{words}");
    let all = std::fs::read_to_string(cluster.log_of(id)).unwrap();
    assert!(!all.contains("panicked"), "{all}");
    words
}

#[test]
fn a_port_in_use_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let directory = directory();
    let finished = serve_in(directory.path(), &address);
    assert_says(&finished, &["cannot listen on", &address, "in use"]);
    let finished = serve_in(directory.path(), "127.0.0.1");
    assert_says(&finished, &["cannot listen on 127.0.0.1"]);
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let directory = directory();
    let (mut cluster, client) = one_node(directory.path());
    let data = cluster.data_of(1);
    let path = data.to_string_lossy().into_owned();
    let finished = serve_in(&data, &free_address());
    assert_says(&finished, &[&path, "in use by another node"]);
    drop(client);
    cluster.kill(1);

    let address = free_address();
    let finished = serve(&["--data", &path, "--id", "2", "--listen", &address]);
    assert_says(&finished, &[&path, "belongs to node 1", "node 2"]);
    let members = format!("1={address},2=127.0.0.1:2,3=127.0.0.1:3");
    let finished = serve(&["--data", &path, "--cluster", &members]);
    assert_says(&finished, &[&path, "belongs to a cluster of", &members]);

    // The one that it belongs to is welcome.
    cluster.start_node(1).unwrap();
    let mut client = scene::open(&mut cluster, DATABASE);
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 0);
}

#[test]
fn an_identity_of_another_format_or_with_damage_is_refused() {
    let directory = directory();
    let (mut cluster, client) = one_node(directory.path());
    drop(client);
    cluster.kill(1);
    let path = cluster.data_of(1).join("identity");
    let written = std::fs::read_to_string(&path).unwrap();
    let json = written.lines().next().unwrap();
    let with_crc = |json: &str| format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes()));
    assert_eq!(with_crc(json), written);
    for (text, words) in [
        (
            with_crc(&json.replace("\"format\":1", "\"format\":9")),
            "has format 9",
        ),
        (
            json.replace("\"node\":1", "\"node\":2") + "\n00000000\n",
            "checksum",
        ),
        ("garbage".to_owned(), "cut short"),
        (String::new(), "cut short"),
        (with_crc("{}"), "cannot be read"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let finished = serve_in(&cluster.data_of(1), &free_address());
        assert_says(&finished, &[&path.to_string_lossy(), words]);
    }
    std::fs::write(&path, written).unwrap();
    cluster.start_node(1).unwrap();
    drop(scene::connect(&mut cluster));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    const ALONE: &[&str] = &["--listen", "127.0.0.1:0"];
    let directory = directory();
    for (number, (listen, more, words)) in [
        (
            ALONE,
            &["--id", "4", "--cluster", "1=h:1,2=h:2,3=h:3"][..],
            "node 4 is not in the list",
        ),
        (
            &[],
            &["--id", "3", "--cluster", "1=h:1,2=h:2"],
            "--listen HOST:PORT",
        ),
        (&[], &["--cluster", "1=127.0.0.1:1,1=127.0.0.1:2"], "twice"),
        (&[], &["--cluster", "1=127.0.0.1:1,2=127.0.0.1:1"], "twice"),
        (&[], &[], "--listen HOST:PORT"),
        (ALONE, &["--id", "0"], "a number from 1"),
        (ALONE, &["--segment-mib", "3"], "multiple of"),
        (ALONE, &["--segment-mib", "0"], "multiple of"),
        (ALONE, &["--segment-mib", "17592186044416"], "segment"),
        (ALONE, &["--core", "9999"], "core 9999"),
    ]
    .into_iter()
    .enumerate()
    {
        // A directory that a start has made, even one that failed, belongs to that node.
        let data = directory.path().join(number.to_string());
        let finished = serve(&[&["--data", &data.to_string_lossy()], listen, more].concat());
        assert_says(&finished, &[words]);
    }
}

#[test]
fn arguments_that_cannot_be_read_are_told_with_a_hint() {
    for (arguments, words) in [
        (&[][..], "<DIR>"),
        (&["--data", "d", "--id", "one"], "--id"),
        (&["--data", "d", "--cluster", "1=h:1,two"], "ID=HOST:PORT"),
        (&["--data", "d", "--cluster", "x=h:1"], "number from 1"),
        (&["--data", "d", "--nonsense"], "--nonsense"),
    ] {
        let finished = serve(arguments);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.starts_with("error: "), "{finished:?}");
        assert!(
            finished.stderr.contains(words),
            "{words:?} not in {finished:?}"
        );
    }
}

/// Runs `serve` in a mount namespace of its own, in which `mounts` was done to `data`.
fn serve_on(mounts: &str, data: &Path) -> Finished {
    let script = format!("data=$1; {mounts}; shift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-e", "-c", &script, "sh"])
        .arg(data);
    command.args([
        PROGRAM,
        "serve",
        "--listen",
        &free_address(),
        "--segment-mib",
        "8",
        "--data",
    ]);
    process::run(command.arg(data), b"", LIMIT)
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let parent = directory();
    let data = parent.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let path = data.to_string_lossy().into_owned();
    let read_only = "mount --bind \"$data\" \"$data\"; mount -o remount,bind,ro \"$data\"";
    let finished = serve_on(read_only, &data);
    assert_says(&finished, &[&path, "Read-only file system"]);
    let full = "mount -t tmpfs -o size=2m full \"$data\"";
    let finished = serve_on(full, &data);
    assert_says(&finished, &[&path, "space left"]);
    let finished = serve_on("mount -t ramfs memory \"$data\"", &data);
    assert_says(&finished, &[&path, "does not support direct IO", "ext4"]);
    let finished = serve_in(Path::new("/proc/nowhere"), &free_address());
    assert_says(&finished, &["cannot make /proc/nowhere"]);
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let finished = serve_in(&file, &free_address());
    assert_says(&finished, &[&file.to_string_lossy()]);
}

/// Three nodes in small file systems of their own; the third one's is the smallest.
fn three_in_memory(directory: &Path) -> LocalCluster {
    let mut launch = Launch::program(PROGRAM).with_arguments(["--segment-mib", "4"]);
    launch.wrappers = (1..=3)
        .map(|id| {
            let data: PathBuf = directory.join(format!("node-{id}"));
            std::fs::create_dir(&data).unwrap();
            let mebibytes = if id == 3 { 22 } else { 200 };
            let script = format!(
                "mount -t tmpfs -o size={mebibytes}m small '{}'; exec \"$@\"",
                data.display()
            );
            ["unshare", "-m", "sh", "-e", "-c", &script, "sh"]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    scene::launch_nodes(directory, 3, launch)
}

#[test]
fn a_node_whose_disk_fills_up_says_so_and_the_others_go_on() {
    let directory = directory();
    let mut cluster = three_in_memory(directory.path());
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    let mut sent = 0;
    let mut acknowledged = 0;
    while cluster.dead_node().is_none() {
        assert!(sent < 400, "400 rows of 128 KiB do not fit into 22 MiB");
        sent += 1;
        let row = [Value::Integer(sent), Value::Blob(vec![7; 128 << 10])];
        match client.execute("INSERT INTO t VALUES (?, ?)", &row) {
            Ok(_) => acknowledged += 1,
            Err(_) => {
                client = scene::open(&mut cluster, DATABASE);
            }
        }
    }
    let words = death_of(&mut cluster, 3);
    assert!(
        words.contains("space left") && words.contains("/shard-0/"),
        "{words}"
    );
    let mut client = scene::open(&mut cluster, DATABASE);
    let count = scene::integer(&mut client, "SELECT count(*) FROM t");
    assert!(
        count >= acknowledged,
        "{count} of {acknowledged} acknowledged rows"
    );
    insert(&mut client, 1_000..1_020);
    assert_eq!(cluster.dead_node(), Some(3));
}

#[test]
fn a_member_that_has_lost_its_directory_may_not_come_back_as_if_nothing_were() {
    let directory = directory();
    let (mut cluster, mut client) = scene::start_with_table(PROGRAM, directory.path(), 3, DATABASE);
    let lost = scene::leader_of(&mut cluster) % 3 + 1;
    cluster.kill(lost);
    std::fs::remove_dir_all(cluster.data_of(lost)).unwrap();
    cluster.start_node(lost).unwrap();
    let words = death_of(&mut cluster, lost);
    for word in [
        "data directory is empty",
        "started before",
        "restore the old directory",
        "new one join",
    ] {
        assert!(words.contains(word), "{word:?} is not in: {words}");
    }
    assert!(words.contains(&format!("node {lost}")), "{words}");
    insert(&mut client, 0..20);
}

#[test]
fn a_hard_state_with_one_good_copy_is_used_and_with_none_refused() {
    const COPY_BYTES: u64 = 4096;
    let directory = directory();
    let (mut cluster, mut client) = one_node(directory.path());
    insert(&mut client, 0..5);
    let path = cluster.data_of(1).join("shard-0").join("hard-state");
    for copy in 0..2 {
        cluster.kill(1);
        segments::flip_a_bit(&path, copy * COPY_BYTES + 24);
        cluster.start_node(1).unwrap();
        let mut client = scene::open(&mut cluster, DATABASE);
        assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 5);
        let told = std::fs::read_to_string(cluster.log_of(1)).unwrap();
        assert!(told.contains("one of the two copies"), "{told}");
    }
    cluster.kill(1);
    for copy in 0..2 {
        segments::flip_a_bit(&path, copy * COPY_BYTES + 24);
    }
    let finished = serve_in(&cluster.data_of(1), &free_address());
    assert_says(
        &finished,
        &["both copies", &path.to_string_lossy(), "must not start"],
    );
    std::fs::remove_file(&path).unwrap();
    let finished = serve_in(&cluster.data_of(1), &free_address());
    assert_says(&finished, &[&path.to_string_lossy()]);
}

#[test]
fn a_record_that_was_durable_and_is_damaged_is_named_and_never_cut() {
    let directory = directory();
    let (mut cluster, mut client) = one_node(directory.path());
    insert(&mut client, 0..20);
    // After a rest the node has noted that the last record is durable, too.
    std::thread::sleep(Duration::from_millis(300));
    cluster.kill(1);
    let data = cluster.data_of(1);
    let records = segments::records(&data);
    assert!(records.len() > 20, "{records:?}");
    let middle = &records[records.len() / 2];
    let last = records.last().unwrap();
    for (record, damage) in [
        (
            middle,
            segments::Record::flip_a_bit as fn(&segments::Record),
        ),
        (last, segments::Record::flip_a_bit),
        (middle, segments::Record::erase),
        (last, segments::Record::erase),
    ] {
        let good = std::fs::read(&record.path).unwrap();
        damage(record);
        let finished = serve_in(&data, &free_address());
        let offset = format!("offset {} of segment {}", record.offset, record.segment());
        let log = data.join("shard-0").join("log");
        assert_says(&finished, &[&offset, &log.to_string_lossy(), "was durable"]);
        segments::overwrite(&record.path, 0, &good);
    }
    cluster.start_node(1).unwrap();
    let mut client = scene::open(&mut cluster, DATABASE);
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 20);
}

#[test]
fn a_torn_tail_is_cut_and_the_node_starts() {
    let directory = directory();
    let (mut cluster, mut client) = one_node(directory.path());
    insert(&mut client, 0..20);
    // Before it can note that the last record is durable.
    cluster.kill(1);
    let records = segments::records(&cluster.data_of(1));
    let last = records.last().unwrap();
    // That the records behind one are whole proves that it was durable, mark or no mark.
    let middle = &records[records.len() - 10];
    middle.flip_a_bit();
    let finished = serve_in(&cluster.data_of(1), &free_address());
    assert_says(
        &finished,
        &[
            &format!("offset {} of segment", middle.offset),
            "was durable",
        ],
    );
    middle.flip_a_bit();
    last.flip_a_bit();
    cluster.start_node(1).unwrap();
    let mut client = scene::open(&mut cluster, DATABASE);
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 19);
    let told = std::fs::read_to_string(cluster.log_of(1)).unwrap();
    assert!(told.contains("unfinished end was cut"), "{told}");
    // What comes after the cut lasts.
    insert(&mut client, 100..110);
    cluster.kill(1);
    cluster.start_node(1).unwrap();
    let mut client = scene::open(&mut cluster, DATABASE);
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 29);
    assert_eq!(scene::integer(&mut client, "SELECT max(a) FROM t"), 109);
}

#[test]
fn a_node_whose_database_file_is_gone_says_so() {
    let directory = directory();
    let mut cluster = scene::start(PROGRAM, directory.path(), 1);
    let mut client = scene::open(&mut cluster, DATABASE);
    client.execute("CREATE TABLE t (a)", &[]).unwrap();
    drop(client);
    // Its pages are in the file soon, and the log may be cut.
    let node = cluster.process_of(1).unwrap();
    let pid = rustix::process::Pid::from_raw(node.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.dead_node().is_none() {
        assert!(Instant::now() < deadline, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    cluster.kill(1);
    let file = cluster.data_of(1).join("shard-0/databases").join(DATABASE);
    std::fs::remove_file(file).unwrap();
    cluster.start_node(1).unwrap();
    let words = death_of(&mut cluster, 1);
    assert!(words.contains("is gone from this node"), "{words}");
}

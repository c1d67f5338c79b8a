//! One bit of one node's directory changes while the node is down: whatever it is, it is noticed and
//! mended, or harmless, or refused by name. No answer is wrong, and no acknowledged row is lost. The
//! same goes for a bit of a snapshot on its way to a member.
//!
//! `BIT_FLIPS` is how many kinds of places are tried (24 by default, spread over all of them; 0 for all).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, Value};
use ringlite_tests::nodes::{Nodes, wait_until};
use ringlite_tests::proxy::{Flip, HELLO, Proxy};
use ringlite_tests::{process, scene, segments};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "d";
/// A database whose pages are in its file, and not in the log.
const FILED: &str = "filed";
const PAGE_BYTES: u64 = 4096;
const LIMIT: Duration = Duration::from_secs(30);

/// The fields of a record header, as in `docs/FORMAT.md`: where they begin.
const RECORD_FIELDS: [(&str, u64); 19] = [
    ("magic", 0),
    ("version", 8),
    ("kind", 10),
    ("zero", 11),
    ("shard", 12),
    ("segment", 16),
    ("epoch", 24),
    ("epoch_first", 32),
    ("index", 40),
    ("term", 48),
    ("durable_upto", 56),
    ("commit", 64),
    ("cluster", 72),
    ("incarnation", 88),
    ("payload_bytes", 96),
    ("payload_crc", 100),
    ("previous_header_crc", 104),
    ("epoch_previous_term", 108),
    ("header_crc", 140),
];

const HARD_STATE_FIELDS: [(&str, u64); 11] = [
    ("magic", 0),
    ("version", 8),
    ("sequence", 16),
    ("term", 24),
    ("vote", 32),
    ("log_epoch", 40),
    ("durable_mark", 48),
    ("cluster", 56),
    ("debt", 80),
    ("crc", 96),
    ("what follows", 200),
];

const MANIFEST_FIELDS: [(&str, u64); 11] = [
    ("magic", 0),
    ("version", 8),
    ("record_bytes", 12),
    ("sequence", 16),
    ("cluster", 24),
    ("base_index", 48),
    ("segment", 64),
    ("count", 72),
    ("database id", 88),
    ("applied", 96),
    ("what follows", 4000),
];

/// A kind of place, and where it is in the directory of a node.
struct Place {
    name: String,
    path: PathBuf,
    offset: u64,
}

/// Where a bit can change in a directory. The last record is left alone: of it a node cannot know at once
/// that it was durable.
fn places(data: &Path) -> Vec<Place> {
    let shard = data.join("shard-0");
    let mut places = Vec::new();
    let mut add = |name: String, path: &Path, offset: u64| {
        places.push(Place {
            name,
            path: path.to_owned(),
            offset,
        });
    };
    // A log that was repaired holds some indexes twice; what was written last counts.
    let mut records = segments::records(data);
    records.reverse();
    records.dedup_by_key(|record| record.index);
    records.reverse();
    let count = records.len();
    assert!(count > 10, "only {count} records");
    for (which, record) in [
        ("the first record", &records[0]),
        ("a record in the middle", &records[count / 2]),
        ("the last record but one", &records[count - 2]),
    ] {
        for (field, at) in RECORD_FIELDS {
            add(
                format!("{field} of {which}"),
                &record.path,
                record.offset + at,
            );
        }
        let payload = record.offset + 144;
        let bytes = record.payload_bytes as u64;
        if bytes > 0 {
            add(
                format!("the first byte of the payload of {which}"),
                &record.path,
                payload,
            );
            add(
                format!("the payload of {which}"),
                &record.path,
                payload + bytes / 2,
            );
            add(
                format!("the last byte of the payload of {which}"),
                &record.path,
                payload + bytes - 1,
            );
        }
        add(
            format!("reserved bytes of {which}"),
            &record.path,
            record.offset + 120,
        );
        if !(144 + bytes).is_multiple_of(4096) {
            add(
                format!("the padding of {which}"),
                &record.path,
                payload + bytes,
            );
        }
    }
    let last = records
        .iter()
        .max_by_key(|record| (&record.path, record.offset))
        .unwrap();
    add(
        "the zeros behind the log".to_owned(),
        &last.path,
        last.offset + (1 << 20),
    );
    for copy in ["A", "B"] {
        let start = if copy == "A" { 0 } else { 4096 };
        for (field, at) in HARD_STATE_FIELDS {
            let name = format!("{field} of copy {copy} of the hard state");
            add(name, &shard.join("hard-state"), start + at);
        }
    }
    for copy in ["manifest.a", "manifest.b"] {
        for (field, at) in MANIFEST_FIELDS {
            add(format!("{field} of {copy}"), &shard.join(copy), at);
        }
    }
    let file = shard.join("databases").join(FILED);
    let pages = std::fs::metadata(&file).unwrap().len() / PAGE_BYTES;
    for page in [0, 1, pages / 2, pages - 1] {
        for at in [0, 18, 100, PAGE_BYTES - 1] {
            let name = format!("byte {at} of page {} of a database file", page + 1);
            add(name, &file, page * PAGE_BYTES + at);
        }
        let name = format!("the checksum of page {} of a database file", page + 1);
        add(name, &file.with_extension("sum"), 4 * page + 2);
    }
    let identity = data.join("identity");
    let bytes = std::fs::metadata(&identity).unwrap().len();
    for at in [1, 12, bytes / 2, bytes - 12, bytes - 3] {
        add(format!("byte {at} of the identity"), &identity, at);
    }
    places
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn insert(client: &mut Client, next: &mut i64, count: i64) {
    for _ in 0..count {
        let row = [Value::Integer(*next), Value::Text("x".repeat(50))];
        client.execute("INSERT INTO t VALUES (?, ?)", &row).unwrap();
        *next += 1;
    }
}

/// What `ringlite inspect` says.
fn inspect(data: &Path) -> serde_json::Value {
    let mut command = Command::new(PROGRAM);
    command.arg("inspect").arg(data);
    let said = process::run(&mut command, b"", LIMIT).succeeded();
    serde_json::from_str(&said).unwrap()
}

/// What became of a node whose directory was damaged.
#[derive(Debug, PartialEq)]
enum Start {
    /// It has ended.
    Refused,
    /// It follows a leader and owes nothing.
    Back,
}

fn start_of(cluster: &mut LocalCluster, id: usize, what: &str) -> Start {
    let deadline = Instant::now() + LIMIT;
    let address = cluster.addresses()[id - 1].clone();
    loop {
        if cluster.dead_node() == Some(id) {
            return Start::Refused;
        }
        let status = Client::connect_to(&address).and_then(|mut node| node.status());
        if let Ok(status) = &status
            && !status["leader"].is_null()
        {
            if status["debt"].is_null() {
                return Start::Back;
            }
            assert_eq!(status["role"], "follower", "{what}");
        }
        assert!(
            Instant::now() < deadline,
            "{what}: node {id} is not repaired: {status:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a database that all nodes have in their files, so that nobody reads it from the log.
fn make_filed(cluster: &mut LocalCluster) {
    let mut client = scene::open(cluster, FILED);
    client.execute("CREATE TABLE f (a, b)", &[]).unwrap();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) \
                INSERT INTO f SELECT i, hex(randomblob(50)) FROM n";
    client.execute(rows, &[]).unwrap();
    let applied = client.digest(FILED, 0).unwrap().applied;
    let deadline = Instant::now() + LIMIT;
    for id in 1..=3 {
        let is_filed = |data: &Path| {
            let databases = inspect(data)["databases"].as_array().cloned();
            let databases = databases.unwrap_or_default();
            let of_it = databases.iter().find(|file| file["name"] == FILED);
            of_it.is_some_and(|file| file["applied"].as_u64() >= Some(applied))
        };
        while !is_filed(&cluster.data_of(id)) {
            assert!(Instant::now() < deadline, "node {id} does not file it");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Has a node read all of [`FILED`] until it says that it is right again. Nothing else is answered
/// than an error, or what the database is.
fn read_until_repaired(cluster: &mut LocalCluster, id: usize, told_before: usize, what: &str) {
    let expected = scene::connect(cluster).digest(FILED, 0).unwrap();
    let address = cluster.addresses()[id - 1].clone();
    let deadline = Instant::now() + LIMIT;
    loop {
        let read = Client::connect_to(&address).and_then(|mut node| node.digest(FILED, 0));
        if let Ok(found) = read {
            assert_eq!(found.digest, expected.digest, "{what}");
        }
        let told = std::fs::read_to_string(cluster.log_of(id)).unwrap();
        if told[told_before..].contains("as other nodes have them: 1\n") {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: node {id} is not repaired"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_directory(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
}

#[test]
fn a_bit_that_changes_on_one_node_of_three_costs_nothing() {
    let directory = directory();
    let arguments = ["--segment-mib", "4"];
    let launch = Launch::program(PROGRAM).with_arguments(arguments);
    let mut cluster = scene::launch_nodes(directory.path(), 3, launch);
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    let mut next = 0;
    insert(&mut client, &mut next, 100);
    make_filed(&mut cluster);
    let count = places(&cluster.data_of(1)).len();
    let wanted = match process::size("BIT_FLIPS", 24) {
        0 => count,
        wanted => wanted.min(count),
    };
    let (mut mended, mut refused, mut harmless) = (0, 0, 0);
    for round in 0..wanted {
        let victim = if round % 4 == 3 {
            scene::leader_of(&mut cluster)
        } else {
            round % 3 + 1
        };
        cluster.kill(victim);
        let mut client = scene::open(&mut cluster, DATABASE);
        insert(&mut client, &mut next, 5);
        let data = cluster.data_of(victim);
        let mut places = places(&data);
        let place = places.swap_remove((round * count / wanted).min(places.len() - 1));
        let whole = directory.path().join("whole");
        copy_directory(&data, &whole);
        segments::flip_a_bit(&place.path, place.offset);
        let told_before = std::fs::read_to_string(cluster.log_of(victim))
            .unwrap()
            .len();
        // It writes nothing, and says what is there whatever it is.
        let inspected = inspect(&data);
        cluster.start_node(victim).unwrap();
        let name = &place.name;
        let start = start_of(&mut cluster, victim, name);
        if name.contains("database file") {
            read_until_repaired(&mut cluster, victim, told_before, name);
        }
        let told = std::fs::read_to_string(cluster.log_of(victim)).unwrap();
        let told = &told[told_before..];
        assert!(!told.contains("panicked"), "{name}: {told}");
        if start == Start::Refused {
            // There is one copy of the identity only. Nothing may be guessed about it.
            let file = place.path.to_string_lossy();
            assert!(
                name.contains("identity") && told.contains(&*file),
                "{name}: {told}"
            );
            assert!(
                !inspected["identity"]["bad"].is_null(),
                "{name}: {inspected}"
            );
            refused += 1;
            cluster.kill(victim);
            std::fs::remove_dir_all(&data).unwrap();
            std::fs::rename(&whole, &data).unwrap();
            cluster.start_node(victim).unwrap();
            assert_eq!(start_of(&mut cluster, victim, name), Start::Back);
        } else if told.contains(" is damaged")
            || told.contains("one of the two copies")
            // If what lies behind it is void, nothing proves that it was durable.
            || told.contains("unfinished end was cut")
        {
            mended += 1;
        } else {
            harmless += 1;
            let is_read = name.contains("record") && !name.contains("behind");
            let is_copy = (name.contains("copy") || name.contains("manifest"))
                && !name.contains("what follows");
            // A segment may be obsolete, if the log was cut behind it before the node was killed.
            let base = inspected["manifest"][0]["good"]["base_segment"].as_u64();
            let is_old = base > Some(0) && name.contains("first record");
            assert!(
                !is_copy && (!is_read || is_old),
                "{name} was not noticed: {told}"
            );
        }
        if whole.exists() {
            std::fs::remove_dir_all(&whole).unwrap();
        }
        let mut client = scene::open(&mut cluster, DATABASE);
        insert(&mut client, &mut next, 5);
        assert_eq!(
            scene::integer(&mut client, "SELECT count(*) FROM t"),
            next,
            "{name}"
        );
        scene::assert_identical(&mut cluster, DATABASE);
        scene::assert_identical(&mut cluster, FILED);
    }
    println!("{wanted} of {count} places: {mended} mended, {refused} refused, {harmless} harmless");
    assert!(mended > 0);
    // Nothing is left of all that.
    for id in 1..=3 {
        cluster.kill(id);
        let log = &inspect(&cluster.data_of(id))["log"];
        assert!(
            log["good"]["fault"].is_null() && log["bad"].is_null(),
            "node {id}: {log}"
        );
    }
}

/// What a snapshot's connection consists of (`docs/FORMAT.md`), and which bytes of it change.
const PARTS: [(&str, bool, u8, &[isize]); 9] = [
    ("the leader's hello", false, HELLO, &[0, 12, 100, -1]),
    ("the member's hello", true, HELLO, &[0, 14, 100, -1]),
    (
        "an offer",
        false,
        1,
        &[1, 3, 4, 8, 10, 11, 12, 16, 40, 60, -1],
    ),
    ("a chunk", false, 2, &[0, 1, 4, 8, 10, 16, 20, 28, 4000, -1]),
    ("the end of a file", false, 3, &[4, 10, 16, 20, -1]),
    ("the end", false, 5, &[3, 4, 8, 10, 16, -1]),
    (
        "the position to go on from",
        true,
        6,
        &[3, 4, 10, 16, 20, -1],
    ),
    ("an acknowledgement", true, 7, &[0, 4, 10, 16, -1]),
    ("the last word", true, 8, &[3, 4, 8, 10, -1]),
];

/// A member gets a snapshot, and one bit of it changes on its way: the connection ends there, another
/// one goes on, and what is installed is what the leader has.
#[test]
fn a_bit_that_changes_in_a_snapshot_on_its_way_costs_a_connection() {
    let directory = directory();
    // The log is cut behind whatever is in the files.
    let arguments = ["--wal-kib", "64", "--log-window-mib", "0"];
    let mut nodes = Nodes::start(PROGRAM, directory.path(), &arguments);
    let mut leader = nodes.leader();
    leader.open(DATABASE).unwrap();
    leader
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    let mut proxy = None;
    let member = nodes.add(|listen| {
        let before = proxy.insert(Proxy::before(listen));
        before.address.clone()
    });
    let proxy = proxy.unwrap();
    let flips: Vec<_> = PARTS
        .iter()
        .flat_map(|(name, by_member, frame, bytes)| {
            let flip = |byte: &isize| Flip {
                by_member: *by_member,
                frame: *frame,
                byte: *byte,
            };
            bytes.iter().map(move |byte| (*name, flip(byte)))
        })
        .collect();
    let wanted = match process::size("BIT_FLIPS", 24) {
        0 => flips.len(),
        wanted => (wanted / 2).clamp(1, flips.len()),
    };
    let mut next = 0;
    for round in 0..wanted {
        let (name, flip) = flips[round * flips.len() / wanted];
        let what = format!("byte {} of {name}", flip.byte);
        nodes.kill(member);
        drop(std::fs::remove_dir_all(&nodes.nodes[member].data));
        for _ in 0..30 {
            let row = [Value::Integer(next), Value::Blob(vec![next as u8; 10_000])];
            leader.execute("INSERT INTO t VALUES (?, ?)", &row).unwrap();
            next += 1;
        }
        let said_before = nodes.words(member).len();
        proxy.flip(flip);
        nodes.join_as(member);
        wait_until(&format!("installed, with another {what}"), || {
            let words = nodes.words(member)[said_before..].to_owned();
            let is_installed = words.contains("was installed");
            is_installed.then_some(()).ok_or(words)
        });
        // The leader hears of it as soon as a word gets through.
        let done = wait_until(&format!("told of {what}"), || {
            let done = proxy.done();
            (done.0 == 1 && done.1 > 1)
                .then_some(done)
                .ok_or_else(|| format!("{done:?}"))
        });
        nodes.wait_for_roles([1, 1, 0]);
        nodes.assert_identical(DATABASE);
        for number in [0, member] {
            assert!(!nodes.words(number).contains("panicked"), "{what}");
        }
        assert!(done.1 <= 4, "{what} has cost {} connections", done.1);
    }
    println!(
        "{wanted} of {} places in a snapshot on its way: all noticed",
        flips.len()
    );
    assert_eq!(scene::integer(&mut leader, "SELECT count(*) FROM t"), next);
}

/// Two of three are damaged, and the third is gone: nobody may be elected, whatever is missing.
#[test]
fn beyond_a_minority_nobody_is_elected_and_the_operator_decides() {
    let directory = directory();
    let (mut cluster, mut client) = scene::start_with_table(PROGRAM, directory.path(), 3, DATABASE);
    let mut next = 0;
    insert(&mut client, &mut next, 30);
    scene::assert_identical(&mut cluster, DATABASE);
    cluster.kill_all();
    for id in [1, 2] {
        let records = segments::records(&cluster.data_of(id));
        records[records.len() / 2 + id].flip_a_bit();
        cluster.start_node(id).unwrap();
    }
    let addresses = cluster.addresses();
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut owing = 0;
    while Instant::now() < deadline {
        for address in &addresses[..2] {
            let status = Client::connect_to(address).and_then(|mut node| node.status());
            if let Ok(status) = status {
                assert!(status["leader"].is_null(), "{status}");
                owing += usize::from(!status["debt"].is_null());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(owing > 10, "only {owing} times");
    let recover = |data: &Path, arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("recover").arg(data).args(arguments);
        process::run(&mut command, b"", LIMIT)
    };
    let data = cluster.data_of(2);
    let running = recover(&data, &["--yes"]);
    assert!(running.refusal().contains("in use"), "{running:?}");
    cluster.kill_all();
    let unasked = recover(&data, &[]);
    assert!(
        unasked.stderr.contains("nothing was changed"),
        "{unasked:?}"
    );
    assert!(unasked.stderr.contains("LOST"), "{unasked:?}");
    let done = recover(&data, &["--yes"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let again = recover(&data, &["--yes"]);
    assert!(again.refusal().contains("needs no recovery"), "{again:?}");
    assert!(data.join("before-recover-1").join("hard-state").exists());
    let mut command = Command::new(PROGRAM);
    command.args([
        "serve",
        "--id",
        "2",
        "--listen",
        &addresses[1],
        "--stop-with-parent",
    ]);
    let mut node = command.arg("--data").arg(&data).spawn().unwrap();
    let mut client = Client::connect(&addresses[1..2], ringlite::ClientOptions::default()).unwrap();
    client.open(DATABASE).unwrap();
    let kept = scene::integer(&mut client, "SELECT count(*) FROM t");
    let newest = scene::integer(&mut client, "SELECT max(a) FROM t");
    insert(&mut client, &mut next, 5);
    // It has the rows up to the damage, without a gap.
    assert!(
        kept > 5 && kept < 30 && newest == kept - 1,
        "{kept} rows up to {newest}"
    );
    node.kill().unwrap();
    node.wait().unwrap();
}

/// The disk of a node that is alone: a refusal that names file and offset, and a way out.
#[test]
fn a_node_that_is_alone_names_the_file_the_offset_and_the_way_out() {
    let directory = directory();
    let (mut cluster, mut client) = scene::start_with_table(PROGRAM, directory.path(), 1, DATABASE);
    let mut next = 0;
    insert(&mut client, &mut next, 20);
    cluster.kill(1);
    let data = cluster.data_of(1);
    let records = segments::records(&data);
    let record = &records[records.len() / 2];
    for (field, at) in RECORD_FIELDS.iter().step_by(4).chain(&[("payload", 150)]) {
        segments::flip_a_bit(&record.path, record.offset + at);
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .arg("--data")
            .arg(&data)
            .args(["--listen", "127.0.0.1:0"]);
        let finished = process::run(&mut command, b"", LIMIT);
        let refusal = finished.refusal();
        let offset = format!("offset {}", record.offset);
        let way_out = format!("ringlite recover {}", data.display());
        for word in [&*record.path.to_string_lossy(), &*offset, &*way_out] {
            assert!(
                refusal.contains(word),
                "{field}: {word:?} is not in: {refusal}"
            );
        }
        segments::flip_a_bit(&record.path, record.offset + at);
    }
    record.flip_a_bit();
    let mut command = Command::new(PROGRAM);
    let done = process::run(command.arg("recover").arg(&data).arg("--yes"), b"", LIMIT);
    assert_eq!(done.code, Some(0), "{done:?}");
    let kept = data
        .join("before-recover-1")
        .join(record.path.file_name().unwrap());
    assert!(kept.exists(), "the segment is kept");
    for _ in 0..2 {
        cluster.start_node(1).unwrap();
        let mut client = scene::open(&mut cluster, DATABASE);
        let count = scene::integer(&mut client, "SELECT count(*) FROM t WHERE a < 20");
        assert!(count > 3 && count < 20, "{count}");
        insert(&mut client, &mut next, 3);
        cluster.kill(1);
    }
}

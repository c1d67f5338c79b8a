//! A database file that the disk has changed: the node tells it, gives no wrong answer, and gets
//! what is damaged from another node, if there is one.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientError, ReadLevel, Value};
use ringlite_tests::disk::{self, Disk};
use ringlite_tests::lone_node::LoneNode;
use ringlite_tests::nodes::{Nodes, wait_until};
use ringlite_tests::oracle::{self, Oracle};
use ringlite_tests::scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const ROTTEN: &str = "rotten";
const SOUND: &str = "sound";
const ROWS: i64 = 400;
const PAGE_BYTES: u64 = 4096;
/// SQLITE_IOERR_DATA.
const DAMAGED: u64 = 10 | 32 << 8;

fn start(data: &Path) -> LoneNode {
    let mut node = LoneNode::spawn(&[PROGRAM, "serve"], data, 0);
    if let Err(finished) = node.wait_until_it_serves() {
        panic!("the node does not start: {finished:?}");
    }
    node
}

fn flip(file: &File, byte: u64) {
    let mut value = [0];
    file.read_exact_at(&mut value, byte).unwrap();
    value[0] ^= 1 << (byte % 8);
    file.write_all_at(&value, byte).unwrap();
}

fn code(error: &ClientError) -> u64 {
    match error {
        ClientError::Failure { code, message } => {
            assert!(
                *code != DAMAGED || message.contains("is damaged"),
                "{message}"
            );
            *code
        }
        other => panic!("not an answer of the node: {other}"),
    }
}

/// Reads everything in a session that knows nothing yet.
fn read_all(node: &LoneNode) -> Result<Vec<Vec<Value>>, ClientError> {
    let mut client = node.client()?;
    client.open(ROTTEN)?;
    let mut rows = client.query("SELECT a, b FROM t NOT INDEXED", &[])?.rows;
    let by_index = "SELECT b FROM t INDEXED BY i WHERE b > ''";
    rows.extend(client.query(by_index, &[])?.rows);
    Ok(rows)
}

#[test]
fn a_damaged_page_is_told_and_no_wrong_answer_is_given() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = directory.path().join("data");
    let mut node = start(&data);
    let mut client = node.client().unwrap();
    client.open(ROTTEN).unwrap();
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    client.execute("CREATE INDEX i ON t (b)", &[]).unwrap();
    client
        .execute(
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {ROWS}) \
                 INSERT INTO t SELECT i, hex(randomblob(100)) FROM n"
            ),
            &[],
        )
        .unwrap();
    assert_eq!(node.stop().code, Some(0));

    let mut node = start(&data);
    let mut sound: Client = node.client().unwrap();
    sound.open(SOUND).unwrap();
    sound.execute("CREATE TABLE t (a)", &[]).unwrap();
    let expected = read_all(&node).unwrap();
    assert_eq!(expected.len() as i64, 2 * ROWS);
    let file = File::options()
        .read(true)
        .write(true)
        .open(data.join("shard-0/databases").join(ROTTEN))
        .unwrap();
    let pages = file.metadata().unwrap().len() / PAGE_BYTES;
    let mut told = 0;
    for page in 0..pages {
        let byte = page * PAGE_BYTES + page * 797 % PAGE_BYTES;
        flip(&file, byte);
        match read_all(&node) {
            Ok(rows) => assert_eq!(rows, expected, "byte {byte}"),
            Err(error) => {
                assert_eq!(code(&error), DAMAGED, "byte {byte}: {error}");
                told += 1;
            }
        }
        // A digest reads every page.
        let digest = sound.digest(ROTTEN, 0).unwrap_err().to_string();
        let path = data.join("shard-0/databases").join(ROTTEN);
        let place = format!(
            "{}, at offset {}, is damaged",
            path.display(),
            page * PAGE_BYTES
        );
        assert!(digest.contains(&place), "{place:?} is not in: {digest}");
        sound.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
        flip(&file, byte);
    }
    println!("{told} of {pages} damaged pages were met by SQL");
    assert!(pages > 20 && told * 2 > pages, "{told} of {pages}");
    // The page is right again, and what is right is given out.
    assert_eq!(read_all(&node).unwrap(), expected);
    let count = scene::integer(&mut sound, "SELECT count(*) FROM t");
    assert_eq!(count as u64, pages, "the other database has gone on");
    let words = node.words();
    assert_eq!(words.matches("is faulty").count(), 1, "{words}");
    assert!(words.contains("no other node has it"), "{words}");
    assert_eq!(node.stop().code, Some(0));
}

const TIMEOUT: Duration = Duration::from_secs(60);
const REPAIRED: &str = "is right again";

/// How often a node has said that a database is right again.
fn repairs(cluster: &LocalCluster, id: usize, database: &str) -> usize {
    let words = std::fs::read_to_string(cluster.log_of(id)).unwrap();
    let said = format!("the database {database} {REPAIRED}");
    words.lines().filter(|line| line.contains(&said)).count()
}

/// Writes nonsense into every page of a database file, and into some of their checksums.
fn spoil(data: &Path, database: &str) {
    let directory = data.join("shard-0/databases");
    let open = |name: String| {
        let file = File::options().write(true).open(directory.join(name));
        file.unwrap()
    };
    let (pages, sums) = (open(database.to_owned()), open(format!("{database}.sum")));
    let count = pages.metadata().unwrap().len() / PAGE_BYTES;
    for page in 0..count {
        let at = page * PAGE_BYTES + fastrand::u64(0..PAGE_BYTES - 16);
        pages.write_all_at(b"this is no page.", at).unwrap();
        if page % 3 == 0 {
            sums.write_all_at(b"sum!", 4 * page).unwrap();
        }
    }
}

/// Reads a node's own copy until it is right, and looks at each answer meanwhile.
fn read_until_repaired(cluster: &LocalCluster, id: usize, expected: &[Vec<Value>]) -> u32 {
    let before = repairs(cluster, id, ROTTEN);
    let address = &cluster.addresses()[id - 1];
    let mut client = Client::connect_to(address).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let mut refused = 0;
    loop {
        let is_repaired = repairs(cluster, id, ROTTEN) > before;
        match client.query_at(ReadLevel::LOCAL, ROTTEN, "SELECT a, b FROM t NOT INDEXED") {
            Ok(rows) => {
                assert_eq!(rows.rows, expected);
                if is_repaired {
                    return refused;
                }
            }
            Err(error) => {
                assert!(!is_repaired, "after the repair: {error}");
                assert_eq!(code(&error), DAMAGED, "{error}");
                refused += 1;
            }
        }
        assert!(Instant::now() < deadline, "node {id} is not repaired");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether it follows or leads, a node whose database files are spoilt from end to end gives no wrong
/// answer and gets all of it from the others, while everybody goes on.
#[test]
fn a_node_of_a_cluster_gets_what_is_damaged_from_another_one() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let launch = Launch::program(PROGRAM)
        .with_arguments(scene::SMALL_SEGMENTS)
        // So that nearly everything is in the files.
        .with_arguments(["--wal-kib", "64"]);
    let mut cluster = scene::launch_nodes(directory.path(), 3, launch);
    let mut client = scene::open(&mut cluster, ROTTEN);
    client
        .execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", &[])
        .unwrap();
    for _ in 0..20 {
        client
            .execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) \
                 INSERT INTO t (b) SELECT hex(randomblob(100)) FROM n",
                &[],
            )
            .unwrap();
    }
    let expected = client.query("SELECT a, b FROM t NOT INDEXED", &[]);
    let expected = expected.unwrap().rows;
    let mut oracle = Oracle::new(&cluster.addresses()).unwrap();
    let addresses = cluster.addresses();
    let mut refused = 0;
    for round in 0..3 {
        let leader = scene::leader_of(&mut cluster);
        let victim = if round == 1 { leader } else { leader % 3 + 1 };
        let data = cluster.data_of(victim);
        let before = repairs(&cluster, victim, oracle::DATABASE);
        oracle.write_while(&addresses, 2, Duration::from_millis(2), || {
            // What is old is in the file by then, and not in the WAL any more.
            thread::sleep(Duration::from_millis(500));
            spoil(&data, ROTTEN);
            refused += read_until_repaired(&cluster, victim, &expected);
            if victim != leader {
                // Its pages change all the time.
                spoil(&data, oracle::DATABASE);
                let mut own = Client::connect_to(&addresses[victim - 1]).unwrap();
                let deadline = Instant::now() + TIMEOUT;
                while repairs(&cluster, victim, oracle::DATABASE) == before {
                    drop(own.digest(oracle::DATABASE, 0));
                    assert!(Instant::now() < deadline, "node {victim} is not repaired");
                }
            }
        });
        assert_eq!(
            scene::leader_of(&mut cluster),
            leader,
            "nobody else had to lead"
        );
        scene::assert_identical(&mut cluster, ROTTEN);
        scene::assert_identical(&mut cluster, oracle::DATABASE);
    }
    println!(
        "{refused} answers were refused; {} rows beside",
        oracle.acknowledged()
    );
    assert!(refused > 0, "nobody has met the damage");
    let mut client = scene::open(&mut cluster, oracle::DATABASE);
    oracle.check(&oracle::rows_of(&mut client).unwrap());
    assert_eq!(oracle.unknown(), 0, "a write has failed");
}

const DISK_BYTES: usize = 128 << 20;
const MARKER: &[u8] = b"this row is on the page that cannot be read";

/// A page that the disk cannot read is damaged too, and once it is written anew the disk can.
#[test]
fn a_page_that_cannot_be_read_is_written_anew() {
    if let Some(why) = disk::missing() {
        println!("NOT CHECKED, every page can be read: {why}");
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut nodes = Nodes::start(PROGRAM, directory.path(), &[]);
    let disk = Disk::new(DISK_BYTES);
    disk.format();
    let mounted = disk.mount().unwrap();
    let member = nodes.add(str::to_owned);
    nodes.nodes[member].data = mounted.path().join("data");
    nodes.join_as(member);
    nodes.wait_for_roles([1, 1, 0]);
    let mut client = nodes.leader();
    client.open(ROTTEN).unwrap();
    client.execute("CREATE TABLE t (a)", &[]).unwrap();
    for row in 0..200 {
        let row = match row {
            100 => Value::Text(String::from_utf8(MARKER.to_vec()).unwrap()),
            row => Value::Text(row.to_string().repeat(100)),
        };
        client.execute("INSERT INTO t VALUES (?)", &[row]).unwrap();
    }
    nodes.assert_identical(ROTTEN);
    assert_eq!(
        nodes.stop(member),
        Some(0),
        "and everything is in its files"
    );
    drop(mounted);
    // A leaf of a table, as a block of a file has it: the log has no page at the beginning of a block.
    let bytes = disk.device.image();
    let bytes = bytes.read(0, DISK_BYTES);
    let block = bytes.chunks(PAGE_BYTES as usize).position(|block| {
        block[0] == 13 && block.windows(MARKER.len()).any(|bytes| bytes == MARKER)
    });
    let at = block.expect("the page is on the disk") * PAGE_BYTES as usize;
    disk.device.set_unreadable(at..at + PAGE_BYTES as usize);

    for is_damaged in [true, false] {
        assert_eq!(disk.device.is_unreadable(), is_damaged);
        let mounted = disk.mount().unwrap();
        nodes.restart(member);
        let address = nodes.nodes[member].address.clone();
        let mut refused = 0;
        wait_until("read", || {
            let read = Client::connect_to(&address).and_then(|mut node| node.digest(ROTTEN, 0));
            refused += usize::from(read.as_ref().is_err_and(|error| {
                // What the system says of EIO.
                error.to_string().contains("Input/output error")
            }));
            read.map_err(|error| error.to_string())
        });
        assert_eq!(refused > 0, is_damaged, "{refused} times");
        nodes.assert_identical(ROTTEN);
        nodes.kill(member);
        drop(mounted);
    }
}

//! A database file that the disk has changed: the node tells it, and gives no wrong answer.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ringlite::{Client, ClientError, Value};
use ringlite_tests::lone_node::LoneNode;
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
        let digest = sound.digest(ROTTEN, 0).unwrap_err();
        assert!(digest.to_string().contains("is damaged"), "{digest}");
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
    assert_eq!(node.stop().code, Some(0));
}

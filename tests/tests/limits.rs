//! Statements that ask for more than a node has: each is refused or stopped with a clear error,
//! the node lives and serves others, and its memory comes back.
//!
//! `LIMITS_SORT_MEGABYTES` sets the size of the sort that has to go to disk (50 unless told; a
//! statement has 5 s here).

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientError, Value};
use ringlite_tests::{process, scene};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "limits";
/// What a node may hold at most while one statement bombs it: SQLite's bound, and as much again
/// for rows on their way out and what the process has anyway.
const MEMORY_BYTES_MAX: u64 = 2 << 30;
/// By how much more a node may hold a little while after all is over.
const MEMORY_LEFT_BYTES_MAX: u64 = 256 << 20;
/// Above the time limit of a statement.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(20);
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
const SERIES: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)";

/// One test at a time: they take a machine's memory and time.
static TURN: Mutex<()> = Mutex::new(());

/// Lets the threads that watch go on until it is dropped, also by a panic.
struct Watching<'a>(&'a AtomicBool);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

struct One {
    _turn: MutexGuard<'static, ()>,
    cluster: LocalCluster,
    directory: TempDir,
}

impl One {
    fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let launch = Launch::program(PROGRAM)
            .with_arguments(scene::SMALL_SEGMENTS)
            .with_arguments(["--statement-time", "5000"]);
        Self {
            _turn: turn,
            cluster: scene::launch_nodes(directory.path(), 1, launch),
            directory,
        }
    }

    fn client(&mut self) -> Client {
        scene::open(&mut self.cluster, DATABASE)
    }

    fn memory(&self) -> u64 {
        process::anonymous_bytes(self.cluster.process_of(1).unwrap())
    }
}

/// Runs `act`, and tells what `measure` gave at most meanwhile.
fn watch<T>(measure: impl Fn() -> u64 + Sync, act: impl FnOnce() -> T) -> (T, u64) {
    let most = AtomicU64::new(0);
    let goes_on = AtomicBool::new(true);
    let result = thread::scope(|scope| {
        let _watching = Watching(&goes_on);
        scope.spawn(|| {
            while goes_on.load(Ordering::Relaxed) {
                most.fetch_max(measure(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        act()
    });
    (result, most.into_inner())
}

fn repeat(item: &str, by: &str, count: usize) -> String {
    let mut text = String::with_capacity((item.len() + by.len()) * count);
    for number in 0..count {
        if number > 0 {
            text.push_str(by);
        }
        text.push_str(item);
    }
    text
}

/// The statements, and what the node has to say of each.
fn bombs() -> Vec<(&'static str, String, &'static str)> {
    let deep = 100_000;
    let wide = 40_000;
    vec![
        (
            "a 1 GB string",
            "SELECT hex(zeroblob(500000000))".into(),
            "too big",
        ),
        (
            "a string that doubles",
            "WITH RECURSIVE d(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM d) \
             SELECT max(length(s)) FROM d"
                .into(),
            "too big",
        ),
        ("randomblob", "SELECT randomblob(2e9)".into(), "too big"),
        ("zeroblob", "SELECT zeroblob(2e9)".into(), "too big"),
        (
            "printf",
            "SELECT printf('%.*c', 2e9, 'x')".into(),
            "too big",
        ),
        (
            "replace",
            "SELECT replace(printf('%.*c', 1000000, 'x'), 'x', printf('%.*c', 1000000, 'y'))"
                .into(),
            "too big",
        ),
        (
            "group_concat",
            format!("{SERIES} SELECT group_concat(hex(zeroblob(1000000))) FROM n"),
            "too big",
        ),
        (
            "json_group_array",
            format!("{SERIES} SELECT json_group_array(hex(zeroblob(1000000))) FROM n"),
            "too big",
        ),
        (
            "a row of many large values",
            format!("SELECT {}", repeat("hex(zeroblob(30000000))", ",", 200)),
            "out of memory",
        ),
        (
            "a row of many large blobs of zeros",
            format!("SELECT {}", repeat("zeroblob(60000000)", ",", 200)),
            "out of memory",
        ),
        (
            "large rows that pile up in memory",
            format!(
                "{ENDLESS} SELECT json_array_length(json_group_array(i)), count(*) FROM \
                 (SELECT i, sum(i) OVER (ORDER BY i ROWS BETWEEN 1 PRECEDING AND UNBOUNDED \
                 FOLLOWING) FROM n)"
            ),
            "the statement ran for",
        ),
        (
            "an endless sort",
            format!("{ENDLESS} SELECT i, randomblob(1000) FROM n ORDER BY 2"),
            "the statement ran for",
        ),
        (
            "an endless temporary table",
            format!("{ENDLESS} SELECT count(*) FROM (SELECT DISTINCT randomblob(1000) FROM n)"),
            "the statement ran for",
        ),
        (
            "a cartesian join",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
             SELECT count(*) FROM n a, n b, n c WHERE a.i + b.i + c.i = 7.5"
                .into(),
            "the statement ran for",
        ),
        (
            "nested parentheses",
            format!("SELECT {}1{}", "(".repeat(deep), ")".repeat(deep)),
            "Recursion limit",
        ),
        (
            "nested subqueries",
            format!("SELECT {}1{}", "(SELECT ".repeat(deep), ")".repeat(deep)),
            "Recursion limit",
        ),
        (
            "a long expression",
            format!("SELECT {}", repeat("1", "+", deep)),
            "Expression tree is too large",
        ),
        (
            "JSON that is too deep",
            format!("SELECT json(printf('%.*c', {deep}, '['))"),
            "malformed JSON",
        ),
        (
            "columns of a table",
            format!("CREATE TABLE wide (a{})", {
                let columns: Vec<String> = (0..wide).map(|n| format!(", c{n}")).collect();
                columns.concat()
            }),
            "too many columns",
        ),
        (
            "columns of a result",
            format!("SELECT {}", repeat("1", ",", wide)),
            "too many columns",
        ),
        (
            "a million parameters",
            format!("SELECT 1 IN ({})", repeat("?", ",", 1_000_000)),
            "too many SQL variables",
        ),
        (
            "terms of a compound",
            repeat("SELECT 1", " UNION ALL ", deep),
            "too many terms in compound SELECT",
        ),
        (
            "a join of many tables",
            format!("SELECT 1 FROM {}", repeat("sqlite_schema", ",", 100)),
            "at most 64 tables in a join",
        ),
        (
            "a text of 100 MB",
            format!("SELECT '{}'", "x".repeat(100_000_000)),
            "statement too long",
        ),
        (
            "a pattern",
            "SELECT 'a' LIKE printf('%.*c', 1000000, '%')".into(),
            "LIKE or GLOB pattern too complex",
        ),
        (
            "arguments of a function",
            format!("SELECT max({})", repeat("1", ",", wide)),
            "too many arguments on function max",
        ),
    ]
}

#[test]
fn a_statement_cannot_take_the_memory_or_the_node() {
    let mut one = One::start();
    let mut client = one.client();
    client.execute("CREATE TABLE t (a)", &[]).unwrap();
    client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    let before = one.memory();
    for (what, sql, words) in bombs() {
        let began = Instant::now();
        let (result, most) = watch(
            || one.memory(),
            || client.query_each(&sql, &[], |_| std::ops::ControlFlow::Continue(())),
        );
        let took = began.elapsed();
        println!(
            "{what}: {took:.1?}, at most {} MiB: {}",
            most >> 20,
            result
                .as_ref()
                .err()
                .map_or(String::new(), ToString::to_string)
        );
        match result {
            Err(ClientError::Failure { message, .. }) => {
                assert!(message.contains(words), "{what}: {message}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert!(most < MEMORY_BYTES_MAX, "{what}: {most} bytes");
        assert!(took < STATEMENT_TIME_MAX, "{what}: {took:?}");
        assert_eq!(scene::integer(&mut client, "SELECT sum(a) FROM t"), 1);
    }
    assert_returns(&one, &mut client, before);
    client.execute("INSERT INTO t VALUES (2)", &[]).unwrap();
    assert_eq!(scene::integer(&mut client, "SELECT sum(a) FROM t"), 3);
}

/// Memory is given back within seconds, while the node goes on serving.
fn assert_returns(one: &One, client: &mut Client, before: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        scene::integer(client, "SELECT count(*) FROM t");
        let now = one.memory();
        if now < before + MEMORY_LEFT_BYTES_MAX {
            println!("{} MiB before, {} MiB after", before >> 20, now >> 20);
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{} MiB before, {} MiB after",
            before >> 20,
            now >> 20
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn parameters_triggers_and_lists_are_bounded() {
    let mut one = One::start();
    let mut client = one.client();
    client
        .execute(
            "CREATE TABLE t (a); CREATE TRIGGER again AFTER INSERT ON t BEGIN \
             INSERT INTO t VALUES (new.a + 1); END",
            &[],
        )
        .unwrap();
    let before = one.memory();
    let large = Value::Text("x".repeat(100_000_000));
    let error = client.query("SELECT length(?)", &[large]).unwrap_err();
    assert!(error.to_string().contains("too big"), "{error}");
    let many = vec![Value::Null; 100_000];
    assert!(client.query("SELECT 1", &many).is_err());
    assert!(client.is_connected());

    // SQLite does not fire a trigger from itself unless it is told to.
    client.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 2);
    client
        .execute("PRAGMA recursive_triggers = ON", &[])
        .unwrap();
    let error = client.execute("INSERT INTO t VALUES (1)", &[]).unwrap_err();
    assert!(
        error.to_string().contains("triggers nested too deep"),
        "{error}"
    );
    assert_eq!(scene::integer(&mut client, "SELECT count(*) FROM t"), 2);

    // Large, but a statement like any other; and it is not kept compiled.
    for round in 0..34 {
        let numbers: Vec<String> = (0..300_000).map(|n| (n + round).to_string()).collect();
        let sql = format!("SELECT 299999 IN ({})", numbers.join(","));
        assert_eq!(scene::integer(&mut client, &sql), 1);
    }
    assert_returns(&one, &mut client, before);
}

/// The bytes that a node has in files without names below its data directory.
fn spilled_bytes(one: &One) -> u64 {
    let process = one.cluster.process_of(1).unwrap();
    let own = one.directory.path().canonicalize().unwrap();
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return 0;
    };
    files
        .filter_map(|file| {
            let path = file.ok()?.path();
            let target = fs::read_link(&path).ok()?;
            let is_ours = target.starts_with(&own) && target.to_str()?.ends_with(" (deleted)");
            let length = fs::metadata(&path).ok()?.len();
            is_ours.then_some(length)
        })
        .sum()
}

#[test]
fn a_large_sort_goes_to_disk() {
    let megabytes = process::size("LIMITS_SORT_MEGABYTES", 50) as u64;
    let mut one = One::start();
    let mut client = one.client();
    let sort = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         SELECT count(*) FROM (SELECT randomblob(100000) AS b FROM n ORDER BY b LIMIT -1 OFFSET 1)",
        megabytes * 10
    );
    let before = one.memory();
    let ((count, most), spilled) = watch(
        || spilled_bytes(&one),
        || watch(|| one.memory(), || scene::integer(&mut client, &sort)),
    );
    assert_eq!(count, megabytes as i64 * 10 - 1);
    println!(
        "{} MiB of memory more, {} MiB on disk",
        (most - before) >> 20,
        spilled >> 20
    );
    assert!(spilled > megabytes * 900_000, "{spilled} bytes on disk");
    assert!(
        most - before < 64 << 20,
        "{} bytes of memory",
        most - before
    );
    assert_eq!(
        spilled_bytes(&one),
        0,
        "the file is gone with the statement"
    );
}

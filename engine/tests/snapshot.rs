//! A snapshot that takes the place of databases while somebody reads them in this process.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ringlite::{Database, Error, Node, ReadLevel};

const TIMEOUT: Duration = Duration::from_secs(60);
const BEHIND: u64 = 3;
const ROWS: i64 = 1_500;

fn start(directory: &Path, id: u64, members: &[(u64, String)]) -> Node {
    let address = &members[id as usize - 1].1;
    Node::builder(directory.join(id.to_string()))
        .id(id)
        .listen(address)
        .cluster(members.to_vec())
        .segment_bytes(4 << 20)
        .wal_bytes(256 << 10)
        .log_window_bytes(1 << 20)
        .snapshot_rate(4 << 20)
        .start()
        .unwrap()
}

fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start_process(directory: &Path, id: u64, members: &[(u64, String)]) -> Child {
    let members = members.iter().map(|(id, at)| format!("{id}={at}"));
    Command::new(env!("CARGO_BIN_EXE_ringlite"))
        .args(["serve", "--stop-with-parent", "--segment-mib", "4"])
        .args(["--id", &id.to_string(), "--cluster"])
        .arg(members.collect::<Vec<_>>().join(","))
        .arg("--data")
        .arg(directory.join(id.to_string()))
        .spawn()
        .unwrap()
}

/// The leader, which has to be one of these.
fn leader(nodes: &[Node]) -> &Node {
    let leads = |node: &&Node| {
        let status = node.status();
        status.is_some_and(|status| status.leader.is_some_and(|at| at.id == status.id))
    };
    await_some("no leader", || nodes.iter().find(leads))
}

fn add_rows(database: &Database) {
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) \
                  INSERT INTO t SELECT randomblob(4000) FROM n";
    for _ in 0..ROWS / 50 {
        database.execute(insert, ()).unwrap();
    }
}

/// Behind which entry the log of a node begins, by its manifest (docs/FORMAT.md).
fn log_base(data: &Path) -> u64 {
    let manifest = std::fs::read(data.join("shard-0/manifest.a")).unwrap();
    u64::from_le_bytes(manifest[48..56].try_into().unwrap())
}

fn count(database: &Database) -> Result<i64, Error> {
    let rows = database.query_with(ReadLevel::LOCAL, "SELECT count(x) FROM t", ())?;
    Ok(rows.first().unwrap().get(0).unwrap())
}

#[test]
fn a_handle_from_before_reads_what_the_snapshot_has_brought() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = directory.path();
    // Below the ports of outgoing connections: those of the others, which redial a node that is
    // down, could take its port.
    let first = 10_000 + std::process::id() % 20_000;
    let addresses = (first..).map(|port| format!("127.0.0.1:{port}"));
    let free = addresses.filter(|address| TcpListener::bind(address).is_ok());
    let members: Vec<_> = (1..=3).zip(free).collect();
    let mut nodes: Vec<_> = (1..=2).map(|id| start(root, id, &members)).collect();
    // The member that will be behind has its first life in another process, so that it can be ended
    // at once.
    let mut process = start_process(root, BEHIND, &members);
    let elected = await_some("no leader", || {
        nodes[0].status().and_then(|status| status.leader)
    });
    if elected.id.0 == BEHIND {
        process.kill().unwrap();
        process.wait().unwrap();
        leader(&nodes);
        process = start_process(root, BEHIND, &members);
    }
    let database = leader(&nodes).database("app").unwrap();
    database.execute("CREATE TABLE t (x)", ()).unwrap();
    add_rows(&database);
    // One that dies behind the others gets the log held for it, from where it was, for as long as a
    // snapshot to it is tried.
    let missed_from = await_some("it is left behind", || {
        let status = leader(&nodes).status()?;
        let mut members = status.members.iter();
        let held = members.find(|member| member.member.id.0 == BEHIND)?.matched;
        (held == Some(status.last)).then_some(status.last.0)
    });
    let copy = root.join(BEHIND.to_string()).join("shard-0/databases/app");
    await_some("it has no such database", || copy.exists().then_some(()));
    process.kill().unwrap();
    process.wait().unwrap();

    let database = leader(&nodes).database("app").unwrap();
    add_rows(&database);
    add_rows(&database);
    for id in 1..=2 {
        let data = root.join(id.to_string());
        await_some("the log is not cut", || {
            (log_base(&data) > missed_from).then_some(())
        });
    }

    let before = std::fs::metadata(&copy).unwrap().ino();
    nodes.push(start(root, BEHIND, &members));
    let node = &nodes[2];
    let handle = await_some("the database is not there", || node.database("app").ok());
    let had = count(&handle).unwrap();
    assert!(had <= ROWS, "what it had when it was killed");
    await_some("it does not catch up", || match count(&handle) {
        Ok(rows) if rows == 3 * ROWS => Some(()),
        Ok(rows) => {
            assert!(rows >= had, "{rows} rows after {had}");
            None
        }
        // Between the switch and the target, and for the moment of the switch.
        Err(Error::Busy { .. } | Error::Sqlite { .. }) => None,
        Err(error) => panic!("{error}"),
    });
    assert_ne!(std::fs::metadata(&copy).unwrap().ino(), before);
}

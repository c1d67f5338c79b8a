//! A node with several shards, embedded in a process.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringlite::local_cluster::free_addresses;
use ringlite::{Error, Node, NodeError, ReadLevel, params, shard_of};

/// Each test has the processor for itself, as one of them looks at who uses it.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn start(data: &Path, shards: Option<u32>) -> Result<Node, NodeError> {
    let builder = Node::builder(data).segment_bytes(4 << 20);
    match shards {
        Some(shards) => builder.shards(shards),
        None => builder,
    }
    .start()
}

/// How much processor time the executors of the first shards, and of the second ones, of all nodes of this
/// process have taken, in clock ticks.
fn ticks() -> [u64; 2] {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let stats: Vec<_> = stats.collect();
    let of = |is_shard: fn(&str) -> bool| {
        let name = |stat: &&String| {
            stat.split_once("(ringlite-")
                .is_some_and(|(_, rest)| is_shard(rest))
        };
        ticks_in(stats.iter().filter(name))
    };
    [
        of(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit())),
        of(|rest| rest.starts_with("s1-")),
    ]
}

fn ticks_in<'a>(stats: impl Iterator<Item = &'a String>) -> u64 {
    stats
        .map(|stat| {
            let fields: Vec<_> = stat
                .rsplit(')')
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            let number = |at: usize| fields[at].parse::<u64>().unwrap();
            number(11) + number(12)
        })
        .sum()
}

#[test]
fn databases_of_both_shards_are_written_and_survive_a_restart() {
    let _alone = alone();
    let data = directory();
    let names = ["a.one", "b", "main", "shop.orders", "a.two"];
    let shards: BTreeSet<_> = names.iter().map(|name| shard_of(name, 2)).collect();
    assert_eq!(shards.len(), 2, "the names are of both");
    {
        let node = start(data.path(), Some(2)).unwrap();
        for name in names {
            let database = node.database(name).unwrap();
            database.execute("CREATE TABLE t (n)", ()).unwrap();
            for n in 0..50 {
                database
                    .execute("INSERT INTO t VALUES (?)", params![n])
                    .unwrap();
            }
        }
        let statuses = node.shard_statuses().unwrap();
        assert_eq!(statuses.len(), 2);
        for (shard, status) in (0..).zip(&statuses) {
            let own = names.iter().filter(|name| shard_of(name, 2) == shard);
            let mut own: Vec<_> = own.map(|name| (*name).to_owned()).collect();
            own.sort();
            assert_eq!(status.databases, own, "of shard {shard}");
            for name in own {
                let file = format!("shard-{shard}/databases/{name}");
                assert!(data.path().join(&file).exists(), "{file}");
            }
        }
    }
    // The number is the directory's.
    let node = start(data.path(), None).unwrap();
    let mut found: Vec<_> = node
        .databases()
        .unwrap()
        .into_iter()
        .map(|one| one.name)
        .collect();
    let mut wanted = names.map(str::to_owned).to_vec();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    for name in names {
        let database = node.database(name).unwrap();
        for level in [ReadLevel::Linearizable, ReadLevel::Leader, ReadLevel::LOCAL] {
            let rows = database
                .query_with(level, "SELECT count(*) FROM t", ())
                .unwrap();
            assert_eq!(
                rows.first().unwrap().get::<i64>(0).unwrap(),
                50,
                "{name} at {level:?}"
            );
        }
        let copy = data.path().join("copy");
        assert!(database.backup(&copy).unwrap().page_count > 1);
        node.drop_database(name).unwrap();
    }
    assert!(node.databases().unwrap().is_empty());
    node.stop().unwrap();
}

#[test]
fn a_directory_keeps_its_number_of_shards() {
    let _alone = alone();
    let data = directory();
    drop(start(data.path(), Some(2)).unwrap());
    let refusal = start(data.path(), Some(3)).err().unwrap().to_string();
    assert!(
        refusal.contains("made for 2 shard(s)") && refusal.contains("--shards 3"),
        "{refusal}"
    );
    let refusal = start(data.path(), Some(1)).err().unwrap().to_string();
    assert!(refusal.contains("made for 2 shard(s)"), "{refusal}");
    drop(start(data.path(), Some(2)).unwrap());
    assert!(start(directory().path(), Some(0)).is_err());
}

#[test]
fn a_transaction_spans_the_databases_of_one_shard_alone() {
    let _alone = alone();
    let data = directory();
    let node = start(data.path(), Some(2)).unwrap();
    let other = ["a", "b", "c"]
        .into_iter()
        .find(|name| shard_of(name, 2) != shard_of("main", 2));
    let other = other.unwrap();
    for name in ["main", "main.more", other] {
        node.database(name)
            .unwrap()
            .execute("CREATE TABLE t (n)", ())
            .unwrap();
    }
    let main = node.database("main").unwrap();
    let both = main.transaction_over(&["main.more"]).unwrap();
    both.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    both.execute("INSERT INTO \"main.more\".t VALUES (1)", ())
        .unwrap();
    both.commit().unwrap();
    let refusal = main.transaction_over(&[other]).err().unwrap().to_string();
    assert!(refusal.contains("another shard"), "{refusal}");
    let refusal = main
        .execute(&format!("ATTACH '{other}' AS o"), ())
        .unwrap_err();
    assert!(
        matches!(refusal, Error::Sqlite { .. } | Error::Misuse { .. }),
        "{refusal:?}"
    );
    assert!(refusal.to_string().contains("another shard"), "{refusal}");
}

#[test]
fn each_shard_is_served_by_a_thread_of_its_own() {
    let _alone = alone();
    let data = directory();
    let node = start(data.path(), Some(2)).unwrap();
    let mut found = BTreeSet::new();
    for name in ["a", "main"] {
        let database = node.database(name).unwrap();
        database.execute("CREATE TABLE t (n)", ()).unwrap();
        let before = ticks();
        // Each a turn, and far more of the processor than the idle one's ticks.
        for n in 0..1_500 {
            database
                .execute("INSERT INTO t VALUES (?)", params![n])
                .unwrap();
        }
        let after = ticks();
        let [first, second] = [after[0] - before[0], after[1] - before[1]];
        let busier = u32::from(second > first);
        assert_eq!(
            busier,
            shard_of(name, 2),
            "{name}: {first} and {second} ticks"
        );
        found.insert(busier);
    }
    assert_eq!(found.len(), 2);
}

/// The cores that each thread of this process may use whose name begins with `name`.
fn cores_of(name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let cores = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let comm = std::fs::read_to_string(task.join("comm")).ok()?;
        let status = std::fs::read_to_string(task.join("status")).ok()?;
        let mut lines = status.lines();
        let cores = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        comm.starts_with(name).then(|| cores.trim().to_owned())
    });
    cores.collect()
}

#[test]
fn long_statements_keep_off_the_core_of_the_shard() {
    let _alone = alone();
    let all = std::thread::available_parallelism().unwrap().get();
    if all < 2 {
        return;
    }
    let data = directory();
    let builder = Node::builder(data.path()).segment_bytes(4 << 20);
    let node = builder.cores([0]).start().unwrap();
    let rest = match all {
        2 => "1".to_owned(),
        all => format!("1-{}", all - 1),
    };
    // They settle when they begin.
    let deadline = Instant::now() + Duration::from_secs(10);
    while cores_of("ringlite-sql-") != vec![rest.clone(); all - 1] {
        let found = cores_of("ringlite-sql-");
        assert!(Instant::now() < deadline, "{found:?} and not {rest}");
        std::thread::sleep(Duration::from_millis(1));
    }
    node.stop().unwrap();
}

#[test]
fn connections_end_with_the_node() {
    let _alone = alone();
    let data = directory();
    let address = free_addresses(1).unwrap().remove(0);
    let builder = Node::builder(data.path()).segment_bytes(4 << 20);
    let node = builder.shards(2).listen(&address).start().unwrap();
    let mut client = TcpStream::connect(&address).unwrap();
    client.write_all(&1_u64.to_le_bytes()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // It has been accepted, and is waited for.
    std::thread::sleep(Duration::from_millis(50));
    node.stop().unwrap();
    let ended = client.read(&mut [0]);
    let is_end = matches!(&ended, Ok(0))
        || matches!(&ended, Err(error) if error.kind() == ErrorKind::ConnectionReset);
    assert!(is_end, "{ended:?}");
    // The kernel lets go of the listener with the executor's ring, which it takes down by itself.
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < deadline, "it listens still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_node_ends_with_the_first_of_its_shards_that_cannot_go_on() {
    let _alone = alone();
    let data = directory();
    let node = start(data.path(), Some(2)).unwrap();
    for name in ["a", "main"] {
        node.database(name)
            .unwrap()
            .execute("CREATE TABLE t (n)", ())
            .unwrap();
    }
    node.stop().unwrap();
    assert_eq!(shard_of("a", 2), 1);
    let file = data.path().join("shard-1/databases/a");
    let aside = data.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    let ended = match start(data.path(), None) {
        Ok(node) => node.wait().unwrap_err(),
        Err(error) => error,
    };
    assert!(ended.to_string().contains("put the file back"), "{ended}");
    std::fs::rename(&aside, &file).unwrap();
    let node = start(data.path(), None).unwrap();
    let rows = node.database("a").unwrap().query("SELECT * FROM t", ());
    assert_eq!(rows.unwrap().len(), 0);
}

#[test]
fn calls_go_to_the_leader_of_each_shard_from_every_node() {
    let _alone = alone();
    let data = directory();
    let members: Vec<_> = (1..).zip(free_addresses(3).unwrap()).collect();
    let nodes: Vec<_> = members
        .iter()
        .map(|(id, _)| {
            Node::builder(data.path().join(id.to_string()))
                .id(*id)
                .cluster(members.clone())
                .listen(members[*id as usize - 1].1.clone())
                .segment_bytes(4 << 20)
                .shards(2)
                .spread(true)
                .start()
                .unwrap()
        })
        .collect();
    let databases = ["main", "a"];
    let handles: Vec<_> = nodes
        .iter()
        .map(|node| databases.map(|name| node.database(name).unwrap()))
        .collect();
    let leaders = |node: &Node| -> Vec<_> {
        let statuses = node.shard_statuses().unwrap().into_iter();
        statuses.map(|status| Some(status.leader?.id)).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !nodes.iter().all(|node| {
        let leaders = leaders(node);
        leaders[0].is_some() && leaders[1].is_some() && leaders[0] != leaders[1]
    }) {
        assert!(Instant::now() < deadline, "{:?}", leaders(&nodes[0]));
        std::thread::sleep(Duration::from_millis(5));
    }
    for database in &handles[0] {
        database.execute("CREATE TABLE t (n)", ()).unwrap();
    }
    for (n, handles) in handles.iter().enumerate() {
        for database in handles {
            database
                .execute("INSERT INTO t VALUES (?)", params![n as i64])
                .unwrap();
            let transaction = database.transaction().unwrap();
            transaction.execute("INSERT INTO t VALUES (9)", ()).unwrap();
            transaction.commit().unwrap();
            let rows = database.query("SELECT n FROM t", ()).unwrap();
            assert_eq!(rows.len(), 2 * n + 2);
        }
    }
    drop(handles);
    nodes[2].create_database("b.wide", 65_536).unwrap();
    nodes[1].drop_database("main").unwrap();
    nodes[0].drop_database("a").unwrap();
}

//! A node that is cut off from the others, with clients that can still reach it: three nodes in
//! network namespaces of their own.
//!
//! What a leader tells must be true when it is told. So once it is cut off it answers with nothing
//! but errors: no row, no constraint error, no count, whatever its own memory says.
//!
//! It needs root. Without it the tests fail, unless `RINGLITE_NO_NETNS=1` allows to leave them out.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::{Launch, LocalCluster};
use ringlite::{Client, ClientError, ClientOptions, Value};
use ringlite_tests::netns::Network;
use ringlite_tests::{process, scene};
use rustix::process::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "isolated";
const LOCKED: &str = "locked";
/// An answer that was on its way when the cable was pulled may arrive this much later.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// As long as a lease is, with the default election timeout.
const LEASE: Duration = Duration::from_millis(190);
/// After this long without a majority a leader has given up.
const GIVEN_UP: Duration = Duration::from_secs(3);
const LED_AGAIN_TIME_MAX: Duration = Duration::from_secs(20);

/// The network; None if it cannot be made and that is allowed.
fn network() -> Option<Network> {
    match Network::new(3) {
        Ok(network) => Some(network),
        Err(error) if std::env::var("RINGLITE_NO_NETNS").is_ok_and(|value| value == "1") => {
            println!("NOT RUN: there are no network namespaces ({error})");
            None
        }
        Err(error) => panic!(
            "no network namespaces: {error}; run as root, or leave these tests out with \
             RINGLITE_NO_NETNS=1"
        ),
    }
}

/// Three nodes on hosts 1 to 3.
fn start(network: &Network, directory: &std::path::Path) -> LocalCluster {
    start_with(network, directory, &[])
}

fn start_with(
    network: &Network,
    directory: &std::path::Path,
    arguments: &[&'static str],
) -> LocalCluster {
    let mut launch = Launch::program(PROGRAM)
        .with_arguments(scene::SMALL_SEGMENTS)
        .with_arguments(arguments.iter().copied());
    launch.addresses = (1..=3).map(|host| network.address(host)).collect();
    launch.wrappers = (1..=3).map(|host| network.wrapper(host)).collect();
    scene::launch_nodes(directory, 3, launch)
}

/// A client of one node, on that node's own host.
fn client_at(network: &Network, host: usize, database: &str) -> Result<Client, ClientError> {
    let address = network.address(host);
    network.on(host, || {
        let mut client = Client::connect_to_with(
            &address,
            ClientOptions {
                request_timeout: Duration::from_secs(10),
                ..ClientOptions::default()
            },
        )?;
        client.open(database)?;
        Ok(client)
    })
}

/// What a client of the isolated node was told.
#[derive(Debug)]
struct Told {
    what: &'static str,
    asked: Instant,
    heard: Instant,
    answer: Result<String, ClientError>,
}

/// What one client asks again and again. It is run in a transaction if it begins with BEGIN.
const QUESTIONS: [(&str, &[&str]); 10] = [
    ("a row", &["SELECT value FROM state"]),
    ("a count", &["SELECT count(*) FROM state"]),
    ("no row", &["SELECT value FROM state WHERE id = 77"]),
    ("a constant", &["SELECT 1"]),
    (
        "a constraint error",
        &["INSERT INTO state VALUES (1, 'twice')"],
    ),
    (
        "a write of nothing",
        &["UPDATE state SET value = 'x' WHERE id = 77"],
    ),
    ("a pragma", &["PRAGMA user_version"]),
    ("a plan", &["EXPLAIN QUERY PLAN SELECT value FROM state"]),
    (
        "a read in a transaction",
        &["BEGIN DEFERRED", "SELECT value FROM state", "COMMIT"],
    ),
    (
        "a write in a transaction",
        &["BEGIN", "INSERT INTO noise (a) VALUES (1)", "COMMIT"],
    ),
];

/// Asks until `stop`; one entry for each statement.
fn ask(
    network: &Network,
    host: usize,
    (what, statements): (&'static str, &[&str]),
    stop: &AtomicBool,
) -> Vec<Told> {
    let mut told = Vec::new();
    let mut client = client_at(network, host, DATABASE).expect("the leader opens the database");
    while !stop.load(Ordering::Relaxed) {
        // A transaction's snapshot is confirmed once, with its first statement; until the leader
        // steps down, the later ones may tell of it.
        let begun = Instant::now();
        for sql in statements {
            let is_last = sql == statements.last().unwrap();
            let asked = if is_last { Instant::now() } else { begun };
            let answer = client
                .query(sql, &[])
                .map(|batch| format!("{:?}", batch.rows));
            let failed = answer.is_err();
            told.push(Told {
                what,
                asked,
                heard: Instant::now(),
                answer,
            });
            if failed {
                break;
            }
        }
        thread::sleep(Duration::from_millis(3));
    }
    told
}

/// Whether an error says that the node does not lead, or that an outcome is unknown.
fn tells_nothing(error: &ClientError) -> bool {
    error.is_not_leader() || error.is_outcome_unknown()
}

/// Checks what was told: before the cut everything works, after it nothing is told any more.
fn judge(told: &[Told], cut: Instant, healed: Instant) {
    for (what, _) in QUESTIONS {
        let of_kind = || told.iter().filter(|one| one.what == what);
        let before = of_kind().filter(|one| one.heard < cut).count();
        assert!(before > 10, "{what}: only {before} answers before the cut");
        let after = of_kind()
            .filter(|one| one.asked > cut && one.heard < healed)
            .count();
        assert!(after > 10, "{what}: only {after} answers after the cut");
    }
    let across = told
        .iter()
        .filter(|one| one.asked < cut && one.heard > cut)
        .count();
    println!(
        "{} answers, {across} to requests that were under way at the cut",
        told.len()
    );
    for one in told {
        let after_cut = one.asked > cut && one.asked < healed;
        let too_late = one.asked < cut && one.heard > cut + ON_ITS_WAY;
        if !(after_cut || too_late) || one.heard > healed {
            continue;
        }
        match &one.answer {
            Err(error) if tells_nothing(error) => {}
            other => panic!(
                "{}: asked {:?} after the cut, heard {:?} after it: {other:?}",
                one.what,
                one.asked.saturating_duration_since(cut),
                one.heard.saturating_duration_since(cut),
            ),
        }
    }
}

/// The rows of `acks`, as (writer, number).
fn acks(client: &mut Client) -> BTreeSet<(i64, i64)> {
    let rows = client
        .query("SELECT writer, number FROM acks", &[])
        .unwrap()
        .rows;
    rows.into_iter()
        .map(|row| match row[..] {
            [Value::Integer(writer), Value::Integer(number)] => (writer, number),
            _ => panic!("another shape: {row:?}"),
        })
        .collect()
}

/// Writes numbered rows at a node until `stop`; returns those that were acknowledged, with when.
fn write(
    network: &Network,
    host: usize,
    writer: i64,
    stop: &AtomicBool,
) -> (BTreeSet<(i64, i64)>, Option<Instant>) {
    let mut client = client_at(network, host, DATABASE).expect("the leader opens the database");
    let mut acknowledged = BTreeSet::new();
    let mut last = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let row = [writer, number].map(Value::Integer);
        match client.execute("INSERT INTO acks VALUES (?, ?)", &row) {
            Ok(_) => {
                acknowledged.insert((writer, number));
                last = Some(Instant::now());
            }
            Err(error) => assert!(tells_nothing(&error), "{error}"),
        }
        thread::sleep(Duration::from_millis(2));
    }
    (acknowledged, last)
}

fn prepare(cluster: &mut LocalCluster) {
    let mut client = scene::open(cluster, DATABASE);
    client
        .execute(
            "CREATE TABLE state (id INTEGER PRIMARY KEY, value TEXT); \
             CREATE TABLE noise (a); \
             CREATE TABLE far (a INTEGER PRIMARY KEY, b BLOB); \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) \
             INSERT INTO far SELECT i, zeroblob(3000) FROM n; \
             CREATE TABLE acks (writer INTEGER, number INTEGER, PRIMARY KEY (writer, number)); \
             INSERT INTO state VALUES (1, 'old'); PRAGMA user_version = 7",
            &[],
        )
        .unwrap();
}

/// Sessions that were opened at the leader before it was cut off, most with a transaction.
struct OpenSessions {
    /// It has read.
    reader: Client,
    /// It has begun, and seen nothing yet.
    fresh: Client,
    /// It has written in another database, and holds the write lock there.
    writer: Client,
    /// It has no transaction, and will write when nobody can hear of it.
    doomed: Client,
}

impl OpenSessions {
    fn begin(network: &Network, host: usize) -> Self {
        let client = || client_at(network, host, DATABASE).unwrap();
        let (mut reader, mut fresh, doomed) = (client(), client(), client());
        let mut writer = client_at(network, host, LOCKED).unwrap();
        reader.execute("BEGIN DEFERRED", &[]).unwrap();
        reader.query("SELECT value FROM state", &[]).unwrap();
        fresh.execute("BEGIN DEFERRED", &[]).unwrap();
        writer.execute("BEGIN IMMEDIATE", &[]).unwrap();
        writer.execute("CREATE TABLE never (a)", &[]).unwrap();
        Self {
            reader,
            fresh,
            writer,
            doomed,
        }
    }

    /// Right after the cut: only a snapshot that was confirmed before may still be shown.
    fn judge_early(&mut self) {
        match self.reader.query("SELECT value FROM state", &[]) {
            Ok(batch) => assert_eq!(batch.rows, [[Value::Text("old".into())]]),
            Err(error) => assert!(tells_nothing(&error), "{error}"),
        }
        // It commits in the leader's memory, unless another one that waits has the write lock, and
        // it changes pages that nobody else touches, which only a roll-back sets right.
        let error = self
            .doomed
            .execute("UPDATE far SET b = 'doomed'", &[])
            .unwrap_err();
        assert!(tells_nothing(&error), "{error}");
        let error = self
            .fresh
            .query("SELECT value FROM state", &[])
            .unwrap_err();
        assert!(tells_nothing(&error), "{error}");
    }

    /// Once the node has given up: nothing at all.
    fn judge_late(&mut self) {
        for client in [&mut self.reader, &mut self.fresh, &mut self.writer] {
            for sql in ["SELECT * FROM sqlite_schema", "COMMIT", "SELECT 1"] {
                let error = client.query(sql, &[]).unwrap_err();
                assert!(tells_nothing(&error), "{sql}: {error}");
            }
        }
    }
}

/// What a majority does without the third node; returns its leader.
fn majority_goes_on(network: &Network, cluster: &LocalCluster, isolated: usize) -> Client {
    let others = (1..=3).filter(|host| *host != isolated);
    let addresses: Vec<_> = others.map(|host| network.address(host)).collect();
    let mut client = Client::connect(&addresses, ClientOptions::default()).unwrap();
    client.open(DATABASE).unwrap();
    client
        .execute("UPDATE state SET value = 'new'", &[])
        .unwrap();
    client
        .execute("INSERT INTO acks VALUES (1000, 0)", &[])
        .unwrap();
    assert_ne!(cluster.id_at(client.address()), Some(isolated));
    client
}

#[test]
fn an_isolated_leader_tells_nothing_and_the_majority_goes_on() {
    let Some(network) = network() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    network.on(0, || isolate_the_leader(&network, directory.path()));
}

fn isolate_the_leader(network: &Network, directory: &std::path::Path) {
    let mut cluster = start(network, directory);
    prepare(&mut cluster);
    let leader = scene::leader_of(&mut cluster);
    let (stop, told) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let (acknowledged, cut, healed) = thread::scope(|scope| {
        let (stop, told) = (&stop, &told);
        let stop_anyway = StopOnDrop(stop);
        for question in QUESTIONS {
            scope.spawn(move || {
                let answers = ask(network, leader, question, stop);
                told.lock().unwrap().extend(answers);
            });
        }
        let writers: Vec<_> = (0..3)
            .map(|writer| scope.spawn(move || write(network, leader, writer, stop)))
            .collect();
        thread::sleep(Duration::from_millis(700));
        let (cut, healed) = cut_off_and_heal(network, &cluster, leader);
        thread::sleep(Duration::from_millis(500));
        drop(stop_anyway);
        let mut acknowledged = BTreeSet::from([(1000, 0)]);
        for writer in writers {
            let (rows, last) = writer.join().unwrap();
            assert!(
                rows.len() > 20,
                "only {} rows: that was no load",
                rows.len()
            );
            assert!(
                last.is_some_and(|last| last < cut + ON_ITS_WAY || last > healed),
                "a row was acknowledged {:?} after the cut",
                last.map(|last| last - cut)
            );
            acknowledged.extend(rows);
        }
        (acknowledged, cut, healed)
    });
    judge(&told.into_inner().unwrap(), cut, healed);
    let mut client = scene::open(&mut cluster, DATABASE);
    let found = acks(&mut client);
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged rows are lost: {lost:?}");
    client = scene::open(&mut cluster, LOCKED);
    let tables = scene::integer(&mut client, "SELECT count(*) FROM sqlite_schema");
    assert_eq!(tables, 0, "a transaction that was never committed is there");
    client = scene::open(&mut cluster, DATABASE);
    let value = client.query("SELECT value FROM state", &[]).unwrap().rows;
    assert_eq!(value, [[Value::Text("new".into())]]);
    let count = "SELECT count(*) FROM far WHERE b = 'doomed'";
    assert_eq!(scene::integer(&mut client, count), 0);
    scene::assert_identical(&mut cluster, DATABASE);
    assert_eq!(cluster.dead_node(), None);
}

/// Cuts the leader off, lets the majority go on, and connects it again.
fn cut_off_and_heal(
    network: &Network,
    cluster: &LocalCluster,
    leader: usize,
) -> (Instant, Instant) {
    let mut open = OpenSessions::begin(network, leader);
    network.cut_off(leader);
    let cut = Instant::now();
    open.judge_early();
    let error =
        client_at(network, leader, DATABASE).expect_err("a new client must learn nothing either");
    assert!(tells_nothing(&error), "{error}");
    let mut majority = majority_goes_on(network, cluster, leader);
    assert!(
        cut.elapsed() < GIVEN_UP,
        "the majority took {:?}",
        cut.elapsed()
    );
    thread::sleep((cut + GIVEN_UP).saturating_duration_since(Instant::now()));
    open.judge_late();
    majority
        .execute("UPDATE state SET value = 'new'", &[])
        .unwrap();
    let healed = Instant::now();
    network.reconnect(leader);
    (cut, healed)
}

/// With a lease it may go on reading for a while; but nothing any more once another one can be elected,
/// whose writes it would not know of.
#[test]
fn an_isolated_leader_with_a_lease_reads_nothing_that_is_old() {
    let Some(network) = network() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    network.on(0, || {
        let mut cluster = start_with(&network, directory.path(), &["--lease"]);
        prepare(&mut cluster);
        let leader = scene::leader_of(&mut cluster);
        let stop = AtomicBool::new(false);
        let (told, cut, written) = thread::scope(|scope| {
            let (network, stop) = (&network, &stop);
            let stop_anyway = StopOnDrop(stop);
            let readers: Vec<_> = [0, 1, 8]
                .map(|at| scope.spawn(move || ask(network, leader, QUESTIONS[at], stop)))
                .into();
            thread::sleep(Duration::from_millis(500));
            network.cut_off(leader);
            let cut = Instant::now();
            drop(majority_goes_on(network, &cluster, leader));
            let written = Instant::now();
            thread::sleep((cut + GIVEN_UP).saturating_duration_since(Instant::now()));
            drop(stop_anyway);
            let told = readers.into_iter().flat_map(|asked| asked.join().unwrap());
            (told.collect::<Vec<_>>(), cut, written)
        });
        let since = |from: Instant| told.iter().filter(move |one| one.asked > from);
        let under_lease = since(cut).filter(|one| one.answer.is_ok()).count();
        println!("{under_lease} reads were answered after the cut");
        assert!(under_lease > 0, "the leader had no lease");
        assert!(since(written).count() > 10, "nobody has asked");
        for one in since(cut + LEASE) {
            // A transaction that has begun under the lease may go on with its snapshot.
            let may_be_old = one.what == "a read in a transaction";
            assert!(
                may_be_old || one.answer.as_ref().is_err_and(tells_nothing),
                "asked {:?} after the cut: {one:?}",
                one.asked - cut
            );
        }
        network.reconnect(leader);
        scene::assert_identical(&mut cluster, DATABASE);
    });
}

/// No message tells it of another leader when it goes on: nothing but its clock keeps it from answering.
#[test]
fn an_isolated_leader_with_a_lease_that_stood_still_reads_nothing_that_is_old() {
    let Some(network) = network() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    network.on(0, || {
        let mut cluster = start_with(&network, directory.path(), &["--lease"]);
        prepare(&mut cluster);
        let leader = scene::leader_of(&mut cluster);
        let mut clients: Vec<_> = (0..8)
            .map(|_| client_at(&network, leader, DATABASE).unwrap())
            .collect();
        assert_eq!(clients[0].status().unwrap()["lease"], true);
        let number = cluster.process_of(leader).unwrap();
        process::signal(number, Signal::STOP);
        process::wait_until_it_stands_still(number);
        network.cut_off(leader);
        thread::scope(|scope| {
            let waiting: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(|| client.query("SELECT value FROM state", &[])))
                .collect();
            drop(majority_goes_on(&network, &cluster, leader));
            process::signal(number, Signal::CONT);
            for waiting in waiting {
                let answer = waiting.join().unwrap();
                let error = answer.expect_err("an old value was read");
                assert!(tells_nothing(&error), "{error}");
            }
        });
        network.reconnect(leader);
        scene::assert_identical(&mut cluster, DATABASE);
    });
}

#[test]
fn a_follower_that_was_cut_off_comes_back_without_an_election() {
    let Some(network) = network() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    network.on(0, || {
        let mut cluster = start(&network, directory.path());
        prepare(&mut cluster);
        let leader = scene::leader_of(&mut cluster);
        let follower = leader % 3 + 1;
        let mut client = scene::open(&mut cluster, DATABASE);
        let term = client.status().unwrap()["term"].clone();
        network.cut_off(follower);
        let error = client_at(&network, follower, DATABASE).expect_err("a follower serves nobody");
        assert!(error.is_not_leader(), "{error}");
        let start = Instant::now();
        for number in 0.. {
            client
                .execute("INSERT INTO acks VALUES (0, ?)", &[Value::Integer(number)])
                .unwrap();
            if start.elapsed() > GIVEN_UP {
                break;
            }
        }
        network.reconnect(follower);
        scene::assert_identical(&mut cluster, DATABASE);
        assert_eq!(
            client.status().unwrap()["term"],
            term,
            "it has not disturbed the leader"
        );
        assert_eq!(cluster.id_at(client.address()), Some(leader));
    });
}

/// Has a node lead, by a transfer: which node an election chooses is not for a test to wait for.
fn lead_again(cluster: &mut LocalCluster, id: usize) {
    let deadline = Instant::now() + LED_AGAIN_TIME_MAX;
    while scene::leader_of(cluster) != id {
        assert!(Instant::now() < deadline, "node {id} does not lead again");
        // Refused while the node is behind.
        let mut client = scene::open(cluster, DATABASE);
        let _ = client.transfer_leadership(id as u64);
    }
}

/// Its roll-back has begun a new life of the in-memory WAL, and nobody has written since.
#[test]
fn a_leader_that_was_deposed_within_a_commit_can_lead_again() {
    let Some(network) = network() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    network.on(0, || {
        let mut cluster = start(&network, directory.path());
        prepare(&mut cluster);
        let deposed = scene::leader_of(&mut cluster);
        let mut doomed = client_at(&network, deposed, DATABASE).unwrap();
        network.cut_off(deposed);
        let error = doomed
            .execute("UPDATE far SET b = 'doomed'", &[])
            .unwrap_err();
        // It is in the log, where the next leader could have found it.
        assert!(error.is_outcome_unknown(), "{error}");
        assert_ne!(scene::leader_of(&mut cluster), deposed);
        network.reconnect(deposed);
        scene::assert_identical(&mut cluster, DATABASE);
        lead_again(&mut cluster, deposed);
        let mut client = scene::open(&mut cluster, DATABASE);
        let count = "SELECT count(*) FROM far WHERE b = 'doomed'";
        assert_eq!(scene::integer(&mut client, count), 0);
        client.execute("INSERT INTO noise VALUES (1)", &[]).unwrap();
        scene::assert_identical(&mut cluster, DATABASE);
        assert_eq!(cluster.dead_node(), None);
    });
}

/// Runs a statement on a client of its own that is cut off in the middle of it; what it was told,
/// and when.
fn long_statement(
    network: &Network,
    host: usize,
    database: &str,
    sql: &str,
) -> (Result<(), ClientError>, Instant) {
    let mut client = client_at(network, host, database).unwrap();
    let answer = client.query(sql, &[]).map(drop);
    (answer, Instant::now())
}

/// A long read, long writes that end never and after the cut, and an idle transaction, each in a
/// database of its own, so that each has to be rolled back by itself.
#[test]
fn a_leader_that_is_cut_off_in_the_middle_of_long_statements_leaves_nothing_of_them() {
    let Some(network) = network() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    network.on(0, || {
        let mut cluster = start(&network, directory.path());
        prepare(&mut cluster);
        let databases = [DATABASE, "endless", "ending", LOCKED];
        for database in databases {
            let mut client = scene::open(&mut cluster, database);
            client
                .execute("CREATE TABLE IF NOT EXISTS doomed (a)", &[])
                .unwrap();
        }
        let leader = scene::leader_of(&mut cluster);
        let count = |limit: &str| {
            format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n {limit}) ")
        };
        let read = count("") + "SELECT count(*) FROM n";
        let endless = count("") + "INSERT INTO doomed SELECT count(*) FROM n";
        // Some seconds: it commits in the memory of a node that has been cut off.
        let ending = count("LIMIT 2000000") + "INSERT INTO doomed SELECT count(*) FROM n";
        let mut idle = client_at(&network, leader, LOCKED).unwrap();
        idle.execute("BEGIN IMMEDIATE", &[]).unwrap();
        idle.execute("INSERT INTO doomed VALUES (1)", &[]).unwrap();
        thread::scope(|scope| {
            let network = &network;
            let asked: Vec<_> = [
                (DATABASE, &read),
                ("endless", &endless),
                ("ending", &ending),
            ]
            .map(|(database, sql)| {
                scope.spawn(move || long_statement(network, leader, database, sql))
            })
            .into();
            thread::sleep(Duration::from_millis(400));
            network.cut_off(leader);
            let cut = Instant::now();
            drop(majority_goes_on(network, &cluster, leader));
            for asked in asked {
                let (answer, heard) = asked.join().unwrap();
                let error = answer.expect_err("a node that was cut off tells nothing");
                assert!(tells_nothing(&error), "{error}");
                assert!(
                    heard < cut + GIVEN_UP,
                    "it was told after {:?}",
                    heard - cut
                );
            }
            let error = idle.execute("COMMIT", &[]).unwrap_err();
            assert!(tells_nothing(&error), "{error}");
            network.reconnect(leader);
        });
        for database in databases {
            scene::assert_identical(&mut cluster, database);
            let mut client = scene::open(&mut cluster, database);
            assert_eq!(
                scene::integer(&mut client, "SELECT count(*) FROM doomed"),
                0
            );
            client
                .execute("INSERT INTO doomed VALUES (1)", &[])
                .unwrap();
        }
        // It leads again, and everything works there.
        lead_again(&mut cluster, leader);
        for database in databases {
            let mut client = scene::open(&mut cluster, database);
            client
                .execute("INSERT INTO doomed VALUES (2)", &[])
                .unwrap();
            assert_eq!(
                scene::integer(&mut client, "SELECT count(*) FROM doomed"),
                2
            );
            scene::assert_identical(&mut cluster, database);
        }
        assert_eq!(cluster.dead_node(), None);
    });
}

/// Stops those who ask also when a check panics meanwhile.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

//! Nodes with several shards: every group has the same members and, unless they are spread, one leader; a
//! client finds each database, and what was acknowledged is there.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ringlite::local_cluster::free_addresses;
use ringlite::wire::{Request, Response};
use ringlite::{Client, ClientError, ClientOptions, shard_of};
use ringlite_tests::nodes::{Nodes, wait_until};
use ringlite_tests::process;
use ringlite_tests::raw::{Answer, RawConnection};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const SHARDS: u32 = 2;
/// One of each shard.
const DATABASES: [&str; 2] = ["main", "a.db"];
const TIMEOUT: Duration = Duration::from_secs(30);
/// More acknowledged rows than these are a load.
const ROWS_MIN: usize = 20;

fn directory() -> TempDir {
    for (shard, name) in (0..).zip(DATABASES) {
        assert_eq!(shard_of(name, SHARDS), shard);
    }
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A cluster of as many nodes, all of whose groups have found their roles.
fn grown(directory: &Path, count: usize, arguments: &[&str]) -> Nodes {
    let mut nodes = Nodes::start(PROGRAM, directory, arguments);
    for _ in 1..count {
        nodes.join();
    }
    nodes.wait_for_roles([count, 0, 0]);
    wait_for_members(&nodes);
    nodes
}

/// What the node at `address` says of each shard.
fn shards_at(address: &str) -> Result<Vec<Value>, String> {
    let status = Client::connect_to(address).and_then(|mut client| client.status());
    let status = status.map_err(|error| error.to_string())?;
    Ok(status["shards"].as_array().cloned().unwrap_or_default())
}

fn roles(shard: &Value) -> Vec<(u64, String)> {
    let members = shard["members"].as_array().unwrap().iter();
    let role = |member: &Value| (member["id"].as_u64().unwrap(), member["role"].to_string());
    members.map(role).collect()
}

/// Waits until all shards of all nodes have the same members in the same roles.
fn wait_for_members(nodes: &Nodes) {
    wait_until("the same members in all shards", || {
        let wanted = roles(&shards_at(nodes.leader().address())?[0]);
        for address in nodes.addresses() {
            for shard in shards_at(&address)? {
                if roles(&shard) != wanted {
                    return Err(format!("{:?} and {wanted:?}", roles(&shard)));
                }
            }
        }
        Ok(())
    });
}

/// The id of the leader of each shard, once all nodes agree on them and `accept` does.
fn wait_for_leaders(nodes: &Nodes, accept: impl Fn(&[u64]) -> bool) -> Vec<u64> {
    wait_until("leaders of all shards", || {
        let mut found = Vec::new();
        for address in nodes.addresses() {
            let shards = shards_at(&address)?;
            let leaders = shards.iter().map(|shard| shard["leader"]["id"].as_u64());
            found.push(leaders.collect::<Option<Vec<_>>>().ok_or("none")?);
        }
        let agree = found.iter().all(|leaders| *leaders == found[0]) && accept(&found[0]);
        agree
            .then(|| found[0].clone())
            .ok_or_else(|| format!("{found:?}"))
    })
}

fn connect(addresses: &[String], database: &str) -> Result<Client, ClientError> {
    let options = ClientOptions {
        find_leader_timeout: TIMEOUT,
        ..ClientOptions::default()
    };
    let mut client = Client::connect(addresses, options)?;
    client.open(database)?;
    Ok(client)
}

/// Writes one number after the other, until told to stop; those that were acknowledged.
fn write(
    addresses: &[String],
    database: &str,
    from: i64,
    stop: &AtomicBool,
    count: &AtomicUsize,
) -> Vec<i64> {
    let mut client = None;
    let mut acknowledged = Vec::new();
    for n in from.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let connected = match &mut client {
            Some(connected) => connected,
            None => match connect(addresses, database) {
                Ok(connected) => client.insert(connected),
                Err(_) => continue,
            },
        };
        match connected.execute("INSERT INTO t VALUES (?)", &[n.into()]) {
            Ok(_) => {
                acknowledged.push(n);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is_not_leader() || error.is_outcome_unknown() => client = None,
            Err(error) if error.is_connection_lost() => client = None,
            Err(error) => panic!("{database}: {error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
    acknowledged
}

fn create(nodes: &Nodes) {
    for database in DATABASES {
        let mut client = connect(&nodes.addresses(), database).unwrap();
        client
            .execute("CREATE TABLE t (n INTEGER PRIMARY KEY)", &[])
            .unwrap();
    }
}

/// Stops the writers when it goes, also if what they work beside panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes to all databases while `act` runs; what was acknowledged in each.
fn write_while(nodes: &mut Nodes, from: i64, act: impl FnOnce(&mut Nodes)) -> Vec<Vec<i64>> {
    let addresses = nodes.all_addresses();
    let stop = AtomicBool::new(false);
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        let writers = [0, 1].map(|at| {
            let (addresses, stop, count) = (&addresses, &stop, &counts[at]);
            scope.spawn(move || write(addresses, DATABASES[at], from, stop, count))
        });
        let stop = Stop(&stop);
        act(nodes);
        // However slow the machine is.
        wait_until("a load", || {
            let counts = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            let are_enough = counts.iter().all(|count| *count > ROWS_MIN);
            are_enough
                .then_some(())
                .ok_or_else(|| format!("{counts:?}"))
        });
        drop(stop);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    })
}

fn check(nodes: &Nodes, acknowledged: &[Vec<i64>]) {
    for (database, numbers) in DATABASES.iter().zip(acknowledged) {
        let mut client = connect(&nodes.addresses(), database).unwrap();
        let rows = client
            .query("SELECT n FROM t ORDER BY n", &[])
            .unwrap()
            .rows;
        let found: Vec<i64> = rows
            .iter()
            .filter_map(|row| match row[0] {
                ringlite::Value::Integer(n) => Some(n),
                _ => None,
            })
            .collect();
        let lost: Vec<_> = numbers
            .iter()
            .filter(|n| found.binary_search(n).is_err())
            .collect();
        assert!(lost.is_empty(), "{database} has lost {lost:?}");
        nodes.assert_identical(database);
    }
}

#[test]
fn a_leader_of_both_shards_is_killed_under_load() {
    let directory = directory();
    let mut nodes = grown(directory.path(), 3, &["--shards", "2"]);
    create(&nodes);
    let one_leader = |leaders: &[u64]| leaders[0] == leaders[1];
    let mut all = vec![Vec::new(), Vec::new()];
    for round in 0..3 {
        wait_for_leaders(&nodes, one_leader);
        let acknowledged = write_while(&mut nodes, round * 1_000_000, |nodes| {
            thread::sleep(Duration::from_millis(300));
            let leader = nodes.at(nodes.leader().address());
            nodes.kill(leader);
            wait_for_leaders(nodes, one_leader);
            thread::sleep(Duration::from_millis(300));
            nodes.restart(leader);
        });
        for (all, acknowledged) in all.iter_mut().zip(acknowledged) {
            all.extend(acknowledged);
        }
    }
    wait_for_leaders(&nodes, one_leader);
    check(&nodes, &all);
    // One that hands over first hands over both.
    let leader = nodes.at(nodes.leader().address());
    let acknowledged = write_while(&mut nodes, 9_000_000, |nodes| {
        thread::sleep(Duration::from_millis(100));
        assert_eq!(nodes.stop(leader), Some(0));
        thread::sleep(Duration::from_millis(300));
    });
    nodes.restart(leader);
    check(&nodes, &acknowledged);
}

#[test]
fn members_come_and_go_in_all_shards() {
    let directory = directory();
    let mut nodes = grown(directory.path(), 3, &["--shards", "2"]);
    create(&nodes);
    let mut joined = 0;
    let acknowledged = write_while(&mut nodes, 0, |nodes| {
        // It learns the number of shards from the cluster.
        nodes.set_arguments(&[]);
        joined = nodes.join();
        nodes.wait_for_roles([3, 1, 0]);
        wait_for_members(nodes);
        // The leader of all is the hardest one to remove.
        let leader = nodes.leader().address().to_owned();
        nodes.cluster(&["remove", &leader]).succeeded();
        let number = nodes.at(&leader);
        wait_until("told", || {
            let words = nodes.words(number);
            words
                .contains("was removed from the cluster")
                .then_some(())
                .ok_or(words)
        });
        assert_eq!(nodes.stop(number), Some(0));
        nodes.wait_for_roles([3, 0, 0]);
        wait_for_members(nodes);
    });
    check(&nodes, &acknowledged);
    wait_for_leaders(&nodes, |leaders| leaders[0] == leaders[1]);
    assert!(shards_at(&nodes.nodes[joined].address).unwrap().len() == 2);
}

#[test]
fn spread_leaders_are_found_by_clients() {
    let directory = directory();
    let mut nodes = grown(directory.path(), 3, &["--shards", "2", "--spread"]);
    let are_apart = |leaders: &[u64]| leaders[0] != leaders[1];
    wait_for_leaders(&nodes, are_apart);
    create(&nodes);
    let acknowledged = write_while(&mut nodes, 0, |nodes| {
        thread::sleep(Duration::from_millis(300));
        let leader = nodes.at(nodes.leader().address());
        nodes.kill(leader);
        wait_for_leaders(nodes, are_apart);
        thread::sleep(Duration::from_millis(300));
        nodes.restart(leader);
    });
    wait_for_leaders(&nodes, are_apart);
    check(&nodes, &acknowledged);
    // A client that knows one leader has its bytes passed on.
    let leader = nodes.leader().address().to_owned();
    for database in DATABASES {
        let mut client = RawConnection::with_database(&leader, database);
        let before = row_count(client.ask(&query("SELECT n FROM t")));
        client.say(&execute("INSERT INTO t VALUES (-1)"));
        let executed = client.hear();
        assert!(
            matches!(executed, Answer::Response(Response::Result { .. })),
            "{executed:?}"
        );
        assert_eq!(row_count(client.ask(&query("SELECT n FROM t"))), before + 1);
    }
    let follower = nodes.addresses().into_iter().find(|address| {
        let shards = shards_at(address).unwrap();
        shards.iter().all(|shard| shard["role"] == "follower")
    });
    let mut client = RawConnection::client(&follower.unwrap());
    let open = Request::Open {
        name: DATABASES[1].to_owned(),
        flags: 0,
        vfs: String::new(),
    };
    assert!(client.ask(&open).failure().1.contains("not leader"));
    // Whole databases too, and a copy.
    let mut client = nodes.leader();
    for database in DATABASES {
        let copy = directory.path().join("copy");
        client.backup(database, false, &copy, |_, _| {}).unwrap();
        let mut client = nodes.leader();
        client.drop_database(database).unwrap();
        client.create_database(database, 512).unwrap();
    }
}

#[test]
fn nodes_with_other_numbers_of_shards_are_refused() {
    let directory = directory();
    let nodes = Nodes::start(PROGRAM, directory.path(), &["--shards", "2"]);
    let addresses = free_addresses(2).unwrap();
    let serve = |data: &str, address: &str, arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .arg(directory.path().join(data))
            .args(["--listen", address]);
        command.args(["--segment-mib", "8"]).args(arguments);
        process::run(&mut command, b"", TIMEOUT)
    };
    let seed = &nodes.addresses()[0];
    let refused = serve("joining", &addresses[0], &["--shards", "3", "--join", seed]);
    let words = refused.stderr;
    assert!(words.contains("the cluster has 2 shard(s)"), "{words}");
    assert_eq!(nodes.members().len(), 1, "nothing was proposed");
    // Founders that differ do not form a cluster: whoever asks first is refused.
    let members = format!("1={},2={}", addresses[0], addresses[1]);
    let mut founders = [("1", "2"), ("2", "3")].map(|(id, shards)| {
        let log = directory.path().join(format!("founder-{id}.log"));
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .arg(directory.path().join(format!("founder-{id}")));
        command.args(["--id", id, "--cluster", &members, "--shards", shards]);
        command.args(["--segment-mib", "8", "--stop-with-parent"]);
        let started = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        (started, log)
    });
    wait_until("refused", || {
        let words = founders
            .each_ref()
            .map(|(_, log)| std::fs::read_to_string(log).unwrap());
        let is_refused = words
            .iter()
            .any(|words| words.contains("different numbers of shards"));
        is_refused.then_some(()).ok_or_else(|| format!("{words:?}"))
    });
    for (founder, _) in &mut founders {
        // It may have ended by itself.
        let _ = founder.kill();
        founder.wait().unwrap();
    }
}

/// Whoever has removed a member may take its node away, although the group of each shard has to do without
/// it.
#[test]
fn the_last_other_node_leaves_all_shards() {
    let directory = directory();
    let mut nodes = grown(directory.path(), 3, &["--shards", "2", "--spread"]);
    create(&nodes);
    for left in [2, 1] {
        // The one that leads the second shard goes.
        let leaders = wait_for_leaders(&nodes, |leaders| leaders[0] != leaders[1]);
        let members = nodes.members();
        let member = members.iter().find(|member| member["id"] == leaders[1]);
        let other = nodes.at(member.unwrap()["address"].as_str().unwrap());
        nodes.leader().remove_member(leaders[1]).unwrap();
        nodes.kill(other);
        assert_eq!(nodes.members().len(), left);
        for database in DATABASES {
            let mut client = connect(&nodes.addresses(), database).unwrap();
            client.execute("INSERT INTO t DEFAULT VALUES", &[]).unwrap();
        }
    }
}

#[test]
fn operators_see_and_recover_all_shards() {
    let directory = directory();
    let mut nodes = grown(directory.path(), 3, &["--shards", "2"]);
    create(&nodes);
    for database in DATABASES {
        let mut client = connect(&nodes.addresses(), database).unwrap();
        client.execute("INSERT INTO t VALUES (7)", &[]).unwrap();
        nodes.assert_identical(database);
    }
    let table = |arguments: &[&str]| -> Value {
        serde_json::from_str(&nodes.cluster(arguments).succeeded()).unwrap()
    };
    let names: Vec<_> = table(&["databases"])
        .as_array()
        .unwrap()
        .iter()
        .map(|database| database["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a.db", "main"]);
    let status = table(&["status"]);
    assert_eq!(
        status["shards"][0]["databases"],
        serde_json::json!(["main"])
    );
    assert_eq!(
        status["shards"][1]["databases"],
        serde_json::json!(["a.db"])
    );
    assert_eq!(status["shards"][1]["shard"], 1);

    // Two of three are gone for good.
    for number in 0..3 {
        nodes.kill(number);
    }
    let data = nodes.nodes[1].data.to_str().unwrap().to_owned();
    let run =
        |arguments: &[&str]| process::run(Command::new(PROGRAM).args(arguments), b"", TIMEOUT);
    let inspected: Value = serde_json::from_str(&run(&["inspect", &data]).succeeded()).unwrap();
    for shard in 0..2 {
        assert_eq!(inspected[shard]["shard"], shard);
        let last = inspected[shard]["log"]["good"].as_object();
        assert!(last.is_some(), "{}", inspected[shard]["log"]);
    }
    let second = run(&["inspect", &data, "--shard", "1"]).succeeded();
    let second: Value = serde_json::from_str(&second).unwrap();
    assert_eq!(second, inspected[1]);
    let recovered = run(&["recover", &data, "--yes"]);
    assert!(
        recovered.stderr.contains("In shard 0 of 2:"),
        "{}",
        recovered.stderr
    );
    assert!(
        recovered.stderr.contains("In shard 1 of 2:"),
        "{}",
        recovered.stderr
    );
    recovered.succeeded();
    nodes.restart(1);
    for database in DATABASES {
        let mut client = connect(&nodes.addresses(), database).unwrap();
        assert_eq!(client.query("SELECT n FROM t", &[]).unwrap().rows.len(), 1);
        client.execute("INSERT INTO t VALUES (8)", &[]).unwrap();
    }
    assert_eq!(nodes.members().len(), 1);
}

fn execute(sql: &str) -> Request {
    Request::ExecuteSql {
        database: 0,
        sql: sql.to_owned(),
        parameters: Vec::new(),
    }
}

fn query(sql: &str) -> Request {
    Request::QuerySql {
        database: 0,
        sql: sql.to_owned(),
        parameters: Vec::new(),
    }
}

fn row_count(answer: Answer) -> usize {
    match answer {
        Answer::Response(Response::Rows(batch)) => batch.rows.len(),
        other => panic!("{other:?}"),
    }
}

/// The session of a database stays at home while its connection is at another shard.
#[test]
fn a_connection_goes_where_its_requests_belong() {
    let directory = directory();
    let nodes = Nodes::start(PROGRAM, directory.path(), &["--shards", "2"]);
    wait_for_leaders(&nodes, |_| true);
    let address = &nodes.addresses()[0];
    let done = |answer: Answer| {
        assert!(
            matches!(answer, Answer::Response(Response::Result { .. })),
            "{answer:?}"
        );
    };
    let mut client = RawConnection::with_database(address, "a.db");
    done(client.ask(&execute("CREATE TABLE t (n)")));
    done(client.ask(&execute("CREATE TEMP TABLE mine AS SELECT 1 AS n")));
    done(client.ask(&execute("BEGIN IMMEDIATE")));
    done(client.ask(&execute("INSERT INTO t VALUES (1)")));
    let create = Request::CreateDatabase {
        name: "main".to_owned(),
        page_size: 4096,
    };
    assert_eq!(client.ask(&create), Answer::Response(Response::Empty));
    assert!(matches!(
        client.ask(&Request::Status),
        Answer::Response(Response::Status { .. })
    ));
    let digest = Request::Digest {
        database: "main".to_owned(),
        index_min: 0,
    };
    assert!(matches!(
        client.ask(&digest),
        Answer::Response(Response::Digest { .. })
    ));
    let Answer::Response(Response::Databases(databases)) = client.ask(&Request::Databases) else {
        panic!("no list");
    };
    let names: Vec<_> = databases
        .into_iter()
        .map(|database| database.name)
        .collect();
    assert_eq!(names, ["a.db", "main"]);
    let open = Request::Open {
        name: "main".to_owned(),
        flags: 0,
        vfs: String::new(),
    };
    assert_eq!(
        client.ask(&open).failure().0,
        5,
        "a connection has one database"
    );
    assert_eq!(row_count(client.ask(&query("SELECT n FROM mine"))), 1);
    done(client.ask(&execute("COMMIT")));
    assert_eq!(row_count(client.ask(&query("SELECT n FROM t"))), 1);

    // What has arrived behind a request goes along.
    let mut pipelined = RawConnection::client(address);
    let mut bytes = Vec::new();
    for request in [
        &Request::Leader,
        &Request::Open {
            name: "a.db".to_owned(),
            flags: 0,
            vfs: String::new(),
        },
        &query("SELECT n FROM t"),
        &Request::Status,
        &digest,
        &query("SELECT n FROM t"),
    ] {
        request.encode(&mut bytes).unwrap();
    }
    let (first, rest) = bytes.split_at(bytes.len() - 3);
    pipelined.send(first);
    thread::sleep(Duration::from_millis(50));
    pipelined.send(rest);
    assert!(matches!(
        pipelined.hear(),
        Answer::Response(Response::Server { .. })
    ));
    assert_eq!(
        pipelined.hear(),
        Answer::Response(Response::Database { id: 0 })
    );
    assert_eq!(row_count(pipelined.hear()), 1);
    assert!(matches!(
        pipelined.hear(),
        Answer::Response(Response::Status { .. })
    ));
    assert!(matches!(
        pipelined.hear(),
        Answer::Response(Response::Digest { .. })
    ));
    assert_eq!(row_count(pipelined.hear()), 1);

    // Whoever leaves while away leaves nothing at home.
    done(client.ask(&execute("BEGIN IMMEDIATE")));
    assert!(matches!(
        client.ask(&Request::Status),
        Answer::Response(Response::Status { .. })
    ));
    drop(client);
    done(pipelined.ask(&execute("INSERT INTO t VALUES (2)")));
    drop(pipelined);
    wait_until("no session is left", || {
        let shards = shards_at(address)?;
        let sessions: Vec<_> = shards
            .iter()
            .map(|shard| shard["sessions"].as_u64())
            .collect();
        (sessions == [Some(0), Some(0)])
            .then_some(())
            .ok_or_else(|| format!("{sessions:?}"))
    });
}

/// A database that is dropped ends the sessions on it, and so their connections' ties to its shard.
#[test]
fn a_connection_whose_database_is_gone_opens_one_of_another_shard() {
    let directory = directory();
    let nodes = Nodes::start(PROGRAM, directory.path(), &["--shards", "2"]);
    wait_for_leaders(&nodes, |_| true);
    let address = &nodes.addresses()[0];
    let open = |name: &str| Request::Open {
        name: name.to_owned(),
        flags: 0,
        vfs: String::new(),
    };
    for is_away in [false, true] {
        let mut client = RawConnection::with_database(address, "a.db");
        if is_away {
            client.ask(&Request::Status);
        }
        nodes.leader().drop_database("a.db").unwrap();
        // It is told once, whatever is asked first.
        let first = match is_away {
            false => query("SELECT 1"),
            true => open("main"),
        };
        let gone = client.ask(&first).failure().1;
        assert!(gone.contains("a.db"), "{gone}");
        let opened = client.ask(&open("main"));
        assert_eq!(
            opened,
            Answer::Response(Response::Database { id: 0 }),
            "{is_away}"
        );
        assert_eq!(row_count(client.ask(&query("SELECT 1"))), 1);
    }
}

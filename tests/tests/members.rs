//! Members come and go, and leadership with them, while others write: nobody is told anything but
//! "not leader", and nothing is lost.

use std::thread;
use std::time::{Duration, Instant};

use ringlite::{Client, ReadLevel};
use ringlite_tests::nodes::{Nodes, wait_until};
use ringlite_tests::oracle::{self, Oracle};
use ringlite_tests::process::size;
use rustix::process::Signal;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const WRITERS: i64 = 2;
const PAUSE: Duration = Duration::from_millis(2);

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A cluster that has grown to `count` nodes, and whose members have found their roles.
fn grown(directory: &TempDir, count: usize, arguments: &[&str]) -> Nodes {
    let mut nodes = Nodes::start(PROGRAM, directory.path(), arguments);
    for _ in 1..count {
        nodes.join();
    }
    let voters = count.min(3);
    nodes.wait_for_roles([voters, count - voters, 0]);
    nodes
}

fn check(nodes: &Nodes, oracle: &Oracle) {
    let mut client = nodes.leader();
    client.open(oracle::DATABASE).unwrap();
    oracle.check(&oracle::rows_of(&mut client).unwrap());
    nodes.assert_identical(oracle::DATABASE);
}

fn median(durations: &[Duration]) -> Duration {
    let mut durations = durations.to_vec();
    durations.sort_unstable();
    durations[(durations.len() - 1) / 2]
}

#[test]
fn from_one_to_five_and_back_to_three_under_load() {
    let directory = directory();
    let mut nodes = Nodes::start(PROGRAM, directory.path(), &[]);
    let mut oracle = Oracle::new(&nodes.addresses()).unwrap();
    // Writers know all addresses from the start, as they would know a name.
    for (voters, standbys) in [(1, 1), (3, 0), (3, 1), (3, 2)] {
        let number = nodes.join();
        oracle.write_while(&nodes.all_addresses(), WRITERS, PAUSE, || {
            nodes.wait_for_roles([voters, standbys, 0]);
            thread::sleep(Duration::from_millis(100));
        });
        println!("{} nodes: {:?}", number + 1, nodes.roles());
    }
    for _ in 0..2 {
        // The leader is the hardest one to remove.
        let leader = nodes.leader().address().to_owned();
        let all = nodes.all_addresses();
        oracle.write_while(&all, WRITERS, PAUSE, || {
            nodes.cluster(&["remove", &leader]).succeeded();
            thread::sleep(Duration::from_millis(300));
        });
        let number = nodes.at(&leader);
        assert_eq!(nodes.stop(number), Some(0));
    }
    nodes.wait_for_roles([3, 0, 0]);
    check(&nodes, &oracle);
    assert_eq!(oracle.unknown(), 0, "a write has failed");
    println!("{} rows were acknowledged", oracle.acknowledged());
    assert!(oracle.acknowledged() > 50, "that was no load");
}

#[test]
fn a_node_with_an_empty_disk_takes_its_own_place_as_a_new_member() {
    let directory = directory();
    let mut nodes = grown(&directory, 3, &[]);
    let mut oracle = Oracle::new(&nodes.addresses()).unwrap();
    let leader = nodes.at(nodes.leader().address());
    let replaced = (leader + 1) % 3;
    let address = nodes.nodes[replaced].address.clone();
    let id_at = |nodes: &Nodes| {
        let members = nodes.members();
        let member = members.iter().find(|member| member["address"] == *address);
        member.and_then(|member| member["id"].as_u64())
    };
    let before = id_at(&nodes).unwrap();
    oracle.write_while(&nodes.addresses(), WRITERS, PAUSE, || {
        nodes.kill(replaced);
        std::fs::remove_dir_all(&nodes.nodes[replaced].data).unwrap();
        nodes.join_as(replaced);
        wait_until("a new member at the old address", || {
            let found = id_at(&nodes);
            let is_new = found.is_some_and(|id| id != before);
            is_new.then_some(()).ok_or_else(|| format!("{found:?}"))
        });
    });
    nodes.wait_for_roles([3, 0, 0]);
    check(&nodes, &oracle);
    assert_eq!(oracle.unknown(), 0, "a write has failed");
}

#[test]
fn a_node_that_is_removed_is_told_and_serves_no_longer() {
    let directory = directory();
    let nodes = grown(&directory, 3, &[]);
    let mut leader = nodes.leader();
    leader.open("d").unwrap();
    leader.execute("CREATE TABLE t (a)", &[]).unwrap();
    let removed = (nodes.at(leader.address()) + 1) % 3;
    let address = nodes.nodes[removed].address.clone();
    nodes.cluster(&["remove", &address]).succeeded();
    let mut client = Client::connect_to(&address).unwrap();
    wait_until("told", || {
        let status = client.status().unwrap();
        let is_told = status["removed"] == true;
        is_told.then_some(()).ok_or_else(|| status.to_string())
    });
    for error in [
        client.open("d").unwrap_err(),
        client
            .query_at(ReadLevel::LOCAL, "d", "SELECT 1")
            .unwrap_err(),
    ] {
        assert!(error.is_not_leader(), "{error}");
        assert!(
            error.to_string().contains("removed from the cluster"),
            "{error}"
        );
    }
    wait_until("said", || {
        let words = nodes.words(removed);
        let is_said = words.contains("this node was removed from the cluster");
        is_said.then_some(()).ok_or(words)
    });
    // It leaves the others alone.
    let term = leader.status().unwrap()["term"].clone();
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(leader.status().unwrap()["term"], term);
    leader.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    let refusal = nodes.cluster(&["remove", &address]);
    assert!(
        refusal
            .refusal()
            .contains("no member has the id or address")
    );
}

#[test]
fn a_voter_that_is_gone_is_replaced_by_a_standby() {
    let directory = directory();
    let mut nodes = grown(&directory, 4, &["--voter-gone-after", "700"]);
    let leader = nodes.leader().address().to_owned();
    let members = nodes.members();
    let gone = members
        .iter()
        .find(|member| member["role"] == "voter" && member["address"] != leader);
    let gone = nodes.at(gone.unwrap()["address"].as_str().unwrap());
    let address = nodes.nodes[gone].address.clone();
    let mut oracle = Oracle::new(&nodes.addresses()).unwrap();
    oracle.write_while(&nodes.all_addresses(), WRITERS, PAUSE, || {
        nodes.kill(gone);
        nodes.wait_for_roles([3, 0, 1]);
    });
    let members = nodes.members();
    let spare = members.iter().find(|member| member["role"] == "spare");
    assert_eq!(spare.unwrap()["address"], *address);
    assert!(spare.unwrap()["silent_ms"].as_u64() >= Some(700));
    // When it is back it is of use again.
    nodes.restart(gone);
    nodes.wait_for_roles([3, 1, 0]);
    check(&nodes, &oracle);
    assert_eq!(oracle.unknown(), 0, "a write has failed");
}

/// Numbers alone would make it a standby at once.
#[test]
fn what_is_assigned_is_kept_by_the_next_leader_until_it_is_taken_back() {
    let directory = directory();
    let mut nodes = grown(&directory, 4, &[]);
    let members = nodes.members();
    let standby = members.iter().find(|member| member["role"] == "standby");
    let standby = standby.unwrap()["id"].clone();
    let name = standby.to_string();
    nodes.cluster(&["assign", &name, "spare"]).succeeded();
    for _ in 0..2 {
        let before = nodes.leader().address().to_owned();
        nodes.cluster(&["transfer"]).succeeded();
        assert_ne!(nodes.leader().address(), before);
        thread::sleep(Duration::from_millis(500));
        let members = nodes.members();
        let member = members.iter().find(|member| member["id"] == standby);
        let member = member.unwrap();
        assert_eq!(member["assigned"], "spare", "{member}");
        assert_eq!(member["role"], "spare", "{member}");
    }
    // Also by one that has read it from its disk.
    let leader = nodes.at(nodes.leader().address());
    nodes.kill(leader);
    nodes.restart(leader);
    thread::sleep(Duration::from_millis(500));
    nodes.wait_for_roles([3, 0, 1]);
    nodes.cluster(&["assign", &name, "auto"]).succeeded();
    nodes.wait_for_roles([3, 1, 0]);
    let members = nodes.members();
    assert!(members.iter().all(|member| member["assigned"].is_null()));
}

#[test]
fn leadership_is_transferred_on_request_under_load() {
    let directory = directory();
    let nodes = grown(&directory, 4, &[]);
    let mut oracle = Oracle::new(&nodes.addresses()).unwrap();
    let mut pauses = Vec::new();
    for _ in 0..size("TRANSFERS", 3) {
        let before = nodes.leader().address().to_owned();
        let (from, to) = oracle.write_while(&nodes.addresses(), WRITERS, PAUSE, || {
            thread::sleep(Duration::from_millis(100));
            let from = Instant::now();
            Client::connect_to(&before)
                .unwrap()
                .transfer_leadership(0)
                .unwrap();
            thread::sleep(Duration::from_millis(500));
            (from, Instant::now())
        });
        assert_ne!(nodes.leader().address(), before);
        pauses.push(oracle.longest_pause(from, to));
    }
    println!("transfers: the longest pauses between two commits were {pauses:?}");
    check(&nodes, &oracle);
    assert_eq!(oracle.unknown(), 0, "a write has failed");
    // One that does not vote cannot lead.
    let members = nodes.members();
    let standby = members.iter().find(|member| member["role"] == "standby");
    let standby = standby.unwrap()["id"].to_string();
    let refusal = nodes.cluster(&["transfer", &standby]);
    assert!(
        refusal.refusal().contains("leadership stays here"),
        "{refusal:?}"
    );
}

#[test]
fn a_leader_that_is_stopped_hands_over_before() {
    let directory = directory();
    let mut nodes = grown(&directory, 3, &[]);
    let mut oracle = Oracle::new(&nodes.addresses()).unwrap();
    let mut pauses = Vec::new();
    for _ in 0..size("STOPS", 3) {
        let leader = nodes.at(nodes.leader().address());
        let (from, to) = oracle.write_while(&nodes.all_addresses(), WRITERS, PAUSE, || {
            thread::sleep(Duration::from_millis(100));
            let from = Instant::now();
            assert_eq!(nodes.stop(leader), Some(0), "{}", nodes.words(leader));
            thread::sleep(Duration::from_millis(300));
            (from, Instant::now())
        });
        pauses.push(oracle.longest_pause(from, to));
        nodes.restart(leader);
        nodes.assert_identical(oracle::DATABASE);
    }
    let p50 = median(&pauses);
    println!("clean stops: the longest pauses between two commits were {pauses:?}, p50 {p50:?}");
    check(&nodes, &oracle);
    assert_eq!(oracle.unknown(), 0, "a write has failed");
}

#[test]
fn a_leader_that_is_killed_is_replaced_at_once() {
    let directory = directory();
    let mut nodes = grown(&directory, 3, &[]);
    let mut oracle = Oracle::new(&nodes.addresses()).unwrap();
    let mut pauses = Vec::new();
    for _ in 0..size("FAILOVERS", 3) {
        let leader = nodes.at(nodes.leader().address());
        let (from, to) = oracle.write_while(&nodes.all_addresses(), WRITERS, PAUSE, || {
            thread::sleep(Duration::from_millis(100));
            let from = Instant::now();
            nodes.kill(leader);
            wait_until("another leader", || {
                let opened = nodes.leader().open(oracle::DATABASE);
                opened.map_err(|error| error.to_string())
            });
            thread::sleep(Duration::from_millis(200));
            (from, Instant::now())
        });
        pauses.push(oracle.longest_pause(from, to));
        nodes.restart(leader);
        nodes.assert_identical(oracle::DATABASE);
    }
    let p50 = median(&pauses);
    println!("kills: time to the next commit {pauses:?}, p50 {p50:?}");
    check(&nodes, &oracle);
}

#[test]
fn a_leader_that_stands_still_is_replaced_within_three_election_timeouts() {
    /// The longest one, by default.
    const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
    let directory = directory();
    let nodes = grown(&directory, 3, &[]);
    let mut oracle = Oracle::new(&nodes.addresses()).unwrap();
    let leader = nodes.at(nodes.leader().address());
    let others: Vec<String> = nodes.all_addresses();
    let others: Vec<String> = others
        .into_iter()
        .filter(|address| *address != nodes.nodes[leader].address)
        .collect();
    nodes.signal(leader, Signal::STOP);
    let from = Instant::now();
    let to = oracle.write_while(&others, WRITERS, PAUSE, || {
        thread::sleep(3 * ELECTION_TIMEOUT);
        Instant::now()
    });
    nodes.signal(leader, Signal::CONT);
    let pause = oracle.longest_pause(from, to);
    println!("SIGSTOP: {pause:?} to the next commit");
    assert!(pause < 3 * ELECTION_TIMEOUT);
    check(&nodes, &oracle);
}

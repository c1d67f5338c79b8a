//! Reads at the levels `leader` and `local` over the network, by the client and by the shell.

use std::process::Command;
use std::time::Duration;

use ringlite::{Client, ReadLevel, Value};
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "app";
const COUNT: &str = "SELECT count(*) AS rows FROM t";

fn shell(address: &str, level: &str, sql: &str) -> process::Finished {
    let arguments = ["shell", address, "--db", DATABASE, "--level", level, sql];
    let limit = Duration::from_secs(20);
    process::run(Command::new(PROGRAM).args(arguments), b"", limit)
}

#[test]
fn followers_answer_at_local_and_send_the_rest_to_the_leader() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut cluster = scene::start(PROGRAM, directory.path(), 3);
    let mut client = scene::open(&mut cluster, DATABASE);
    client
        .execute("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)", &[])
        .unwrap();
    let index_min = client.status().unwrap()["commit_index"].as_u64().unwrap();
    let local = ReadLevel::LOCAL;
    let leader = client.address().to_owned();
    for address in cluster.addresses() {
        let mut node = Client::connect_to(&address).unwrap();
        let level = ReadLevel::Local {
            index_min,
            staleness_max: None,
        };
        let rows = node.query_at(level, DATABASE, COUNT).unwrap().rows;
        assert_eq!(rows, [[Value::Integer(2)]]);
        let said = shell(&address, "local", COUNT).succeeded();
        assert!(
            said.contains("\"rows\": 2") || said.contains("\"rows\":2"),
            "{said}"
        );
        let said = shell(&address, "leader", COUNT).succeeded();
        assert!(said.contains('2'), "the shell finds the leader: {said}");
        let written = node.query_at(local, DATABASE, "DELETE FROM t");
        let at_leader = node.query_at(ReadLevel::Leader, DATABASE, COUNT);
        let missing = node.query_at(local, "nowhere", COUNT).unwrap_err();
        assert!(
            missing.to_string().contains("no database named"),
            "{missing}"
        );
        if address == leader {
            let error = written.unwrap_err().to_string();
            assert!(error.contains("cannot write"), "{error}");
            assert_eq!(at_leader.unwrap().rows, [[Value::Integer(2)]]);
            continue;
        }
        for refused in [written, at_leader] {
            let error = refused.unwrap_err();
            assert!(error.is_not_leader(), "{error}");
            assert!(error.to_string().contains(&leader), "{error}");
        }
        let refused = shell(&address, "local", "INSERT INTO t VALUES (3)");
        assert!(refused.refusal().contains("not leader"), "{refused:?}");
    }
}

//! Ringlite against plain SQLite on generated statements: equal columns, rows, counts, errors and
//! messages after each, and equal databases, page by page allocated alike, at the end.
//!
//! `DIFFERENTIAL_STATEMENTS` sets how many statements run on an embedded node (4,000 unless told),
//! and `DIFFERENTIAL_CLUSTER_STATEMENTS` how many on three processes whose leaders are killed (800).
//! `DIFFERENTIAL_SEED` sets the first seed; with it a failure can be run again. A failure on the
//! embedded node is shrunk before it is shown.

use std::path::Path;
use std::time::{Duration, Instant};

use ringlite::local_cluster::LocalCluster;
use ringlite::{Client, ClientError, Database, Error, Node};
use ringlite_tests::differential::{self, Broken, Subject, Tally};
use ringlite_tests::generator::{Random, Statement};
use ringlite_tests::reference::{Answer, Failure};
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const CASE_STATEMENTS: usize = 200;
/// Cases on one node: the next begins with an empty log.
const NODE_CASES: usize = 20;

/// A session in this process.
struct Embedded<'a> {
    node: &'a Node,
    name: String,
    database: Option<Database>,
}

impl<'a> Embedded<'a> {
    fn open(node: &'a Node, name: &str) -> Self {
        Self {
            node,
            name: name.to_owned(),
            database: Some(node.database(name).unwrap()),
        }
    }
}

impl Subject for Embedded<'_> {
    fn query(&mut self, statement: &Statement) -> Result<Answer, Broken> {
        let database = self.database.as_ref().expect("a session is open");
        match database.query(&statement.sql, statement.parameters.clone()) {
            Ok(rows) => Ok(Answer {
                columns: rows.columns().iter().map(|c| c.name.clone()).collect(),
                rows: rows.into_values(),
            }),
            Err(Error::Sqlite { code, message }) => Err(Broken::Failure(Failure { code, message })),
            Err(error @ (Error::NotLeader { .. } | Error::OutcomeUnknown)) => {
                Err(Broken::Lost(error.to_string()))
            }
            Err(error) => panic!("{}: {error:?}", statement.sql),
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.database = None;
        self.database = Some(self.node.database(&self.name).map_err(|e| e.to_string())?);
        Ok(())
    }
}

fn start_node(directory: &Path) -> Node {
    let builder = Node::builder(directory).segment_bytes(4 << 20);
    builder.start().unwrap()
}

fn seed() -> u64 {
    process::size("DIFFERENTIAL_SEED", 1) as u64
}

/// What is left of a script that shows a mismatch, with its mismatch.
fn explain(directory: &Path, script: &[Statement]) -> String {
    let data = directory.join("shrink");
    let node = start_node(&data);
    let mut runs = 0;
    let mut run = |script: &[Statement]| {
        runs += 1;
        let name = format!("shrink-{runs}");
        let mut subject = Embedded::open(&node, &name);
        differential::replay(&mut subject, directory, &name, script).err()
    };
    let short = differential::shrink(script, &mut |script| run(script).is_some());
    let what = run(&short).map_or("(it does not show again)".to_owned(), |it| it.what);
    let statements: Vec<String> = short
        .iter()
        .map(|statement| format!("{}; -- {:?}", statement.sql, statement.parameters))
        .collect();
    format!("{what}\nafter:\n{}", statements.join("\n"))
}

fn report(what: &str, cases: usize, tally: Tally, began: Instant) {
    println!(
        "{what}: {cases} cases, {} statements, {} failed alike, {} rows, {} interrupted, {:.1?}",
        tally.statements,
        tally.failed,
        tally.rows,
        tally.interrupted,
        began.elapsed()
    );
}

#[test]
fn an_embedded_node_answers_as_sqlite_does() {
    let cases = process::size("DIFFERENTIAL_STATEMENTS", 4000).div_ceil(CASE_STATEMENTS);
    let began = Instant::now();
    let mut total = Tally::default();
    for first in (0..cases).step_by(NODE_CASES) {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let node = start_node(&directory.path().join("data"));
        for case in first..(first + NODE_CASES).min(cases) {
            let seed = seed() + case as u64;
            let mut subject = Embedded::open(&node, &format!("case-{seed}"));
            let path = directory.path();
            let (script, result) =
                differential::run_case(&mut subject, path, seed, CASE_STATEMENTS, &mut |_| false);
            match result {
                Ok(tally) => total += tally,
                Err(mismatch) => panic!(
                    "DIFFERENTIAL_SEED={seed}, statement {}: {}\n\nshrunk: {}",
                    mismatch.at,
                    mismatch.what,
                    explain(path, &script[..=mismatch.at.min(script.len() - 1)])
                ),
            }
        }
    }
    report("embedded", cases, total, began);
    assert_eq!(total.interrupted, 0, "a node of one does not lose its lead");
    assert!(total.failed * 2 < total.statements, "most statements fail");
}

/// A session of three processes.
struct Remote {
    client: Client,
}

impl Subject for Remote {
    fn query(&mut self, statement: &Statement) -> Result<Answer, Broken> {
        let mut columns = Vec::new();
        let mut rows = Vec::new();
        let done = self
            .client
            .query_each(&statement.sql, &statement.parameters, |batch| {
                columns = batch.columns.iter().map(|c| c.name.clone()).collect();
                rows.extend(batch.rows);
                std::ops::ControlFlow::Continue(())
            });
        match done {
            Ok(()) => Ok(Answer { columns, rows }),
            Err(error)
                if error.is_not_leader()
                    || error.is_outcome_unknown()
                    || error.is_connection_lost() =>
            {
                Err(Broken::Lost(error.to_string()))
            }
            Err(ClientError::Failure { code, message }) => Err(Broken::Failure(Failure {
                code: i32::try_from(code).unwrap(),
                message,
            })),
            Err(error) => panic!("{}: {error}", statement.sql),
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.client.reconnect().map_err(|error| error.to_string())
    }
}

#[test]
fn three_processes_answer_as_sqlite_does_while_leaders_are_killed() {
    const KILL_PERCENT: usize = 1;
    let cases = process::size("DIFFERENTIAL_CLUSTER_STATEMENTS", 800).div_ceil(CASE_STATEMENTS);
    let began = Instant::now();
    let mut total = Tally::default();
    let mut kills = 0;
    for first in (0..cases).step_by(NODE_CASES) {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut cluster = scene::start(PROGRAM, directory.path(), 3);
        for case in first..(first + NODE_CASES).min(cases) {
            let seed = seed() + case as u64;
            let name = format!("case-{seed}");
            let mut subject = Remote {
                client: scene::open(&mut cluster, &name),
            };
            let mut random = Random::new(!seed);
            let kill = &mut |_| {
                let now = random.percent(KILL_PERCENT);
                if now {
                    replace_leader(&mut cluster);
                    kills += 1;
                }
                now
            };
            let path = directory.path();
            let (_, result) =
                differential::run_case(&mut subject, path, seed, CASE_STATEMENTS, kill);
            match result {
                Ok(tally) => total += tally,
                Err(mismatch) => panic!(
                    "DIFFERENTIAL_SEED={seed}, statement {} on three nodes: {}",
                    mismatch.at, mismatch.what
                ),
            }
            scene::assert_identical(&mut cluster, &name);
        }
        assert_eq!(cluster.dead_node(), None);
    }
    report("three processes", cases, total, began);
    println!("{kills} leaders killed");
    assert!(total.interrupted * 4 <= cases, "too much was interrupted");
}

/// Kills the leader and starts it again, once another one leads.
fn replace_leader(cluster: &mut LocalCluster) {
    let leader = scene::leader_of(cluster);
    cluster.kill(leader);
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene::leader_of(cluster) == leader {
        assert!(Instant::now() < deadline, "no other node leads");
    }
    cluster.start_node(leader).unwrap();
}

//! Ringlite against plain SQLite on generated statements: equal columns, rows, counts, errors and
//! messages after each, and equal databases, page by page allocated alike, at the end.
//!
//! `DIFFERENTIAL_STATEMENTS` sets how many statements run on an embedded node (4,000 unless told),
//! and `DIFFERENTIAL_CLUSTER_STATEMENTS` how many on three processes whose leaders are killed (800).
//! `DIFFERENTIAL_SEED` sets the first seed; with it a failure can be run again. A failure on the
//! embedded node is shrunk before it is shown.

use std::path::Path;
use std::time::{Duration, Instant};

use ringlite::client::Executed;
use ringlite::local_cluster::LocalCluster;
use ringlite::{Client, ClientError, Database, Error, Node, Value};
use ringlite_tests::differential::{self, Broken, COUNTS, Subject, Tally};
use ringlite_tests::generator::{Random, Statement};
use ringlite_tests::reference::{Answer, Failure};
use ringlite_tests::{process, scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const CASE_STATEMENTS: usize = 200;
/// Cases on one node: the next begins with an empty log.
const NODE_CASES: usize = 20;

/// Whether a statement is sent to be executed without rows, as a driver would.
fn is_executed(sql: &str) -> bool {
    let writes = ["INSERT", "UPDATE", "DELETE", "REPLACE"];
    writes.iter().any(|verb| sql.starts_with(verb)) && !sql.contains("RETURNING")
}

/// What was told of the last executed statement has to be what the session says next.
fn check_counts(executed: &mut Option<Executed>, statement: &Statement, answer: &Answer) {
    if statement.sql == COUNTS
        && let Some(executed) = executed.take()
    {
        let told = [
            Value::Integer(executed.changes as i64),
            Value::Integer(executed.last_insert_rowid),
        ];
        let own = &answer.rows[0];
        assert_eq!([&told[0], &told[1]], [&own[0], &own[2]]);
    }
}

const NO_ROWS: Answer = Answer {
    columns: Vec::new(),
    rows: Vec::new(),
};

/// A session in this process.
struct Embedded<'a> {
    node: &'a Node,
    name: String,
    database: Option<Database>,
    executed: Option<Executed>,
}

impl<'a> Embedded<'a> {
    fn open(node: &'a Node, name: &str) -> Self {
        Self {
            node,
            name: name.to_owned(),
            database: Some(node.database(name).unwrap()),
            executed: None,
        }
    }
}

impl Subject for Embedded<'_> {
    fn query(&mut self, statement: &Statement) -> Result<Answer, Broken> {
        let database = self.database.as_ref().expect("a session is open");
        let parameters = statement.parameters.clone();
        let done = if is_executed(&statement.sql) {
            database
                .execute(&statement.sql, parameters)
                .map(|executed| {
                    self.executed = Some(executed);
                    NO_ROWS
                })
        } else {
            database
                .query(&statement.sql, parameters)
                .map(|rows| Answer {
                    columns: rows.columns().iter().map(|c| c.name.clone()).collect(),
                    rows: rows.into_values(),
                })
        };
        match done {
            Ok(answer) => {
                check_counts(&mut self.executed, statement, &answer);
                Ok(answer)
            }
            Err(Error::Sqlite { code, message }) => Err(Broken::Failure(Failure { code, message })),
            Err(error @ (Error::NotLeader { .. } | Error::OutcomeUnknown)) => {
                Err(Broken::Lost(error.to_string()))
            }
            Err(error) => panic!("{}: {error:?}", statement.sql),
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.executed = None;
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
        differential::replay(&mut subject, directory, &name, script).mismatch
    };
    let short = differential::shrink(script, &mut |script| run(script).is_some());
    let what = run(&short).unwrap_or_else(|| "(it does not show again)".to_owned());
    let statements: Vec<String> = short
        .iter()
        .map(|statement| format!("{}; -- {:?}", statement.sql, statement.parameters))
        .collect();
    format!("{what}\nafter:\n{}", statements.join("\n"))
}

fn report(what: &str, cases: usize, tally: Tally, began: Instant) {
    println!(
        "{what}: {cases} cases, {} statements, {} failed alike, {} rows, {} interrupted, \
         {} ended by random row ids, {:.1?}",
        tally.statements,
        tally.failed,
        tally.rows,
        tally.interrupted,
        tally.random,
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
            let run =
                differential::run_case(&mut subject, path, seed, CASE_STATEMENTS, &mut || false);
            total += run.tally;
            if let Some(mismatch) = run.mismatch {
                panic!(
                    "DIFFERENTIAL_SEED={seed}, statement {}: {mismatch}\n\nshrunk: {}",
                    run.tally.statements,
                    explain(path, &run.script)
                );
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
    executed: Option<Executed>,
}

impl Remote {
    fn query_prepared(&mut self, statement: &Statement) -> Result<Answer, ClientError> {
        let Statement { sql, parameters } = statement;
        let prepared = self.client.prepare(sql)?;
        let done = if is_executed(sql) {
            let executed = self.client.execute_prepared(&prepared, parameters);
            executed.map(|executed| {
                self.executed = Some(executed);
                NO_ROWS
            })
        } else {
            let batch = self.client.query_prepared(&prepared, parameters);
            batch.map(|batch| Answer {
                columns: batch.columns.iter().map(|c| c.name.clone()).collect(),
                rows: batch.rows,
            })
        };
        match self.client.finalize(prepared) {
            Ok(()) => done,
            // What failed before is the reason of this, too.
            Err(error) => done.and(Err(error)),
        }
    }
}

impl Subject for Remote {
    fn query(&mut self, statement: &Statement) -> Result<Answer, Broken> {
        let Statement { sql, parameters } = statement;
        // Some are prepared first, as drivers do.
        let done = if sql.len().is_multiple_of(3) {
            self.query_prepared(statement)
        } else if is_executed(sql) {
            self.client.execute(sql, parameters).map(|executed| {
                self.executed = Some(executed);
                NO_ROWS
            })
        } else {
            let mut answer = NO_ROWS;
            self.client
                .query_each(sql, parameters, |batch| {
                    answer.columns = batch.columns.iter().map(|c| c.name.clone()).collect();
                    answer.rows.extend(batch.rows);
                    std::ops::ControlFlow::Continue(())
                })
                .map(|()| answer)
        };
        match done {
            Ok(answer) => {
                check_counts(&mut self.executed, statement, &answer);
                Ok(answer)
            }
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
        self.executed = None;
        self.client.reconnect().map_err(|error| error.to_string())
    }

    fn cuts_texts(&self) -> bool {
        true
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
                executed: None,
            };
            let mut random = Random::new(!seed);
            let kill = &mut || {
                let now = random.percent(KILL_PERCENT);
                if now {
                    replace_leader(&mut cluster);
                    kills += 1;
                }
                now
            };
            let path = directory.path();
            let run = differential::run_case(&mut subject, path, seed, CASE_STATEMENTS, kill);
            total += run.tally;
            if let Some(mismatch) = run.mismatch {
                panic!(
                    "DIFFERENTIAL_SEED={seed}, statement {} on three nodes: {mismatch}",
                    run.tally.statements
                );
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

//! Reads at the levels `leader` and `local`, which run on the caller's thread, on leader and
//! followers.

mod embedded_cluster;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use embedded_cluster::Cluster;
use ringlite::{Database, Error, Node, ReadLevel, params};

const COUNT: &str = "SELECT count(*) FROM t";
fn count(database: &Database, level: ReadLevel) -> Result<i64, Error> {
    let rows = database.query_with(level, COUNT, ())?;
    Ok(rows.first().unwrap().get(0).unwrap())
}

fn at_least(index_min: u64) -> ReadLevel {
    ReadLevel::Local {
        index_min,
        staleness_max: None,
    }
}

fn fresh_within(staleness_max: Duration) -> ReadLevel {
    ReadLevel::Local {
        index_min: 0,
        staleness_max: Some(staleness_max),
    }
}

#[test]
fn every_node_reads_what_it_has_applied() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    let database = leader.database("app").unwrap();
    for number in 1..=20 {
        database
            .execute("INSERT INTO t VALUES (?)", params![number])
            .unwrap();
        let index = leader.status().unwrap().commit.0;
        for node in &cluster.nodes {
            let local = node.as_ref().unwrap().database("app").unwrap();
            assert_eq!(count(&local, at_least(index)), Ok(i64::from(number)));
        }
    }
    assert_eq!(count(&database, ReadLevel::Leader), Ok(20));
    assert_eq!(count(&database, ReadLevel::Linearizable), Ok(20));
    let error = database
        .query_with(ReadLevel::LOCAL, "INSERT INTO t VALUES (1) RETURNING x", ())
        .unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    let address = leader.status().unwrap().leader;
    for follower in cluster.followers() {
        let local = follower.database("app").unwrap();
        let not_leader = Error::NotLeader {
            leader: address.clone(),
        };
        // The leader is asked.
        assert_eq!(count(&local, ReadLevel::Leader), Ok(20));
        assert_eq!(count(&local, ReadLevel::Linearizable), Ok(20));
        for sql in ["INSERT INTO t VALUES (1) RETURNING x", "DELETE FROM t"] {
            let error = local.query_with(ReadLevel::LOCAL, sql, ()).unwrap_err();
            assert_eq!(error, not_leader);
        }
        for sql in ["BEGIN", "ATTACH 'app' AS m", "PRAGMA cache_size = 5"] {
            assert!(
                local.query_with(ReadLevel::LOCAL, sql, ()).is_err(),
                "{sql}"
            );
        }
        let error = local
            .query_with(ReadLevel::LOCAL, "SELECT nonsense FROM t", ())
            .unwrap_err();
        assert!(error.to_string().contains("no such column"), "{error}");
        assert_eq!(count(&local, ReadLevel::LOCAL), Ok(20));
    }
}

#[test]
fn a_node_without_a_leader_says_how_old_its_state_is() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader_place();
    let index = cluster.leader().status().unwrap().commit.0;
    let local = cluster.followers()[0].database("app").unwrap();
    assert_eq!(count(&local, at_least(index)), Ok(0));
    let bound = Duration::from_millis(300);
    assert_eq!(count(&local, fresh_within(bound)), Ok(0));
    let own = cluster.followers()[0].status().unwrap().id.0;
    for place in 0..3 {
        if place as u64 + 1 != own {
            cluster.nodes[place].take().unwrap().stop().unwrap();
        }
    }
    assert!(cluster.nodes[leader].is_none());
    std::thread::sleep(bound * 2);
    let error = count(&local, fresh_within(bound)).unwrap_err();
    assert!(
        matches!(error, Error::TooStale { age_ms, limit_ms: 300 } if age_ms > 300),
        "{error}"
    );
    assert_eq!(count(&local, ReadLevel::LOCAL), Ok(0), "but it answers");
}

/// A leader that has lost its followers runs on for a while; what it executes is never told.
#[test]
fn what_is_not_committed_is_not_read() {
    for level in [ReadLevel::LOCAL, ReadLevel::Leader] {
        let mut cluster = Cluster::start();
        let leader = cluster.leader_place();
        let database = cluster.leader().database("app").unwrap();
        assert_eq!(count(&database, level), Ok(0));
        for (place, node) in cluster.nodes.iter_mut().enumerate() {
            if place != leader {
                node.take().unwrap().stop().unwrap();
            }
        }
        std::thread::scope(|scope| {
            let writer = database.clone();
            let written = scope.spawn(move || writer.execute("INSERT INTO t VALUES (1)", ()));
            let begun = Instant::now();
            let mut answers = 0;
            while begun.elapsed() < Duration::from_millis(1_500) {
                match count(&database, level) {
                    Ok(0) => answers += 1,
                    Err(Error::NotLeader { .. } | Error::Busy { .. }) => {}
                    other => panic!("{level:?}: {other:?}"),
                }
            }
            // The state before it is committed, and told without waiting for anything.
            assert!(answers > 0, "{level:?}");
            let error = written.join().unwrap().unwrap_err();
            assert!(
                matches!(error, Error::OutcomeUnknown | Error::NotLeader { .. }),
                "{error}"
            );
        });
    }
}

#[test]
fn readers_on_many_threads_see_whole_transactions() {
    // Three nodes and their readers share the cores: nobody is to stand too soon.
    let cluster = Cluster::start_with(Duration::from_secs(2));
    let leader = cluster.leader();
    let database = leader.database("app").unwrap();
    database
        .execute(
            "CREATE TABLE pair (a, b); INSERT INTO pair VALUES (0, 0)",
            (),
        )
        .unwrap();
    let index = leader.status().unwrap().commit.0;
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for node in &cluster.nodes {
            for _ in 0..2 {
                let (stop, reads) = (&stop, &reads);
                let local = node.as_ref().unwrap().database("app").unwrap();
                scope.spawn(move || {
                    local.query_with(at_least(index), COUNT, ()).unwrap();
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let sql = "SELECT a, b FROM pair";
                        let rows = local.query_with(ReadLevel::LOCAL, sql, ()).unwrap();
                        let row = rows.first().unwrap();
                        let (a, b) = (row.get::<i64>(0).unwrap(), row.get::<i64>(1).unwrap());
                        assert_eq!(a, b, "half a transaction");
                        assert!(a >= last, "time goes backwards");
                        last = a;
                        reads.fetch_add(1, Ordering::Relaxed);
                        // The three nodes need the cores too.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            }
        }
        let _stop_anyway = StopOnDrop(&stop);
        for _ in 0..100 {
            let transaction = database.transaction().unwrap();
            transaction
                .execute("UPDATE pair SET a = a + 1", ())
                .unwrap();
            transaction
                .execute("UPDATE pair SET b = b + 1", ())
                .unwrap();
            transaction.commit().unwrap();
        }
    });
    assert!(reads.into_inner() > 200);
}

/// Stops the readers also when a check panics meanwhile.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_read_ends_at_the_limit_of_snapshots() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path())
        .segment_bytes(4 << 20)
        .snapshot_time(Duration::from_millis(200))
        .start()
        .unwrap();
    let database = node.database("app").unwrap();
    database.execute("CREATE TABLE t (x)", ()).unwrap();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                   SELECT count(*) FROM n, t";
    database.execute("INSERT INTO t VALUES (1)", ()).unwrap();
    for level in [ReadLevel::LOCAL, ReadLevel::Leader, ReadLevel::Linearizable] {
        let begun = Instant::now();
        let error = database.query_with(level, endless, ()).unwrap_err();
        assert!(
            error.to_string().contains("snapshot too old"),
            "{level:?}: {error}"
        );
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    assert_eq!(count(&database, ReadLevel::LOCAL), Ok(1));
}

/// What threads got done beside a writer.
#[derive(Clone, Copy)]
struct Throughput {
    /// Rounds of work in a second, of all threads.
    total: f64,
    /// The same for the time that they were on a core, which leaves out what they waited for.
    on_core: f64,
}

/// For how long this thread was on a core.
fn on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = text.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}

/// What `threads` threads get done with `work`, which is told their numbers and those of its rounds,
/// while 500 rows are written a second.
fn beside_a_writer(
    database: &Database,
    threads: usize,
    time: Duration,
    work: impl Fn(usize, u32) + Sync,
) -> Throughput {
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let workers = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (stop, work) = (&stop, &work);
                scope.spawn(move || {
                    let (begun, before) = (Instant::now(), on_core());
                    let mut rounds = 0;
                    while !stop.load(Ordering::Relaxed) {
                        work(thread, rounds);
                        rounds += 1;
                    }
                    let (took, ran) = (begun.elapsed(), on_core() - before);
                    let rounds = f64::from(rounds);
                    Throughput {
                        total: rounds / took.as_secs_f64(),
                        on_core: rounds / ran.as_secs_f64(),
                    }
                })
            })
            .collect();
        let mut written = 0;
        {
            let _stop_anyway = StopOnDrop(&stop);
            while begun.elapsed() < time {
                let due = Duration::from_millis(2 * written);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                database
                    .execute("INSERT INTO t VALUES (?)", params![written as i64])
                    .unwrap();
                written += 1;
            }
        }
        let workers: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect();
        let rate = written as f64 / begun.elapsed().as_secs_f64();
        print!("[{rate:.0} commits/s] ");
        workers
    });
    Throughput {
        total: workers.iter().map(|worker| worker.total).sum(),
        on_core: workers.iter().map(|worker| worker.on_core).sum(),
    }
}

/// What the second core adds to readers, and what it adds to loops that share nothing, in windows
/// that take turns. The first is the figure; on a machine that does other things too, its quotient
/// by the second tells how much of a loss is the readers' own. It prints for each window the
/// commits per second beside it, for each round both throughputs and both ratios, and the medians.
///
/// To be run with `--release`.
#[test]
#[ignore = "a measurement, for a machine with two cores or more"]
fn two_readers_read_more_than_one() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(data.path()).start().unwrap();
    let database = node.database("app").unwrap();
    database
        .execute(
            "CREATE TABLE t (x); CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10100)
             INSERT INTO item SELECT i, hex(randomblob(50)) FROM n",
            (),
        )
        .unwrap();
    let read = |thread: usize, round: u32| {
        let id = (thread as i64 * 7_919 + i64::from(round) * 104_729) % 10_000;
        let sql = "SELECT sum(length(body)) FROM item WHERE id BETWEEN ?1 AND ?1 + 20";
        database
            .query_with(ReadLevel::LOCAL, sql, params![id])
            .unwrap();
    };
    let spin = |_, round: u32| {
        let mut hash = u64::from(round);
        for _ in 0..2_000 {
            hash = std::hint::black_box(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (hash >> 31));
        }
    };
    let time = Duration::from_millis(400);
    beside_a_writer(&database, 2, time, read);
    let mut rounds: Vec<[f64; 3]> = (0..9)
        .map(|_| {
            let one = beside_a_writer(&database, 1, time, read);
            let one_loop = beside_a_writer(&database, 1, time, spin);
            let two = beside_a_writer(&database, 2, time, read);
            let two_loops = beside_a_writer(&database, 2, time, spin);
            let ratios = [
                two.total / one.total,
                two_loops.total / one_loop.total,
                two.on_core / one.on_core,
            ];
            println!(
                "1 reader {:.0}/s, 2 readers {:.0}/s, ratio {:.2}; loops {:.2}; on a core {:.2}",
                one.total, two.total, ratios[0], ratios[1], ratios[2],
            );
            ratios
        })
        .collect();
    let mut median = |place: usize| {
        rounds.sort_by(|left, right| left[place].total_cmp(&right[place]));
        rounds[rounds.len() / 2][place]
    };
    let (readers, loops, on_core) = (median(0), median(1), median(2));
    println!(
        "medians: readers {readers:.2}, loops {loops:.2}, readers by loops {:.2}, readers for the \
         time on a core {on_core:.2}",
        readers / loops
    );
    assert!(readers >= 1.6, "the second core adds too little");
}

/// What a reader was told stays: on whatever node, in order, and across the loss of a leader.
#[test]
fn what_was_read_is_never_lost_and_never_goes_back() {
    let mut cluster = Cluster::start();
    let database = cluster.leader().database("app").unwrap();
    database
        .execute(
            "CREATE TABLE step (n INTEGER); INSERT INTO step VALUES (0)",
            (),
        )
        .unwrap();
    let stop = AtomicBool::new(false);
    // The newest number that anybody was told, by a reader or by the writer's own answer.
    let told = AtomicI64::new(0);
    let killed = cluster.leader_place();
    let before = cluster.leader().status().unwrap().commit.0;
    let databases: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| node.as_ref().unwrap().database("app").unwrap())
        .collect();
    let leaving = cluster.nodes[killed].take().unwrap();
    let survivor = std::thread::scope(|scope| {
        let readers: Vec<_> = databases
            .iter()
            .enumerate()
            .map(|(place, local)| {
                let (stop, told) = (&stop, &told);
                scope.spawn(move || {
                    let mut reads = 0;
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let level = match (place == killed, reads % 2) {
                            (true, 0) => ReadLevel::Leader,
                            _ => at_least(before),
                        };
                        match local.query_with(level, "SELECT n FROM step", ()) {
                            Ok(rows) => {
                                let n: i64 = rows.first().unwrap().get(0).unwrap();
                                assert!(n >= last, "time goes backwards: {last}, then {n}");
                                last = n;
                                told.fetch_max(n, Ordering::SeqCst);
                                reads += 1;
                            }
                            Err(_) if place == killed => {}
                            Err(error) => panic!("{error}"),
                        }
                        std::thread::sleep(Duration::from_micros(300));
                    }
                    reads
                })
            })
            .collect();
        let _stop_anyway = StopOnDrop(&stop);
        let update = "UPDATE step SET n = n + 1";
        for n in 1..=150 {
            database.execute(update, ()).unwrap();
            told.fetch_max(n, Ordering::SeqCst);
            // Whoever was told of a write reads it at this node.
            let seen = database.query_with(ReadLevel::Leader, "SELECT n FROM step", ());
            let seen: i64 = seen.unwrap().first().unwrap().get(0).unwrap();
            assert_eq!(seen, n, "the own write is not read");
        }
        // In the middle of many writes.
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let database = database.clone();
                scope.spawn(move || while database.execute(update, ()).is_ok() {})
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        leaving.stop().unwrap();
        for writer in writers {
            writer.join().unwrap();
        }
        let survivor = loop {
            let leads = cluster.nodes.iter().flatten().find(|node| {
                let status = node.status();
                status.is_some_and(|status| {
                    status.leader.is_some_and(|leader| leader.id == status.id)
                })
            });
            if let Some(node) = leads {
                break node.database("app").unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 10);
        }
        survivor
    });
    let rows = survivor.query("SELECT n FROM step", ()).unwrap();
    let n: i64 = rows.first().unwrap().get(0).unwrap();
    let told = told.into_inner();
    assert!(n >= told && told >= 150, "{told} was read, and {n} is left");
}

/// The WAL may not grow for as long as a read takes.
#[test]
fn a_read_that_keeps_a_full_wal_from_being_restarted_is_ended() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(directory.path()).start().unwrap();
    let database = node.database("app").unwrap();
    database
        .execute("CREATE TABLE t (x INTEGER PRIMARY KEY, y BLOB)", ())
        .unwrap();
    database
        .execute("INSERT INTO t VALUES (1, NULL)", ())
        .unwrap();
    let reading = node.database("app").unwrap();
    let reader = std::thread::spawn(move || {
        let began = Instant::now();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT count(*) FROM n, t";
        let error = reading.query_with(ReadLevel::LOCAL, endless, ());
        (error.unwrap_err().to_string(), began.elapsed())
    });
    let began = Instant::now();
    while !reader.is_finished() {
        database
            .execute("UPDATE t SET y = randomblob(2000000) WHERE x = 1", ())
            .unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "the WAL grows");
    }
    let (error, took) = reader.join().unwrap();
    assert!(error.contains("snapshot too old"), "{error}");
    assert!(took < Duration::from_secs(20), "only by time");
}

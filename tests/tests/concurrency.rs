//! Many clients at once: writers queue and never fail, readers see whole transactions only, and
//! nobody can hold the write lock for ever.
//!
//! `TRANSFERS` sets how many transfers each writer makes (40 unless told), `WRITERS` and `READERS`
//! how many there are (16 and 4).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlite::local_cluster::LocalCluster;
use ringlite::{Client, ClientError, ClientOptions, Value};
use ringlite_tests::{process, scene};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DATABASE: &str = "bank";
const ACCOUNTS: i64 = 8;
const BALANCE: i64 = 1_000;
const SUM: &str = "SELECT sum(balance) FROM accounts";

/// How long a request waits for the write lock, and a transaction may idle with it.
const WAIT_LIMIT: Duration = Duration::from_secs(5);
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// The SQLite result codes that clients are promised.
const BUSY: u64 = 5;
const BUSY_SNAPSHOT: u64 = 517;
const ABORT_ROLLBACK: u64 = 516;

struct Bank {
    cluster: LocalCluster,
    _directory: TempDir,
}

impl Bank {
    fn start(nodes: usize) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut cluster = scene::start(PROGRAM, directory.path(), nodes);
        let mut client = scene::open(&mut cluster, DATABASE);
        client
            .execute(
                "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER); \
                 CREATE TABLE transfers (id INTEGER PRIMARY KEY, writer INTEGER, number INTEGER)",
                &[],
            )
            .unwrap();
        for id in 0..ACCOUNTS {
            let row = [id, BALANCE].map(Value::Integer);
            client
                .execute("INSERT INTO accounts VALUES (?, ?)", &row)
                .unwrap();
        }
        Self {
            cluster,
            _directory: directory,
        }
    }

    fn client(&mut self) -> Client {
        scene::open(&mut self.cluster, DATABASE)
    }

    /// Clients that were told of the nodes in different orders.
    fn clients(&mut self, count: usize) -> Vec<Client> {
        let addresses = self.cluster.addresses();
        (0..count)
            .map(|number| {
                let mut known = addresses.clone();
                known.rotate_left(number % addresses.len());
                let mut client = Client::connect(&known, ClientOptions::default()).unwrap();
                client.open(DATABASE).unwrap();
                client
            })
            .collect()
    }
}

fn note(client: &mut Client, writer: i64, number: i64) -> Result<(), ClientError> {
    let row = [writer, number].map(Value::Integer);
    client
        .execute("INSERT INTO transfers (writer, number) VALUES (?, ?)", &row)
        .map(drop)
}

/// One transfer between two accounts in a statement of its own, or in a transaction of several.
fn transfer(client: &mut Client, writer: i64, number: i64) -> Result<(), ClientError> {
    let (from, to) = (
        (writer + number) % ACCOUNTS,
        (writer * 3 + number * 5 + 1) % ACCOUNTS,
    );
    if number % 2 == 0 {
        let move_one = "UPDATE accounts SET balance = balance - (id = ?1) + (id = ?2) \
                        WHERE id IN (?1, ?2)";
        client.execute(move_one, &[from, to].map(Value::Integer))?;
        return note(client, writer, number);
    }
    let begin = ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"][(number % 3) as usize];
    client.execute(begin, &[])?;
    let change = "UPDATE accounts SET balance = balance + ?2 WHERE id = ?1 RETURNING balance";
    client.query(change, &[Value::Integer(from), Value::Integer(-1)])?;
    note(client, writer, number)?;
    client.query(change, &[Value::Integer(to), Value::Integer(1)])?;
    client.execute("COMMIT", &[]).map(drop)
}

/// Sees the same sum whatever it does, until `stop`; returns how often it looked.
fn watch(mut client: Client, in_transactions: bool, stop: &AtomicBool) -> usize {
    let pause = Duration::from_millis(process::size("READER_PAUSE_MS", 0) as u64);
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        if in_transactions {
            client.execute("BEGIN DEFERRED", &[]).unwrap();
            let before = client.query("SELECT * FROM accounts", &[]).unwrap().rows;
            assert_eq!(scene::integer(&mut client, SUM), ACCOUNTS * BALANCE);
            thread::sleep(Duration::from_millis(2));
            let after = client.query("SELECT * FROM accounts", &[]).unwrap().rows;
            assert_eq!(before, after, "a transaction sees one state");
            client.execute("COMMIT", &[]).unwrap();
        } else {
            assert_eq!(scene::integer(&mut client, SUM), ACCOUNTS * BALANCE);
        }
        looks += 1;
        thread::sleep(pause);
    }
    looks
}

#[test]
fn writers_queue_and_none_is_told_that_the_database_is_locked() {
    let writers = process::size("WRITERS", 16);
    let readers = process::size("READERS", 4);
    let transfers = i64::try_from(process::size("TRANSFERS", 40)).unwrap();
    let mut bank = Bank::start(3);
    let sent = i64::try_from(writers).unwrap() * transfers;
    let readers = bank.clients(readers);
    let writers = bank.clients(writers);
    let stop = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let stop = &stop;
        let readers: Vec<_> = readers
            .into_iter()
            .enumerate()
            .map(|(number, client)| scope.spawn(move || watch(client, number % 2 == 0, stop)))
            .collect();
        let writers: Vec<_> = (0..)
            .zip(writers)
            .map(|(writer, mut client)| {
                scope.spawn(move || {
                    for number in 0..transfers {
                        if let Err(error) = transfer(&mut client, writer, number) {
                            return Err((writer, number, error));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let written: Vec<_> = writers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        for result in written {
            assert!(matches!(result, Ok(Ok(()))), "a writer failed: {result:?}");
        }
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .min()
    });
    assert!(looks > Some(10), "a reader looked only {looks:?} times");
    let mut client = bank.client();
    let count = "SELECT count(*) FROM (SELECT DISTINCT writer, number FROM transfers)";
    assert_eq!(scene::integer(&mut client, count), sent);
    let count = "SELECT count(*) FROM transfers";
    assert_eq!(scene::integer(&mut client, count), sent);
    assert_eq!(scene::integer(&mut client, SUM), ACCOUNTS * BALANCE);
    scene::assert_identical(&mut bank.cluster, DATABASE);
    println!("{sent} transfers, and at least {looks:?} looks of each reader");
}

#[test]
fn writers_go_in_the_order_in_which_they_came() {
    const WAITING: usize = 8;
    let mut bank = Bank::start(1);
    let mut holder = bank.client();
    let clients = bank.clients(WAITING);
    holder.execute("BEGIN IMMEDIATE", &[]).unwrap();
    thread::scope(|scope| {
        for (writer, mut client) in (0..).zip(clients) {
            scope.spawn(move || {
                // Every other one waits with its BEGIN, and then takes its time.
                if writer % 2 == 1 {
                    client.execute("BEGIN", &[]).unwrap();
                    thread::sleep(Duration::from_millis(20));
                }
                note(&mut client, writer, 0).unwrap();
                if writer % 2 == 1 {
                    client.execute("COMMIT", &[]).unwrap();
                }
            });
            thread::sleep(Duration::from_millis(40));
        }
        holder.execute("COMMIT", &[]).unwrap();
    });
    let order = bank
        .client()
        .query("SELECT writer FROM transfers ORDER BY id", &[]);
    let order = order.unwrap().rows.concat();
    assert_eq!(
        order,
        (0..WAITING as i64).map(Value::Integer).collect::<Vec<_>>()
    );
}

#[test]
fn a_client_that_dies_in_a_write_transaction_frees_the_lock_at_once() {
    let mut bank = Bank::start(3);
    for round in 0..5 {
        let mut dying = bank.client();
        dying.execute("BEGIN", &[]).unwrap();
        note(&mut dying, 666, round).unwrap();
        let mut waiting = bank.client();
        let waited = thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                let start = Instant::now();
                note(&mut waiting, 1, round).unwrap();
                start.elapsed()
            });
            thread::sleep(Duration::from_millis(100));
            assert!(!waiting.is_finished(), "the lock is held");
            drop(dying);
            waiting.join().unwrap()
        });
        assert!(waited < Duration::from_millis(600), "it took {waited:?}");
    }
    let mut client = bank.client();
    let count = "SELECT count(*) FROM transfers WHERE writer = 666";
    assert_eq!(scene::integer(&mut client, count), 0);
    let count = "SELECT count(*) FROM transfers";
    assert_eq!(scene::integer(&mut client, count), 5);
    scene::assert_identical(&mut bank.cluster, DATABASE);
}

/// The one slow test: both limits of the write lock, with real clocks.
#[test]
fn a_client_that_idles_with_the_write_lock_is_rolled_back_and_told() {
    let mut bank = Bank::start(1);
    let mut idle = bank.client();
    let [mut early, mut late, mut reader] = [bank.client(), bank.client(), bank.client()];
    idle.execute("BEGIN", &[]).unwrap();
    note(&mut idle, 0, 0).unwrap();
    let start = Instant::now();
    let slack = Duration::from_millis(1_500);

    // A writer waits for five seconds, and is then told that it has changed nothing.
    let error = note(&mut early, 1, 0).unwrap_err();
    let waited = start.elapsed();
    assert!(
        waited > WAIT_LIMIT - slack && waited < WAIT_LIMIT + slack,
        "{waited:?}"
    );
    let ClientError::Failure { code, message } = &error else {
        panic!("not a failure: {error}");
    };
    assert_eq!(*code, BUSY, "{message}");
    assert!(
        message.contains("write lock") && message.contains("retry"),
        "{message}"
    );
    assert!(!message.contains("database is locked"), "{message}");
    assert_eq!(scene::integer(&mut reader, SUM), ACCOUNTS * BALANCE);

    // One that comes later goes on once the idle transaction is rolled back.
    thread::sleep((IDLE_LIMIT - WAIT_LIMIT) / 2);
    note(&mut late, 2, 0).unwrap();
    let waited = start.elapsed();
    assert!(
        waited > IDLE_LIMIT - slack && waited < IDLE_LIMIT + slack,
        "{waited:?}"
    );
    let error = idle.execute("COMMIT", &[]).unwrap_err();
    let ClientError::Failure { code, message } = &error else {
        panic!("not a failure: {error}");
    };
    assert_eq!(*code, ABORT_ROLLBACK, "{message}");
    assert!(message.contains("idled too long"), "{message}");
    // It is told once, and the connection is of use again.
    note(&mut idle, 3, 0).unwrap();
    note(&mut early, 4, 0).unwrap();
    let writers = reader
        .query("SELECT writer FROM transfers ORDER BY id", &[])
        .unwrap();
    assert_eq!(writers.rows.concat(), [2, 3, 4].map(Value::Integer));
}

#[test]
fn a_transaction_that_has_read_and_writes_too_late_is_told_what_it_is() {
    let mut bank = Bank::start(1);
    let [mut late, mut other] = [bank.client(), bank.client()];
    for (number, prepared) in [(0, false), (1, true)] {
        late.execute("BEGIN DEFERRED", &[]).unwrap();
        assert_eq!(scene::integer(&mut late, SUM), ACCOUNTS * BALANCE);
        note(&mut other, 1, number).unwrap();
        let update = "UPDATE accounts SET balance = 0";
        let error = if prepared {
            let update = late.prepare(update).unwrap();
            late.execute_prepared(&update, &[]).unwrap_err()
        } else {
            late.execute(update, &[]).unwrap_err()
        };
        let ClientError::Failure { code, message } = &error else {
            panic!("not a failure: {error}");
        };
        assert_eq!(*code, BUSY_SNAPSHOT, "{message}");
        assert!(!message.contains("database is locked"), "{message}");
        assert!(
            message.contains("has read") && message.contains("BEGIN IMMEDIATE"),
            "{message}"
        );
        // Its snapshot is still good, and so is the connection.
        assert_eq!(scene::integer(&mut late, SUM), ACCOUNTS * BALANCE);
        late.execute("ROLLBACK", &[]).unwrap();
    }
    // One that is still the newest may write, and one that waited for the lock may too.
    late.execute("BEGIN DEFERRED", &[]).unwrap();
    assert_eq!(scene::integer(&mut late, SUM), ACCOUNTS * BALANCE);
    note(&mut late, 2, 0).unwrap();
    late.execute("COMMIT", &[]).unwrap();
    let count = "SELECT count(*) FROM transfers";
    assert_eq!(scene::integer(&mut late, count), 3);
}

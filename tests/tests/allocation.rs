//! SQLite runs out of memory: the N-th allocation inside it fails, once or a hundred times in a row,
//! while a node executes a transaction, for N = 1, 2, ... until the transaction passes without one.
//! The client is told that memory was short; the transaction is there as a whole or not at all, as
//! it was told; and the node serves on, or stops with a reason and comes back with everything.
//!
//! `ALLOCATION_TRIALS` sets how many transactions meet a failure (600 unless told).

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use ringlite::{Database, Error, Node};
use ringlite_tests::history::{Content, Statement, Twin};
use ringlite_tests::process;
use ringlite_tests::workload::{Action, Workload};
use rusqlite::ffi;

const SEED: u64 = 11;
const SEGMENT_BYTES: u64 = 4 << 20;
const FAILURES_IN_A_ROW: i64 = 100;

/// SQLite's own allocator.
struct Allocator {
    malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
}

static ALLOCATOR: OnceLock<Allocator> = OnceLock::new();
/// How many allocations there are until the first that fails; at or below 0, down to
/// `LAST_FAILURE`, each fails.
static UNTIL_FAILURE: AtomicI64 = AtomicI64::new(i64::MAX);
static LAST_FAILURE: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Whether this is the test's own thread, whose SQLite is the measure.
    static IS_TEST: Cell<bool> = const { Cell::new(false) };
}

fn is_failing() -> bool {
    if IS_TEST.get() {
        return false;
    }
    let until = UNTIL_FAILURE.fetch_sub(1, Ordering::Relaxed) - 1;
    until <= 0 && until >= LAST_FAILURE.load(Ordering::Relaxed)
}

unsafe extern "C" fn malloc(bytes: c_int) -> *mut c_void {
    match ALLOCATOR.get() {
        // SAFETY: it is SQLite's own function, with SQLite's argument.
        Some(allocator) if !is_failing() => unsafe { (allocator.malloc)(bytes) },
        _ => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn realloc(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    match ALLOCATOR.get() {
        // SAFETY: it is SQLite's own function, with SQLite's arguments.
        Some(allocator) if !is_failing() => unsafe { (allocator.realloc)(memory, bytes) },
        _ => std::ptr::null_mut(),
    }
}

/// Puts the failing allocator in front of SQLite's own. SQLite must not have been used yet.
fn install() {
    let mut methods = std::mem::MaybeUninit::<ffi::sqlite3_mem_methods>::zeroed();
    // SAFETY: SQLite is not initialised yet, and fills the structure in.
    let mut methods = unsafe {
        let result = ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, methods.as_mut_ptr());
        assert_eq!(result, ffi::SQLITE_OK);
        methods.assume_init()
    };
    let own = Allocator {
        malloc: methods.xMalloc.expect("SQLite has an allocator"),
        realloc: methods.xRealloc.expect("SQLite has an allocator"),
    };
    assert!(ALLOCATOR.set(own).is_ok(), "it is installed once");
    methods.xMalloc = Some(malloc);
    methods.xRealloc = Some(realloc);
    // SAFETY: SQLite is not initialised yet, and copies the structure, whose functions are those of
    // its own allocator but for the two above, which call it.
    let result = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods) };
    assert_eq!(result, ffi::SQLITE_OK);
}

/// Lets the `nth` allocation from now on fail, and as many as `in_a_row` from there.
fn fail_at(nth: i64, in_a_row: i64) {
    LAST_FAILURE.store(1 - in_a_row, Ordering::Relaxed);
    UNTIL_FAILURE.store(nth, Ordering::Relaxed);
}

/// Lets no allocation fail any more, and says whether one has.
fn fail_no_more() -> bool {
    UNTIL_FAILURE.swap(i64::MAX, Ordering::Relaxed) <= 0
}

/// A node in this process, and plain SQLite beside it.
struct Scene<'a> {
    data: &'a Path,
    node: Option<Node>,
    databases: BTreeMap<usize, Database>,
    twin: Twin,
    contents: BTreeMap<usize, Content>,
    stops: usize,
    sentences: BTreeSet<String>,
}

fn start(data: &Path) -> Node {
    let node = Node::builder(data).segment_bytes(SEGMENT_BYTES).start();
    node.expect("a node with memory starts")
}

fn name(database: usize) -> String {
    format!("d{database}")
}

impl Scene<'_> {
    fn act(&mut self, action: &Action) -> Result<(), Error> {
        match action {
            Action::Create(database) => {
                let node = self.node.as_ref().expect("the node runs");
                let created = node.database(&name(*database))?;
                self.databases.insert(*database, created);
                Ok(())
            }
            Action::Drop(database) => {
                let node = self.node.as_ref().expect("the node runs");
                node.drop_database(&name(*database))
            }
            Action::Transact(database, statements) => {
                let database = &self.databases[database];
                let run =
                    |statement: &Statement| (statement.sql.clone(), statement.parameters.clone());
                if let [begin, inner @ .., _commit] = statements.as_slice()
                    && begin.sql.starts_with("BEGIN")
                {
                    let transaction = database.transaction()?;
                    for (sql, parameters) in inner.iter().map(run) {
                        transaction.execute(&sql, parameters)?;
                    }
                    return transaction.commit();
                }
                for (sql, parameters) in statements.iter().map(run) {
                    database.execute(&sql, parameters)?;
                }
                Ok(())
            }
        }
    }

    /// Does an action while memory may be short; says whether it is done.
    fn act_and_check(&mut self, action: &Action, nth: i64, in_a_row: i64) -> (bool, bool) {
        fail_at(nth, in_a_row);
        let done = self.act(action);
        let has_failed = fail_no_more();
        let name_of_trial = format!("allocation {nth} and {in_a_row} in a row, {action:?}");
        let name_of_trial = name_of_trial.get(..200).unwrap_or(&name_of_trial);
        match &done {
            Ok(()) => {}
            Err(Error::Stopped) => {
                let node = self.node.take().expect("the node ran");
                let reason = node.wait().expect_err("it had a reason to stop");
                self.sentences.insert(reason.to_string());
                self.stops += 1;
                self.databases.clear();
                self.restart();
            }
            Err(error) => {
                assert!(has_failed, "{name_of_trial}: {error}");
                // SQLite says that it cannot open a file also when it has no memory for that.
                let is_memory = matches!(
                    error.code(),
                    ffi::SQLITE_NOMEM | ffi::SQLITE_IOERR_NOMEM | ffi::SQLITE_CANTOPEN
                );
                assert!(is_memory, "{name_of_trial}: {error} ({})", error.code());
                self.sentences.insert(error.to_string());
            }
        }
        let is_done = match (&done, action) {
            (Ok(()), _) => true,
            // Nobody knows what became of it.
            (Err(Error::Stopped), Action::Transact(database, _)) => {
                let found = self.content(*database);
                found != self.contents[database]
            }
            (Err(Error::Stopped), Action::Drop(database)) => !self.databases.contains_key(database),
            (Err(_), _) => false,
        };
        if is_done {
            let database = action.database();
            let content = match action {
                Action::Create(_) => Some(self.twin.create(&name(database))),
                Action::Transact(_, statements) => {
                    Some(self.twin.execute(&name(database), statements))
                }
                Action::Drop(_) => None,
            };
            match content {
                Some(content) => self.contents.insert(database, content),
                None => {
                    self.databases.remove(&database);
                    self.contents.remove(&database)
                }
            };
        }
        let databases: Vec<usize> = self.contents.keys().copied().collect();
        for database in databases {
            let found = self.content(database);
            assert_eq!(found, self.contents[&database], "{name_of_trial}: {done:?}");
        }
        (is_done, has_failed)
    }

    fn restart(&mut self) {
        let node = start(self.data);
        let there = node.databases().expect("the node serves");
        for database in self.contents.keys() {
            // Opening would create what was dropped just when the node stopped.
            if !there.iter().any(|entry| entry.name == name(*database)) {
                continue;
            }
            let opened = node.database(&name(*database));
            self.databases
                .insert(*database, opened.expect("a database is opened again"));
        }
        self.node = Some(node);
    }

    fn content(&self, database: usize) -> Content {
        let database = &self.databases[&database];
        let verdict = database.query("PRAGMA integrity_check", ());
        let verdict = verdict.expect("the node serves").into_values();
        assert_eq!(verdict, [[ringlite::Value::Text("ok".into())]]);
        Content::read(|sql| database.query(sql, ()).map(ringlite::Rows::into_values))
            .expect("the node serves")
    }
}

#[test]
fn short_memory_loses_nothing() {
    IS_TEST.set(true);
    install();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = directory.path().join("data");
    let mut scene = Scene {
        data: &data,
        node: Some(start(&data)),
        databases: BTreeMap::new(),
        twin: Twin::default(),
        contents: BTreeMap::new(),
        stops: 0,
        sentences: BTreeSet::new(),
    };
    let trials_max = process::size("ALLOCATION_TRIALS", 600);
    let mut workload = Workload::new(SEED);
    let (mut trials, mut actions, mut refusals, mut nth, mut step) = (0, 0, 0, 1, 1);
    while trials < trials_max {
        let action = workload.next_action();
        actions += 1;
        // Each transaction meets failures until it gets through; the next one, from where it did.
        loop {
            let in_a_row = [1, FAILURES_IN_A_ROW][trials % 2];
            let (is_done, has_failed) = scene.act_and_check(&action, nth, in_a_row);
            trials += usize::from(has_failed);
            refusals += usize::from(!is_done);
            if has_failed {
                nth += step;
            } else {
                // Past the last allocation: from the first one again, in other steps.
                nth = 1;
                step = step % 7 + 1;
            }
            if is_done {
                break;
            }
        }
    }
    println!(
        "{trials} failures of memory in {actions} transactions: {refusals} refused, {} times the \
         node stopped; it said {:#?}",
        scene.stops, scene.sentences
    );
    assert!(refusals > 0, "no transaction was short of memory");
    scene.databases.clear();
    let stopped = scene.node.take().map(Node::stop);
    assert!(matches!(stopped, Some(Ok(()))), "{stopped:?}");
}

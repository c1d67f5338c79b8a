//! What a commit costs in the VFS: SQLite's insert with its capture, and the apply on a follower.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use ringlite_vfs::{
    Capture, Database, PageSize, Vfs, VfsOptions, create_database_file, first_page,
};
use tempfile::TempDir;

/// The in-memory WAL is not emptied here, so that after so many frames a fresh database takes
/// over: with 4 KiB pages, 80 MiB.
const FRAMES_MAX: u32 = 20_000;
/// Transactions in one entry.
const COALESCED: usize = 64;
/// So many are timed at once, because reading the clock takes time too.
const RUN: u64 = 500;
const INSERT: &str = "INSERT INTO item (body) VALUES (?1)";
const BODY: [u8; 100] = [0xa5; 100];

/// A database that nobody else uses. Fields are dropped in order: the directory goes last.
struct Fixture {
    database: Database,
    _vfs: Vfs,
    _directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory can be made");
        let root = directory.path();
        let vfs = Vfs::register(VfsOptions::new(root, root)).expect("a VFS can be registered");
        create_database_file(root, "bench.db", &first_page(PageSize::DEFAULT))
            .expect("the file can be made");
        let database = vfs.open("bench.db").expect("the database opens");
        Self {
            database,
            _vfs: vfs,
            _directory: directory,
        }
    }

    /// One that SQL writes, with its table, and a connection to it.
    fn leader() -> (rusqlite::Connection, Self) {
        let fixture = Self::new();
        fixture.database.set_writable(true);
        let sql = fixture.database.connect().expect("SQLite connects");
        sql.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
            .expect("the table can be made");
        (sql, fixture)
    }

    fn is_full(&self) -> bool {
        self.database.wal_frames() >= FRAMES_MAX
    }
}

fn insert(sql: &rusqlite::Connection) {
    let mut statement = sql.prepare_cached(INSERT).expect("the statement is valid");
    statement.execute([&BODY[..]]).expect("the row goes in");
}

fn take(database: &Database) -> Capture {
    database.take_capture().expect("something has committed")
}

/// Times `work`, with a fresh `state` as soon as the WAL of the old one is full. That takes no part
/// in the time.
fn time<State>(
    bencher: &mut Bencher<'_>,
    fresh: impl Fn() -> State,
    is_full: impl Fn(&State) -> bool,
    work: impl Fn(&State),
) {
    let mut state = fresh();
    bencher.iter_custom(|iterations| {
        let mut left = iterations;
        let mut total = Duration::ZERO;
        while left > 0 {
            if is_full(&state) {
                state = fresh();
            }
            let run = left.min(RUN);
            let start = Instant::now();
            (0..run).for_each(|_| work(&state));
            total += start.elapsed();
            left -= run;
        }
        total
    });
}

fn capture(criterion: &mut Criterion) {
    criterion.bench_function("vfs/insert and capture", |bencher| {
        let is_full = |(_, fixture): &(_, Fixture)| fixture.is_full();
        time(bencher, Fixture::leader, is_full, |(sql, fixture)| {
            insert(sql);
            black_box(take(&fixture.database));
        });
    });
}

/// The change of one row that is there already: one page.
fn one_page() -> (Capture, Capture) {
    let (sql, leader) = Fixture::leader();
    insert(&sql);
    let before = take(&leader.database);
    sql.execute("UPDATE item SET body = zeroblob(100)", ())
        .expect("the row changes");
    let change = take(&leader.database);
    assert_eq!(change.pages.len(), 1);
    (before, change)
}

/// Many inserts, taken as one change.
fn coalesced() -> (Capture, Capture) {
    let (sql, leader) = Fixture::leader();
    insert(&sql);
    let before = take(&leader.database);
    for _ in 0..COALESCED {
        insert(&sql);
    }
    (before, take(&leader.database))
}

fn follower(before: &Capture) -> Fixture {
    let fixture = Fixture::new();
    apply_to(&fixture, before);
    fixture
}

fn apply_to(follower: &Fixture, change: &Capture) {
    let applied = follower.database.apply(&change.pages, change.page_count);
    black_box(applied.expect("the change fits"));
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vfs/apply");
    let changes = [
        ("one page", 1, one_page()),
        ("64 coalesced", COALESCED, coalesced()),
    ];
    for (name, transactions, (before, change)) in changes {
        group.throughput(Throughput::Elements(transactions as u64));
        group.bench_function(name, |bencher| {
            let fresh = || follower(&before);
            time(bencher, fresh, Fixture::is_full, |fixture| {
                apply_to(fixture, &change);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, capture, apply);
criterion_main!(benches);

//! What a one-row INSERT of a session costs on the shard's core: to its end on the thread, and in a
//! coroutine that could leave the core.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use ringlite::Value;
use ringlite::replica::DatabaseId;
use ringlite::replica::request::{
    Outcome, Ran, RequestId, SessionId, SessionOptions, Source, StatementId, Work,
};
use ringlite::sql::{Sql, Started};
use ringlite_raft::LogIndex;
use ringlite_vfs::PageSize;
use tempfile::TempDir;

/// The in-memory WAL is not emptied here, so that after so many runs a fresh database takes over.
const RUNS_MAX: u64 = 10_000;
const REQUEST: RequestId = RequestId {
    session: SessionId(1),
    serial: 1,
};

/// How a run is let go.
#[derive(Clone, Copy)]
enum How {
    ToItsEnd,
    Started,
}

struct Fixture {
    sql: Sql,
    _directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory can be made");
        let path: PathBuf = directory.path().into();
        let mut sql = Sql::new(path.clone(), path).expect("SQLite");
        sql.set_writable(true);
        let database = DatabaseId(LogIndex(1));
        sql.create_database(database, "bench.db", PageSize::DEFAULT)
            .expect("the database can be made");
        let mut fixture = Self {
            sql,
            _directory: directory,
        };
        let options = SessionOptions::default();
        fixture.run(How::ToItsEnd, Work::Connect { database, options });
        let create = "CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB NOT NULL)";
        let create = Work::Execute(Source::text(create, Vec::new()));
        fixture.run(How::ToItsEnd, create);
        let prepare = Work::Prepare {
            sql: "INSERT INTO item (body) VALUES (?1)".into(),
            allow_tail: false,
        };
        fixture.run(How::ToItsEnd, prepare);
        fixture
    }

    fn run(&mut self, how: How, work: Work) -> Ran {
        let ran = match how {
            How::ToItsEnd => self.sql.run(REQUEST, work, true),
            How::Started => match self.sql.start(REQUEST, work, true) {
                Started::Ran(ran) => ran,
                Started::Left { .. } => panic!("one row takes no millisecond"),
            },
        };
        assert!(matches!(ran.outcome, Outcome::Reply(_)), "{ran:?}");
        ran
    }

    fn insert(&mut self, how: How) -> Ran {
        self.run(
            how,
            Work::Execute(Source::Prepared {
                statement: StatementId(0),
                parameters: vec![Value::Blob(vec![0xa5; 100])],
            }),
        )
    }
}

fn inserts(bencher: &mut Bencher, how: How) {
    bencher.iter_custom(|iterations| {
        let mut took = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            let mut fixture = Fixture::new();
            let runs = left.min(RUNS_MAX);
            let begun = Instant::now();
            for _ in 0..runs {
                let ran = fixture.insert(how);
                assert!(!ran.captures.is_empty());
            }
            took += begun.elapsed();
            left -= runs;
        }
        took
    });
}

fn sql(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sql");
    group.throughput(Throughput::Elements(1));
    group.bench_function("insert, to its end", |bencher| {
        inserts(bencher, How::ToItsEnd);
    });
    group.bench_function("insert, may leave", |bencher| {
        inserts(bencher, How::Started);
    });
    group.finish();
}

criterion_group!(benches, sql);
criterion_main!(benches);

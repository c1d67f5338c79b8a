use super::*;
use crate::replica::request::{SessionOptions, Source, StatementId};

fn sql() -> (tempfile::TempDir, Sql) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    (directory, Sql::new(path.clone(), path).unwrap())
}

fn id(index: u64) -> DatabaseId {
    DatabaseId(LogIndex(index))
}

const SESSION: SessionId = SessionId(1);

fn run(sql: &mut Sql, work: Work) -> Outcome {
    let request = RequestId {
        session: SESSION,
        serial: 1,
    };
    sql.run(request, work, true).outcome
}

fn connected() -> (tempfile::TempDir, Sql) {
    let (directory, mut sql) = sql();
    sql.set_writable(true);
    sql.create_database(id(1), "app", PageSize::DEFAULT)
        .unwrap();
    let connect = Work::Connect {
        database: id(1),
        options: SessionOptions::default(),
    };
    let opened = run(&mut sql, connect);
    assert!(
        matches!(opened, Outcome::Reply(Reply::Opened)),
        "{opened:?}"
    );
    (directory, sql)
}

#[test]
fn the_file_of_a_successor_is_not_opened_as_that_of_its_predecessor() {
    let (directory, mut sql) = sql();
    sql.create_database(id(5), "app", PageSize::DEFAULT)
        .unwrap();
    sql.create_database(id(6), "other", PageSize::DEFAULT)
        .unwrap();
    sql.remove_database(id(5)).unwrap();
    sql.create_database(id(9), "app", PageSize::MIN).unwrap();
    // A file that is restored over another.
    sql.remove_database(id(6)).unwrap();
    let restore = RestoreId(LogIndex(10));
    sql.begin_restore(restore).unwrap();
    let page = ringlite_vfs::first_page(PageSize::DEFAULT);
    sql.write_restore(restore, page.into());
    sql.finish_restore(restore, id(11), "other")
        .unwrap()
        .unwrap();

    // The node ends here, and its manifest knows nothing of that.
    let path = directory.path().to_owned();
    let mut sql = Sql::new(path.clone(), path).unwrap();
    let mut opens = |index, name| {
        let opened = sql.open_database(id(index), name, PageSize::DEFAULT);
        opened.unwrap().is_some()
    };
    assert!(!opens(5, "app"));
    assert!(!opens(6, "other"));
    assert!(opens(9, "app"));
    assert!(opens(11, "other"));
}

#[test]
fn a_file_without_a_mark_is_what_its_name_says() {
    let (directory, mut sql) = sql();
    let page = ringlite_vfs::first_page(PageSize::DEFAULT);
    ringlite_vfs::create_database_file(directory.path(), "copy", &page).unwrap();
    let opened = sql.open_database(id(5), "copy", PageSize::DEFAULT);
    assert!(opened.unwrap().is_some());
}

/// A statement that takes some memory when it is compiled.
fn large(number: usize) -> String {
    vec![format!("SELECT {number}"); 400].join(" UNION ALL ")
}

fn prepare(sql: &mut Sql, number: usize) -> Outcome {
    run(
        sql,
        Work::Prepare {
            sql: large(number).into(),
            allow_tail: false,
        },
    )
}

#[test]
fn prepared_statements_are_bounded_in_memory_and_finalizing_makes_room() {
    let (_directory, mut sql) = connected();
    let mut prepared = 0;
    let refused = loop {
        match prepare(&mut sql, prepared) {
            Outcome::Reply(Reply::Prepared { .. }) => prepared += 1,
            other => break other,
        }
        assert!(prepared < 4_000, "memory has no bound");
    };
    let Outcome::Failed(Error::Busy { what }) = refused else {
        panic!("{refused:?}");
    };
    assert!(what.contains("16 MiB"), "{what}");
    println!("{prepared} statements of {} bytes", large(0).len());
    // The same after all have run and been finalized, however often.
    for round in 0..3 {
        let first = run(
            &mut sql,
            Work::Query {
                source: Source::Prepared {
                    statement: StatementId(0),
                    parameters: Vec::new(),
                },
                limit: crate::replica::request::RowLimit::Whole { bytes_max: 1 << 20 },
            },
        );
        assert!(matches!(first, Outcome::Reply(Reply::Rows(_))), "{first:?}");
        for number in 0..prepared {
            let statement = StatementId(number as u32);
            let done = run(&mut sql, Work::Finalize(statement));
            assert!(
                matches!(done, Outcome::Reply(Reply::Done)),
                "round {round}: {done:?}"
            );
        }
        for number in 0..prepared {
            let again = prepare(&mut sql, number);
            assert!(matches!(again, Outcome::Reply(_)), "{number}: {again:?}");
        }
        assert!(matches!(prepare(&mut sql, 0), Outcome::Failed(_)));
    }
}

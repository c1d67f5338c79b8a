//! The ends and beginnings of databases, around the moments of commit and of a loss of leadership.

use bytes::Bytes;
use ringlite_raft::{Entry, EntryKind, LogIndex, Message, Term};
use ringlite_vfs::PageSize;

use super::lone::{Lone, receive, sql_request};
use super::{INSERT, WHOLE, is_not_leader, stream};
use crate::error::Error;
use crate::replica::payload::{DatabaseAct, RestoreId, Section, decode, encode_act};
use crate::replica::request::{Admin, Reply, Request, RequestId, SessionId};
use crate::replica::{DatabaseId, Input};

const ADMIN: SessionId = SessionId(900);

fn administer(lone: &mut Lone, admin: Admin) -> RequestId {
    let (id, asked) = lone.ask(ADMIN, Request::Admin(admin));
    lone.turn([asked]);
    id
}

fn drop_app(lone: &mut Lone) -> RequestId {
    administer(lone, Admin::Drop { name: "app".into() })
}

fn is_gone(lone: &mut Lone, id: RequestId) -> bool {
    matches!(lone.reply(id), Err(Error::DatabaseGone { .. }))
}

/// What the newest entries are of, the last one last.
fn sections(lone: &Lone) -> Vec<Section> {
    let entries = lone.appends.iter().flat_map(|append| &append.entries);
    let data = entries.filter(|entry| entry.kind == EntryKind::Data);
    data.flat_map(|entry| decode(&entry.payload).unwrap())
        .collect()
}

#[test]
fn what_was_written_before_a_drop_comes_before_it_in_the_log() {
    let (mut lone, session) = Lone::leading(|_| ());
    let first = lone.execute(session, INSERT);
    // It gathers while the first one is written.
    let second = lone.execute(session, INSERT);
    let dropped = drop_app(&mut lone);
    let sections = sections(&lone);
    let [
        ..,
        Section::Pages(_),
        Section::Pages(_),
        Section::Act(DatabaseAct::Drop { .. }),
    ] = sections.as_slice()
    else {
        panic!("{sections:?}");
    };
    assert!(lone.answer(dropped).is_none(), "it is not committed");
    lone.commit_all();
    for id in [first, second] {
        assert!(matches!(lone.reply(id), Ok(Reply::Executed(_))));
    }
    assert_eq!(lone.reply(dropped), Ok(Reply::Done));
    assert!(lone.replica.databases().is_empty());
}

#[test]
fn nobody_is_told_of_a_drop_before_it_is_committed() {
    let (mut lone, session) = Lone::leading(|_| ());
    let second = lone.open(2);
    lone.execute(session, "BEGIN IMMEDIATE");
    lone.confirm();
    let parked = lone.execute(second, INSERT);
    let dropped = drop_app(&mut lone);
    let after = lone.execute(session, INSERT);
    lone.confirm();
    for id in [parked, dropped, after] {
        assert!(lone.answer(id).is_none(), "{:?}", lone.answer(id));
    }
    lone.commit_all();
    assert_eq!(lone.reply(dropped), Ok(Reply::Done));
    assert!(is_gone(&mut lone, parked));
    assert!(is_gone(&mut lone, after));
    let again = lone.execute(session, INSERT);
    assert_eq!(lone.reply(again), Err(Error::NoDatabaseOpened), "told once");
}

#[test]
fn a_drop_that_is_lost_with_leadership_has_not_happened() {
    let (mut lone, session) = Lone::leading(|_| ());
    let kept = lone.execute(session, INSERT);
    lone.commit_all();
    lone.reply(kept).unwrap();
    // Its connection's end, between two rows, commits into the WAL what never gets into the log.
    lone.query(
        session,
        "INSERT INTO t VALUES (7, 'x'), (8, 'x') RETURNING id",
        crate::replica::request::RowLimit::Batches { bytes: 1 },
    );
    let second = lone.open(2);
    let parked = lone.execute(second, INSERT);
    let before = lone.last();
    let dropped = drop_app(&mut lone);
    assert_eq!(lone.last(), before.next());
    // The next leader has another entry there.
    let noop = Entry {
        term: Term(2),
        index: before.next(),
        kind: EntryKind::Noop,
        payload: Bytes::new(),
    };
    let append = Message::Append {
        term: Term(2),
        prev_index: before,
        prev_term: Term(1),
        commit: before,
        matched_by_all: LogIndex::ZERO,
        entries: vec![noop],
    };
    lone.turn([receive(3, append)]);
    assert_eq!(lone.reply(dropped), Err(Error::OutcomeUnknown));
    assert!(is_not_leader(&mut lone, parked));
    let after = lone.execute(session, INSERT);
    assert!(is_not_leader(&mut lone, after));
    assert_eq!(lone.rows(), 1, "it is as it was");
    lone.win();
    let session = lone.open(3);
    let read = lone.query(session, "SELECT id FROM t", WHOLE);
    lone.confirm();
    assert!(matches!(lone.reply(read), Ok(Reply::Rows(batch)) if batch.rows.len() == 1));
}

#[test]
fn a_stream_on_a_database_that_is_dropped_ends_with_it() {
    let (mut lone, session) = Lone::leading(|_| ());
    stream(&mut lone, session);
    let dropped = drop_app(&mut lone);
    lone.commit_all();
    assert_eq!(lone.reply(dropped), Ok(Reply::Done));
    let (next, asked) = lone.ask(session, sql_request("SELECT 1"));
    lone.turn([asked]);
    lone.confirm();
    assert!(is_gone(&mut lone, next));
}

#[test]
fn a_name_is_free_as_soon_as_its_drop_is_in_the_log() {
    let (mut lone, _) = Lone::leading(|_| ());
    let old = lone.replica.databases()[0].id;
    let dropped = drop_app(&mut lone);
    let (opened, asked) = lone.ask(
        SessionId(5),
        Request::Open {
            database: "app".into(),
            create: true,
        },
    );
    lone.turn([asked]);
    lone.commit_all();
    lone.confirm();
    assert_eq!(lone.reply(dropped), Ok(Reply::Done));
    assert_eq!(lone.reply(opened), Ok(Reply::Opened));
    let new = lone.replica.databases()[0].id;
    assert!(new > old);
    let again = drop_app(&mut lone);
    let twice = drop_app(&mut lone);
    lone.commit_all();
    lone.confirm();
    assert_eq!(lone.reply(again), Ok(Reply::Done));
    assert!(matches!(lone.reply(twice), Err(Error::Misuse { .. })));
}

/// What the log holds counts, committed or not; and what follows from it is told when it is committed.
#[test]
fn whoever_opens_without_making_finds_what_the_log_holds() {
    let (mut lone, _) = Lone::leading(|_| ());
    let mut session = 10;
    let mut open = |lone: &mut Lone| {
        session += 1;
        let request = Request::Open {
            database: "new".into(),
            create: false,
        };
        let (id, asked) = lone.ask(SessionId(session), request);
        lone.turn([asked]);
        lone.confirm();
        id
    };
    let create = Admin::Create {
        name: "new".into(),
        page_size: PageSize::new(4096).unwrap(),
    };
    let created = administer(&mut lone, create);
    let opened = open(&mut lone);
    assert!(lone.answer(opened).is_none(), "it is not committed");
    lone.commit_all();
    lone.confirm();
    assert_eq!(lone.reply(created), Ok(Reply::Done));
    assert_eq!(lone.reply(opened), Ok(Reply::Opened));
    let dropped = administer(&mut lone, Admin::Drop { name: "new".into() });
    let refused = open(&mut lone);
    assert!(lone.answer(refused).is_none(), "it is not committed");
    lone.commit_all();
    lone.confirm();
    assert_eq!(lone.reply(dropped), Ok(Reply::Done));
    assert!(matches!(lone.reply(refused), Err(Error::Misuse { .. })));
    let names = lone.replica.databases().into_iter();
    assert_eq!(names.map(|known| known.name).collect::<Vec<_>>(), ["app"]);
}

fn follower_with(acts: Vec<DatabaseAct>) -> Lone {
    let mut lone = Lone::new(|_| ());
    let entries: Vec<_> = (1..)
        .zip(acts)
        .map(|(index, act)| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Data,
            payload: encode_act(&act),
        })
        .collect();
    let append = Message::Append {
        term: Term(1),
        prev_index: LogIndex(0),
        prev_term: Term(0),
        commit: LogIndex(entries.len() as u64),
        matched_by_all: LogIndex::ZERO,
        entries,
    };
    lone.turn([receive(3, append)]);
    lone
}

fn create(name: &str, page_size: u32) -> DatabaseAct {
    DatabaseAct::Create {
        name: name.to_owned(),
        page_size: PageSize::new(page_size).unwrap(),
    }
}

fn drop_of(index: u64) -> DatabaseAct {
    DatabaseAct::Drop {
        database: DatabaseId(LogIndex(index)),
    }
}

#[test]
fn drops_and_creations_of_one_name_in_one_batch_are_applied_in_order() {
    let lone = follower_with(vec![
        create("app", 512),
        drop_of(1),
        create("app", 8192),
        drop_of(1),
        create("app", 1024),
    ]);
    let databases = lone.replica.databases();
    assert_eq!(databases.len(), 1);
    // A second drop of the first one hits nobody, and neither does a second creation.
    assert_eq!(databases[0].id, DatabaseId(LogIndex(3)));
}

/// A whole database file of one page.
fn file() -> Bytes {
    ringlite_vfs::first_page(PageSize::DEFAULT).into()
}

fn restore_of(index: u64, name: &str, replaces: Option<u64>) -> Vec<DatabaseAct> {
    let restore = RestoreId(LogIndex(index));
    let (start, end) = (file().slice(..1000), file().slice(1000..));
    vec![
        DatabaseAct::BeginRestore { file_bytes: 4096 },
        DatabaseAct::RestoreChunk {
            restore,
            offset: 0,
            bytes: start,
        },
        DatabaseAct::RestoreChunk {
            restore,
            offset: 1000,
            bytes: end,
        },
        DatabaseAct::FinishRestore {
            restore,
            replaces: replaces.map(|index| DatabaseId(LogIndex(index))),
            name: name.to_owned(),
        },
    ]
}

#[test]
fn a_restored_file_takes_the_place_of_a_database_in_one_moment() {
    let mut acts = vec![create("app", 512)];
    acts.extend(restore_of(2, "app", Some(1)));
    let lone = follower_with(acts);
    let databases = lone.replica.databases();
    assert_eq!(databases.len(), 1);
    assert_eq!(databases[0].id, DatabaseId(LogIndex(5)));
    assert_eq!(lone.files(), ["app", "app.sum"]);
    assert_eq!(lone.replica.oldest_restore(), None);
}

#[test]
fn a_new_leader_s_noop_discards_what_is_unfinished_and_late_pieces_are_ignored() {
    let mut acts = restore_of(1, "app", None);
    acts.truncate(3);
    let mut lone = follower_with(acts);
    assert_eq!(lone.replica.oldest_restore(), Some(LogIndex(1)));
    assert_eq!(lone.files(), ["restore-1"]);
    let noop = Entry {
        term: Term(2),
        index: LogIndex(4),
        kind: EntryKind::Noop,
        payload: Bytes::new(),
    };
    let finish = Entry {
        term: Term(2),
        index: LogIndex(5),
        kind: EntryKind::Data,
        payload: encode_act(restore_of(1, "app", None).last().unwrap()),
    };
    let append = Message::Append {
        term: Term(2),
        prev_index: LogIndex(3),
        prev_term: Term(1),
        commit: LogIndex(5),
        matched_by_all: LogIndex::ZERO,
        entries: vec![noop, finish],
    };
    lone.turn([receive(3, append)]);
    assert_eq!(lone.replica.oldest_restore(), None);
    assert!(lone.files().is_empty());
    assert!(lone.replica.databases().is_empty());
}

fn begin_restore(lone: &mut Lone, replace: bool) -> RequestId {
    administer(
        lone,
        Admin::BeginRestore {
            name: "app".into(),
            file_bytes: 4096,
            replace,
        },
    )
}

fn is_misuse(lone: &mut Lone, id: RequestId) -> bool {
    lone.confirm();
    matches!(lone.reply(id), Err(Error::Misuse { .. }))
}

#[test]
fn a_leader_restores_what_it_is_sent_when_it_is_committed() {
    let (mut lone, session) = Lone::leading(|_| ());
    let refused = begin_restore(&mut lone, false);
    assert!(is_misuse(&mut lone, refused), "there is a database");
    let begun = begin_restore(&mut lone, true);
    assert!(lone.answer(begun).is_none());
    assert!(lone.files().iter().all(|name| name.starts_with("app")));
    lone.commit_all();
    assert_eq!(lone.reply(begun), Ok(Reply::Done));
    let sent = administer(&mut lone, Admin::RestoreChunk(file()));
    lone.commit_all();
    assert_eq!(lone.reply(sent), Ok(Reply::Done));
    let written = lone.execute(session, INSERT);
    let finished = administer(&mut lone, Admin::FinishRestore);
    lone.commit_all();
    assert_eq!(lone.reply(finished), Ok(Reply::Done));
    assert!(matches!(lone.reply(written), Ok(Reply::Executed(_))));
    let session = lone.open(2);
    let read = lone.query(session, "SELECT name FROM sqlite_schema", WHOLE);
    lone.confirm();
    assert!(matches!(lone.reply(read), Ok(Reply::Rows(batch)) if batch.rows.is_empty()));
}

#[test]
fn a_restore_ends_with_its_client_its_patience_and_its_leadership() {
    let (mut lone, _) = Lone::leading(|config| config.restore_idle_ticks = 3);
    for end in 0..3 {
        let begun = begin_restore(&mut lone, true);
        lone.commit_all();
        assert_eq!(lone.reply(begun), Ok(Reply::Done));
        assert!(lone.replica.oldest_restore().is_some());
        match end {
            0 => lone.turn([Input::SessionClosed { session: ADMIN }]),
            1 => {
                for _ in 0..5 {
                    lone.turn([Input::Tick]);
                }
            }
            _ => {
                let deposed = lone.deposed();
                lone.turn([deposed]);
                lone.win();
            }
        }
        lone.commit_all();
        assert_eq!(lone.replica.oldest_restore(), None, "{end}");
        assert_eq!(lone.files(), ["app", "app.sum"]);
        let late = administer(&mut lone, Admin::RestoreChunk(file()));
        lone.confirm();
        assert!(lone.reply(late).is_err());
    }
}

#[test]
fn a_file_that_is_none_is_refused_before_anything_of_it_is_in_the_log() {
    let (mut lone, _) = Lone::leading(|_| ());
    for bytes in [
        Bytes::from_static(&[0x5a; 4096]),
        file().slice(..99),
        Bytes::from([file().as_ref(), &[0]].concat()),
        Bytes::new(),
    ] {
        let begun = begin_restore(&mut lone, true);
        lone.commit_all();
        assert_eq!(lone.reply(begun), Ok(Reply::Done));
        let refused = administer(&mut lone, Admin::RestoreChunk(bytes));
        lone.commit_all();
        assert!(is_misuse(&mut lone, refused));
        let finished = administer(&mut lone, Admin::FinishRestore);
        assert!(is_misuse(&mut lone, finished));
        assert_eq!(lone.files(), ["app", "app.sum"]);
    }
}

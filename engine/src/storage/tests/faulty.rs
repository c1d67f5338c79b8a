//! A log that is damaged on the disk: who starts with it, what is owed, and how the log goes on.

use std::path::PathBuf;

use ringlite_raft::Debt;

use super::*;
use crate::storage::{ManifestDatabase, hard_state};

/// The directory of a log of 20 records of one block each, in the segments 1 and 2, that was cut behind
/// `base`; its hard state has term 3.
fn twenty(base: u64) -> tempfile::TempDir {
    let data = new_directory();
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin(&root).await;
        life.save(3);
        for index in 1..=20 {
            life.append(None, vec![entry(index, 1 + index / 15, 100)]);
            life.settle().await;
        }
        if base > 0 {
            life.save_start(base).await;
        }
        life.save(3);
        life.settle().await;
    });
    data
}

fn flip(root: &Path, segment: u64, at: u64) -> PathBuf {
    let path = root.join(format!("shard-0/log/{segment:016x}.seg"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at as usize] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    path
}

fn open(root: &Path, alone: bool) -> Result<Recovered, crate::storage::StorageError> {
    DataDirectory::open(root, &ALONE, SEGMENT_BYTES)
        .unwrap()
        .recover(alone)
}

fn debt_on_disk(root: &Path) -> Option<Debt> {
    let shard = root.join("shard-0");
    hard_state::load(&shard).unwrap().unwrap().debt
}

const OLD_END: Debt = Debt {
    term: Term(2),
    index: LogIndex(20),
};

#[test]
fn a_node_that_is_alone_refuses_and_changes_nothing() {
    let data = twenty(0);
    let path = flip(data.path(), 1, 4 * 4096 + 150);
    let log = || {
        let files = std::fs::read_dir(data.path().join("shard-0/log")).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = log();
    let said = open(data.path(), true)
        .err()
        .expect("a refusal")
        .to_string();
    let command = format!("ringlite recover {}", data.path().display());
    for part in [path.to_str().unwrap(), "offset 16384", "i5", &command] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(before == log(), "the log was touched");
    assert_eq!(debt_on_disk(data.path()), None);
}

#[test]
fn a_member_starts_below_the_fault_and_is_repaired() {
    let data = twenty(0);
    flip(data.path(), 1, 4 * 4096 + 150);
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
        assert_eq!(life.found.len(), 4);
        assert_eq!(debt_on_disk(&root), Some(OLD_END));
        life.append(None, (5..=19).map(|index| entry(index, 1, 10)).collect());
        life.settle().await;
        assert_eq!(debt_on_disk(&root), Some(OLD_END), "it is not repaired yet");
    });
    // The fault is history, the debt is not.
    let found = open(data.path(), false).unwrap();
    assert_eq!(
        (entries_of(&found).len(), found.restored_log().unwrap().debt),
        (19, Some(OLD_END))
    );
    let said = open(data.path(), true).err().expect("alone").to_string();
    assert!(said.contains("ringlite recover"), "{said}");
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
        life.append(None, vec![entry(20, 2, 10)]);
        life.settle().await;
        assert_eq!(debt_on_disk(&root), None);
    });
    assert_eq!(entries_of(&open(data.path(), true).unwrap()).len(), 20);
}

#[test]
fn a_crash_before_anything_was_written_finds_the_fault_again() {
    let data = twenty(0);
    flip(data.path(), 2, 150);
    for _ in 0..3 {
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
            assert_eq!(life.found.len(), 16);
            // Its durable mark falls below what it owes.
            life.save(4);
            life.settle().await;
        });
        assert_eq!(debt_on_disk(data.path()), Some(OLD_END));
    }
}

/// Only the durable mark tells of an epoch whose one record is damaged beyond recognition. It has to go
/// on doing so: else what that epoch had voided would come back with the next start.
#[test]
fn an_epoch_that_is_gone_is_missed_at_each_start() {
    let data = new_directory();
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin(&root).await;
        life.append(None, (1..=6).map(|index| entry(index, 1, 10)).collect());
        life.settle().await;
        life.append(Some(3), vec![entry(3, 2, 10)]);
        life.save(2);
        life.settle().await;
    });
    flip(data.path(), 2, 5);
    for start in 1..=3 {
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
            assert_eq!(life.found.len(), 0, "start {start}");
            life.save(3);
            life.settle().await;
        });
        assert!(debt_on_disk(data.path()).is_some(), "start {start}");
    }
}

/// 1 to 20 of the first epoch; 15 to 17 took the place of the last six; then a restart, and 18 and 19. The
/// file with 15 to 17 is gone: what the first epoch holds in their place was taken for them once.
#[test]
fn an_epoch_that_is_gone_in_the_middle_is_missed() {
    let data = twenty(0);
    for (truncate_from, term, indexes) in [(Some(15), 3, 15..=17), (None, 4, 18..=19)] {
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin(&root).await;
            let entries = indexes.map(|index| entry(index, term, 10)).collect();
            life.append(truncate_from, entries);
            life.save(term);
            life.settle().await;
        });
    }
    let whole = open(data.path(), true).unwrap();
    assert_eq!(entries_of(&whole).len(), 19);
    let segment_of = |index: usize| whole.log().records[index - 1].segment;
    let (gone, last) = (segment_of(15), segment_of(19));
    assert_eq!((segment_of(14), segment_of(17)), (1, gone));
    drop(whole);
    let path = |segment| data.path().join(format!("shard-0/log/{segment:016x}.seg"));
    std::fs::remove_file(path(gone)).unwrap();

    let said = open(data.path(), true)
        .err()
        .expect("a refusal")
        .to_string();
    let follows = format!("the epoch 4 in segment {last} follows on i17 of t3");
    for part in [path(2).to_str().unwrap(), "i17", &follows] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let end = Debt {
        term: Term(4),
        index: LogIndex(19),
    };
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
        // Nothing tells that any of it was committed.
        assert_eq!(life.found.len(), 0);
        assert_eq!(debt_on_disk(&root), Some(end));
        let entries = (1..=19).map(|index| entry(index, 1 + index / 18 * 3, 10));
        life.append(None, entries.collect());
        life.settle().await;
        assert_eq!(debt_on_disk(&root), None);
    });
    assert_eq!(entries_of(&open(data.path(), true).unwrap()).len(), 19);
}

#[test]
fn a_second_fault_does_not_shrink_the_debt() {
    let data = twenty(0);
    flip(data.path(), 1, 4 * 4096 + 150);
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
        life.append(None, vec![entry(5, 1, 10)]);
        life.append(None, vec![entry(6, 1, 10)]);
        life.settle().await;
    });
    flip(data.path(), 1, 150);
    let found = open(data.path(), false).unwrap();
    assert_eq!(found.restored_log().unwrap().debt, Some(OLD_END));
    assert_eq!(entries_of(&found).len(), 0);
}

/// The manifest of `data` says that the file of a database may hold everything up to `target`.
fn announce(data: &Path, target: u64) {
    let root = data.to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin(&root).await;
        life.manifest.databases.push(ManifestDatabase {
            id: 1,
            name: "db".into(),
            page_size: 4096,
            applied: LogIndex(1),
            target: LogIndex(target),
        });
        life.manifest_file.save(&life.manifest).await.unwrap();
    });
}

/// Else the node would refuse its vote to logs that hold everything it ever held, and more so with each
/// restart: the term of the hard state, by which a target would count, has no such end.
#[test]
fn what_a_file_may_hold_does_not_raise_a_debt_that_covers_it() {
    let data = twenty(0);
    announce(data.path(), 18);
    flip(data.path(), 1, 4 * 4096 + 150);
    for term in 4..7 {
        assert_eq!(open(data.path(), false).unwrap().last(), LogIndex(4));
        assert_eq!(debt_on_disk(data.path()), Some(OLD_END));
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
            life.save(term);
            life.settle().await;
        });
    }
}

#[test]
fn what_a_file_may_hold_beyond_the_end_of_the_log_is_owed() {
    let data = twenty(0);
    announce(data.path(), 25);
    let owed = Debt {
        term: Term(3),
        index: LogIndex(25),
    };
    assert_eq!(open(data.path(), false).unwrap().last(), LogIndex(20));
    assert_eq!(debt_on_disk(data.path()), Some(owed));
    flip(data.path(), 1, 4 * 4096 + 150);
    open(data.path(), false).unwrap();
    assert_eq!(debt_on_disk(data.path()), Some(owed));
}

/// What the base stands for is in the files of the databases; the manifest has its index and its term.
#[test]
fn a_member_whose_base_is_damaged_begins_the_log_anew_behind_it() {
    for block in [2, 7] {
        let data = twenty(8);
        flip(data.path(), 1, block * 4096 + 150);
        assert!(open(data.path(), true).is_err());
        for life in 0..2 {
            let root = data.path().to_owned();
            live(async move || {
                let (mut begun, _directory) = Life::begin_as(&root, SEGMENT_BYTES, false).await;
                assert_eq!(begun.found.len(), if life == 0 { 0 } else { 2 });
                if life == 0 {
                    assert_eq!(debt_on_disk(&root), Some(OLD_END));
                    assert_eq!(begun.log.start(), begun.manifest.log);
                    begun.append(None, vec![entry(9, 1, 10), entry(10, 1, 10)]);
                } else {
                    let missing = (11..=20).map(|index| entry(index, 1 + index / 15, 10));
                    begun.append(None, missing.collect());
                }
                begun.settle().await;
            });
        }
        let found = open(data.path(), true).unwrap();
        assert_eq!(
            (
                found.restored_log().unwrap().base.index.0,
                entries_of(&found).len()
            ),
            (8, 12)
        );
        assert_eq!(debt_on_disk(data.path()), None);
    }
}

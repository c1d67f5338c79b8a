//! Replacing the log by that of a snapshot: either log is found whole, wherever a crash comes.

use ringlite_raft::LogBase;

use super::*;
use crate::storage::StorageError;

const BASE: LogBase = LogBase {
    index: LogIndex(1000),
    term: Term(3),
};

/// A directory whose log was replaced by one that begins behind [`BASE`] and holds the entries 1001
/// to `last`; before, it held 40 entries, of which the end was marked as durable.
fn replaced(last: u64) -> tempfile::TempDir {
    let data = new_directory();
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, directory) = Life::begin(&root).await;
        life.append(None, (1..=40).map(|index| entry(index, 1, 100)).collect());
        life.save(2);
        life.settle().await;
        replace(&mut life, &directory).await;
        life.append(
            None,
            (1001..=last).map(|index| entry(index, 4, 100)).collect(),
        );
        life.settle().await;
    });
    data
}

async fn replace(life: &mut Life, directory: &DataDirectory) {
    let stand_in = ManifestFile::open(directory).await.unwrap().0;
    let file = std::mem::replace(&mut life.manifest_file, stand_in);
    let manifest = Manifest {
        installs: true,
        ..Manifest::default()
    };
    let (file, manifest) = life.writer.replace_log(BASE, file, manifest).await;
    assert_eq!((manifest.log.base, manifest.installs), (BASE, true));
    assert_eq!(life.log.start(), manifest.log);
    life.manifest_file = file;
    life.manifest = manifest;
}

fn recover(root: &Path) -> Result<Recovered, StorageError> {
    DataDirectory::open(root, &ALONE, SEGMENT_BYTES)
        .unwrap()
        .recover(true)
}

fn staged(root: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(root.join("shard-0/log")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "base"))
        .collect()
}

/// The segment that the manifest names.
fn first_segment(root: &Path) -> std::path::PathBuf {
    let number = recover(root).unwrap().manifest.log.segment;
    root.join(format!("shard-0/log/{number:016x}.seg"))
}

#[test]
fn the_new_log_is_found_and_goes_on_life_after_life() {
    let data = replaced(1010);
    for last in [1010, 1020, 1030] {
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin(&root).await;
            assert_eq!(life.manifest.log.base, BASE);
            let wanted: Vec<_> = (1001..=last).map(|index| entry(index, 4, 100)).collect();
            assert_eq!(life.found, wanted);
            assert_eq!(life.hard_state.term, Term(2), "promises are kept");
            let more = last + 1..=last + 10;
            life.append(None, more.map(|index| entry(index, 4, 100)).collect());
            // Long enough for the mark of the new epoch.
            life.settle().await;
            for _ in 0..9 {
                life.writer.tick();
            }
            life.save(2);
            life.settle().await;
        });
    }
}

#[test]
fn an_empty_new_log_is_no_damage() {
    let data = replaced(1000);
    let found = recover(data.path()).unwrap();
    assert_eq!(found.restored_log().unwrap().last, BASE.index);
    assert_eq!(found.restored_log().unwrap().base, BASE);
}

#[test]
fn the_new_log_is_truncated_and_cut_like_any_other() {
    let data = replaced(1010);
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin(&root).await;
        life.append(
            Some(1005),
            (1005..=1060).map(|index| entry(index, 5, 100)).collect(),
        );
        life.settle().await;
        life.cut(1050).await;
    });
    let found = recover(data.path()).unwrap();
    let wanted: Vec<_> = (1051..=1060).map(|index| entry(index, 5, 100)).collect();
    assert_eq!(entries_of(&found), wanted);
}

/// What a crash right before the manifest is saved leaves: the new beginning is there, and counts
/// for nothing.
#[test]
fn the_old_log_holds_as_long_as_the_manifest_says_so() {
    let data = new_directory();
    let root = data.path().to_owned();
    let old = live(async move || {
        let (mut life, directory) = Life::begin(&root).await;
        life.append(None, (1..=40).map(|index| entry(index, 1, 100)).collect());
        life.settle().await;
        let old = files(&root);
        replace(&mut life, &directory).await;
        old
    });
    let segment = first_segment(data.path());
    for (path, bytes) in old {
        if path != segment {
            std::fs::write(path, bytes).unwrap();
        }
    }
    std::fs::rename(&segment, segment.with_extension("base")).unwrap();
    let found = recover(data.path()).unwrap();
    assert_eq!(entries_of(&found).len(), 40);
    assert!(staged(data.path()).is_empty(), "it is removed");
}

/// The manifest and the segments, with their contents.
fn files(root: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let shard = root.join("shard-0");
    let in_directory = |path: &Path| {
        let files = std::fs::read_dir(path).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    let paths = in_directory(&shard)
        .into_iter()
        .chain(in_directory(&shard.join("log")));
    paths
        .filter(|path| path.is_file() && !path.ends_with("hard-state"))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn the_new_log_holds_once_the_manifest_says_so() {
    let data = replaced(1010);
    let segment = first_segment(data.path());
    let staged_segment = segment.with_extension("base");
    std::fs::rename(&segment, &staged_segment).unwrap();
    let found = recover(data.path()).unwrap();
    assert_eq!(entries_of(&found).len(), 10);
    assert!(segment.exists() && staged(data.path()).is_empty());
}

#[test]
fn a_new_log_without_its_first_record_is_refused() {
    let data = replaced(1000);
    let segment = first_segment(data.path());
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let error = recover(data.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("damaged or missing now"), "{error}");
    bytes.fill(0);
    std::fs::write(&segment, &bytes).unwrap();
    assert!(recover(data.path()).is_err());
}

/// The files may be ahead of the log that came with them, until it has caught up.
#[test]
fn a_target_that_came_with_a_snapshot_is_no_evidence_against_the_log() {
    let data = replaced(1010);
    let save = |target: u64, owed: u64| {
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin(&root).await;
            life.manifest.owed = LogIndex(owed);
            life.manifest.databases = vec![crate::storage::ManifestDatabase {
                id: 7,
                name: "bank".into(),
                page_size: 4096,
                applied: LogIndex(1001),
                target: LogIndex(target),
            }];
            life.manifest_file.save(&life.manifest).await.unwrap();
        });
        recover(data.path()).map(|found| found.restored_log().unwrap().commit)
    };
    assert_eq!(save(1020, 1020).unwrap(), BASE.index);
    assert!(matches!(
        save(1020, 1019),
        Err(StorageError::LogShort { .. })
    ));
}

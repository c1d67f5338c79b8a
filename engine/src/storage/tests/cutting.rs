//! Cutting the log: what is left is found again, what was cut is gone, and no crash in between
//! matters.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::storage::{ManifestDatabase, StorageError};

/// Records of one block each: a segment holds 16 of them.
fn small(index: u64) -> Entry {
    entry(index, 1, 100)
}

fn log_of(root: &Path) -> PathBuf {
    root.join("shard-0/log")
}

fn segment(root: &Path, number: u64) -> PathBuf {
    log_of(root).join(format!("{number:016x}.seg"))
}

async fn append_up_to(life: &mut Life, last: &mut u64, up_to: u64) {
    while *last < up_to {
        let end = up_to.min(*last + 5);
        life.append(None, (*last + 1..=end).map(small).collect());
        life.settle().await;
        *last = end;
    }
}

/// A directory whose log holds the records 1 to 100 in the segments 1 to 7, as it is after
/// `last_act` has been the last act of its node.
fn hundred(last_act: impl AsyncFnOnce(&mut Life) + 'static) -> tempfile::TempDir {
    let data = new_directory();
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin(&root).await;
        append_up_to(&mut life, &mut 0, 100).await;
        last_act(&mut life).await;
    });
    data
}

fn recover(root: &Path) -> Result<Recovered, StorageError> {
    DataDirectory::open(root, &ALONE, SEGMENT_BYTES)
        .unwrap()
        .recover(true)
}

/// A start finds the log from behind `base` to 100, and it goes on.
fn check_found(root: &Path, base: u64) {
    let owned = root.to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin(&owned).await;
        assert_eq!(life.manifest.log.base.index.0, base);
        let wanted: Vec<_> = (base + 1..=100).map(small).collect();
        assert_eq!(life.found, wanted);
        life.append(None, vec![small(101)]);
        life.settle().await;
    });
    let copies =
        ["manifest.a", "manifest.b"].map(|name| std::fs::read(root.join("shard-0").join(name)));
    let [a, b] = copies.map(Result::unwrap);
    assert_eq!(a, b, "a start makes the copies equal");
    let found = recover(root).unwrap();
    let restored = found.restored_log().unwrap();
    assert_eq!(
        (restored.last, restored.commit),
        (LogIndex(101), LogIndex(base))
    );
    assert_eq!(restored.base, found.manifest.log.base);
    assert_eq!(entries_of(&found).len() as u64, 101 - base);
}

#[test]
fn a_log_that_is_cut_regularly_stays_in_a_handful_of_files() {
    let data = new_directory();
    let mut last = 0;
    let mut files_max = 0;
    let mut inodes = std::collections::BTreeSet::new();
    // 100 segments of 16 records, in four lives; the last 20 records are kept.
    for up_to in [400, 800, 1200, 1600] {
        let root = data.path().to_owned();
        let (files, seen) = live(async move || {
            let (mut life, _directory) = Life::begin(&root).await;
            assert_eq!(life.found.last().map_or(0, |entry| entry.index.0), last);
            let mut files = 0;
            let mut inodes = std::collections::BTreeSet::new();
            while last < up_to {
                let end = last + 10;
                append_up_to(&mut life, &mut last, end).await;
                if last > 20 {
                    life.cut(last - 20).await;
                }
                files = files.max(segments(&root));
                for file in std::fs::read_dir(log_of(&root)).unwrap() {
                    inodes.extend(file.unwrap().metadata().map(|meta| meta.ino()));
                }
            }
            let first = last - 19;
            let read = life
                .log
                .read(LogIndex(first), LogIndex(last), usize::MAX)
                .await;
            assert_eq!(read.unwrap(), (first..=last).map(small).collect::<Vec<_>>());
            (files, inodes)
        });
        last = up_to;
        files_max = files_max.max(files);
        inodes.extend(seen);
    }
    // Two or three with records, two made ahead, two old ones, and one about to be removed.
    assert!(files_max <= 8, "{files_max} files");
    // They are the same files again and again.
    assert!(
        inodes.len() <= 40,
        "{} files for 100 segments",
        inodes.len()
    );
    let found = recover(data.path()).unwrap();
    assert_eq!(found.manifest.log.base.index, LogIndex(1580));
}

#[test]
fn a_segment_is_zeroed_before_it_is_used_again() {
    // The larger ones are zeroed in several slices.
    for segment_bytes in [SEGMENT_BYTES, 1 << 20] {
        let data = new_directory();
        let root = data.path().to_owned();
        let records = segment_bytes / 4096;
        live(async move || {
            let (mut life, _directory) = Life::begin_with(&root, segment_bytes).await;
            let inode = |number| {
                let meta = std::fs::metadata(segment(&root, number));
                meta.map(|meta| meta.ino()).ok()
            };
            let mut last = 0;
            append_up_to(&mut life, &mut last, 3 * records).await;
            let old = [inode(1).unwrap(), inode(2).unwrap()];
            life.cut(3 * records - 2).await;
            let mut again = 0;
            for number in 4..=9 {
                append_up_to(&mut life, &mut last, (number - 2) * records + 1).await;
                while inode(number).is_none() {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
                again += usize::from(old.contains(&inode(number).unwrap()));
                let bytes = std::fs::read(segment(&root, number)).unwrap();
                assert_eq!(bytes.len() as u64, segment_bytes);
                let is_zero = bytes.iter().all(|&byte| byte == 0);
                assert!(is_zero, "segment {number} is not zero");
            }
            assert_eq!(again, 2, "the old segments are used again");
            append_up_to(&mut life, &mut last, 8 * records).await;
        });
        let found = recover(data.path()).unwrap();
        let wanted: Vec<_> = (3 * records - 1..=8 * records).map(small).collect();
        assert_eq!(entries_of(&found), wanted);
    }
}

#[test]
fn of_many_segments_that_are_cut_at_once_a_few_are_kept() {
    hundred(async |life| {
        life.cut(100).await;
        let directory = life.log.directory();
        // The one with the base, two made ahead, two old ones; the current one is the first.
        for _ in 0..2000 {
            if std::fs::read_dir(directory).unwrap().count() <= 5 {
                return;
            }
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        panic!("old segments were not removed");
    });
}

#[test]
fn segments_of_another_size_are_used_again_too() {
    for other_bytes in [SEGMENT_BYTES / 2, SEGMENT_BYTES * 2] {
        let data = hundred(async |_| ());
        let root = data.path().to_owned();
        live(async move || {
            let (mut life, _directory) = Life::begin_with(&root, other_bytes).await;
            life.cut(100).await;
            append_up_to(&mut life, &mut 100, 250).await;
            for number in 9..13 {
                let bytes = std::fs::metadata(segment(&root, number)).unwrap().len();
                assert_eq!(bytes, other_bytes, "segment {number}");
            }
        });
        let found = recover(data.path()).unwrap();
        assert_eq!(
            entries_of(&found),
            (101..=250).map(small).collect::<Vec<_>>()
        );
    }
}

#[test]
fn after_a_crash_behind_the_manifest_any_old_segments_may_be_left() {
    // 50 is in the segment 4.
    for left in 0..8 {
        let data = hundred(async |life| {
            life.save_start(50).await;
        });
        for number in 1..=3 {
            if left & (1 << (number - 1)) == 0 {
                std::fs::remove_file(segment(data.path(), number)).unwrap();
            }
        }
        check_found(data.path(), 50);
        for number in 1..=3 {
            assert!(!segment(data.path(), number).exists(), "{number} was left");
        }
    }
}

#[test]
fn a_crash_before_the_manifest_is_durable_has_cut_nothing() {
    let data = hundred(async |_| ());
    check_found(data.path(), 0);
}

#[test]
fn a_crash_between_the_manifests_copies_leaves_the_old_or_the_new_one() {
    // The second copy is still the old one, and the first one is whole, or torn.
    let between = || {
        hundred(async |life| {
            life.cut(20).await;
            let second = life.log.directory().join("../manifest.b");
            let old = std::fs::read(&second).unwrap();
            life.save_start(50).await;
            std::fs::write(&second, old).unwrap();
        })
    };
    check_found(between().path(), 50);
    let data = between();
    let first = data.path().join("shard-0/manifest.a");
    let mut torn = std::fs::read(&first).unwrap();
    torn[60..].fill(0);
    std::fs::write(&first, torn).unwrap();
    check_found(data.path(), 20);
}

#[test]
fn a_segment_that_was_being_zeroed_again_is_given_up() {
    let data = hundred(async |life| {
        life.save_start(50).await;
    });
    let mut bytes = std::fs::read(segment(data.path(), 1)).unwrap();
    bytes[..20_000].fill(0);
    let half = log_of(data.path()).join(format!("{:016x}.new", 10));
    std::fs::remove_file(segment(data.path(), 1)).unwrap();
    std::fs::write(&half, bytes).unwrap();
    check_found(data.path(), 50);
}

#[test]
fn an_old_record_is_never_taken_for_a_new_one() {
    // What a segment would look like that got its new name before it was zeroed, as a whole or in
    // part: nobody reads it as the log.
    for from in [0, 16 << 10] {
        let data = hundred(async |life| {
            life.save_start(50).await;
        });
        let mut bytes = std::fs::read(segment(data.path(), 3)).unwrap();
        bytes[..from].fill(0);
        std::fs::write(segment(data.path(), 20), &bytes).unwrap();
        let found = recover(data.path()).unwrap();
        let wanted: Vec<_> = (51..=100).map(small).collect();
        assert_eq!(entries_of(&found), wanted);
    }
}

#[test]
fn a_log_may_be_cut_at_its_end() {
    let data = hundred(async |life| {
        life.cut(100).await;
        assert!(life.log.start_behind(LogIndex(100)).is_none());
        assert!(life.log.start_behind(LogIndex(101)).is_none());
    });
    check_found(data.path(), 100);
    let found = recover(data.path()).unwrap();
    assert_eq!(entries_of(&found), [small(101)]);
}

#[test]
fn a_base_whose_record_is_damaged_or_missing_is_refused() {
    let refused = |damage: &dyn Fn(&Path)| {
        let data = hundred(async |life| life.cut(50).await);
        damage(data.path());
        recover(data.path()).err().expect("a refusal").to_string()
    };
    // 50 is the second record of the segment 4.
    let error = refused(&|root| {
        let mut bytes = std::fs::read(segment(root, 4)).unwrap();
        bytes[4096 + 40] ^= 1;
        std::fs::write(segment(root, 4), bytes).unwrap();
    });
    assert!(
        error.contains("i50") && error.contains("was durable"),
        "{error}"
    );
    let error = refused(&|root| std::fs::remove_file(segment(root, 4)).unwrap());
    assert!(
        error.contains("i50") && error.contains("missing"),
        "{error}"
    );
    let error = refused(&|root| {
        for number in 4..20 {
            drop(std::fs::remove_file(segment(root, number)));
        }
    });
    assert!(
        error.contains("i50") && error.contains("begins behind i50"),
        "{error}"
    );
}

#[test]
fn a_manifest_of_another_node_is_refused() {
    let data = hundred(async |_| ());
    let other = hundred(async |_| ());
    for name in ["manifest.a", "manifest.b"] {
        let from = other.path().join("shard-0").join(name);
        std::fs::copy(from, data.path().join("shard-0").join(name)).unwrap();
    }
    let error = recover(data.path()).err().expect("a refusal").to_string();
    assert!(error.contains("incarnation"), "{error}");
}

#[test]
fn what_was_cut_cannot_be_read_and_the_rest_can() {
    hundred(async |life| {
        life.cut(50).await;
        let mut last = 100;
        // The segments of what was cut are in use again.
        append_up_to(life, &mut last, 300).await;
        let log = Rc::clone(&life.log);
        let read = async |from, up_to| {
            let read = log.read(LogIndex(from), LogIndex(up_to), usize::MAX).await;
            read.unwrap()
        };
        assert_eq!(read(1, 300).await, []);
        assert_eq!(read(50, 60).await, []);
        assert_eq!(
            read(51, 300).await,
            (51..=300).map(small).collect::<Vec<_>>()
        );
        assert_eq!(read(299, 400).await, [small(299), small(300)]);
    });
}

#[test]
fn a_read_that_a_cut_overtakes_gives_what_it_has() {
    // The cut comes at the first steps of the read, whose segment must not be used again meanwhile.
    // (While it was being opened, the loss of its name stopped the node with a panic.)
    for steps in 1..9 {
        let data = hundred(async move |life| {
            let log = Rc::clone(&life.log);
            let read = || Box::pin(log.read(LogIndex(1), LogIndex(100), usize::MAX));
            let (mut reading, mut given_up) = (read(), read());
            for _ in 0..steps {
                for reading in [&mut reading, &mut given_up] {
                    let polled = futures_lite::future::poll_once(reading).await;
                    assert!(polled.is_none());
                }
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            drop(given_up);
            life.cut(100).await;
            let mut last = 100;
            append_up_to(life, &mut last, 300).await;
            let read = reading.await.unwrap();
            let wanted: Vec<_> = (1..=read.len() as u64).map(small).collect();
            assert_eq!(read, wanted);
            assert!((1..100).contains(&read.len()), "{} records", read.len());
            // It is given back afterwards.
            let first = life.log.directory().join(format!("{:016x}.seg", 1));
            append_up_to(life, &mut last, 400).await;
            for _ in 0..2000 {
                if !first.exists() {
                    return;
                }
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            panic!("the segment was not given back");
        });
        drop(data);
    }
}

#[test]
fn a_record_in_another_ones_place_is_not_given_for_it() {
    hundred(async |life| {
        let path = life.log.directory().join(format!("{:016x}.seg", 1));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.copy_within(..4096, 4096);
        std::fs::write(&path, bytes).unwrap();
        let read = life.log.read(LogIndex(2), LogIndex(2), usize::MAX).await;
        let error = read.unwrap_err().to_string();
        assert!(error.contains("i1 of t1 is where i2 of t1 was"), "{error}");
    });
}

#[test]
fn a_manifest_of_any_length_is_saved_and_found() {
    let data = new_directory();
    for count in [0, 3, 10_000, 100] {
        let root = data.path().to_owned();
        let databases: Vec<_> = (1..=count)
            .map(|id| ManifestDatabase {
                id,
                name: format!("database-{id}"),
                page_size: 4096,
                applied: LogIndex(0),
                target: LogIndex(0),
            })
            .collect();
        let wanted = databases.clone();
        live(async move || {
            let (mut life, _directory) = Life::begin(&root).await;
            life.manifest.databases = databases;
            life.manifest_file.save(&life.manifest).await.unwrap();
            life.manifest_file.save(&life.manifest).await.unwrap();
        });
        assert_eq!(recover(data.path()).unwrap().manifest.databases, wanted);
    }
}

#[test]
fn a_log_that_ends_before_what_a_file_may_hold_is_refused() {
    let data = new_directory();
    let root = data.path().to_owned();
    live(async move || {
        let (mut life, _directory) = Life::begin(&root).await;
        life.manifest.databases = vec![ManifestDatabase {
            id: 1,
            name: "bank".into(),
            page_size: 4096,
            applied: LogIndex(1),
            target: LogIndex(7),
        }];
        life.manifest_file.save(&life.manifest).await.unwrap();
    });
    let error = recover(data.path()).err().unwrap().to_string();
    assert!(
        error.contains("\"bank\"") && error.contains("i7"),
        "{error}"
    );
}

//! The codec against golden bytes, random manifests and damage; the two copies against crashes.

use proptest::prelude::*;

use super::*;
use ringlite_raft::NodeId;

fn stamp(sequence: u64) -> Stamp {
    Stamp {
        sequence,
        cluster: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        incarnation: 0x1112_1314_1516_1718,
    }
}

fn manifest() -> Manifest {
    let base = LogBase {
        index: LogIndex(0x0201),
        term: Term(0x0301),
    };
    let database = |id, name: &str, page_size, applied, target| ManifestDatabase {
        id,
        name: name.to_owned(),
        page_size,
        applied: LogIndex(applied),
        target: LogIndex(target),
    };
    Manifest {
        log: LogStart {
            base,
            segment: 0x0401,
        },
        owed: LogIndex(0x0205),
        installs: true,
        configuration: Configuration::of_voters([0x0601, 0x0602].map(NodeId)).expect("two voters"),
        databases: vec![
            database(0x0501, "main", 4096, 0x0210, 0x0220),
            database(0x0502, "köln", 65536, 0x0230, 0x0230),
        ],
    }
}

/// The digits of all bytes up to the last one that is not zero, then how many zeros follow.
fn golden_line(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |at| at + 1);
    let digits: String = bytes[..end]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{digits}*{}", bytes.len() - end)
}

/// If this fails the format has changed: give it a new version.
#[test]
fn the_bytes_are_those_of_the_golden_file() {
    let golden = include_str!("../../../testdata/manifest.hex");
    let golden: Vec<&str> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let written = [
        golden_line(&encode(&stamp(0x21), &Manifest::default())),
        golden_line(&encode(&stamp(0x22), &manifest())),
    ];
    assert_eq!(written.as_slice(), golden, "written: {written:#?}");
}

#[test]
fn ten_thousand_databases_fit() {
    let mut large = manifest();
    let one = large.databases[0].clone();
    large.databases = (0..10_000)
        .map(|id| ManifestDatabase {
            id,
            name: format!("database-with-a-name-{id}"),
            ..one.clone()
        })
        .collect();
    let bytes = encode(&stamp(1), &large);
    assert_eq!(decode(&bytes), Some((stamp(1), large)));
}

#[test]
fn any_changed_byte_is_found() {
    let bytes = encode(&stamp(5), &manifest());
    let record_bytes = u32_at(&bytes, 12).unwrap() as usize;
    for at in 0..record_bytes {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert_eq!(decode(&damaged), None, "bit {bit} of byte {at}");
        }
    }
    for end in 0..record_bytes {
        assert_eq!(decode(&bytes[..end]), None, "cut short to {end} bytes");
    }
    assert!(decode(&bytes[..record_bytes]).is_some());
}

#[test]
fn what_no_manifest_says_is_refused_also_behind_a_right_checksum() {
    let check = |change: fn(&mut Vec<u8>)| {
        let mut bytes = encode(&stamp(5), &manifest());
        let record_bytes = u32_at(&bytes, 12).unwrap() as usize;
        bytes.truncate(record_bytes - CRC_BYTES);
        change(&mut bytes);
        let record_bytes = (bytes.len() + CRC_BYTES) as u32;
        bytes[12..16].copy_from_slice(&record_bytes.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        decode(&bytes)
    };
    // Behind a configuration of two voters.
    const FIRST: usize = HEADER_BYTES + 32;
    assert!(check(|_| ()).is_some());
    assert_eq!(check(|bytes| bytes[8] = 1), None, "version");
    assert_eq!(check(|bytes| bytes[72] = 1), None, "fewer than there are");
    assert_eq!(check(|bytes| bytes[72] = 3), None, "more than there are");
    assert_eq!(check(|bytes| bytes[75] = 0xff), None, "a great many");
    assert_eq!(check(|bytes| bytes[76] = 1), None, "configuration length");
    assert_eq!(
        check(|bytes| bytes[79] = 0xff),
        None,
        "configuration length"
    );
    assert_eq!(check(|bytes| bytes[88] = 2), None, "neither yes nor no");
    assert_eq!(check(|bytes| bytes[89] = 1), None, "zeros");
    assert_eq!(check(|bytes| bytes[FIRST - 4] = 9), None, "role");
    assert_eq!(check(|bytes| bytes[FIRST + 16] = 0), None, "target");
    assert_eq!(check(|bytes| bytes[FIRST + 28] = 0xff), None, "name length");
    assert_eq!(check(|bytes| bytes[FIRST + 30] = 1), None, "zeros");
    assert_eq!(check(|bytes| bytes[FIRST + 32] = 0xff), None, "UTF-8");
    assert_eq!(check(|bytes| bytes.push(0)), None, "too long");
}

#[test]
fn the_newer_valid_copy_holds_and_the_other_is_written_anew() {
    let shard = tempfile::tempdir().unwrap();
    let [a, b] = paths_in(shard.path());
    let old = encode(&stamp(5), &Manifest::default());
    let new = encode(&stamp(6), &manifest());
    let torn = {
        let mut torn = old.clone();
        torn[..64].copy_from_slice(&new[..64]);
        torn
    };
    // What a crash leaves at each step of a save, and rot of either copy.
    for (at_a, at_b, holds) in [
        (Some(&old), Some(&old), &old),
        (Some(&torn), Some(&old), &old),
        (Some(&new), Some(&old), &new),
        (Some(&new), Some(&torn), &new),
        (Some(&new), Some(&new), &new),
        (Some(&old), Some(&new), &new),
        (Some(&torn), Some(&new), &new),
        (None, Some(&new), &new),
        (Some(&new), None, &new),
    ] {
        for (path, content) in [(&a, at_a), (&b, at_b)] {
            match content {
                Some(content) => std::fs::write(path, content).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
        }
        assert_eq!(load(shard.path()).unwrap(), decode(holds).unwrap());
        for path in [&a, &b] {
            assert_eq!(decode(&std::fs::read(path).unwrap()), decode(holds));
        }
    }
}

#[test]
fn two_bad_copies_are_refused() {
    let shard = tempfile::tempdir().unwrap();
    let error = load(shard.path()).unwrap_err().to_string();
    assert!(error.contains("both copies of"), "{error}");
    create(shard.path(), &stamp(1)).unwrap();
    for path in paths_in(shard.path()) {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let error = load(shard.path()).unwrap_err().to_string();
    assert!(error.contains("must not start"), "{error}");
}

fn any_manifest() -> impl Strategy<Value = Manifest> {
    let database = (any::<u64>(), ".{0,40}", any::<u32>(), any::<(u64, u64)>()).prop_map(
        |(id, name, page_size, (one, other))| ManifestDatabase {
            id,
            name,
            page_size,
            applied: LogIndex(one.min(other)),
            target: LogIndex(one.max(other)),
        },
    );
    let databases = prop::collection::vec(database, 0..40);
    let fixed = any::<(u64, u64, u64, u64, bool)>();
    (fixed, 0..8u64, databases).prop_map(|(fixed, voters, databases)| {
        let (index, term, segment, owed, installs) = fixed;
        let base = LogBase {
            index: LogIndex(index),
            term: Term(term),
        };
        Manifest {
            log: LogStart { base, segment },
            owed: LogIndex(owed),
            installs,
            configuration: Configuration::of_voters((0..voters).map(NodeId)).expect("voters"),
            databases,
        }
    })
}

proptest! {
    #[test]
    fn manifests_survive(manifest in any_manifest(), sequence: u64) {
        let bytes = encode(&stamp(sequence), &manifest);
        prop_assert!(bytes.len().is_multiple_of(BLOCK_BYTES));
        prop_assert_eq!(decode(&bytes), Some((stamp(sequence), manifest)));
    }

    #[test]
    fn what_an_older_longer_one_left_behind_it_is_no_part_of_it(
        short in any_manifest(), long in any_manifest(),
    ) {
        let (short_bytes, mut file) = (encode(&stamp(2), &short), encode(&stamp(1), &long));
        file.resize(file.len().max(short_bytes.len()), 0);
        file[..short_bytes.len()].copy_from_slice(&short_bytes);
        prop_assert_eq!(decode(&file), Some((stamp(2), short)));
    }

    #[test]
    fn random_bytes_are_no_manifest_and_no_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), dress: bool,
    ) {
        if dress && bytes.len() >= HEADER_BYTES {
            let length = bytes.len() as u32;
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            bytes[12..16].copy_from_slice(&length.to_le_bytes());
        }
        prop_assert_eq!(decode(&bytes), None);
    }
}

/// What the fuzz target does, on bytes around those of a good manifest.
#[test]
fn a_damaged_manifest_with_a_right_checksum_is_understood_in_one_way_or_not_at_all() {
    let good = encode(&stamp(1), &manifest());
    for at in 0..good.len().min(400) {
        for bit in 0..8 {
            let mut bytes = good[..400].to_vec();
            bytes[at] ^= 1 << bit;
            for end in [HEADER_BYTES, 200, 400] {
                fuzz(&bytes[..end]);
            }
        }
    }
}

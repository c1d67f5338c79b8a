//! The frames against golden bytes, damage and nonsense.

use futures_lite::future::block_on;
use proptest::prelude::*;
use ringlite_raft::NodeId;

use super::*;

fn database(id: u64, name: &str, page_size: u32) -> DatabaseFile {
    DatabaseFile {
        id: DatabaseId(LogIndex(id)),
        name: name.to_owned(),
        page_size: PageSize::new(page_size).unwrap(),
        applied: LogIndex(0x0701),
        target: LogIndex(0x0702),
    }
}

fn head() -> SnapshotHead {
    SnapshotHead {
        id: SnapshotId {
            term: Term(0x0301),
            serial: 0x0401,
        },
        base: LogBase {
            index: LogIndex(0x0201),
            term: Term(0x0202),
        },
        configuration: Configuration::of_voters([1, 2, 3].map(NodeId)).unwrap(),
        databases: vec![database(5, "main", 4096), database(9, "bank.db", 65536)],
    }
}

fn frames() -> Vec<Frame> {
    let position = Position {
        file: 1,
        offset: 0x0502,
    };
    vec![
        Frame::Offer(head()),
        Frame::Chunk {
            file: 1,
            offset: 0x0601,
            bytes: Bytes::from_static(b"bytes"),
        },
        Frame::FileEnd { file: 1, bytes: 9 },
        Frame::FileGone { file: 2 },
        Frame::End {
            targets: vec![LogIndex(0x0801), LogIndex(0x0802)],
        },
        Frame::Resume(position),
        Frame::Received { bytes: 0x0901 },
        Frame::Done,
        Frame::Refused {
            reason: "no".into(),
        },
        Frame::AskPages {
            database: DatabaseId(LogIndex(0x0a01)),
            index_min: LogIndex(0x0a02),
            numbers: vec![PageNumber(0x0a03), PageNumber(0x0a04)],
        },
        Frame::Pages {
            applied: LogIndex(0x0b01),
            page_size: PageSize::MIN,
            pages: vec![(PageNumber(0x0b02), Bytes::from_static(&[0x0b; 512]))],
        },
    ]
}

fn read(mut bytes: &[u8]) -> std::io::Result<Frame> {
    let frame = block_on(Frame::read(&mut bytes))?;
    assert!(bytes.is_empty(), "a frame is read to its end");
    Ok(frame)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// If this fails the format has changed: give it a new version.
#[test]
fn the_bytes_are_those_of_the_golden_file() {
    let golden = include_str!("../../../../testdata/snapshot_frames.hex");
    let golden: Vec<&str> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let written: Vec<String> = frames().iter().map(|frame| hex(&frame.encode())).collect();
    assert_eq!(written, golden, "written: {written:#?}");
}

#[test]
fn frames_are_read_as_they_were_written() {
    for frame in frames() {
        assert_eq!(read(&frame.encode()).unwrap(), frame);
    }
}

#[test]
fn a_chunk_is_the_same_however_it_is_written() {
    let fill = |into: &mut [u8]| {
        into[..5].copy_from_slice(b"bytes");
        Ok::<_, ()>(5)
    };
    let (bytes, length) = encode_chunk(1, 0x0601, fill).unwrap();
    assert_eq!((bytes, length), (frames()[1].encode(), 5));
    let (full, _) = encode_chunk(1, 0, |into| Ok::<_, ()>(into.len())).unwrap();
    let Frame::Chunk { bytes, .. } = read(&full).unwrap() else {
        panic!("no chunk");
    };
    assert_eq!(bytes.len(), CHUNK_BYTES_MAX);
}

#[test]
fn any_changed_bit_and_any_missing_byte_is_found() {
    for frame in frames() {
        let bytes = frame.encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let mut rest = damaged.as_slice();
                assert!(
                    block_on(Frame::read(&mut rest)).is_err(),
                    "bit {bit} of byte {at} of {frame:?}"
                );
            }
            assert!(read(&bytes[..at]).is_err(), "cut to {at} bytes: {frame:?}");
        }
    }
}

/// What can be written, and must not be believed.
#[test]
fn heads_that_cannot_be_installed_are_refused() {
    let check = |change: fn(&mut SnapshotHead)| {
        let mut head = head();
        change(&mut head);
        read(&Frame::Offer(head).encode()).is_ok()
    };
    assert!(check(|_| ()));
    assert!(check(|head| head.databases.clear()));
    let refused: [fn(&mut SnapshotHead); 12] = [
        |head| head.databases[1].name = "main".into(),
        |head| head.databases[1].name = "../main".into(),
        |head| head.databases[1].name = ".".into(),
        |head| head.databases[1].name = String::new(),
        |head| head.databases[1].id = head.databases[0].id,
        |head| head.databases.reverse(),
        |head| head.databases[0].target = LogIndex(0x0700),
        |head| head.databases[0].target = LogIndex(u64::MAX),
        |head| head.configuration = Configuration::default(),
        |head| head.base = LogBase::default(),
        |head| head.base.term = Term(0x0302),
        |head| head.id.term = Term(u64::MAX),
    ];
    for (number, change) in refused.into_iter().enumerate() {
        assert!(!check(change), "change {number}");
    }
}

proptest! {
    #[test]
    fn random_bodies_are_no_panic(
        type_byte in 0..14u8, body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = begin(type_byte);
        bytes.extend(body);
        finish(&mut bytes);
        if let Ok(frame) = read(&bytes)
            && !matches!(frame, Frame::Refused { .. })
        {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn random_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut rest = bytes.as_slice();
        let _ = block_on(Frame::read(&mut rest));
    }
}

use super::*;
use crate::hex;
use bytes::Bytes;
use proptest::prelude::*;

fn place() -> RecordPlace {
    RecordPlace {
        identity: RecordIdentity {
            cluster: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
            shard: 0x1413_1211,
            incarnation: 0x2827_2625_2423_2221,
        },
        segment: 0x31,
        epoch: 0x41,
        epoch_first: LogIndex(0x51),
        epoch_previous_term: Term(0x61),
        previous_header_crc: 0x6463_6261,
        durable_upto: LogIndex(0x71),
        commit: LogIndex(0x81),
    }
}

fn entry(payload: &[u8]) -> Entry {
    let payload = Bytes::copy_from_slice(payload);
    Entry {
        term: Term(0x91),
        index: LogIndex(0xa1),
        kind: EntryKind::Data,
        payload,
    }
}

fn encoded(payload: &[u8]) -> Vec<u8> {
    let mut record = vec![0xee; record_bytes(payload.len())];
    encode_record(&place(), &entry(payload), &mut record);
    record
}

/// If this fails the record format has changed: give it a new version.
#[test]
fn the_records_are_those_of_the_golden_file() {
    hex::check("records.hex", &[encoded(b"payload"), encoded(b"")]);
}

#[test]
fn a_record_takes_whole_blocks() {
    let most = RECORD_ALIGN - RECORD_HEADER_BYTES;
    assert_eq!(record_bytes(0), 4096);
    assert_eq!(record_bytes(most), 4096);
    assert_eq!(record_bytes(most + 1), 8192);
}

#[test]
fn a_record_says_what_was_written() {
    let mut record = vec![0xee; 4096];
    let crc = encode_record(&place(), &entry(b"payload"), &mut record);
    let (header, payload) = decode_record(&record).expect("a record");
    assert_eq!(header.place, place());
    assert_eq!((header.index, header.term), (LogIndex(0xa1), Term(0x91)));
    assert_eq!(
        (header.kind, header.payload_bytes, header.header_crc),
        (EntryKind::Data, 7, crc)
    );
    assert_eq!(&record[payload], b"payload");
    assert_eq!(decode_header(&record), Ok(header));
}

#[test]
fn every_flipped_bit_is_found() {
    let record = encoded(b"payload");
    for bit in 0..record.len() * 8 {
        let mut damaged = record.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_record(&damaged).is_err(), "bit {bit}");
    }
}

/// Repairs the header checksum, so that what lies behind it is tested.
fn sealed(mut record: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&record[..HEADER_CRC_AT]);
    record[HEADER_CRC_AT..RECORD_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    record
}

#[test]
fn what_this_version_never_writes_is_named() {
    let check = |change: fn(&mut Vec<u8>), text: &str| {
        let mut record = encoded(b"payload");
        change(&mut record);
        let error = decode_record(&sealed(record)).expect_err(text);
        assert!(error.to_string().contains(text), "{error}");
    };
    check(|record| record[MAGIC_AT] = 0, "no record mark");
    check(|record| record[VERSION_AT] = 9, "format version 9");
    check(|record| record[KIND_AT] = 0, "\"kind\"");
    check(|record| record[ZERO_AT] = 1, "\"zero byte\"");
    check(|record| record[RESERVED_AT + 23] = 1, "\"reserved bytes\"");
    check(
        |record| record[PAYLOAD_BYTES_AT + 3] = 0xff,
        "\"payload length\"",
    );
    check(|record| record[PAYLOAD_BYTES_AT + 1] = 0xff, "does not fit");
    check(|record| record[INDEX_AT] = 1, "\"index\"");
    check(|record| record[INDEX_AT + 7] = 0xff, "\"index\"");
    check(|record| record[TERM_AT + 7] = 0xff, "\"term\"");
    check(
        |record| record[EPOCH_PREVIOUS_TERM_AT] = 0x92,
        "\"term before the epoch\"",
    );
    check(
        |record| record[EPOCH_FIRST_AT] = 1,
        "\"term before the epoch\"",
    );
    check(|record| record[EPOCH_AT] = 0, "\"epoch\"");
    check(|record| record[EPOCH_FIRST_AT] = 0, "\"epoch\"");
    check(
        |record| record[RECORD_HEADER_BYTES] = 0,
        "payload's checksum",
    );
    check(|record| record[4095] = 1, "padding");
    check(|record| record.truncate(4095), "does not fit");
    let short = decode_header(&[0; 143]);
    assert_eq!(
        short,
        Err(RecordError::TooShort {
            needed: 144,
            found: 143
        })
    );
}

proptest! {
    #[test]
    fn records_survive(
        payload in prop::collection::vec(any::<u8>(), 0..9000),
        index in 0x51u64..1 << 60, term in 0x61u64..1 << 60,
        durable: u64, commit: u64, crc: u32, kind in 1u8..4,
    ) {
        let place = RecordPlace {
            previous_header_crc: crc,
            durable_upto: LogIndex(durable),
            commit: LogIndex(commit),
            ..place()
        };
        let entry = Entry {
            term: Term(term),
            index: LogIndex(index),
            kind: EntryKind::from_byte(kind).expect("a kind"),
            payload: payload.into(),
        };
        let mut record = vec![0xee; record_bytes(entry.payload.len())];
        let header_crc = encode_record(&place, &entry, &mut record);
        let (header, range) = decode_record(&record).expect("a record");
        prop_assert_eq!(header.place, place);
        prop_assert_eq!(header.header_crc, header_crc);
        prop_assert_eq!((header.index, header.term), (entry.index, entry.term));
        prop_assert_eq!(header.kind, entry.kind);
        prop_assert_eq!(&record[range], &entry.payload[..]);
    }

    #[test]
    fn random_bytes_are_no_record_and_no_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..5000), seal: bool, kind in 0u8..5,
    ) {
        if seal && bytes.len() >= RECORD_HEADER_BYTES {
            bytes[..VERSION_AT].copy_from_slice(&MAGIC);
            bytes[VERSION_AT..KIND_AT].copy_from_slice(&RECORD_VERSION.to_le_bytes());
            bytes[KIND_AT] = kind;
            bytes = sealed(bytes);
        }
        prop_assert!(decode_record(&bytes).is_err());
    }
}

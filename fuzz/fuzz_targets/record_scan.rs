//! The record scanner and what recovery concludes from its scans, on segments of any bytes.
//!
//! Random bytes never have a right checksum. So the input is a list of blocks, each with a byte that says
//! what of it is put right before it is read: nothing, the header, the payload, the chain.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlite_raft::{
    DurableMark, LogBase, LogIndex, RECORD_ALIGN, RECORD_HEADER_BYTES, RECORD_VERSION,
    RecordIdentity, Term, recover, scan_segment,
};

const IDENTITY: RecordIdentity = RecordIdentity {
    cluster: 0,
    shard: 0,
    incarnation: 0,
};
/// The control byte, the fields of a header, and the beginning of a payload.
const CHUNK_BYTES: usize = 1 + RECORD_HEADER_BYTES + 15;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |array| u64::from_le_bytes(*array))
}

/// A block from a chunk of the input.
fn block(chunk: &[u8], segment: u64, previous: u32) -> (Vec<u8>, u32) {
    let control = chunk[0];
    let mut block = vec![0; RECORD_ALIGN];
    block[..chunk.len() - 1].copy_from_slice(&chunk[1..]);
    if control & 1 == 0 {
        return (block, previous);
    }
    block[..8].copy_from_slice(b"RLRECORD");
    block[8..10].copy_from_slice(&RECORD_VERSION.to_le_bytes());
    block[10] = block[10] % 4 + 1;
    block[11..16].fill(0);
    if control & 2 != 0 {
        block[16..24].copy_from_slice(&segment.to_le_bytes());
    }
    // Small numbers meet each other more often.
    for at in [24, 32, 40, 48, 56, 64] {
        block[at + 1..at + 8].fill(0);
    }
    block[72..96].fill(0);
    block[97..100].fill(0);
    let payload_bytes = usize::from(block[96]);
    if control & 4 != 0 {
        block[RECORD_HEADER_BYTES + payload_bytes..].fill(0);
        let crc = crc32fast::hash(&block[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_bytes]);
        block[100..104].copy_from_slice(&crc.to_le_bytes());
    }
    if control & 8 != 0 {
        block[104..108].copy_from_slice(&previous.to_le_bytes());
    }
    block[109..140].fill(0);
    let crc = crc32fast::hash(&block[..140]);
    block[140..144].copy_from_slice(&crc.to_le_bytes());
    (block, crc)
}

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let mut segments = vec![Vec::new()];
    let mut previous = 0;
    for chunk in rest.chunks(CHUNK_BYTES).take(64) {
        if chunk[0] & 16 != 0 {
            segments.push(Vec::new());
            previous = 0;
        }
        let number = segments.len() as u64;
        let (block, crc) = block(chunk, number, previous);
        previous = crc;
        segments[number as usize - 1].extend(block);
    }
    let mut scans = Vec::new();
    for (number, bytes) in (1..).zip(&segments) {
        match scan_segment(bytes, number, &IDENTITY) {
            Ok(scan) => scans.push(scan),
            Err(_) => return,
        }
    }
    let mark = DurableMark {
        epoch: head[0].into(),
        index: LogIndex(head[1].into()),
    };
    let base = LogBase {
        index: LogIndex(head[2].into()),
        term: Term(if head[2] == 0 { 0 } else { u64::from(head[3]).max(1) }),
    };
    let highest = segments
        .iter()
        .flat_map(|bytes| bytes.chunks(RECORD_ALIGN))
        .map(|block| u64_at(block, 40))
        .max();
    let Ok(found) = recover(scans, mark, base) else {
        return;
    };
    assert!(found.last >= base.index && found.commit >= base.index && found.commit <= found.last);
    assert!(found.last.0 <= highest.unwrap_or(0).max(base.index.0));
    let indexes = found.records.iter().map(|record| record.index.0);
    assert!(indexes.eq(base.index.0 + 1..=found.last.0));
    assert!(found.records.is_sorted_by_key(|record| record.term));
    match found.fault {
        Some(fault) => {
            assert!(fault.index > found.last || found.lacks_base());
            let debt = fault.debt(Term(u64::MAX));
            assert!(debt.index >= fault.index.prev() || debt.term >= base.term);
        }
        None => {
            // Nothing that is known to have been durable is missing.
            let covered = mark.epoch < found.epoch || mark.index <= found.last;
            assert!(covered && mark.epoch <= found.epoch, "{mark:?} {found:?}");
        }
    }
});

//! Encoding of a log record: header, checksums, payload and padding, into a buffer that is there.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringlite_raft::{
    Entry, EntryKind, LogIndex, RecordIdentity, RecordPlace, Term, encode_record, record_bytes,
};

/// The payload of a one-row insert without its zero runs, and that of two whole pages.
const PAYLOAD_BYTES: [usize; 2] = [500, 8 << 10];

fn place() -> RecordPlace {
    RecordPlace {
        identity: RecordIdentity {
            cluster: 0x0123_4567_89ab_cdef,
            shard: 0,
            incarnation: 1,
        },
        segment: 1,
        epoch: 1,
        epoch_first: LogIndex(1),
        epoch_previous_term: Term(0),
        previous_header_crc: 0,
        durable_upto: LogIndex(41),
        commit: LogIndex(41),
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record/encode");
    for payload_bytes in PAYLOAD_BYTES {
        let payload: Vec<u8> = (0..payload_bytes).map(|at| (at * 31 % 251) as u8).collect();
        let entry = Entry {
            term: Term(3),
            index: LogIndex(42),
            kind: EntryKind::Data,
            payload: Bytes::from(payload),
        };
        let mut place = place();
        let mut record = vec![0; record_bytes(payload_bytes)];
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(payload_bytes), |bencher| {
            bencher.iter(|| {
                place.previous_header_crc = encode_record(&place, black_box(&entry), &mut record);
            });
        });
        black_box(&record);
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);

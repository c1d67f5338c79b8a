//! Properties of the codec: what is written is read back, and nothing that is read can hurt.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use proptest::{collection::vec, prelude::*};
use ringlite::{
    Column, ColumnKind, RowBatch, Value,
    wire::{
        BODY_BYTES_MAX, ClusterFormat, DatabaseEntry, DumpFile, FRAME_HEADER_BYTES, FrameHeader,
        MemberEntry, Request, Response, Role, ServerEntry, decode_servers,
    },
};

/// Counts what each thread allocates, to prove that no count in a message is believed.
struct CountingAllocator;

thread_local! {
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell of the
// thread, without a destructor, so that touching it allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Decodes `body` as everything it could be. It may fail; it may not panic, nor allocate more
/// than a small multiple of what is there.
fn decode_all(kind: u8, schema: u8, body: &[u8]) {
    // A one-word value becomes a Value of 32 bytes in a Vec of 24 of its own, and a vector that
    // grows by doubling is allocated about twice. Error texts are the constant.
    let allowed = 32 * body.len() + 4096;
    ALLOCATED_BYTES.set(0);
    let _ = Request::decode(kind, schema, body);
    let _ = Response::decode(kind, schema, body);
    let _ = decode_servers(ClusterFormat::WithoutRoles, body);
    let used = ALLOCATED_BYTES.get();
    assert!(
        used <= allowed,
        "{used} bytes allocated for a body of {}",
        body.len()
    );
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[^\0]{0,40}", "[a-z ]{0,9}", Just(String::new())]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>()
            .prop_filter("NaN is not equal to itself", |f| !f.is_nan())
            .prop_map(Value::Real),
        text().prop_map(Value::Text),
        vec(any::<u8>(), 0..40).prop_map(Value::Blob),
    ]
}

fn parameters() -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![4 => vec(value(), 0..20), 1 => vec(value(), 250..300)]
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Voter), Just(Role::Standby), Just(Role::Spare)]
}

fn sql_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (text(), any::<u64>(), text()).prop_map(|(name, flags, vfs)| Request::Open {
            name,
            flags,
            vfs
        }),
        (any::<u64>(), text(), any::<bool>()).prop_map(|(database, sql, with_tail)| {
            Request::Prepare {
                database,
                sql,
                with_tail,
            }
        }),
        (any::<u32>(), any::<u32>(), parameters()).prop_map(|(database, statement, parameters)| {
            Request::Execute {
                database,
                statement,
                parameters,
            }
        }),
        (any::<u32>(), any::<u32>(), parameters()).prop_map(|(database, statement, parameters)| {
            Request::Query {
                database,
                statement,
                parameters,
            }
        }),
        (any::<u32>(), any::<u32>()).prop_map(|(database, statement)| Request::Finalize {
            database,
            statement
        }),
        (any::<u64>(), text(), parameters()).prop_map(|(database, sql, parameters)| {
            Request::ExecuteSql {
                database,
                sql,
                parameters,
            }
        }),
        (any::<u64>(), text(), parameters()).prop_map(|(database, sql, parameters)| {
            Request::QuerySql {
                database,
                sql,
                parameters,
            }
        }),
        any::<u64>().prop_map(|database| Request::Interrupt { database }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let formats = prop_oneof![
        Just(ClusterFormat::WithRoles),
        Just(ClusterFormat::WithoutRoles)
    ];
    let admin = prop_oneof![
        Just(Request::Leader),
        any::<u64>().prop_map(|id| Request::Client { id }),
        (any::<u64>(), text()).prop_map(|(id, address)| Request::Connect { id, address }),
        (any::<u64>(), text()).prop_map(|(id, address)| Request::Add { id, address }),
        (any::<u64>(), proptest::option::of(role()))
            .prop_map(|(id, role)| Request::Assign { id, role }),
        any::<u64>().prop_map(|id| Request::Remove { id }),
        text().prop_map(|name| Request::Dump { name }),
        formats.prop_map(|format| Request::Cluster { format }),
        any::<u64>().prop_map(|id| Request::Transfer { id }),
        Just(Request::Describe),
        any::<u64>().prop_map(|weight| Request::Weight { weight }),
        text().prop_map(|database| Request::LeaderOf { database }),
        (any::<[u64; 5]>(), text()).prop_map(|(numbers, address)| Request::Join {
            id: numbers[0],
            incarnation: numbers[1],
            failure_domain: numbers[2],
            weight: numbers[3],
            shards: numbers[4],
            address,
        }),
        (any::<[u64; 3]>(), text(), text()).prop_map(|(numbers, database, sql)| Request::Read {
            level: numbers[0],
            index_min: numbers[1],
            staleness_max_ms: numbers[2],
            database,
            sql,
        }),
        (text(), any::<u64>()).prop_map(|(database, index_min)| Request::Digest {
            database,
            index_min
        }),
        Just(Request::Status),
    ];
    prop_oneof![sql_request(), admin, database_request()]
}

fn database_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (text(), any::<bool>()).prop_map(|(database, local)| Request::Backup { database, local }),
        (text(), any::<u64>(), any::<bool>()).prop_map(|(database, file_bytes, replace)| {
            Request::BeginRestore {
                database,
                file_bytes,
                replace,
            }
        }),
        vec(any::<u8>(), 0..100).prop_map(|bytes| Request::RestoreChunk { bytes }),
        Just(Request::FinishRestore),
        (text(), any::<u32>())
            .prop_map(|(name, page_size)| Request::CreateDatabase { name, page_size }),
        text().prop_map(|name| Request::DropDatabase { name }),
        Just(Request::Databases),
    ]
}

fn batch() -> impl Strategy<Value = RowBatch> {
    (vec(text(), 0..40), any::<bool>()).prop_flat_map(|(names, complete)| {
        let kind = ColumnKind::Plain;
        let columns: Arc<[Column]> = names
            .into_iter()
            .map(|name| Column { name, kind })
            .collect();
        let rows_max = if columns.is_empty() { 0 } else { 10 };
        vec(vec(value(), columns.len()), 0..=rows_max).prop_map(move |rows| RowBatch {
            columns: columns.clone(),
            rows,
            complete,
        })
    })
}

fn member_entry() -> impl Strategy<Value = MemberEntry> {
    (any::<[u64; 2]>(), text()).prop_map(|([id, incarnation], address)| MemberEntry {
        id,
        incarnation,
        address,
    })
}

fn database_entry() -> impl Strategy<Value = DatabaseEntry> {
    (text(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |(name, id, page_size, page_count)| DatabaseEntry {
            name,
            id,
            page_size,
            page_count,
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    let server = (any::<u64>(), text(), role()).prop_map(|(id, address, role)| ServerEntry {
        id,
        address,
        role,
    });
    let file = (text(), vec(any::<u64>(), 0..20)).prop_map(|(name, words)| DumpFile {
        name,
        bytes: words.into_iter().flat_map(u64::to_le_bytes).collect(),
    });
    prop_oneof![
        (any::<u64>(), text()).prop_map(|(code, message)| Response::Failure { code, message }),
        (any::<u64>(), text()).prop_map(|(id, address)| Response::Server { id, address }),
        any::<u64>().prop_map(|heartbeat_timeout_ms| Response::Welcome {
            heartbeat_timeout_ms
        }),
        vec(server, 0..6).prop_map(|servers| {
            Response::Servers {
                format: ClusterFormat::WithRoles,
                servers,
            }
        }),
        any::<u32>().prop_map(|id| Response::Database { id }),
        (
            any::<u32>(),
            any::<u32>(),
            any::<u64>(),
            any::<Option<u64>>()
        )
            .prop_map(|(database, id, parameters, tail)| {
                Response::Statement {
                    database,
                    id,
                    parameters,
                    tail,
                }
            }),
        (any::<i64>(), any::<u64>()).prop_map(|(last_insert_rowid, changes)| Response::Result {
            last_insert_rowid,
            changes
        }),
        batch().prop_map(Response::Rows),
        Just(Response::Empty),
        vec(file, 0..4).prop_map(Response::Files),
        (any::<u64>(), any::<u64>()).prop_map(|(failure_domain, weight)| Response::Metadata {
            failure_domain,
            weight
        }),
        (any::<u64>(), any::<u64>(), any::<u64>(), text()).prop_map(
            |(applied, page_count, page_size, digest)| {
                Response::Digest {
                    applied,
                    page_count,
                    page_size,
                    digest,
                }
            }
        ),
        text().prop_map(|json| Response::Status { json }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(applied, page_size, page_count)| {
            Response::Backup {
                applied,
                page_size,
                page_count,
            }
        }),
        vec(any::<u8>(), 0..100).prop_map(|bytes| Response::BackupChunk { bytes }),
        vec(database_entry(), 0..5).prop_map(Response::Databases),
        (
            any::<u128>(),
            any::<u64>(),
            any::<u64>(),
            vec(member_entry(), 0..5)
        )
            .prop_map(|(cluster, id, shards, members)| Response::Joined {
                shards,
                cluster,
                id,
                members,
            }),
    ]
}

/// The one message in `bytes`.
fn split(bytes: &[u8]) -> (FrameHeader, &[u8]) {
    let (header, body) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    let header = FrameHeader::parse(*header);
    assert_eq!(header.body_bytes(BODY_BYTES_MAX).unwrap(), body.len());
    (header, body)
}

fn encoded() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        request().prop_map(|request| {
            let mut out = Vec::new();
            request.encode(&mut out).unwrap();
            out
        }),
        response().prop_map(|response| {
            let mut out = Vec::new();
            response.encode(&mut out).unwrap();
            out
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_request_is_read_as_it_was_written(request in request()) {
        let mut out = Vec::new();
        request.encode(&mut out).unwrap();
        let (header, body) = split(&out);
        prop_assert_eq!(header.kind, request.kind());
        prop_assert_eq!(Request::decode(header.kind, header.schema, body).unwrap(), request);
    }

    #[test]
    fn a_response_is_read_as_it_was_written(response in response()) {
        let mut out = Vec::new();
        response.encode(&mut out).unwrap();
        let (header, body) = split(&out);
        prop_assert_eq!(Response::decode(header.kind, header.schema, body).unwrap(), response);
    }

    /// 1.3: the peer leaves old bytes in the padding.
    #[test]
    fn padding_is_ignored(text in "[a-z]{0,20}", filler: u8) {
        let request = Request::Dump { name: text.clone() };
        let mut out = Vec::new();
        request.encode(&mut out).unwrap();
        let end = FRAME_HEADER_BYTES + text.len() + 1;
        out[end..].fill(filler);
        let (header, body) = split(&out);
        prop_assert_eq!(Request::decode(header.kind, header.schema, body).unwrap(), request);
    }

    #[test]
    fn random_bodies_do_no_harm(
        kind in prop_oneof![0..=20u8, Just(0x80), Just(0x81), Just(0x82), any::<u8>()],
        schema in 0..=2u8,
        body in vec(any::<u8>(), 0..400),
    ) {
        decode_all(kind, schema, &body);
    }

    /// Small words are counts and type codes more often than random bytes are.
    #[test]
    fn random_words_do_no_harm(
        kind in prop_oneof![0..=20u8, Just(0x80), Just(0x81), Just(0x82)],
        schema in 0..=1u8,
        words in vec(
            prop_oneof![0..=12u64, any::<u64>(), Just(u64::MAX), Just(0xeeee_eeee_eeee_eeee)],
            0..50,
        ),
    ) {
        let body: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        decode_all(kind, schema, &body);
    }

    #[test]
    fn damaged_messages_do_no_harm(
        mut message in encoded(),
        cut: prop::sample::Index,
        flips in vec(any::<(prop::sample::Index, u8)>(), 0..4),
        truncate: bool,
    ) {
        for (at, bits) in flips {
            let at = at.index(message.len());
            message[at] ^= bits;
        }
        if truncate {
            message.truncate(FRAME_HEADER_BYTES + cut.index(message.len() - FRAME_HEADER_BYTES));
        }
        let (header, body) = message.split_first_chunk().unwrap();
        let header = FrameHeader::parse(*header);
        decode_all(header.kind, header.schema, body);
    }

    /// A reader that is cut short says so; it never takes a part for the whole.
    #[test]
    fn a_response_without_its_last_word_is_an_error(response in response()) {
        let mut out = Vec::new();
        response.encode(&mut out).unwrap();
        let (header, body) = split(&out);
        let cut = &body[..body.len() - 8];
        let read = Response::decode(header.kind, header.schema, cut);
        prop_assert!(read.is_err(), "{:?}", read);
    }
}

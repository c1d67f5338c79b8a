//! The test vectors of the protocol's description, both ways: bytes that the peer accepted or sent.

use std::sync::Arc;

use ringlite::{
    Column, ColumnKind, RowBatch, Value,
    wire::{
        ClusterFormat, DumpFile, FRAME_HEADER_BYTES, FrameHeader, PROTOCOL_VERSION, Request,
        Response, Role, ServerEntry, VFS_NAME, WireError, decode_servers, dump_around,
    },
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn split(message: &[u8]) -> (FrameHeader, &[u8]) {
    let (header, body) = message.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    let header = FrameHeader::parse(*header);
    assert_eq!(header.body_bytes(u64::MAX).unwrap(), body.len());
    (header, body)
}

fn check_request(request: &Request, message: &str) {
    let message = hex(message);
    let mut encoded = Vec::new();
    request.encode(&mut encoded).unwrap();
    assert_eq!(encoded, message, "{request:?}");
    let (header, body) = split(&message);
    assert_eq!(
        &Request::decode(header.kind, header.schema, body).unwrap(),
        request
    );
}

fn check_response(response: &Response, kind: u8, schema: u8, body: &str) {
    let body = hex(body);
    let mut encoded = Vec::new();
    response.encode(&mut encoded).unwrap();
    let (header, encoded) = split(&encoded);
    assert_eq!((header.kind, header.schema), (kind, schema));
    assert_eq!(encoded, body, "{response:?}");
    assert_eq!(&Response::decode(kind, schema, &body).unwrap(), response);
}

fn plain(names: &[&str]) -> Arc<[Column]> {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        kind: ColumnKind::Plain,
    };
    names.iter().map(column).collect()
}

#[test]
fn requests() {
    assert_eq!(
        PROTOCOL_VERSION.to_le_bytes().to_vec(),
        hex("0100000000000000")
    );
    check_request(&Request::Leader, "0100000000000000 0000000000000000");
    check_request(
        &Request::Client { id: 0 },
        "0100000001000000 0000000000000000",
    );
    check_request(
        &Request::Open {
            name: "demo".into(),
            flags: 0,
            vfs: VFS_NAME.into(),
        },
        "0400000003000000 64656d6f00000000 0000000000000000 766f6c6174696c65 0000000000000000",
    );
    check_request(
        &Request::ExecuteSql {
            database: 0,
            sql: "INSERT INTO t VALUES(?,?)".into(),
            parameters: vec![Value::Integer(7), Value::Text("x".into())],
        },
        "0800000008000000 0000000000000000
         494e5345525420494e544f20742056414c554553283f2c3f2900000000000000
         0201030000000000 0700000000000000 7800000000000000",
    );
    check_request(
        &Request::Prepare {
            database: 0,
            sql: "SELECT ?".into(),
            with_tail: false,
        },
        "0300000004000000 0000000000000000 53454c454354203f 0000000000000000",
    );
    check_request(
        &Request::Query {
            database: 0,
            statement: 0,
            parameters: vec![Value::Integer(5)],
        },
        "0300000006000000 0000000000000000 0101000000000000 0500000000000000",
    );
    check_request(
        &Request::Finalize {
            database: 0,
            statement: 0,
        },
        "0100000007000000 0000000000000000",
    );
}

/// Clients of ours use schema 1 above 255 parameters only, so this one is read and not written.
#[test]
fn a_request_of_schema_1_with_one_parameter() {
    let message = hex(
        "0600000008010000 0000000000000000 494e5345525420494e544f20742056414c554553283f2900
         0100000001000000 4d00000000000000",
    );
    let (header, body) = split(&message);
    let request = Request::decode(header.kind, header.schema, body).unwrap();
    let sql = "INSERT INTO t VALUES(?)".into();
    let parameters = vec![Value::Integer(77)];
    assert_eq!(
        request,
        Request::ExecuteSql {
            database: 0,
            sql,
            parameters
        }
    );
}

#[test]
fn responses() {
    check_response(
        &Response::Server {
            id: 0x2dc1_7185_8c31_55be,
            address: "127.0.0.1:19001".into(),
        },
        1,
        0,
        "be55318c8571c12d 3132372e302e302e313a313930303100",
    );
    check_response(
        &Response::Welcome {
            heartbeat_timeout_ms: 15_000,
        },
        2,
        0,
        "983a000000000000",
    );
    check_response(
        &Response::Statement {
            database: 0,
            id: 0,
            parameters: 1,
            tail: None,
        },
        5,
        0,
        "00000000 00000000 0100000000000000",
    );
    check_response(
        &Response::Statement {
            database: 0,
            id: 1,
            parameters: 0,
            tail: Some(9),
        },
        5,
        1,
        "00000000 01000000 0000000000000000 0900000000000000",
    );
    check_response(
        &Response::Failure {
            code: 10_250,
            message: "not leader".into(),
        },
        0,
        0,
        "0a28000000000000 6e6f74206c6561646572000000000000",
    );
    check_response(&Response::Empty, 8, 0, "0000000000000000");
    check_response(&Response::Database { id: 0 }, 4, 0, "0000000000000000");
}

#[test]
fn rows() {
    let batch = RowBatch {
        columns: plain(&["x'0102'", "1.5", "NULL", "'abc'", "x''"]),
        rows: vec![vec![
            Value::Blob(vec![1, 2]),
            Value::Real(1.5),
            Value::Null,
            Value::Text("abc".into()),
            Value::Blob(vec![]),
        ]],
        complete: true,
    };
    check_response(
        &Response::Rows(batch),
        7,
        0,
        "0500000000000000 7827303130322700 312e350000000000 4e554c4c00000000 2761626327000000
         7827270000000000
         2435040000000000 0200000000000000 0102000000000000 000000000000f83f 0000000000000000
         6162630000000000 0000000000000000 ffffffffffffffff",
    );
}

#[test]
fn a_result_without_columns_is_a_count_and_a_mark() {
    let batch = RowBatch {
        columns: plain(&[]),
        rows: vec![],
        complete: true,
    };
    check_response(
        &Response::Rows(batch),
        7,
        0,
        "0000000000000000 ffffffffffffffff",
    );
}

#[test]
fn a_batch_that_another_follows_ends_in_ee() {
    let batch = RowBatch {
        columns: plain(&["a"]),
        rows: vec![vec![Value::Integer(1)]],
        complete: false,
    };
    check_response(
        &Response::Rows(batch),
        7,
        0,
        "0100000000000000 6100000000000000 0100000000000000 0100000000000000 eeeeeeeeeeeeeeee",
    );
}

/// The peer aborts the node at the REAL in a DATETIME column and at the TEXT in a BOOLEAN column.
#[test]
fn declared_types_change_the_codes_of_what_suits_them() {
    let columns: Arc<[Column]> = [ColumnKind::DateTime, ColumnKind::Boolean]
        .map(|kind| Column {
            name: "c".into(),
            kind,
        })
        .into_iter()
        .collect();
    let rows = vec![
        vec![Value::Integer(60), Value::Integer(1)],
        vec![Value::Text("2024".into()), Value::Text("yes".into())],
        vec![Value::Real(1.5), Value::Real(1.5)],
        vec![Value::Null, Value::Null],
    ];
    let mut out = Vec::new();
    let batch = RowBatch {
        columns,
        rows: rows.clone(),
        complete: true,
    };
    Response::Rows(batch).encode(&mut out).unwrap();
    let headers: Vec<u8> = (0..4).map(|row| out[8 + 24 + row * 24]).collect();
    assert_eq!(headers, [0xb9, 0x3a, 0x22, 0x55]);
    let (header, body) = split(&out);
    let Response::Rows(read) = Response::decode(header.kind, header.schema, body).unwrap() else {
        panic!("a ROWS message is read as one");
    };
    assert_eq!(read.rows, rows);
    assert!(
        read.columns
            .iter()
            .all(|column| column.kind == ColumnKind::Plain)
    );
}

/// 1.4: the peer sends a NULL of a DATETIME column as an empty ISO8601, which stays a text here.
#[test]
fn what_the_peer_sends_for_null_can_be_read() {
    let body =
        hex("0100000000000000 6100000000000000 0a00000000000000 0000000000000000 ffffffffffffffff");
    let Response::Rows(batch) = Response::decode(7, 0, &body).unwrap() else {
        unreachable!()
    };
    assert_eq!(batch.rows, [[Value::Text(String::new())]]);
}

#[test]
fn texts_are_cut_at_a_nul() {
    let mut out = Vec::new();
    Request::Dump {
        name: "a\0b".into(),
    }
    .encode(&mut out)
    .unwrap();
    assert_eq!(out, hex("010000000f000000 6100000000000000"));
}

#[test]
fn servers_in_both_formats() {
    let entry = |id: u64, role| ServerEntry {
        id,
        address: format!("n{id}:1"),
        role,
    };
    let servers = vec![entry(1, Role::Voter), entry(2, Role::Spare)];
    let mut out = Vec::new();
    let format = ClusterFormat::WithRoles;
    Response::Servers {
        format,
        servers: servers.clone(),
    }
    .encode(&mut out)
    .unwrap();
    assert_eq!(decode_servers(format, split(&out).1).unwrap(), servers);

    out.clear();
    let format = ClusterFormat::WithoutRoles;
    Response::Servers { format, servers }
        .encode(&mut out)
        .unwrap();
    assert_eq!(out.len(), 8 + 8 + 2 * 16);
    let read = decode_servers(format, split(&out).1).unwrap();
    assert_eq!(read, [entry(1, Role::Voter), entry(2, Role::Voter)]);
}

#[test]
fn the_leader_for_a_legacy_client_has_no_id() {
    let mut out = Vec::new();
    Response::LegacyServer {
        address: "a:1".into(),
    }
    .encode(&mut out)
    .unwrap();
    assert_eq!(out, hex("0100000001000000 613a310000000000"));
}

#[test]
fn a_promotion_without_a_role_makes_a_voter() {
    let request = Request::decode(13, 0, &hex("0700000000000000")).unwrap();
    assert_eq!(
        request,
        Request::Assign {
            id: 7,
            role: Some(Role::Voter)
        }
    );
    let request = Request::decode(13, 0, &hex("0700000000000000 0300000000000000")).unwrap();
    assert_eq!(request, Request::Assign { id: 7, role: None });
}

#[test]
fn requests_that_are_refused() {
    let word = |value: u64| value.to_le_bytes().to_vec();
    let sql = hex("0000000000000000 3b00000000000000");
    let cases: [(u8, u8, Vec<u8>, u64, bool); 15] = [
        (2, 0, word(0), 1005, false),
        (20, 0, word(0), 1005, false),
        (0x7f, 0, word(0), 1005, false),
        (0xff, 0, word(0), 1005, false),
        (0, 1, word(0), 1005, false),
        (4, 2, sql.clone(), 1, false),
        (9, 7, sql.clone(), 1, false),
        (16, 0, word(2), 1005, false),
        (18, 0, word(1), 15, false),
        (13, 0, [word(1), word(4)].concat(), 1005, false),
        (
            8,
            0,
            [sql.clone(), hex("0109000000000000"), word(0)].concat(),
            1,
            false,
        ),
        (
            8,
            0,
            [sql, hex("01ff000000000000"), word(0)].concat(),
            1,
            false,
        ),
        (15, 0, b"12345678".to_vec(), 1001, true),
        (0, 0, vec![], 1001, true),
        (3, 0, hex("64656d6f00000000"), 1001, true),
    ];
    for (kind, schema, body, code, closes) in cases {
        let error = Request::decode(kind, schema, &body).unwrap_err();
        let found = (error.failure_code(), error.closes_connection());
        assert_eq!(
            found,
            (code, closes),
            "type {kind} schema {schema}: {error}"
        );
        let Response::Failure {
            code: sent,
            message,
        } = Response::from(&error)
        else {
            panic!("an error is sent as a FAILURE");
        };
        assert_eq!((sent, message), (code, error.to_string()));
    }
}

#[test]
fn a_file_that_is_not_in_whole_words_cannot_be_sent() {
    let file = |length| DumpFile {
        name: "db".into(),
        bytes: vec![7; length],
    };
    let mut out = vec![1];
    let error = Response::Files(vec![file(8), file(9)])
        .encode(&mut out)
        .unwrap_err();
    assert!(matches!(error, WireError::UnalignedFile { bytes: 9, .. }));
    assert_eq!(out, [1]);
}

#[test]
fn a_dump_that_is_streamed_is_the_files_response() {
    let content: Vec<u8> = (0..=255).cycle().take(1024).collect();
    let files = ["app.db", "app.db-wal"];
    let contents = [content.clone(), Vec::new()];
    let files = files
        .into_iter()
        .zip(contents)
        .map(|(name, bytes)| DumpFile {
            name: name.to_owned(),
            bytes,
        });
    let mut expected = Vec::new();
    Response::Files(files.collect())
        .encode(&mut expected)
        .unwrap();
    let (before, after) = dump_around("app.db", 1024).unwrap();
    assert_eq!([before, content, after].concat(), expected);
    assert!(matches!(
        dump_around("app.db", 1 << 33),
        Err(WireError::TooLarge { .. })
    ));
}

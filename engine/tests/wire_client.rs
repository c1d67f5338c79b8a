//! The client against small servers that follow a script.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    ops::ControlFlow,
    sync::Arc,
    thread,
    time::Duration,
};

use ringlite::{
    Column, ColumnKind, RowBatch, Value,
    client::{Client, ClientError, ClientOptions},
    wire::{
        BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, PROTOCOL_VERSION, Request, Response, Role,
        ServerEntry,
    },
};

/// Starts a server that answers each request by `respond`: no response closes the connection.
fn serve(
    listener: TcpListener,
    respond: impl Fn(&Request) -> Vec<Response> + Send + Sync + 'static,
) {
    let respond = Arc::new(respond);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let respond = Arc::clone(&respond);
            let stream = stream.unwrap();
            thread::spawn(move || session(stream, &*respond));
        }
    });
}

fn session(mut stream: TcpStream, respond: &dyn Fn(&Request) -> Vec<Response>) {
    let mut word = [0; 8];
    if stream.read_exact(&mut word).is_err() {
        return;
    }
    assert_eq!(u64::from_le_bytes(word), PROTOCOL_VERSION);
    let mut header = [0; FRAME_HEADER_BYTES];
    while stream.read_exact(&mut header).is_ok() {
        let header = FrameHeader::parse(header);
        let mut body = vec![0; header.body_bytes(BODY_BYTES_MAX).unwrap()];
        stream.read_exact(&mut body).unwrap();
        let responses = respond(&Request::decode(header.kind, header.schema, &body).unwrap());
        if responses.is_empty() {
            return;
        }
        let mut out = Vec::new();
        for response in responses {
            response.encode(&mut out).unwrap();
        }
        stream.write_all(&out).unwrap();
    }
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn names(address: &str) -> Vec<Response> {
    vec![Response::Server {
        id: 1,
        address: address.to_owned(),
    }]
}

/// A node that names `leader`, and answers `other` to the rest.
fn node(
    listener: TcpListener,
    leader: String,
    other: impl Fn(&Request) -> Vec<Response> + Send + Sync + 'static,
) {
    serve(listener, move |request| match request {
        Request::Leader => names(&leader),
        Request::Client { .. } => vec![Response::Welcome {
            heartbeat_timeout_ms: 15_000,
        }],
        Request::Open { .. } => vec![Response::Database { id: 0 }],
        other_request => other(other_request),
    });
}

fn batch(rows: &[i64], complete: bool) -> Response {
    let columns = [Column {
        name: "a".into(),
        kind: ColumnKind::Plain,
    }]
    .into_iter()
    .collect();
    let rows = rows.iter().map(|&row| vec![Value::Integer(row)]).collect();
    Response::Rows(RowBatch {
        columns,
        rows,
        complete,
    })
}

fn options(find_leader: Duration) -> ClientOptions {
    ClientOptions {
        find_leader_timeout: find_leader,
        ..ClientOptions::default()
    }
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn the_leader_is_followed_from_any_node() {
    let (down, down_address) = listen();
    drop(down);
    let (unknowing, unknowing_address) = listen();
    let (follower, follower_address) = listen();
    let (leader, leader_address) = listen();
    node(unknowing, String::new(), |_| vec![]);
    node(follower, leader_address.clone(), |_| vec![]);
    node(leader, leader_address.clone(), |_| vec![]);
    let addresses = [down_address, unknowing_address, follower_address];
    let client = Client::connect(&addresses, options(LONG)).unwrap();
    assert_eq!(client.address(), leader_address);
    assert!(client.is_connected());
}

#[test]
fn nodes_that_name_each_other_are_no_leader() {
    let (one, one_address) = listen();
    let (two, two_address) = listen();
    node(one, two_address.clone(), |_| vec![]);
    node(two, one_address.clone(), |_| vec![]);
    let error = Client::connect(std::slice::from_ref(&one_address), options(SHORT)).unwrap_err();
    let ClientError::NoLeader { tried } = &error else {
        panic!("{error}")
    };
    let found: Vec<&str> = tried.iter().map(|tried| tried.address.as_str()).collect();
    assert_eq!(found, [&one_address, &two_address]);
    assert!(
        error
            .to_string()
            .contains(&format!("{two_address}: names {one_address}")),
        "{error}"
    );
}

#[test]
fn without_addresses_there_is_nothing_to_wait_for() {
    let error = Client::connect(&[], options(LONG)).unwrap_err();
    assert!(
        error.to_string().contains("no address was given"),
        "{error}"
    );
}

#[test]
fn batches_are_merged_or_handed_over_one_by_one() {
    let (listener, address) = listen();
    node(listener, address.clone(), |request| match request {
        Request::QuerySql { .. } => vec![batch(&[1, 2], false), batch(&[3], true)],
        _ => vec![],
    });
    let mut client = Client::connect_to(&address).unwrap();
    let all = client.query("SELECT a FROM t", &[]).unwrap();
    assert_eq!(Response::Rows(all), batch(&[1, 2, 3], true));

    let mut lengths = Vec::new();
    let each = |batch: RowBatch| {
        lengths.push(batch.rows.len());
        ControlFlow::Continue(())
    };
    client.query_each("SELECT a FROM t", &[], each).unwrap();
    assert_eq!(lengths, [2, 1]);
}

/// 1.7: after an INTERRUPT the client sees further ROWS, and then exactly one EMPTY.
#[test]
fn a_result_that_is_left_early_is_cancelled() {
    let (listener, address) = listen();
    node(listener, address.clone(), |request| match request {
        Request::QuerySql { .. } => vec![batch(&[1], false), batch(&[2], false)],
        Request::Interrupt { .. } => vec![batch(&[3], true), Response::Empty],
        Request::ExecuteSql { .. } => {
            vec![Response::Result {
                last_insert_rowid: 5,
                changes: 1,
            }]
        }
        _ => vec![],
    });
    let mut client = Client::connect_to(&address).unwrap();
    client
        .query_each("SELECT a FROM t", &[], |_| ControlFlow::Break(()))
        .unwrap();
    assert_eq!(
        client
            .execute("DELETE FROM t", &[])
            .unwrap()
            .last_insert_rowid,
        5
    );
}

#[test]
fn failures_keep_the_connection_and_say_what_they_mean() {
    let (listener, address) = listen();
    node(listener, address.clone(), |request| match request {
        Request::ExecuteSql { sql, .. } => {
            vec![Response::Failure {
                code: sql.parse().unwrap(),
                message: "no".into(),
            }]
        }
        Request::QuerySql { .. } => {
            vec![
                batch(&[1], false),
                Response::Failure {
                    code: 1,
                    message: "abs".into(),
                },
            ]
        }
        _ => vec![],
    });
    let mut client = Client::connect_to(&address).unwrap();
    for (code, not_leader, unknown) in [
        (10_250, true, false),
        (8202, true, false),
        (10_506, false, true),
        (8458, false, true),
    ] {
        let error = client.execute(&code.to_string(), &[]).unwrap_err();
        assert_eq!(
            (error.is_not_leader(), error.is_outcome_unknown()),
            (not_leader, unknown)
        );
        assert!(!error.is_connection_lost());
    }
    let error = client.query("SELECT 1", &[]).unwrap_err();
    assert_eq!(error.to_string(), "abs (code 1)");
    assert!(client.is_connected());
}

#[test]
fn a_lost_connection_is_not_used_again_until_reconnect() {
    let (listener, address) = listen();
    node(listener, address.clone(), |request| match request {
        Request::Prepare { .. } => {
            vec![Response::Statement {
                database: 0,
                id: 3,
                parameters: 2,
                tail: None,
            }]
        }
        _ => vec![],
    });
    let mut client = Client::connect(&[address], options(LONG)).unwrap();
    client.open("main.db").unwrap();
    let statement = client.prepare("SELECT ?, ?").unwrap();
    assert_eq!(statement.parameter_count(), 2);

    let error = client.execute("INSERT INTO t VALUES (1)", &[]).unwrap_err();
    assert!(matches!(error, ClientError::Io { .. }), "{error}");
    assert!(error.is_connection_lost() && !client.is_connected());
    let error = client.execute("INSERT INTO t VALUES (1)", &[]).unwrap_err();
    assert!(matches!(error, ClientError::NotConnected { .. }), "{error}");

    client.reconnect().unwrap();
    assert!(client.is_connected());
    let error = client.execute_prepared(&statement, &[]).unwrap_err();
    assert!(matches!(error, ClientError::StaleStatement), "{error}");
    client.finalize(statement).unwrap();
    assert!(client.is_connected());
}

#[test]
fn the_members_are_remembered_as_places_to_look_for_the_leader() {
    let (first, first_address) = listen();
    let (second, second_address) = listen();
    node(second, second_address.clone(), |_| vec![]);
    let member = ServerEntry {
        id: 2,
        address: second_address.clone(),
        role: Role::Voter,
    };
    let count = std::sync::atomic::AtomicUsize::new(0);
    let own_address = first_address.clone();
    serve(first, move |request| match request {
        // It names itself once and then forgets that it leads.
        Request::Leader if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
            names(&own_address)
        }
        Request::Leader => names(""),
        Request::Client { .. } => vec![Response::Welcome {
            heartbeat_timeout_ms: 15_000,
        }],
        Request::Cluster { format } => {
            vec![Response::Servers {
                format: *format,
                servers: vec![member.clone()],
            }]
        }
        _ => vec![],
    });
    let mut client = Client::connect(&[first_address], options(LONG)).unwrap();
    assert_eq!(client.cluster().unwrap().len(), 1);
    client.reconnect().unwrap();
    assert_eq!(client.address(), second_address);
}

#[test]
fn nonsense_is_a_protocol_error_and_not_an_allocation() {
    let (listener, address) = listen();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // A header that announces nearly 4 GiB, and then the end.
        stream
            .write_all(&[0xff, 0xff, 0xff, 0x1f, 7, 0, 0, 0, 1, 2, 3])
            .unwrap();
    });
    let mut client = Client::connect_to(&address).unwrap();
    let error = client.leader().unwrap_err();
    assert!(error.is_connection_lost(), "{error}");

    let (listener, address) = listen();
    serve(listener, |_| vec![Response::Empty]);
    let mut client = Client::connect_to(&address).unwrap();
    let error = client.leader().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("answered EMPTY where SERVER was due"),
        "{error}"
    );
    assert!(!client.is_connected());
}

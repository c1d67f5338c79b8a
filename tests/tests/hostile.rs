//! Clients and peers that send what nobody should: each gets a clear FAILURE or is closed, and the
//! node serves on and keeps its memory.
//!
//! `HOSTILE_CONNECTIONS` sets how many connections send random bytes (300 unless told).

use ringlite::Value;
use ringlite::wire::{BODY_BYTES_MAX, PARAMETERS_MAX, PROTOCOL_VERSION, Request, Response};
use ringlite_tests::process;
use ringlite_tests::raw::{Answer, Random, RawConnection};
use ringlite_tests::victim::Victim;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");

/// Codes of the protocol for what cannot be read.
const PROTOCOL: u64 = 1001;
const PARSE: u64 = 1005;
const NOT_FOUND: u64 = 12;

/// A leader, and the directory that its cluster lives in.
fn victim() -> (TempDir, Victim) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let victim = Victim::start(PROGRAM, directory.path());
    (directory, victim)
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn words(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len() / 8).unwrap()
}

#[test]
fn what_is_not_the_protocol_is_refused_or_closed() {
    let (_directory, mut victim) = victim();
    let address = victim.address.clone();
    for version in [
        0,
        2,
        u64::MAX,
        PROTOCOL_VERSION.swap_bytes(),
        u64::from_le_bytes(*b"GET / HT"),
    ] {
        let mut connection = RawConnection::open(&address);
        connection.send(&version.to_le_bytes());
        let (code, message) = connection.hear().failure();
        assert_eq!(code, PROTOCOL, "{message}");
        assert!(message.contains("version 1"), "{message}");
        assert_eq!(connection.hear_end(), Answer::Closed);
    }
    victim.serves_on("other versions");

    for bytes in 0..16 {
        let mut connection = RawConnection::open(&address);
        connection.send(&PROTOCOL_VERSION.to_le_bytes().repeat(2)[..bytes]);
        connection.end();
        assert_eq!(connection.hear_end(), Answer::Closed, "after {bytes} bytes");
    }
    victim.serves_on("connections that end at once");

    for body_bytes in [BODY_BYTES_MAX + 8, u64::from(u32::MAX) * 8] {
        let mut connection = RawConnection::client(&address);
        let answer = connection.ask_frame(u32::try_from(body_bytes / 8).unwrap(), 9, 0, b"");
        let (code, message) = answer.failure();
        assert_eq!(code, PROTOCOL, "{message}");
        assert!(message.contains("too large"), "{message}");
        assert_eq!(connection.hear_end(), Answer::Closed);
    }
    // One that is as long as is allowed, but does not come, takes no memory.
    let mut waiting = Vec::new();
    for _ in 0..16 {
        let mut connection = RawConnection::client(&address);
        connection.send(&[0, 0, 0, 2, 9, 0, 0, 0]);
        connection.send(&[b'x'; 64]);
        waiting.push(connection);
    }
    victim.serves_on("oversized lengths");
    victim.check();
}

#[test]
fn requests_that_cannot_be_read_are_answered_with_what_is_wrong() {
    let (_directory, mut victim) = victim();
    for kind in [2, 20, 64, 127, 131, 255] {
        let mut connection = victim.database();
        let (code, message) = connection.ask_frame(1, kind, 0, &[0; 8]).failure();
        assert_eq!(code, PARSE, "{message}");
        assert!(message.contains(&kind.to_string()), "{message}");
        // It is no reason to lose the connection.
        let again = connection.ask(&Request::Leader);
        assert!(
            matches!(again, Answer::Response(Response::Server { .. })),
            "{again:?}"
        );
    }
    for kind in (0..=19).chain([128, 129]) {
        // A body that ends before its first field, and one of nothing but ones.
        for body in [&[][..], &[0xff; 64]] {
            let mut connection = victim.database();
            match connection.ask_frame(words(body), kind, 0, body) {
                Answer::Response(_) | Answer::Closed => {}
                Answer::Silence => panic!("silence after kind {kind} with {body:?}"),
            }
        }
        let mut connection = victim.database();
        let answer = connection.ask_frame(1, kind, 99, &[0; 8]);
        assert!(
            !matches!(answer, Answer::Silence),
            "kind {kind} with schema 99"
        );
    }
    victim.serves_on("bodies that make no sense");

    let sql = text("SELECT 1");
    for (name, parameters) in [
        (
            "a million parameters",
            [&1_000_000_u32.to_le_bytes()[..], &[1; 12]].concat(),
        ),
        (
            "more than there may be",
            [&u32::MAX.to_le_bytes()[..], &[1; 60]].concat(),
        ),
        ("an unknown type", vec![1, 99, 0, 0, 0, 0, 0, 0]),
        (
            "a text without an end",
            [&[1, 3, 0, 0, 0, 0, 0, 0][..], &[b'x'; 8]].concat(),
        ),
        (
            "a blob that is too long",
            [&[1, 4, 0, 0, 0, 0, 0, 0][..], &[0xff; 8]].concat(),
        ),
    ] {
        for schema in [0, 1] {
            let mut connection = victim.database();
            let body = [&[0; 8][..], &sql, &parameters].concat();
            let answer = connection.ask_frame(words(&body), 9, schema, &body);
            if !matches!(answer, Answer::Response(Response::Rows(_))) {
                let (code, message) = answer.failure();
                assert!(
                    [1, 18, PROTOCOL].contains(&code),
                    "{name}: {code}: {message}"
                );
            }
        }
        victim.serves_on(name);
    }
    victim.check();
}

#[test]
fn requests_that_make_no_sense_fail_and_the_connection_goes_on() {
    let (_directory, mut victim) = victim();
    let mut connection = victim.database();
    let finalize = |statement| Request::Finalize {
        database: 0,
        statement,
    };
    for statement in [0, 1, u32::MAX] {
        let parameters = Vec::new();
        let execute = Request::Execute {
            database: 0,
            statement,
            parameters: parameters.clone(),
        };
        let query = Request::Query {
            database: 0,
            statement,
            parameters,
        };
        for request in [execute, query, finalize(statement)] {
            let (code, message) = connection.ask(&request).failure();
            assert_eq!(code, NOT_FOUND, "{message}");
            assert!(message.contains("no statement"), "{message}");
        }
    }
    let sql = "INSERT INTO t (b) VALUES (1)".to_owned();
    let prepare = Request::Prepare {
        database: 0,
        sql,
        with_tail: false,
    };
    let Answer::Response(Response::Statement { id, .. }) = connection.ask(&prepare) else {
        panic!("it is not prepared");
    };
    assert_eq!(
        connection.ask(&finalize(id)),
        Answer::Response(Response::Empty)
    );
    assert_eq!(connection.ask(&finalize(id)).failure().0, NOT_FOUND);
    let open = Request::Open {
        name: "other".into(),
        flags: 0,
        vfs: String::new(),
    };
    assert_eq!(connection.ask(&open).failure().0, 5);

    victim.check();
}

#[test]
fn names_of_databases_that_are_paths_are_refused() {
    let (_directory, mut victim) = victim();
    for name in [
        "",
        "..",
        "../../etc/passwd",
        "a/b",
        "/tmp/x",
        ".",
        &"x".repeat(5_000),
    ] {
        let mut connection = RawConnection::client(&victim.address);
        let open = Request::Open {
            name: name.into(),
            flags: 0,
            vfs: String::new(),
        };
        let answer = connection.ask(&open);
        assert!(
            matches!(answer, Answer::Response(Response::Failure { .. })),
            "{name:?}: {answer:?}"
        );
        let run = Request::QuerySql {
            database: 0,
            sql: "SELECT 1".into(),
            parameters: vec![],
        };
        let (_, message) = connection.ask(&run).failure();
        assert!(message.contains("no database"), "{message}");
    }
    victim.serves_on("names of databases that are paths");
    victim.check();
}

#[test]
fn sql_that_is_too_much_fails_and_the_node_goes_on() {
    const DEPTH: usize = 100_000;
    let (_directory, mut victim) = victim();
    let mut connection = victim.database();
    let parentheses = format!("SELECT {}1{}", "(".repeat(DEPTH), ")".repeat(DEPTH));
    let selects = format!(
        "{}SELECT 1{}",
        "SELECT * FROM (".repeat(5_000),
        ")".repeat(5_000)
    );
    let functions = format!("SELECT {}1{}", "abs(".repeat(DEPTH), ")".repeat(DEPTH));
    let sum = format!("SELECT 1{}", "+1".repeat(DEPTH));
    let union = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(DEPTH / 10));
    let columns = format!("SELECT 1{}", ",1".repeat(DEPTH));
    let json = format!("SELECT json('{}{}')", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let like = format!(
        "SELECT '{}' LIKE '{}'",
        "a".repeat(DEPTH),
        "%a".repeat(DEPTH / 2)
    );
    let nul = "SELECT 1\0; SELECT 2".to_owned();
    for sql in [
        parentheses,
        selects,
        functions,
        sum,
        union,
        columns,
        json,
        like,
        nul,
    ] {
        let name = sql.chars().take(40).collect::<String>();
        let query = Request::QuerySql {
            database: 0,
            sql,
            parameters: vec![],
        };
        let answer = connection.ask(&query);
        if !matches!(answer, Answer::Response(Response::Rows(_))) {
            let (code, message) = answer.failure();
            println!("{name}...: {message} (code {code})");
            assert!(code != 0 && !message.is_empty());
        }
        victim.serves_on(&name);
    }
    let many = vec![Value::Null; PARAMETERS_MAX + 1];
    let query = Request::QuerySql {
        database: 0,
        sql: "SELECT 1".into(),
        parameters: many,
    };
    let mut bytes = Vec::new();
    assert!(
        query.encode(&mut bytes).is_err(),
        "our own client does not send so many"
    );
    victim.check();
}

#[test]
fn random_bytes_do_no_harm() {
    let connections = process::size("HOSTILE_CONNECTIONS", 300);
    let (_directory, mut victim) = victim();
    let mut random = Random::new(7);
    for number in 0..connections {
        let length = random.below(2_000);
        let mut bytes = random.bytes(length);
        let mut connection = match number % 4 {
            0 => RawConnection::open(&victim.address),
            1 => RawConnection::client(&victim.address),
            _ => victim.database(),
        };
        if number % 4 == 3 && bytes.len() > 24 {
            // A header that is in order, so that the body is read. Not of what any client may ask for
            // and would change the cluster: a member that is added, changed, removed or made leader.
            let kind = match random.below(20) as u8 {
                12..=14 | 17 => 0,
                kind => kind,
            };
            let body = (bytes.len() / 8 * 8 - 8) as u32 / 8;
            bytes[..8].copy_from_slice(&[body as u8, (body >> 8) as u8, 0, 0, kind, 0, 0, 0]);
            bytes[8..16].fill(0);
        }
        connection.send(&bytes);
        connection.end();
        assert_eq!(connection.hear_end(), Answer::Closed, "connection {number}");
        if number % 50 == 0 {
            victim.serves_on("random bytes");
        }
    }
    victim.check();
}

#[test]
fn connections_that_never_speak_keep_nobody_out() {
    let (_directory, mut victim) = victim();
    let silent: Vec<_> = (0..64)
        .map(|number| match number % 3 {
            0 => RawConnection::open(&victim.address),
            1 => RawConnection::client(&victim.address),
            _ => victim.database(),
        })
        .collect();
    victim.serves_on("64 connections that do not speak");
    // Nor do clients that do not listen: their results wait in the sockets.
    let mut deaf = Vec::new();
    for _ in 0..8 {
        let mut connection = victim.database();
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
            SELECT zeroblob(10000) FROM n";
        let query = Request::QuerySql {
            database: 0,
            sql: sql.into(),
            parameters: vec![],
        };
        let mut bytes = Vec::new();
        query.encode(&mut bytes).unwrap();
        connection.send(&bytes);
        deaf.push(connection);
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    victim.serves_on("8 clients that do not listen");
    victim.check();
    drop((silent, deaf));
}

/// The text of a query that is away from the core when what is behind it arrives.
const SLOW: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) \
                    SELECT count(*) FROM n";
/// One whose rows come in several batches.
const LONG: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
                    SELECT zeroblob(4000) FROM n";

fn query(sql: &str) -> Vec<u8> {
    let query = Request::QuerySql {
        database: 0,
        sql: sql.to_owned(),
        parameters: vec![],
    };
    let mut bytes = Vec::new();
    query.encode(&mut bytes).unwrap();
    bytes
}

/// Hears all batches of a result, and gives its last value.
fn hear_rows(connection: &mut RawConnection) -> Value {
    let mut last = None;
    loop {
        match connection.hear() {
            Answer::Response(Response::Rows(batch)) => {
                last = batch.rows.into_iter().flatten().next_back().or(last);
                if batch.complete {
                    return last.unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn requests_that_come_before_the_answer_to_the_one_before_are_all_served() {
    let (_directory, mut victim) = victim();
    for (first, answer) in [
        (SLOW, Value::Integer(300_000)),
        (LONG, Value::Blob(vec![0; 4000])),
    ] {
        for pause in [0, 1, 10] {
            let mut connection = victim.database();
            for (number, sql) in [first, "SELECT 2", first, "SELECT 4"].iter().enumerate() {
                connection.send(&query(sql));
                if number % 2 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(pause));
                }
            }
            for expected in [
                answer.clone(),
                Value::Integer(2),
                answer.clone(),
                Value::Integer(4),
            ] {
                assert_eq!(hear_rows(&mut connection), expected, "paused {pause} ms");
            }
            // In one packet.
            let together = [query(first), query("SELECT 6"), query("SELECT 7")].concat();
            connection.send(&together);
            assert_eq!(hear_rows(&mut connection), answer);
            assert_eq!(hear_rows(&mut connection), Value::Integer(6));
            assert_eq!(hear_rows(&mut connection), Value::Integer(7));
        }
    }
    victim.serves_on("requests in advance");
    victim.check();
}

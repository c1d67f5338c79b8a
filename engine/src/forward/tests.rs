//! The connection to the leader, whose end is scripted here: what goes over it and when, which no real
//! leader can be made to show.

use std::io::Read as _;
use std::net::TcpListener;
use std::thread;

use ringlite_raft::NodeId;

use super::*;
use crate::sql::RunLimits;
use crate::sql::workers::WorkerCores;
use crate::wire::{
    BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, OPEN_EXISTING, OPEN_HERE, OPEN_PLAIN_BEGIN,
    PROTOCOL_VERSION, Response,
};

const DATABASE: &str = "app";
/// Far more than the sockets between two ends hold.
const LARGE_BYTES: usize = 32 << 20;
/// What is not sent within this time is not sent.
const SILENCE: Duration = Duration::from_millis(200);

/// The leader's end of a connection.
struct Leader(TcpStream);

impl Leader {
    /// Waits for the connection, and for the first request, which opens the database.
    fn accept(listener: &TcpListener) -> Self {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 8];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), PROTOCOL_VERSION);
        Self(stream)
    }

    fn next(&mut self) -> wire::Request {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.0.read_exact(&mut header).unwrap();
        let header = FrameHeader::parse(header);
        let mut body = vec![0; header.body_bytes(BODY_BYTES_MAX).unwrap()];
        self.0.read_exact(&mut body).unwrap();
        wire::Request::decode(header.kind, header.schema, &body).unwrap()
    }

    fn is_silent(&mut self) -> bool {
        self.0.set_read_timeout(Some(SILENCE)).unwrap();
        let peeked = self.0.peek(&mut [0]);
        self.0.set_read_timeout(None).unwrap();
        peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    fn answer(&mut self, responses: &[Response]) {
        let mut bytes = Vec::new();
        for response in responses {
            response.encode(&mut bytes).unwrap();
        }
        self.0.write_all(&bytes).unwrap();
    }

    fn opens(&mut self, create: bool) {
        let existing = if create { 0 } else { OPEN_EXISTING };
        match self.next() {
            wire::Request::Open { name, flags, .. } => {
                assert_eq!(
                    (name.as_str(), flags),
                    (DATABASE, OPEN_PLAIN_BEGIN | OPEN_HERE | existing)
                );
            }
            other => panic!("{other:?} in place of OPEN"),
        }
    }

    fn expects_interrupt(&mut self) {
        let next = self.next();
        assert!(matches!(next, wire::Request::Interrupt { .. }), "{next:?}");
    }
}

/// A session of a node that knows `address` for the leader's.
struct Session {
    forwarder: Forwarder,
    interrupter: Arc<Interrupter>,
}

impl Session {
    fn at(listener: &TcpListener) -> Self {
        let cores = WorkerCores::beside(None, &[0]);
        let readers = Arc::new(Readers::new(RunLimits::default(), Duration::ZERO, cores));
        readers.publish_leader(Some(NodeAddress {
            id: NodeId(1),
            address: listener.local_addr().unwrap().to_string(),
        }));
        let interrupter = Arc::new(Interrupter::default());
        let started = Forwarder::start(readers, DATABASE, Arc::clone(&interrupter));
        Self {
            forwarder: started.unwrap(),
            interrupter,
        }
    }

    fn asks(&self, request: Request) -> flume::Receiver<Forwarded> {
        self.forwarder.ask(request, IfLost::Unknown, false)
    }

    /// With a session of the leader's on the database.
    fn opened(listener: &TcpListener) -> (Self, Leader) {
        let session = Self::at(listener);
        let opened = session.asks(open_request(true));
        let mut leader = Leader::accept(listener);
        leader.opens(true);
        leader.answer(&[Response::Database { id: 0 }]);
        assert_eq!(answer(&opened), Ok(Reply::Opened));
        (session, leader)
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn open_request(create: bool) -> Request {
    Request::Open {
        database: DATABASE.to_owned(),
        create,
    }
}

fn execute(parameters: Vec<Value>) -> Request {
    Request::Sql(Work::Execute(Source::text(
        "INSERT INTO t VALUES (?)",
        parameters,
    )))
}

fn query() -> Request {
    let limit = RowLimit::Whole { bytes_max: 1 << 20 };
    let source = Source::text("SELECT 1", Vec::new());
    Request::Sql(Work::Query { source, limit })
}

fn answer(receiver: &flume::Receiver<Forwarded>) -> Result<Reply> {
    match receiver.recv_timeout(Duration::from_secs(30)) {
        Ok(Forwarded::Answered(answer)) => answer,
        Ok(Forwarded::Home) => panic!("this node leads"),
        Err(error) => panic!("no answer: {error}"),
    }
}

const DONE: Response = Response::Result {
    last_insert_rowid: 7,
    changes: 1,
};

fn is_done(reply: &Result<Reply>) -> bool {
    matches!(reply, Ok(Reply::Executed(executed)) if executed.last_insert_rowid == 7)
}

/// One request, so that what the leader says is of one moment: a list of its databases, asked for before,
/// once told that there was none, or let one be made that was dropped in between.
#[test]
fn the_leader_is_told_in_one_request_whether_it_may_make_the_database() {
    let listener = listen();
    let session = Session::at(&listener);
    let done = session.asks(execute(Vec::new()));
    let mut leader = Leader::accept(&listener);
    leader.opens(false);
    let none = Response::Failure {
        code: 12,
        message: "there is no database named \"app\"".into(),
    };
    leader.answer(&[none]);
    let error = answer(&done).unwrap_err();
    assert!(matches!(error, Error::Misuse { code: 12, .. }), "{error:?}");
    drop(leader);
    // It is asked again the next time.
    let opened = session.asks(open_request(true));
    let mut leader = Leader::accept(&listener);
    leader.opens(true);
    leader.answer(&[Response::Database { id: 0 }]);
    assert_eq!(answer(&opened), Ok(Reply::Opened));
}

/// The leader reads nothing yet, so that half of a request is on its way when it is to be interrupted: what
/// would then be sent would come into the middle of it.
#[test]
fn an_interrupt_does_not_split_its_request() {
    let listener = listen();
    let (session, mut leader) = Session::opened(&listener);
    let done = session.asks(execute(vec![Value::Blob(vec![7; LARGE_BYTES])]));
    // Its beginning is there.
    leader.0.peek(&mut [0]).unwrap();
    thread::scope(|scope| {
        // It may wait for room in the socket, if it is sent after all.
        scope.spawn(|| session.interrupter.interrupt());
        thread::sleep(SILENCE);
        match leader.next() {
            wire::Request::ExecuteSql { parameters, .. } => {
                assert!(parameters == [Value::Blob(vec![7; LARGE_BYTES])]);
            }
            other => panic!("{other:?} in place of EXEC_SQL"),
        }
    });
    assert!(leader.is_silent(), "an INTERRUPT was sent before its time");
    // It is sent as soon as it can be.
    session.interrupter.interrupt();
    leader.expects_interrupt();
    let interrupted = Response::Failure {
        code: 9,
        message: "interrupted".into(),
    };
    leader.answer(&[interrupted, Response::Empty]);
    let error = answer(&done).unwrap_err();
    assert!(matches!(error, Error::Sqlite { code: 9, .. }), "{error:?}");
}

#[test]
fn an_interrupt_is_sent_once_and_only_while_something_runs() {
    let listener = listen();
    let (session, mut leader) = Session::opened(&listener);
    session.interrupter.interrupt();
    assert!(leader.is_silent(), "there is nothing to interrupt");
    let done = session.asks(query());
    assert!(matches!(leader.next(), wire::Request::QuerySql { .. }));
    wait_until_interrupted(&session, &mut leader);
    session.interrupter.interrupt();
    assert!(leader.is_silent(), "one is enough");
    // In place of the rows.
    leader.answer(&[Response::Empty]);
    assert_eq!(answer(&done), Err(Error::interrupted()));
    session.interrupter.interrupt();
    assert!(leader.is_silent(), "it is over");
    let done = session.asks(execute(Vec::new()));
    assert!(matches!(leader.next(), wire::Request::ExecuteSql { .. }));
    leader.answer(&[DONE]);
    assert!(is_done(&answer(&done)));
}

/// An INTERRUPT that comes too late has an answer of its own, behind that of the statement, which counts.
#[test]
fn an_interrupt_does_not_hide_what_became_of_the_statement() {
    let listener = listen();
    let (session, mut leader) = Session::opened(&listener);
    let failure = Response::Failure {
        code: 19,
        message: "UNIQUE constraint failed".into(),
    };
    for own in [DONE, failure, DONE] {
        let done = session.asks(execute(Vec::new()));
        assert!(matches!(leader.next(), wire::Request::ExecuteSql { .. }));
        wait_until_interrupted(&session, &mut leader);
        let fails = matches!(own, Response::Failure { .. });
        leader.answer(&[own, Response::Empty]);
        let reply = answer(&done);
        assert!(is_done(&reply) != fails, "{reply:?}");
        if fails {
            let code = reply.unwrap_err().code();
            assert_eq!(code, 19);
        }
    }
    // The connection is the same, and in step.
    let done = session.asks(execute(Vec::new()));
    assert!(matches!(leader.next(), wire::Request::ExecuteSql { .. }));
    leader.answer(&[DONE]);
    assert!(is_done(&answer(&done)));
}

/// The thread that sends the request may not have noted yet that it has: interrupts until one arrives.
fn wait_until_interrupted(session: &Session, leader: &mut Leader) {
    loop {
        session.interrupter.interrupt();
        if !leader.is_silent() {
            return leader.expects_interrupt();
        }
    }
}

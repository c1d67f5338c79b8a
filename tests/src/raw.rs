//! Bytes to a node's port, as no client and no peer would send them.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use ringlite::wire::{FRAME_HEADER_BYTES, FrameHeader, PROTOCOL_VERSION, Request, Response};

const SILENCE: Duration = Duration::from_secs(5);
/// The bytes of the first word between nodes.
const HELLO_BYTES: usize = 352;

/// What a node did with what it was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It responded.
    Response(Response),
    /// It closed the connection.
    Closed,
    /// It did neither within five seconds.
    Silence,
}

impl Answer {
    /// The code and the message of a FAILURE.
    ///
    /// # Panics
    /// If the answer is something else.
    pub fn failure(self) -> (u64, String) {
        match self {
            Self::Response(Response::Failure { code, message }) => (code, message),
            other => panic!("not a FAILURE, but {other:?}"),
        }
    }
}

/// A connection that sends what it is told to.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
}

impl RawConnection {
    /// Connects, and says nothing yet.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the node accepts connections");
        stream
            .set_read_timeout(Some(SILENCE))
            .expect("a socket has a timeout");
        stream.set_nodelay(true).expect("a socket has no delay");
        Self { stream }
    }

    /// Connects, and says the first word of a client.
    pub fn client(address: &str) -> Self {
        let mut connection = Self::open(address);
        connection.send(&PROTOCOL_VERSION.to_le_bytes());
        connection
    }

    /// Connects as a client that has opened `database`.
    ///
    /// # Panics
    /// If the database cannot be opened.
    pub fn with_database(address: &str, database: &str) -> Self {
        let mut connection = Self::client(address);
        let answer = connection.ask(&Request::Open {
            name: database.to_owned(),
            flags: 0,
            vfs: String::new(),
        });
        assert_eq!(answer, Answer::Response(Response::Database { id: 0 }));
        connection
    }

    /// Sends bytes. A node that has closed the connection already is no error here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a request and hears the answer.
    ///
    /// # Panics
    /// If the request cannot be encoded, or the response is not of the protocol.
    pub fn ask(&mut self, request: &Request) -> Answer {
        self.say(request);
        self.hear()
    }

    /// Sends a request.
    ///
    /// # Panics
    /// If it cannot be encoded.
    pub fn say(&mut self, request: &Request) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes).expect("the request is whole");
        self.send(&bytes);
    }

    /// Sends a frame with any header and body, and hears the answer.
    pub fn ask_frame(&mut self, words: u32, kind: u8, schema: u8, body: &[u8]) -> Answer {
        let header = FrameHeader {
            words,
            kind,
            schema,
        };
        self.send(&header.encode());
        self.send(body);
        self.hear()
    }

    /// Says that nothing else will be sent.
    pub fn end(&mut self) {
        // The node may have closed the connection already.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Waits for a response.
    ///
    /// # Panics
    /// If it is not of the protocol.
    pub fn hear(&mut self) -> Answer {
        let mut header = [0; FRAME_HEADER_BYTES];
        if let Err(error) = self.stream.read_exact(&mut header) {
            return no_answer(&error);
        }
        let header = FrameHeader::parse(header);
        let mut body = vec![0; header.words as usize * 8];
        if let Err(error) = self.stream.read_exact(&mut body) {
            return no_answer(&error);
        }
        let response = Response::decode(header.kind, header.schema, &body);
        Answer::Response(response.expect("a response of the protocol"))
    }

    /// Waits until the node closes the connection, whatever it says before.
    pub fn hear_end(&mut self) -> Answer {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Answer::Closed,
                Ok(_) => {}
                Err(error) => return no_answer(&error),
            }
        }
    }

    /// Says hello as a peer; the verdict of the answer, if there is one.
    pub fn greet(&mut self, hello: &Hello) -> Option<u16> {
        self.send(&hello.encode());
        let mut answer = [0; HELLO_BYTES];
        self.stream.read_exact(&mut answer).ok()?;
        Some(u16::from_le_bytes([answer[14], answer[15]]))
    }
}

fn no_answer(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Answer::Silence,
        _ => Answer::Closed,
    }
}

/// The verdict that lets a peer go on.
pub const WELCOME: u16 = 1;

/// What one node says first to another; `docs/FORMAT.md` has the table.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    /// The cluster.
    pub cluster: u128,
    /// Who speaks.
    pub sender: u64,
    /// The incarnation of the speaker's directory.
    pub incarnation: u64,
    /// Who is meant.
    pub target: u64,
    /// The range of versions that the speaker knows.
    pub versions: [u16; 2],
    /// What the connection is for.
    pub purpose: u16,
    /// The shard that it is of, and how many the speaker has.
    pub shard: [u16; 2],
    /// Flipped in the checksum.
    pub crc_flip: u32,
}

/// The purpose of a connection for messages.
const LINK: u16 = 1;
/// The purpose of a connection for a snapshot.
pub const SNAPSHOT: u16 = 3;

impl Hello {
    /// What the node with the data directory `data` says to the node `target`.
    ///
    /// # Panics
    /// If the directory has no identity.
    pub fn of(data: &Path, target: u64) -> Self {
        let text = std::fs::read_to_string(data.join("identity")).expect("an identity");
        let line = text.lines().next().expect("an identity has a line");
        let identity: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let number = |name: &str| identity[name].as_u64().expect("a number");
        let cluster = identity["cluster"].as_str().expect("a formed cluster");
        Self {
            cluster: u128::from_str_radix(cluster, 16).expect("hexadecimal"),
            sender: number("node"),
            incarnation: number("incarnation"),
            target,
            versions: [1, 1],
            purpose: LINK,
            shard: [0, identity["shards"].as_u64().unwrap_or(1) as u16],
            crc_flip: 0,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, b"RNGLPEER");
        put(8, &self.versions[0].to_le_bytes());
        put(10, &self.versions[1].to_le_bytes());
        put(12, &self.purpose.to_le_bytes());
        put(16, &self.cluster.to_le_bytes());
        put(32, &self.sender.to_le_bytes());
        put(40, &self.incarnation.to_le_bytes());
        put(48, &self.target.to_le_bytes());
        put(68, &self.shard[0].to_le_bytes());
        put(70, &self.shard[1].to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HELLO_BYTES - 4]) ^ self.crc_flip;
        bytes[HELLO_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Pseudo-random numbers (xorshift64*), the same on every run.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// Some bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.number() >> 56) as u8).collect()
    }
}

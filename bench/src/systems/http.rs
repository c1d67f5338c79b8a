//! A connection over HTTP/1.1 of the load generator: JSON there and JSON back, one
//! request at a time.

use std::net::SocketAddr;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use serde::de::DeserializeOwned;
use smol::net::TcpStream;

use crate::error::LoadError;

const RECEIVE_BYTES: usize = 16 << 10;
const HEADERS_MAX: usize = 32;
/// The part of a failed answer that is told.
const WORDS_BYTES: usize = 200;

/// A connection that is kept open.
pub(super) struct Http {
    stream: TcpStream,
    host: SocketAddr,
    outgoing: Vec<u8>,
    received: Vec<u8>,
}

/// The head of an answer.
struct Head {
    bytes: usize,
    status: u16,
    body: Body,
}

/// How long the body is.
enum Body {
    Bytes(usize),
    Chunked,
}

impl Http {
    /// Connects to `host`.
    pub(super) async fn dial(host: SocketAddr) -> Result<Self, LoadError> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host,
            outgoing: Vec::new(),
            received: Vec::new(),
        })
    }

    /// Gets the JSON at `path`.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, LoadError> {
        self.exchange("GET", path, "").await
    }

    /// Posts JSON to `path`.
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        json: &str,
    ) -> Result<T, LoadError> {
        self.exchange("POST", path, json).await
    }

    async fn exchange<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        json: &str,
    ) -> Result<T, LoadError> {
        use std::io::Write as _;
        self.outgoing.clear();
        write!(
            self.outgoing,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{json}",
            self.host,
            json.len()
        )?;
        self.stream.write_all(&self.outgoing).await?;
        self.received.clear();
        let head = loop {
            self.receive().await?;
            if let Some(head) = Head::parse(&self.received)? {
                break head;
            }
        };
        let body = match head.body {
            Body::Bytes(bytes) => {
                while self.received.len() < head.bytes + bytes {
                    self.receive().await?;
                }
                self.received[head.bytes..head.bytes + bytes].to_vec()
            }
            Body::Chunked => loop {
                if let Some(body) = unchunked(&self.received[head.bytes..])? {
                    break body;
                }
                self.receive().await?;
            },
        };
        if head.status != 200 {
            let words = &body[..body.len().min(WORDS_BYTES)];
            return Err(LoadError::Status {
                status: head.status,
                body: String::from_utf8_lossy(words).into_owned(),
            });
        }
        serde_json::from_slice(&body).map_err(|error| LoadError::Answer(error.to_string()))
    }

    async fn receive(&mut self) -> Result<(), LoadError> {
        let known = self.received.len();
        self.received.resize(known + RECEIVE_BYTES, 0);
        let more = self.stream.read(&mut self.received[known..]).await?;
        self.received.truncate(known + more);
        if more == 0 {
            return Err(LoadError::Closed);
        }
        Ok(())
    }
}

impl Head {
    /// The head, if all of it is there.
    fn parse(received: &[u8]) -> Result<Option<Self>, LoadError> {
        let strange = |words: &str| LoadError::Answer(words.to_owned());
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let bytes = match response.parse(received) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(strange(&error.to_string())),
        };
        let value = |name: &str| {
            let mut headers = response.headers.iter();
            let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let body = if let Some(length) = value("Content-Length") {
            let length = length.trim().parse();
            Body::Bytes(length.map_err(|_| strange("a length that is no number"))?)
        } else if value("Transfer-Encoding") == Some("chunked") {
            Body::Chunked
        } else {
            return Err(strange("an answer without a length"));
        };
        Ok(Some(Self {
            bytes,
            status: response.code.unwrap_or(0),
            body,
        }))
    }
}

/// The body that was sent in chunks, if all of it is there.
fn unchunked(mut rest: &[u8]) -> Result<Option<Vec<u8>>, LoadError> {
    let mut body = Vec::new();
    loop {
        let (line, bytes) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(LoadError::Answer("a chunk without a length".to_owned())),
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // Behind a chunk comes an empty line.
        let Some(chunk) = rest[line..].get(..bytes.saturating_add(2)) else {
            return Ok(None);
        };
        if bytes == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(&chunk[..bytes]);
        rest = &rest[line + bytes + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_chunks_is_put_together() {
        let sent = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(unchunked(sent).unwrap().unwrap(), b"abc0123456789");
        for length in 0..sent.len() {
            assert_eq!(unchunked(&sent[..length]).unwrap(), None, "{length}");
        }
        assert!(unchunked(b"xyz\r\n").is_err());
    }

    #[test]
    fn a_head_tells_the_length() {
        let head = b"HTTP/1.1 503 No\r\nContent-length: 7\r\n\r\n";
        let parsed = Head::parse(head).unwrap().unwrap();
        assert_eq!((parsed.status, parsed.bytes), (503, head.len()));
        assert!(matches!(parsed.body, Body::Bytes(7)));
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n").unwrap().is_none());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}

//! rqlite: three nodes, statements over its HTTP API.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use crate::error::{LoadError, MeasureError};
use crate::load::Client;
use crate::operation::{Operation, Parameter, Statement};
use crate::systems::http::Http;
use crate::systems::remote::{Remote, free_addresses};

pub(super) const PROGRAM: &str = "rqlited";
pub(super) const SETTINGS: &str = "the defaults: the log is synced before a commit is \
     acknowledged; statements as JSON over HTTP/1.1 to the leader, connections kept open, without \
     queued writes; reads at the level linearizable";

const NODES: usize = 3;

/// Starts the nodes.
pub(super) fn start(program: &Path, directory: &Path) -> Result<Remote<Rqlite>, MeasureError> {
    let addresses = free_addresses(NODES, 2)?;
    let clients: Vec<String> = addresses.iter().map(|pair| pair[0].clone()).collect();
    let peers: Vec<String> = addresses.iter().map(|pair| pair[1].clone()).collect();
    let arguments = (1..)
        .zip(&addresses)
        .map(|(id, pair)| {
            let data = directory.join(format!("node-{id}"));
            let words = [
                "-node-id",
                &id.to_string(),
                "-http-addr",
                &pair[0],
                "-raft-addr",
                &pair[1],
                "-bootstrap-expect",
                &NODES.to_string(),
                "-join",
                &peers.join(","),
                &data.to_string_lossy(),
            ];
            words.map(str::to_owned).into()
        })
        .collect();
    Remote::start(program, directory, arguments, &clients)
}

/// A connection to the leader.
pub(super) struct Rqlite {
    http: Http,
}

#[derive(Deserialize)]
struct Leader {
    #[serde(default)]
    api_addr: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Answered>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Answered {
    error: Option<String>,
    values: Option<Vec<serde_json::Value>>,
}

impl Client for Rqlite {
    async fn to_leader_by(address: SocketAddr) -> Result<Option<Self>, LoadError> {
        let mut http = Http::dial(address).await?;
        let leader: Leader = http.get("/leader").await?;
        let named = leader.api_addr.strip_prefix("http://");
        let Some(leader) = named.and_then(|named| named.parse().ok()) else {
            return Ok(None);
        };
        if leader != address {
            http = Http::dial(leader).await?;
        }
        Ok(Some(Self { http }))
    }

    async fn perform(&mut self, operation: Operation) -> Result<(), LoadError> {
        let reads = operation.reads();
        let statements = operation.into_statements();
        let path = match (reads, statements.len()) {
            (true, _) => "/db/query?level=linearizable",
            (false, 1) => "/db/execute",
            (false, _) => "/db/execute?transaction",
        };
        let answer: Answer = self.http.post(path, &as_json(&statements)).await?;
        let failures = answer.results.iter().map(|answered| &answered.error);
        if let Some(error) = failures.chain([&answer.error]).flatten().next() {
            return Err(LoadError::Refused(error.clone()));
        }
        let rows = |answered: &Answered| answered.values.as_ref().map_or(0, Vec::len);
        if reads && answer.results.iter().map(rows).sum::<usize>() == 0 {
            return Err(LoadError::Answer("no row has the key".to_owned()));
        }
        Ok(())
    }
}

/// The statements as the body of a request: each an array of its text and its parameters, blobs as
/// hexadecimal literals.
fn as_json(statements: &[Statement]) -> String {
    let mut json = String::from("[");
    for (position, statement) in statements.iter().enumerate() {
        if position > 0 {
            json.push(',');
        }
        json.push('[');
        json.push_str(&serde_json::Value::from(statement.sql).to_string());
        for parameter in &statement.parameters {
            json.push(',');
            match parameter {
                Parameter::Integer(integer) => {
                    let _ = write!(json, "{integer}");
                }
                Parameter::Blob(bytes) => {
                    json.push_str("\"x'");
                    for byte in bytes {
                        let _ = write!(json, "{byte:02x}");
                    }
                    json.push_str("'\"");
                }
            }
        }
        json.push(']');
    }
    json.push(']');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_said_in_json() {
        let statement = |sql, parameters| Statement { sql, parameters };
        let json = as_json(&[
            statement("SELECT \"a\"", Vec::new()),
            statement(
                "INSERT INTO t VALUES (?, ?)",
                vec![Parameter::Integer(-7), Parameter::Blob(vec![0, 255])],
            ),
        ]);
        let expected = r#"[["SELECT \"a\""],["INSERT INTO t VALUES (?, ?)",-7,"x'00ff'"]]"#;
        assert_eq!(json, expected);
    }
}

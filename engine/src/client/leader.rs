//! Finding the leader, as the peer's own client does.
//!
//! Ask a node who leads. If it names the very address that was dialled, that connection is the
//! one. If it names another, dial that one, which has to name itself: two nodes that point at each
//! other are an election, and a node that was cut off may name a leader of the past.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    connection::Connection,
    error::{ClientError, TriedAddress},
    options::ClientOptions,
    success,
};
use crate::wire::{PROTOCOL_VERSION, Request, Response};

/// The pause after the first round without a leader; it grows by a quarter from round to round, so that
/// a new leader is found soon, however long its election took.
///
/// A killed leader is replaced within milliseconds, and a round is cheap.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Looks at each of `addresses`, in order and again, until the deadline. `asks` is LEADER, or LEADER_OF.
pub(super) fn find(
    addresses: &[String],
    asks: &Request,
    options: &ClientOptions,
    deadline: Instant,
) -> Result<Connection, ClientError> {
    let mut pause = PAUSE_MIN;
    let mut tried_before = Vec::new();
    loop {
        let mut tried: Vec<TriedAddress> = Vec::new();
        for address in addresses {
            // A node named by one before it was asked already.
            if tried.iter().any(|tried| tried.address == *address) {
                continue;
            }
            match follow(address, asks, options, deadline, &mut tried) {
                Some(connection) => {
                    connection.set_timeout(options.request_timeout)?;
                    return Ok(connection);
                }
                None if Instant::now() >= deadline => break,
                None => {}
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if addresses.is_empty() {
            return Err(ClientError::NoLeader { tried });
        }
        if left.is_zero() {
            // The deadline has cut this round short; the one before it tells more.
            let tried = if tried_before.is_empty() {
                tried
            } else {
                tried_before
            };
            return Err(ClientError::NoLeader { tried });
        }
        tried_before = tried;
        thread::sleep(pause.min(left));
        pause = (pause + pause / 4).min(PAUSE_MAX);
    }
}

/// Asks the node at `address`, and then the one it names.
fn follow(
    address: &str,
    asks: &Request,
    options: &ClientOptions,
    deadline: Instant,
    tried: &mut Vec<TriedAddress>,
) -> Option<Connection> {
    let named = match ask(address, asks, options, deadline) {
        Ok(Answer::Leads(connection)) => return Some(connection),
        Ok(Answer::Names(named)) => named,
        Ok(Answer::Unknown) => {
            note(tried, address, "knows no leader");
            return None;
        }
        Err(error) => {
            note(tried, address, &phrase(&error));
            return None;
        }
    };
    note(tried, address, &format!("names {named}"));
    if tried.iter().any(|tried| tried.address == named) {
        return None;
    }
    match ask(&named, asks, options, deadline) {
        Ok(Answer::Leads(connection)) => return Some(connection),
        Ok(Answer::Names(other)) => note(tried, &named, &format!("names {other}")),
        Ok(Answer::Unknown) => note(tried, &named, "knows no leader"),
        Err(error) => note(tried, &named, &phrase(&error)),
    }
    None
}

enum Answer {
    Leads(Connection),
    Names(String),
    Unknown,
}

fn ask(
    address: &str,
    asks: &Request,
    options: &ClientOptions,
    deadline: Instant,
) -> Result<Answer, ClientError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = options.connect_timeout.min(left);
    let mut connection = Connection::dial(address, timeout)?;
    connection.send(|out| {
        out.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        asks.encode(out)
    })?;
    let leader = match success(connection.receive()?)? {
        Response::Server { address, .. } => address,
        other => return Err(unexpected(address, "SERVER", &other)),
    };
    if leader.is_empty() {
        return Ok(Answer::Unknown);
    }
    if leader != address {
        return Ok(Answer::Names(leader));
    }
    connection.send(|out| Request::Client { id: 0 }.encode(out))?;
    match success(connection.receive()?)? {
        Response::Welcome { .. } => Ok(Answer::Leads(connection)),
        other => Err(unexpected(address, "WELCOME", &other)),
    }
}

fn unexpected(address: &str, expected: &'static str, found: &Response) -> ClientError {
    ClientError::UnexpectedResponse {
        address: address.to_owned(),
        expected,
        found: found.name(),
    }
}

fn note(tried: &mut Vec<TriedAddress>, address: &str, outcome: &str) {
    tried.push(TriedAddress {
        address: address.to_owned(),
        outcome: outcome.to_owned(),
    });
}

/// The error without the address, which stands before it.
fn phrase(error: &ClientError) -> String {
    match error {
        ClientError::Io { action, source, .. } => format!("cannot {action} it: {source}"),
        other => other.to_string(),
    }
}

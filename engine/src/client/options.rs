//! How long a client waits.

use std::time::Duration;

/// Timeouts of a [`Client`](super::Client).
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long to look for the leader in all. An election takes less than a second.
    pub find_leader_timeout: Duration,
    /// How long one node may take to accept a connection and to name the leader, so that a
    /// machine that is switched off does not use up the time for all.
    pub connect_timeout: Duration,
    /// How long the server may be silent during a request. A statement that runs for longer
    /// without a row loses its connection, and a write then has an unknown outcome.
    pub request_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            find_leader_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            // Longer than nodes let a statement run, so that it is they who say what happened.
            request_timeout: Duration::from_secs(40),
        }
    }
}

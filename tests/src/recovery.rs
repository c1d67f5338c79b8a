//! Whether a node comes back on a disk that was treated badly.

use ringlite::ClientError;

use crate::disk::{Disk, Position};
use crate::history::{self, History};
use crate::lone_node::LoneNode;
use crate::process::Finished;

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// When, on the disk.
    pub position: Position,
    /// How many rows of such writes there are with it.
    pub rows: usize,
}

/// Starts a node on the disk, which was cut off at `end`, checks that it has all of `histories` that
/// it has to have and nothing else, and lets it write a row. The node is killed then.
///
/// # Errors
/// What is wrong.
pub fn check(
    program: &str,
    disk: &Disk,
    core: usize,
    histories: &[&History],
    end: Position,
) -> Result<Written, String> {
    let mounted = disk
        .mount()
        .map_err(|error| format!("the file system cannot be mounted: {error}"))?;
    let data = mounted.path().join("data");
    let mut node = LoneNode::spawn(&[program, "serve"], &data, core);
    if let Err(Finished { code, stderr, .. }) = node.wait_until_it_serves() {
        return Err(format!(
            "it does not serve, and ended with {code:?}: {stderr}"
        ));
    }
    // What is asked for by a digest is what the node has applied so far, and who makes a database is
    // answered when everything before that is.
    let made = node.client().and_then(|mut client| client.open("after"));
    made.map_err(|error| format!("it makes no database: {error}: {}", node.words()))?;
    let names = histories.iter().flat_map(|history| history.databases());
    let found = history::observe(|| node.client(), names)?;
    for history in histories {
        history
            .check(&found, end)
            .map_err(|difference| difference.to_string())?;
    }
    let write = || {
        let mut client = node.client()?;
        client.open("after")?;
        client.execute("CREATE TABLE IF NOT EXISTS t (a)", &[])?;
        client.execute("INSERT INTO t VALUES (1)", &[])?;
        let position = disk.device.position();
        let rows = client.query("SELECT a FROM t", &[])?.rows.len();
        Ok(Written { position, rows })
    };
    write().map_err(|error: ClientError| format!("it does not write: {error}: {}", node.words()))
}

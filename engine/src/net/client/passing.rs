//! How a client reaches a database whose shard another node leads.
//!
//! A client of dqlite knows one leader. Where the shards' leaders are spread, the node that leads the first
//! shard passes what such a client says on to the one that leads the database's, and what that answers back,
//! byte by byte. Clients of ours go there themselves.

use std::time::Duration;

use futures_lite::{AsyncWriteExt as _, future, io};
use glommio::net::TcpStream;

use super::Connection;
use crate::net::admission;
use crate::replica::{NodeAddress, Replica};
use crate::wire::{OPEN_HERE, PROTOCOL_LEGACY, PROTOCOL_VERSION, Request};

/// How long the other node may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl Connection {
    /// The node that is to serve an OPEN in place of this one.
    pub(super) fn passes_to(&self, request: &Request) -> Option<NodeAddress> {
        let Request::Open { flags, .. } = request else {
            return None;
        };
        if self.shard.place().count == 1 || self.is_open || flags & OPEN_HERE != 0 {
            return None;
        }
        // Whoever asks a node that leads nothing hears "not leader", as everywhere.
        let first = self.gateway.shards.all()?.first()?;
        let leader = self.shard.with_replica(Replica::leader)?;
        let is_other = leader.id.0 != self.shard.peers().identity().node;
        (is_other && first.readers.is_serving()).then_some(leader)
    }

    /// Connects to the node that leads, and hands it the OPEN and what has arrived behind it.
    pub(super) async fn pass_open(
        &self,
        leader: &NodeAddress,
        request: &Request,
    ) -> std::io::Result<TcpStream> {
        let Request::Open { name, flags, vfs } = request else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        // That one answers itself, whoever leads by then.
        let open = Request::Open {
            name: name.clone(),
            flags: flags | OPEN_HERE,
            vfs: vfs.clone(),
        };
        let version = match self.legacy {
            true => PROTOCOL_LEGACY,
            false => PROTOCOL_VERSION,
        };
        let mut bytes = version.to_le_bytes().to_vec();
        open.encode(&mut bytes).map_err(std::io::Error::other)?;
        bytes.extend_from_slice(&self.incoming[self.handled..]);
        let host = leader.address.clone();
        // It may ask a name server, which the core is not to wait for.
        let resolved = glommio::executor().spawn_blocking(move || crate::net::resolve(&host));
        let address = resolved.await?;
        let mut there = TcpStream::connect_timeout(address, CONNECT_TIMEOUT).await?;
        there.set_nodelay(true)?;
        admission::notice_death(&there)?;
        there.write_all(&bytes).await?;
        Ok(there)
    }

    /// Passes bytes between the client and `there` until one of the two ends.
    pub(super) async fn pass_bytes(&mut self, there: TcpStream) -> std::io::Result<()> {
        let (from_client, to_client) = io::split(&mut self.stream);
        let (from_there, to_there) = io::split(there);
        let out = io::copy(from_client, to_there);
        let back = io::copy(from_there, to_client);
        future::or(out, back).await.map(drop)
    }
}

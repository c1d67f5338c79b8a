//! How a client's connection gets to the shard that its requests are about.
//!
//! Each request is served on the executor of the shard that it is about: one that names a database on that
//! database's, one about the cluster on the first one. The connection goes there with its socket and with
//! what has arrived and is not served yet. While a database is open, its shard is the connection's *home*:
//! the session stays there, and the next statement brings the connection back.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::{Connection, NOT_STARTED, READ_BYTES, refuse};
use crate::commands::Command;
use crate::error::Error;
use crate::net::admission::Place;
use crate::net::{Arrival, Gateway, attach, detach};
use crate::replica::Input;
use crate::replica::request::{Reply, SessionId, SessionOptions};
use crate::shards::{ShardHandle, shard_of};
use crate::wire::{FailureCode, Request};

/// Where a session is whose connection is elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    shard: u32,
    session: SessionId,
}

/// Why a connection is served here no longer.
pub(super) enum Ended {
    /// The client has left.
    Left,
    /// What it asks is another shard's to answer.
    Elsewhere { shard: u32, request: Request },
}

/// A client's connection on its way to another executor.
pub(crate) struct Moved {
    socket: OwnedFd,
    /// What is to be served there first.
    request: Request,
    /// What has arrived behind it.
    unread: Vec<u8>,
    legacy: bool,
    options: SessionOptions,
    home: Option<Home>,
    place: Place,
}

/// Serves a client that comes from another shard.
pub(crate) async fn go_on(moved: Moved, gateway: Rc<Gateway>) -> std::io::Result<()> {
    let mut stream = attach(moved.socket);
    let shard = gateway.shard.borrow().clone();
    let Some(shard) = shard else {
        close_at_home(&gateway, moved.home);
        return refuse(&mut stream, FailureCode::NotLeader, NOT_STARTED).await;
    };
    let is_home = |home: &mut Home| home.shard == shard.place().number;
    let mut home = moved.home;
    let back = home.take_if(is_home);
    let connection = Connection {
        stream,
        chunk: vec![0; READ_BYTES].into(),
        incoming: moved.unread,
        handled: 0,
        outgoing: Vec::new(),
        legacy: moved.legacy,
        session: back.map_or_else(|| shard.new_session(), |home| home.session),
        is_open: back.is_some(),
        shard,
        home,
        gateway,
        options: moved.options,
    };
    connection.live(Some(moved.request), moved.place).await
}

fn close_at_home(gateway: &Gateway, home: Option<Home>) {
    if let (Some(home), Some(all)) = (home, gateway.shards.all()) {
        let handle = &all[home.shard as usize];
        // Sessions end with their shard.
        drop(handle.commands.send(Command::CloseSession(home.session)));
    }
}

impl Connection {
    /// Serves the connection until it ends here, and hands it on if it goes on elsewhere.
    pub(super) async fn live(
        mut self,
        first: Option<Request>,
        place: Place,
    ) -> std::io::Result<()> {
        let ended = self.run(first).await;
        let leaves_session = matches!(ended, Ok(Ended::Elsewhere { .. })) && self.is_open;
        if !leaves_session {
            let session = self.session;
            self.shard.push(Input::SessionClosed { session });
        }
        let home = match leaves_session {
            true => Some(Home {
                shard: self.shard.place().number,
                session: self.session,
            }),
            false => self.home,
        };
        let gateway = Rc::clone(&self.gateway);
        let moved = match ended {
            Ok(Ended::Elsewhere { shard, request }) => self.send_to(shard, request, home, place),
            Ok(Ended::Left) => Err(None),
            Err(error) => Err(Some(error)),
        };
        moved.or_else(|error| {
            close_at_home(&gateway, home);
            error.map_or(Ok(()), Err)
        })
    }

    fn send_to(
        mut self,
        shard: u32,
        request: Request,
        home: Option<Home>,
        place: Place,
    ) -> Result<(), Option<std::io::Error>> {
        let handle = self.handle_of(shard).cloned().ok_or(None)?;
        let arrival = Arrival::Client(Moved {
            socket: detach(&self.stream)?,
            request,
            unread: self.incoming.split_off(self.handled),
            legacy: self.legacy,
            options: self.options,
            home,
            place,
        });
        let sent = handle.commands.send(Command::Arrive(Box::new(arrival)));
        sent.map_err(|_| None)
    }

    fn handle_of(&self, shard: u32) -> Option<&ShardHandle> {
        self.gateway.shards.all()?.get(shard as usize)
    }

    /// The shard that a request is about, if it is another one.
    pub(super) fn elsewhere(&self, request: &Request) -> Option<u32> {
        let place = self.shard.place();
        if place.count == 1 {
            return None;
        }
        let here = place.number;
        let at_home = self.home.map_or(here, |home| home.shard);
        let wanted = match request {
            // A connection has one database; that it has one already is for its shard to say.
            Request::Open { .. } if self.is_open || self.home.is_some() => at_home,
            Request::Open { name, .. }
            | Request::Dump { name }
            | Request::CreateDatabase { name, .. }
            | Request::DropDatabase { name } => shard_of(name, place.count),
            Request::Backup { database, .. }
            | Request::BeginRestore { database, .. }
            | Request::Digest { database, .. }
            | Request::Read { database, .. }
            | Request::LeaderOf { database } => shard_of(database, place.count),
            Request::Prepare { .. }
            | Request::Execute { .. }
            | Request::ExecuteSql { .. }
            | Request::Query { .. }
            | Request::QuerySql { .. }
            | Request::Finalize { .. }
            | Request::Interrupt { .. } => at_home,
            // They go on with what has been begun here.
            Request::RestoreChunk { .. } | Request::FinishRestore | Request::Client { .. } => here,
            _ => 0,
        };
        (wanted != here).then_some(wanted)
    }

    /// Takes note of whether a database is open in the session.
    pub(super) fn note_opened(&mut self, reply: &Result<Reply, Error>) {
        match reply {
            Ok(Reply::Opened) => self.is_open = true,
            // With any of these the session has ended.
            Err(Error::NoDatabaseOpened | Error::NotLeader { .. } | Error::Removed) => {
                self.is_open = false;
            }
            // With others it may have, and by itself.
            _ => self.note_ended(),
        }
    }

    /// Takes note of whether the session has ended by itself, so that an OPEN may go to any shard.
    pub(super) fn note_ended(&mut self) {
        self.is_open = self.is_open
            && self
                .shard
                .with_replica(|replica| replica.has_session(self.session));
    }

    /// What each shard of the node says, in order, of those that have not stopped.
    pub(super) async fn of_all_shards<T>(
        &self,
        ask: impl Fn(flume::Sender<T>) -> Command,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for handle in self.gateway.shards.all().unwrap_or_default() {
            let (reply, answer) = flume::bounded(1);
            if handle.commands.send(ask(reply)).is_ok()
                && let Ok(answer) = answer.recv_async().await
            {
                all.push(answer);
            }
        }
        all
    }
}

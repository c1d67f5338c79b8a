//! Snapshots on their way, over connections that break, with the real frames and the real files at the
//! member's end. The leader's end is that of `net/snapshot/send.rs`, with smaller slices.

use std::collections::VecDeque;

use bytes::Bytes;
use ringlite::replica::{Input, SnapshotHead, SnapshotOutcome};
use ringlite::snapshot_stream::{Arrival, Frame, Position, Progress};
use ringlite_raft::LogIndex;

use super::cluster::{Cluster, DIGESTED};
use super::tally::Kind;

/// A page or two of the usual size, so that backfills come in between.
const SLICE_BYTES: usize = 6_000;
/// What may be sent and not be acknowledged.
const WINDOW_BYTES: u64 = 18_000;
/// A member to which nothing gets through for so long is given up, in units of time.
const IDLE_TIME_MAX: u64 = 600;

/// All snapshots under way.
#[derive(Default)]
pub(crate) struct Snapshots {
    under_way: Vec<Sending>,
}

/// A snapshot from one node to another one, over all connections.
struct Sending {
    from: usize,
    to: usize,
    head: SnapshotHead,
    connection: Option<Connection>,
    connections: u64,
    dials_at: u64,
    progressed_at: u64,
}

/// One connection.
struct Connection {
    to_member: Pipe,
    to_leader: Pipe,
    /// What the leader sends next, once it knows from where on.
    next: Option<Position>,
    sent_bytes: u64,
    received_bytes: u64,
    member: Member,
}

/// What the member is doing.
enum Member {
    /// It has seen nothing of the connection yet.
    Unaware,
    Receives(Arrival),
    /// Everything is here, and the replica decides.
    Installs,
}

/// Frames in one direction, in their order, each with when it arrives.
#[derive(Default)]
struct Pipe(VecDeque<(u64, Vec<u8>)>);

/// How it goes on with a connection.
enum Verdict {
    Goes,
    Breaks,
    /// The snapshot is not wanted any more, or has come to its end.
    Ends,
}

impl Snapshots {
    /// A process is gone, and what it had in memory.
    pub(crate) fn process_ended(&mut self, at: usize) {
        self.under_way.retain(|sending| sending.from != at);
        for sending in &mut self.under_way {
            if sending.to == at {
                sending.connection = None;
            }
        }
    }
}

impl Cluster {
    /// One unit of time.
    pub(super) fn stream_snapshots(&mut self) {
        for from in 0..self.nodes.len() {
            for (to, head) in std::mem::take(&mut self.nodes[from].snapshots) {
                self.note(("snapshot", from, to.0, head.base.index.0));
                let Some(place) = self.position(to) else {
                    // It has joined, and does not know it yet.
                    let (id, is_installed) = (head.id, false);
                    self.nodes[from]
                        .running()
                        .inbox
                        .push_back(Input::SnapshotSent {
                            to,
                            id,
                            is_installed,
                        });
                    continue;
                };
                let to = place;
                self.snapshots.under_way.push(Sending {
                    from,
                    to,
                    head,
                    connection: None,
                    connections: 0,
                    dials_at: self.now,
                    progressed_at: self.now,
                });
            }
        }
        for at in 0..self.nodes.len() {
            self.forget_outcome(at);
        }
        for at in 0..self.snapshots.under_way.len() {
            // The others have to be known meanwhile: their bases, and who else has a connection.
            let connection = self.snapshots.under_way[at].connection.take();
            let (verdict, connection) = match connection {
                None => self.dial(at),
                Some(mut connection) => (self.carry_on(at, &mut connection), Some(connection)),
            };
            match (verdict, connection) {
                (Verdict::Goes, connection) => {
                    self.snapshots.under_way[at].connection = connection;
                }
                (Verdict::Breaks, connection) => {
                    self.break_off(at, connection);
                    let redial = self.now + self.random.between(5, 80);
                    self.snapshots.under_way[at].dials_at = redial;
                }
                (Verdict::Ends, connection) => {
                    self.break_off(at, connection);
                    self.snapshots.under_way[at].dials_at = u64::MAX;
                }
            }
        }
        let under_way = &mut self.snapshots.under_way;
        under_way.retain(|sending| sending.dials_at < u64::MAX);
    }

    fn dial(&mut self, at: usize) -> (Verdict, Option<Connection>) {
        let Sending {
            from,
            to,
            ref head,
            dials_at,
            progressed_at,
            ..
        } = self.snapshots.under_way[at];
        if !self.is_wanted(at) {
            return (Verdict::Ends, None);
        }
        if self.now > progressed_at + IDLE_TIME_MAX {
            self.tally.count(Kind::SnapshotGivenUp);
            self.end(at, false);
            return (Verdict::Ends, None);
        }
        let is_reached = !self.is_cut_off(from, to) && self.nodes[to].process.is_some();
        if self.now < dials_at || !is_reached || self.stands_still(from) {
            return (Verdict::Goes, None);
        }
        let offer = Frame::Offer(head.clone());
        let mut connection = Connection {
            to_member: Pipe::default(),
            to_leader: Pipe::default(),
            next: None,
            sent_bytes: 0,
            received_bytes: 0,
            member: Member::Unaware,
        };
        self.put(&mut connection.to_member, &offer);
        self.snapshots.under_way[at].connections += 1;
        (Verdict::Goes, Some(connection))
    }

    fn carry_on(&mut self, at: usize, connection: &mut Connection) -> Verdict {
        let Sending { from, to, .. } = self.snapshots.under_way[at];
        // Nobody hears what the other one has to say, and finds out after a while.
        let breaks = if self.is_cut_off(from, to) { 20 } else { 2 };
        if self.is_stormy && self.random.per_mille(breaks) {
            self.tally.count(Kind::StreamBroken);
            return Verdict::Breaks;
        }
        if self.is_cut_off(from, to) {
            return Verdict::Goes;
        }
        if !self.stands_still(to) {
            let verdict = self.member_acts(at, connection);
            if !matches!(verdict, Verdict::Goes) {
                return verdict;
            }
        }
        match self.stands_still(from) {
            true => Verdict::Goes,
            false => self.leader_acts(at, connection),
        }
    }

    /// The member's end; see `net/snapshot/receive.rs`.
    fn member_acts(&mut self, at: usize, connection: &mut Connection) -> Verdict {
        let to = self.snapshots.under_way[at].to;
        if let Member::Installs = connection.member {
            let answer = match self.take_outcome(to) {
                None => return Verdict::Goes,
                Some(SnapshotOutcome::Installed | SnapshotOutcome::NotNeeded) => Frame::Done,
                Some(SnapshotOutcome::Refused) => {
                    let reason = "it does not follow a leader now".into();
                    Frame::Refused { reason }
                }
            };
            self.note(("snapshot ended", to, format!("{answer:?}")));
            connection.member = Member::Unaware;
            self.put(&mut connection.to_leader, &answer);
            return Verdict::Goes;
        }
        if self.nodes[to].has_arrived {
            // Until it is known what becomes of the other one.
            return Verdict::Goes;
        }
        let Some(bytes) = connection.to_member.take(self.now) else {
            return Verdict::Goes;
        };
        let Ok(frame) = Frame::from_bytes(&bytes) else {
            return Verdict::Breaks;
        };
        if let Frame::Offer(head) = frame {
            self.supersede(at);
            if !self.nodes[to].running().replica.wants_snapshot(&head) {
                self.nodes[to].disk.staged.clear();
                self.put(&mut connection.to_leader, &Frame::Done);
                return Verdict::Goes;
            }
            let area = &self.nodes[to].disk.staged.area;
            let arrival = Arrival::begin(area, head).expect("a directory");
            let position = arrival.position();
            let resumes = position != Position::default();
            self.tally.add(Kind::SnapshotResumed, u64::from(resumes));
            connection.member = Member::Receives(arrival);
            self.put(&mut connection.to_leader, &Frame::Resume(position));
            return Verdict::Goes;
        }
        let Member::Receives(arrival) = &mut connection.member else {
            panic!("{frame:?} comes before an offer");
        };
        if matches!(frame, Frame::Chunk { .. }) && self.nodes[to].disk.health.is_full {
            self.tally.count(Kind::DiskFull);
            return Verdict::Breaks;
        }
        match arrival.take(frame).expect("what follows on what was there") {
            Progress::Goes => {}
            Progress::Says(frame) => self.put(&mut connection.to_leader, &frame),
            Progress::Whole(head) => {
                connection.member = Member::Installs;
                let node = &mut self.nodes[to];
                node.disk.staged.is_safe();
                node.has_arrived = true;
                let arrived = Input::SnapshotArrived { head };
                node.running().inbox.push_back(arrived);
            }
        }
        Verdict::Goes
    }

    fn take_outcome(&mut self, at: usize) -> Option<SnapshotOutcome> {
        let node = &mut self.nodes[at];
        let outcome = node.snapshot_outcome.take()?;
        node.has_arrived = false;
        match outcome {
            SnapshotOutcome::NotNeeded => node.disk.staged.clear(),
            // Before the entries come that its databases have to wait for.
            SnapshotOutcome::Installed => {
                for database in 0..DIGESTED.len() as u64 {
                    self.ask_for_digest(at, database, LogIndex(0));
                }
            }
            SnapshotOutcome::Refused => {}
        }
        Some(outcome)
    }

    /// Nobody waits for it, if the connection broke meanwhile.
    fn forget_outcome(&mut self, at: usize) {
        let is_awaited = self.snapshots.under_way.iter().any(|sending| {
            let member = sending.connection.as_ref().map(|other| &other.member);
            sending.to == at && matches!(member, Some(Member::Installs))
        });
        if !is_awaited {
            self.take_outcome(at);
        }
    }

    /// A new connection takes the place of others to the same member.
    fn supersede(&mut self, at: usize) {
        let to = self.snapshots.under_way[at].to;
        for other in 0..self.snapshots.under_way.len() {
            let sending = &mut self.snapshots.under_way[other];
            let is_heard = |other: &mut Connection| matches!(other.member, Member::Receives(_));
            if other != at
                && sending.to == to
                && let Some(connection) = sending.connection.take_if(is_heard)
            {
                self.break_off(other, Some(connection));
            }
        }
    }

    /// The leader's end; see `net/snapshot/send.rs`.
    fn leader_acts(&mut self, at: usize, connection: &mut Connection) -> Verdict {
        if !self.is_wanted(at) {
            return Verdict::Ends;
        }
        while let Some(bytes) = connection.to_leader.take(self.now) {
            self.snapshots.under_way[at].progressed_at = self.now;
            match Frame::from_bytes(&bytes) {
                Ok(Frame::Resume(position)) => connection.next = Some(position),
                Ok(Frame::Received { bytes }) => connection.received_bytes = bytes,
                Ok(Frame::Done) => {
                    self.end(at, true);
                    return Verdict::Ends;
                }
                Ok(Frame::Refused { .. }) | Err(_) => return Verdict::Breaks,
                Ok(other) => panic!("a member said {other:?}"),
            }
        }
        let has_room = connection.sent_bytes - connection.received_bytes < WINDOW_BYTES;
        if let Some(position) = connection.next.take_if(|_| has_room) {
            self.send_slice(at, connection, position);
        }
        Verdict::Goes
    }

    fn send_slice(&mut self, at: usize, connection: &mut Connection, position: Position) {
        let Sending { from, ref head, .. } = self.snapshots.under_way[at];
        let Position { file, offset } = position;
        let Some((database, suffix)) = head.file(file) else {
            let targets = self.targets(at);
            return self.put(&mut connection.to_member, &Frame::End { targets });
        };
        let id = database.id;
        let databases = &mut self.nodes[from].running().databases;
        let (frame, next) = match databases.read_file(id, suffix, offset, SLICE_BYTES) {
            None => {
                self.tally.count(Kind::SnapshotSkipped);
                (Frame::FileGone { file }, None)
            }
            Some(bytes) if bytes.is_empty() => {
                let bytes = offset;
                (Frame::FileEnd { file, bytes }, None)
            }
            Some(bytes) => {
                let end = offset + bytes.len() as u64;
                connection.sent_bytes += bytes.len() as u64;
                let bytes = Bytes::from(bytes);
                let chunk = Frame::Chunk {
                    file,
                    offset,
                    bytes,
                };
                (chunk, Some(end))
            }
        };
        let next_file = Position {
            file: file + 1,
            offset: 0,
        };
        connection.next = Some(next.map_or(next_file, |offset| Position { file, offset }));
        self.put(&mut connection.to_member, &frame);
    }

    /// What the files hold at the most, now that they have been read.
    fn targets(&mut self, at: usize) -> Vec<LogIndex> {
        let Sending { from, ref head, .. } = self.snapshots.under_way[at];
        let process = self.nodes[from].process.as_ref();
        let process = process.expect("a leader that runs");
        let targets = process.replica.snapshot_targets(head.id);
        let targets = targets.expect("a snapshot that is wanted");
        for (database, target) in head.databases.iter().zip(&targets) {
            let written = process.databases.written(database.id);
            assert!(
                written <= Some(database.target.max(*target)),
                "the copy of {} is ahead of its target {target}: {written:?}",
                database.name
            );
        }
        targets
    }

    /// The least base of the snapshots that a node sends.
    pub(super) fn held_from(&self, from: usize) -> Option<LogIndex> {
        let under_way = self.snapshots.under_way.iter().enumerate();
        let sent = under_way.filter(|(at, sending)| sending.from == from && self.is_wanted(*at));
        sent.map(|(_, sending)| sending.head.base.index).min()
    }

    fn is_wanted(&self, at: usize) -> bool {
        let Sending { from, ref head, .. } = self.snapshots.under_way[at];
        let leader = self.nodes[from].process.as_ref();
        leader.is_some_and(|leader| leader.replica.snapshot_targets(head.id).is_some())
    }

    /// The leader's replica is told the end of a snapshot.
    fn end(&mut self, at: usize, is_installed: bool) {
        let Sending {
            from, to, ref head, ..
        } = self.snapshots.under_way[at];
        let ended = Input::SnapshotSent {
            to: self.nodes[to].id,
            id: head.id,
            is_installed,
        };
        self.nodes[from].running().inbox.push_back(ended);
    }

    /// Both ends notice that a connection is gone.
    fn break_off(&mut self, at: usize, connection: Option<Connection>) {
        let to = self.snapshots.under_way[at].to;
        if let Some(Connection {
            member: Member::Receives(mut arrival),
            ..
        }) = connection
        {
            arrival.save().expect("room for a few bytes");
            self.nodes[to].disk.staged.is_safe();
        }
    }

    fn is_cut_off(&self, from: usize, to: usize) -> bool {
        let is_cut = |link| self.network.is_cut(link, self.now);
        is_cut((from, to)) || is_cut((to, from))
    }

    fn stands_still(&self, at: usize) -> bool {
        self.now < self.nodes[at].stands_still_until
    }

    /// Sends a frame.
    fn put(&mut self, pipe: &mut Pipe, frame: &Frame) {
        let mut bytes = frame.encode();
        if self.is_stormy && self.random.per_mille(1) {
            self.tally.count(Kind::StreamFlip);
            let place = self.random.below(bytes.len() as u64) as usize;
            bytes[place] ^= 1 << self.random.below(8);
        }
        // What is lost is sent again, and what comes behind it waits.
        let delay = match self.network.is_bad(&mut self.random) {
            true => self.random.between(3, 40),
            false => self.random.between(1, 2),
        };
        let before = pipe.0.back().map_or(0, |(due, _)| *due);
        pipe.0.push_back((before.max(self.now + delay), bytes));
    }
}

impl Pipe {
    fn take(&mut self, now: u64) -> Option<Vec<u8>> {
        let first = self.0.front()?;
        let (_, bytes) = (first.0 <= now).then(|| self.0.pop_front())??;
        Some(bytes)
    }
}

//! What must hold at the end: everybody is answered, everything acknowledged is there, nothing
//! refused is, all nodes hold the same bytes, and the cluster works again.

use std::collections::{BTreeMap, BTreeSet};

use ringlite::replica::request::{Digest, Reply, Request, RequestId, SessionId, SessionOptions};
use ringlite::replica::{Input, Status};
use ringlite::{Error, Result, Value};
use ringlite_raft::LogIndex;

use super::client::Client;
use super::clock::TICK;
use super::cluster::{Cluster, DIGEST_SESSION, DIGESTED};
use super::disk::Health;
use super::node::Node;
use super::operation::{
    ALL_TOKENS, CENTS, DATABASES, REGISTERS, SCHEMA, UNCONTESTED, query, rows_of, text,
};
use super::tally::Kind;

/// How many election timeouts anything may take once all is well.
const PATIENCE_TIMEOUTS: u64 = 20;

impl Cluster {
    /// Everything is repaired that can be: all nodes run, all links work, nothing is lost any more.
    pub(crate) fn heal(&mut self) {
        self.is_stormy = false;
        self.network.heal();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.stands_still_until = 0;
            node.crashes_at = None;
            if node.stopping.is_some() {
                node.disk.kill(&mut self.tally);
                self.end_process(at);
            }
            let node = &mut self.nodes[at];
            node.disk.health = Health::default();
            (node.file_fails, node.read_fails) = (false, false);
            if node.process.is_none() && node.refuses.is_none() && !node.is_retired {
                self.start(at);
            }
        }
    }

    /// Whether there is soon a leader.
    pub(crate) fn recovers(&mut self) -> bool {
        let deadline = self.now + self.patience();
        while self.leader().is_none() && self.now < deadline {
            self.step();
        }
        self.leader().is_some()
    }

    pub(super) fn patience(&self) -> u64 {
        PATIENCE_TIMEOUTS * u64::from(self.settings.election_ticks_max) * TICK
    }

    /// Without a majority nobody leads, and no client is told that something was written, nor
    /// what there is to read.
    pub(crate) fn check_refusal(&mut self) {
        assert!(
            self.faults.atlas.is_exceeded(),
            "nobody leads; {}",
            self.describe()
        );
        self.tally.count(Kind::NoLeader);
        // An old leader finds out first.
        let election = u64::from(self.settings.election_ticks_max) * TICK;
        for _ in 0..3 * election {
            self.step();
        }
        let told = |cluster: &Cluster| {
            let tally = &cluster.oracle.tally;
            (tally.of(Kind::Acknowledged), tally.of(Kind::Read))
        };
        let before = told(self);
        for at in 0..self.clients.len() {
            if self.clients[at].is_idle() {
                self.begin_operation(at);
            }
        }
        for _ in 0..self.patience() {
            self.step();
            assert_eq!(self.leader(), None, "a minority has a leader");
            assert_eq!(told(self), before, "a minority answers");
        }
        self.oracle.check_histories();
    }

    /// Steps until `done`, which has to be soon.
    pub(super) fn settle(&mut self, what: &str, mut done: impl FnMut(&mut Cluster) -> bool) {
        let deadline = self.now + self.patience();
        while !done(self) {
            assert!(
                self.now < deadline,
                "{what}: not in time; {}",
                self.describe()
            );
            self.step();
        }
    }

    fn describe(&self) -> String {
        let states = self.nodes.iter().map(|node| {
            let process = node.process.as_ref();
            process.map_or("down".into(), |process| {
                let status = process.replica.status();
                format!(
                    "{}: {:?} in {}, base {}, last {}, durable {}, commit {}, applied {}, owes {:?}, waiting: {:?}",
                    node.id,
                    status.role,
                    status.term,
                    node.told.base.index,
                    status.last,
                    status.durable,
                    status.commit,
                    status.applied,
                    status.debt,
                    process.pending
                )
            })
        });
        states.collect::<Vec<_>>().join("; ")
    }

    pub(super) fn create_schema(&mut self) {
        for database in 0..DATABASES {
            let work = ringlite::replica::request::Work::Execute(text(SCHEMA));
            self.ask_until_answered(&format!("db{database}"), &Request::Sql(work));
        }
    }

    /// Asks whoever leads, and asks again if it says that it does not.
    fn ask_until_answered(&mut self, database: &str, request: &Request) -> Reply {
        let open = Request::Open {
            database: database.to_owned(),
            create: true,
        };
        let deadline = self.now + self.patience();
        loop {
            assert!(self.now < deadline, "no answer from {database}");
            self.settle("an election", |cluster| cluster.leader().is_some());
            let Some(leader) = self.leader() else {
                continue;
            };
            self.sessions += 1;
            let session = SessionId(self.sessions);
            let mut reply = self.ask_in(leader, session, 1, open.clone());
            if reply.is_ok() {
                reply = self.ask_in(leader, session, 2, request.clone());
            }
            let process = self.nodes[leader].running();
            process.inbox.push_back(Input::SessionClosed { session });
            match reply {
                Ok(reply) => return reply,
                Err(
                    Error::NotLeader { .. }
                    | Error::OutcomeUnknown
                    | Error::NoDatabaseOpened
                    | Error::Busy { .. }
                    | Error::Stopped,
                ) => {}
                Err(error) => panic!("{request:?} failed: {error:?}"),
            }
        }
    }

    fn ask_in(
        &mut self,
        at: usize,
        session: SessionId,
        serial: u64,
        request: Request,
    ) -> Result<Reply> {
        let id = RequestId { session, serial };
        let process = self.nodes[at].running();
        process.pending.insert(id);
        process.inbox.push_back(Input::Asked {
            id,
            options: SessionOptions::default(),
            request,
        });
        self.overheard = None;
        self.listens_to = Some(id);
        self.settle("an answer", |cluster| cluster.overheard.is_some());
        self.listens_to = None;
        self.overheard.take().expect("an answer")
    }

    pub(super) fn digest_answered(&mut self, id: RequestId, reply: Result<Reply>) {
        let database = DIGESTED[(id.session.0 - DIGEST_SESSION) as usize].to_owned();
        match reply {
            Ok(Reply::Digest(digest)) => {
                self.oracle
                    .digest(&database, digest.applied.0, &digest.digest);
            }
            Err(Error::Busy { .. } | Error::Misuse { .. }) => {}
            Err(error) if self.oracle.is_told_damage(&error) => {}
            other => panic!("a digest was expected, and this came: {other:?}"),
        }
    }

    /// Once all is well there is soon a leader, and a fresh write on every node.
    fn check_liveness(&mut self) {
        let deadline = self.now + self.patience();
        let token = self.oracle.token();
        let row = UNCONTESTED + token;
        let sql = format!("INSERT INTO item VALUES ({row}, {token}) ON CONFLICT DO NOTHING");
        let work = ringlite::replica::request::Work::Execute(text(sql));
        self.ask_until_answered("db0", &Request::Sql(work));
        self.oracle.acknowledge(token);
        let committed = |node: &Node| {
            let process = node.process.as_ref();
            process.map_or(LogIndex::ZERO, |process| process.replica.status().commit)
        };
        let index = self.nodes.iter().map(committed).max().unwrap_or_default();
        assert!(self.now <= deadline, "it took too long to heal");
        self.catch_up(index);
    }

    /// Every node applies everything up to `index`. How long that takes depends on how much a node lacks,
    /// and on how little it is sent at a time; but each of them must go on and on.
    fn catch_up(&mut self, index: LogIndex) {
        let applied = |cluster: &Cluster, at: usize| {
            let process = cluster.nodes[at].process.as_ref();
            process.map_or(LogIndex::ZERO, |process| process.replica.status().applied)
        };
        // How far each has come, and since when.
        let mut progress: BTreeMap<usize, (LogIndex, u64)> = BTreeMap::new();
        loop {
            let mut lagging = self.sound();
            lagging.retain(|at| applied(self, *at) < index);
            if lagging.is_empty() {
                return;
            }
            for at in lagging {
                let now = self.now;
                let (furthest, since) = progress.entry(at).or_insert((LogIndex::ZERO, now));
                if applied(self, at) > *furthest {
                    (*furthest, *since) = (applied(self, at), now);
                }
                assert!(
                    now < *since + self.patience(),
                    "a fresh write on every node: not in time; {}",
                    self.describe()
                );
            }
            self.step();
        }
    }

    /// Once all is well everything ends, works and agrees.
    pub(crate) fn check(&mut self) {
        self.check_liveness();
        self.settle("the operations", |cluster| {
            cluster.clients.iter().all(Client::is_idle)
        });
        self.settle_members();
        self.check_handovers();
        let mut tokens = BTreeSet::new();
        for database in 0..DATABASES {
            self.check_database(database, &mut tokens);
        }
        for extra in 0..=self.oracle.extra_databases {
            let name = format!("extra{extra}");
            let schema = "SELECT name FROM sqlite_schema WHERE name = 'item'";
            if !self.rows(&name, schema).is_empty() {
                tokens.extend(self.tokens(&name, "SELECT token FROM item"));
            }
            self.check_soundness(&name);
        }
        self.check_replicas();
        self.oracle.check_all(&tokens);
    }

    fn rows(&mut self, database: &str, sql: &str) -> Vec<Vec<Value>> {
        rows_of(self.ask_until_answered(database, &query(sql))).rows
    }

    fn tokens(&mut self, database: &str, sql: &str) -> Vec<u64> {
        let rows = self.rows(database, sql);
        rows.iter()
            .map(|row| match row.as_slice() {
                [Value::Integer(token)] => *token as u64,
                other => panic!("a token was expected: {other:?}"),
            })
            .collect()
    }

    fn check_soundness(&mut self, database: &str) {
        let verdict = self.rows(database, "PRAGMA integrity_check");
        assert_eq!(verdict, [[Value::Text("ok".into())]]);
    }

    fn check_database(&mut self, database: usize, tokens: &mut BTreeSet<u64>) {
        let name = format!("db{database}");
        let fresh = self.oracle.token();
        let sql = format!("INSERT INTO item VALUES ({fresh}, {fresh}) ON CONFLICT DO NOTHING");
        let work = ringlite::replica::request::Work::Execute(text(sql));
        self.ask_until_answered(&name, &Request::Sql(work));
        self.oracle.acknowledge(fresh);
        self.check_soundness(&name);
        let found = self.tokens(&name, ALL_TOKENS);
        let distinct: BTreeSet<u64> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "a write was made twice");
        tokens.extend(distinct);
        let sum = self.rows(&name, "SELECT sum(cents) FROM account");
        assert_eq!(sum, [[Value::Integer(CENTS)]]);
        let items = self.tokens(&name, "SELECT id FROM item");
        for (of, row) in self.oracle.rows_that_exist().collect::<Vec<_>>() {
            assert!(of != database || items.contains(&row), "row {row} is lost");
        }
        let pairs = self.tokens(&name, "SELECT token FROM pair");
        self.oracle.check_pairs(database, pairs);
        for key in 0..REGISTERS {
            let sql = format!("SELECT version, token FROM history WHERE key = {key}");
            for row in self.rows(&name, &sql) {
                if let [Value::Integer(version), Value::Integer(token)] = row.as_slice() {
                    let register = (database, key);
                    self.oracle
                        .versions
                        .observe(register, 0, *version, *token as u64);
                    self.oracle.see(*token as u64);
                }
            }
        }
    }

    /// Every node has applied the same, holds the same bytes, and owes nobody an answer.
    pub(crate) fn check_replicas(&mut self) {
        let status = |cluster: &mut Cluster, at: usize| -> Status {
            cluster.nodes[at].running().replica.status()
        };
        self.settle("the operations", |cluster| {
            cluster.clients.iter().all(Client::is_idle)
        });
        let sound = self.sound();
        self.settle("agreement", |cluster| {
            let first = status(cluster, sound[0]).commit;
            sound.iter().all(|at| {
                let status = status(cluster, *at);
                (status.commit, status.applied, status.last) == (first, first, first)
            })
        });
        let applied = status(self, sound[0]).applied;
        let names = status(self, sound[0]).databases;
        for name in names {
            for at in &sound {
                if let Some(digest) = self.digest_of(*at, &name, applied) {
                    assert_eq!(digest.applied, applied, "the log moves without a client");
                    self.oracle.digest(&name, applied.0, &digest.digest);
                }
            }
        }
        for at in sound {
            assert_eq!(self.nodes[at].recovery_requests(), 0);
            let process = self.nodes[at].running();
            assert!(process.pending.is_empty(), "{:?}", process.pending);
        }
    }

    fn digest_of(&mut self, at: usize, name: &str, index_min: LogIndex) -> Option<Digest> {
        self.digest_serial += 1;
        let id = RequestId {
            session: SessionId(0),
            serial: self.digest_serial,
        };
        let process = self.nodes[at].running();
        process.pending.insert(id);
        process.inbox.push_back(Input::DigestAsked {
            id,
            database: name.to_owned(),
            index_min,
        });
        self.overheard = None;
        self.listens_to = Some(id);
        self.settle("a digest", |cluster| cluster.overheard.is_some());
        self.listens_to = None;
        match self.overheard.take() {
            Some(Ok(Reply::Digest(digest))) => Some(digest),
            Some(Err(error)) if self.oracle.is_told_damage(&error) => None,
            other => panic!("a digest was expected, and this came: {other:?}"),
        }
    }
}

//! One replica of three with real SQL; its peers are what a test makes them say.

use std::collections::BTreeMap;
use std::time::Duration;

use ringlite_raft::{
    AppendResult, Entry, HardState, IoId, LogIndex, Message, NodeId, RestoredLog, Term,
};
use ringlite_vfs::{CommitPoint, PageSize, VfsOptions};

use crate::error::{Error, Result};
use crate::replica::request::{
    Outcome, Ran, Reply, Request, RequestId, RowLimit, SessionId, SessionOptions, Source, Standing,
    Work,
};
use crate::replica::{
    Config, DatabaseFile, DatabaseId, Effect, Input, NodeAddress, Replica, SnapshotHead,
    SnapshotOutcome,
};
use crate::sql::{Paused, Resumed, Returned, RunLimits, Sql, Started, TRANSACTION_BYTES_DEFAULT};

/// What a run that is away has come to.
pub(super) enum Away {
    /// Its end.
    Returned(Returned),
    /// It needs the core for a moment.
    WantsCore(Paused),
}

/// An append that the replica has asked for.
pub(super) struct Appended {
    pub(super) entries: Vec<Entry>,
    pub(super) commit: LogIndex,
}

pub(super) struct Lone {
    pub(super) replica: Replica,
    sql: Sql,
    /// Runs that left the core, as if on a worker that has not begun.
    pub(super) away: Vec<Paused>,
    /// Runs find no commits of others, as if those could not be captured yet.
    pub(super) hide_captures: bool,
    /// What they would have found.
    pub(super) hidden: Option<Input>,
    data: tempfile::TempDir,
    pub(super) replies: BTreeMap<RequestId, Result<Reply>>,
    pub(super) appends: Vec<Appended>,
    pub(super) sent: Vec<Message>,
    /// Connections to databases fail.
    pub(super) refuse_connections: bool,
    /// Snapshots that the replica sends, what it installs, and what it says of those that arrive.
    pub(super) snapshots: Vec<SnapshotHead>,
    pub(super) installing: Option<SnapshotHead>,
    pub(super) outcomes: Vec<SnapshotOutcome>,
    /// Where the log begins by the last manifest.
    pub(super) log_base: LogIndex,
    /// What the last manifest says of the databases.
    pub(super) manifest: Vec<DatabaseFile>,
    /// A manifest is not saved at once: then it is said here.
    pub(super) saves_slowly: bool,
    pub(super) is_saving: bool,
    newest_io: IoId,
    serial: u64,
}

impl Lone {
    /// Node 1 of 1, 2 and 3, which knows of no leader.
    pub(super) fn new(change: impl FnOnce(&mut Config)) -> Lone {
        Self::bounded(TRANSACTION_BYTES_DEFAULT, change)
    }

    /// As [`Lone::new`], with a bound on what a transaction writes in one database.
    pub(super) fn bounded(transaction_bytes: u64, change: impl FnOnce(&mut Config)) -> Lone {
        let voters: Vec<_> = (1..=3).map(NodeId).collect();
        let members = voters.iter().map(|id| NodeAddress {
            id: *id,
            address: format!("node{id}"),
        });
        let mut raft = ringlite_raft::Config::new(NodeId(1), voters.clone(), 1);
        raft.election_timeout_ticks_min = 10;
        raft.election_timeout_ticks_max = 20;
        raft.heartbeat_ticks = 2;
        let mut config = Config::new(raft, members.collect());
        change(&mut config);
        let data = tempfile::tempdir().unwrap();
        let path = data.path().to_owned();
        let mut options = VfsOptions::new(path.clone(), path);
        options.transaction_bytes_max = transaction_bytes;
        let mut sql = Sql::with_options(options).unwrap();
        sql.set_limits(RunLimits {
            core_time: Duration::MAX,
            statement_time: Duration::ZERO,
            ..RunLimits::default()
        });
        Lone {
            replica: Replica::new(config, HardState::default(), RestoredLog::default(), &[])
                .unwrap(),
            sql,
            away: Vec::new(),
            hide_captures: false,
            hidden: None,
            data,
            replies: BTreeMap::new(),
            appends: Vec::new(),
            snapshots: Vec::new(),
            installing: None,
            outcomes: Vec::new(),
            log_base: LogIndex::ZERO,
            manifest: Vec::new(),
            saves_slowly: false,
            is_saving: false,
            sent: Vec::new(),
            refuse_connections: false,
            newest_io: IoId(0),
            serial: 0,
        }
    }

    /// A leader with a database `app` in which there is an empty table `t`, and a session on it.
    pub(super) fn leading(change: impl FnOnce(&mut Config)) -> (Lone, SessionId) {
        Lone::new(change).lead()
    }

    /// It becomes such a leader.
    pub(super) fn lead(self) -> (Lone, SessionId) {
        let mut lone = self;
        lone.win();
        let session = lone.open(1);
        let created = lone.execute(
            session,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, data TEXT)",
        );
        lone.commit_all();
        lone.reply(created).unwrap();
        (lone, session)
    }

    /// One turn of several inputs.
    pub(super) fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) {
        self.one_turn(inputs);
        if self.replica.applies_later() {
            self.one_turn([]);
        }
        self.replica.check_invariants();
    }

    /// The same, without the turn that it may leave something for.
    pub(super) fn one_turn(&mut self, inputs: impl IntoIterator<Item = Input>) {
        if self.replica.begin_turn() {
            self.perform_effects();
        }
        for input in inputs {
            self.replica.step(input);
            self.perform_effects();
        }
        while self.replica.end_turn() {
            self.perform_effects();
        }
    }

    /// Nothing is written into a file that the manifest does not say.
    fn check_announced(&self, database: DatabaseId, ends: &[(LogIndex, CommitPoint)]) {
        let mut files = self.manifest.iter();
        let target = files
            .find(|file| file.id == database)
            .map(|file| file.target);
        let newest = ends.last().map(|(index, _)| *index);
        assert!(
            newest <= target,
            "{newest:?} is written, announced is {target:?}"
        );
    }

    fn perform_effects(&mut self) {
        while let Some(effect) = self.replica.next_effect() {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        let answer = match effect {
            Effect::Run { request, work, .. }
                if self.refuse_connections && matches!(work, Work::Connect { .. }) =>
            {
                let failed = Error::misuse(rusqlite::ffi::SQLITE_CANTOPEN, "no more files");
                Some(Input::Ran(Ran {
                    request,
                    outcome: Outcome::Failed(failed),
                    standing: Standing::default(),
                    captures: Vec::new(),
                    ahead: Vec::new(),
                }))
            }
            Effect::Run {
                request,
                work,
                may_write,
            } => {
                match self.sql.start(request, work, may_write) {
                    Started::Ran(mut ran) => {
                        if self.hide_captures && !ran.captures.is_empty() {
                            let captures = std::mem::take(&mut ran.captures);
                            ran.ahead = captures.iter().map(|(database, _)| *database).collect();
                            self.hidden = Some(Input::Captured { captures });
                        }
                        self.replica.step(Input::Ran(ran));
                    }
                    Started::Left {
                        paused,
                        writes,
                        captures,
                    } => {
                        self.away.push(paused);
                        self.replica.step(Input::Left { request, writes });
                        self.replica.step(Input::Captured { captures });
                    }
                }
                None
            }
            Effect::StopRun { session, reason } => {
                self.sql.stop(session, reason);
                None
            }
            Effect::Reply { request, reply } => {
                let before = self.replies.insert(request, reply);
                assert!(before.is_none(), "a second answer");
                None
            }
            Effect::SetMembers { .. } => None,
            Effect::Send { message, .. } => {
                self.sent.push(message);
                None
            }
            Effect::SaveHardState { io, .. } => {
                self.newest_io = io;
                None
            }
            Effect::Append {
                io,
                entries,
                commit,
                ..
            } => {
                self.newest_io = io;
                self.appends.push(Appended { entries, commit });
                None
            }
            Effect::CloseSession { session } => {
                self.sql.close_session(session);
                None
            }
            Effect::SetWritable(writable) => {
                self.sql.set_writable(writable);
                None
            }
            Effect::CreateDatabase {
                id,
                name,
                page_size,
            } => Some(self.sql.create_database(id, &name, page_size).unwrap()),
            Effect::Apply { index, change } => Some(Input::Applied {
                database: change.database,
                index,
                commit_point: self.sql.apply(&change).unwrap().expect("a database"),
            }),
            Effect::EndReads { .. } | Effect::CutLog { .. } => None,
            Effect::SaveManifest {
                base, databases, ..
            } => {
                self.log_base = base;
                self.manifest = databases;
                self.is_saving = self.saves_slowly;
                (!self.saves_slowly).then_some(Input::ManifestSaved)
            }
            Effect::SendSnapshot { head, .. } => {
                self.snapshots.push(head);
                None
            }
            Effect::InstallSnapshot { head } => {
                self.installing = Some(head);
                None
            }
            Effect::SnapshotEnded { outcome } => {
                self.outcomes.push(outcome);
                None
            }
            Effect::OpenDatabase {
                id,
                name,
                page_size,
            } => self.sql.open_database(id, &name, page_size).unwrap(),
            Effect::Digest { request, .. } => {
                self.replies.insert(request, Ok(Reply::Done));
                None
            }
            Effect::Backfill { database, ends } => {
                self.check_announced(database, &ends);
                let begun = self.sql.begin_backfill(database, &ends).unwrap();
                let end = begun.map(|(end, mut backfill)| {
                    while backfill.write_slice(usize::MAX).unwrap() {}
                    backfill.publish();
                    end
                });
                Some(Input::Backfilled { database, end })
            }
            Effect::ShowCommitted { database, to } => {
                self.sql.show_committed(database, &to).unwrap();
                None
            }
            Effect::RestartWal { database, ends } => {
                self.check_announced(database, &ends);
                let (end, commit_point) = self.sql.restart_wal(database, &ends).unwrap();
                Some(Input::WalRestarted {
                    database,
                    end,
                    commit_point,
                })
            }
            Effect::RollBack { database, to } => {
                let point = self.sql.roll_back(database, &to).unwrap();
                point.map(|commit_point| Input::RolledBack {
                    database,
                    commit_point,
                })
            }
            Effect::RemoveDatabase { database } => {
                self.sql.remove_database(database).unwrap();
                None
            }
            Effect::BeginRestore { restore } => {
                self.sql.begin_restore(restore).unwrap();
                None
            }
            Effect::WriteRestore { restore, bytes } => {
                self.sql.write_restore(restore, bytes);
                None
            }
            Effect::FinishRestore { restore, id, name } => {
                let opened = self.sql.finish_restore(restore, id, &name).unwrap();
                Some(opened.expect("a restore"))
            }
            Effect::DiscardRestore { restore } => {
                self.sql.discard_restore(restore);
                None
            }
            other => panic!("{other:?}"),
        };
        if let Some(answer) = answer {
            self.replica.step(answer);
        }
    }

    /// From now on a run leaves the core at its first look at the clock.
    pub(super) fn leave_early(&mut self) {
        self.sql.set_limits(RunLimits {
            core_time: Duration::ZERO,
            statement_time: Duration::ZERO,
            ..RunLimits::default()
        });
    }

    /// The oldest run that is away goes on to its end, which nobody knows of yet.
    pub(super) fn run_away(&mut self) -> Returned {
        match self.run_away_until_core() {
            Away::Returned(returned) => returned,
            Away::WantsCore(_) => panic!("a session with one database needs no core"),
        }
    }

    /// The oldest run that is away goes on to its end, or until it needs the core.
    pub(super) fn run_away_until_core(&mut self) -> Away {
        let mut paused = self.away.remove(0);
        loop {
            match paused.resume(Duration::MAX) {
                Resumed::Paused(again) => paused = again,
                Resumed::WantsCore(paused) => return Away::WantsCore(paused),
                Resumed::Returned(returned) => return Away::Returned(returned),
            }
        }
    }

    /// A run that needs the core gets it for a moment.
    pub(super) fn visit(&mut self, paused: Paused) {
        let input = match self.sql.visit(paused) {
            Some(Started::Ran(ran)) => Some(Input::Ran(ran)),
            Some(Started::Left {
                paused, captures, ..
            }) => {
                self.away.push(paused);
                Some(Input::Captured { captures })
            }
            None => None,
        };
        self.turn(input);
    }

    /// Everything that is away goes on to its end, which becomes known.
    pub(super) fn finish_away(&mut self) {
        while !self.away.is_empty() {
            match self.run_away_until_core() {
                Away::Returned(returned) => self.come_back(returned),
                Away::WantsCore(paused) => self.visit(paused),
            }
        }
    }

    /// A run's end becomes known.
    pub(super) fn come_back(&mut self, returned: Returned) {
        let ran = self.sql.take_back(returned);
        self.turn(ran.map(Input::Ran));
    }

    fn term(&self) -> Term {
        Term(self.replica.status().term)
    }

    pub(super) fn last(&self) -> LogIndex {
        self.replica.status().last
    }

    pub(super) fn persisted(&self) -> Input {
        Input::Persisted { io: self.newest_io }
    }

    /// Node 2 holds the log up to `match_index`.
    pub(super) fn accepted(&self, match_index: LogIndex) -> Input {
        let result = AppendResult::Accepted { match_index };
        let term = self.term();
        receive(2, Message::AppendReply { term, result })
    }

    /// Node 3 leads in the next term.
    pub(super) fn deposed(&self) -> Input {
        let term = self.term().next();
        let commit = LogIndex::ZERO;
        let round = 1;
        receive(
            3,
            Message::Heartbeat {
                term,
                commit,
                matched_by_all: LogIndex(0),
                round,
            },
        )
    }

    pub(super) fn commit_all(&mut self) {
        let inputs = [self.persisted(), self.accepted(self.last())];
        self.turn(inputs);
    }

    /// Node 2 hears the newest heartbeat.
    pub(super) fn confirm(&mut self) {
        let rounds = self.sent.iter().filter_map(|message| match message {
            Message::Heartbeat { round, .. } => Some(*round),
            _ => None,
        });
        let round = rounds.max().expect("a heartbeat");
        let term = self.term();
        self.turn([receive(2, Message::HeartbeatReply { term, round })]);
    }

    /// Wins an election with the voice of node 2.
    pub(super) fn win(&mut self) {
        let granted = true;
        let term = self.term().next();
        self.sent.clear();
        while !self
            .sent
            .iter()
            .any(|message| matches!(message, Message::PreVote { .. }))
        {
            self.turn([Input::Tick]);
        }
        self.turn([receive(2, Message::PreVoteReply { term, granted })]);
        self.turn([self.persisted()]);
        self.turn([receive(2, Message::VoteReply { term, granted })]);
        self.commit_all();
        assert!(self.replica.leader().is_some_and(|leader| leader.id.0 == 1));
    }

    pub(super) fn ask(&mut self, session: SessionId, request: Request) -> (RequestId, Input) {
        self.serial += 1;
        let serial = self.serial;
        let id = RequestId { session, serial };
        let options = SessionOptions::default();
        (
            id,
            Input::Asked {
                id,
                options,
                request,
            },
        )
    }

    /// A session on the database `app`.
    pub(super) fn open(&mut self, session: u64) -> SessionId {
        self.open_database(session, "app")
    }

    /// A session on a database.
    pub(super) fn open_database(&mut self, session: u64, name: &str) -> SessionId {
        let session = SessionId(session);
        let (id, asked) = self.ask(
            session,
            Request::Open {
                database: name.into(),
                create: true,
            },
        );
        self.turn([asked]);
        if !self.replies.contains_key(&id) && self.last() > self.replica.status().commit {
            self.commit_all();
        }
        self.confirm();
        self.reply(id).unwrap();
        session
    }

    pub(super) fn execute(&mut self, session: SessionId, sql: &str) -> RequestId {
        let (id, asked) = self.ask(session, sql_request(sql));
        self.turn([asked]);
        id
    }

    pub(super) fn query(&mut self, session: SessionId, sql: &str, limit: RowLimit) -> RequestId {
        let source = Source::text(sql, Vec::new());
        let (id, asked) = self.ask(session, Request::Sql(Work::Query { source, limit }));
        self.turn([asked]);
        id
    }

    /// Puts the files of an empty database into this node's directory.
    pub(super) fn put_database(&mut self, name: &str) {
        let page_one = ringlite_vfs::first_page(PageSize::DEFAULT);
        ringlite_vfs::create_database_file(self.data.path(), name, &page_one).unwrap();
    }

    /// The names of all files of this node.
    pub(super) fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.data.path()).unwrap();
        let name = |file: std::fs::DirEntry| file.file_name().into_string().unwrap();
        let mut names: Vec<_> = files.map(|file| name(file.unwrap())).collect();
        names.sort();
        names
    }

    pub(super) fn answer(&self, id: RequestId) -> Option<&Result<Reply>> {
        self.replies.get(&id)
    }

    pub(super) fn reply(&mut self, id: RequestId) -> Result<Reply> {
        self.replies.remove(&id).expect("an answer")
    }

    /// The rows of `t` in what this node holds, committed or not.
    pub(super) fn rows(&mut self) -> usize {
        self.rows_in("app")
    }

    /// The rows of `t` in a database of this node, committed or not.
    pub(super) fn rows_in(&mut self, name: &str) -> usize {
        let session = SessionId(u64::MAX);
        let id = RequestId { session, serial: 1 };
        let database = self.replica.catalogue.find(name).expect("the database");
        let options = SessionOptions::default();
        let mut run = |work| self.sql.run(id, work, false).outcome;
        run(Work::Connect { database, options });
        let limit = RowLimit::Whole { bytes_max: 1 << 20 };
        let source = Source::text("SELECT id FROM t", Vec::new());
        let outcome = run(Work::Query { source, limit });
        self.sql.close_session(session);
        match outcome {
            crate::replica::request::Outcome::Reply(Reply::Rows(batch)) => batch.rows.len(),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn sql_request(sql: &str) -> Request {
    Request::Sql(Work::Execute(Source::text(sql, Vec::new())))
}

pub(super) fn receive(from: u64, message: Message) -> Input {
    let from = NodeId(from);
    Input::Receive { from, message }
}

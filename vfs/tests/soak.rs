//! A leader and a replica under random transactions, roll-backs, changes of role, backfills and
//! restarts of the WAL.
//!
//! The leader runs ahead: its commits become entries, some of which the replica applies. What the
//! replica has applied counts as committed for good, and only that is run by plain SQLite. When the
//! leader steps down, everything after that is rolled back. Each of the two backfills on its own,
//! to ends of its own, in slices between which everything else goes on; after each backfill its file
//! has to be what the captures up to that end make, page by page. Readers of the committed view of
//! either see states that are committed for good, each at least as new as the one before. `VFS_SOAK_SEQUENCES` says how many
//! sequences are run and `VFS_SOAK_SEED` where they begin; a failure names its seed.

mod common;

use std::collections::VecDeque;
use std::fmt::Write;
use std::rc::Rc;

use common::{
    Node, Random, Shadow, assert_same_image, assert_sound, content, content_of_image, file_image,
    image, image_at,
};
use ringlite_vfs::{
    Backfill, Capture, CommitPoint, Database, PageSize, Pin, VfsError, read_position,
};
use rusqlite::{Connection, ErrorCode};

const SEQUENCES_DEFAULT: u64 = 18;
const STEPS: u64 = 220;
const TABLES: u64 = 3;
/// Old connections that are kept at most, to die at random.
const ZOMBIES_MAX: usize = 6;
/// Ends that are remembered at most, to be offered to a backfill.
const ENDS_MAX: usize = 30;

/// What one sequence did, to see that it did anything.
#[derive(Default, Debug)]
struct Tally {
    transactions: u64,
    rolled_back_transactions: u64,
    entries: u64,
    applies: u64,
    roll_backs: u64,
    role_swaps: u64,
    zombie_writers: u64,
    reader_checks: u64,
    committed_reads: u64,
    committed_reads_behind: u64,
    image_checks: u64,
    backfills: u64,
    backfills_given_up: u64,
    backfills_refused: u64,
    restarts: u64,
    restarts_refused: u64,
    pins: u64,
    frames_max: u32,
}

/// What has committed on the leader and not on the replica.
struct Entry {
    capture: Capture,
    statements: Vec<String>,
    /// The database after it, by captures alone.
    shadow: Rc<Shadow>,
}

/// What moves into the file of one of the two databases.
#[derive(Default)]
struct Moves {
    /// Ends of entries that are committed for good, and the database there.
    ends: Vec<(CommitPoint, Rc<Shadow>)>,
    running: Option<(Backfill, Rc<Shadow>)>,
    pins: Vec<(Pin, Rc<Shadow>)>,
    /// The oldest of the committed states that its committed view may show.
    shown: usize,
}

/// A read transaction and what it saw at first.
struct Reader {
    sql: Connection,
    seen: String,
    dead: bool,
}

struct Sequence {
    random: Random,
    leader: Database,
    replica: Database,
    sql: Connection,
    plain: Connection,
    /// The digest of each state that is committed for good, oldest first.
    states: Vec<String>,
    /// Commits that are not captured yet, then entries that are not applied yet.
    statements: Vec<String>,
    entries: VecDeque<Entry>,
    /// The leader's commit that the replica has reached.
    committed: CommitPoint,
    /// The database after the last capture, and there.
    captured_shadow: Shadow,
    committed_shadow: Rc<Shadow>,
    leader_moves: Moves,
    replica_moves: Moves,
    readers: Vec<(bool, Reader)>,
    zombies: Vec<Connection>,
    tally: Tally,
    node: Node,
}

fn open(database: &Database, random: &mut Random) -> Connection {
    with_some_cache(database.connect().unwrap(), random)
}

fn with_some_cache(sql: Connection, random: &mut Random) -> Connection {
    let cache_pages = [3, 10, 200][random.below(3) as usize];
    sql.pragma_update(None, "cache_size", cache_pages).unwrap();
    sql
}

/// A digest of all rows by SQL, within whatever transaction is open.
fn digest(sql: &Connection) -> rusqlite::Result<String> {
    let mut digest = String::new();
    for table in 0..TABLES {
        let query = format!(
            "SELECT count(*), coalesce(sum(a * 31 + length(b)), 0), coalesce(max(b), '')
             FROM t{table}"
        );
        let line: String = sql.query_row(&query, [], |row| {
            let (count, sum): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok(format!("{count} {sum} {};", row.get::<_, String>(2)?))
        })?;
        digest.push_str(&line);
    }
    Ok(digest)
}

impl Sequence {
    fn new(seed: u64) -> Sequence {
        let mut random = Random(seed);
        let node = Node::new();
        let page_bytes = [512, 512, 1024, 4096, 65536][random.below(5) as usize];
        let page_size = PageSize::new(page_bytes).unwrap();
        let leader = node.database("one.db", page_size);
        let replica = node.database("two.db", page_size);
        leader.set_writable(true);
        let sql = open(&leader, &mut random);
        let plain = Connection::open_in_memory().unwrap();
        let committed = leader.commit_point();
        let mut sequence = Sequence {
            random,
            leader,
            replica,
            sql,
            plain,
            states: Vec::new(),
            statements: Vec::new(),
            entries: VecDeque::new(),
            committed,
            captured_shadow: Shadow::new(page_size),
            committed_shadow: Rc::new(Shadow::new(page_size)),
            leader_moves: Moves::default(),
            replica_moves: Moves::default(),
            readers: Vec::new(),
            zombies: Vec::new(),
            tally: Tally::default(),
            node,
        };
        let auto_vacuum = sequence.random.below(3) as i64;
        sequence
            .sql
            .pragma_update(None, "auto_vacuum", auto_vacuum)
            .unwrap();
        sequence.commit("VACUUM".to_owned());
        for table in 0..TABLES {
            sequence.commit(format!(
                "CREATE TABLE t{table} (a INTEGER PRIMARY KEY, b TEXT);
                 CREATE INDEX i{table} ON t{table} (b)"
            ));
        }
        sequence.capture();
        sequence.apply(u64::MAX);
        // Every reader finds the tables.
        sequence.show_committed();
        sequence
    }

    /// Runs statements that commit, and remembers them.
    fn commit(&mut self, sql: String) {
        self.sql.execute_batch(&sql).unwrap();
        self.statements.push(sql);
        self.tally.transactions += 1;
        self.tally.frames_max = self.tally.frames_max.max(self.leader.wal_frames());
    }

    /// One deterministic statement.
    fn statement(&mut self) -> String {
        let random = &mut self.random;
        let table = random.below(TABLES);
        let (first, modulus) = (random.below(2000), 2 + random.below(12));
        let (count, length) = (1 + random.below(80), 1 + random.below(300));
        match random.below(12) {
            0..=4 => format!(
                "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n
                     WHERE i < {first} + {count})
                 INSERT OR REPLACE INTO t{table}
                     SELECT i, printf('%0{length}d', i * {modulus}) FROM n"
            ),
            5 => format!(
                "INSERT OR REPLACE INTO t{table} VALUES ({first}, printf('%0{}d', 1))",
                length * 60
            ),
            6 | 7 => format!(
                "UPDATE t{table} SET b = substr(b || '{first}', 1 + a % 3) WHERE a % {modulus} = 1"
            ),
            8 | 9 => format!("DELETE FROM t{table} WHERE a % {modulus} = 0"),
            10 => format!(
                "DROP TABLE t{table}; CREATE TABLE t{table} (a INTEGER PRIMARY KEY, b TEXT);
                 CREATE INDEX i{table} ON t{table} (b)"
            ),
            _ => "PRAGMA incremental_vacuum(7)".to_owned(),
        }
    }

    fn transaction_body(&mut self) -> String {
        let mut sql = String::new();
        for _ in 0..1 + self.random.below(5) {
            let statement = self.statement();
            match self.random.below(6) {
                0 => {
                    let undone = self.statement();
                    let end =
                        ["ROLLBACK TO s; RELEASE s", "RELEASE s"][self.random.below(2) as usize];
                    write!(sql, "{statement}; SAVEPOINT s; {undone}; {end};").unwrap();
                }
                _ => write!(sql, "{statement};").unwrap(),
            }
        }
        sql
    }

    fn transact(&mut self) {
        match self.random.below(40) {
            0 => self.commit("VACUUM".to_owned()),
            1..=6 => {
                let body = self.transaction_body();
                self.sql
                    .execute_batch(&format!("BEGIN; {body} ROLLBACK"))
                    .unwrap();
                self.tally.rolled_back_transactions += 1;
            }
            7..=15 => {
                let statement = self.statement();
                self.commit(format!("BEGIN; {statement}; COMMIT"));
            }
            _ => {
                let body = self.transaction_body();
                self.commit(format!("BEGIN IMMEDIATE; {body} COMMIT"));
            }
        }
    }

    fn capture(&mut self) {
        let Some(capture) = self.leader.take_capture() else {
            // A transaction that changes nothing commits without a frame.
            return;
        };
        let statements = std::mem::take(&mut self.statements);
        self.captured_shadow.absorb(&capture);
        self.entries.push_back(Entry {
            capture,
            statements,
            shadow: Rc::new(self.captured_shadow.clone()),
        });
        self.tally.entries += 1;
    }

    /// The replica applies up to `count` entries, which commits them.
    fn apply(&mut self, count: u64) {
        for _ in 0..count.min(self.entries.len() as u64) {
            let Some(Entry {
                capture,
                statements,
                shadow,
            }) = self.entries.pop_front()
            else {
                break;
            };
            let before = self.replica.commit_point().position;
            let after = self
                .replica
                .apply(&capture.pages, capture.page_count)
                .unwrap();
            assert!(after.position > before);
            self.committed = capture.commit_point;
            self.leader_moves
                .ends
                .push((capture.commit_point, shadow.clone()));
            self.replica_moves.ends.push((after, shadow.clone()));
            self.committed_shadow = shadow;
            for ends in [&mut self.leader_moves.ends, &mut self.replica_moves.ends] {
                ends.drain(..ends.len().saturating_sub(ENDS_MAX));
            }
            for statement in statements {
                self.plain.execute_batch(&statement).unwrap();
            }
            self.states.extend(digest(&self.plain).ok());
            self.replica_moves.shown = self.states.len().saturating_sub(1);
            self.tally.applies += 1;
        }
        if self.random.one_in(2) {
            self.show_committed();
        }
    }

    /// The leader hears how far it is committed.
    fn show_committed(&mut self) {
        self.leader.show_committed(&self.committed).unwrap();
        self.leader_moves.shown = self.states.len().saturating_sub(1);
    }

    /// Everything after the committed entry is lost on the leader; perhaps the replica takes over.
    fn step_down(&mut self) {
        if self.random.one_in(2) {
            // A session in the middle of a large transaction, which nobody ends in time.
            let writer = std::mem::replace(&mut self.sql, open(&self.leader, &mut self.random));
            writer.pragma_update(None, "cache_size", 3).unwrap();
            let body = self.transaction_body();
            writer
                .execute_batch(&format!("BEGIN IMMEDIATE; {body}"))
                .unwrap();
            self.zombies.push(writer);
            self.tally.zombie_writers += 1;
        }
        if self.random.one_in(2) {
            self.capture();
        }
        let before = self.leader.commit_point().position;
        self.leader.set_writable(false);
        self.leader.roll_back(&self.committed).unwrap();
        self.leader_moves.shown = self.states.len().saturating_sub(1);
        assert!(self.leader.commit_point().position > before);
        assert!(self.leader.take_capture().is_none());
        self.entries.clear();
        self.statements.clear();
        self.captured_shadow = Shadow::clone(&self.committed_shadow);
        for (on_leader, reader) in &mut self.readers {
            reader.dead |= *on_leader;
        }
        if self.random.one_in(2) {
            std::mem::swap(&mut self.leader, &mut self.replica);
            std::mem::swap(&mut self.leader_moves, &mut self.replica_moves);
            for (on_leader, _) in &mut self.readers {
                *on_leader = !*on_leader;
            }
            self.tally.role_swaps += 1;
        }
        self.committed = self.leader.commit_point();
        self.leader.set_writable(true);
        let old = std::mem::replace(&mut self.sql, open(&self.leader, &mut self.random));
        self.zombies.push(old);
        self.tally.roll_backs += 1;
        self.check();
    }

    /// An old connection does what it likes, or goes.
    fn stir_zombies(&mut self) {
        if self.zombies.is_empty() {
            return;
        }
        let index = self.random.below(self.zombies.len() as u64) as usize;
        let orders = [
            "ROLLBACK",
            "COMMIT",
            "INSERT INTO t0 VALUES (1, 'late')",
            "SELECT * FROM t1",
        ];
        let _ = self.zombies[index].execute_batch(orders[self.random.below(4) as usize]);
        if self.zombies.len() > ZOMBIES_MAX || self.random.one_in(3) {
            self.zombies.swap_remove(index);
        }
    }

    fn begin_read(&mut self) {
        let on_leader = self.random.one_in(2);
        let database = if on_leader {
            &self.leader
        } else {
            &self.replica
        };
        let is_committed = self.random.one_in(2) && !self.states.is_empty();
        let sql = match is_committed {
            true => with_some_cache(database.connect_committed().unwrap(), &mut self.random),
            false => open(database, &mut self.random),
        };
        sql.execute_batch("BEGIN").unwrap();
        let seen = digest(&sql).unwrap();
        if is_committed {
            let moves = match on_leader {
                true => &mut self.leader_moves,
                false => &mut self.replica_moves,
            };
            let newer = self.states[moves.shown..].iter();
            let place = newer.clone().position(|state| *state == seen);
            moves.shown += place.expect("a committed state, and none that is older than the last");
            self.tally.committed_reads += 1;
            self.tally.committed_reads_behind += u64::from(newer.last() != Some(&seen));
        } else {
            assert_eq!(
                read_position(&sql, "main"),
                Some(database.commit_point().position)
            );
        }
        self.readers.push((
            on_leader,
            Reader {
                sql,
                seen,
                dead: false,
            },
        ));
    }

    /// A reader sees what it saw before, unless it is of an old epoch: then it may also fail.
    fn check_reader(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let index = self.random.below(self.readers.len() as u64) as usize;
        let reader = &self.readers[index].1;
        match digest(&reader.sql) {
            Ok(seen) => assert_eq!(seen, reader.seen),
            Err(error) => {
                assert!(reader.dead, "{error}");
                assert_eq!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure));
            }
        }
        self.tally.reader_checks += 1;
        if self.readers.len() > 5 || self.random.one_in(3) {
            self.readers.swap_remove(index);
        }
    }

    /// Begins a backfill of one of the two, or goes on with the one that runs.
    fn backfill(&mut self, on_leader: bool) {
        let (database, moves) = match on_leader {
            true => (&self.leader, &mut self.leader_moves),
            false => (&self.replica, &mut self.replica_moves),
        };
        let Some((mut backfill, shadow)) = moves.running.take() else {
            let mut ends = moves.ends.clone();
            let keep = 1 + self.random.below(3);
            ends.retain(|_| self.random.below(3) < keep);
            let points: Vec<_> = ends.iter().map(|(end, _)| *end).collect();
            match database.begin_backfill(&points).unwrap() {
                None => self.tally.backfills_refused += 1,
                Some(backfill) => {
                    let end = ends.into_iter().find(|(end, _)| end == backfill.end());
                    moves.running = Some((backfill, end.unwrap().1));
                }
            }
            return;
        };
        let slices = 1 + self.random.below(4);
        let pages_max = 1 + self.random.below(40) as usize;
        let mut more = true;
        for _ in 0..slices {
            more = more && backfill.write_slice(pages_max).unwrap();
        }
        if self.random.one_in(20) {
            self.tally.backfills_given_up += 1;
        } else if more {
            moves.running = Some((backfill, shadow));
        } else {
            let file = file_image(&self.node, database);
            assert_same_image(&file, &shadow.image());
            if self.random.one_in(8) {
                content_of_image(&file);
            }
            if self.random.one_in(2) {
                backfill.sync().unwrap();
            }
            backfill.publish();
            assert_eq!(database.backfilled_frames(), backfill.end().position.frame);
            self.tally.backfills += 1;
        }
    }

    /// Everything of one of the two moves into its file, so that the WAL can be restarted.
    fn restart(&mut self, on_leader: bool) {
        if self.random.one_in(3) {
            self.capture();
            self.apply(u64::MAX);
            self.readers
                .retain(|(of_leader, _)| *of_leader != on_leader);
            let moves = match on_leader {
                true => &mut self.leader_moves,
                false => &mut self.replica_moves,
            };
            moves.pins.clear();
            moves.running = None;
            let refused = self.tally.backfills_refused + 5;
            while self.tally.backfills_refused < refused {
                self.backfill(on_leader);
            }
        }
        let database = match on_leader {
            true => &self.leader,
            false => &self.replica,
        };
        let before = database.commit_point();
        let expected = image(database);
        match database.restart() {
            true => {
                assert_eq!((database.wal_frames(), database.wal_bytes()), (0, 0));
                assert!(database.commit_point().position > before.position);
                assert_same_image(&file_image(&self.node, database), &expected);
                assert_same_image(&image_at(database, &before), &expected);
                self.tally.restarts += 1;
            }
            false => self.tally.restarts_refused += 1,
        }
        assert_same_image(&image(database), &expected);
    }

    /// Pins one of the ends for later, or looks at one that was pinned.
    fn pin(&mut self, on_leader: bool) {
        let (database, moves) = match on_leader {
            true => (&self.leader, &mut self.leader_moves),
            false => (&self.replica, &mut self.replica_moves),
        };
        if !moves.pins.is_empty() {
            let index = self.random.below(moves.pins.len() as u64) as usize;
            let (pin, shadow) = moves.pins.swap_remove(index);
            assert_same_image(&image_at(database, pin.at()), &shadow.image());
            self.tally.pins += 1;
        } else if let Some((end, shadow)) = moves.ends.last() {
            match database.pin(end) {
                Ok(pin) => moves.pins.push((pin, shadow.clone())),
                Err(VfsError::UnknownCommitPoint { .. } | VfsError::SnapshotTooOld { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn check(&mut self) {
        let replica = image(&self.replica);
        assert_same_image(&image_at(&self.leader, &self.committed), &replica);
        let expected = content(&self.plain);
        assert_eq!(content_of_image(&replica), expected);
        let reader = open(&self.replica, &mut self.random);
        assert_eq!(content(&reader), expected);
        assert_sound(&reader);
        assert_sound(&self.sql);
        self.show_committed();
        for database in [&self.leader, &self.replica] {
            let committed = database.connect_committed().unwrap();
            assert_eq!(content(&committed), expected);
            assert_sound(&committed);
        }
        assert_eq!(content_of_image(&image(&self.leader)), content(&self.sql));
        for database in [&self.leader, &self.replica] {
            let committed = u64::from(database.wal_frames());
            assert_eq!(
                database.wal_bytes(),
                committed * u64::from(database.page_size().bytes())
            );
            assert_eq!(database.recovery_requests(), 0);
        }
        self.tally.image_checks += 1;
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            let on_leader = self.random.one_in(2);
            match self.random.below(30) {
                0..=8 => self.backfill(on_leader),
                9 => self.restart(on_leader),
                10 | 11 => self.pin(on_leader),
                _ => {}
            }
            match self.random.below(100) {
                0..=44 => self.transact(),
                45..=64 => self.capture(),
                65..=79 => {
                    let count = 1 + self.random.below(4);
                    self.apply(count);
                }
                80..=81 => self.step_down(),
                82..=85 => self.stir_zombies(),
                86..=89 => self.begin_read(),
                90..=94 => self.check_reader(),
                95 => {
                    let _ = self
                        .sql
                        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
                }
                96 => self.sql = open(&self.leader, &mut self.random),
                97 => self.check(),
                _ => {
                    self.capture();
                    self.apply(u64::MAX);
                }
            }
        }
        self.capture();
        self.apply(u64::MAX);
        self.check();
        assert_same_image(&image(&self.leader), &image(&self.replica));
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |value| value.parse().unwrap())
}

#[test]
fn a_leader_and_a_replica_stay_the_same() {
    let sequences = from_environment("VFS_SOAK_SEQUENCES", SEQUENCES_DEFAULT);
    let first_seed = from_environment("VFS_SOAK_SEED", 1);
    let mut total = Tally::default();
    for seed in first_seed..first_seed + sequences {
        // Printed only when the test fails; the last one is the one that did.
        println!("VFS_SOAK_SEED={seed} VFS_SOAK_SEQUENCES=1");
        let mut sequence = Sequence::new(seed);
        sequence.run();
        let tally = sequence.tally;
        total.transactions += tally.transactions;
        total.rolled_back_transactions += tally.rolled_back_transactions;
        total.entries += tally.entries;
        total.applies += tally.applies;
        total.roll_backs += tally.roll_backs;
        total.role_swaps += tally.role_swaps;
        total.zombie_writers += tally.zombie_writers;
        total.reader_checks += tally.reader_checks;
        total.committed_reads += tally.committed_reads;
        total.committed_reads_behind += tally.committed_reads_behind;
        total.image_checks += tally.image_checks;
        total.backfills += tally.backfills;
        total.backfills_given_up += tally.backfills_given_up;
        total.backfills_refused += tally.backfills_refused;
        total.restarts += tally.restarts;
        total.restarts_refused += tally.restarts_refused;
        total.pins += tally.pins;
        total.frames_max = total.frames_max.max(tally.frames_max);
    }
    println!("{sequences} sequences: {total:?}");
    assert!(sequences < 10 || total.roll_backs > 0 && total.zombie_writers > 0);
    assert!(sequences < 10 || total.committed_reads_behind > 0);
    assert!(sequences < 10 || total.backfills > 0 && total.restarts > 0 && total.pins > 0);
}

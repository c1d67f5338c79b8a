//! Power loss. A real node works on a disk that records every write and flush; from the recording
//! the disk is made again as it is at each flush, and with random parts of what was written after
//! it. On each such disk a node has to start, and to have every transaction that was acknowledged
//! until then, none in part, and databases that SQLite finds whole. Then it has to take a write,
//! and keep it through another loss of power.
//!
//! `POWER_WORKLOADS` sets how many workloads there are (1 unless told), `POWER_TRANSACTIONS` how
//! long each of two clients goes on (60), `POWER_SUBSETS` how many random subsets there are of the
//! writes between two flushes (2; the full size is 50), `POWER_IMAGES` how many images are looked
//! at in all, spread evenly (200), `POWER_SEED` where the seeds begin. The disk of a failure is kept
//! in the directory for temporary files of the tests.
//!
//! The same for a member while it gets and installs a snapshot, with a leader that is not disturbed. Every
//! flush between the snapshot's beginning and the end of its installation is looked at, and
//! `INSTALL_IMAGES` sets how many disks of the time around that (20 unless told).

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ringlite::{Client, ReadLevel, Value};
use ringlite_tests::author::Author;
use ringlite_tests::disk::{self, Disk, Image, Position, Recording};
use ringlite_tests::history::History;
use ringlite_tests::lone_node::LoneNode;
use ringlite_tests::nodes::{Nodes, wait_until};
use ringlite_tests::process;
use ringlite_tests::recovery::{self, Written};
use rustix::process::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DISK_BYTES: usize = 128 << 20;
const AUTHORS: u64 = 2;
/// The node is stopped or killed between two of them.
const PHASES: usize = 4;
/// Images are looked at side by side, as a node mostly waits for its disk.
const CHECKERS: usize = 3;

/// What was done, what was answered, and what reached the disk.
struct Recorded {
    histories: Vec<History>,
    recording: Recording,
}

#[test]
fn keeps_what_was_acknowledged_and_nothing_in_part() {
    if let Some(why) = disk::missing() {
        println!("NOT CHECKED, no power was lost: {why}");
        return;
    }
    let seed = process::size("POWER_SEED", 1) as u64;
    let workloads = process::size("POWER_WORKLOADS", 1);
    let images_max = process::size("POWER_IMAGES", 200).div_ceil(workloads);
    for seed in seed..seed + workloads as u64 {
        let recorded = record(seed);
        check_images(&recorded, seed, images_max);
    }
}

/// Runs a workload on a node.
fn record(seed: u64) -> Recorded {
    let transactions = process::size("POWER_TRANSACTIONS", 60);
    let disk = Disk::new(DISK_BYTES);
    disk.format();
    disk.device.record();
    let mounted = disk.mount().expect("a new file system can be mounted");
    let data = mounted.path().join("data");
    let mut authors: Vec<_> = (0..AUTHORS)
        .map(|author| Author::new(&format!("a{author}-"), seed.wrapping_mul(AUTHORS) + author))
        .collect();
    for phase in 0..PHASES {
        let mut node = LoneNode::spawn(&[PROGRAM, "serve"], &data, phase);
        if let Err(finished) = node.wait_until_it_serves() {
            panic!("the node does not start: {finished:?}");
        }
        thread::scope(|scope| {
            for author in &mut authors {
                scope.spawn(|| {
                    author
                        .write(|| node.client(), &disk.device, transactions / PHASES)
                        .unwrap_or_else(|error| panic!("{error}: {}", node.words()));
                });
            }
        });
        if phase % 2 == 0 {
            drop(node);
        } else {
            let finished = node.stop();
            assert_eq!(finished.code, Some(0), "{finished:?}");
        }
    }
    drop(mounted);
    Recorded {
        histories: authors.into_iter().map(Author::into_history).collect(),
        recording: disk.device.take_recording(),
    }
}

/// Looks at the disks that a loss of power can leave.
fn check_images(recorded: &Recorded, seed: u64, images_max: usize) {
    let subsets = process::size("POWER_SUBSETS", 2);
    let recording = &recorded.recording;
    let images_in = |unsynced: usize| 1 + if unsynced == 0 { 0 } else { subsets };
    let possible: usize = recording
        .stretches()
        .map(|stretch| images_in(stretch.unsynced_writes()))
        .sum();
    let (sender, receiver) = flume::bounded::<Case>(CHECKERS);
    let (looked_at, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        for core in 0..CHECKERS {
            let (receiver, looked_at, failures) = (receiver.clone(), &looked_at, &failures);
            scope.spawn(move || {
                let checker = Checker {
                    disk: Disk::new(DISK_BYTES),
                    core,
                    histories: recorded.histories.iter().collect(),
                };
                for case in receiver {
                    let (images, verdict) = checker.check(&case);
                    looked_at.fetch_add(images, Ordering::Relaxed);
                    if let Err(what) = verdict {
                        failures.fetch_add(1, Ordering::Relaxed);
                        let kept = keep(&case.image, &case.name);
                        eprintln!("{}, kept as {kept}: {what}", case.name);
                    }
                }
            });
        }
        // So that sending fails, and does not wait, once all checkers have panicked.
        drop(receiver);
        let mut chance = Rng::with_seed(seed);
        for (number, stretch) in recording.stretches().enumerate() {
            for subset in 0..images_in(stretch.unsynced_writes()) {
                if chance.usize(0..possible) >= images_max {
                    continue;
                }
                let case = Case {
                    image: match subset {
                        0 => stretch.durable().clone(),
                        _ => stretch.random_image(&mut chance),
                    },
                    end: stretch.end,
                    name: format!("power-loss-{seed}-{number}-{subset}"),
                    twice: chance.u8(0..4) == 0,
                    chance: chance.fork(),
                };
                // A checker that is gone has panicked, which ends the scope with its panic.
                let _ = sender.send(case);
            }
        }
        drop(sender);
    });
    let (looked_at, failures) = (looked_at.into_inner(), failures.into_inner());
    let acknowledged: usize = recorded.histories.iter().map(History::acknowledged).sum();
    println!(
        "seed {seed}: {acknowledged} acknowledged transactions, {} writes and flushes, {} MiB, \
         {looked_at} images in {:.1} s ({possible} possible from one loss of power), \
         {failures} failures",
        recording.end(),
        recording.written_bytes() >> 20,
        start.elapsed().as_secs_f64(),
    );
    assert_eq!(failures, 0, "of {looked_at} images");
    assert!(looked_at > 0, "no image was looked at");
}

/// A disk that a loss of power has left.
struct Case {
    image: Image,
    /// When that was.
    end: Position,
    name: String,
    /// Whether the power fails again while a node makes good what the first time has left.
    twice: bool,
    chance: Rng,
}

/// Looks at disks, one after the other.
struct Checker<'a> {
    disk: Disk,
    core: usize,
    histories: Vec<&'a History>,
}

impl Checker<'_> {
    /// Checks a case, and says at how many images it has looked.
    fn check(&self, case: &Case) -> (usize, Result<(), String>) {
        self.disk.device.set_image(case.image.clone());
        if !case.twice {
            return (1, self.recover(case.end).map(drop));
        }
        self.disk.device.record();
        let written = match self.recover(case.end) {
            Ok(written) => written,
            Err(what) => return (1, Err(what)),
        };
        let again = self.disk.device.take_recording();
        let mut chance = case.chance.clone();
        let number = chance.usize(0..again.stretches().count());
        let Some(stretch) = again.stretches().nth(number) else {
            return (1, Ok(()));
        };
        self.disk
            .device
            .set_image(stretch.random_image(&mut chance));
        let verdict = self.recover(case.end).and_then(|again| match stretch.end {
            end if end >= written.position && again.rows < 2 => {
                Err("the first write after the recovery is lost".to_owned())
            }
            _ => Ok(()),
        });
        let second = |what| format!("when the power failed again, in stretch {number}: {what}");
        (2, verdict.map_err(second))
    }

    fn recover(&self, end: Position) -> Result<Written, String> {
        recovery::check(PROGRAM, &self.disk, self.core, &self.histories, end)
    }
}

const ARRIVES: &str = "goes on at file";
const INSTALLED: &str = "was installed";
/// Its leader is the first node.
const LEADER: usize = 0;
/// Accounts, over some twenty pages of the file.
const ACCOUNTS: i64 = 300;
/// Steps that the member has before it is away, and that it misses.
const STEPS: i64 = 200;
/// So many of the newest steps, at the most, come to the member by the log.
const LATEST_STEPS: i64 = 100;
/// So many are in the log of the member alone when it goes away.
const STEPS_IN_LOG: u64 = 5;
/// What a member answers of its own copy: whatever state that is, the three belong together.
const WHOLE: &str = "SELECT (SELECT n FROM steps), sum(moves), sum(cents) FROM accounts";

/// Moves money, each time in one transaction and on pages that lie apart.
fn write_steps(nodes: &Nodes, steps: i64) {
    let mut client = nodes.leader();
    client.open("d").unwrap();
    for _ in 0..steps {
        let [from, to] = [(); 2].map(|()| fastrand::i64(1..=ACCOUNTS));
        let cents = fastrand::i64(1..1_000);
        let change = |account, cents| {
            format!(
                "UPDATE accounts SET moves = moves + 1, cents = cents + {cents} WHERE id = {account}"
            )
        };
        let (take, give) = (change(from, -cents), change(to, cents));
        let step = format!("BEGIN; {take}; {give}; UPDATE steps SET n = n + 1; COMMIT");
        client.execute(&step, &[]).unwrap();
    }
}

/// Up to which entry the first database of a node is in its file, by its manifest (docs/FORMAT.md).
fn filed(data: &Path) -> u64 {
    let manifest = std::fs::read(data.join("shard-0/manifest.a")).unwrap();
    let configuration_bytes = u32::from_le_bytes(manifest[76..80].try_into().unwrap());
    let at = 96 + configuration_bytes as usize + 8;
    u64::from_le_bytes(manifest[at..at + 8].try_into().unwrap())
}

/// Behind which entry the log of a node begins, which is down, by the newest copy of its manifest.
fn base(data: &Path) -> u64 {
    let mut command = Command::new(PROGRAM);
    command.arg("inspect").arg(data);
    let said = process::run(&mut command, b"", Duration::from_secs(30)).succeeded();
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    let copies = found["manifest"].as_array().unwrap().iter();
    let good = copies.filter_map(|copy| copy.get("good"));
    let newest = good.max_by_key(|copy| copy["sequence"].as_u64()).unwrap();
    newest["base"]["index"].as_u64().unwrap()
}

/// Asks a member for its own copy: the number of steps that it has, or `None` if it does not answer.
///
/// # Panics
/// If what it says is of no state that there ever was.
fn steps_at(address: &str) -> Option<i64> {
    let read = |mut node: Client| node.query_at(ReadLevel::LOCAL, "d", WHOLE);
    match Client::connect_to(address).and_then(read) {
        Ok(answer) => {
            let [row] = answer.rows.as_slice() else {
                panic!("not one row: {:?}", answer.rows);
            };
            let Value::Integer(steps) = row[0] else {
                panic!("no number of steps: {row:?}");
            };
            let expected = [steps, 2 * steps, 0].map(Value::Integer);
            assert_eq!(row[..], expected, "half a state was shown");
            Some(steps)
        }
        Err(error) => {
            let words = error.to_string();
            let is_wrong = ["malformed", "damaged", "corrupt", "disk I/O"];
            let is_wrong = is_wrong.iter().any(|word| words.contains(word));
            assert!(!is_wrong, "{words}");
            None
        }
    }
}

/// A member that was away for too long gets a snapshot, and loses its power somewhere between its start
/// and the time when it has everything. It comes back as it was before, or with all of the snapshot, and
/// catches up either way.
#[test]
fn a_member_that_installs_a_snapshot_has_what_it_had_or_all_of_it() {
    if let Some(why) = disk::missing() {
        println!("NOT CHECKED, no power was lost: {why}");
        return;
    }
    let images_max = process::size("INSTALL_IMAGES", 20);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The window is less than the member will miss, and more than it needs behind the snapshot: a
    // second one would hide what is wrong with the first.
    let arguments = ["--wal-kib", "1024", "--log-window-mib", "1"];
    let mut nodes = Nodes::start(PROGRAM, directory.path(), &arguments);
    let mut client = nodes.leader();
    client.open("d").unwrap();
    client
        .execute(
            &format!(
                "CREATE TABLE steps (n); INSERT INTO steps VALUES (0); \
                 CREATE TABLE accounts (id INTEGER PRIMARY KEY, moves, cents, note); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {ACCOUNTS}) \
                 INSERT INTO accounts SELECT i, 0, 0, hex(randomblob(120)) FROM n"
            ),
            &[],
        )
        .unwrap();
    let disk = Disk::new(DISK_BYTES);
    disk.format();
    let mounted = disk.mount().expect("a new file system can be mounted");
    let member = nodes.add(str::to_owned);
    nodes.nodes[member].data = mounted.path().join("data");
    nodes.join_as(member);
    nodes.wait_for_roles([1, 1, 0]);
    write_steps(&nodes, STEPS);
    // The member's log has steps that its file has not, so that a restart puts the two together.
    loop {
        write_steps(&nodes, 1);
        nodes.assert_identical("d");
        let last = nodes.leader().digest("d", 0).unwrap().applied;
        if filed(&nodes.nodes[member].data) + STEPS_IN_LOG <= last {
            break;
        }
    }
    let old = steps_at(&nodes.nodes[member].address).unwrap();
    let old_end = nodes.leader().digest("d", 0).unwrap().applied;
    nodes.kill(member);
    drop(mounted);
    write_steps(&nodes, STEPS);
    disk.device.record();
    let mounted = disk.mount().unwrap();
    let said_before = [ARRIVES, INSTALLED].map(|what| nodes.words(member).matches(what).count());
    nodes.restart(member);
    let [begin, end] = [0, 1].map(|at| {
        wait_until("installed", || {
            let words = nodes.words(member);
            let said = words.matches([ARRIVES, INSTALLED][at]).count();
            (said > said_before[at]).then_some(()).ok_or(words)
        });
        disk.device.position()
    });
    nodes.assert_identical("d");
    nodes.kill(member);
    drop(mounted);
    let recording = disk.device.take_recording();

    let new = old + STEPS;
    let stretches = recording.stretches().count();
    let mut chance = Rng::with_seed(process::size("POWER_SEED", 1) as u64);
    let (mut looked_at, mut first_seen_old, mut first_seen_new) = (0, 0, 0);
    let mut in_between = 0;
    let start = Instant::now();
    let mut before = 0;
    for (number, stretch) in recording.stretches().enumerate() {
        let is_during = stretch.end > begin && before < end;
        before = stretch.end;
        in_between += usize::from(is_during);
        for subset in 0..2 {
            let is_chosen = is_during || chance.usize(0..2 * stretches) < images_max;
            if !is_chosen || (subset > 0 && stretch.unsynced_writes() == 0) {
                continue;
            }
            let image = match subset {
                0 => stretch.durable().clone(),
                _ => stretch.random_image(&mut chance),
            };
            disk.device.set_image(image.clone());
            let mounted = disk.mount().unwrap();
            // Before the switch it has to have what it had by itself: a leader would send it all anew.
            let is_before = base(&nodes.nodes[member].data) <= old_end;
            if is_before {
                nodes.signal(LEADER, Signal::STOP);
            }
            nodes.restart(member);
            let address = nodes.nodes[member].address.clone();
            let name = format!("install-{number}-{subset}");
            let mut first_seen = None;
            let caught_up = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                if is_before {
                    let alone = || steps_at(&address).ok_or_else(|| nodes.words(member));
                    let seen = wait_until("as it was, without a leader", alone);
                    first_seen = Some(seen);
                    nodes.signal(LEADER, Signal::CONT);
                    assert!(seen <= old, "{seen} steps, and the switch was not made");
                }
                wait_until(&name, || {
                    let seen = steps_at(&address);
                    first_seen = first_seen.or(seen);
                    // The newest steps of either life may be known only when the leader speaks.
                    let news = new - LATEST_STEPS..=new;
                    let is_whole = seen.is_none_or(|seen| seen <= old || news.contains(&seen));
                    assert!(is_whole, "{seen:?} steps, in place of {old} or {new}");
                    (seen == Some(new))
                        .then_some(())
                        .ok_or_else(|| nodes.words(member))
                });
                nodes.assert_identical("d");
            }));
            if let Err(panic) = caught_up {
                eprintln!("{name}, kept as {}", keep(&image, &name));
                std::panic::resume_unwind(panic);
            }
            let is_old = first_seen.is_some_and(|seen| seen <= old);
            assert_eq!(is_old, is_before, "{name}: {first_seen:?} steps");
            first_seen_old += usize::from(is_old);
            first_seen_new += usize::from(!is_old);
            looked_at += 1;
            nodes.kill(member);
            drop(mounted);
        }
    }
    println!(
        "{looked_at} images of {stretches} stretches between flushes ({in_between} of them while it came \
         and was installed) in {:.1} s: the member's first \
         answer was as before {first_seen_old} times, and of all of the snapshot {first_seen_new} times",
        start.elapsed().as_secs_f64(),
    );
    assert!(in_between > 5, "the switch alone takes more flushes");
    assert!(
        first_seen_old > 0 && first_seen_new > 0,
        "one side of the switch"
    );
}

/// Keeps an image in a file, and says where.
fn keep(image: &Image, name: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match std::fs::write(&path, image.read(0, image.bytes())) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("nothing ({error})"),
    }
}

//! Faults of a node's disk, one at each place: the N-th write, flush or read fails, once or from
//! then on; the disk is full after so many bytes; a write is cut short. Nothing that was acknowledged
//! may be lost; the node goes on, or stops with one sentence; and on a healthy disk it comes back.
//!
//! `FAULT_STEP` sets the step from one N to the next (16 unless told; 1 is the full size),
//! `FAULT_TRANSACTIONS` how long the client goes on (24).
//!
//! ext4 reacts to faults, too: it is mounted as `errors=remount-ro`, so that after a failed write
//! of its own metadata the node finds a read-only file system. That is taken as it is.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ringlite::ClientError;
use ringlite_tests::author::Author;
use ringlite_tests::disk::{self, Disk, Fault, Image, Operation};
use ringlite_tests::history::History;
use ringlite_tests::lone_node::LoneNode;
use ringlite_tests::{process, recovery};
use rustix::fs::FallocateFlags;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DISK_BYTES: usize = 96 << 20;
const SEGMENT_BYTES: u64 = 4 << 20;
/// How long a node whose disk has failed may take to go on, or to stop.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);
/// The node makes segments ahead of need behind the first requests.
const RESERVE_TIME: Duration = Duration::from_millis(300);
const SEED: u64 = 7;

/// What a fault did to a node.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It served on.
    WentOn,
    /// It stopped, and said why.
    Stopped(String),
    /// It did not start, and said why.
    NotStarted(String),
    /// The kernel did not mount the file system, so that there was no node.
    NotMounted,
}

/// A disk on which a node has worked before any fault.
struct Scene {
    disk: Disk,
    before: Image,
    history: History,
}

impl Scene {
    /// None if this machine cannot have such a disk, which is said.
    fn new() -> Option<Self> {
        if let Some(why) = disk::missing() {
            println!("NOT CHECKED, no disk has failed: {why}");
            return None;
        }
        let disk = Disk::new(DISK_BYTES);
        disk.format();
        let mut author = Author::new("before-", SEED);
        let mounted = disk.mount().expect("a healthy disk is mounted");
        let mut node = LoneNode::spawn(&[PROGRAM, "serve"], &mounted.path().join("data"), 0);
        node.wait_until_it_serves()
            .expect("a node on a healthy disk serves");
        author
            .write(|| node.client(), &disk.device, transactions())
            .expect("a node on a healthy disk takes writes");
        assert_eq!(node.stop().code, Some(0));
        drop(mounted);
        Some(Self {
            before: disk.device.image(),
            history: author.into_history(),
            disk,
        })
    }

    /// Runs a node with a client of its own while `break_disk` has made the disk unfit, and then,
    /// mended by `mend_disk`, checks that nothing is lost.
    fn live_through(
        &self,
        trial: &Trial<'_>,
        break_disk: impl Fn(When<'_>),
        mend_disk: impl Fn(&Path),
    ) -> Outcome {
        let Trial { name, seed, .. } = trial;
        let device = &self.disk.device;
        device.set_image(self.before.clone());
        device.record();
        let mut author = Author::new("during-", *seed);
        break_disk(When::BeforeMount);
        let mounted = self.disk.mount().ok();
        let outcome = match &mounted {
            None => Outcome::NotMounted,
            Some(mounted) => {
                break_disk(When::Mounted(mounted.path()));
                let mut node = LoneNode::spawn(trial.command, &mounted.path().join("data"), 0);
                let outcome = match node.wait_until_it_serves() {
                    Err(finished) => Outcome::NotStarted(finished.refusal().to_owned()),
                    Ok(_) => {
                        break_disk(When::Serving(&node));
                        match author.write(|| node.client(), device, trial.transactions) {
                            Ok(()) => Outcome::WentOn,
                            Err(error) => decision(&mut node, name, &error),
                        }
                    }
                };
                if outcome == Outcome::WentOn {
                    let finished = node.stop();
                    if finished.code != Some(0) {
                        finished.refusal();
                    }
                }
                outcome
            }
        };
        device.set_fault(None);
        if let Some(mounted) = &mounted {
            mend_disk(mounted.path());
        }
        drop(mounted);
        let recording = device.take_recording();
        // What was not flushed may be lost on top of it.
        let mut chance = Rng::with_seed(*seed);
        if chance.bool()
            && let Some(stretch) = recording.stretches().last()
        {
            device.set_image(stretch.random_image(&mut chance));
        }
        let histories = [&self.history, author.history()];
        if let Err(what) = recovery::check(PROGRAM, &self.disk, 0, &histories, recording.end()) {
            panic!("{name}, after {outcome:?}: on the mended disk: {what}");
        }
        outcome
    }

    /// Lets the N-th operation fail, for N = 1, 2, ... until none fails any more.
    fn each_place(&self, operation: Operation, for_ever: bool) {
        let mut tally = Tally::default();
        let step = process::size("FAULT_STEP", 16);
        for nth in (1..).step_by(step) {
            let fault = Fault {
                operation,
                nth,
                for_ever,
            };
            let is_read = operation == Operation::Read;
            let outcome = self.live_through(
                &Trial {
                    name: format!("{fault:?}"),
                    command: &[PROGRAM, "serve"],
                    seed: nth as u64,
                    transactions: transactions(),
                },
                |when| match when {
                    When::BeforeMount if is_read => self.disk.device.set_fault(Some(fault)),
                    When::Mounted(_) if !is_read => self.disk.device.set_fault(Some(fault)),
                    _ => {}
                },
                |_| {},
            );
            if self.disk.device.faults_done() == 0 {
                assert_eq!(outcome, Outcome::WentOn, "without a fault");
                break;
            }
            tally.add(outcome);
        }
        tally.report(&format!("{operation:?}, for ever: {for_ever}, step {step}"));
    }
}

/// A node that is to meet a fault.
struct Trial<'a> {
    name: String,
    /// How it is run.
    command: &'a [&'a str],
    /// Of its client, and of what is lost.
    seed: u64,
    transactions: usize,
}

/// When a disk can be made unfit.
enum When<'a> {
    BeforeMount,
    Mounted(&'a Path),
    Serving(&'a LoneNode),
}

fn transactions() -> usize {
    process::size("FAULT_TRANSACTIONS", 24)
}

/// What a node does after it has failed a request: it stops, or it takes writes again.
fn decision(node: &mut LoneNode, name: &str, error: &ClientError) -> Outcome {
    let deadline = Instant::now() + DECISION_TIMEOUT;
    loop {
        if let Some(finished) = node.finished() {
            return Outcome::Stopped(finished.refusal().to_owned());
        }
        let write = || {
            let mut client = node.client()?;
            client.open("decision")?;
            client.execute("CREATE TABLE IF NOT EXISTS t (a)", &[])?;
            client.execute("INSERT INTO t VALUES (1)", &[])
        };
        let again = match write() {
            Ok(_) => return Outcome::WentOn,
            Err(again) => again,
        };
        assert!(
            Instant::now() < deadline,
            "{name}: the client was told: {error}; and later: {again}; but the node neither goes \
             on nor stops: {}",
            node.words()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// How often each outcome was seen, and what the nodes said.
#[derive(Default)]
struct Tally {
    went_on: usize,
    stopped: usize,
    not_started: usize,
    not_mounted: usize,
    sentences: BTreeSet<String>,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::WentOn => self.went_on += 1,
            Outcome::NotMounted => self.not_mounted += 1,
            Outcome::Stopped(sentence) => {
                self.stopped += 1;
                self.sentences.insert(sentence);
            }
            Outcome::NotStarted(sentence) => {
                self.not_started += 1;
                self.sentences.insert(sentence);
            }
        }
    }

    fn report(&self, name: &str) {
        println!(
            "{name}: the node went on {} times, stopped {}, did not start {}; not mounted {}",
            self.went_on, self.stopped, self.not_started, self.not_mounted
        );
        for sentence in &self.sentences {
            println!("    {sentence}");
        }
        assert!(
            !self.sentences.iter().any(|said| said.contains("no leader")),
            "{name}: a node that is alone looks for others instead of telling what failed"
        );
        let faults = self.went_on + self.stopped + self.not_started + self.not_mounted;
        assert!(faults > 0, "{name}: nothing has failed");
    }
}

#[test]
fn of_each_write_once() {
    if let Some(scene) = Scene::new() {
        scene.each_place(Operation::Write, false);
    }
}

#[test]
fn of_each_write_and_all_that_follows() {
    if let Some(scene) = Scene::new() {
        scene.each_place(Operation::Write, true);
    }
}

#[test]
fn of_each_flush_once() {
    if let Some(scene) = Scene::new() {
        scene.each_place(Operation::Flush, false);
    }
}

#[test]
fn of_each_flush_and_all_that_follows() {
    if let Some(scene) = Scene::new() {
        scene.each_place(Operation::Flush, true);
    }
}

#[test]
fn of_each_read_once() {
    if let Some(scene) = Scene::new() {
        scene.each_place(Operation::Read, false);
    }
}

#[test]
fn of_each_read_and_all_that_follows() {
    if let Some(scene) = Scene::new() {
        scene.each_place(Operation::Read, true);
    }
}

#[test]
fn of_a_full_disk() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mut tally = Tally::default();
    let step = process::size("FAULT_STEP", 16) as u64 * (64 << 10);
    for free in (0..3 * SEGMENT_BYTES).step_by(step as usize) {
        let outcome = scene.live_through(
            &Trial {
                name: format!("{free} bytes free"),
                command: &[PROGRAM, "serve"],
                seed: free,
                transactions: 4 * transactions(),
            },
            |when| {
                if let When::Mounted(path) = when {
                    fill(path, free);
                }
            },
            |path| std::fs::remove_file(path.join("ballast")).expect("the ballast is removed"),
        );
        tally.add(outcome);
    }
    tally.report("a full disk");
    assert!(tally.stopped + tally.not_started > 0, "no disk was full");
}

/// Fills a file system so that `free` bytes are left.
fn fill(path: &Path, free: u64) {
    let space = rustix::fs::statvfs(path).expect("the file system has a size");
    let length = (space.f_bavail * space.f_frsize).saturating_sub(free);
    let ballast = File::create(path.join("ballast")).expect("the ballast is made");
    rustix::fs::fallocate(&ballast, FallocateFlags::empty(), 0, length).expect("the ballast fits");
    ballast.sync_all().expect("the ballast is written");
}

/// A limit on the length of files cuts a write short that goes over it, as nothing else on a
/// healthy disk does.
#[test]
fn of_a_write_that_is_cut_short() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mut tally = Tally::default();
    let step = process::size("FAULT_STEP", 16) * 5 * 4096;
    for limit in (4096..SEGMENT_BYTES).step_by(step) {
        let limited = format!("--fsize={limit}");
        for from_the_start in [true, false] {
            let ignoring = ["env", "--ignore-signal=XFSZ"];
            let mut command: Vec<&str> = Vec::new();
            if from_the_start {
                command.extend(["prlimit", &limited]);
            }
            command.extend(ignoring.iter().chain(&[PROGRAM, "serve"]));
            let outcome = scene.live_through(
                &Trial {
                    name: format!("files of {limit} bytes, from the start: {from_the_start}"),
                    command: &command,
                    seed: limit,
                    transactions: transactions(),
                },
                |when| {
                    if let When::Serving(node) = when
                        && !from_the_start
                    {
                        thread::sleep(RESERVE_TIME);
                        let process = node.process().to_string();
                        let status = Command::new("prlimit")
                            .args(["--pid", &process, &limited])
                            .status();
                        assert!(status.is_ok_and(|status| status.success()));
                    }
                },
                |_| {},
            );
            tally.add(outcome);
        }
    }
    tally.report("writes cut short");
    assert!(
        tally.stopped > 0,
        "no write of a running node was cut short"
    );
}

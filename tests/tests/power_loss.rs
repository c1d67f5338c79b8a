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

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use fastrand::Rng;
use ringlite_tests::author::Author;
use ringlite_tests::disk::{self, Disk, Image, Position, Recording};
use ringlite_tests::history::History;
use ringlite_tests::lone_node::LoneNode;
use ringlite_tests::process;
use ringlite_tests::recovery::{self, Written};

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

/// Keeps an image in a file, and says where.
fn keep(image: &Image, name: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match std::fs::write(&path, image.read(0, image.bytes())) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("nothing ({error})"),
    }
}

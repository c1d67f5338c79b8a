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
use std::time::{Duration, Instant};

use fastrand::Rng;
use ringlite::Value;
use ringlite_tests::disk::{self, Device, Disk, Image, Position, Recording};
use ringlite_tests::history::{self, History, Twin};
use ringlite_tests::lone_node::LoneNode;
use ringlite_tests::process::{self, Finished};
use ringlite_tests::workload::{Action, Workload};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");
const DISK_BYTES: usize = 128 << 20;
const WRITERS: u64 = 2;
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
    let mut writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let workload = Workload::new(seed.wrapping_mul(WRITERS).wrapping_add(writer));
            (workload, Twin::default(), History::default())
        })
        .collect();
    for phase in 0..PHASES {
        let mut node = LoneNode::spawn(&[PROGRAM, "serve"], &data, phase);
        if let Err(finished) = node.wait_until_it_serves() {
            panic!("the node does not start: {finished:?}");
        }
        thread::scope(|scope| {
            for (writer, (workload, twin, history)) in writers.iter_mut().enumerate() {
                let (node, device) = (&node, &disk.device);
                scope.spawn(move || {
                    let mut session = Session {
                        node,
                        device: device.clone(),
                        writer,
                        twin,
                        history,
                    };
                    session.write(workload, transactions / PHASES);
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
        histories: writers.into_iter().map(|(.., history)| history).collect(),
        recording: disk.device.take_recording(),
    }
}

/// A client of the node at work.
struct Session<'a> {
    node: &'a LoneNode,
    device: Device,
    writer: usize,
    twin: &'a mut Twin,
    history: &'a mut History,
}

impl Session<'_> {
    /// Sends transactions, one after the other.
    fn write(&mut self, workload: &mut Workload, transactions: usize) {
        for _ in 0..transactions {
            thread::sleep(Duration::from_millis(workload.pause_milliseconds()));
            let mut client = self.node.client().expect("the node takes connections");
            match workload.next_action() {
                Action::Create(database) => {
                    let name = self.name(database);
                    let content = self.twin.create(&name);
                    self.history.submit(&name, content, self.device.position());
                    client.open(&name).expect("a database is created");
                }
                Action::Transact(database, statements) => {
                    let name = self.name(database);
                    let content = self.twin.execute(&name, &statements);
                    client.open(&name).expect("a database is opened");
                    self.history.submit(&name, content, self.device.position());
                    for statement in statements {
                        client
                            .execute(&statement.sql, &statement.parameters)
                            .unwrap_or_else(|error| panic!("{}: {error}", statement.sql));
                    }
                }
            }
            self.history.acknowledge(self.device.position());
        }
    }

    fn name(&self, database: usize) -> String {
        format!("w{}-{database}", self.writer)
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
    let (sender, receiver) = flume::bounded::<(Image, Position, String)>(CHECKERS);
    let (looked_at, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        for checker in 0..CHECKERS {
            let (receiver, looked_at, failures) = (receiver.clone(), &looked_at, &failures);
            scope.spawn(move || {
                let disk = Disk::new(DISK_BYTES);
                for (image, end, name) in receiver {
                    looked_at.fetch_add(1, Ordering::Relaxed);
                    if let Err(what) = check(&disk, checker, &image, recorded, end) {
                        failures.fetch_add(1, Ordering::Relaxed);
                        let kept = keep(&image, &name);
                        eprintln!("{name}, kept as {kept}: {what}");
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
                let image = match subset {
                    0 => stretch.durable().clone(),
                    _ => stretch.random_image(&mut chance),
                };
                let name = format!("power-loss-{seed}-{number}-{subset}");
                // A checker that is gone has panicked, which ends the scope with its panic.
                let _ = sender.send((image, stretch.end, name));
            }
        }
        drop(sender);
    });
    let (looked_at, failures) = (looked_at.into_inner(), failures.into_inner());
    let acknowledged: usize = recorded.histories.iter().map(History::acknowledged).sum();
    println!(
        "seed {seed}: {acknowledged} acknowledged transactions, {} writes and flushes, {} MiB, \
         {looked_at} of {possible} images in {:.1} s, {failures} failures",
        recording.end(),
        recording.written_bytes() >> 20,
        start.elapsed().as_secs_f64(),
    );
    assert_eq!(failures, 0, "of {looked_at} images");
    assert!(looked_at > 0, "no image was looked at");
}

/// Starts a node on an image, looks at what it has, lets it write, and does so once more.
fn check(
    disk: &Disk,
    core: usize,
    image: &Image,
    recorded: &Recorded,
    end: Position,
) -> Result<(), String> {
    disk.device.set_image(image.clone());
    let mounted = disk
        .mount()
        .map_err(|error| format!("the file system cannot be mounted: {error}"))?;
    let data = mounted.path().join("data");
    let mut node = serve(&data, core)?;
    let names = recorded.histories.iter().flat_map(History::databases);
    let found = history::observe(|| node.client(), names)?;
    for history in &recorded.histories {
        history
            .check(&found, end)
            .map_err(|difference| difference.to_string())?;
    }
    serves_on(&mut node)
}

fn serve(data: &Path, core: usize) -> Result<LoneNode, String> {
    let mut node = LoneNode::spawn(&[PROGRAM, "serve"], data, core);
    match node.wait_until_it_serves() {
        Ok(_) => Ok(node),
        Err(Finished { code, stderr, .. }) => Err(format!("it ended with {code:?}: {stderr}")),
    }
}

/// Whether the node takes a write.
fn serves_on(node: &mut LoneNode) -> Result<(), String> {
    let write = || {
        let mut client = node.client()?;
        client.open("after")?;
        client.execute("CREATE TABLE IF NOT EXISTS t (a)", &[])?;
        client.execute("INSERT INTO t VALUES (?)", &[Value::Integer(1)])
    };
    match write() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("it does not write: {error}: {}", node.words())),
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

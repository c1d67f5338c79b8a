//! A node with work keeps the machine's cores awake, and an idle one lets them sleep.

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

use ringlite::{Node, params};

/// The kernel's answer to a reader is the least of all requests, in us.
#[expect(
    clippy::host_endian_bytes,
    reason = "the kernel gives an int as this machine has it"
)]
fn latency_asked_for() -> i32 {
    let mut value = [0; 4];
    let mut device = File::open("/dev/cpu_dma_latency").unwrap();
    device.read_exact(&mut value).unwrap();
    i32::from_ne_bytes(value)
}

/// Waits for an answer of the kernel's; other programs of the machine may make requests, too.
fn becomes(what: &str, holds: impl Fn(i32) -> bool) {
    let begun = Instant::now();
    while !holds(latency_asked_for()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "never {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn cores_are_awake_while_there_is_work() {
    if let Err(error) = File::options().write(true).open("/dev/cpu_dma_latency") {
        println!("not run: no requests can be made here: {error}");
        return;
    }
    becomes("asleep before the node", |asked| asked > 0);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::builder(directory.path()).start().unwrap();
    let database = node.database("work").unwrap();
    database.execute("CREATE TABLE t (a)", params![]).unwrap();
    assert_eq!(latency_asked_for(), 0, "right after a commit");
    becomes("asleep after a commit", |asked| asked > 0);
    database
        .execute("INSERT INTO t VALUES (1)", params![])
        .unwrap();
    assert_eq!(latency_asked_for(), 0, "right after another one");
    becomes("asleep again", |asked| asked > 0);
    node.stop().unwrap();

    let builder = Node::builder(directory.path()).save_power(true);
    let node = builder.start().unwrap();
    let database = node.database("work").unwrap();
    database
        .execute("INSERT INTO t VALUES (2)", params![])
        .unwrap();
    assert!(latency_asked_for() > 0, "while power is saved");
    node.stop().unwrap();
}

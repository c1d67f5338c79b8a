//! What a commit costs here. Run with `--release -- --ignored --nocapture --test-threads=1`.

mod common;

use std::time::{Duration, Instant};

use common::Node;
use ringlite_vfs::PageSize;

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_nanos() as f64 / 1000.0;
    let sum: Duration = times.iter().sum();
    let mean = sum.as_nanos() as f64 / 1000.0 / times.len() as f64;
    println!(
        "{name}: p50 {:.2} us, mean {mean:.2}, p99 {:.2}",
        at(50),
        at(99)
    );
}

#[test]
#[ignore = "measures, checks nothing"]
fn of_an_insert_its_capture_and_its_apply() {
    let node = Node::new();
    let database = node.leader();
    let replica = node.database("replica.db", PageSize::DEFAULT);
    let sql = database.connect().unwrap();
    sql.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    let mut insert = sql.prepare("INSERT INTO t (b) VALUES (?1)").unwrap();
    let (mut inserts, mut empty, mut applies, mut pages) = (vec![], vec![], vec![], 0);
    for row in 0..100_000 {
        let start = Instant::now();
        insert.execute([row]).unwrap();
        let capture = database.take_capture().unwrap();
        let done = Instant::now();
        std::hint::black_box(database.take_capture());
        let none = Instant::now();
        pages += capture.pages.len();
        replica.apply(&capture.pages, capture.page_count).unwrap();
        applies.push(none.elapsed());
        inserts.push(done - start);
        empty.push(none - done);
    }
    report("insert and capture", inserts);
    report("capture of nothing", empty);
    report("apply", applies);
    println!(
        "pages per commit: {:.2}",
        f64::from(pages as u32) / 100_000.0
    );
    let mut connects = vec![];
    for _ in 0..200 {
        let start = Instant::now();
        drop(database.connect().unwrap());
        connects.push(start.elapsed());
    }
    report("connect and close", connects);
    drop(insert);
    let to = replica.commit_point();
    let start = Instant::now();
    replica.roll_back(&to).unwrap();
    println!(
        "roll back at frame {}: {:?}",
        to.position.frame,
        start.elapsed()
    );
}

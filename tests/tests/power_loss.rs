//! Power loss.
use ringlite_tests::disk::{Disk, Event};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::Instant;

#[test]
fn experiment() {
    let t = Instant::now();
    let disk = Disk::new(64 << 20);
    println!("new {:?}", t.elapsed());
    let t = Instant::now();
    disk.format();
    println!("format {:?}", t.elapsed());
    for _ in 0..3 {
        let t = Instant::now();
        let mounted = disk.mount().unwrap();
        println!("mount {:?}", t.elapsed());
        disk.device.record();
        let file = std::fs::File::options().create(true).write(true).custom_flags(0o40000 | 0o10000).open(mounted.path().join("f")).unwrap();
        let v = vec![7u8; 3 * 4096];
        let at = v.as_ptr().align_offset(4096);
        file.write_all_at(&v[at..at + 4096], 0).unwrap();
        let p0 = disk.device.position();
        let t = Instant::now();
        for _ in 0..100 { file.write_all_at(&v[at..at + 4096], 0).unwrap(); }
        println!("write {:?}", t.elapsed() / 100);
        drop(file);
        let p1 = disk.device.position();
        let t = Instant::now();
        drop(mounted);
        println!("unmount {:?}", t.elapsed());
        let r = disk.device.take_recording();
        println!("{p0} {p1} {}", r.end());
        if true { for s in r.stretches().take(12) { println!("stretch {} writes end {}", s.unsynced_writes(), s.end); } }
        let _ = Event::Flush;
    }
}

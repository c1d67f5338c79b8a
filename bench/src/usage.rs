//! What a process has used of the machine, as the kernel counts it.

use std::io;
use std::time::Duration;

/// What a process has used since it started, with all its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time on the cores.
    pub(crate) cpu: Duration,
    /// Bytes that it handed to disks: direct writes as they are, buffered ones when it dirtied
    /// their pages. What a file system writes for itself is not in it.
    pub(crate) written_bytes: u64,
    /// Memory that is resident now.
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// That of process `process`.
    pub(crate) fn of(process: u32) -> io::Result<Self> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}"));
        let strange = |file: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{process}/{file} is not as documented"),
            )
        };
        let ticks = cpu_ticks(&read("stat")?).ok_or_else(|| strange("stat"))?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Ok(Self {
            cpu: Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64),
            written_bytes: written_bytes(&read("io")?).ok_or_else(|| strange("io"))?,
            resident_bytes: resident_pages(&read("statm")?).ok_or_else(|| strange("statm"))?
                * rustix::param::page_size() as u64,
        })
    }
}

/// utime and stime, fields 14 and 15 (proc_pid_stat(5)). The name in field 2 may contain anything,
/// but only it contains parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `write_bytes` of proc_pid_io(5).
fn written_bytes(io: &str) -> Option<u64> {
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"));
    line?.trim().parse().ok()
}

/// The second field of proc_pid_statm(5).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 5 0 99 1 2";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("7 (name) S 1"), None);
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn what_this_process_writes_is_counted() {
        let before = Usage::of(std::process::id()).unwrap();
        let file = tempfile::tempfile_in(".").unwrap();
        file.write_all_at(&[7; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let after = Usage::of(std::process::id()).unwrap();
        assert!(after.written_bytes - before.written_bytes >= 1 << 20);
        assert!(after.resident_bytes > 1 << 20);
    }
}

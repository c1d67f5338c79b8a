//! The machine: what it is, and whether it has anything else to do, which spoils every figure.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long it is watched.
const WATCH_TIME: Duration = Duration::from_millis(300);
/// What a desktop or a server without work uses of its cores, with some reserve.
const BUSY_PERCENT_MAX: f64 = 10.0;

/// What is stated about the machine, and about the disk that `directory` is on.
pub(crate) fn described(directory: &Path) -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let processor = field(&read("/proc/cpuinfo"), "model name");
    [
        (
            "processor",
            processor.unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("cores", cores.to_string()),
        (
            "memory",
            field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default(),
        ),
        (
            "kernel",
            read("/proc/sys/kernel/osrelease").trim().to_owned(),
        ),
        ("disk", file_system(directory).unwrap_or_default()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The device and the type of the file system of `directory`, as df(1) tells them.
fn file_system(directory: &Path) -> Option<String> {
    let told = Command::new("df")
        .args(["--output=source,fstype"])
        .arg(directory)
        .output();
    let told = String::from_utf8(told.ok()?.stdout).ok()?;
    let words: Vec<&str> = told.lines().nth(1)?.split_whitespace().collect();
    Some(words.join(", "))
}

/// A warning, if others use the cores while this process sleeps.
///
/// It is not a matter of lost cycles only: a thread that spins on the core of a durable write
/// keeps the kernel from finishing it until the next tick of the scheduler, milliseconds later.
pub(crate) fn warning_if_busy() -> Option<String> {
    let before = Jiffies::now()?;
    std::thread::sleep(WATCH_TIME);
    let percent = Jiffies::now()?.busy_percent_since(&before)?;
    (percent > BUSY_PERCENT_MAX).then(|| {
        format!(
            "other processes used {percent:.0} % of this machine's cores: \
             expect durable writes, and with them all latencies, to be several times slower"
        )
    })
}

/// The time of all cores since the machine was started (proc_stat(5)).
struct Jiffies {
    idle: u64,
    all: u64,
}

impl Jiffies {
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line: `cpu user nice system idle iowait irq softirq steal guest guest_nice`. The
    /// times of guests are in those of users.
    fn parse(stat: &str) -> Option<Self> {
        let times = stat.lines().next()?.strip_prefix("cpu ")?;
        let times: Vec<u64> = times
            .split_whitespace()
            .take(8)
            .map(|time| time.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            idle: times.get(3)? + times.get(4)?,
            all: times.iter().sum(),
        })
    }

    /// `None` if no time has passed.
    fn busy_percent_since(&self, before: &Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let idle = self.idle.saturating_sub(before.idle).min(all);
        Some(100.0 * (all - idle) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_neither_idle_nor_waiting_for_the_disk() {
        let parse = |stat| Jiffies::parse(stat).unwrap();
        let before = parse("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 2 3\n");
        let after = parse("cpu  30 0 20 120 30 0 0 0 25 0\n");
        assert_eq!(after.busy_percent_since(&before), Some(30.0));
        assert_eq!(before.busy_percent_since(&before), None);
        assert!(Jiffies::parse("cpu 1 2\n").is_none());
        assert!(Jiffies::now().is_some());
    }
}

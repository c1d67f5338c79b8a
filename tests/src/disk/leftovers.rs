//! What disks of processes that are gone have left: mounts and loop devices.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;

/// How the directories of all disks begin; the process and a number follow.
const PREFIX: &str = "ringlite-disk-";

/// The directory of this process's disk `number`.
pub(super) fn directory(number: usize) -> PathBuf {
    let process = std::process::id();
    std::env::temp_dir().join(format!("{PREFIX}{process}-{number}"))
}

/// Takes the disks of dead processes away.
pub(super) fn remove() {
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(process) = process
            && !is_alive(process)
        {
            take_away(&entry.path());
        }
    }
}

/// Whether a process runs. One that was killed can wait for ever for a disk that it was to serve.
fn is_alive(process: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn take_away(directory: &Path) {
    let file = directory.join("image");
    // By their file, which has no name any more once it is unmounted.
    let loop_devices = loop_devices_of(&file);
    // Each step is for what a process may have left; what is not there does not matter. Force
    // ends what waits for the process that is gone.
    let _ = rustix::mount::unmount(&file, UnmountFlags::FORCE);
    let _ = rustix::mount::unmount(directory.join("mounted"), UnmountFlags::DETACH);
    for device in loop_devices {
        let _ = Command::new("losetup").arg("--detach").arg(device).status();
    }
    let _ = rustix::mount::unmount(&file, UnmountFlags::DETACH);
    let _ = rustix::mount::unmount(directory, UnmountFlags::DETACH);
    let _ = fs::remove_dir_all(directory);
}

fn loop_devices_of(file: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let is_of_file = |device: &fs::DirEntry| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file"));
        backing.is_ok_and(|backing| Path::new(backing.trim()) == file)
    };
    devices
        .filter(is_of_file)
        .map(|device| Path::new("/dev").join(device.file_name()))
        .collect()
}

//! A disk whose power can fail: a real ext4 on a real block device that records every write and
//! every flush, from which the disk at any moment of its life can be made again, and that fails on
//! demand.
//!
//! ```text
//! the node ── ext4 ── /dev/loopN ── one file of a FUSE file system ── Device, in this process
//! ```
//!
//! The loop device passes each block write on, past the page cache, and each flush as an fsync. It
//! offers a volatile write cache and no forced unit access, so that a durable write is a write and
//! a flush. It needs root, /dev/fuse and loop devices.

mod device;
mod image;
mod leftovers;
mod recording;

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

pub use device::{Device, Fault, Operation};
pub use image::Image;
pub use recording::{Event, Position, Recording, Stretch};

/// How long a file system may stay in use after the last process has left it: the kernel takes an
/// io_uring apart behind a process's end.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// How it is mounted: without what ext4 does for programs that forget to sync. By itself it writes a file's
/// data before its journal tells of the file, and at once when the file is renamed over another one.
const MOUNT_OPTIONS: &CStr = c"data=writeback,noauto_da_alloc";

/// Why there are no such disks on this machine, if that is so.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        Some("this needs root")
    } else if !Path::new("/dev/fuse").exists() {
        Some("this needs /dev/fuse")
    } else if !Path::new("/dev/loop-control").exists() {
        Some("this needs loop devices")
    } else {
        None
    }
}

/// A disk, attached as a block device. Dropping it takes everything away again.
pub struct Disk {
    /// The disk itself: its content, its recording, its faults.
    pub device: Device,
    directory: PathBuf,
    session: Option<BackgroundSession>,
    loop_device: PathBuf,
}

impl Disk {
    /// A disk of `bytes` zeros.
    ///
    /// # Panics
    /// If this machine cannot make one.
    pub fn new(bytes: usize) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        leftovers::remove();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = leftovers::directory(number);
        fs::create_dir_all(directory.join("mounted")).expect("a directory can be made");
        share(&directory);
        let file = directory.join("image");
        fs::write(&file, "").expect("a file can be made");
        let device = Device::new(Image::zeros(bytes));
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("ringlite-disk".into()),
            MountOption::DefaultPermissions,
        ];
        let session = fuser::spawn_mount(device.clone(), &file, &config)
            .unwrap_or_else(|error| panic!("FUSE cannot be mounted: {error}"));
        let mut disk = Self {
            device,
            directory,
            session: Some(session),
            loop_device: PathBuf::new(),
        };
        let shown = run(Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(&file));
        disk.loop_device = PathBuf::from(shown.trim());
        disk
    }

    /// Makes an empty ext4.
    ///
    /// # Panics
    /// If that fails.
    pub fn format(&self) {
        // Everything is written now, so that nothing but the node writes later.
        run(Command::new("mkfs.ext4")
            .args([
                "-q", "-F", "-b", "4096", "-m", "0", "-N", "256", "-J", "size=4",
            ])
            .args(["-e", "remount-ro"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
            .arg(&self.loop_device));
    }

    /// Mounts the file system, which replays its journal.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn mount(&self) -> io::Result<Mounted<'_>> {
        let path = self.directory.join("mounted");
        let deadline = Instant::now() + UNMOUNT_TIMEOUT;
        loop {
            let mounted = rustix::mount::mount(
                &self.loop_device,
                &path,
                "ext4",
                MountFlags::empty(),
                Some(MOUNT_OPTIONS),
            );
            match mounted {
                Ok(()) => break,
                // Some other program is looking at the device.
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Mounted { disk: self, path })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.loop_device.as_os_str().is_empty() {
            run(Command::new("losetup")
                .arg("--detach")
                .arg(&self.loop_device));
        }
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("a disk cannot be taken away: {error}");
        }
        if let Err(error) = rustix::mount::unmount(&self.directory, UnmountFlags::DETACH) {
            eprintln!("{} cannot be unmounted: {error}", self.directory.display());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A file system in use. Dropping it unmounts it.
pub struct Mounted<'a> {
    disk: &'a Disk,
    path: PathBuf,
}

impl Mounted<'_> {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let deadline = Instant::now() + UNMOUNT_TIMEOUT;
        let unmounted = loop {
            match rustix::mount::unmount(&self.path, UnmountFlags::empty()) {
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                other => break other,
            }
        };
        // A file system that is in use elsewhere would be found again, with all that it has in
        // memory, by the next mount: whatever is on the disk then.
        while unmounted.is_ok() && is_claimed(&self.disk.loop_device) {
            assert!(
                Instant::now() < deadline || thread::panicking(),
                "{} is still in use",
                self.disk.loop_device.display()
            );
            thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = unmounted {
            assert!(
                thread::panicking(),
                "{} cannot be unmounted: {error}",
                self.path.display()
            );
            // The first panic tells more. What is left is taken away by the next run.
            let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        }
    }
}

/// Makes what is mounted below a directory go away everywhere when it is unmounted here: a process
/// that makes itself a view of the mounts, as `ip netns exec` does, would keep a copy otherwise.
fn share(directory: &Path) {
    rustix::mount::mount_bind(directory, directory).expect("a directory can be mounted");
    rustix::mount::mount_change(directory, MountPropagationFlags::SHARED)
        .expect("a mount can be shared");
}

/// Whether a file system holds a block device.
fn is_claimed(device: &Path) -> bool {
    let exclusively = rustix::fs::OFlags::EXCL.bits().cast_signed();
    let opened = fs::File::options()
        .read(true)
        .custom_flags(exclusively)
        .open(device);
    opened.is_err()
}

/// Runs a command of the system and gives what it printed.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

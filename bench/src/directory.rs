//! The directories of a run: they go when it ends, also by a signal.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

/// How often a directory is removed again in which a node, which gets the signal later, still
/// makes files.
const REMOVALS: usize = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// The directory of a run, with one in it for each measure.
pub(crate) struct RunDirectory {
    directory: TempDir,
}

impl RunDirectory {
    /// Makes it in `parent`, which is made if it is missing.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        let directory = tempfile::Builder::new()
            .prefix("ringlite-bench-")
            .tempdir_in(parent)?;
        let path = directory.path().to_owned();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                remove(&path);
                // As a shell reports a process that a signal has ended.
                std::process::exit(128 + signal);
            }
        });
        Ok(Self { directory })
    }

    /// Its path.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// A directory for the nodes of one measure, removed with all that is in it after it.
    pub(crate) fn new_part(&self) -> io::Result<TempDir> {
        tempfile::tempdir_in(self.directory.path())
    }
}

fn remove(path: &Path) {
    for _ in 0..REMOVALS {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {}
            _ => return,
        }
        std::thread::sleep(REMOVAL_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_it() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunDirectory::new(&parent.path().join("made")).unwrap();
        let part = run.new_part().unwrap();
        std::fs::write(part.path().join("file"), "content").unwrap();
        remove(&run.path());
        assert!(!run.path().exists());
        drop((part, run));
        assert_eq!(parent.path().join("made").read_dir().unwrap().count(), 0);
    }
}

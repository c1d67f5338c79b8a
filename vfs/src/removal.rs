//! Removal: a database goes, and its name is free at once.

use std::fs::{self, File};
use std::io;

use crate::creation::validate_database_name;
use crate::database::DatabaseInner;
use crate::error::VfsError;
use crate::lock;
use crate::page_sums;
use crate::registration::Vfs;
use crate::sync::atomic::Ordering;

impl Vfs {
    /// Removes a database, its file and its checksums, durably. On return a new one can have the name.
    ///
    /// Connections that are open on it get `SQLITE_IOERR` from whatever they read, write or lock
    /// from now on, as after a roll-back, and can only be closed; its handles answer
    /// [`VfsError::Removed`]. The memory of its WAL is free, but for captured pages. A file that is
    /// not there is no error, so that a removal can be repeated after a crash.
    pub fn remove(&self, name: &str) -> Result<(), VfsError> {
        validate_database_name(name)?;
        // Held to the end, so that nobody opens the name meanwhile.
        let mut databases = lock(&self.inner.databases);
        let open = databases.remove(name).and_then(|open| open.upgrade());
        if let Some(open) = open {
            open.end();
        }
        let directory = &self.inner.options.directory;
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(VfsError::io("remove", &path, source)),
        }
        page_sums::remove(directory, name)?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| VfsError::io("sync", directory, source))
    }
}

impl DatabaseInner {
    /// Makes every handle a dead one.
    fn end(&self) {
        let _act = lock(&self.acts);
        let mut history = lock(&self.history);
        self.removed.store(true, Ordering::Release);
        // What was not captured never will be.
        history.captured = history.committed;
        self.changed.store(false, Ordering::Release);
        let frames = self.epoch().frames.poison_and_take();
        drop(history);
        drop(frames);
    }
}

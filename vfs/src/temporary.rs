//! Temporary files: memory up to a bound, then an unlinked file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells the names of spilled files apart where the file system cannot make unnamed ones.
static SPILLED_FILES: AtomicU64 = AtomicU64::new(0);

/// The content of one temporary file of SQLite (a sorter's run, a statement journal, a temp
/// database). It is gone when this is dropped, and after a crash.
pub(crate) enum TemporaryContent {
    /// Everything so far fits in memory.
    Memory(Vec<u8>),
    /// It was too much for memory.
    Spilled(File),
}

impl TemporaryContent {
    /// An empty file.
    pub(crate) fn new() -> TemporaryContent {
        TemporaryContent::Memory(Vec::new())
    }

    /// Reads at `offset`; what lies beyond the end is zeros. Returns the bytes that were there.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        match self {
            TemporaryContent::Memory(bytes) => {
                let start = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                done = into.len().min(bytes.len() - start);
                into[..done].copy_from_slice(&bytes[start..start + done]);
            }
            TemporaryContent::Spilled(file) => {
                while done < into.len() {
                    match file.read_at(&mut into[done..], offset + done as u64) {
                        Ok(0) => break,
                        Ok(count) => done += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        into[done..].fill(0);
        Ok(done)
    }

    /// Writes at `offset`, which may lie beyond the end. Content that would need more than
    /// `memory_bytes_max` moves to an unlinked file in `directory`.
    pub(crate) fn write(
        &mut self,
        offset: u64,
        from: &[u8],
        memory_bytes_max: usize,
        directory: &Path,
    ) -> io::Result<()> {
        if let TemporaryContent::Memory(bytes) = self {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(from.len());
            if end <= memory_bytes_max {
                if end > bytes.len() {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(from);
                return Ok(());
            }
            let file = unlinked_file(directory)?;
            file.write_all_at(bytes, 0)?;
            *self = TemporaryContent::Spilled(file);
        }
        match self {
            TemporaryContent::Spilled(file) => file.write_all_at(from, offset),
            TemporaryContent::Memory(_) => Ok(()),
        }
    }

    /// Cuts the content at `length`, or extends it with zeros.
    pub(crate) fn truncate(&mut self, length: u64) -> io::Result<()> {
        match self {
            TemporaryContent::Memory(bytes) => {
                // SQLite only shortens. An extension would have to respect the bound.
                bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
                Ok(())
            }
            TemporaryContent::Spilled(file) => file.set_len(length),
        }
    }

    /// The length in bytes.
    pub(crate) fn length(&self) -> io::Result<u64> {
        match self {
            TemporaryContent::Memory(bytes) => Ok(bytes.len() as u64),
            TemporaryContent::Spilled(file) => Ok(file.metadata()?.len()),
        }
    }
}

/// Makes a file in `directory` that has no name.
fn unlinked_file(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let unnamed = rustix::fs::OFlags::TMPFILE.bits() as i32;
    if let Ok(file) = options.clone().custom_flags(unnamed).open(directory) {
        return Ok(file);
    }
    // Not every file system has O_TMPFILE.
    let number = SPILLED_FILES.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("spill-{}-{number}", std::process::id()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_before_and_after_it_spills() {
        let directory = tempfile::tempdir().unwrap();
        let mut content = TemporaryContent::new();
        let mut expected = vec![0u8; 5000];
        for (offset, length, value) in [(0, 100, 1), (900, 100, 2), (50, 100, 3), (4000, 1000, 4)] {
            expected[offset..offset + length].fill(value);
            let bytes = vec![value; length];
            content
                .write(offset as u64, &bytes, 1000, directory.path())
                .unwrap();
            let spilled = matches!(content, TemporaryContent::Spilled(_));
            assert_eq!(spilled, offset == 4000);
            let end = content.length().unwrap() as usize;
            let mut found = vec![9; 5000];
            assert_eq!(content.read(0, &mut found).unwrap(), end);
            assert_eq!(found[..end], expected[..end]);
            assert!(found[end..].iter().all(|byte| *byte == 0));
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        content.truncate(70).unwrap();
        assert_eq!(content.length().unwrap(), 70);
        assert_eq!(content.read(60, &mut [0; 20]).unwrap(), 10);
    }

    #[test]
    fn a_write_fails_if_it_cannot_spill() {
        let mut content = TemporaryContent::new();
        let nowhere = Path::new("/nonexistent/directory");
        assert!(content.write(0, &[1; 10], 5, nowhere).is_err());
        assert!(content.write(0, &[1; 5], 5, nowhere).is_ok());
    }
}

//! Which database a file is of: its id, as an extended attribute of the file.
//!
//! A name can be given to another database, and a node can end between that and its next manifest. It
//! then starts with a file that is newer than what the manifest says of the name. The attribute is there
//! before the file has its name, so that the two never part.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::replica::DatabaseId;

const ATTRIBUTE: &str = "user.ringlite.database";

/// Marks a file that has no name yet. Where the file system has no such attributes, it stays
/// unmarked.
pub(super) fn set(file: &File, id: DatabaseId) -> io::Result<()> {
    let value = id.0.0.to_le_bytes();
    match rustix::fs::fsetxattr(file, ATTRIBUTE, &value, XattrFlags::empty()) {
        Err(error) if error != Errno::NOTSUP => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether a file is marked as that of another database. One without a mark, as a copy has none, is
/// taken for what its name says.
pub(super) fn is_of_another(path: &Path, id: DatabaseId) -> io::Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::getxattr(path, ATTRIBUTE, &mut value) {
        Ok(8) => Ok(u64::from_le_bytes(value) != id.0.0),
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

//! What a run lacks from the disk, fetched by its core.

use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::rc::Rc;

use glommio::io::BufferedFile;
use ringlite_vfs::Missing;

use super::Shard;
use crate::sql::Paused;
use crate::sql::workers::Back;

/// So often the core has something read for a run before the run leaves it: enough for a search in a
/// tree, while a scan goes on where waiting disturbs nobody. Its client is not listened to meanwhile.
const FETCHES_MAX: u8 = 4;

impl Shard {
    /// A run has left the core. If all it lacks is a page, it comes back when the page cache has that:
    /// two changes of the thread would cost about as much as the read.
    pub(super) fn go_on_away(self: &Rc<Self>, mut paused: Paused) {
        match paused.missing() {
            Some(missing) if paused.fetches < FETCHES_MAX => {
                paused.fetches += 1;
                glommio::spawn_local(Rc::clone(self).fetch(paused, missing)).detach();
            }
            _ => self.hand_over(paused),
        }
    }

    async fn fetch(self: Rc<Self>, paused: Paused, missing: Missing) {
        // SAFETY: the descriptor is one of the connection of the paused run, which is in the middle of
        // a read of it, so that it is open for as long as the run is paused, which is longer than this
        // borrows it; it is never closed through this.
        let file = ManuallyDrop::new(unsafe { BufferedFile::from_raw_fd(missing.file) });
        // If this fails, the run's own read does too, and tells its client.
        let _ = file.read_at(missing.offset, missing.bytes).await;
        self.came_back
            .borrow_mut()
            .push_back(Back::WantsCore(paused));
        // Now, and not when its task's turn comes: someone waits for a page that is here.
        self.turn();
    }
}

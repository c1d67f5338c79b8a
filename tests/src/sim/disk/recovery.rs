//! What a start makes of the disk: the real recovery, and what must be true of what it finds.

use ringlite::image::Restart;
use ringlite_raft::{Debt, LogIndex};

use super::medium::{Write, put};
use super::{Disk, Held};
use crate::sim::tally::{Kind, Tally};

impl Disk {
    /// What a start finds. `is_alone`: there is nobody to repair the log from.
    ///
    /// # Errors
    /// The node must not start, and why.
    pub(crate) fn recover(&mut self, is_alone: bool, tally: &mut Tally) -> Result<Restart, String> {
        loop {
            let found = self.image.recover(is_alone);
            let found = found.map_err(|error| error.to_string())?;
            self.staged.is_safe();
            if let Some(switch) = self.switch.take()
                && switch.recovered(&found, &mut self.log)
            {
                self.files.replaced();
            }
            self.check(&found);
            self.log.restart(&found);
            self.manifest = found.manifest.clone();
            if !found.lacks_base || self.replace_base(tally) {
                return Ok(found);
            }
        }
    }

    /// Nothing is lost or changed that was durable, unless the node knows that it owes it.
    fn check(&self, found: &Restart) {
        let entries = found.committed.iter().chain(&found.log.tail);
        let mut entries = entries.map(|entry| (entry.index, Held::of(entry)));
        let base = found.manifest.base.index;
        for (&index, &held) in self.log.durable.range(base.next()..) {
            let is_kept = entries.next() == Some((index, held));
            let end = Debt {
                term: held.term,
                index,
            };
            let is_owed = index > found.log.last && Some(end) <= found.hard_state.debt;
            assert!(
                is_kept || is_owed,
                "recovery lost or changed {index} of {}, which was durable; it found the end {}, and \
                 owes {:?}",
                held.term,
                found.log.last,
                found.hard_state.debt
            );
        }
    }

    /// The log begins with another record of its base; then the manifest says so, then the old segments
    /// go. Returns false if the node is killed in between, and starts again.
    fn replace_base(&mut self, tally: &mut Tally) -> bool {
        let old: Vec<_> = std::fs::read_dir(self.image.log_directory())
            .expect("a directory")
            .map(|file| file.expect("a file").path())
            .collect();
        let killed_after = self.random.below(8);
        let segment = self.log.next_segment(&self.image, false);
        let segment = segment.expect("room for a record");
        let write = Write {
            path: self.image.segment_path(segment),
            offset: 0,
            bytes: self
                .log
                .base_record(&self.image, self.manifest.base, segment),
        };
        if killed_after == 0 {
            write.tear(&mut self.random, tally);
            return false;
        }
        write.perform();
        self.log.base_is_durable();
        if killed_after == 1 {
            return false;
        }
        self.manifest.segment = segment;
        self.manifest.sequence += 1;
        for path in self.image.manifest_paths() {
            put(&path, 0, &self.image.manifest_copy(&self.manifest));
        }
        if killed_after == 2 {
            return false;
        }
        for path in old {
            std::fs::remove_file(path).expect("a segment");
        }
        tally.count(Kind::BaseReplaced);
        true
    }

    /// Whether the node still owes what its log has lost.
    pub(crate) fn owes(&self) -> bool {
        self.log.owes()
    }

    /// Whether it has the entry, or had it before its log was damaged, so that its promise counts.
    pub(crate) fn holds_or_owes(&self, index: LogIndex, entry: Held) -> bool {
        self.holds(index, entry) || self.log.lost.has(index, entry)
    }

    /// Where the log ended before it was damaged, unless it has come as far again.
    pub(crate) fn lost_end(&self) -> Option<Debt> {
        self.log.lost.end()
    }

    /// The last entry of the log on the medium, unless a snapshot has brought what it did.
    pub(crate) fn durable_end(&self) -> Option<(LogIndex, Held)> {
        let last = self.log.durable.last_key_value();
        last.map(|(index, held)| (*index, *held))
    }
}

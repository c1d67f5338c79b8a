//! A snapshot takes the place of the log, the manifest and the databases, in the steps of the real log
//! writer and the real shard. A crash may come between any two of them.

use ringlite::image::{ManifestImage, Restart};
use ringlite::replica::SnapshotHead;
use ringlite_raft::LogIndex;

use super::log::LogWriter;
use super::medium::Write;
use super::{Disk, Saving, Trouble};
use crate::sim::tally::{Kind, Tally};

/// A snapshot on its way into the place of everything.
pub(super) struct Switch {
    image: ManifestImage,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What was queued for the log is written before.
    Waits,
    /// The first record of the new log is being written.
    Begins,
    /// The manifest is being saved that makes the snapshot what this node consists of.
    Switches,
    /// Its files get their names.
    Renames,
    /// The manifest is being saved that says that they have.
    Ends,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The manifest names the snapshot.
    Switched,
    /// The files have their names, too.
    Installed,
}

impl Switch {
    /// Whether nothing is to be written into the log now.
    pub(super) fn holds_the_log(&self) -> bool {
        matches!(self.stage, Stage::Begins | Stage::Switches)
    }

    /// A crash came meanwhile. Returns whether the snapshot is what was found.
    pub(super) fn recovered(&self, found: &Restart, log: &mut LogWriter) -> bool {
        let is_found = self.image.segment != 0 && found.manifest.segment == self.image.segment;
        let was_known = matches!(self.stage, Stage::Renames | Stage::Ends);
        assert!(
            is_found || !was_known,
            "a snapshot was installed, and is gone"
        );
        if is_found && !was_known {
            log.holds_snapshot(self.image.base.index);
        }
        is_found
    }
}

impl Disk {
    /// Puts a snapshot, whose files are all here, in the place of everything.
    pub(crate) fn switch_to(&mut self, head: &SnapshotHead) {
        assert!(self.saving.is_none(), "one save at a time");
        let targets = head.databases.iter().map(|file| file.target);
        self.switch = Some(Switch {
            image: ManifestImage {
                sequence: self.manifest.sequence + 1,
                base: head.base,
                // Where the log begins is known once its first segment is there.
                segment: 0,
                owed: targets.max().unwrap_or(LogIndex::ZERO),
                installs: true,
                configuration: head.configuration.clone(),
                databases: head.databases.clone(),
            },
            stage: Stage::Waits,
        });
    }

    /// Whether that is under way.
    pub(crate) fn is_switching(&self) -> bool {
        self.switch.is_some()
    }

    pub(super) fn next_of_switch(&mut self) -> Result<Option<Write>, Trouble> {
        match &mut self.switch {
            Some(switch) if switch.stage == Stage::Waits && self.log.is_idle() => {
                let is_full = self.health.is_full;
                let (write, segment) =
                    self.log
                        .begin_anew(&self.image, switch.image.base, is_full)?;
                switch.image.segment = segment;
                switch.stage = Stage::Begins;
                Ok(Some(write))
            }
            _ => Ok(None),
        }
    }

    /// A write of the log is complete.
    pub(super) fn base_written(&mut self) {
        if let Some(switch) = &mut self.switch
            && switch.stage == Stage::Begins
        {
            switch.stage = Stage::Switches;
            self.saving = Some(Saving {
                image: switch.image.clone(),
                copies_left: 2,
            });
        }
    }

    /// A manifest is saved; perhaps one of these.
    pub(super) fn switch_saved(&mut self) -> Option<Event> {
        let switch = self.switch.as_mut()?;
        match switch.stage {
            Stage::Switches => {
                let ManifestImage { base, segment, .. } = switch.image;
                self.log.replaced(&self.image, base, segment);
                switch.stage = Stage::Renames;
                Some(Event::Switched)
            }
            Stage::Ends => {
                self.switch = None;
                Some(Event::Installed)
            }
            _ => None,
        }
    }

    /// Gives the files of the snapshot their names; those of before are closed.
    pub(crate) fn rename_files(&mut self, tally: &mut Tally) {
        let switch = self.switch.as_mut().expect("a snapshot to install");
        assert!(
            switch.stage == Stage::Renames,
            "the manifest names it first"
        );
        tally.count(Kind::SnapshotInstalled);
        self.image
            .install(&switch.image)
            .expect("files that are all here");
        self.files.replaced();
        self.staged.is_safe();
        switch.stage = Stage::Ends;
        self.saving = Some(Saving {
            image: ManifestImage {
                sequence: switch.image.sequence + 1,
                installs: false,
                ..switch.image.clone()
            },
            copies_left: 2,
        });
    }
}

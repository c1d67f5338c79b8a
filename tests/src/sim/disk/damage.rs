//! What rots on a disk, or was written to the wrong place. Only what can be told: everything that is
//! damaged here is known, by something else on the medium, to have been durable, or has a twin.

use ringlite::image::RecordImage;
use ringlite_raft::{LogIndex, RECORD_HEADER_BYTES, record_bytes, scan_segment};

use super::Disk;
use super::medium::{flip, get, put};
use crate::sim::random::Random;

impl Disk {
    /// A record that may be damaged: something else tells that it was durable.
    fn record_at_stake(&self, random: &mut Random) -> Option<RecordImage> {
        let first = self.manifest.base.index.next();
        if self.log.evidence < first {
            return None;
        }
        let index = LogIndex(random.between(first.0, self.log.evidence.0));
        self.log.places.get(&index).copied()
    }

    /// A record of any segment, except the last ones, of which nothing else tells that they were durable:
    /// also one from before the base, the base's own, or one that is void.
    fn any_record(&self, random: &mut Random) -> Option<RecordImage> {
        let files = std::fs::read_dir(self.image.log_directory()).expect("a directory");
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        // Not the one that a snapshot begins with, before the manifest names it.
        paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
        paths.sort();
        let mut records = Vec::new();
        for path in paths {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let number = stem.and_then(|stem| u64::from_str_radix(stem, 16).ok());
            let segment = number.expect("the number of a segment");
            let bytes = std::fs::read(&path).expect("a segment");
            let scan = scan_segment(&bytes, segment, &self.image.identity());
            for (offset, header) in scan.expect("a segment of ours").records() {
                let live = self.log.places.get(&header.index);
                let is_live =
                    live.is_some_and(|live| (live.segment, live.offset) == (segment, *offset));
                if !is_live || header.index <= self.log.evidence {
                    records.push(RecordImage {
                        index: header.index,
                        term: header.term,
                        segment,
                        offset: *offset,
                        payload_bytes: header.payload_bytes as usize,
                    });
                }
            }
        }
        (!records.is_empty()).then(|| records[random.below(records.len() as u64) as usize])
    }

    /// A bit of the log flips. Returns whether one has.
    pub(crate) fn rot_log(&self, random: &mut Random) -> bool {
        let place = match random.per_mille(700) {
            true => self.record_at_stake(random),
            false => self.any_record(random),
        };
        let Some(place) = place else {
            return false;
        };
        let length = (RECORD_HEADER_BYTES + place.payload_bytes) as u64;
        // Headers are as interesting as payloads, and much shorter.
        let end = random.one_of(&[RECORD_HEADER_BYTES as u64, length]);
        flip(
            &self.image.segment_path(place.segment),
            place.offset + random.below(end),
            random,
        );
        true
    }

    /// A bit flips in one of the two copies of the hard state, or of the manifest, if both are good.
    pub(crate) fn rot_copy(&self, random: &mut Random) -> bool {
        let hard_state = self.image.hard_state_path();
        let manifests = self.image.manifest_paths();
        let read = |path: &std::path::Path| std::fs::read(path).expect("a file");
        let copy = random.below(2);
        if random.per_mille(500) {
            let file = read(&hard_state);
            let (a, b) = file.split_at(file.len() / 2);
            let bytes = ringlite::image::HARD_STATE_COPY_BYTES as u64;
            if a == b {
                flip(&hard_state, copy * bytes + random.below(80), random);
            }
            a == b
        } else {
            let (a, b) = (read(&manifests[0]), read(&manifests[1]));
            if a == b {
                flip(&manifests[copy as usize], random.below(88), random);
            }
            a == b
        }
    }

    /// Both copies of the hard state rot, or of the manifest: the node cannot start any more.
    pub(crate) fn rot_both_copies(&self, random: &mut Random) {
        let hard_state = self.image.hard_state_path();
        let [a, b] = self.image.manifest_paths();
        let bytes = ringlite::image::HARD_STATE_COPY_BYTES as u64;
        let copies = match random.per_mille(500) {
            true => [(&hard_state, 0, 80), (&hard_state, bytes, 80)],
            false => [(&a, 0, 88), (&b, 0, 88)],
        };
        for (path, start, length) in copies {
            flip(path, start + random.below(length), random);
        }
    }

    /// A write of the log went to another place, and nobody noticed. Returns whether one has.
    pub(crate) fn misdirect(&self, random: &mut Random) -> bool {
        let (Some(place), Some(other)) =
            (self.record_at_stake(random), self.record_at_stake(random))
        else {
            return false;
        };
        let bytes = record_bytes(place.payload_bytes);
        let path = self.image.segment_path(place.segment);
        let record = get(&path, place.offset, bytes);
        put(&path, place.offset, &vec![0; bytes]);
        // In the place of another record, or in one that nothing was written to yet. It must not
        // reach into what is not at stake.
        let target = self.image.segment_path(other.segment);
        if other.index != place.index && record_bytes(other.payload_bytes) >= bytes {
            put(&target, other.offset, &record);
        } else {
            let end = std::fs::metadata(&path).expect("a segment").len();
            let at = end - bytes as u64;
            let in_use = self
                .log
                .places
                .values()
                .filter(|of| of.segment == place.segment);
            let ends = in_use.map(|of| of.offset + record_bytes(of.payload_bytes) as u64);
            if ends.max().unwrap_or(0) <= at {
                put(&path, at, &record);
            }
        }
        true
    }
}

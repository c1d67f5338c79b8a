//! The wal-index: what SQLite keeps in shared memory, here in heap regions of this process.
//!
//! SQLite reads and writes the regions directly, from C and from several threads; this side uses
//! atomics of the same width and keeps the order of stores that SQLite keeps (walformat.html,
//! section 2). A region never moves and is never given back before its index is gone.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;
// SQLite has the regions too, so they are of nothing but these.
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::header::{HEADER_WORDS, IndexHeader};
use crate::lock;
use crate::page::PageNumber;
use crate::sync::Mutex;
use crate::sync::atomic::fence;

/// The size of one region in bytes (`WALINDEX_PGSZ`).
pub(crate) const REGION_BYTES: usize = 32768;
/// Frames indexed by one region (`HASHTABLE_NPAGE`).
const REGION_FRAMES: u32 = 4096;
/// Words at the start of the first region that hold headers, marks and locks.
const FIRST_WORDS: usize = 34;
/// Frames indexed by the first region (`HASHTABLE_NPAGE_ONE`).
const FIRST_FRAMES: u32 = REGION_FRAMES - FIRST_WORDS as u32;
/// Slots of one hash table (`HASHTABLE_NSLOT`).
const HASH_SLOTS: usize = 8192;
/// The factor of the hash function (`HASHTABLE_HASH_1`).
const HASH_FACTOR: u32 = 383;
/// The word of `nBackfill`.
const BACKFILL_WORD: usize = 2 * HEADER_WORDS;
/// The words of the five read marks.
const READ_MARK_WORDS: Range<usize> = BACKFILL_WORD + 1..BACKFILL_WORD + 6;
/// The word of `nBackfillAttempted`, behind eight bytes that SQLite's own VFS has its locks on.
const BACKFILL_ATTEMPTED_WORD: usize = READ_MARK_WORDS.end + 2;
/// The read marks of an index that no reader has used: slot 0 means the file alone, slot 1 the
/// empty WAL, and the others are unused.
const FRESH_READ_MARKS: [u32; 5] = [0, 0, READ_MARK_UNUSED, READ_MARK_UNUSED, READ_MARK_UNUSED];
/// `READMARK_NOT_USED` of SQLite.
pub(crate) const READ_MARK_UNUSED: u32 = u32::MAX;

const _: () = assert!(size_of::<Region>() == REGION_BYTES);
const _: () = assert!(FIRST_FRAMES == 4062);
const _: () = assert!(BACKFILL_ATTEMPTED_WORD == FIRST_WORDS - 2);

/// One region: page numbers of frames, then the hash table from page number to frame.
#[repr(C, align(64))]
struct Region {
    words: [AtomicU32; REGION_FRAMES as usize],
    slots: [AtomicU16; HASH_SLOTS],
}

impl Region {
    fn zeroed() -> Arc<Region> {
        Arc::new(Region {
            words: [const { AtomicU32::new(0) }; REGION_FRAMES as usize],
            slots: [const { AtomicU16::new(0) }; HASH_SLOTS],
        })
    }
}

/// Where a frame is indexed: its region, and its 1-based place there.
#[derive(Clone, Copy)]
struct Place {
    region: usize,
    index: u32,
}

impl Place {
    fn of(frame: u32) -> Place {
        let region = (frame + REGION_FRAMES - FIRST_FRAMES - 1) / REGION_FRAMES;
        let frames_before = match region {
            0 => 0,
            _ => FIRST_FRAMES + (region - 1) * REGION_FRAMES,
        };
        Place {
            region: region as usize,
            index: frame - frames_before,
        }
    }
}

/// The page numbers that a region holds; in the first one they begin after the header.
fn page_numbers(region: usize, of: &Region) -> &[AtomicU32] {
    match region {
        0 => &of.words[FIRST_WORDS..],
        _ => &of.words,
    }
}

/// A wal-index of one epoch.
pub(crate) struct WalIndex {
    /// The region with the header, apart from the others so that a header is read without a lock.
    first: Arc<Region>,
    /// The regions after the first.
    rest: Mutex<Vec<Arc<Region>>>,
}

impl WalIndex {
    /// An index of no frames, with `header` in both copies.
    pub(crate) fn new(header: &IndexHeader) -> WalIndex {
        let index = WalIndex {
            first: Region::zeroed(),
            rest: Mutex::new(Vec::new()),
        };
        index.restart(header);
        index
    }

    /// A copy of this index in fresh regions that ends with the last frame of `header`.
    ///
    /// Safe while a connection still writes this index: entries of committed frames do not change,
    /// and whatever is copied of later ones is cleaned away.
    pub(crate) fn copy_up_to(&self, header: &IndexHeader) -> WalIndex {
        let copy = WalIndex::new(header);
        let max_frame = header.max_frame();
        if max_frame > 0 {
            let last_region = Place::of(max_frame).region;
            for region in 0..=last_region {
                let (Some(from), Some(to)) = (self.region(region), copy.extend(region)) else {
                    break;
                };
                let numbers = page_numbers(region, &to);
                for (from, to) in page_numbers(region, &from).iter().zip(numbers) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                for (from, to) in from.slots.iter().zip(&to.slots) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            copy.clean_above(max_frame);
        }
        copy.set_backfill_attempted(self.backfill_attempted());
        copy.set_backfilled(self.backfilled());
        copy
    }

    /// Makes this the index of an empty WAL, as `walRestartHdr` of SQLite does. The caller holds
    /// every slot. Whoever has read the old header on the way to a slot compares it again when it
    /// has got the slot, so the order of the rest does not matter.
    pub(crate) fn restart(&self, header: &IndexHeader) {
        self.publish(header);
        self.set_backfilled(0);
        self.set_backfill_attempted(0);
        for (slot, mark) in FRESH_READ_MARKS.iter().enumerate() {
            self.set_read_mark(slot, *mark);
        }
    }

    /// `nBackfill`: readers that begin take older frames' pages from the file.
    pub(crate) fn backfilled(&self) -> u32 {
        self.first.words[BACKFILL_WORD].load(Ordering::Acquire)
    }

    /// Makes readers look for pages of frames up to `frame` in the file, where they have to be.
    pub(crate) fn set_backfilled(&self, frame: u32) {
        self.first.words[BACKFILL_WORD].store(frame, Ordering::Release);
    }

    /// `nBackfillAttempted`: no newer frame's page can be in the file.
    pub(crate) fn backfill_attempted(&self) -> u32 {
        self.first.words[BACKFILL_ATTEMPTED_WORD].load(Ordering::Acquire)
    }

    /// To be called before the first write to the file.
    pub(crate) fn set_backfill_attempted(&self, frame: u32) {
        self.first.words[BACKFILL_ATTEMPTED_WORD].store(frame, Ordering::Release);
    }

    /// The mark of one of the five read slots: its readers need the frames above it.
    pub(crate) fn read_mark(&self, slot: usize) -> u32 {
        self.first.words[READ_MARK_WORDS][slot].load(Ordering::Acquire)
    }

    /// The caller holds the slot alone.
    pub(crate) fn set_read_mark(&self, slot: usize, mark: u32) {
        self.first.words[READ_MARK_WORDS][slot].store(mark, Ordering::Release);
    }

    /// The address of a region for SQLite, made if `extend` and not there yet; null otherwise. It
    /// stays valid as long as this index.
    pub(crate) fn region_address(&self, region: usize, extend: bool) -> *mut c_void {
        let found = match extend {
            true => self.extend(region),
            false => self.region(region),
        };
        match found {
            Some(region) => Arc::as_ptr(&region).cast_mut().cast(),
            None => std::ptr::null_mut(),
        }
    }

    fn region(&self, region: usize) -> Option<Arc<Region>> {
        match region.checked_sub(1) {
            None => Some(self.first.clone()),
            Some(after_first) => lock(&self.rest).get(after_first).cloned(),
        }
    }

    fn extend(&self, region: usize) -> Option<Arc<Region>> {
        if region == 0 {
            return Some(self.first.clone());
        }
        let mut rest = lock(&self.rest);
        while rest.len() < region {
            rest.push(Region::zeroed());
        }
        rest.get(region - 1).cloned()
    }

    /// The first copy of the live header. Untorn for whoever holds WRITE.
    pub(crate) fn live_header(&self) -> IndexHeader {
        let mut words = [0; HEADER_WORDS];
        for (word, live) in words.iter_mut().zip(&self.first.words) {
            *word = live.load(Ordering::Relaxed);
        }
        IndexHeader(words)
    }

    /// The number of committed frames in the first copy of the live header: one atomic load.
    pub(crate) fn live_max_frame(&self) -> u32 {
        self.first.words[IndexHeader::max_frame_word()].load(Ordering::Acquire)
    }

    /// Publishes a commit, in SQLite's order: the second copy, a fence, the first copy. Readers
    /// read them the other way round and so notice a header that is being changed.
    pub(crate) fn publish(&self, header: &IndexHeader) {
        let (first, second) = self.first.words[..2 * HEADER_WORDS].split_at(HEADER_WORDS);
        for (live, word) in second.iter().zip(header.0) {
            live.store(word, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        for (live, word) in first.iter().zip(header.0) {
            live.store(word, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Indexes frames `first_frame`, `first_frame + 1`, ... as images of `numbers`. The caller
    /// holds WRITE and has not published these frames yet.
    pub(crate) fn append(&self, first_frame: u32, numbers: impl Iterator<Item = PageNumber>) {
        let mut region = None;
        for (frame, number) in (first_frame..).zip(numbers) {
            let place = Place::of(frame);
            if region.as_ref().is_none_or(|(at, _)| *at != place.region) {
                region = self.extend(place.region).map(|found| (place.region, found));
            }
            if let Some((_, region)) = &region {
                append_one(region, place, frame, number);
            }
        }
    }

    /// Forgets the frames above `frame`, which were committed and are taken back. The caller holds
    /// WRITE, and has published the header that ends there.
    pub(crate) fn forget_above(&self, frame: u32) {
        // Without a frame before it the first one zeroes its region.
        if frame > 0 {
            self.clean_above(frame);
        }
    }

    /// Forgets every frame above `frame` that shares a region with it. Later regions need no care:
    /// each is zeroed when its first frame is indexed.
    fn clean_above(&self, frame: u32) {
        let place = Place::of(frame);
        if let Some(region) = self.region(place.region) {
            clean_region(&region, place);
        }
    }
}

/// `walIndexAppend` of SQLite.
fn append_one(region: &Region, place: Place, frame: u32, number: PageNumber) {
    let numbers = page_numbers(place.region, region);
    let index = place.index as usize;
    if index == 1 {
        zero(numbers);
        region
            .slots
            .iter()
            .for_each(|slot| slot.store(0, Ordering::Relaxed));
    }
    // An entry that is already set was left by a transaction that spilled and rolled back.
    if numbers[index - 1].load(Ordering::Relaxed) != 0 {
        clean_region(
            region,
            Place {
                index: place.index - 1,
                ..place
            },
        );
    }
    let mut key = number.0.wrapping_mul(HASH_FACTOR) as usize % HASH_SLOTS;
    let mut probes = 0;
    while region.slots[key].load(Ordering::Relaxed) != 0 {
        key = (key + 1) % HASH_SLOTS;
        probes += 1;
        // Half of the slots are free by construction; if not, memory was overwritten.
        assert!(
            probes < HASH_SLOTS,
            "the hash table of frame {frame} is full"
        );
    }
    numbers[index - 1].store(number.0, Ordering::Relaxed);
    // Readers that find the slot must find the page number.
    region.slots[key].store(place.index as u16, Ordering::Release);
}

/// `walCleanupHash` of SQLite: only entries up to `place` stay.
fn clean_region(region: &Region, place: Place) {
    for slot in &region.slots {
        if u32::from(slot.load(Ordering::Relaxed)) > place.index {
            slot.store(0, Ordering::Relaxed);
        }
    }
    zero(&page_numbers(place.region, region)[place.index as usize..]);
}

fn zero(numbers: &[AtomicU32]) {
    for number in numbers {
        number.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageSize;

    /// `walFindFrame` of SQLite, as a naive twin.
    fn find(index: &WalIndex, number: u32, max_frame: u32) -> u32 {
        for region_number in (0..=Place::of(max_frame).region).rev() {
            let region = index.region(region_number).unwrap();
            let frames_before = match region_number {
                0 => 0,
                _ => FIRST_FRAMES + (region_number as u32 - 1) * REGION_FRAMES,
            };
            let mut key = number.wrapping_mul(HASH_FACTOR) as usize % HASH_SLOTS;
            let mut newest = 0;
            loop {
                let slot = u32::from(region.slots[key].load(Ordering::Acquire));
                if slot == 0 {
                    break;
                }
                let numbers = page_numbers(region_number, &region);
                let found = numbers[slot as usize - 1].load(Ordering::Relaxed);
                if frames_before + slot <= max_frame && found == number {
                    newest = frames_before + slot;
                }
                key = (key + 1) % HASH_SLOTS;
            }
            if newest > 0 {
                return newest;
            }
        }
        0
    }

    fn header(max_frame: u32) -> IndexHeader {
        IndexHeader::empty(PageSize::DEFAULT, 1).next_commit(max_frame, 1)
    }

    #[test]
    fn places_change_region_where_sqlite_changes_it() {
        let places = [
            (1, 0, 1),
            (4062, 0, 4062),
            (4063, 1, 1),
            (8158, 1, 4096),
            (8159, 2, 1),
        ];
        for (frame, region, index) in places {
            let place = Place::of(frame);
            assert_eq!(
                (place.region, place.index),
                (region, index),
                "frame {frame}"
            );
        }
    }

    #[test]
    fn the_newest_frame_of_each_page_is_found_after_copies_and_new_frames() {
        let index = WalIndex::new(&header(0));
        let number_of = |frame: u32| PageNumber(frame * 7 % 997 + 1);
        index.append(1, (1..=9000).map(number_of));
        for cut in [1, 2, 4061, 4062, 4063, 8157, 8158, 8159, 9000] {
            let copy = index.copy_up_to(&header(cut));
            // Nothing of later frames is left, not even where a snapshot would ignore it.
            let region_end = FIRST_FRAMES + Place::of(cut).region as u32 * REGION_FRAMES;
            assert!((1..=998).all(|number| find(&copy, number, region_end) <= cut));
            copy.append(
                cut + 1,
                (cut + 1..cut + 400).map(|frame| number_of(frame + 3)),
            );
            let mut newest = std::collections::BTreeMap::new();
            for frame in 1..cut + 400 {
                let number = if frame <= cut {
                    number_of(frame)
                } else {
                    number_of(frame + 3)
                };
                newest.insert(number.0, frame);
            }
            for number in 1..=998 {
                let expected = newest.get(&number).copied().unwrap_or(0);
                assert_eq!(
                    find(&copy, number, cut + 399),
                    expected,
                    "page {number}, cut {cut}"
                );
            }
        }
    }

    #[test]
    fn leftovers_of_a_rolled_back_spill_are_cleaned_before_an_append() {
        let index = WalIndex::new(&header(0));
        index.append(1, (1..=20).map(PageNumber));
        index.append(11, [PageNumber(500)].into_iter());
        assert_eq!(find(&index, 500, 11), 11);
        assert_eq!(find(&index, 10, 11), 10);
        for stale in 11..=20 {
            assert_eq!(find(&index, stale, 4062), 0);
        }
    }
}

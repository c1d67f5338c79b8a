//! The frame store: the bytes of the WAL, as SQLite's WAL file has them.
//!
//! A frame is its 24-byte header and one page image. Images are immutable and shared: writing a
//! frame again puts a new image in its place, so whoever captured the old one keeps it.

use crate::page::{Page, PageNumber, PageSize};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{read_lock, write_lock};

/// The bytes before the first frame (walformat.html, section 3.1).
const WAL_HEADER_BYTES: usize = 32;
/// The bytes before each page image.
const FRAME_HEADER_BYTES: usize = 24;
/// Frames per chunk. A store grows by whole chunks, so that appending never moves frames.
const CHUNK_FRAMES: usize = 1024;

/// Why the store did not serve a request of SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// A roll-back has ended this epoch.
    Poisoned,
    /// Bytes were read that nobody wrote.
    Missing,
    /// An offset or a length that SQLite's WAL code never uses.
    Shape,
    /// The transaction has written as many frames as one may.
    Full,
}

#[derive(Clone)]
struct Frame {
    header: [u8; FRAME_HEADER_BYTES],
    /// None only between the two writes that make a frame.
    page: Option<Page>,
}

impl Frame {
    fn number(&self) -> PageNumber {
        let [a, b, c, d, ..] = self.header;
        PageNumber(u32::from_be_bytes([a, b, c, d]))
    }
}

/// What a store holds; moves from epoch to epoch in a roll-back.
pub(crate) struct Frames {
    wal_header: [u8; WAL_HEADER_BYTES],
    chunks: Vec<Vec<Frame>>,
    length: usize,
}

impl Frames {
    /// No frames.
    pub(crate) fn empty() -> Frames {
        Frames {
            wal_header: [0; WAL_HEADER_BYTES],
            chunks: Vec::new(),
            length: 0,
        }
    }

    /// Drops every frame above `max_frame`.
    pub(crate) fn cut(&mut self, max_frame: u32) {
        let length = max_frame as usize;
        if length >= self.length {
            return;
        }
        self.chunks.truncate(length.div_ceil(CHUNK_FRAMES));
        if let Some(last) = self.chunks.last_mut() {
            last.truncate(length - (length - 1) / CHUNK_FRAMES * CHUNK_FRAMES);
        }
        self.length = length;
    }

    fn get(&self, index: usize) -> Option<&Frame> {
        self.chunks
            .get(index / CHUNK_FRAMES)?
            .get(index % CHUNK_FRAMES)
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Frame> {
        self.chunks
            .get_mut(index / CHUNK_FRAMES)?
            .get_mut(index % CHUNK_FRAMES)
    }

    fn push(&mut self, frame: Frame) {
        if self.length.is_multiple_of(CHUNK_FRAMES) {
            self.chunks.push(Vec::with_capacity(CHUNK_FRAMES));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(frame);
            self.length += 1;
        }
    }
}

/// The frames of one epoch, shared by its connections.
pub(crate) struct FrameStore {
    page_bytes: usize,
    poisoned: AtomicBool,
    frames: RwLock<Frames>,
}

impl FrameStore {
    /// A store that begins with `frames`.
    pub(crate) fn new(page_size: PageSize, frames: Frames) -> FrameStore {
        FrameStore {
            page_bytes: page_size.as_usize(),
            poisoned: AtomicBool::new(false),
            frames: RwLock::new(frames),
        }
    }

    /// Whether a roll-back has ended this epoch.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Ends this epoch and takes its frames away. No read or write that has not got the lock yet
    /// sees anything of them.
    pub(crate) fn poison_and_take(&self) -> Frames {
        let mut frames = write_lock(&self.frames);
        self.poisoned.store(true, Ordering::Release);
        std::mem::replace(&mut frames, Frames::empty())
    }

    /// Takes the frames away for a new generation. Nobody reads or writes.
    pub(crate) fn take(&self) -> Frames {
        std::mem::replace(&mut write_lock(&self.frames), Frames::empty())
    }

    /// SQLite reads `into.len()` bytes at `offset` of the WAL file: a part of the WAL header, or a
    /// part of one frame.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FrameFault> {
        let frames = read_lock(&self.frames);
        // Under the lock: a roll-back that takes the frames away has then either not begun, or is
        // seen here.
        if self.is_poisoned() {
            return Err(FrameFault::Poisoned);
        }
        match self.locate(offset)? {
            Location::WalHeader(at) => {
                let bytes = frames.wal_header.get(at..at + into.len());
                into.copy_from_slice(bytes.ok_or(FrameFault::Shape)?);
            }
            Location::Frame(index, at) => {
                let frame = frames.get(index).ok_or(FrameFault::Missing)?;
                let in_header = FRAME_HEADER_BYTES.saturating_sub(at).min(into.len());
                let (head, tail) = into.split_at_mut(in_header);
                if in_header > 0 {
                    head.copy_from_slice(&frame.header[at..at + in_header]);
                }
                if !tail.is_empty() {
                    let at = (at + in_header) - FRAME_HEADER_BYTES;
                    let page = frame.page.as_ref().ok_or(FrameFault::Missing)?;
                    let bytes = page.get(at..at + tail.len()).ok_or(FrameFault::Shape)?;
                    tail.copy_from_slice(bytes);
                }
            }
        }
        Ok(())
    }

    /// SQLite writes at `offset` of the WAL file: the WAL header, a frame header, or a whole page.
    /// A new frame above `frames_max` is refused with [`FrameFault::Full`].
    pub(crate) fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        frames_max: usize,
    ) -> Result<(), FrameFault> {
        let location = self.locate(offset)?;
        // The allocation and the copy are made before the lock is taken.
        let page = match location {
            Location::Frame(_, FRAME_HEADER_BYTES) if bytes.len() == self.page_bytes => {
                Some(Page::from(bytes))
            }
            _ => None,
        };
        let mut frames = write_lock(&self.frames);
        if self.is_poisoned() {
            return Err(FrameFault::Poisoned);
        }
        match (location, page) {
            (Location::Frame(index, _), Some(page)) => {
                frames.get_mut(index).ok_or(FrameFault::Missing)?.page = Some(page);
            }
            (Location::Frame(index, 0), None) => {
                let header = bytes.try_into().map_err(|_| FrameFault::Shape)?;
                if let Some(frame) = frames.get_mut(index) {
                    frame.header = header;
                } else if index >= frames_max {
                    return Err(FrameFault::Full);
                } else if index == frames.length {
                    frames.push(Frame { header, page: None });
                } else {
                    return Err(FrameFault::Shape);
                }
            }
            (Location::WalHeader(0), None) => {
                frames.wal_header = bytes.try_into().map_err(|_| FrameFault::Shape)?;
            }
            _ => return Err(FrameFault::Shape),
        }
        Ok(())
    }

    /// Drops every frame above `max_frame`, which are those of transactions that rolled back.
    pub(crate) fn cut(&self, max_frame: u32) {
        // Almost always there is nothing to cut, and a read lock does not disturb readers.
        if read_lock(&self.frames).length > max_frame as usize {
            write_lock(&self.frames).cut(max_frame);
        }
    }

    /// Puts `pages` behind frame `max_frame`, as the commit of a database of `page_count` pages.
    /// The caller holds WRITE.
    pub(crate) fn append(&self, max_frame: u32, pages: &[(PageNumber, Page)], page_count: u32) {
        let mut frames = write_lock(&self.frames);
        frames.cut(max_frame);
        for (index, (number, page)) in pages.iter().enumerate() {
            let mut header = [0; FRAME_HEADER_BYTES];
            header[..4].copy_from_slice(&number.0.to_be_bytes());
            if index + 1 == pages.len() {
                header[4..8].copy_from_slice(&page_count.to_be_bytes());
            }
            frames.push(Frame {
                header,
                page: Some(page.clone()),
            });
        }
    }

    /// The pages whose images the frames `first..=last` are.
    pub(crate) fn numbers(&self, first: u32, last: u32) -> Result<Vec<PageNumber>, FrameFault> {
        let frames = read_lock(&self.frames);
        if self.is_poisoned() {
            return Err(FrameFault::Poisoned);
        }
        let found = (first..=last).map(|frame| frames.get(frame as usize - 1).map(Frame::number));
        found.collect::<Option<_>>().ok_or(FrameFault::Missing)
    }

    /// For each page that has a frame in `first..=last` the number of its newest one there, sorted
    /// by page number.
    pub(crate) fn newest(&self, first: u32, last: u32) -> Result<Vec<NewestFrame>, FrameFault> {
        let mut newest = Vec::with_capacity((last + 1).saturating_sub(first) as usize);
        let frames = read_lock(&self.frames);
        if self.is_poisoned() {
            return Err(FrameFault::Poisoned);
        }
        for frame in first..=last {
            let found = frames.get(frame as usize - 1).ok_or(FrameFault::Missing)?;
            newest.push(NewestFrame {
                number: found.number(),
                frame,
            });
        }
        drop(frames);
        newest.sort_unstable_by_key(|entry| (entry.number, std::cmp::Reverse(entry.frame)));
        newest.dedup_by_key(|entry| entry.number);
        Ok(newest)
    }

    /// The images of some frames, in the order asked for.
    pub(crate) fn pages(&self, of: &[NewestFrame]) -> Result<Vec<(PageNumber, Page)>, FrameFault> {
        let frames = read_lock(&self.frames);
        if self.is_poisoned() {
            return Err(FrameFault::Poisoned);
        }
        let mut pages = Vec::with_capacity(of.len());
        for entry in of {
            let frame = frames
                .get(entry.frame as usize - 1)
                .ok_or(FrameFault::Missing)?;
            let page = frame.page.as_ref().ok_or(FrameFault::Missing)?;
            pages.push((entry.number, page.clone()));
        }
        Ok(pages)
    }

    /// The page images that this store holds, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        (read_lock(&self.frames).length * self.page_bytes) as u64
    }

    /// Splits an offset in the WAL file into a frame (from 0) and an offset within it.
    fn locate(&self, offset: u64) -> Result<Location, FrameFault> {
        let offset = usize::try_from(offset).map_err(|_| FrameFault::Shape)?;
        match offset.checked_sub(WAL_HEADER_BYTES) {
            None => Ok(Location::WalHeader(offset)),
            Some(in_frames) => {
                let frame_bytes = FRAME_HEADER_BYTES + self.page_bytes;
                Ok(Location::Frame(
                    in_frames / frame_bytes,
                    in_frames % frame_bytes,
                ))
            }
        }
    }
}

/// A page and the number of its newest frame in some range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewestFrame {
    /// The page.
    pub(crate) number: PageNumber,
    /// The frame, from 1.
    pub(crate) frame: u32,
}

enum Location {
    WalHeader(usize),
    Frame(usize, usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> FrameStore {
        FrameStore::new(PageSize::MIN, Frames::empty())
    }

    fn frame_offset(frame: u64) -> u64 {
        32 + (frame - 1) * (24 + 512)
    }

    fn write(store: &FrameStore, offset: u64, bytes: &[u8]) -> Result<(), FrameFault> {
        store.write(offset, bytes, usize::MAX)
    }

    fn write_frame(store: &FrameStore, frame: u64, number: u8) {
        let mut header = [0; 24];
        header[3] = number;
        write(store, frame_offset(frame), &header).unwrap();
        write(store, frame_offset(frame) + 24, &[number; 512]).unwrap();
    }

    #[test]
    fn what_was_written_is_read_in_each_shape_that_sqlite_uses() {
        let store = store();
        write(&store, 0, &[9; 32]).unwrap();
        write_frame(&store, 1, 5);
        let mut eight = [0; 8];
        store.read(24, &mut eight).unwrap();
        assert_eq!(eight, [9; 8]);
        store.read(frame_offset(1) + 16, &mut eight).unwrap();
        assert_eq!(eight, [0; 8]);
        let mut whole = [0; 24 + 512];
        store.read(frame_offset(1), &mut whole).unwrap();
        assert_eq!((whole[3], whole[24], whole[535]), (5, 5, 5));
        let mut page = [0; 512];
        store.read(frame_offset(1) + 24, &mut page).unwrap();
        assert_eq!(page, [5; 512]);
    }

    #[test]
    fn other_shapes_are_refused() {
        let store = store();
        assert_eq!(write(&store, 4, &[0; 8]), Err(FrameFault::Shape));
        assert_eq!(
            write(&store, frame_offset(2), &[0; 24]),
            Err(FrameFault::Shape)
        );
        assert_eq!(
            write(&store, frame_offset(1) + 24, &[0; 512]),
            Err(FrameFault::Missing)
        );
        assert_eq!(
            store.read(frame_offset(1), &mut [0; 24]),
            Err(FrameFault::Missing)
        );
        write_frame(&store, 1, 1);
        assert_eq!(
            write(&store, frame_offset(1) + 30, &[0; 4]),
            Err(FrameFault::Shape)
        );
        assert_eq!(
            store.read(frame_offset(1) + 30, &mut [0; 512]),
            Err(FrameFault::Shape)
        );
        assert_eq!(store.read(30, &mut [0; 8]), Err(FrameFault::Shape));
    }

    #[test]
    fn a_page_that_was_taken_survives_a_second_write_and_a_cut() {
        let store = store();
        write_frame(&store, 1, 1);
        let taken = store.pages(&store.newest(1, 1).unwrap()).unwrap();
        write_frame(&store, 1, 2);
        store.cut(0);
        assert_eq!(taken[0].1[..], [1; 512]);
        assert_eq!(store.resident_bytes(), 0);
    }

    #[test]
    fn cuts_at_the_borders_of_chunks_leave_the_right_frames() {
        for cut in [0, 1, 1023, 1024, 1025, 2047, 2048, 2049] {
            let store = store();
            for frame in 1..=2050 {
                write_frame(&store, frame, frame as u8);
            }
            store.cut(cut);
            assert!(store.newest(1, cut).is_ok());
            assert_eq!(store.newest(1, cut + 1), Err(FrameFault::Missing));
            write_frame(&store, u64::from(cut) + 1, 77);
            let newest = store.newest(cut + 1, cut + 1).unwrap();
            assert_eq!(store.pages(&newest).unwrap()[0].1[..], [77; 512]);
        }
    }

    #[test]
    fn the_last_frame_of_an_applied_commit_carries_the_size() {
        let store = store();
        write_frame(&store, 1, 1);
        write_frame(&store, 2, 9);
        let page = Page::from(&[3; 512][..]);
        let pages = [
            (PageNumber(3), page.clone()),
            (PageNumber(0x0102_0304), page),
        ];
        store.append(1, &pages, 0x0506_0708);
        let mut header = [9; 24];
        store.read(frame_offset(2), &mut header).unwrap();
        assert_eq!(header[..8], [0, 0, 0, 3, 0, 0, 0, 0]);
        store.read(frame_offset(3), &mut header).unwrap();
        assert_eq!(header[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn nothing_is_read_or_written_after_poison() {
        let store = store();
        write_frame(&store, 1, 1);
        assert_eq!(store.poison_and_take().length, 1);
        assert_eq!(store.read(0, &mut [0; 8]), Err(FrameFault::Poisoned));
        assert_eq!(write(&store, 0, &[0; 32]), Err(FrameFault::Poisoned));
        assert_eq!(store.newest(1, 1), Err(FrameFault::Poisoned));
    }
}

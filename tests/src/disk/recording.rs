//! What a disk was told to do, in order, and what a power loss may leave of it.

use std::sync::Arc;

use fastrand::Rng;

use super::image::Image;

/// How many events a recording had at some moment; it orders what happens beside the disk with
/// what happens on it.
pub type Position = usize;

/// Something that the disk has done.
#[derive(Clone, Debug)]
pub enum Event {
    /// It has taken in a write: until the next flush it may be lost, as a whole or in part.
    Write {
        /// Where, in bytes.
        offset: usize,
        /// What.
        content: Arc<[u8]>,
    },
    /// Everything before is on stable storage.
    Flush,
}

/// All events since a known content.
pub struct Recording {
    pub(super) start: Image,
    pub(super) events: Vec<Event>,
}

impl Recording {
    /// How many events there are.
    pub fn end(&self) -> Position {
        self.events.len()
    }

    /// How many bytes were written.
    pub fn written_bytes(&self) -> usize {
        let bytes = |event: &Event| match event {
            Event::Write { content, .. } => content.len(),
            Event::Flush => 0,
        };
        self.events.iter().map(bytes).sum()
    }

    /// The stretches between two flushes, from the start of the recording to its end.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch<'_>> {
        let mut durable = self.start.clone();
        let mut rest = self.events.as_slice();
        let mut end = 0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let is_flush = |event: &Event| matches!(event, Event::Flush);
            let length = rest.iter().position(is_flush).unwrap_or(rest.len());
            let (unsynced, after) = rest.split_at(length);
            end += length;
            let stretch = Stretch {
                durable: durable.clone(),
                unsynced,
                end,
            };
            for event in unsynced {
                apply(&mut durable, event, |_| true);
            }
            rest = after.get(1..).unwrap_or_default();
            end += usize::from(!after.is_empty());
            Some(stretch)
        })
    }
}

/// What was written between two flushes. The power may fail at any moment of it.
pub struct Stretch<'a> {
    durable: Image,
    unsynced: &'a [Event],
    /// Just before the flush that ends it: what else has happened until then, such as an
    /// acknowledgement, relied on `durable` alone.
    pub end: Position,
}

impl Stretch<'_> {
    /// How many writes are not on stable storage.
    pub fn unsynced_writes(&self) -> usize {
        self.unsynced.len()
    }

    /// The disk if nothing was kept that had not to be.
    pub fn durable(&self) -> &Image {
        &self.durable
    }

    /// The disk if some of what had not to be kept was kept, at random: sectors of 512 or of 4096
    /// bytes, whole writes, or all up to some moment, the last of them torn.
    pub fn random_image(&self, random: &mut Rng) -> Image {
        let mut image = self.durable.clone();
        let sector_bytes = if random.bool() { 512 } else { 4096 };
        let kept = random.u32(1..16);
        let mut by_chance = random.fork();
        let mut chance = move || by_chance.u32(0..16) < kept;
        match random.u8(0..4) {
            0 => {
                for event in self.unsynced {
                    let is_kept = chance();
                    apply(&mut image, event, |_| is_kept);
                }
            }
            1 => {
                let moment = random.usize(0..=self.unsynced.len());
                for event in &self.unsynced[..moment] {
                    apply(&mut image, event, |_| true);
                }
                if let Some(torn) = self.unsynced.get(moment) {
                    let sectors = random.usize(0..64);
                    apply(&mut image, torn, |offset| offset / sector_bytes < sectors);
                }
            }
            _ => {
                for event in self.unsynced {
                    let mut sector = (usize::MAX, false);
                    apply(&mut image, event, |offset| {
                        if sector.0 != offset / sector_bytes {
                            sector = (offset / sector_bytes, chance());
                        }
                        sector.1
                    });
                }
            }
        }
        image
    }
}

/// Writes those units of 512 bytes of `event` that `is_kept` by their offset within it.
///
/// The first block of the disk is written as a whole or not at all: it holds ext4's superblock of
/// 1024 bytes, which ext4 writes in place and which nothing mends when it is torn.
fn apply(image: &mut Image, event: &Event, mut is_kept: impl FnMut(usize) -> bool) {
    const UNIT_BYTES: usize = 512;
    const SUPERBLOCK_END: usize = 4096;
    let Event::Write { offset, content } = event else {
        return;
    };
    let mut within = 0;
    while within < content.len() {
        let whole = SUPERBLOCK_END.saturating_sub(offset + within);
        let unit = whole.max(UNIT_BYTES).min(content.len() - within);
        if is_kept(within) {
            image.write(offset + within, &content[within..within + unit]);
        }
        within += unit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Away from the superblock.
    const START: usize = 8192;

    fn write(offset: usize, byte: u8) -> Event {
        Event::Write {
            offset,
            content: vec![byte; 1024].into(),
        }
    }

    #[test]
    fn a_stretch_may_lose_what_was_not_flushed_and_nothing_else() {
        let recording = Recording {
            start: Image::zeros(1 << 20),
            events: vec![
                write(START, 1),
                Event::Flush,
                write(START, 2),
                write(START + 4096, 3),
            ],
        };
        let stretches: Vec<_> = recording.stretches().collect();
        assert_eq!(stretches.len(), 2);
        assert_eq!((stretches[0].end, stretches[1].end), (1, 4));
        assert_eq!(stretches[0].durable().read(START, 1), [0]);
        assert_eq!(stretches[1].durable().read(START, 1), [1]);
        let mut random = Rng::with_seed(1);
        let mut seen = [[false; 4]; 3];
        for _ in 0..200 {
            let image = stretches[1].random_image(&mut random);
            for (at, offset) in [START, START + 512, START + 4096].into_iter().enumerate() {
                seen[at][usize::from(image.read(offset, 1)[0])] = true;
            }
        }
        assert_eq!(seen[0], [false, true, true, false]);
        assert_eq!(seen[1], [false, true, true, false]);
        assert_eq!(seen[2], [true, false, false, true]);
    }
}

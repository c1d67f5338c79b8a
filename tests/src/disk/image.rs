//! The content of a disk.

use std::sync::Arc;

/// The unit in which content is shared between images, in bytes.
const BLOCK_BYTES: usize = 4096;
/// Blocks are shared in groups too, so that a clone costs little.
const GROUP_BLOCKS: usize = 256;
/// The unit of an image's length, in bytes.
const GROUP_BYTES: usize = GROUP_BLOCKS * BLOCK_BYTES;

type Block = [u8; BLOCK_BYTES];
/// None is a block of zeros.
type Group = [Option<Arc<Block>>; GROUP_BLOCKS];

/// The content of a disk. A clone shares the blocks of the original until one of them writes.
#[derive(Clone)]
pub struct Image {
    groups: Vec<Arc<Group>>,
}

impl Image {
    /// A disk of `bytes` zeros.
    ///
    /// # Panics
    /// If that is no multiple of 1 MiB.
    pub fn zeros(bytes: usize) -> Self {
        assert!(bytes.is_multiple_of(GROUP_BYTES), "{bytes} bytes");
        let zeros = Arc::new([const { None }; GROUP_BLOCKS]);
        Self {
            groups: vec![zeros; bytes / GROUP_BYTES],
        }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.groups.len() * GROUP_BYTES
    }

    /// The content from `offset` on, as far as the disk goes.
    pub fn read(&self, offset: usize, bytes: usize) -> Vec<u8> {
        let end = (offset + bytes).min(self.bytes());
        let mut content = Vec::with_capacity(end.saturating_sub(offset));
        let mut at = offset;
        while at < end {
            let within = at % BLOCK_BYTES;
            let part = (BLOCK_BYTES - within).min(end - at);
            let block = at / BLOCK_BYTES;
            match &self.groups[block / GROUP_BLOCKS][block % GROUP_BLOCKS] {
                Some(block) => content.extend_from_slice(&block[within..within + part]),
                None => content.resize(content.len() + part, 0),
            }
            at += part;
        }
        content
    }

    /// Overwrites what is at `offset`.
    ///
    /// # Panics
    /// If `content` goes past the end.
    pub fn write(&mut self, offset: usize, content: &[u8]) {
        let mut at = offset;
        let mut rest = content;
        while !rest.is_empty() {
            let within = at % BLOCK_BYTES;
            let part = (BLOCK_BYTES - within).min(rest.len());
            let block = at / BLOCK_BYTES;
            let group = Arc::make_mut(&mut self.groups[block / GROUP_BLOCKS]);
            let block =
                group[block % GROUP_BLOCKS].get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            Arc::make_mut(block)[within..within + part].copy_from_slice(&rest[..part]);
            at += part;
            rest = &rest[part..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_clones_are_apart() {
        let mut first = Image::zeros(GROUP_BYTES);
        first.write(BLOCK_BYTES - 3, b"abcdef");
        let mut second = first.clone();
        second.write(BLOCK_BYTES, b"DEF");
        assert_eq!(first.read(BLOCK_BYTES - 4, 8), b"\0abcdef\0");
        assert_eq!(second.read(BLOCK_BYTES - 4, 8), b"\0abcDEF\0");
        assert_eq!(first.read(GROUP_BYTES - 2, 100), b"\0\0");
    }
}

//! The payload of a log entry: a list of typed sections.
//!
//! A section holds the pages that transactions changed in one database, or a [`DatabaseAct`]: the
//! creation, dropping or restoring of one. It is `tag u8, 0 u8, 0 u16, body length u32, body`; a
//! reader refuses a tag that it does not know. All integers are little-endian. The byte tables are
//! in `docs/FORMAT.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ringlite_raft::{EntryKind, LogIndex};
use ringlite_vfs::{Page, PageNumber, PageSize};

use super::catalogue::DatabaseId;

/// By default a payload is closed and the next part begun once it is this long; a part can exceed
/// it by one page. It bounds what one entry, and one message between nodes, holds.
pub const PART_BYTES: usize = 1 << 20;

const TAG_CREATE_DATABASE: u8 = 1;
const TAG_PAGES: u8 = 2;
const TAG_DROP_DATABASE: u8 = 3;
const TAG_BEGIN_RESTORE: u8 = 4;
const TAG_RESTORE_CHUNK: u8 = 5;
const TAG_FINISH_RESTORE: u8 = 6;
const TAG_ABORT_RESTORE: u8 = 7;
const SECTION_HEADER_BYTES: usize = 8;

const IMAGE_RAW: u8 = 0;
const IMAGE_ZERO_RUN: u8 = 1;
/// A shorter run of zeros is not worth its description.
const ZERO_RUN_BYTES_MIN: usize = 64;

/// What the transactions of one entry made of one database: whole pages and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseChange {
    /// Which database.
    pub database: DatabaseId,
    /// Its size in pages after the change.
    pub page_count: u32,
    /// The changed pages, by ascending page number.
    pub pages: Vec<(PageNumber, Page)>,
}

/// A restore's identity: the index of the entry that began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RestoreId(pub LogIndex);

/// What happens to a database as a whole. Unlike pages, which are in a leader's WAL before they are
/// in its log, it takes effect on every node alike: when its entry is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseAct {
    /// A database comes into being; its id is the index of the entry.
    Create {
        /// The name clients open it by.
        name: String,
        /// The size of its pages.
        page_size: PageSize,
    },
    /// A database ceases to be, and its name is free.
    Drop {
        /// Which.
        database: DatabaseId,
    },
    /// A database file begins to arrive; the id of the restore is the index of the entry. Nothing
    /// of it is visible before [`DatabaseAct::FinishRestore`], and the no-op of a new term discards
    /// it.
    BeginRestore {
        /// How long the file is, in bytes.
        file_bytes: u64,
    },
    /// A piece of the file; pieces come in order and without gaps.
    RestoreChunk {
        /// Of which restore.
        restore: RestoreId,
        /// Where in the file it begins.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The file is whole and becomes a database, whose id is the index of the entry.
    FinishRestore {
        /// Of which restore.
        restore: RestoreId,
        /// The database of this name that ceases to be in the same moment, if there is one.
        replaces: Option<DatabaseId>,
        /// The name clients open it by.
        name: String,
    },
    /// What has arrived of a file is discarded.
    AbortRestore {
        /// Of which restore.
        restore: RestoreId,
    },
}

/// One decoded section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Section {
    /// Something happens to a database as a whole.
    Act(DatabaseAct),
    /// Pages of one database changed.
    Pages(DatabaseChange),
}

/// Why a payload cannot be read: a bug of ours or a newer version, as the checksums are right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It ends within a field.
    #[error("the payload ends within {0}")]
    Truncated(&'static str),
    /// A tag that this version does not know.
    #[error("the payload has a section of unknown kind {0}; a newer version wrote it")]
    UnknownSection(u8),
    /// A field has an impossible value.
    #[error("the payload has a bad {0}")]
    BadField(&'static str),
}

/// Encodes an act as the payload of an entry.
pub fn encode_act(act: &DatabaseAct) -> Bytes {
    let mut out = BytesMut::with_capacity(SECTION_HEADER_BYTES + 16 + act_bytes(act));
    put_section_header(&mut out, 0, 0);
    out[0] = match act {
        DatabaseAct::Create { name, page_size } => {
            out.put_u32_le(page_size.bytes());
            out.put_slice(name.as_bytes());
            TAG_CREATE_DATABASE
        }
        DatabaseAct::Drop { database } => {
            out.put_u64_le(database.0.0);
            TAG_DROP_DATABASE
        }
        DatabaseAct::BeginRestore { file_bytes } => {
            out.put_u64_le(*file_bytes);
            TAG_BEGIN_RESTORE
        }
        DatabaseAct::RestoreChunk {
            restore,
            offset,
            bytes,
        } => {
            out.put_u64_le(restore.0.0);
            out.put_u64_le(*offset);
            out.put_slice(bytes);
            TAG_RESTORE_CHUNK
        }
        DatabaseAct::FinishRestore {
            restore,
            replaces,
            name,
        } => {
            out.put_u64_le(restore.0.0);
            // No entry has index 0, and so no database.
            out.put_u64_le(replaces.map_or(0, |database| database.0.0));
            out.put_slice(name.as_bytes());
            TAG_FINISH_RESTORE
        }
        DatabaseAct::AbortRestore { restore } => {
            out.put_u64_le(restore.0.0);
            TAG_ABORT_RESTORE
        }
    };
    let body_bytes = (out.len() - SECTION_HEADER_BYTES) as u32;
    out[4..SECTION_HEADER_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
    out.freeze()
}

/// The bytes of an act that are not of a fixed length.
fn act_bytes(act: &DatabaseAct) -> usize {
    match act {
        DatabaseAct::Create { name, .. } | DatabaseAct::FinishRestore { name, .. } => name.len(),
        DatabaseAct::RestoreChunk { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

/// Encodes changes as the payloads of one entry or, when they are long, of a run of entries.
///
/// All but the last are [`EntryKind::DataPart`]; a part is readable by itself. A part is closed
/// once it is `part_bytes` long.
pub fn encode_changes(changes: &[DatabaseChange], part_bytes: usize) -> Vec<(EntryKind, Bytes)> {
    let mut parts = Vec::new();
    let mut out = BytesMut::with_capacity(first_part_capacity(changes, part_bytes));
    for change in changes {
        let mut section = open_pages(&mut out, change);
        for (number, page) in &change.pages {
            if out.len() >= part_bytes {
                close_pages(&mut out, &section);
                parts.push((EntryKind::DataPart, out.split().freeze()));
                section = open_pages(&mut out, change);
            }
            put_page(&mut out, *number, page);
            section.pages += 1;
        }
        close_pages(&mut out, &section);
    }
    parts.push((EntryKind::Data, out.freeze()));
    parts
}

fn first_part_capacity(changes: &[DatabaseChange], part_bytes: usize) -> usize {
    let pages: usize = changes
        .iter()
        .flat_map(|change| &change.pages)
        .map(|(_, page)| page.len() + 16)
        .sum();
    (pages + changes.len() * 32).min(part_bytes + (128 << 10))
}

struct OpenSection {
    start: usize,
    pages: u32,
}

fn open_pages(out: &mut BytesMut, change: &DatabaseChange) -> OpenSection {
    let start = out.len();
    put_section_header(out, TAG_PAGES, 0);
    out.put_u64_le(change.database.0.0);
    out.put_u32_le(change.page_count);
    out.put_u32_le(0);
    OpenSection { start, pages: 0 }
}

fn close_pages(out: &mut BytesMut, section: &OpenSection) {
    let body_bytes = (out.len() - section.start - SECTION_HEADER_BYTES) as u32;
    let count_at = section.start + SECTION_HEADER_BYTES + 12;
    out[section.start + 4..section.start + 8].copy_from_slice(&body_bytes.to_le_bytes());
    out[count_at..count_at + 4].copy_from_slice(&section.pages.to_le_bytes());
}

fn put_section_header(out: &mut BytesMut, tag: u8, body_bytes: usize) {
    out.put_u8(tag);
    out.put_bytes(0, 3);
    out.put_u32_le(body_bytes as u32);
}

/// `number u32, image u8, 0 u8, size code u16, ...`: either the whole image or the image without
/// its longest run of zeros, which in a B-tree page lies between the cell pointers and the cells.
fn put_page(out: &mut BytesMut, number: PageNumber, page: &[u8]) {
    out.put_u32_le(number.0);
    let (start, end) = longest_zero_run(page);
    if end - start < ZERO_RUN_BYTES_MIN {
        out.put_u8(IMAGE_RAW);
        out.put_bytes(0, 3);
        out.put_u32_le(page.len() as u32);
        out.put_slice(page);
    } else {
        out.put_u8(IMAGE_ZERO_RUN);
        out.put_bytes(0, 3);
        out.put_u32_le(page.len() as u32);
        out.put_u32_le(start as u32);
        out.put_u32_le(end as u32);
        out.put_slice(&page[..start]);
        out.put_slice(&page[end..]);
    }
}

/// The longest run of zero words, as a byte range whose ends are multiples of eight.
fn longest_zero_run(page: &[u8]) -> (usize, usize) {
    let mut best = (0, 0);
    let mut run_start = 0;
    for (word, bytes) in page.chunks_exact(8).enumerate() {
        if bytes != [0; 8] {
            run_start = (word + 1) * 8;
        } else if (word + 1) * 8 - run_start > best.1 - best.0 {
            best = (run_start, (word + 1) * 8);
        }
    }
    best
}

/// Decodes a payload; the pages are fresh copies that stand by themselves.
pub fn decode(mut payload: &[u8]) -> Result<Vec<Section>, PayloadError> {
    let mut sections = Vec::with_capacity(1);
    while !payload.is_empty() {
        let header = take(&mut payload, SECTION_HEADER_BYTES, "a section header")?;
        let tag = header[0];
        let mut lengths = &header[4..];
        let mut body = take(&mut payload, lengths.get_u32_le() as usize, "a section")?;
        sections.push(match tag {
            TAG_PAGES => Section::Pages(decode_pages(&mut body)?),
            tag => Section::Act(decode_act(tag, body)?),
        });
    }
    Ok(sections)
}

fn decode_act(tag: u8, mut body: &[u8]) -> Result<DatabaseAct, PayloadError> {
    let body = &mut body;
    let act = match tag {
        TAG_CREATE_DATABASE => DatabaseAct::Create {
            page_size: PageSize::new(take_u32(body, "a page size")?)
                .map_err(|_| PayloadError::BadField("page size"))?,
            name: take_name(body)?,
        },
        TAG_DROP_DATABASE => DatabaseAct::Drop {
            database: DatabaseId(take_index(body, "a database id")?),
        },
        TAG_BEGIN_RESTORE => DatabaseAct::BeginRestore {
            file_bytes: take_u64(body, "a file length")?,
        },
        TAG_RESTORE_CHUNK => DatabaseAct::RestoreChunk {
            restore: RestoreId(take_index(body, "a restore id")?),
            offset: take_u64(body, "an offset")?,
            bytes: Bytes::copy_from_slice(std::mem::take(body)),
        },
        TAG_FINISH_RESTORE => DatabaseAct::FinishRestore {
            restore: RestoreId(take_index(body, "a restore id")?),
            replaces: Some(take_index(body, "a database id")?)
                .filter(|index| *index > LogIndex::ZERO)
                .map(DatabaseId),
            name: take_name(body)?,
        },
        TAG_ABORT_RESTORE => DatabaseAct::AbortRestore {
            restore: RestoreId(take_index(body, "a restore id")?),
        },
        unknown => return Err(PayloadError::UnknownSection(unknown)),
    };
    if !body.is_empty() {
        return Err(PayloadError::BadField("section length"));
    }
    Ok(act)
}

/// The rest of the body.
fn take_name(body: &mut &[u8]) -> Result<String, PayloadError> {
    let name = std::str::from_utf8(std::mem::take(body));
    name.map(str::to_owned)
        .map_err(|_| PayloadError::BadField("database name"))
}

fn decode_pages(body: &mut &[u8]) -> Result<DatabaseChange, PayloadError> {
    let database = DatabaseId(take_index(body, "a database id")?);
    let page_count = take_u32(body, "a database size")?;
    let count = take_u32(body, "a page count")?;
    let mut pages = Vec::with_capacity((count as usize).min(PART_BYTES / 512));
    for _ in 0..count {
        pages.push(decode_page(body)?);
    }
    if !body.is_empty() {
        return Err(PayloadError::BadField("section length"));
    }
    Ok(DatabaseChange {
        database,
        page_count,
        pages,
    })
}

fn decode_page(body: &mut &[u8]) -> Result<(PageNumber, Page), PayloadError> {
    let number = PageNumber(take_u32(body, "a page number")?);
    let image = take(body, 4, "an image kind")?[0];
    let page_bytes = take_u32(body, "a page length")?;
    let page_size = PageSize::new(page_bytes).map_err(|_| PayloadError::BadField("page length"))?;
    let page_bytes = page_size.bytes() as usize;
    match image {
        IMAGE_RAW => Ok((number, Page::from(take(body, page_bytes, "a page")?))),
        IMAGE_ZERO_RUN => {
            let start = take_u32(body, "a zero run")? as usize;
            let end = take_u32(body, "a zero run")? as usize;
            if start > end || end > page_bytes {
                return Err(PayloadError::BadField("zero run"));
            }
            let mut page = vec![0; page_bytes];
            page[..start].copy_from_slice(take(body, start, "a page")?);
            page[end..].copy_from_slice(take(body, page_bytes - end, "a page")?);
            Ok((number, Page::from(page.as_slice())))
        }
        _ => Err(PayloadError::BadField("image kind")),
    }
}

fn take<'a>(
    from: &mut &'a [u8],
    bytes: usize,
    what: &'static str,
) -> Result<&'a [u8], PayloadError> {
    let (head, rest) = from
        .split_at_checked(bytes)
        .ok_or(PayloadError::Truncated(what))?;
    *from = rest;
    Ok(head)
}

fn take_u32(from: &mut &[u8], what: &'static str) -> Result<u32, PayloadError> {
    Ok(take(from, 4, what)?.get_u32_le())
}

fn take_u64(from: &mut &[u8], what: &'static str) -> Result<u64, PayloadError> {
    Ok(take(from, 8, what)?.get_u64_le())
}

fn take_index(from: &mut &[u8], what: &'static str) -> Result<LogIndex, PayloadError> {
    take_u64(from, what).map(LogIndex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> impl Strategy<Value = Vec<u8>> {
        (0usize..4096, 0usize..4096, any::<u8>()).prop_map(|(a, b, fill)| {
            let mut page = vec![fill; 4096];
            page[a.min(b)..a.max(b)].fill(0);
            page
        })
    }

    fn change() -> impl Strategy<Value = DatabaseChange> {
        (
            any::<u64>(),
            any::<u32>(),
            prop::collection::vec(page(), 0..6),
        )
            .prop_map(|(database, page_count, pages)| DatabaseChange {
                database: DatabaseId(LogIndex(database)),
                page_count,
                pages: (1..)
                    .map(PageNumber)
                    .zip(pages.iter().map(|page| Page::from(page.as_slice())))
                    .collect(),
            })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(changes in prop::collection::vec(change(), 1..3)) {
            let parts = encode_changes(&changes, PART_BYTES);
            prop_assert_eq!(parts.len(), 1);
            let decoded = decode(&parts[0].1).unwrap();
            let expected: Vec<_> = changes.into_iter().map(Section::Pages).collect();
            prop_assert_eq!(decoded, expected);
        }

        #[test]
        fn random_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_changed_byte_never_panics(change in change(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = encode_changes(&[change], PART_BYTES)[0].1.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_long_change_is_a_run_of_parts_that_join_to_it() {
        let page = Page::from([7u8; 4096].as_slice());
        let change = DatabaseChange {
            database: DatabaseId(LogIndex(3)),
            page_count: 600,
            pages: (1..=600).map(|n| (PageNumber(n), page.clone())).collect(),
        };
        let parts = encode_changes(std::slice::from_ref(&change), PART_BYTES);
        assert_eq!(parts.len(), 3);
        let kinds: Vec<_> = parts.iter().map(|part| part.0).collect();
        assert_eq!(
            kinds,
            [EntryKind::DataPart, EntryKind::DataPart, EntryKind::Data]
        );
        let mut joined = Vec::new();
        for (_, payload) in &parts {
            for section in decode(payload).unwrap() {
                let Section::Pages(part) = section else {
                    panic!("only pages were encoded")
                };
                assert_eq!(part.page_count, 600);
                joined.extend(part.pages);
            }
        }
        assert_eq!(joined, change.pages);
    }

    fn act() -> impl Strategy<Value = DatabaseAct> {
        let id = || (1u64..).prop_map(LogIndex);
        let name = || "[a-zA-Z0-9._-]{1,40}";
        let page_size = (9u32..=16).prop_map(|power| PageSize::new(1 << power).unwrap());
        let replaces = prop::option::of(id().prop_map(DatabaseId));
        let bytes = prop::collection::vec(any::<u8>(), 0..2000).prop_map(Bytes::from);
        prop_oneof![
            (name(), page_size)
                .prop_map(|(name, page_size)| DatabaseAct::Create { name, page_size }),
            id().prop_map(|id| DatabaseAct::Drop {
                database: DatabaseId(id)
            }),
            any::<u64>().prop_map(|file_bytes| DatabaseAct::BeginRestore { file_bytes }),
            (id(), any::<u64>(), bytes).prop_map(|(id, offset, bytes)| {
                let restore = RestoreId(id);
                DatabaseAct::RestoreChunk {
                    restore,
                    offset,
                    bytes,
                }
            }),
            (id(), replaces, name()).prop_map(|(id, replaces, name)| {
                let restore = RestoreId(id);
                DatabaseAct::FinishRestore {
                    restore,
                    replaces,
                    name,
                }
            }),
            id().prop_map(|id| DatabaseAct::AbortRestore {
                restore: RestoreId(id)
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_act_survives_the_codec_and_no_part_of_it_does(act in act(), cut in any::<prop::sample::Index>()) {
            let payload = encode_act(&act);
            let decoded = decode(&payload).unwrap();
            prop_assert_eq!(decoded, [Section::Act(act)]);
            let cut = 1 + cut.index(payload.len() - 1);
            prop_assert!(decode(&payload[..cut]).is_err());
        }
    }

    /// The bytes of each act: a change here is a new format.
    #[test]
    fn acts_are_laid_out_as_documented() {
        let check = |act: DatabaseAct, expected: &[u8]| {
            assert_eq!(encode_act(&act)[..], *expected, "{act:?}");
        };
        let restore = RestoreId(LogIndex(0x0102));
        let name = || "ab".to_owned();
        check(
            DatabaseAct::Create {
                name: name(),
                page_size: PageSize::DEFAULT,
            },
            &[1, 0, 0, 0, 6, 0, 0, 0, 0, 16, 0, 0, b'a', b'b'],
        );
        check(
            DatabaseAct::Drop {
                database: DatabaseId(LogIndex(9)),
            },
            &[3, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        );
        check(
            DatabaseAct::BeginRestore { file_bytes: 8192 },
            &[4, 0, 0, 0, 8, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0],
        );
        check(
            DatabaseAct::RestoreChunk {
                restore,
                offset: 3,
                bytes: Bytes::from_static(b"xyz"),
            },
            &[
                5, 0, 0, 0, 19, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'x',
                b'y', b'z',
            ],
        );
        check(
            DatabaseAct::FinishRestore {
                restore,
                replaces: None,
                name: name(),
            },
            &[
                6, 0, 0, 0, 18, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'a', b'b',
            ],
        );
        check(
            DatabaseAct::AbortRestore { restore },
            &[7, 0, 0, 0, 8, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0],
        );
    }

    #[test]
    fn a_one_row_page_fits_one_block_of_the_log() {
        let mut page = vec![0u8; 4096];
        page[..110].fill(1);
        page[3900..].fill(2);
        let change = DatabaseChange {
            database: DatabaseId(LogIndex(1)),
            page_count: 2,
            pages: vec![(PageNumber(2), Page::from(page.as_slice()))],
        };
        assert!(encode_changes(&[change], PART_BYTES)[0].1.len() < 500);
    }
}

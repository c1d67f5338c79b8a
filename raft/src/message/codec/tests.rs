use super::*;
use crate::hex;
use proptest::prelude::*;

fn entry(index: u64, term: u64, kind: EntryKind, payload: &'static [u8]) -> Entry {
    let payload = Bytes::from_static(payload);
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind,
        payload,
    }
}

/// One message of each kind, with numbers that show their byte order.
fn one_of_each() -> Vec<Message> {
    let (term, last_index, last_term) = (Term(0x0102), LogIndex(0x0304), Term(0x0101));
    let conflict = Conflict {
        index: LogIndex(9),
        term: Term(4),
        first: LogIndex(7),
    };
    vec![
        Message::PreVote {
            term,
            last_index,
            last_term,
        },
        Message::PreVoteReply {
            term,
            granted: true,
        },
        Message::Vote {
            term,
            last_index,
            last_term,
            by_transfer: true,
        },
        Message::VoteReply {
            term,
            granted: false,
        },
        Message::Append {
            term,
            prev_index: LogIndex(0x10),
            prev_term: Term(0x100),
            commit: LogIndex(0x0f),
            matched_by_all: LogIndex(0x0c),
            entries: vec![
                entry(0x11, 0x101, EntryKind::DataPart, b"part"),
                entry(0x12, 0x101, EntryKind::Data, b""),
                entry(0x13, 0x102, EntryKind::Noop, b""),
            ],
        },
        Message::AppendReply {
            term,
            result: AppendResult::Accepted {
                match_index: LogIndex(0x13),
            },
        },
        Message::AppendReply {
            term,
            result: AppendResult::Rejected {
                prev_index: LogIndex(0x10),
                conflict,
            },
        },
        Message::Heartbeat {
            term,
            commit: LogIndex(0x0f),
            matched_by_all: LogIndex(0x0c),
            round: 0x55,
        },
        Message::HeartbeatReply { term, round: 0x55 },
        Message::AppendReply {
            term,
            result: AppendResult::Damaged {
                prev_index: LogIndex(0x10),
                conflict,
            },
        },
        Message::TimeoutNow { term },
        Message::Removed {
            term,
            commit: LogIndex(0x0f),
            commit_term: Term(0x07),
        },
    ]
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(0x0a0b_0c0d, message, &mut frame);
    frame
}

fn decoded(frame: &[u8]) -> Result<(u32, Message), DecodeError> {
    let header = frame.first_chunk().expect("a header");
    decode(header, Bytes::copy_from_slice(&frame[FRAME_HEADER_BYTES..]))
}

/// Repairs the checksum, so that what lies behind it is tested.
fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    let body_bytes = (frame.len() - FRAME_HEADER_BYTES) as u32;
    frame[..CRC_AT].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = crc32fast::hash(&frame[VERSION_AT..]);
    frame[CRC_AT..VERSION_AT].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// If this fails the frame format has changed: give it a new version.
#[test]
fn the_frames_are_those_of_the_golden_file() {
    let frames: Vec<Vec<u8>> = one_of_each().iter().map(encoded).collect();
    hex::check("frames.hex", &frames);
}

#[test]
fn each_message_survives_its_frame() {
    for message in one_of_each() {
        let frame = encoded(&message);
        let header = frame.first_chunk().expect("a header");
        assert_eq!(frame_body_len(header), Ok(frame.len() - FRAME_HEADER_BYTES));
        assert_eq!(decoded(&frame), Ok((0x0a0b_0c0d, message)));
    }
}

#[test]
fn a_frame_is_appended_to_what_is_there() {
    let message = Message::HeartbeatReply {
        term: Term(1),
        round: 2,
    };
    let mut out = vec![1, 2, 3];
    encode(7, &message, &mut out);
    assert_eq!(decoded(&out[3..]), Ok((7, message)));
}

#[test]
fn payloads_are_not_copied() {
    let frame = encoded(&one_of_each()[4]);
    let body = Bytes::copy_from_slice(&frame[FRAME_HEADER_BYTES..]);
    let memory = body.as_ptr_range();
    let header = frame.first_chunk().expect("a header");
    let Ok((_, Message::Append { entries, .. })) = decode(header, body) else {
        panic!("no append");
    };
    assert!(memory.contains(&entries[0].payload.as_ptr()));
}

#[test]
fn every_flipped_bit_is_found() {
    for message in one_of_each() {
        let frame = encoded(&message);
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decoded(&damaged).is_err(), "bit {bit} of {message:?}");
        }
    }
}

#[test]
fn what_no_correct_peer_sends_is_named() {
    let check = |message: usize, change: fn(&mut Vec<u8>), text: &str| {
        let mut frame = encoded(&one_of_each()[message]);
        change(&mut frame);
        let error = decoded(&sealed(frame)).expect_err(text);
        assert!(error.to_string().contains(text), "{error}");
    };
    check(0, |frame| frame[VERSION_AT] = 1, "version 1");
    check(0, |frame| frame[TYPE_AT] = 0, "unknown message type 0");
    check(0, |frame| frame[TYPE_AT] = 11, "unknown message type 11");
    check(0, |frame| frame[ZERO_AT] = 1, "zero byte");
    check(0, |frame| frame.push(0), "1 bytes too many");
    check(0, |frame| frame.truncate(30), "ends too early");
    check(
        0,
        |frame| frame[FRAME_HEADER_BYTES + 15] = 0x80,
        "\"index\"",
    );
    check(0, |frame| frame[FRAME_HEADER_BYTES + 7] = 0x80, "\"term\"");
    check(1, |frame| frame[FRAME_HEADER_BYTES + 8] = 2, "\"granted\"");
    check(
        2,
        |frame| frame[FRAME_HEADER_BYTES + 24] = 2,
        "\"by transfer\"",
    );
    check(6, |frame| frame[FRAME_HEADER_BYTES + 8] = 4, "\"verdict\"");
    const ENTRIES: usize = FRAME_HEADER_BYTES + 48;
    check(4, |frame| frame[ENTRIES - 8] = 200, "\"entry count\"");
    check(4, |frame| frame[ENTRIES - 1] = 200, "\"entry count\"");
    check(4, |frame| frame[ENTRIES - 31] = 2, "\"previous term\"");
    check(4, |frame| frame[ENTRIES] = 0xff, "\"entry term\"");
    check(4, |frame| frame[ENTRIES + 1] = 0, "\"entry term\"");
    check(4, |frame| frame[ENTRIES + 11] = 0xff, "\"payload length\"");
    check(4, |frame| frame[ENTRIES + 8] = 0xff, "ends too early");
    check(4, |frame| frame[ENTRIES + 12] = 5, "\"entry kind\"");
    check(4, |frame| frame[ENTRIES + 13] = 1, "\"entry padding\"");
}

#[test]
fn lengths_are_bounded_before_anything_is_read() {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        frame_body_len(&header),
        Err(DecodeError::BodyTooLong {
            body_bytes: u32::MAX
        })
    );
    header[..4].copy_from_slice(&3u32.to_le_bytes());
    let short = decode(&header, Bytes::from_static(b"ab"));
    assert_eq!(
        short,
        Err(DecodeError::BodyLength {
            expected: 3,
            found: 2
        })
    );
}

fn any_entries(prev: u64, term: u64) -> impl Strategy<Value = Vec<Entry>> {
    let kind = prop_oneof![
        Just(EntryKind::Noop),
        Just(EntryKind::Data),
        Just(EntryKind::DataPart)
    ];
    let part = (kind, prop::collection::vec(any::<u8>(), 0..200), 0..3u64);
    prop::collection::vec(part, 0..8).prop_map(move |parts| {
        let mut of = term.saturating_sub(9).max(1);
        let numbered = (prev + 1..).zip(parts);
        numbered
            .map(|(index, (kind, payload, step))| {
                of = (of + step).min(term);
                let (term, index) = (Term(of), LogIndex(index));
                Entry {
                    term,
                    index,
                    kind,
                    payload: payload.into(),
                }
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn appends_survive(
        (prev, term, entries) in (0u64..1 << 40, 1u64..1 << 40)
            .prop_flat_map(|(prev, term)| (Just(prev), Just(term), any_entries(prev, term))),
        commit in 0u64..1 << 50,
        shard: u32,
    ) {
        let message = Message::Append {
            term: Term(term),
            prev_index: LogIndex(prev),
            prev_term: Term(term.saturating_sub(9)),
            commit: LogIndex(commit),
            matched_by_all: LogIndex(commit / 2),
            entries,
        };
        let mut frame = Vec::new();
        encode(shard, &message, &mut frame);
        prop_assert_eq!(decoded(&frame), Ok((shard, message)));
    }

    #[test]
    fn random_bytes_are_refused_or_a_message_but_never_a_panic(
        mut frame in prop::collection::vec(any::<u8>(), FRAME_HEADER_BYTES..300),
        message_type in 0u8..10,
        seal: bool,
    ) {
        if seal {
            frame[VERSION_AT..TYPE_AT].copy_from_slice(&FRAME_VERSION.to_le_bytes());
            frame[TYPE_AT] = message_type;
            frame[ZERO_AT] = 0;
            frame = sealed(frame);
        }
        if let Ok((shard, message)) = decoded(&frame) {
            let mut again = Vec::new();
            encode(shard, &message, &mut again);
            prop_assert_eq!(again, frame);
        }
    }

    #[test]
    fn a_changed_body_behind_a_right_checksum_is_refused_or_another_message(
        which in 0usize..9, at in 0usize..1000, byte: u8,
    ) {
        let mut frame = encoded(&one_of_each()[which]);
        let at = FRAME_HEADER_BYTES + at % (frame.len() - FRAME_HEADER_BYTES);
        frame[at] = byte;
        let frame = sealed(frame);
        if let Ok((shard, message)) = decoded(&frame) {
            let mut again = Vec::new();
            encode(shard, &message, &mut again);
            prop_assert_eq!(again, frame);
        }
    }
}

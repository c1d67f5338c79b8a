//! The decoder of what other nodes send: any bytes, as they are and with a right header.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringlite_raft::{FRAME_HEADER_BYTES, FRAME_VERSION, decode, encode, frame_body_len};

fuzz_target!(|data: &[u8]| {
    let Some((header, body)) = data.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return;
    };
    let _ = frame_body_len(header);
    let _ = decode(header, Bytes::copy_from_slice(body));
    let mut frame = data.to_vec();
    frame[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    frame[8..10].copy_from_slice(&FRAME_VERSION.to_le_bytes());
    frame[11] = 0;
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    let Some(header) = frame.first_chunk() else {
        return;
    };
    let body = Bytes::copy_from_slice(&frame[FRAME_HEADER_BYTES..]);
    if let Ok((shard, message)) = decode(header, body) {
        // There is one way only to say it.
        let mut again = Vec::new();
        encode(shard, &message, &mut again);
        assert_eq!(again, frame, "{message:?}");
    }
});

//! The decoder of what clients ask: any body, by any type and schema.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlite::wire::Request;

fuzz_target!(|data: &[u8]| {
    let Some(([kind, schema], body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let Ok(request) = Request::decode(*kind, *schema, body) else {
        return;
    };
    // What was understood can be said, and is understood in the same way again.
    let mut message = Vec::new();
    if request.encode(&mut message).is_ok() {
        let again = Request::decode(message[4], message[5], &message[8..]);
        assert_eq!(format!("{again:?}"), format!("{:?}", Ok::<_, ()>(&request)));
    }
});

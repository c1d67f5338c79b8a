//! The decoder of a manifest: any bytes, as they are and with a right checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringlite::fuzzing::manifest(data));

//! The decoder reads the encoder's output back.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::sse::round_trip(input));

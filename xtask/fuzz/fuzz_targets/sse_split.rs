//! How a stream is cut changes nothing.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::sse::split_invariance(input));

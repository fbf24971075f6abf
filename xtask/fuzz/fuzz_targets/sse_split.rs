//! The frames do not depend on how a stream is cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::sse::split_invariance(input));

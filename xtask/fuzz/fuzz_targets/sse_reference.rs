//! The decoder agrees with a slow model of the rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::sse::reference(input));

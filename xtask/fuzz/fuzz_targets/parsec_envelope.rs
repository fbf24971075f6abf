//! An envelope that was read and written again reads the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::parsec::envelope(input));

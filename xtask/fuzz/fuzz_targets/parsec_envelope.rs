//! What is read as an envelope is written so that it reads the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::parsec::envelope(input));

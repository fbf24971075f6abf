//! Positions of a stream go on by one, or a gap says why not.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::parsec::stream(input));

//! Positions of a stream grow by one, or a gap gives the reason.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::parsec::stream(input));

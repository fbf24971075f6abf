//! A WebSocket session always waits for something.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::parsec::socket(input));

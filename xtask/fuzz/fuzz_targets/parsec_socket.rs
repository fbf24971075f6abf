//! After any inputs, a WebSocket session has a next action.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::parsec::socket(input));

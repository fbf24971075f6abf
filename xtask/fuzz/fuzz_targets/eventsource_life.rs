//! After any inputs, the connection machine has a next action.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::eventsource::life(input));

//! Whatever happens to a connection, its machine waits for something.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::eventsource::life(input));

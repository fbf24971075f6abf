//! Properties of `relay_proto::durable`: see `relay_fuzz::durable::producer_life`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::durable::producer_life(input));

//! Events of an auto-configuration stream are read or refused, and mean the same once written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::autoconfig::message(input));

//! Events of an auto-configuration stream are read or refused, and mean the same after they were written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_fuzz::autoconfig::message(input));

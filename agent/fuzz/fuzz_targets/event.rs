//! The fuzzer's entry to `podlens_fuzz::event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podlens_fuzz::event(input));

//! The fuzzer's entry to `podlens_fuzz::watch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podlens_fuzz::watch(input));

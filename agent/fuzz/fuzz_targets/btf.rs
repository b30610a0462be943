//! The fuzzer's entry to `podlens_fuzz::btf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podlens_fuzz::btf(input));

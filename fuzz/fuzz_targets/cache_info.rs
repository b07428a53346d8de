//! `fuzz::cache_info` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::cache_info::run(data));

//! `fuzz::git_files` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::git_files::run(data));

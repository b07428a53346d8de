//! Every target holds for its seeds, and for the same few thousand changes of them in each run.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails so says where"
)]

use fastrand::Rng;
use fuzz::TARGETS;
use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory("seeds").join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// `seed` with a few changes, as libFuzzer makes them.
fn changed(seed: &[u8], others: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..5) {
        let at = random.usize(..=bytes.len());
        let to = random.usize(at..=bytes.len().min(at + 40));
        match random.u8(..7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => bytes.insert(at, random.u8(..)),
            3 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = &others[random.usize(..others.len())];
                let from = random.usize(..=other.len());
                let until = random.usize(from..=other.len().min(from + 60));
                bytes.splice(at..to, other[from..until].iter().copied());
            }
            5 if at < bytes.len() => bytes[at] = random.u8(..),
            _ if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            _ => bytes.push(random.u8(..)),
        }
    }
    bytes
}

/// The target holds for its seeds and for `count` changes of them.
fn holds(target: &str, count: usize) {
    let (_, run) = TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .unwrap();
    let seeds = seeds(target);
    let mut random = Rng::with_seed(11);
    let inputs = (0..count).map(|_| {
        let seed = &seeds[random.usize(..seeds.len())];
        changed(seed, &seeds, &mut random)
    });
    for input in seeds.iter().cloned().chain(inputs) {
        assert!(
            catch_unwind(|| run(&input)).is_ok(),
            "{target} does not hold for b\"{}\"",
            input.escape_ascii()
        );
    }
}

#[test]
fn a_cache_s_description_is_read_line_by_line() {
    holds("cache_info", 10_000);
}

#[test]
fn whatever_is_in_git_s_files_they_are_read_or_refused() {
    holds("git_files", 500);
}

#[test]
fn whatever_hydra_answers_is_read_or_refused() {
    holds("hydra_json", 10_000);
}

#[test]
fn a_nar_is_unpacked_to_the_byte_and_nowhere_else() {
    holds("nar", 4_000);
}

#[test]
fn a_narinfo_is_believed_only_as_it_was_signed() {
    holds("narinfo", 5_000);
}

#[test]
fn every_path_of_any_closure_has_one_layer_and_they_are_few() {
    holds("placement", 500);
}

#[test]
fn a_procfile_s_processes_are_those_that_were_written() {
    holds("procfile", 10_000);
}

#[test]
fn references_are_found_in_pieces_as_in_the_whole() {
    holds("references", 3_000);
}

#[test]
fn settings_are_refused_without_showing_a_password() {
    holds("settings", 5_000);
}

#[test]
fn every_target_has_seeds_and_a_program_for_libfuzzer() {
    let names = |place: &str| -> BTreeSet<String> {
        fs::read_dir(directory(place))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() || path.extension().is_some_and(|end| end == "rs"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_string())
            .collect()
    };
    let targets: BTreeSet<String> = TARGETS
        .iter()
        .map(|(name, _)| (*name).to_string())
        .collect();
    assert_eq!(names("seeds"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}

//! How much memory a download takes, with as many NARs at once as on any machine. It has a process to
//! itself, whose peak is measured.

#![allow(clippy::unwrap_used, reason = "a test that fails so says where")]

use binary_cache::{Caches, TrustSettings};
use closure::fetch::fetch_each;
use closure::plan::{Previous, plan};
use closure::queue::{Queue, QueuedPath};
use closure::relocate::references::ScanFor;
use http_client::Http;
use nix_derivation::{NixHash, StorePath};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const MIB: usize = 1024 * 1024;

/// What a build may take in all is 256 MiB; this leaves some for all else.
const MEMORY: usize = 200 * MIB;

/// The NAR of one file with so many bytes.
fn nar(size: usize) -> Vec<u8> {
    let text = (0..1000).map(|number| number.to_string());
    let text = text.collect::<Vec<_>>().join(" ");
    let content = text.repeat(size / text.len());
    let mut nar = Vec::new();
    let tokens = [
        "nix-archive-1",
        "(",
        "type",
        "regular",
        "contents",
        &content,
        ")",
    ];
    for token in tokens {
        nar.extend((token.len() as u64).to_le_bytes());
        nar.extend_from_slice(token.as_bytes());
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// Writes `nar` into a cache of files as `name`, packed with a window of 2 to the power of `log` bytes.
/// Returns the fields of a narinfo.
fn put(cache: &Path, name: &str, nar: &[u8], log: u32) -> String {
    let file = fs::File::create(cache.join(name)).unwrap();
    let mut encoder = zstd::Encoder::new(file, 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(nar).unwrap();
    encoder.finish().unwrap();
    let hash = NixHash::Sha256(Sha256::digest(nar).into()).to_nix_nixbase32_string();
    format!(
        "URL: {name}\nCompression: zstd\nNarHash: {hash}\nNarSize: {}\n",
        nar.len()
    )
}

/// The peak of this process's memory, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[test]
fn large_windows_are_not_all_in_memory_at_once() {
    // Only memory in use counts here, so malloc gives back what is freed; the whole program's memory is
    // measured in `tests/it/memory.rs` of the buildpack.
    const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
    const LONG: usize = 3;
    const USUAL: usize = 24;
    if std::env::var_os(THRESHOLD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        assert!(child.env(THRESHOLD, "65536").status().unwrap().success());
        return;
    }
    let cache = TempDir::new().unwrap();
    fs::write(
        cache.path().join("nix-cache-info"),
        "StoreDir: /nix/store\n",
    )
    .unwrap();
    // As `zstd --long=27` and `zstd -19` have them.
    let long = put(cache.path(), "long", &nar(130 * MIB), 27);
    let usual = put(cache.path(), "usual", &nar(9 * MIB), 23);
    let base = |number: usize| format!("{number:032}-x");
    let all: Vec<String> = (0..LONG + USUAL).map(base).collect();
    for (number, base) in all.iter().enumerate() {
        let fields = if number < LONG { &long } else { &usual };
        let references = if number == 0 {
            all.join(" ")
        } else {
            String::new()
        };
        let narinfo = format!("StorePath: /nix/store/{base}\n{fields}References: {references}\n");
        fs::write(
            cache.path().join(format!("{}.narinfo", &base[..32])),
            narinfo,
        )
        .unwrap();
    }
    let url = format!("file://{}?trusted=true", cache.path().display());
    let trust = TrustSettings {
        keys: Vec::new(),
        required: true,
    };
    let caches = Caches::open(&[url.parse().unwrap()], trust, &Http::new(), &|_, _| None);
    let root: StorePath = format!("/nix/store/{}", all[0]).parse().unwrap();
    let closure = plan(&caches, &[root], &Previous::default(), |_, _| {}).unwrap();
    let store = TempDir::new().unwrap();
    let paths = closure.paths.into_iter().map(|(path, info)| QueuedPath {
        place: store.path().join(path.to_basename()),
        path,
        info,
    });
    let queue = Queue::of(paths);
    // The peak begins anew (`proc_pid_clear_refs(5)`).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let fetched = fetch_each(&queue, &caches, &ScanFor::Nothing).unwrap();
    assert_eq!(fetched.len(), LONG + USUAL);
    let peak = peak();
    assert!(peak < MEMORY, "{} MiB", peak / MIB);
}

//! What is downloaded: the binary caches that `script/setup` has made, and the cases of the bench.

use anyhow::{Context, Result};
use nix_derivation::{StoreDir, StorePath};
use nix_narinfo::NarInfo;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What this machine has, as `script/setup` and `script/setup big` wrote it down.
pub(crate) struct Fixtures {
    /// The directory of the caches; what is downloaded goes to the same disk.
    pub(crate) directory: PathBuf,
    pub(crate) nix: PathBuf,
    pub(crate) nix_version: String,
    pub(crate) big: Big,
}

/// `big.json`
#[derive(Deserialize)]
pub(crate) struct Big {
    root: String,
    pub(crate) paths: usize,
    pub(crate) nar_bytes: u64,
    pub(crate) files: usize,
    caches: BTreeMap<String, PathBuf>,
    pixz_root: String,
    huge_root: String,
    pub(crate) public_key: String,
    small: Small,
}

#[derive(Deserialize)]
struct Small {
    root: String,
    cache: PathBuf,
}

/// The part of `fixtures.json` that is needed here.
#[derive(Deserialize)]
struct Nix {
    nix: PathBuf,
    nix_version: String,
}

/// The names of all cases.
pub(crate) const NAMES: [&str; 11] = [
    "zstd",
    "none",
    "xz",
    "latency",
    "tls",
    "tls-latency",
    "tls-far",
    "pixz",
    "huge",
    "small",
    "small-tls",
];

/// How a cache is reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    /// TLS 1.3, with HTTP/2 offered.
    pub(crate) tls: bool,
    /// A round trip, in milliseconds.
    pub(crate) latency: u64,
}

/// One closure from one cache.
pub(crate) struct Case {
    /// Its name in figures and on the command line.
    pub(crate) name: &'static str,
    /// What the table calls it.
    pub(crate) title: &'static str,
    pub(crate) cache: PathBuf,
    pub(crate) root: String,
    pub(crate) link: Link,
}

impl Fixtures {
    pub(crate) fn read() -> Result<Self> {
        let directory = directory().context("neither NIX_HYDRA_CACHE nor HOME is set")?;
        let nix: Nix = read_json(&directory.join("fixtures.json"), "script/setup")?;
        let big: Big = read_json(&directory.join("big.json"), "script/setup big")?;
        Ok(Self {
            directory,
            nix: nix.nix,
            nix_version: nix.nix_version,
            big,
        })
    }

    /// All cases, as [`NAMES`].
    pub(crate) fn cases(&self) -> Result<Vec<Case>> {
        let case = |name, title, compression, root: &str, (tls, latency)| -> Result<Case> {
            Ok(Case {
                name,
                title,
                cache: self.cache(compression)?,
                root: root.to_string(),
                link: Link { tls, latency },
            })
        };
        let (http, https) = ((false, 0), (true, 0));
        let (big, pixz, huge) = (&self.big.root, &self.big.pixz_root, &self.big.huge_root);
        let small = &self.big.small.root;
        [
            case("zstd", "big, zstd", "zstd", big, http),
            case("none", "big, none", "none", big, http),
            case("xz", "big, xz", "xz", big, http),
            case(
                "latency",
                "big, zstd, 20 ms of latency",
                "zstd",
                big,
                (false, 20),
            ),
            case("tls", "big, zstd, TLS", "zstd", big, https),
            case(
                "tls-latency",
                "big, zstd, TLS, 20 ms",
                "zstd",
                big,
                (true, 20),
            ),
            case(
                "tls-far",
                "big, zstd, TLS, 100 ms",
                "zstd",
                big,
                (true, 100),
            ),
            case("pixz", "one NAR, xz in blocks", "pixz", pixz, http),
            case("huge", "one file of 2 GiB, zstd", "huge", huge, http),
            case("small", "small, zstd", "small", small, http),
            case("small-tls", "small, zstd, TLS", "small", small, https),
        ]
        .into_iter()
        .collect()
    }

    fn cache(&self, compression: &str) -> Result<PathBuf> {
        let cache = match compression {
            "small" => Some(&self.big.small.cache),
            _ => self.big.caches.get(compression),
        };
        cache
            .cloned()
            .with_context(|| format!("big.json names no {compression} cache"))
    }
}

/// What the binary cache in the directory `cache` says of the closure of `root`.
pub(crate) fn narinfos(cache: &Path, root: &str) -> Result<Vec<NarInfo>> {
    let root: StorePath = root.parse()?;
    let mut met = BTreeSet::from([root.clone()]);
    let mut waiting = vec![root];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        let name = path.to_basename();
        let hash_part = name.split('-').next().unwrap_or_default();
        let text = std::fs::read(cache.join(hash_part).with_extension("narinfo"))
            .with_context(|| format!("{path} is not in {}", cache.display()))?;
        let narinfo = NarInfo::parse_in(&StoreDir::default(), &text)?;
        for reference in narinfo.references() {
            if met.insert(reference.clone()) {
                waiting.push(reference.clone());
            }
        }
        found.push(narinfo);
    }
    Ok(found)
}

/// As `script/setup` finds it.
fn directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NIX_HYDRA_CACHE").map(PathBuf::from).or_else(|| {
        set("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&set("HOME")?).join(".cache")))
            .map(|caches| caches.join("nix-hydra-buildpack"))
    })
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path, made_by: &str) -> Result<T> {
    let text = std::fs::read(path)
        .with_context(|| format!("{} is missing: run {made_by}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}: run {made_by}", path.display()))
}

//! What is downloaded: the binary caches that `script/setup` has made, and the cases of the bench.

use anyhow::{Context, Result};
use nix_derivation::{StoreDir, StorePath};
use nix_narinfo::NarInfo;
use platform::bench::Options;
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
pub(crate) const NAMES: [&str; 7] = ["zstd", "none", "xz", "latency", "pixz", "huge", "small"];

/// One closure from one cache.
pub(crate) struct Case {
    /// Its name in figures and on the command line.
    pub(crate) name: &'static str,
    /// What the table calls it.
    pub(crate) title: &'static str,
    pub(crate) cache: PathBuf,
    pub(crate) root: String,
    /// Whether the cache is behind the proxy that adds latency.
    pub(crate) distant: bool,
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

    /// The cases that are to be measured.
    pub(crate) fn cases(&self, options: &Options) -> Result<Vec<Case>> {
        let big = |name, title, compression: &str, distant| -> Result<Case> {
            Ok(Case {
                name,
                title,
                cache: self.cache(compression)?,
                root: self.big.root.clone(),
                distant,
            })
        };
        let all = vec![
            big("zstd", "big, zstd", "zstd", false)?,
            big("none", "big, none", "none", false)?,
            big("xz", "big, xz", "xz", false)?,
            big("latency", "big, zstd, 20 ms of latency", "zstd", true)?,
            Case {
                name: "pixz",
                title: "one NAR, xz in blocks",
                cache: self.cache("pixz")?,
                root: self.big.pixz_root.clone(),
                distant: false,
            },
            Case {
                name: "huge",
                title: "one file of 2 GiB, zstd",
                cache: self.cache("huge")?,
                root: self.big.huge_root.clone(),
                distant: false,
            },
            Case {
                name: "small",
                title: "small, zstd",
                cache: self.big.small.cache.clone(),
                root: self.big.small.root.clone(),
                distant: false,
            },
        ];
        let wanted = |case: &Case| options.wants(case.name);
        Ok(all.into_iter().filter(wanted).collect())
    }

    fn cache(&self, compression: &str) -> Result<PathBuf> {
        let cache = self.big.caches.get(compression);
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

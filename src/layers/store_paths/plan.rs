//! The plan of a closure's layers: where each path goes, and what each layer is made from.

use crate::layers::describe::programs;
use closure::Closure;
use closure::place::Placement;
use closure::relocate::references::{ReferenceScanner, ScanFor};
use closure::relocate::relocation::Relocation;
use nix_derivation::StorePath;
use nix_hydra_start::image::STORE_DIR;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Where each path of a closure goes.
#[derive(Debug)]
pub struct Plan<'a> {
    pub closure: &'a Closure,
    pub placement: Placement,
    /// Whether references are looked for, and where they lead if they are rewritten.
    pub references: References,
    layers_dir: PathBuf,
}

/// What is done about references while a closure is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum References {
    Ignore,
    /// They are counted, and what prevents rewriting them is noted.
    Count,
    /// They are rewritten.
    Rewrite(Relocation),
}

/// Why the programs of a root cannot be told.
pub(super) enum Unseen {
    /// They are in this layer, which is kept and so not here.
    Kept(String),
    Unreadable(io::Error),
}

impl From<io::Error> for Unseen {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

impl<'a> Plan<'a> {
    pub fn new(closure: &'a Closure, layers_dir: &Path, references: References) -> Self {
        Self {
            closure,
            placement: Placement::of(closure),
            references,
            layers_dir: layers_dir.to_path_buf(),
        }
    }

    /// Where a path is in the image.
    pub fn place(&self, path: &StorePath) -> PathBuf {
        let layer = self.placement.places.get(path).map_or("", String::as_str);
        self.layers_dir.join(layer).join(path.to_basename())
    }

    /// Where the app sees a path.
    pub fn seen_at(&self, path: &StorePath) -> PathBuf {
        let base_name = path.to_basename();
        match &self.references {
            References::Rewrite(relocation) => relocation.place(&base_name),
            _ => Path::new(STORE_DIR).join(base_name),
        }
    }

    pub(super) fn scan_for(&self) -> ScanFor {
        match &self.references {
            References::Ignore => ScanFor::Nothing,
            References::Count => ScanFor::Declared,
            References::Rewrite(relocation) => {
                let paths = self.closure.paths.keys();
                ScanFor::All(ReferenceScanner::new(paths, Some(relocation.clone())))
            }
        }
    }

    /// The hash of all that decides what is in a layer: its paths, their content, whether they are
    /// roots (more is known of these), and where references lead that are rewritten.
    pub(super) fn key(&self, paths: &BTreeSet<StorePath>) -> String {
        let mut hash = Sha256::new();
        let mut add = |part: &str| {
            hash.update(part.as_bytes());
            hash.update(b"\n");
        };
        if let References::Rewrite(relocation) = &self.references {
            add(&relocation.directory().to_string_lossy());
        }
        for path in paths {
            let Some(info) = self.closure.paths.get(path) else {
                continue;
            };
            let is_root = self.closure.roots.contains(path);
            add(&path.to_basename());
            add(&info.nar_hash.to_nix_nixbase32_string());
            add(if is_root { "root" } else { "" });
        }
        hex::encode(hash.finalize())
    }

    /// What a root's programs are, where only the layers in `fresh` are here.
    pub(super) fn programs(
        &self,
        root: &StorePath,
        fresh: &BTreeSet<String>,
    ) -> Result<Vec<String>, Unseen> {
        programs(&self.seen_at(root), self.now(fresh))
    }

    /// Returns where a path that the app sees is now, where only the layers in `fresh` are here.
    pub(super) fn now(
        &self,
        fresh: &BTreeSet<String>,
    ) -> impl Fn(&Path) -> Result<Option<PathBuf>, Unseen> {
        let seen: BTreeMap<PathBuf, &StorePath> = self
            .closure
            .paths
            .keys()
            .map(|path| (self.seen_at(path), path))
            .collect();
        // All are as deep in the tree of files.
        let levels = seen
            .keys()
            .next()
            .map_or(0, |path| path.components().count());
        move |path| {
            let top: PathBuf = path.components().take(levels).collect();
            let Some(store_path) = seen.get(&top) else {
                return Ok(None);
            };
            match self.placement.places.get(store_path) {
                Some(layer) if !fresh.contains(layer) => Err(Unseen::Kept(layer.clone())),
                _ => {
                    let inside = path.strip_prefix(&top).unwrap_or(Path::new(""));
                    Ok(Some(self.place(store_path).join(inside)))
                }
            }
        }
    }
}

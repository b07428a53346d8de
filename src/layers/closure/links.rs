//! The content of the closure layer: a link to each store path, and what the start program needs to know.

use super::download::Filled;
use crate::layers::describe::describe;
use crate::layers::store_paths::Plan;
use crate::report;
use binary_cache::PathInfo;
use nix_derivation::StorePath;
use nix_hydra_start::image;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where scanners find the names of the store paths: they look for a directory `nix/store`, whatever it is
/// in. Nothing else reads it.
const SCANNED: &str = ".names/nix/store";

/// How many store paths `PRoot` gets a binding for. Each costs every look-up of a path about a
/// four-hundredth more; a link costs those through it nearly half more: see `docs/performance.md`.
const MAX_BOUND: usize = 40;

/// Writes a link to each store path, by the name under which the app sees it, and the files that the
/// start program reads.
pub(super) fn write_links(directory: &Path, filled: &Filled) -> io::Result<()> {
    let plan = &filled.plan;
    let scanned = directory.join(SCANNED);
    fs::create_dir_all(&scanned)?;
    for path in plan.closure.paths.keys() {
        if let Some(name) = plan.seen_at(path).file_name() {
            symlink(plan.place(path), directory.join(name))?;
        }
        symlink(plan.place(path), scanned.join(path.to_basename()))?;
    }
    let bound = if filled.relocatability.is_relocated() {
        Vec::new()
    } else {
        bound(plan, &filled.stores.with_escaping_links)
    };
    let image = describe(&filled.stores.seen, &filled.roots, bound);
    fs::write(directory.join(image::FILE), image.to_string())?;
    if !filled.vouched.is_empty() {
        let vouched = filled.vouched.iter().map(|file| format!("{file}\n"));
        fs::write(directory.join(image::VOUCHED), vouched.collect::<String>())?;
    }
    report::write_members(directory, plan.closure)
}

/// The places of the paths that an engine should not reach by a link: those with links to their
/// neighbours, however many, then the roots and the largest.
fn bound(plan: &Plan, with_escaping_links: &BTreeSet<String>) -> Vec<PathBuf> {
    let must = |path: &StorePath| with_escaping_links.contains(&path.to_basename());
    let mut all: Vec<(&StorePath, &PathInfo)> = plan.closure.paths.iter().collect();
    all.sort_by_key(|(path, info)| {
        let is_root = plan.closure.roots.contains(path);
        Reverse((must(path), is_root, info.nar_size))
    });
    let paths = all.into_iter().map(|(path, _)| path).enumerate();
    paths
        .take_while(|(index, path)| *index < MAX_BOUND || must(path))
        .map(|(_, path)| plan.place(path))
        .collect()
}

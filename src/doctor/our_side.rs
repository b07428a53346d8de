//! Our own side: the sources that enter the derivation, and the inputs that are not pinned.

use super::stores::{EvaluatedStore, Store};
use super::tree::Tree;
use crate::config::{Config, Expression};
use crate::resolve::pins::{self, Unpinned};
use http_client::without_credentials;
use hydra::revision;
use nix_derivation::StorePath;
use nix_runner::nar_store::NarStore;
use std::collections::BTreeSet;
use std::path::Path;

/// The evaluation that is compared with Hydra's.
#[derive(Debug)]
pub struct Evaluated<'a> {
    /// The store that was evaluated in.
    pub store: &'a NarStore,
    pub root: &'a StorePath,
    /// The app's source in the store.
    pub source: &'a StorePath,
    pub source_files: usize,
    pub system: &'a str,
}

/// Our side of the comparison.
#[derive(Debug, Default)]
pub struct OurSide {
    pub derivation: Option<StorePath>,
    /// The revision that is deployed, where that is known.
    pub revision: Option<String>,
    pub system: String,
    /// The app's source, and how many files it has.
    pub source: Option<StorePath>,
    pub source_files: usize,
    pub tree: Tree,
    /// It is evaluated as a flake, which Hydra fetches differently.
    pub is_flake: bool,
    /// All sources of the derivation and its inputs, with their number of files; the derivation's own
    /// come first.
    pub sources: Vec<(StorePath, usize)>,
    pub unpinned: Vec<Unpinned>,
    /// Files in which a git checkout differs from its revision.
    pub changes: Vec<String>,
    /// Without credentials, as it is shown.
    pub nix_path: Option<String>,
}

/// Collects everything that the comparison needs from the evaluated store.
pub(super) fn look(
    evaluated: &Evaluated,
    expression: &Expression,
    config: &Config,
    app_dir: &Path,
    store: &mut EvaluatedStore,
) -> OurSide {
    OurSide {
        system: evaluated.system.to_string(),
        source: Some(evaluated.source.clone()),
        source_files: evaluated.source_files,
        tree: store.tree(evaluated.source).unwrap_or_default(),
        sources: sources(evaluated.root, store),
        unpinned: pins::unpinned(app_dir, expression, config),
        is_flake: expression.is_flake(),
        changes: revision::changes(app_dir).unwrap_or_default(),
        nix_path: config.nix_path.as_deref().map(without_credentials),
        ..OurSide::default()
    }
}

fn sources(root: &StorePath, store: &mut EvaluatedStore) -> Vec<(StorePath, usize)> {
    let mut next: Vec<StorePath> = store.deriver(root).into_iter().collect();
    let mut met: BTreeSet<StorePath> = next.iter().cloned().collect();
    let mut found: Vec<(StorePath, usize)> = Vec::new();
    while let Some(derivation) = next.pop().and_then(|path| store.derivation(&path)) {
        for source in derivation.input_sources() {
            if found.iter().all(|(other, _)| other != source) {
                let files = store.tree(source).map_or(0, |tree| tree.files.len());
                found.push((source.clone(), files));
            }
        }
        let inputs = derivation.input_derivations().keys();
        next.extend(inputs.filter(|path| met.insert((*path).clone())).cloned());
    }
    found
}

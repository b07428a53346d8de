//! Our own side: the sources that enter the derivation, and the inputs that are not pinned.

use super::compare::{plain_name, was_copied};
use super::stores::{EvaluatedStore, Store};
use super::tree::Tree;
use crate::config::{Config, Expression};
use crate::resolve::pins::{self, Unpinned};
use crate::resolve::source::Source;
use closure::Closure;
use http_client::without_credentials;
use hydra::revision;
use nix_derivation::StorePath;
use nix_runner::nar_store::NarStore;
use std::collections::{BTreeSet, VecDeque};

/// The evaluation that is compared with Hydra's.
#[derive(Debug)]
pub struct Evaluated<'a> {
    /// The store that was evaluated in.
    pub store: &'a NarStore,
    pub root: &'a StorePath,
    pub source: &'a Source,
    pub expression: &'a Expression,
    pub system: &'a str,
    /// Whether no binary cache has the root.
    pub is_missing: bool,
    /// The previous image's closure, where there is one.
    pub before: Option<&'a Closure>,
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
    /// The sources of the derivation and of what it is made from.
    pub sources: Sources,
    pub unpinned: Vec<Unpinned>,
    /// Files in which a git checkout differs from its revision.
    pub changes: Vec<String>,
    /// Without credentials, as it is shown.
    pub nix_path: Option<String>,
}

/// Sources of derivations.
#[derive(Debug, Default)]
pub struct Sources {
    /// The app's, with their numbers of files; those nearest the root first.
    pub own: Vec<(StorePath, usize)>,
    /// How many there are of nixpkgs and other inputs.
    pub others: usize,
}

/// Collects everything that the comparison needs from the evaluated store.
pub(super) fn look(evaluated: &Evaluated, config: &Config, store: &mut EvaluatedStore) -> OurSide {
    let (source, expression) = (evaluated.source, evaluated.expression);
    let tree = store.tree(&source.path).unwrap_or_default();
    OurSide {
        system: evaluated.system.to_string(),
        source: Some(source.path.clone()),
        source_files: source.files,
        sources: sources(evaluated.root, &tree, store),
        tree,
        unpinned: pins::unpinned(source, expression, config),
        is_flake: expression.is_flake(),
        changes: revision::changes(source.app.path()).unwrap_or_default(),
        nix_path: config.nix_path.as_deref().map(without_credentials),
        ..OurSide::default()
    }
}

/// The app's own sources in the derivation of `root` and in what it is made from, with their numbers of
/// files, and how many others there are.
fn sources(root: &StorePath, app: &Tree, store: &mut EvaluatedStore) -> Sources {
    let mut next: VecDeque<StorePath> = store.deriver(root).into_iter().collect();
    let mut met: BTreeSet<StorePath> = next.iter().cloned().collect();
    let mut met_sources = BTreeSet::new();
    let mut found = Sources::default();
    while let Some(path) = next.pop_front() {
        let Some(derivation) = store.derivation(&path) else {
            continue;
        };
        for source in derivation.input_sources() {
            if !met_sources.insert(source.clone()) {
                continue;
            }
            match store.tree(source) {
                Some(tree) if is_part_of(source, &tree, app) => {
                    found.own.push((source.clone(), tree.files.len()));
                }
                _ => found.others += 1,
            }
        }
        let inputs = derivation.input_derivations().keys();
        next.extend(inputs.filter(|path| met.insert((*path).clone())).cloned());
    }
    found
}

/// Whether a source is the app's, whose whole is `app`, or a part of it: nixpkgs brings its own, such as
/// the builder's script, and a package its patches.
pub(super) fn is_of_app(source: &StorePath, app: &Tree, here: &mut dyn Store) -> bool {
    here.tree(source)
        .is_some_and(|tree| is_part_of(source, &tree, app))
}

fn is_part_of(source: &StorePath, tree: &Tree, app: &Tree) -> bool {
    if tree == app || was_copied(source) {
        return true;
    }
    let wanted = plain_name(source);
    tree.files.iter().all(|(path, file)| {
        let tail = match path.as_str() {
            "" => wanted.to_string(),
            path => format!("{wanted}/{path}"),
        };
        let is_below = |own: &str| {
            let above = own.strip_suffix(tail.as_str());
            above.is_some_and(|above| above.ends_with('/'))
        };
        // A part that is filtered, and has a name of its own, has the paths of the whole.
        let own_files = &app.files;
        [path, &tail]
            .iter()
            .any(|at| own_files.get(*at) == Some(file))
            || own_files
                .iter()
                .any(|(own, own_file)| is_below(own) && own_file == file)
    })
}

//! How what was evaluated differs from what the previous image has.

use super::cause::{self, Cause};
use super::compare::{self, without_version};
use super::our_side::{Evaluated, OurSide};
use super::stores::{CacheStore, EvaluatedStore, Store};
use binary_cache::Caches;
use closure::Closure;
use nix_derivation::StorePath;
use std::collections::BTreeMap;

/// The previous image's root of the same name, and what differs.
#[derive(Debug)]
pub struct Before {
    pub root: StorePath,
    pub change: Change,
}

#[derive(Debug)]
pub enum Change {
    /// It is the very path.
    None,
    /// The derivations differ in this, likeliest first: a binary cache has the previous image's.
    Causes(Vec<Cause>),
    /// How many of the other paths in the previous image are made in the same way here, and those that are
    /// made otherwise: here, and there.
    Paths(usize, Vec<(StorePath, StorePath)>),
}

/// Compares `derivation` with that of the previous image's root, if a binary cache has it, else what both
/// depend on. None where the previous image has nothing of this name.
pub(super) fn look(
    evaluated: &Evaluated,
    derivation: &StorePath,
    ours: &OurSide,
    store: &mut EvaluatedStore,
    caches: &Caches,
) -> Option<Before> {
    let before = evaluated.before?;
    let name = without_version(evaluated.root.name());
    let mut roots = before.roots.iter();
    let root = roots
        .find(|root| without_version(root.name()) == name)?
        .clone();
    if root == *evaluated.root {
        let change = Change::None;
        return Some(Before { root, change });
    }
    let mut cache = CacheStore::new(caches);
    let theirs = caches.deriver(&root);
    let readable = theirs.filter(|theirs| cache.derivation(theirs).is_some());
    if let Some(theirs) = readable {
        let comparison = compare::compare(derivation, &theirs, store, &mut cache);
        let causes = cause::of(&comparison, &[], ours, store, &mut cache);
        if !causes.is_empty() {
            let change = Change::Causes(causes);
            return Some(Before { root, change });
        }
    }
    let change = paths(before, store);
    Some(Before { root, change })
}

/// Compares all that is in the previous image, but for its roots, with what is evaluated.
fn paths(before: &Closure, store: &mut EvaluatedStore) -> Change {
    let made = store.outputs();
    let by_name: BTreeMap<&str, &StorePath> = made
        .iter()
        .map(|path| (without_version(path.name()), path))
        .collect();
    let mut same = 0;
    let mut other = Vec::new();
    for path in before
        .paths
        .keys()
        .filter(|path| !before.roots.contains(path))
    {
        if made.contains(path) {
            same += 1;
        } else if let Some(here) = by_name.get(without_version(path.name())) {
            other.push(((*here).clone(), path.clone()));
        }
    }
    Change::Paths(same, other)
}

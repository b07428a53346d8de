//! Says which layer each store path of a closure goes to.
//!
//! Nothing but the closure decides: no history, no clock. So the same path is in the same layer in
//! the next deploy and, if it is large, in other apps, and its blob is shared.
//!
//! Roots and large paths have a layer each, named by their hash. The others share layers by their
//! height in the graph of references, since what is equally high mostly changes together: it has
//! been measured against grouping by name, size, popularity and common roots. Height and name are
//! the path's own, so that it stays where it is when others come and go.

use super::Closure;
use super::relocate::is_nix32;
use nix_derivation::StorePath;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Most layers with a path of its own each. Under `PRoot` each costs a binding, which every look-up
/// of a path is compared with: 48 cost less than a tenth of it.
pub const MAX_OWN: usize = 40;

/// Heights that are told apart, and layers for each.
const HEIGHTS: usize = 10;
const SHARED_PER_HEIGHT: u8 = 2;

/// Most layers that a closure goes to.
pub const MAX_LAYERS: usize = MAX_OWN + HEIGHTS * SHARED_PER_HEIGHT as usize;

/// A smaller path has no layer of its own, unless it is a root.
const MIN_OWN_SIZE: u64 = 1024 * 1024;

/// Characters of a hash that name a layer: short, since a relocated path must fit behind it.
const NAME_LENGTH: usize = 8;

/// The layers of a closure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The store paths of each layer, by the layer's name.
    pub layers: BTreeMap<String, BTreeSet<StorePath>>,
    /// The layer of each store path.
    pub places: BTreeMap<StorePath, String>,
    /// Paths that have a layer to themselves by right.
    pub own: BTreeSet<StorePath>,
}

impl Placement {
    /// Places every path of `closure`.
    #[must_use]
    pub fn of(closure: &Closure) -> Self {
        let mut own: BTreeSet<&StorePath> = closure
            .roots
            .iter()
            .filter(|root| closure.paths.contains_key(root))
            .take(MAX_OWN)
            .collect();
        let least = least_own_size(closure, &own);
        let sizes = closure.paths.iter();
        own.extend(
            sizes
                .filter(|(_, info)| info.nar_size >= least)
                .map(|(path, _)| path),
        );
        let heights = heights(closure);
        let mut placement = Self::default();
        for path in closure.paths.keys() {
            let layer = if own.contains(path) {
                placement.own.insert(path.clone());
                path.to_basename().chars().take(NAME_LENGTH).collect()
            } else {
                shared(path, heights.get(path).copied().unwrap_or_default())
            };
            let paths = placement.layers.entry(layer.clone()).or_default();
            paths.insert(path.clone());
            placement.places.insert(path.clone(), layer);
        }
        placement
    }
}

/// Whether a layer of this name is one of those that store paths go to.
#[must_use]
pub fn is_layer(name: &str) -> bool {
    match name.as_bytes() {
        [b'h', height, part] => height.is_ascii_digit() && part.is_ascii_lowercase(),
        hash => hash.len() == NAME_LENGTH && hash.iter().all(|byte| is_nix32(*byte)),
    }
}

/// The size from which on a path has its own layer: the least power of two at which there are not too
/// many. Such steps keep it where it is as sizes change a little.
fn least_own_size(closure: &Closure, roots: &BTreeSet<&StorePath>) -> u64 {
    let others = closure.paths.iter();
    let sizes: Vec<u64> = others
        .filter(|(path, _)| !roots.contains(path))
        .map(|(_, info)| info.nar_size)
        .collect();
    let mut step = MIN_OWN_SIZE;
    loop {
        let count = sizes.iter().filter(|size| **size >= step).count();
        if roots.len() + count <= MAX_OWN {
            return step;
        }
        match step.checked_mul(2) {
            Some(next) => step = next,
            // Sizes that no disk holds: roots alone have their own.
            None => return u64::MAX,
        }
    }
}

fn shared(path: &StorePath, height: usize) -> String {
    let name = path.to_basename();
    let digest = Sha256::digest(without_version(&name));
    let part = digest.first().copied().unwrap_or_default() % SHARED_PER_HEIGHT;
    format!("h{}{}", height.min(HEIGHTS - 1), char::from(b'a' + part))
}

/// The name of a store path up to its version: the first `-` before a digit.
fn without_version(basename: &str) -> &str {
    let name = basename.split_once('-').map_or(basename, |(_, name)| name);
    let end = name
        .match_indices('-')
        .map(|(at, _)| at)
        .find(|at| name[at + 1..].starts_with(|first: char| first.is_ascii_digit()));
    &name[..end.unwrap_or(name.len())]
}

/// The length of the longest way from each path down to one that refers to no other.
fn heights(closure: &Closure) -> BTreeMap<&StorePath, usize> {
    let mut heights: BTreeMap<&StorePath, usize> = BTreeMap::new();
    let mut met = BTreeSet::new();
    for path in closure.paths.keys() {
        let mut stack = vec![(path, false)];
        while let Some((path, below_is_done)) = stack.pop() {
            let Some(info) = closure.paths.get(path) else {
                continue;
            };
            let references = info.references.iter().filter(|other| *other != path);
            if below_is_done {
                let below = references.filter_map(|other| heights.get(other)).max();
                let height = below.map_or(0, |below| below + 1);
                heights.insert(path, height);
            } else if met.insert(path) {
                stack.push((path, true));
                stack.extend(references.map(|other| (other, false)));
            }
        }
    }
    heights
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cache::Trust;
    use crate::closure::path_info::PathInfo;
    use crate::closure::relocate::Relocation;
    use nix_derivation::NixHash;
    use std::path::Path;

    /// A small generator of numbers below a limit, the same in each run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) % limit
        }
    }

    fn path(random: &mut Random, name: &str) -> StorePath {
        let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
        let hash: String = (0..32)
            .map(|_| char::from(digits[usize::try_from(random.below(32)).unwrap()]))
            .collect();
        format!("/nix/store/{hash}-{name}").parse().unwrap()
    }

    fn info(nar_size: u64, references: BTreeSet<StorePath>) -> PathInfo {
        PathInfo {
            nar_hash: NixHash::Sha256([0; 32]),
            nar_size,
            references,
            cache: String::new(),
            url: String::new(),
            compression: String::new(),
            file_size: None,
            trust: Trust::Signed,
        }
    }

    /// A closure of `count` paths: most small, some large, each referring to earlier ones.
    fn closure(random: &mut Random, count: usize, roots: usize) -> Closure {
        let mut made: Vec<StorePath> = Vec::new();
        let mut paths = BTreeMap::new();
        for number in 0..count {
            let path = path(random, &format!("lib{number}-1.{}", random.0 % 7));
            let mut references: BTreeSet<_> = (0..random.below(6))
                .filter_map(|_| {
                    let length = u64::try_from(made.len()).unwrap();
                    let other = (length > 0).then(|| random.below(length))?;
                    Some(made[usize::try_from(other).unwrap()].clone())
                })
                .collect();
            references.insert(path.clone());
            let size = 1 << random.below(28);
            paths.insert(path.clone(), info(size + random.below(size), references));
            made.push(path);
        }
        Closure {
            roots: made.into_iter().rev().take(roots).collect(),
            paths,
        }
    }

    #[test]
    fn a_thousand_closures_stay_within_the_limit_and_share_no_spot() {
        let mut random = Random(9);
        for _ in 0..1000 {
            let count = usize::try_from(1 + random.below(400)).unwrap();
            let roots = usize::try_from(1 + random.below(5)).unwrap();
            let closure = closure(&mut random, count, roots);
            let placement = Placement::of(&closure);
            assert!(placement.layers.len() <= MAX_LAYERS);
            assert!(placement.own.len() <= MAX_OWN);
            assert!(placement.places.keys().eq(closure.paths.keys()));
            let mut spots = BTreeSet::new();
            for (path, layer) in &placement.places {
                assert!(placement.layers[layer].contains(path));
                assert!(is_layer(layer), "{layer}");
                let directory = Path::new("/layers/nix_hydra").join(layer);
                let relocation = Relocation::new(&directory).unwrap();
                let spot = relocation.reference(path);
                let hash = path.to_basename();
                assert!(
                    memchr::memmem::find(&spot, &hash.as_bytes()[..14]).is_some(),
                    "{spot:?}"
                );
                assert!(spots.insert(spot), "{path}");
            }
            assert_eq!(Placement::of(&closure), placement);
        }
    }

    /// The bytes of both that are in layers of the same name and the same paths, against all of the
    /// second one's.
    fn shared_part(one: &Closure, other: &Closure) -> f64 {
        let (first, second) = (Placement::of(one), Placement::of(other));
        let size = |paths: &BTreeSet<StorePath>| -> u64 {
            paths.iter().map(|path| other.paths[path].nar_size).sum()
        };
        let same: u64 = second
            .layers
            .iter()
            .filter(|(name, paths)| first.layers.get(*name) == Some(paths))
            .map(|(_, paths)| size(paths))
            .sum();
        #[allow(clippy::cast_precision_loss)]
        let part = same as f64 / other.nar_size() as f64;
        part
    }

    #[test]
    fn two_apps_with_most_of_their_closures_in_common_have_the_same_layers() {
        let mut random = Random(3);
        let mut parts = Vec::new();
        for _ in 0..50 {
            let one = closure(&mut random, 300, 1);
            // The other app has a tenth of its bytes to itself, in a few paths.
            let mut other = one.clone();
            let root = other.roots[0].clone();
            let mut all = other.paths.remove(&root).unwrap().references;
            all.remove(&root);
            for number in 0..3 {
                let path = path(&mut random, &format!("other{number}-2.0"));
                other
                    .paths
                    .insert(path.clone(), info(one.nar_size() / 30, all.clone()));
                all.insert(path);
            }
            let root = self::path(&mut random, "other");
            other.paths.insert(root.clone(), info(100_000, all));
            other.roots = vec![root];
            parts.push(shared_part(&one, &other));
        }
        let mean = parts.iter().sum::<f64>() / 50.0;
        assert!(mean >= 0.85, "{mean}: {parts:?}");
    }

    #[test]
    fn a_path_stays_where_it_is_when_the_app_changes() {
        let mut random = Random(5);
        let before = closure(&mut random, 300, 1);
        let mut after = before.clone();
        let root = after.roots[0].clone();
        let mut app = after.paths.remove(&root).unwrap();
        app.references.remove(&root);
        let changed = path(&mut random, "app");
        after.paths.insert(changed.clone(), app);
        after.roots = vec![changed.clone()];
        let (before, after) = (Placement::of(&before), Placement::of(&after));
        for (path, layer) in &after.places {
            if *path != changed {
                assert_eq!(before.places.get(path), Some(layer), "{path}");
            }
        }
    }

    #[test]
    fn versions_do_not_count_in_a_name() {
        for (basename, name) in [
            ("xbgc-zlib-1.3", "zlib"),
            ("xbgc-python3.11-ssl-2", "python3.11-ssl"),
            ("xbgc-source", "source"),
        ] {
            assert_eq!(without_version(basename), name);
        }
    }
}

//! Says which layer each store path of a closure goes to.
//!
//! Nothing but the closure decides: no history, no clock, no other app. A layer is named by what is
//! in it, so the same paths are the same layer, and one blob, in the next deploy and in other apps.
//!
//! Roots and the largest paths have a layer each. The others share layers with those that change at
//! the same time. A path changes when something in its own closure does, since its hash covers all
//! of that; so each path of a layer that moves costs its size for each path that it does not depend
//! on and some other path of the layer does. Layers are joined two by two, each time the two for
//! which that grows least: agglomerative clustering. `docs/performance.md` has what that moves on
//! simulated histories, against other ways to group.

use crate::closure::Closure;
use binary_cache::PathInfo;
use nix_derivation::StorePath;
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use store_references::hashes::{NIX32_DIGITS, is_nix32};

/// Most layers that a closure goes to. With those for the start program and for what leads to the
/// store paths there are 64; an image stops at 125, and the run image has some.
pub const MAX_LAYERS: usize = 62;

/// Most layers with a path of its own by right.
pub const MAX_OWN: usize = 32;

/// A smaller path has no layer of its own by right, unless it is a root.
const MIN_OWN_SIZE: u64 = 1024 * 1024;

/// Layers are also joined where that adds less than one part in so many to what moves.
const NEGLIGIBLE: u128 = 2000;

/// Most paths that are compared each with each. Smaller ones join what is there by then.
const MAX_COMPARED: usize = 512;

/// Letters of a hash at the beginning of a layer's name.
const HASH_LENGTH: usize = 8;

/// Most letters of a store path's name in a layer's name.
const MAX_LABEL: usize = 16;

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

/// Paths that may become one layer.
struct Group {
    members: Vec<usize>,
    size: u128,
    /// All that the members depend on, themselves included: what changes the layer.
    changed_by: Bits,
    /// Bytes that move in sum when each path of the closure changes once.
    moved: u128,
}

/// A set of a closure's paths, by their numbers.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Placement {
    /// Places every path of `closure`.
    pub fn of(closure: &Closure) -> Self {
        let mut paths: Vec<(&StorePath, &PathInfo)> = closure.paths.iter().collect();
        // Names come before hashes, which are others in the next deploy.
        paths.sort_by_cached_key(|(path, info)| {
            let base_name = path.to_basename();
            (
                Reverse(info.nar_size),
                name(&base_name).to_string(),
                base_name,
            )
        });
        let own = own(closure, &paths);
        let changed_by = changed_by(&paths);
        let groups = grouped(&paths, &own, changed_by);
        let mut placement = Self {
            own: own.iter().map(|index| paths[*index].0.clone()).collect(),
            ..Self::default()
        };
        let own = own.iter().map(|index| vec![*index]);
        for members in own.chain(groups) {
            let members: Vec<&StorePath> = members.iter().map(|index| paths[*index].0).collect();
            let name = placement.free_name(&members);
            for path in &members {
                placement.places.insert((*path).clone(), name.clone());
            }
            let members = members.into_iter().cloned().collect();
            placement.layers.insert(name, members);
        }
        placement
    }

    /// The name of a layer with `members`, the largest first; with a number where it is taken.
    fn free_name(&self, members: &[&StorePath]) -> String {
        let name = layer_name(members);
        let mut names =
            std::iter::once(name.clone()).chain((2_u32..).map(|n| format!("{name}-{n}")));
        let free = names.find(|name| !self.layers.contains_key(name));
        free.unwrap_or(name)
    }
}

/// Whether a layer of this name may be one of those that store paths go to.
pub fn is_layer(name: &str) -> bool {
    match name.as_bytes().split_at_checked(HASH_LENGTH) {
        Some((hash, [b'-', ..])) => hash.iter().all(|byte| is_nix32(*byte)),
        _ => false,
    }
}

/// `xbgcfhaa-python3` for a path alone, `0c1vk3mm-zlib-and-12-more` for some, where the hash is that of
/// all their names. No dots: a layer whose name has one loses its SBOM.
fn layer_name(members: &[&StorePath]) -> String {
    let mut names: Vec<String> = members.iter().map(|path| path.to_basename()).collect();
    let label = names.first().map_or("", |first| label(first));
    let label: String = label.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    if let [only] = &names[..] {
        return format!("{}-{label}", only.get(..HASH_LENGTH).unwrap_or(only));
    }
    let more = names.len() - 1;
    names.sort();
    let digest = Sha256::digest(names.join("\n"));
    let digits = digest.iter().take(HASH_LENGTH);
    let hash: String = digits
        .map(|byte| char::from(NIX32_DIGITS[usize::from(byte % 32)]))
        .collect();
    format!("{hash}-{label}-and-{more}-more")
}

/// The name of a store path without its hash.
fn name(base_name: &str) -> &str {
    base_name
        .split_once('-')
        .map_or(base_name, |(_, name)| name)
}

/// The beginning of a store path's name, without the version.
fn label(base_name: &str) -> &str {
    let name = name(base_name);
    let version = name
        .match_indices('-')
        .map(|(at, _)| at)
        .find(|at| name[at + 1..].starts_with(|first: char| first.is_ascii_digit()));
    let end = version.unwrap_or(name.len()).min(MAX_LABEL);
    name[..end].trim_end_matches('-')
}

/// The paths with a layer of their own by right: the roots, and of the others those whose size is at
/// least a power of two, the least at which there are not too many. Such steps keep a path where it is
/// as sizes change a little.
fn own(closure: &Closure, paths: &[(&StorePath, &PathInfo)]) -> BTreeSet<usize> {
    let place = |root: &StorePath| paths.iter().position(|(path, _)| *path == root);
    let roots: BTreeSet<usize> = closure
        .roots
        .iter()
        .filter_map(place)
        .take(MAX_OWN)
        .collect();
    let at_least = |step: u64| {
        let all = paths.iter().enumerate();
        all.filter(move |(_, (_, info))| info.nar_size >= step)
            .map(|(index, _)| index)
            .chain(roots.iter().copied())
            .collect::<BTreeSet<usize>>()
    };
    let steps = std::iter::successors(Some(MIN_OWN_SIZE), |step| step.checked_mul(2));
    let mut choices = steps.map(at_least);
    let found = choices.find(|own| own.len() <= MAX_OWN);
    found.unwrap_or_else(|| roots.clone())
}

/// What each path depends on, itself included.
fn changed_by(paths: &[(&StorePath, &PathInfo)]) -> Vec<Bits> {
    let numbers: BTreeMap<&StorePath, usize> = paths
        .iter()
        .enumerate()
        .map(|(index, (path, _))| (*path, index))
        .collect();
    let references: Vec<Vec<usize>> = paths
        .iter()
        .map(|(_, info)| {
            let known = info.references.iter();
            known
                .filter_map(|path| numbers.get(path).copied())
                .collect()
        })
        .collect();
    let mut all = vec![Bits::none(paths.len()); paths.len()];
    let mut met = BTreeSet::new();
    for first in 0..paths.len() {
        let mut stack = vec![(first, false)];
        while let Some((index, below_is_done)) = stack.pop() {
            if below_is_done {
                let mut bits = Bits::none(paths.len());
                bits.insert(index);
                for other in &references[index] {
                    bits.join(&all[*other]);
                }
                all[index] = bits;
            } else if met.insert(index) {
                stack.push((index, true));
                stack.extend(references[index].iter().map(|other| (*other, false)));
            }
        }
    }
    all
}

/// The paths that are not in `own`, in groups, each with the largest first.
fn grouped(
    paths: &[(&StorePath, &PathInfo)],
    own: &BTreeSet<usize>,
    changed_by: Vec<Bits>,
) -> Vec<Vec<usize>> {
    let mut alone = changed_by
        .into_iter()
        .enumerate()
        .filter(|(index, _)| !own.contains(index))
        .map(|(index, changed_by)| {
            // What is empty has to be somewhere too.
            let size = u128::from(paths[index].1.nar_size) + 1;
            Group::of(index, size, changed_by)
        });
    let groups = alone.by_ref().take(MAX_COMPARED).collect();
    let mut groups = joined(groups, MAX_LAYERS - own.len());
    for small in alone {
        let best = groups.iter_mut().min_by_key(|group| group.cost(&small));
        if let Some(group) = best {
            group.join(small);
        }
    }
    groups.into_iter().map(|group| group.members).collect()
}

/// Joins groups until there are at most `most`, and further where that costs next to nothing.
fn joined(groups: Vec<Group>, most: usize) -> Vec<Group> {
    let total: u128 = groups.iter().map(|group| group.moved).sum();
    let mut groups: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
    // For each group the one that it is best joined with, of those before it.
    let mut best: Vec<Option<(u128, usize)>> = Vec::new();
    for index in 0..groups.len() {
        best.push(best_before(&groups, index));
    }
    let mut count = groups.len();
    loop {
        let pairs = best.iter().enumerate();
        let found = pairs
            .filter_map(|(index, best)| best.map(|(cost, other)| (cost, other, index)))
            .min();
        let Some((cost, to, from)) = found else { break };
        if count <= most && cost > total / NEGLIGIBLE {
            break;
        }
        if let Some(group) = groups[from].take()
            && let Some(into) = &mut groups[to]
        {
            into.join(group);
        }
        count -= 1;
        best[from] = None;
        best[to] = best_before(&groups, to);
        for index in 0..groups.len() {
            match (&groups[index], best[index]) {
                (Some(_), Some((_, other))) if other == from || other == to => {
                    best[index] = best_before(&groups, index);
                }
                (Some(group), current) if index > to => {
                    let cost = groups[to].as_ref().map(|to| to.cost(group));
                    let candidate = cost.map(|cost| (cost, to));
                    best[index] = [current, candidate].into_iter().flatten().min();
                }
                _ => {}
            }
        }
    }
    groups.into_iter().flatten().collect()
}

/// What joining the group at `index` with each before it costs, and which costs least.
fn best_before(groups: &[Option<Group>], index: usize) -> Option<(u128, usize)> {
    let group = groups[index].as_ref()?;
    let before = groups[..index].iter().enumerate();
    before
        .filter_map(|(other, candidate)| Some((candidate.as_ref()?.cost(group), other)))
        .min()
}

impl Group {
    /// One path of this size.
    fn of(index: usize, size: u128, changed_by: Bits) -> Self {
        Self {
            members: vec![index],
            size,
            moved: size * changed_by.count(),
            changed_by,
        }
    }

    /// How many more bytes move when this and `other` are one layer.
    fn cost(&self, other: &Self) -> u128 {
        let together = self.changed_by.count_with(&other.changed_by) * (self.size + other.size);
        together - self.moved - other.moved
    }

    fn join(&mut self, mut other: Self) {
        self.members.append(&mut other.members);
        self.members.sort_unstable();
        self.size += other.size;
        self.changed_by.join(&other.changed_by);
        self.moved = self.size * self.changed_by.count();
    }
}

impl Bits {
    /// An empty set of some of `count` paths.
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn join(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own |= other;
        }
    }

    fn count(&self) -> u128 {
        self.0
            .iter()
            .map(|bits| u128::from(bits.count_ones()))
            .sum()
    }

    fn count_with(&self, other: &Self) -> u128 {
        let words = self.0.iter().zip(&other.0);
        let count: u32 = words.map(|(own, other)| (own | other).count_ones()).sum();
        count.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relocate::relocation::Relocation;
    use binary_cache::PathInfo;
    use binary_cache::Trust;
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
            source: None,
            trust: Trust::Signed,
            content: None,
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
        let relocation = Relocation::new(Path::new("/layers/nix_hydra/closure")).unwrap();
        for number in 0..1000 {
            // Most have about as many paths as there are layers, some have far more.
            let most = if number % 100 == 0 { 700 } else { 100 };
            let count = usize::try_from(1 + random.below(most)).unwrap();
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
                assert!(!layer.contains('.'), "{layer}");
                assert!(spots.insert(relocation.reference(path)), "{path}");
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
        same as f64 / other.nar_size() as f64
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
    fn a_layer_is_named_for_people_and_by_all_that_is_in_it() {
        let paths = [
            "xbgcfhaawi9iz9s99k58sqy8azc2a1w3-python3.11-ssl-2",
            "0jn93wz4pk00k76grv8ing8js0yz8cpd-zlib-1.3",
        ]
        .map(|base_name| StorePath::from_basename(base_name.as_bytes()).unwrap());
        let [python, zlib] = &paths;
        assert_eq!(layer_name(&[python]), "xbgcfhaa-python3-11-ssl");
        assert_eq!(layer_name(&[zlib]), "0jn93wz4-zlib");
        let both = layer_name(&[python, zlib]);
        assert!(both.ends_with("-python3-11-ssl-and-1-more"), "{both}");
        assert_ne!(both[..8], layer_name(&[zlib, python, python])[..8]);
        for name in [both.as_str(), "xbgcfhaa-"] {
            assert!(is_layer(name), "{name}");
        }
        for name in [
            "closure",
            "proot",
            "nix-store",
            "xbgcfhaa",
            "xbgcfhaaa-x",
            "xbgcfhae-x",
        ] {
            assert!(!is_layer(name), "{name}");
        }
    }
}

//! Two derivation graphs, walked side by side from their roots to where they first differ.

use super::stores::Store;
use nix_derivation::{Derivation, StorePath};
use nix_hydra_start::package_name::PackageName;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// Pairs of derivations that are looked at: more of them say nothing more, and each costs a
/// question to a binary cache.
const MAX_PAIRS: usize = 120;

/// What differs, and where.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Derivations that differ in themselves, not only in what they are made from; those nearest to
    /// the root first.
    pub sites: Vec<Site>,
    /// Derivations that differ, in themselves or in what they are made from.
    pub pairs: usize,
    /// Not all were looked at.
    pub cut_short: bool,
    /// Derivations of Hydra's that could not be read.
    pub unread: Vec<StorePath>,
}

/// A pair of derivations that play the same part, and what differs in them.
#[derive(Debug)]
pub struct Site {
    pub ours: StorePath,
    pub theirs: StorePath,
    /// The names of the derivations from the root to this one, this one excluded.
    pub way: Vec<String>,
    /// They are fetched by their hash, so what they mention is of what they fetch.
    pub fixed: bool,
    pub differences: Vec<Difference>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    System(String, String),
    Builder(String, String),
    Arguments(Vec<String>, Vec<String>),
    /// An environment variable, or an attribute of a structured one: here, and there.
    Variable(String, Option<String>, Option<String>),
    /// A source that plays the same part on both sides, with the variable that names it.
    Source(Option<String>, StorePath, StorePath),
    /// A source that only one side has.
    SourceOnly(Side, StorePath),
    /// A derivation that it is made from on one side alone.
    InputOnly(Side, StorePath),
    /// The outputs' names.
    Outputs(Vec<String>, Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Here,
    There,
}

/// Compares the derivation `ours` with `theirs`, and what they are made from.
pub fn compare(
    ours: &StorePath,
    theirs: &StorePath,
    here: &mut dyn Store,
    there: &mut dyn Store,
) -> Comparison {
    let mut comparison = Comparison::default();
    let mut met = HashSet::new();
    let mut next = VecDeque::from([(ours.clone(), theirs.clone(), Vec::new())]);
    while let Some((ours, theirs, way)) = next.pop_front() {
        if !met.insert((ours.clone(), theirs.clone())) {
            continue;
        }
        if comparison.pairs == MAX_PAIRS {
            comparison.cut_short = true;
            break;
        }
        let Some(our_derivation) = here.derivation(&ours) else {
            continue;
        };
        let Some(their_derivation) = there.derivation(&theirs) else {
            comparison.unread.push(theirs);
            continue;
        };
        // What is fetched by its hash is the same, however it is fetched.
        if same_fixed_output(&our_derivation, &their_derivation) {
            continue;
        }
        comparison.pairs += 1;
        let (pairs, mut differences) = inputs(&our_derivation, &their_derivation);
        let mut below = way.clone();
        below.push(name(&ours).to_string());
        for (one, other) in pairs {
            next.push_back((one, other, below.clone()));
        }
        let mut all = own(&our_derivation, &their_derivation);
        all.append(&mut differences);
        if !all.is_empty() {
            let fixed = is_fixed(&our_derivation) || is_fixed(&their_derivation);
            comparison.sites.push(Site {
                ours,
                theirs,
                way,
                fixed,
                differences: all,
            });
        }
    }
    comparison
}

fn is_fixed(derivation: &Derivation) -> bool {
    derivation.is_fixed_output().unwrap_or(false)
}

fn same_fixed_output(one: &Derivation, other: &Derivation) -> bool {
    is_fixed(one)
        && is_fixed(other)
        && matches!((one.resolved_outputs(), other.resolved_outputs()), (Ok(one), Ok(other)) if one == other)
}

/// Paths of which only one side has each, without those that are on both.
fn apart<'a>(
    ours: impl Iterator<Item = &'a StorePath>,
    theirs: impl Iterator<Item = &'a StorePath>,
) -> (Vec<StorePath>, Vec<StorePath>) {
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) = (ours.collect(), theirs.collect());
    let only = |one: &BTreeSet<&StorePath>, other: &BTreeSet<&StorePath>| {
        one.difference(other).map(|path| (*path).clone()).collect()
    };
    (only(&ours, &theirs), only(&theirs, &ours))
}

/// Takes pairs that play the same part out of paths that only one side has: those for which `counterpart`
/// returns the place of the other among theirs.
fn take_pairs(
    here: &mut Vec<StorePath>,
    there: &mut Vec<StorePath>,
    counterpart: impl Fn(&StorePath, &[StorePath]) -> Option<usize>,
) -> Vec<(StorePath, StorePath)> {
    let mut pairs = Vec::new();
    here.retain(|one| match counterpart(one, there) {
        Some(other) => {
            pairs.push((one.clone(), there.remove(other)));
            false
        }
        None => true,
    });
    pairs
}

/// The two that are left alone on both sides, which belong together.
fn take_last(
    here: &mut Vec<StorePath>,
    there: &mut Vec<StorePath>,
) -> Option<(StorePath, StorePath)> {
    let are_alone = here.len() == 1 && there.len() == 1;
    are_alone.then(|| here.pop().zip(there.pop()))?
}

/// Differences of paths that only one side has.
fn only(
    here: Vec<StorePath>,
    there: Vec<StorePath>,
    difference: fn(Side, StorePath) -> Difference,
) -> impl Iterator<Item = Difference> {
    let here = here.into_iter().map(|path| (Side::Here, path));
    let there = there.into_iter().map(|path| (Side::There, path));
    here.chain(there)
        .map(move |(side, path)| difference(side, path))
}

/// Pairs of input derivations that differ and play the same part, and those without a counterpart.
fn inputs(
    ours: &Derivation,
    theirs: &Derivation,
) -> (Vec<(StorePath, StorePath)>, Vec<Difference>) {
    let (mut here, mut there) = apart(
        ours.input_derivations().keys(),
        theirs.input_derivations().keys(),
    );
    let mut pairs = Vec::new();
    // By name first, then by name without the version.
    let keys: [fn(&StorePath) -> &str; 2] = [name, |path| without_version(name(path))];
    for key in keys {
        let of = |one: &StorePath, others: &[StorePath]| {
            others.iter().position(|other| key(one) == key(other))
        };
        pairs.append(&mut take_pairs(&mut here, &mut there, of));
    }
    pairs.extend(take_last(&mut here, &mut there));
    (pairs, only(here, there, Difference::InputOnly).collect())
}

/// What differs in two derivations themselves.
fn own(ours: &Derivation, theirs: &Derivation) -> Vec<Difference> {
    let mut differences = Vec::new();
    if ours.system() != theirs.system() {
        differences.push(Difference::System(
            ours.system().into(),
            theirs.system().into(),
        ));
    }
    differences.append(&mut sources(ours, theirs));
    if without_paths(ours.builder()) != without_paths(theirs.builder()) {
        let builders = (ours.builder().to_string(), theirs.builder().to_string());
        differences.push(Difference::Builder(builders.0, builders.1));
    }
    let arguments = |derivation: &Derivation| -> Vec<String> {
        let arguments = derivation.arguments().iter();
        arguments.map(|argument| without_paths(argument)).collect()
    };
    if arguments(ours) != arguments(theirs) {
        differences.push(Difference::Arguments(
            ours.arguments().to_vec(),
            theirs.arguments().to_vec(),
        ));
    }
    let names = |derivation: &Derivation| derivation.outputs().keys().cloned().collect::<Vec<_>>();
    if names(ours) != names(theirs) {
        differences.push(Difference::Outputs(names(ours), names(theirs)));
    }
    let (here, there) = (variables(ours), variables(theirs));
    let mut all: Vec<&String> = here.keys().chain(there.keys()).collect();
    all.sort();
    all.dedup();
    for variable in all {
        let (one, other) = (here.get(variable), there.get(variable));
        let plain = |value: Option<&String>| value.map(|value| without_paths(value));
        // These two are variables as well, and were said.
        let said = matches!(variable.as_str(), "system" | "builder");
        if !said && plain(one) != plain(other) {
            differences.push(Difference::Variable(
                variable.clone(),
                one.cloned(),
                other.cloned(),
            ));
        }
    }
    differences
}

/// The environment, and the attributes of a structured one, without the outputs' paths.
fn variables(derivation: &Derivation) -> BTreeMap<String, String> {
    let outputs = derivation.outputs();
    let mut variables: BTreeMap<String, String> = derivation
        .environment()
        .iter()
        .filter(|(name, _)| !outputs.contains_key(*name))
        .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    if let Some(attributes) = derivation.structured_attrs() {
        let attributes = attributes.iter();
        variables.extend(attributes.map(|(name, value)| (name.to_string(), value.to_string())));
    }
    variables
}

fn sources(ours: &Derivation, theirs: &Derivation) -> Vec<Difference> {
    let (mut here, mut there) = apart(ours.input_sources().iter(), theirs.input_sources().iter());
    let (our_variables, their_variables) = (variables(ours), variables(theirs));
    let variable = |path: &StorePath| {
        let path = path.to_absolute_path();
        let mut named = our_variables
            .iter()
            .filter(|(_, value)| value.contains(&path));
        named.next().map(|(name, _)| name.clone())
    };
    // By the variable that names them, then by what they are called.
    let pairs = take_pairs(&mut here, &mut there, |one, others| {
        let value = variable(one).and_then(|variable| their_variables.get(&variable));
        let is_named = |other: &StorePath| {
            value.is_some_and(|value| value.contains(&other.to_absolute_path()))
        };
        let is_alike = |other: &StorePath| plain_name(other) == plain_name(one);
        let by_name = || others.iter().position(is_alike);
        others.iter().position(is_named).or_else(by_name)
    });
    let mut differences: Vec<Difference> = pairs
        .into_iter()
        .map(|(one, other)| Difference::Source(variable(&one), one, other))
        .collect();
    let last = take_last(&mut here, &mut there);
    differences.extend(last.map(|(one, other)| Difference::Source(None, one, other)));
    differences.extend(only(here, there, Difference::SourceOnly));
    differences
}

/// A derivation's name, without `.drv`.
pub fn name(path: &StorePath) -> &str {
    path.name().trim_end_matches(".drv")
}

/// A name without its version.
pub fn without_version(name: &str) -> &str {
    PackageName::parse(name).name
}

/// A source's name, without the hash of the store path that it was copied from, if it was.
pub fn plain_name(path: &StorePath) -> &str {
    let name = path.name();
    match name.split_at_checked(32) {
        Some((hash, rest)) if is_hash(hash) => rest.strip_prefix('-').unwrap_or(name),
        _ => name,
    }
}

/// Whether it is the name of a copy out of the store.
pub fn was_copied(path: &StorePath) -> bool {
    plain_name(path) != path.name()
}

fn is_hash(text: &str) -> bool {
    text.len() == 32
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || (c.is_ascii_lowercase() && !"eotu".contains(c)))
}

/// A text with a sign in place of each store path: where those differ, what they stand for does.
fn without_paths(text: &str) -> String {
    const STORE: &str = "/nix/store/";
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(STORE) {
        let (before, from) = rest.split_at(at + STORE.len());
        plain.push_str(before);
        let end = from.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._?=".contains(c)));
        rest = &from[end.unwrap_or(from.len())..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_paths_in_a_text_are_left_out() {
        assert_eq!(
            without_paths("a=/nix/store/abc-foo-1.0/bin/foo:/nix/store/x b"),
            "a=/nix/store//bin/foo:/nix/store/ b"
        );
    }

    #[test]
    fn names_are_told_from_versions_and_from_the_hashes_of_copies() {
        assert_eq!(without_version("gnu-hello-2.10-x"), "gnu-hello");
        assert_eq!(without_version("stdenv-linux"), "stdenv-linux");
        let path = |name: &str| -> StorePath {
            format!("/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-{name}")
                .parse()
                .unwrap()
        };
        let copied = path("xbgcfhaawi9iz9s99k58sqy8azc2a1w3-source");
        assert_eq!(plain_name(&copied), "source");
        assert!(was_copied(&copied) && !was_copied(&path("source")));
    }
}

//! Two derivation graphs, walked side by side from their roots to where they first differ.

use super::stores::Store;
use nix_derivation::{Derivation, StorePath};
use std::collections::{BTreeMap, HashSet, VecDeque};

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

/// Pairs of input derivations that differ and play the same part, and those without a counterpart.
fn inputs(
    ours: &Derivation,
    theirs: &Derivation,
) -> (Vec<(StorePath, StorePath)>, Vec<Difference>) {
    let only = |one: &Derivation, other: &Derivation| -> Vec<StorePath> {
        let paths = one.input_derivations().keys();
        paths
            .filter(|path| !other.input_derivations().contains_key(*path))
            .cloned()
            .collect()
    };
    let mut here = only(ours, theirs);
    let mut there = only(theirs, ours);
    let mut pairs = Vec::new();
    // By name first, then by name without the version; what is left alone on both sides belongs
    // together.
    for key in [
        |path: &StorePath| name(path).to_string(),
        |path: &StorePath| without_version(name(path)).to_string(),
    ] {
        here.retain(|one| {
            let other = there.iter().position(|other| key(one) == key(other));
            match other {
                Some(other) => {
                    pairs.push((one.clone(), there.remove(other)));
                    false
                }
                None => true,
            }
        });
    }
    if let ([one], [other]) = (&here[..], &there[..]) {
        pairs.push((one.clone(), other.clone()));
        here.clear();
        there.clear();
    }
    let here = here
        .into_iter()
        .map(|path| Difference::InputOnly(Side::Here, path));
    let there = there
        .into_iter()
        .map(|path| Difference::InputOnly(Side::There, path));
    (pairs, here.chain(there).collect())
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
    let only = |one: &Derivation, other: &Derivation| -> Vec<StorePath> {
        let paths = one.input_sources().iter();
        paths
            .filter(|path| !other.input_sources().contains(*path))
            .cloned()
            .collect()
    };
    let mut here = only(ours, theirs);
    let mut there = only(theirs, ours);
    let (our_variables, their_variables) = (variables(ours), variables(theirs));
    let mut differences = Vec::new();
    // By the variable that names them, then by what they are called.
    here.retain(|one| {
        let variable = our_variables
            .iter()
            .find(|(_, value)| value.contains(&one.to_absolute_path()))
            .map(|(name, _)| name.clone());
        let other = variable
            .as_ref()
            .and_then(|variable| their_variables.get(variable))
            .and_then(|value| {
                there
                    .iter()
                    .position(|other| value.contains(&other.to_absolute_path()))
            })
            .or_else(|| {
                there
                    .iter()
                    .position(|other| plain_name(other) == plain_name(one))
            });
        match other {
            Some(other) => {
                let other = there.remove(other);
                differences.push(Difference::Source(variable, one.clone(), other));
                false
            }
            None => true,
        }
    });
    if let ([one], [other]) = (&here[..], &there[..]) {
        differences.push(Difference::Source(None, one.clone(), other.clone()));
        return differences;
    }
    let here = here
        .into_iter()
        .map(|path| Difference::SourceOnly(Side::Here, path));
    let there = there
        .into_iter()
        .map(|path| Difference::SourceOnly(Side::There, path));
    differences.extend(here.chain(there));
    differences
}

/// A derivation's name, without `.drv`.
#[must_use]
pub fn name(path: &StorePath) -> &str {
    path.name().trim_end_matches(".drv")
}

/// A name without its version, as Nix's `parseDrvName` tells them apart: at the first dash that no
/// letter follows.
#[must_use]
pub fn without_version(name: &str) -> &str {
    let at = name
        .match_indices('-')
        .find(|(at, _)| !name[at + 1..].starts_with(|c: char| c.is_ascii_alphabetic()));
    at.map_or(name, |(at, _)| &name[..at])
}

/// A source's name, without the hash of the store path that it was copied from, if it was.
#[must_use]
pub fn plain_name(path: &StorePath) -> &str {
    let name = path.name();
    match name.split_at_checked(32) {
        Some((hash, rest)) if is_hash(hash) => rest.strip_prefix('-').unwrap_or(name),
        _ => name,
    }
}

/// Whether it is the name of a copy out of the store.
#[must_use]
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

//! What the binary caches have of all that a root is made from.

use super::stores::Store;
use binary_cache::{Answer, Caches};
use closure::parallel::{self, lock};
use nix_derivation::{Derivation, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Derivations that the caches are asked about at most: more of them say nothing more.
const MAX_ASKED: usize = 200;

const ASKED_AT_ONCE: usize = 16;

/// Which of the derivations that a root is made from the binary caches lack. What is fetched by its hash
/// is not counted, since caches may leave sources out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// How many derivations the root's own is made from, and those of them that no cache has.
    pub direct: usize,
    pub direct_missing: Vec<StorePath>,
    /// What no cache has although they have all that it is made from; nearest the root first.
    pub first_missing: Vec<StorePath>,
    /// Not all were looked at.
    pub cut_short: bool,
}

/// Asks the caches for what `derivation` is made from, and for what that is made from where they lack it.
/// None where a cache does not answer.
pub(super) fn look(
    derivation: &StorePath,
    store: &mut dyn Store,
    caches: &Caches,
) -> Option<Inputs> {
    let mut found = Inputs::default();
    let mut are_present: BTreeMap<StorePath, bool> = BTreeMap::new();
    let mut level = vec![derivation.clone()];
    while !level.is_empty() {
        let mut needed = Vec::new();
        let mut to_ask: BTreeMap<StorePath, Vec<StorePath>> = BTreeMap::new();
        for missing in level {
            let inputs = inputs(&store.derivation(&missing)?, store);
            needed.push((missing, inputs.keys().cloned().collect::<Vec<_>>()));
            to_ask.extend(inputs);
        }
        to_ask.retain(|input, _| !are_present.contains_key(input));
        if are_present.len() + to_ask.len() > MAX_ASKED {
            found.cut_short = true;
            break;
        }
        are_present.extend(ask(&to_ask, caches)?);
        let mut below = BTreeSet::new();
        for (missing, inputs) in needed {
            let inputs_missing: Vec<StorePath> = inputs
                .iter()
                .filter(|input| are_present.get(*input) == Some(&false))
                .cloned()
                .collect();
            if missing == *derivation {
                found.direct = inputs.len();
                found.direct_missing.clone_from(&inputs_missing);
            } else if inputs_missing.is_empty() {
                found.first_missing.push(missing);
            }
            below.extend(
                inputs_missing
                    .into_iter()
                    .filter(|input| to_ask.contains_key(input)),
            );
        }
        level = below.into_iter().collect();
    }
    Some(found)
}

/// The derivations that one is made from and that are built, with the outputs it takes.
fn inputs(derivation: &Derivation, store: &mut dyn Store) -> BTreeMap<StorePath, Vec<StorePath>> {
    let inputs = derivation.input_derivations().iter();
    inputs
        .filter_map(|(path, taken)| {
            let input = store.derivation(path)?;
            if input.is_fixed_output().unwrap_or(false) {
                return None;
            }
            let outputs = input.resolved_outputs().ok()?.into_iter();
            let outputs = outputs.filter(|(name, _)| taken.outputs().contains(name));
            Some((
                path.clone(),
                outputs.filter_map(|(_, it)| it.path).collect(),
            ))
        })
        .collect()
}

/// Whether a cache has any of the outputs of each derivation.
fn ask(
    outputs: &BTreeMap<StorePath, Vec<StorePath>>,
    caches: &Caches,
) -> Option<BTreeMap<StorePath, bool>> {
    let answers = Mutex::new(BTreeMap::new());
    let outputs = outputs.iter().collect();
    parallel::each(outputs, ASKED_AT_ONCE, |(path, outputs)| {
        let is_present = is_present(outputs, caches).ok_or(path)?;
        lock(&answers).insert(path.clone(), is_present);
        Ok::<(), &StorePath>(())
    })
    .ok()?;
    Some(answers.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Whether a cache has one of these paths. None where one does not answer.
fn is_present(paths: &[StorePath], caches: &Caches) -> Option<bool> {
    for path in paths {
        let Err(answers) = caches.look_up(path, |_| true) else {
            return Some(true);
        };
        for answer in answers {
            match answer.answer {
                Answer::Absent => {}
                // It was built, by whatever key it is signed.
                Answer::Another | Answer::Untrusted(_) => return Some(true),
                Answer::Refused(_) | Answer::Failed(_) => return None,
            }
        }
    }
    Some(false)
}
